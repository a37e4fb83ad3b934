//! Finds the end of a JSON value in text that arrives in pieces.
//!
//! etcd's gateway reads values with Go's `encoding/json`, which checks the grammar of a value before anything
//! looks at its content. This scanner accepts the same texts, and has the same words for what is wrong with others.

use std::fmt;

use memchr::memchr2;

use crate::limits::JSON_DEPTH_MAX;

/// Scans one value after another.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    step: Step,
    /// The arrays and objects around the next byte.
    around: Vec<Around>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// The value goes on behind this piece.
    Part,
    /// The value ends after so many bytes of this piece.
    End(usize),
}

/// A byte that cannot be at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    byte: u8,
    place: &'static str,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid character {} {}", quoted(self.byte), self.place)
    }
}

/// A byte as Go prints it: as the character of that number, in quotation marks.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        ..b' ' | 0x7f => format!(r"'\x{byte:02x}'"),
        // Characters of Latin-1 that are not printed.
        0x80..=0xa0 | 0xad => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Before a value.
    #[default]
    Value,
    /// Before the first value of an array, or its end.
    ValueOrEnd,
    /// Before the first key of an object, or its end.
    KeyOrEnd,
    /// Before a key.
    Key,
    /// After a value or a key.
    Ended,
    /// After the first byte that does not belong to a number which is no part of another value.
    BehindNumber,
    String,
    Escape,
    /// So many hexadecimal digits of an escape have been read.
    Hex(u8),
    Minus,
    Zero,
    Digits,
    Dot,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// So many bytes of the literal have been read.
    Literal(&'static str, u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    Array,
    /// An object, after a key has begun.
    Key,
    /// An object, after the value of a key has begun.
    Member,
}

impl Scanner {
    /// Whether nothing of a value has been scanned, at most the space before it.
    pub(super) fn is_between(&self) -> bool {
        self.step == Step::Value && self.around.is_empty()
    }

    /// Whether the value is complete if nothing follows: only what follows a number tells that it has ended.
    pub(super) fn is_complete_at_end(&self) -> bool {
        let is_number =
            matches!(self.step, Step::Zero | Step::Digits | Step::Fraction | Step::ExponentDigits);
        self.around.is_empty() && is_number
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        self.step = Step::Value;
        self.around.clear();
    }

    /// Scans the next piece of a value. After [`Scanned::End`] the next value begins.
    pub(super) fn scan(&mut self, piece: &[u8]) -> Result<Scanned, SyntaxError> {
        let mut at = 0;
        while at < piece.len() {
            if self.step == Step::String {
                // Most bytes of most requests are within strings.
                at += plain_len(&piece[at..]);
                if at == piece.len() {
                    break;
                }
            }
            self.step = self.next(piece[at])?;
            let end = match self.step {
                Step::BehindNumber => at,
                Step::Ended if self.around.is_empty() => at + 1,
                _ => {
                    at += 1;
                    continue;
                }
            };
            self.reset();
            return Ok(Scanned::End(end));
        }
        Ok(Scanned::Part)
    }

    fn next(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        let wrong = |place: &'static str| Err(SyntaxError { byte, place });
        Ok(match (self.step, byte) {
            (Step::Value | Step::ValueOrEnd | Step::KeyOrEnd | Step::Key, b' ' | b'\t' | b'\r' | b'\n') => {
                self.step
            }
            (Step::ValueOrEnd, b']') => self.close(),
            (Step::Value | Step::ValueOrEnd, _) => return self.begin(byte),
            (Step::KeyOrEnd, b'}') => self.close(),
            (Step::KeyOrEnd | Step::Key, b'"') => Step::String,
            (Step::KeyOrEnd | Step::Key, _) => return wrong("looking for beginning of object key string"),
            (Step::Ended, _) => return self.after_value(byte),
            (Step::BehindNumber, _) => unreachable!("the scanner was reset"),
            (Step::String, b'"') => Step::Ended,
            (Step::String, b'\\') => Step::Escape,
            (Step::String, ..b' ') => return wrong("in string literal"),
            (Step::String, _) => Step::String,
            (Step::Escape, b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => Step::String,
            (Step::Escape, b'u') => Step::Hex(0),
            (Step::Escape, _) => return wrong("in string escape code"),
            (Step::Hex(3), _) if byte.is_ascii_hexdigit() => Step::String,
            (Step::Hex(digits), _) if byte.is_ascii_hexdigit() => Step::Hex(digits + 1),
            (Step::Hex(_), _) => return wrong(r"in \u hexadecimal character escape"),
            (Step::Minus, b'0') => Step::Zero,
            (Step::Minus, b'1'..=b'9') => Step::Digits,
            (Step::Minus, _) => return wrong("in numeric literal"),
            (Step::Digits, b'0'..=b'9') => Step::Digits,
            (Step::Digits | Step::Zero, b'.') => Step::Dot,
            (Step::Digits | Step::Zero | Step::Fraction, b'e' | b'E') => Step::Exponent,
            (Step::Dot | Step::Fraction, b'0'..=b'9') => Step::Fraction,
            (Step::Dot, _) => return wrong("after decimal point in numeric literal"),
            (Step::Exponent, b'+' | b'-') => Step::ExponentSign,
            (Step::Exponent | Step::ExponentSign | Step::ExponentDigits, b'0'..=b'9') => Step::ExponentDigits,
            (Step::Exponent | Step::ExponentSign, _) => return wrong("in exponent of numeric literal"),
            (Step::Digits | Step::Zero | Step::Fraction | Step::ExponentDigits, _) => {
                return if self.around.is_empty() { Ok(Step::BehindNumber) } else { self.after_value(byte) };
            }
            (Step::Literal(literal, read), _) => {
                let read = usize::from(read);
                if literal.as_bytes()[read] != byte {
                    return wrong(expected(literal, read));
                }
                match read + 1 == literal.len() {
                    true => Step::Ended,
                    false => Step::Literal(literal, read as u8 + 1),
                }
            }
        })
    }

    fn begin(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        match byte {
            b'{' | b'[' if self.around.len() == JSON_DEPTH_MAX => {
                Err(SyntaxError { byte, place: "exceeded max depth" })
            }
            b'{' => {
                self.around.push(Around::Key);
                Ok(Step::KeyOrEnd)
            }
            b'[' => {
                self.around.push(Around::Array);
                Ok(Step::ValueOrEnd)
            }
            b'"' => Ok(Step::String),
            b'-' => Ok(Step::Minus),
            b'0' => Ok(Step::Zero),
            b'1'..=b'9' => Ok(Step::Digits),
            b't' => Ok(Step::Literal("true", 1)),
            b'f' => Ok(Step::Literal("false", 1)),
            b'n' => Ok(Step::Literal("null", 1)),
            _ => Err(SyntaxError { byte, place: "looking for beginning of value" }),
        }
    }

    fn after_value(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        let wrong = |place: &'static str| Err(SyntaxError { byte, place });
        let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match (self.around.last_mut(), byte) {
            (None, _) => unreachable!("the scanner is reset where a value ends"),
            _ if is_space => Ok(Step::Ended),
            (Some(around @ Around::Key), b':') => {
                *around = Around::Member;
                Ok(Step::Value)
            }
            (Some(Around::Key), _) => wrong("after object key"),
            (Some(around @ Around::Member), b',') => {
                *around = Around::Key;
                Ok(Step::Key)
            }
            (Some(Around::Member), b'}') | (Some(Around::Array), b']') => Ok(self.close()),
            (Some(Around::Member), _) => wrong("after object key:value pair"),
            (Some(Around::Array), b',') => Ok(Step::Value),
            (Some(Around::Array), _) => wrong("after array element"),
        }
    }

    fn close(&mut self) -> Step {
        self.around.pop();
        Step::Ended
    }
}

/// How many bytes of a string have no meaning of their own.
fn plain_len(text: &[u8]) -> usize {
    let plain = &text[..memchr2(b'"', b'\\', text).unwrap_or(text.len())];
    // Without a branch for each byte, this takes a fraction of the time.
    let has_control = plain.iter().fold(false, |has_control, byte| has_control | (*byte < b' '));
    if !has_control {
        return plain.len();
    }
    plain.iter().position(|byte| *byte < b' ').unwrap_or(plain.len())
}

fn expected(literal: &str, read: usize) -> &'static str {
    match (literal, read) {
        ("true", 1) => "in literal true (expecting 'r')",
        ("true", 2) => "in literal true (expecting 'u')",
        ("true", _) => "in literal true (expecting 'e')",
        ("false", 1) => "in literal false (expecting 'a')",
        ("false", 2) => "in literal false (expecting 'l')",
        ("false", 3) => "in literal false (expecting 's')",
        ("false", _) => "in literal false (expecting 'e')",
        (_, 1) => "in literal null (expecting 'u')",
        (_, _) => "in literal null (expecting 'l')",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The values of a text that arrives in pieces of these lengths, and how it ends.
    fn values(mut text: &[u8], lengths: &[usize]) -> (Vec<Vec<u8>>, String) {
        let (mut scanner, mut values, mut value) = (Scanner::default(), Vec::new(), Vec::new());
        let mut lengths = lengths.iter().cycle();
        while !text.is_empty() {
            let (mut piece, rest) = text.split_at(text.len().min(*lengths.next().expect("endless")));
            text = rest;
            while !piece.is_empty() {
                match scanner.scan(piece) {
                    Ok(Scanned::Part) => {
                        value.extend(piece);
                        break;
                    }
                    Ok(Scanned::End(length)) => {
                        value.extend(&piece[..length]);
                        values.push(std::mem::take(&mut value).trim_ascii().to_vec());
                        piece = &piece[length..];
                    }
                    Err(error) => return (values, error.to_string()),
                }
            }
        }
        let end = match () {
            () if scanner.is_between() => "between values",
            () if scanner.is_complete_at_end() => "after a number",
            () => "within a value",
        };
        (values, end.to_owned())
    }

    #[test]
    fn values_are_told_apart() {
        let text = br#" {"a":[1, -0.5e+3 ,{}],"b":"\"}"} [] "x\u00e9"null true1 2{"c":false}  "#;
        let expected = [
            r#"{"a":[1, -0.5e+3 ,{}],"b":"\"}"}"#,
            "[]",
            r#""x\u00e9""#,
            "null",
            "true",
            "1",
            "2",
            r#"{"c":false}"#,
        ];
        let expected: Vec<Vec<u8>> = expected.iter().map(|value| value.as_bytes().to_vec()).collect();
        for lengths in [&[1][..], &[2, 3], &[7], &[100]] {
            assert_eq!(values(text, lengths), (expected.clone(), "between values".to_owned()));
        }
        for (text, end) in [
            ("", "between values"),
            (" \r\n\t", "between values"),
            ("12", "after a number"),
            ("0", "after a number"),
            ("1.5", "after a number"),
            ("1e5", "after a number"),
            ("1.", "within a value"),
            ("-", "within a value"),
            ("{\"a\":1", "within a value"),
            ("tru", "within a value"),
            ("\"", "within a value"),
        ] {
            assert_eq!(values(text.as_bytes(), &[100]).1, end, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_the_words_of_go() {
        for (text, error) in [
            ("x", "invalid character 'x' looking for beginning of value"),
            ("]", "invalid character ']' looking for beginning of value"),
            ("'", r"invalid character '\'' looking for beginning of value"),
            ("\"\n", r"invalid character '\n' in string literal"),
            ("\u{e9}", "invalid character '\u{c3}' looking for beginning of value"),
            ("\x7f", r"invalid character '\x7f' looking for beginning of value"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1", "invalid character '1' after object key"),
            ("{\"a\":1 2", "invalid character '2' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2", "invalid character '2' after array element"),
            ("[01]", "invalid character '1' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            (r#""\x"#, "invalid character 'x' in string escape code"),
            (r#""\u12g4"#, r"invalid character 'g' in \u hexadecimal character escape"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e+x", "invalid character 'x' in exponent of numeric literal"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("fals ", "invalid character ' ' in literal false (expecting 'e')"),
            ("nul1", "invalid character '1' in literal null (expecting 'l')"),
        ] {
            for lengths in [1, 100] {
                assert_eq!(values(text.as_bytes(), &[lengths]).1, error, "{text}");
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(values(deep(JSON_DEPTH_MAX).as_bytes(), &[4000]).1, "between values");
        let error = "invalid character '[' exceeded max depth";
        assert_eq!(values(deep(JSON_DEPTH_MAX + 1).as_bytes(), &[4000]).1, error);
    }

    proptest! {
        /// Another parser of JSON accepts the same texts.
        #[test]
        fn the_same_texts_are_values_as_for_serde(
            text in prop::collection::vec(prop::sample::select(br#" {}[]",:\u0ab1e-+.truefalsn"#.to_vec()), 0..12),
        ) {
            let (values, end) = values(&text, &[1]);
            let is_one = match end.as_str() {
                "between values" => values.len() == 1,
                "after a number" => values.is_empty(),
                _ => false,
            };
            let theirs = serde_json::from_slice::<serde::de::IgnoredAny>(&text);
            prop_assert_eq!(is_one, theirs.is_ok(), "{:?}", String::from_utf8_lossy(&text));
        }
    }
}
