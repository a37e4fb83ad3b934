//! The tokens of a JSON value whose grammar the scanner has checked.

use std::borrow::Cow;

use memchr::memchr2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    ObjectOpen,
    ObjectClose,
    ArrayOpen,
    ArrayClose,
    String,
    Number,
    True,
    False,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    end: usize,
}

/// What the grammar does not say of a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadString {
    NotUtf8,
    /// Half of a surrogate pair: what stands in the place of the other half.
    Escape(String),
}

pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Tokens<'a> {
        Tokens { text, at: 0 }
    }

    pub(super) fn text(&self) -> &'a [u8] {
        self.text
    }

    /// As it is written. Of a string with its quotation marks.
    pub(super) fn raw(&self, token: Token) -> &'a [u8] {
        &self.text[token.start..token.end]
    }

    pub(super) fn peek(&mut self) -> TokenKind {
        self.skip_separators();
        kind(self.text[self.at])
    }

    pub(super) fn take(&mut self) -> Token {
        self.skip_separators();
        let (start, rest) = (self.at, &self.text[self.at..]);
        let kind = kind(rest[0]);
        self.at += match kind {
            TokenKind::ObjectOpen | TokenKind::ObjectClose | TokenKind::ArrayOpen | TokenKind::ArrayClose => {
                1
            }
            TokenKind::True | TokenKind::Null => 4,
            TokenKind::False => 5,
            TokenKind::Number => rest.iter().take_while(|byte| is_of_number(**byte)).count(),
            TokenKind::String => string_len(rest),
        };
        Token { kind, start, end: self.at }
    }

    /// The text that a string stands for.
    pub(super) fn string(&self, token: Token) -> Result<Cow<'a, str>, BadString> {
        assert_eq!(token.kind, TokenKind::String, "only a string stands for a text");
        let text = &self.text[token.start + 1..token.end - 1];
        let text = str::from_utf8(text).map_err(|_| BadString::NotUtf8)?;
        if text.contains('\\') { unescape(text).map(Cow::Owned) } else { Ok(Cow::Borrowed(text)) }
    }

    /// The grammar is known to be right, so what separates tokens says nothing.
    fn skip_separators(&mut self) {
        while matches!(self.text[self.at], b' ' | b'\t' | b'\r' | b'\n' | b',' | b':') {
            self.at += 1;
        }
    }
}

fn kind(first: u8) -> TokenKind {
    match first {
        b'{' => TokenKind::ObjectOpen,
        b'}' => TokenKind::ObjectClose,
        b'[' => TokenKind::ArrayOpen,
        b']' => TokenKind::ArrayClose,
        b'"' => TokenKind::String,
        b't' => TokenKind::True,
        b'f' => TokenKind::False,
        b'n' => TokenKind::Null,
        _ => TokenKind::Number,
    }
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || b"+-.eE".contains(&byte)
}

fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', &text[at..]).expect("the scanner has found the end");
        match text[at] {
            b'"' => return at + 1,
            _ => at += 2,
        }
    }
}

fn unescape(text: &str) -> Result<String, BadString> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        plain.push_str(before);
        let (code, after) = escape.split_at(1);
        rest = after;
        plain.push(match code {
            "b" => '\u{8}',
            "f" => '\u{c}',
            "n" => '\n',
            "r" => '\r',
            "t" => '\t',
            "u" => {
                let (character, after) = unicode(after)?;
                rest = after;
                character
            }
            other => other.chars().next().expect("one character"),
        });
    }
    plain.push_str(rest);
    Ok(plain)
}

/// The character of the escape whose digits `text` begins with, and what follows it.
fn unicode(text: &str) -> Result<(char, &str), BadString> {
    let (unit, rest) = hex(text).ok_or_else(|| BadString::Escape(text.to_owned()))?;
    if let Some(character) = char::from_u32(u32::from(unit)) {
        return Ok((character, rest));
    }
    let other = rest.strip_prefix("\\u").and_then(hex);
    let pair = other.and_then(|(low, rest)| {
        let mut decoded = char::decode_utf16([unit, low]);
        Some((decoded.next()?.ok()?, rest))
    });
    // As many characters as the other half would have.
    pair.ok_or_else(|| BadString::Escape(rest.chars().take(6).collect()))
}

fn hex(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_each_other() {
        let mut tokens = Tokens::new(br#"{"a" : [1.5e+3, "\"]", true ,null,false],"b":{}}"#);
        let mut seen = Vec::new();
        while tokens.at < tokens.text.len() {
            let kind = tokens.peek();
            let token = tokens.take();
            assert_eq!(token.kind, kind);
            seen.push(str::from_utf8(tokens.raw(token)).expect("ASCII"));
        }
        let expected =
            ["{", "\"a\"", "[", "1.5e+3", r#""\"]""#, "true", "null", "false", "]", "\"b\"", "{", "}", "}"];
        assert_eq!(seen, expected);
    }

    #[test]
    fn strings_are_what_they_stand_for() {
        let string = |text: &[u8]| {
            let mut tokens = Tokens::new(text);
            let token = tokens.take();
            tokens.string(token).map(Cow::into_owned)
        };
        assert_eq!(string(br#""plain""#), Ok("plain".to_owned()));
        assert_eq!(string(br#""\"\\\/\b\f\n\r\t""#), Ok("\"\\/\u{8}\u{c}\n\r\t".to_owned()));
        assert_eq!(string(br#""a\u00e9b\ud83d\ude00c""#), Ok("a\u{e9}b\u{1f600}c".to_owned()));
        assert_eq!(string(b"\"\xff\""), Err(BadString::NotUtf8));
        assert_eq!(string(br#""\ud83dabcdefgh""#), Err(BadString::Escape("abcdef".to_owned())));
        assert_eq!(string(br#""\ude00\ud83d""#), Err(BadString::Escape(r"\ud83d".to_owned())));
    }
}
