//! How values are written on Go's command lines.
//!
//! An error is the end of a sentence; the caller puts the name of the flag before it.

use std::time::Duration;

/// `true` and `false` in all spellings that Go accepts.
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

/// `number * unit` without rounding: each digit after the point counts a tenth of the digit before it.
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
}
