//! What of an HTTP request's headers becomes metadata of the gRPC call, and its time limit.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;
use tonic::Status;

const METADATA_PREFIX: &str = "grpc-metadata-";
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The metadata of a call: the token, and what clients send as `Grpc-Metadata-*`.
pub(super) fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        if name == header::AUTHORIZATION {
            metadata.append(name, value.clone());
        } else if let Some(name) = name.as_str().strip_prefix(METADATA_PREFIX)
            && is_free(name)
            && value.as_bytes().iter().all(|byte| matches!(byte, b' '..=b'~'))
            && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
        {
            metadata.append(name, value.clone());
        }
    }
    metadata
}

/// Metadata has no say in how the call itself is sent. No service reads metadata of bytes.
fn is_free(name: &str) -> bool {
    let is_of_transport = matches!(name, "content-type" | "te" | "user-agent" | "connection" | "host");
    !is_of_transport && !name.starts_with("grpc-") && !name.ends_with("-bin")
}

/// When the call ends at the latest.
pub(super) fn deadline(headers: &HeaderMap, start: Instant) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get(TIMEOUT).filter(|value| !value.is_empty()) else { return Ok(None) };
    let invalid = || {
        let value = String::from_utf8_lossy(value.as_bytes());
        Status::invalid_argument(format!("invalid grpc-timeout: {value}"))
    };
    let text = value.to_str().map_err(|_| invalid())?;
    let (number, unit) = text.split_at_checked(text.len() - 1).ok_or_else(invalid)?;
    let number: i64 = number.parse().map_err(|_| invalid())?;
    let nanos_per_unit: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1000,
        "n" => 1,
        _ => return Err(invalid()),
    };
    match u64::try_from(number) {
        Ok(0) => Ok(None),
        Ok(number) => {
            let timeout = Duration::from_nanos(number.saturating_mul(nanos_per_unit));
            // A time that does not fit into an `Instant` is never reached.
            Ok(start.checked_add(timeout))
        }
        Err(_) => Ok(Some(start)),
    }
}

/// Tells the service how much time is left, in at most eight digits and a unit.
pub(super) fn set_timeout(metadata: &mut HeaderMap, left: Duration) {
    const NUMBER_MAX: u128 = 99_999_999;
    let units = [(left.as_nanos(), 'n'), (left.as_micros(), 'u'), (left.as_millis(), 'm')];
    let fitting = units.into_iter().find(|(number, _)| *number <= NUMBER_MAX);
    let (number, unit) = fitting.unwrap_or((u128::from(left.as_secs()).min(NUMBER_MAX), 'S'));
    let value = HeaderValue::from_str(&format!("{number}{unit}")).expect("digits and a letter");
    metadata.insert(TIMEOUT, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        });
        pairs.collect()
    }

    #[test]
    fn the_token_and_metadata_are_passed_on_and_nothing_else() {
        let given = headers(&[
            ("authorization", "Bearer a.b"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-token", "t"),
            ("grpc-metadata-grpc-timeout", "1S"),
            ("grpc-metadata-content-type", "text/plain"),
            ("grpc-metadata-x-bin", "AAAA"),
            ("grpc-metadata-", "nameless"),
            ("user-agent", "curl"),
            ("retcd-method", "GET"),
        ]);
        let expected = headers(&[("authorization", "Bearer a.b"), ("hasleader", "true"), ("token", "t")]);
        assert_eq!(metadata(&given), expected);
    }

    #[test]
    fn a_time_limit_is_read_as_by_the_gateway_of_etcd() {
        let start = Instant::now();
        let of = |value: &'static str| deadline(&headers(&[("grpc-timeout", value)]), start);
        let after = |timeout: Duration| Some(start + timeout);
        for (value, expected) in [
            ("1H", after(Duration::from_secs(3600))),
            ("2M", after(Duration::from_secs(120))),
            ("3S", after(Duration::from_secs(3))),
            ("4m", after(Duration::from_millis(4))),
            ("5u", after(Duration::from_micros(5))),
            ("6n", after(Duration::from_nanos(6))),
            ("0S", None),
            ("-1S", Some(start)),
            ("", None),
        ] {
            assert_eq!(of(value).expect("a time limit"), expected, "{value}");
        }
        for value in ["S", "1", "1x", "x1S", "99999999999999999999S", "1.5S"] {
            let status = of(value).expect_err("not a time limit");
            assert_eq!(status.message(), format!("invalid grpc-timeout: {value}"));
        }
    }

    #[test]
    fn the_time_that_is_left_fits_into_eight_digits() {
        for (left, expected) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_secs(200), "200000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
            (Duration::MAX, "99999999S"),
        ] {
            let mut metadata = HeaderMap::new();
            set_timeout(&mut metadata, left);
            assert_eq!(metadata["grpc-timeout"], expected);
        }
    }
}
