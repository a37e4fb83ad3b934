//! `grpc-timeout`: how long a client waits for its call.
//!
//! A call ends at its deadline, whatever it waits for: its handler is dropped, and with it everything that
//! waits for the handler. A proposal whose handler was dropped is left out of the log; a proposal that is
//! in the log already is executed.
//!
//! The header is parsed as in grpc-go, with the same error texts.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use thiserror::Error;
use tokio::time::{Sleep, sleep_until};
use tonic::{Status, body::Body};

use crate::clock;

const HEADER: &str = "grpc-timeout";

/// The time at which a call ends at the latest.
pub(crate) struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    /// The deadline of a call that began at `start`; `None` if it has none.
    pub(crate) fn parse(headers: &HeaderMap, start: Instant) -> Result<Option<Deadline>, MalformedTimeout> {
        let mut timeout = None;
        // The last value of a repeated header counts, but all values have to be valid.
        for value in headers.get_all(HEADER) {
            timeout = Some(parse_timeout(value)?);
        }
        // A time that does not fit into an `Instant` is never reached.
        let Some(at) = timeout.and_then(|timeout| start.checked_add(timeout)) else { return Ok(None) };
        Ok(Some(Deadline { at, timer: Box::pin(sleep_until(at.into())) }))
    }

    /// Ready once the deadline has passed. Timers fire up to a millisecond late, so the clock is read as
    /// well: a call that arrives without any time left must not be executed.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if clock::now() >= self.at { Poll::Ready(()) } else { self.timer.as_mut().poll(cx) }
    }
}

/// The header cannot be parsed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("malformed grpc-timeout: {0}")]
pub(crate) struct MalformedTimeout(#[from] Malformation);

#[derive(Clone, Debug, Error, PartialEq, Eq)]
enum Malformation {
    #[error("transport: timeout string is too short: \"{0}\"")]
    TooShort(String),
    #[error("transport: timeout string is too long: \"{0}\"")]
    TooLong(String),
    #[error("transport: timeout unit is not recognized: \"{0}\"")]
    UnknownUnit(String),
    #[error("strconv.ParseUint: parsing \"{0}\": invalid syntax")]
    NotANumber(String),
}

impl MalformedTimeout {
    /// As in grpc-go, the answer has the HTTP status 400 and a gRPC status.
    pub(crate) fn into_http(self) -> Response<Body> {
        let mut response = Status::internal(self.to_string()).into_http();
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    }
}

/// Up to eight digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Result<Duration, Malformation> {
    const MINUTE_SECS: u64 = 60;
    const HOUR_SECS: u64 = 60 * MINUTE_SECS;
    let bytes = value.as_bytes();
    let (digits, unit) = match bytes {
        [] | [_] => return Err(Malformation::TooShort(quoted(bytes))),
        [digits @ .., unit] if digits.len() <= 8 => (digits, unit),
        _ => return Err(Malformation::TooLong(quoted(bytes))),
    };
    let of_unit: fn(u64) -> Duration = match unit {
        b'H' => |hours| Duration::from_secs(hours * HOUR_SECS),
        b'M' => |minutes| Duration::from_secs(minutes * MINUTE_SECS),
        b'S' => Duration::from_secs,
        b'm' => Duration::from_millis,
        b'u' => Duration::from_micros,
        b'n' => Duration::from_nanos,
        _ => return Err(Malformation::UnknownUnit(quoted(bytes))),
    };
    let mut number = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Malformation::NotANumber(quoted(digits)));
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    Ok(of_unit(number))
}

/// A text as Go prints it between quotation marks: these marks, control characters and invalid UTF-8 are
/// escaped.
fn quoted(bytes: &[u8]) -> String {
    bytes
        .utf8_chunks()
        .flat_map(|chunk| {
            let text = chunk.valid().chars().map(|character| match character {
                '"' | '\\' | '\t' => character.escape_default().to_string(),
                _ => character.to_string(),
            });
            text.chain(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Duration, String> {
        let value = HeaderValue::from_bytes(text.as_bytes()).expect("a header takes it");
        parse_timeout(&value).map_err(|error| MalformedTimeout(error).to_string())
    }

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("0n", Duration::ZERO),
            ("1n", Duration::from_nanos(1)),
            ("1u", Duration::from_micros(1)),
            ("020m", Duration::from_millis(20)),
            ("3S", Duration::from_secs(3)),
            ("2M", Duration::from_secs(120)),
            ("1H", Duration::from_secs(3600)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    /// Each as grpc-go 1.83 answers it.
    #[test]
    fn a_malformed_timeout_is_refused_in_the_words_of_grpc_go() {
        for (text, expected) in [
            ("", r#"transport: timeout string is too short: """#),
            ("S", r#"transport: timeout string is too short: "S""#),
            ("1", r#"transport: timeout string is too short: "1""#),
            ("123456789S", r#"transport: timeout string is too long: "123456789S""#),
            ("1X", r#"transport: timeout unit is not recognized: "1X""#),
            ("1s", r#"transport: timeout unit is not recognized: "1s""#),
            ("aS", r#"strconv.ParseUint: parsing "a": invalid syntax"#),
            ("+1S", r#"strconv.ParseUint: parsing "+1": invalid syntax"#),
            ("-1S", r#"strconv.ParseUint: parsing "-1": invalid syntax"#),
            ("1.5S", r#"strconv.ParseUint: parsing "1.5": invalid syntax"#),
            ("1 S", r#"strconv.ParseUint: parsing "1 ": invalid syntax"#),
            ("0x1S", r#"strconv.ParseUint: parsing "0x1": invalid syntax"#),
            ("1_0S", r#"strconv.ParseUint: parsing "1_0": invalid syntax"#),
            ("1\"S", r#"strconv.ParseUint: parsing "1\"": invalid syntax"#),
        ] {
            assert_eq!(parse(text), Err(format!("malformed grpc-timeout: {expected}")), "{text}");
        }
    }

    #[test]
    fn what_is_no_text_is_quoted_byte_by_byte() {
        assert_eq!(quoted(b"a\xff\tb\"\\"), "a\\xff\\tb\\\"\\\\");
        assert_eq!(quoted("\u{fc}".as_bytes()), "\u{fc}");
    }

    #[test]
    fn all_values_of_a_repeated_header_count_and_the_last_one_holds() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let _entered = runtime.as_ref().expect("a plain runtime").enter();
        let start = Instant::now();
        let deadline = |values: &[&'static str]| {
            let values = values.iter().map(|value| HeaderValue::from_static(value));
            let headers: HeaderMap =
                values.map(|value| (http::HeaderName::from_static(HEADER), value)).collect();
            Deadline::parse(&headers, start).map(|deadline| deadline.map(|deadline| deadline.at))
        };
        assert_eq!(deadline(&[]), Ok(None));
        assert_eq!(deadline(&["1S", "2S"]), Ok(Some(start + Duration::from_secs(2))));
        assert!(deadline(&["S", "2S"]).is_err());
    }
}
