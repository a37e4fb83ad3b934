//! How values are written on Go's command lines.
//!
//! Errors are fragments for the end of a sentence; who calls knows the flag and says it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// `true` and `false` in all the spellings Go takes.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

pub(super) fn parse_int(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "must be a whole number".to_owned())
}

pub(super) fn parse_uint(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "must be a whole number that is not negative".to_owned())
}

/// `1h30m`, `1.5s`, `100ms`, `0`: numbers with units, added up.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "must be a duration such as \"300ms\", \"10s\" or \"1h30m\"";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(EXAMPLES)?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let nanos_per_unit: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(EXAMPLES.to_owned()),
        };
        let nanos = scale(number, nanos_per_unit).ok_or(EXAMPLES)?;
        total = total.checked_add(Duration::from_nanos(nanos)).ok_or(EXAMPLES)?;
        rest = after;
    }
    if text.is_empty() { Err(EXAMPLES.to_owned()) } else { Ok(total) }
}

/// `number * unit`, exactly: digits behind the point are worth less and less of the unit.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        nanos = nanos.checked_add(u64::from(digit.to_digit(10)?) * place)?;
    }
    Some(nanos)
}

/// `scheme://host:port`, with nothing behind it. Unix sockets have no port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Url {
    pub(crate) scheme: String,
    /// As written; an IPv6 address has lost its brackets.
    pub(crate) host: String,
    /// What stands behind the colon, or nothing for a Unix socket.
    pub(crate) port: Option<u16>,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Url { scheme, host, port } = self;
        match port {
            Some(port) if host.contains(':') => write!(f, "{scheme}://[{host}]:{port}"),
            Some(port) => write!(f, "{scheme}://{host}:{port}"),
            None => write!(f, "{scheme}://{host}"),
        }
    }
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Url, String> {
        let wrong_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong_scheme)?;
        let url = |host: &str, port| Url { scheme: scheme.to_owned(), host: host.to_owned(), port };
        match scheme {
            "http" | "https" => {}
            "unix" | "unixs" => return Ok(url(rest, None)),
            _ => return Err(wrong_scheme()),
        }
        let wrong_address = || format!("URL address does not have the form \"host:port\": {text}");
        let (address, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong_address)?;
        let port = port.parse().map_err(|_| wrong_address())?;
        match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => Ok(url(v6, Some(port))),
            None if host.contains(':') => Err(wrong_address()),
            None => Ok(url(host, Some(port))),
        }
    }

    /// Where to bind: an address, never a name that could mean something else tomorrow.
    pub(super) fn bind_address(&self) -> Result<SocketAddr, String> {
        if self.scheme != "http" {
            return Err(format!("{}:// URLs are not supported yet ({self})", self.scheme));
        }
        let ip = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().map_err(|_| format!("expected IP in URL for binding ({self})"))?,
        };
        Ok(SocketAddr::new(ip, self.port.expect("an http URL has a port: parse saw to it")))
    }
}

/// A comma-separated list; blanks around the commas are forgiven. Sorted, as etcd sorts them: the
/// member id is computed from that order.
pub(super) fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text
        .split(',')
        .map(str::trim)
        .filter(|url| !url.is_empty())
        .map(Url::parse)
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort_by_cached_key(Url::to_string);
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("1ns", 1),
            ("3us", 3_000),
            ("100ms", 100_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("2.s", 2_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h2m3s4ms", 3_723_004_000_000),
            ("0.000000001s", 1),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1d", "1h 30m", ".s", "1..5s", "99999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_comes_back_as_it_was_written() {
        for text in ["http://localhost:2379", "http://[::1]:2379", "https://10.0.0.1:1", "unix://etcd.sock:1"]
        {
            assert_eq!(Url::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn bad_urls_say_what_is_wrong() {
        let cases = [
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://localhost", "URL address does not have the form \"host:port\": http://localhost"),
            ("http://a:99999", "URL address does not have the form \"host:port\": http://a:99999"),
            ("http://::1:80", "URL address does not have the form \"host:port\": http://::1:80"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
        ];
        for (text, error) in cases {
            assert_eq!(Url::parse(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn binding_takes_addresses_only() {
        let bind = |text: &str| Url::parse(text).expect(text).bind_address();
        assert_eq!(bind("http://localhost:2379").expect("localhost").to_string(), "127.0.0.1:2379");
        assert_eq!(bind("http://[::]:2379").expect("v6").to_string(), "[::]:2379");
        assert!(bind("http://example.com:1").expect_err("a name").contains("expected IP in URL for binding"));
        assert!(bind("https://127.0.0.1:1").expect_err("TLS").contains("not supported yet"));
        assert!(bind("unix://x").expect_err("unix").contains("not supported yet"));
    }

    #[test]
    fn url_lists_are_sorted() {
        let urls = parse_urls("http://b:1, http://a:1,").expect("a list");
        assert_eq!(urls.iter().map(Url::to_string).collect::<Vec<_>>(), ["http://a:1", "http://b:1"]);
    }
}
