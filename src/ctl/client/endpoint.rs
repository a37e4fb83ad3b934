//! The endpoints that a user names: `host:port`, a URL, or a Unix socket.

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As the user wrote it.
    pub(super) text: String,
    pub(super) address: Address,
    /// The name that its certificate has to have.
    pub(super) host: String,
    pub(super) security: Security,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `host:port`
    Tcp(String),
    Unix(String),
}

/// What the scheme of an endpoint says of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// `https` and `unixs`
    Required,
    /// `http`: flags for TLS do not count.
    None,
    /// Everything else: flags decide.
    ByFlags,
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Endpoint {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme @ ("unix" | "unixs"), rest)) => (scheme, rest.strip_prefix("//").unwrap_or(rest)),
            _ => text.split_once("://").unwrap_or(("", text)),
        };
        let security = match scheme {
            "https" | "unixs" => Security::Required,
            "http" => Security::None,
            _ => Security::ByFlags,
        };
        let (address, host) = if matches!(scheme, "unix" | "unixs") {
            let name = rest.rsplit('/').next().unwrap_or_default();
            (Address::Unix(rest.to_owned()), name.to_owned())
        } else {
            let authority = rest.split('/').next().unwrap_or_default();
            (Address::Tcp(authority.to_owned()), host_of(authority).to_owned())
        };
        Endpoint { text: text.to_owned(), address, host, security }
    }

    /// What requests name as their server.
    pub(super) fn authority(&self) -> &str {
        match &self.address {
            Address::Tcp(authority) => authority,
            Address::Unix(_) => "localhost",
        }
    }
}

/// Without the port, and without the brackets of an IPv6 address.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_in_many_ways() {
        let tcp = |address: &str| Address::Tcp(address.to_owned());
        let unix = |path: &str| Address::Unix(path.to_owned());
        for (text, address, host, security) in [
            ("127.0.0.1:2379", tcp("127.0.0.1:2379"), "127.0.0.1", Security::ByFlags),
            ("http://a.example:1", tcp("a.example:1"), "a.example", Security::None),
            ("https://a.example:1/", tcp("a.example:1"), "a.example", Security::Required),
            ("https://[::1]:2379", tcp("[::1]:2379"), "::1", Security::Required),
            ("unix:///tmp/a.sock", unix("/tmp/a.sock"), "a.sock", Security::ByFlags),
            ("unix:a.sock", unix("a.sock"), "a.sock", Security::ByFlags),
            ("unixs://localhost:1", unix("localhost:1"), "localhost:1", Security::Required),
        ] {
            let host = host.to_owned();
            assert_eq!(Endpoint::parse(text), Endpoint { text: text.to_owned(), address, host, security });
        }
    }
}
