//! Numbers, durations and strings as Go reads and writes them: etcdctl's error texts and output are full of them.

use std::{fmt, fmt::Write as _, io, num::IntErrorKind, time::Duration};

/// Why Go's `strconv` does not take a number. The text is Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("strconv.{function}: parsing {}: {}", quote(text.as_bytes()), if *is_range { "value out of range" } else { "invalid syntax" })]
pub(crate) struct NumberError {
    function: &'static str,
    text: String,
    is_range: bool,
}

/// Go's `strconv.ParseInt`. The base 0 goes by the prefix of the number, and allows `_` between digits.
pub(crate) fn parse_int(text: &str, base: u32) -> Result<i64, NumberError> {
    let (digits, radix) = digits_of(text, base);
    number(i64::from_str_radix(&digits, radix), "ParseInt", text)
}

pub(crate) fn parse_uint(text: &str, base: u32) -> Result<u64, NumberError> {
    let (digits, radix) = digits_of(text, base);
    if digits.starts_with(['+', '-']) {
        return Err(NumberError { function: "ParseUint", text: text.to_owned(), is_range: false });
    }
    number(u64::from_str_radix(&digits, radix), "ParseUint", text)
}

fn number<T>(
    parsed: Result<T, std::num::ParseIntError>,
    function: &'static str,
    text: &str,
) -> Result<T, NumberError> {
    parsed.map_err(|error| {
        let is_range = matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow);
        NumberError { function, text: text.to_owned(), is_range }
    })
}

fn digits_of(text: &str, base: u32) -> (String, u32) {
    if base != 0 {
        return (text.to_owned(), base);
    }
    let (sign, rest) = match text.as_bytes().first() {
        Some(b'+' | b'-') => text.split_at(1),
        _ => ("", text),
    };
    let lower = rest.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0b") => (&lower[2..], 2),
        Some("0o") => (&lower[2..], 8),
        Some(_) if lower.starts_with('0') => (&lower[1..], 8),
        _ => (&*lower, 10),
    };
    // A second sign would be taken by Rust's parser.
    let digits = if digits.starts_with(['+', '-']) { "?" } else { digits };
    (format!("{sign}{}", digits.replace('_', "")), radix)
}

pub(crate) fn parse_bool(text: &str) -> Result<bool, NumberError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(NumberError { function: "ParseBool", text: text.to_owned(), is_range: false }),
    }
}

/// Go's `time.ParseDuration`. A negative duration is none: a wait for it is over at once.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let quoted = quote(text.as_bytes());
    let invalid = || format!("time: invalid duration {quoted}");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = unsigned;
    let mut nanos = 0_f64;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_len);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let nanos_per_unit = match unit {
            "ns" => 1e0,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("time: missing unit in duration {quoted}")),
            unit => {
                return Err(format!("time: unknown unit {} in duration {quoted}", quote(unit.as_bytes())));
            }
        };
        nanos += number * nanos_per_unit;
        rest = after;
    }
    if nanos > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if text.starts_with('-') { Duration::ZERO } else { Duration::from_nanos(nanos.round() as u64) })
}

/// Go's `%q`: in double quotes, with escapes for what cannot be printed.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_quoted(&mut quoted, c);
        }
        for byte in chunk.invalid() {
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

fn push_quoted(quoted: &mut String, c: char) {
    let escape = match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\u{c}' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\u{b}' => "\\v",
        c if is_printable(c) => return quoted.push(c),
        c => {
            let code = u32::from(c);
            // Writing to a string does not fail.
            let _ = match code {
                ..0x80 => write!(quoted, "\\x{code:02x}"),
                0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
                _ => write!(quoted, "\\U{code:08x}"),
            };
            return;
        }
    };
    quoted.push_str(escape);
}

/// Letters, marks, numbers, punctuation, symbols and the space. Rust's `Debug` knows the same set, but for
/// quotes and for marks that combine with the letter before, which it escapes and Go does not.
fn is_printable(c: char) -> bool {
    c == '\'' || c.is_alphanumeric() || c.escape_debug().len() == 1 || is_combining(c)
}

fn is_combining(c: char) -> bool {
    matches!(u32::from(c), 0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5bd | 0x610..=0x61a | 0x64b..=0x65f
        | 0x900..=0x902 | 0x93c | 0x941..=0x948 | 0x94d | 0x1ab0..=0x1ace | 0x1dc0..=0x1dff | 0x20d0..=0x20f0
        | 0x302a..=0x302d | 0x3099..=0x309a | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f | 0xe0100..=0xe01ef)
}

/// A string in JSON. Go escapes what would have a meaning in HTML too.
pub(crate) fn json_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string does not fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A string literal of Go at the start of `text`, in double quotes or backquotes, and what comes after it.
pub(crate) fn unquote_prefix(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(rest) = text.strip_prefix('`') {
        let (raw, rest) = rest.split_once('`')?;
        return Some((raw.replace('\r', "").into_bytes(), rest));
    }
    let mut rest = text.strip_prefix('"')?;
    let mut bytes = Vec::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((bytes, rest)),
            '\n' => return None,
            '\\' => rest = unescape(rest, &mut bytes)?,
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// What comes after a backslash.
fn unescape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let kind = text.chars().next()?;
    let rest = &text[kind.len_utf8()..];
    let byte = match kind {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '"' => b'"',
        'x' => {
            bytes.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
            return rest.get(2..);
        }
        '0'..='7' => {
            bytes.push(u8::from_str_radix(text.get(..3)?, 8).ok()?);
            return text.get(3..);
        }
        'u' | 'U' => {
            let len = if kind == 'u' { 4 } else { 8 };
            let c = char::from_u32(u32::from_str_radix(rest.get(..len)?, 16).ok()?)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return rest.get(len..);
        }
        _ => return None,
    };
    bytes.push(byte);
    Some(rest)
}

/// The words of the system for an error, as Go has them.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Go's `%v` of a list of strings: `[a b]`.
pub(crate) struct Listed<'a, T>(pub(crate) &'a [T]);

impl<T: AsRef<str>> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.0.iter().map(AsRef::as_ref).collect();
        write!(f, "[{}]", words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are those of Go 1.26.
    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let told = |result: Result<i64, NumberError>| result.unwrap_err().to_string();
        assert_eq!(parse_int("-12", 10), Ok(-12));
        assert_eq!(parse_int("7fffffffffffffff", 16), Ok(i64::MAX));
        assert_eq!(parse_int("0x1F", 0), Ok(31));
        assert_eq!(parse_int("010", 0), Ok(8));
        assert_eq!(parse_int("1_000", 0), Ok(1000));
        assert_eq!(parse_int("0", 0), Ok(0));
        assert_eq!(told(parse_int("x", 10)), "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert_eq!(told(parse_int("", 0)), "strconv.ParseInt: parsing \"\": invalid syntax");
        assert_eq!(told(parse_int("0x-1", 0)), "strconv.ParseInt: parsing \"0x-1\": invalid syntax");
        let large = "99999999999999999999";
        let out = "strconv.ParseInt: parsing \"99999999999999999999\": value out of range";
        assert_eq!(told(parse_int(large, 10)), out);
        assert!(parse_uint("-1", 10).is_err() && parse_uint("+1", 16).is_err());
        assert_eq!(parse_uint("ffffffffffffffff", 16), Ok(u64::MAX));
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("1.5s", 1_500_000_000),
            ("1h2m3s4ms", 3_723_004_000_000),
            ("-1s", 0),
            ("+5ms", 5_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        let told = |text: &str| parse_duration(text).unwrap_err();
        assert_eq!(told("x"), "time: invalid duration \"x\"");
        assert_eq!(told(""), "time: invalid duration \"\"");
        assert_eq!(told("5"), "time: missing unit in duration \"5\"");
        assert_eq!(told("1d"), "time: unknown unit \"d\" in duration \"1d\"");
        assert_eq!(told("9999999h"), "time: invalid duration \"9999999h\"");
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        assert_eq!(json_string("a\"<&>\u{1}\n\u{e9}"), "\"a\\\"\\u003c\\u0026\\u003e\\u0001\\n\u{e9}\"");
    }

    #[test]
    fn strings_are_quoted_as_go_quotes_them() {
        for (bytes, quoted) in [
            (&b"plain 'x'"[..], "\"plain 'x'\""),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"\x00\x07\n\x7f", r#""\x00\a\n\x7f""#),
            (b"\xff\xc3", r#""\xff\xc3""#),
            ("\u{e9}\u{4e16}\u{1f600}".as_bytes(), "\"\u{e9}\u{4e16}\u{1f600}\""),
            ("\u{a0}\u{200b}\u{301}".as_bytes(), "\"\\u00a0\\u200b\u{301}\""),
        ] {
            assert_eq!(quote(bytes), quoted);
            assert_eq!(unquote_prefix(&format!("{quoted} rest")), Some((bytes.to_vec(), " rest")));
        }
        assert_eq!(unquote_prefix(r#""\u00e9\101" x"#), Some(("\u{e9}A".as_bytes().to_vec(), " x")));
        for bad in ["", "x", "\"open", "\"\\q\"", "\"a\nb\"", "\"\\x1"] {
            assert_eq!(unquote_prefix(bad), None, "{bad}");
        }
    }
}
