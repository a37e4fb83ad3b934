//! Numbers of JSON that are to be integers.
//!
//! As in Go's `protojson`, `10.0` and `1e1` are integers too.

/// The most digits that a number of 64 bits has.
const DIGITS_MAX: usize = 20;

/// The length of the number that `text` begins with, if what follows cannot belong to it.
pub(super) fn length(text: &[u8]) -> Option<usize> {
    let mut at = usize::from(text.first() == Some(&b'-'));
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    match text.get(at)? {
        b'0' => at += 1,
        b'1'..=b'9' => at += digits(at),
        _ => return None,
    }
    if text.get(at) == Some(&b'.') && digits(at + 1) > 0 {
        at += 1 + digits(at + 1);
    }
    if matches!(text.get(at), Some(b'e' | b'E')) && at + 1 < text.len() {
        at += 1;
        if matches!(text[at], b'+' | b'-') {
            at += 1;
            text.get(at)?;
        }
        at += digits(at);
    }
    match text.get(at) {
        Some(b'-' | b'+' | b'.' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9') => None,
        _ => Some(at),
    }
}

/// The value of a number, unless it has a fraction or far too many digits.
pub(super) fn integer(number: &[u8]) -> Option<i128> {
    let (is_negative, number) = match number.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let whole_len = number.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (whole, rest) = number.split_at(whole_len);
    let fraction_len = rest
        .strip_prefix(b".")
        .map_or(0, |rest| rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let (fraction, exponent) = match fraction_len {
        0 => (&[][..], rest),
        length => (&rest[1..=length], &rest[1 + length..]),
    };
    let whole = if whole == b"0" { &[] } else { whole };
    let fraction = &fraction[..fraction.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1)];
    let magnitude = scaled(whole, fraction, exponent)?;
    Some(if is_negative { -magnitude } else { magnitude })
}

/// The digits of `whole` and `fraction`, with the point moved by the exponent.
fn scaled(whole: &[u8], fraction: &[u8], exponent: &[u8]) -> Option<i128> {
    if whole.is_empty() && fraction.is_empty() {
        return Some(0);
    }
    let exponent: i32 = match exponent {
        [] | [b'e' | b'E'] => 0,
        [_, digits @ ..] => str::from_utf8(digits).ok()?.parse().ok()?,
    };
    if exponent < 0 {
        let shift = usize::try_from(exponent.unsigned_abs()).ok()?;
        let kept = whole.len().checked_sub(shift)?;
        let is_whole = fraction.is_empty() && whole[kept..].iter().all(|byte| *byte == b'0');
        return if is_whole { digits(&whole[..kept], &[], 0) } else { None };
    }
    let zeros = usize::try_from(exponent).ok()?.checked_sub(fraction.len())?;
    digits(whole, fraction, zeros)
}

fn digits(whole: &[u8], fraction: &[u8], zeros: usize) -> Option<i128> {
    if whole.len() + fraction.len() + zeros > DIGITS_MAX {
        return None;
    }
    let digits = whole.iter().chain(fraction).map(|digit| i128::from(digit - b'0'));
    Some(digits.chain(std::iter::repeat_n(0, zeros)).fold(0, |number, digit| number * 10 + digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_all_their_forms() {
        for (text, number) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0.0", Some(0)),
            ("0e5", Some(0)),
            ("12", Some(12)),
            ("-12", Some(-12)),
            ("12.0", Some(12)),
            ("1.50", None),
            ("1.5e1", Some(15)),
            ("1.5E+2", Some(150)),
            ("0.5e1", Some(5)),
            ("100e-2", Some(1)),
            ("105e-2", None),
            ("1e-1", None),
            ("1e", Some(1)),
            ("1e19", Some(10_000_000_000_000_000_000)),
            ("1e20", None),
            ("18446744073709551615", Some(18_446_744_073_709_551_615)),
            ("-9223372036854775808", Some(-9_223_372_036_854_775_808)),
            ("1e99999999999", None),
            ("123456789012345678901", None),
        ] {
            assert_eq!(integer(text.as_bytes()), number, "{text}");
        }
    }

    #[test]
    fn a_number_ends_where_nothing_of_it_can_follow() {
        for (text, expected) in [
            ("", None),
            ("-", None),
            ("x", None),
            ("1", Some(1)),
            ("12 34", Some(2)),
            ("12,", Some(2)),
            ("12x", None),
            ("01", None),
            ("1.", None),
            ("1.5", Some(3)),
            ("1e", None),
            ("1e+", None),
            ("1e5", Some(3)),
            ("1e+5]", Some(4)),
            ("-0.5e-1", Some(7)),
        ] {
            assert_eq!(length(text.as_bytes()), expected, "{text}");
        }
    }
}
