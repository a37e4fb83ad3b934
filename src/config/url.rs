//! URLs of members: those to listen on, and those at which other members are reached.
//!
//! A [`Url`] keeps the text as it was typed, because member ids are computed from that text and operators
//! search for it; the parsed scheme and target stand beside the text. A [`ListenUrl`] is what a socket is
//! bound to, with whether its connections use TLS.

use std::{
    ffi::OsString,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

/// The longest path of a Unix socket, in bytes. A `sockaddr_un` of the system holds 108 bytes, one of
/// which is the terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Scheme {
    /// Go's parser takes schemes in any case and writes them in lower case.
    fn of(text: &str) -> Option<Scheme> {
        let known = [Scheme::Http, Scheme::Https, Scheme::Unix, Scheme::Unixs];
        known.into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }
}

/// What a URL points to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// The host as it was typed, without the brackets of an IPv6 address.
    Host { host: String, port: u16 },
    /// The file of a Unix socket; a relative path is relative to the working directory.
    Socket(PathBuf),
}

/// `scheme://host:port` or `unix:///path`, without a path or query after the port. URLs are ordered by
/// their text, as in etcd.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Url {
    /// The text as it was typed, except that the scheme is in lower case.
    text: String,
    pub(crate) scheme: Scheme,
    pub(crate) target: Target,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    /// The error says what is wrong and can be appended after `--flag: `.
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        let wrong_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (scheme, rest) = text.split_once(':').ok_or_else(wrong_scheme)?;
        let scheme = Scheme::of(scheme).ok_or_else(wrong_scheme)?;
        let target = match scheme {
            Scheme::Http | Scheme::Https => {
                let address = rest.strip_prefix("//").ok_or_else(wrong_scheme)?;
                parse_host(address, text)?
            }
            // `unix:/path` has no host; in `unix://dir/file` the host is the first part of the path.
            Scheme::Unix | Scheme::Unixs => parse_socket(rest.strip_prefix("//").unwrap_or(rest), text)?,
        };
        Ok(Url { text: format!("{}:{rest}", scheme.as_str()), scheme, target })
    }

    /// What to bind to: an IP address, a name whose addresses are asked for when it is bound, or a path. As in etcd,
    /// `localhost` is the address 127.0.0.1.
    pub(super) fn listen(&self) -> Result<ListenUrl, String> {
        let address = match &self.target {
            Target::Socket(path) => ListenAddress::Unix(path.clone()),
            Target::Host { host, port } => match (host.as_str(), host.parse::<IpAddr>()) {
                (_, Ok(ip)) => ListenAddress::Tcp(SocketAddr::new(ip, *port)),
                ("localhost", _) => ListenAddress::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port)),
                ("", _) => return Err(format!("expected IP in URL for binding ({self})")),
                (host, _) => ListenAddress::Named { host: host.to_ascii_lowercase(), port: *port },
            },
        };
        let accepts = if self.scheme.is_tls() { Accepts::Tls } else { Accepts::Plaintext };
        Ok(ListenUrl { address, accepts })
    }
}

fn parse_host(address: &str, text: &str) -> Result<Target, String> {
    let wrong_address = || format!("URL address does not have the form \"host:port\": {text}");
    let (address, path) = address.find('/').map_or((address, ""), |at| address.split_at(at));
    if !path.is_empty() {
        return Err(format!("URL must not contain a path: {text}"));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong_address)?;
    let port = port.parse().map_err(|_| wrong_address())?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6,
        None if host.contains(':') => return Err(wrong_address()),
        None => host,
    };
    Ok(Target::Host { host: host.to_owned(), port })
}

fn parse_socket(path: &str, text: &str) -> Result<Target, String> {
    let path = percent_decoded(path).ok_or_else(|| format!("invalid URL escape in {text}"))?;
    match path.len() {
        0 => Err(format!("URL must name the file of a socket, as in unix:///run/etcd.sock: {text}")),
        len if len > SOCKET_PATH_BYTES_MAX => Err(format!(
            "the path of a Unix socket may have at most {SOCKET_PATH_BYTES_MAX} bytes, but this path has {len}; choose a \
             shorter path: {text}"
        )),
        _ if path.as_bytes().contains(&0) => {
            Err(format!("the path of a Unix socket must not contain a zero byte: {text}"))
        }
        _ => Ok(Target::Socket(path.into())),
    }
}

/// Decodes percent escapes. `None` if a percent sign is not followed by two hexadecimal digits.
fn percent_decoded(text: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push((high * 16 + low) as u8);
    }
    Some(OsString::from_vec(bytes))
}

/// Parses a comma-separated list; blanks around the commas are ignored. The list is sorted as in etcd,
/// because the member id is computed from that order.
pub(super) fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text
        .split(',')
        .map(str::trim)
        .filter(|url| !url.is_empty())
        .map(Url::parse)
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    Ok(urls)
}

/// A URL to listen on: the address that the socket is bound to, and which connections are accepted there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListenUrl {
    pub(crate) address: ListenAddress,
    pub(crate) accepts: Accepts,
}

/// What the connections of a socket begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Accepts {
    Plaintext,
    Tls,
    /// Two URLs differ only in their scheme. The first byte of a connection tells which of them it used.
    Both,
}

impl Accepts {
    pub(super) fn and(self, other: Accepts) -> Accepts {
        if self == other { self } else { Accepts::Both }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ListenAddress {
    Tcp(SocketAddr),
    /// All addresses of a host name.
    Named {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether two sockets on this address would conflict. Port 0 never conflicts: it is a new port each
    /// time.
    pub(super) fn is_one_place(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.port() != 0,
            ListenAddress::Named { port, .. } => *port != 0,
            ListenAddress::Unix(_) => true,
        }
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plaintext, tls) = match &self.address {
            ListenAddress::Tcp(_) | ListenAddress::Named { .. } => (Scheme::Http, Scheme::Https),
            ListenAddress::Unix(_) => (Scheme::Unix, Scheme::Unixs),
        };
        let mut write = |scheme: Scheme| write!(f, "{}://{}", scheme.as_str(), self.address);
        match self.accepts {
            Accepts::Plaintext => write(plaintext),
            Accepts::Tls => write(tls),
            Accepts::Both => {
                write(plaintext)?;
                f.write_str(" and ")?;
                write!(f, "{}://{}", tls.as_str(), self.address)
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Named { host, port } => write!(f, "{host}:{port}"),
            ListenAddress::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_comes_back_as_it_was_written() {
        for text in [
            "http://localhost:2379",
            "http://[::1]:2379",
            "http://[0:0:0:0:0:0:0:1]:2379",
            "http://HOST:02380",
            "https://10.0.0.1:1",
            "unix://etcd.sock:1",
            "unix:/run/etcd.sock",
            "unixs:///run/a%20b.sock",
        ] {
            assert_eq!(Url::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(Url::parse("HTTP://Host:1").expect("a URL").to_string(), "http://Host:1");
    }

    #[test]
    fn bad_urls_say_what_is_wrong() {
        let cases = [
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("http:a:1", "URL scheme must be http, https, unix, or unixs: http:a:1"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://localhost", "URL address does not have the form \"host:port\": http://localhost"),
            ("http://a:99999", "URL address does not have the form \"host:port\": http://a:99999"),
            ("http://::1:80", "URL address does not have the form \"host:port\": http://::1:80"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("unix://", "URL must name the file of a socket, as in unix:///run/etcd.sock: unix://"),
            ("unix:///a%2", "invalid URL escape in unix:///a%2"),
            ("unix:///a%00", "the path of a Unix socket must not contain a zero byte: unix:///a%00"),
        ];
        for (text, error) in cases {
            assert_eq!(Url::parse(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn a_socket_is_a_file_whose_path_fits() {
        let path = |text: &str| match Url::parse(text).expect(text).target {
            Target::Socket(path) => path.display().to_string(),
            Target::Host { .. } => panic!("{text} is no file"),
        };
        assert_eq!(path("unix:///run/etcd.sock"), "/run/etcd.sock");
        assert_eq!(path("unix:/run/etcd.sock"), "/run/etcd.sock");
        assert_eq!(path("unix://run/etcd.sock"), "run/etcd.sock");
        assert_eq!(path("unix://etcd.sock:1"), "etcd.sock:1");
        assert_eq!(path("unixs:///a%20b"), "/a b");
        assert_eq!(path(&format!("unix:///{}", "x".repeat(106))).len(), 107);
        let error = Url::parse(&format!("unix:///{}", "x".repeat(107))).expect_err("too long");
        assert!(error.contains("at most 107 bytes, but this path has 108"), "{error}");
    }

    #[test]
    fn binding_takes_addresses_names_and_paths() {
        let bind = |text: &str| {
            let listen = Url::parse(text).expect(text).listen();
            listen.map(|listen| listen.address.to_string())
        };
        assert_eq!(bind("http://localhost:2379").expect("localhost"), "127.0.0.1:2379");
        assert_eq!(bind("http://[::]:2379").expect("v6"), "[::]:2379");
        assert_eq!(bind("http://[0:0:0:0:0:0:0:1]:1").expect("v6"), "[::1]:1");
        assert_eq!(bind("unix://x").expect("a file"), "x");
        assert_eq!(bind("http://Node.example.com:1").expect("a name"), "node.example.com:1");
        assert!(bind("http://:1").expect_err("no host").contains("expected IP in URL for binding"));
        let accepts = |text: &str| Url::parse(text).expect(text).listen().expect(text).accepts;
        assert_eq!([accepts("http://127.0.0.1:1"), accepts("unix://x")], [Accepts::Plaintext; 2]);
        assert_eq!([accepts("https://127.0.0.1:1"), accepts("unixs://x")], [Accepts::Tls; 2]);
    }

    #[test]
    fn url_lists_are_sorted() {
        let urls = parse_urls("http://b:1, http://a:1,").expect("a list");
        assert_eq!(urls.iter().map(Url::to_string).collect::<Vec<_>>(), ["http://a:1", "http://b:1"]);
    }
}
