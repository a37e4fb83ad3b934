//! What OpenTelemetry's environment variables say about sending traces.
//!
//! etcd reads them because its library does. Its flags come first: where spans go and whose they are is not
//! taken from here. As in OpenTelemetry, a variable that makes no sense is left out, with a warning.

use std::{ffi::OsString, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Notice;

/// How spans are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sending {
    /// Of each call to the collector. They may be secret, and are marked so.
    pub(crate) headers: HeaderMap,
    pub(crate) is_compressed: bool,
    /// How long the collector may take.
    pub(crate) timeout: Option<Duration>,
    /// How often spans are sent.
    pub(crate) interval: Option<Duration>,
    /// What is said of this process beside its name.
    pub(crate) attributes: Vec<(String, String)>,
}

/// Variables of which somebody would wonder that they change nothing.
const WITHOUT_EFFECT: [&str; 6] = [
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
];

impl Sending {
    pub(super) fn of(env: &[(OsString, OsString)], notices: &mut Vec<Notice>) -> Sending {
        let get = |name: &str| {
            let (_, value) = env.iter().find(|(variable, _)| variable == name)?;
            value.to_str().map(str::trim).filter(|value| !value.is_empty())
        };
        let mut warn = |message: String| notices.push(Notice { warn: true, message });
        for name in WITHOUT_EFFECT.into_iter().filter(|name| get(name).is_some()) {
            warn(format!("{name} has no effect: spans are sent without TLS"));
        }
        // What is said about traces comes before what is said about everything.
        let of_traces = |name: &'static str| {
            let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
            names.into_iter().find_map(|name| get(&name).map(|value| (name, value)))
        };
        let mut sending = Sending::default();
        if let Some((name, value)) = of_traces("HEADERS") {
            for pair in value.split(',') {
                match header(pair) {
                    Some((key, value)) => drop(sending.headers.insert(key, value)),
                    // Not the pair, which may be secret.
                    None => warn(format!("{name} has a part that is no header: it must be \"name=value\"")),
                }
            }
        }
        if let Some((name, value)) = of_traces("COMPRESSION") {
            match value {
                "gzip" => sending.is_compressed = true,
                "none" => {}
                other => warn(format!("{name} {other:?} is unknown; spans are sent without compression")),
            }
        }
        let mut millis = |name: &str, value: &str| {
            let time = value.parse().ok().filter(|millis| *millis > 0).map(Duration::from_millis);
            if time.is_none() {
                warn(format!("{name} {value:?} is no number of milliseconds above 0"));
            }
            time
        };
        sending.timeout = of_traces("TIMEOUT").and_then(|(name, value)| millis(&name, value));
        let delay = "OTEL_BSP_SCHEDULE_DELAY";
        sending.interval = get(delay).and_then(|value| millis(delay, value));
        let attributes = "OTEL_RESOURCE_ATTRIBUTES";
        for pair in get(attributes).into_iter().flat_map(|value| value.split(',')) {
            match pair.split_once('=') {
                Some((key, value)) => {
                    let value = value.trim();
                    let text = unescaped(value).unwrap_or_else(|| value.to_owned());
                    sending.attributes.push((key.trim().to_owned(), text));
                }
                None => warn(format!("{attributes} has the part {pair:?}, which must be \"name=value\"")),
            }
        }
        sending
    }
}

fn header(pair: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = pair.split_once('=')?;
    let name = name.trim().parse().ok()?;
    let mut value = HeaderValue::try_from(unescaped(value)?.trim()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// With `%20` and the like as what they stand for.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(env: &[(&str, &str)]) -> (Sending, Vec<String>) {
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut notices = Vec::new();
        let sending = Sending::of(&env, &mut notices);
        (sending, notices.into_iter().map(|notice| notice.message).collect())
    }

    #[test]
    fn what_the_library_of_etcd_reads_is_read() {
        let (read, warnings) = sending(&[
            ("OTEL_EXPORTER_OTLP_HEADERS", "not-this=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer%20abc , tenant = one"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_RESOURCE_ATTRIBUTES", "zone=eu%2Cwest, rack =7%"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://elsewhere:4317"),
        ]);
        assert_eq!(warnings, [""; 0]);
        let headers: Vec<_> =
            read.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(headers, [("authorization", &b"Bearer abc"[..]), ("tenant", b"one")]);
        assert!(!format!("{read:?}").contains("abc"), "a header may be secret: {read:?}");
        assert!(read.is_compressed);
        assert_eq!(read.timeout, Some(Duration::from_millis(2500)));
        assert_eq!(read.interval, Some(Duration::from_millis(100)));
        let attributes = [("zone", "eu,west"), ("rack", "7%")];
        assert_eq!(read.attributes, attributes.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(sending(&[]), (Sending::default(), Vec::new()));
    }

    #[test]
    fn what_makes_no_sense_is_left_out_with_a_warning() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret-without-a-name"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%2"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2s"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_RESOURCE_ATTRIBUTES", "word"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ] {
            let (read, warnings) = sending(&[(name, value)]);
            assert_eq!(read, Sending::default(), "{name}={value}");
            assert!(warnings.len() == 1 && warnings[0].contains(name), "{name}={value}: {warnings:?}");
            assert!(!warnings[0].contains("secret"), "{warnings:?}");
        }
    }
}
