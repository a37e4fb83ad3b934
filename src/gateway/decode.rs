//! Makes a message of a JSON value.
//!
//! The value becomes the bytes of a gRPC message directly, without a tree of values in between. It is read as by
//! Go's `protojson`, which etcd's gateway uses: a field has either of its two names, a number may be a string, a
//! field that the message does not have is skipped, and what is wrong is told in the same words.
//!
//! ```text
//! {"key":"Zm9v","limit":"10"}   ->   0 0 0 0 7 | 0a 03 66 6f 6f | 18 0a
//! ```
//!
//! The length of a nested message is in front of it, and is known only at its end. So all messages are first
//! written without these lengths, and the places where they belong are noted. Nothing here is recursive: the depth
//! of a request is chosen by a client.

use std::{borrow::Cow, fmt};

use base64::{
    DecodeError, DecodeSliceError, Engine, alphabet, decoded_len_estimate,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use thiserror::Error;

use super::{
    number,
    schema::{Field, Kind, Message},
    tokens::{BadString, Token, TokenKind, Tokens},
};
use crate::limits;

/// Flags and length in front of a message of gRPC.
pub(super) const PREFIX_BYTES: usize = 5;

/// A value that is JSON, and not a message of the wanted type.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Malformed {
    #[error("proto: ({at}): invalid value for {kind} field {field}: {raw}")]
    Value { at: Place, kind: &'static str, field: &'static str, raw: String },
    #[error("proto: syntax error ({at}): unexpected token {raw}")]
    Unexpected { at: Place, raw: String },
    #[error("proto: ({at}): duplicate field {raw}")]
    Duplicate { at: Place, raw: String },
    #[error("proto: ({at}): error parsing {raw}, oneof {one_of} is already set")]
    OneOf { at: Place, raw: String, one_of: &'static str },
    #[error("proto: syntax error ({at}): invalid UTF-8 in string")]
    NotUtf8 { at: Place },
    /// Half of a surrogate pair.
    #[error("proto: syntax error ({at}): invalid escape code {code:?} in string")]
    Escape { at: Place, code: String },
}

/// Where something is in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn of(text: &[u8], at: usize) -> Place {
        let before = &text[..at];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = 1 + before[..line_start].iter().filter(|byte| **byte == b'\n').count();
        let chunks = before[line_start..].utf8_chunks();
        let characters: usize =
            chunks.map(|chunk| chunk.valid().chars().count() + chunk.invalid().len()).sum();
        Place { line, column: characters + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}:{}", self.line, self.column)
    }
}

/// The message in `value`, with its prefix in front of it. The value begins at the first byte of `value`, and the
/// scanner has found its end.
pub(super) fn decode(value: &[u8], message: &'static Message) -> Result<Vec<u8>, Malformed> {
    let mut decoder = Decoder::new(value);
    decoder.root(message)?;
    Ok(decoder.finish())
}

struct Decoder<'a> {
    tokens: Tokens<'a>,
    /// The messages around the next token, the innermost last.
    open: Vec<Open>,
    written: Vec<u8>,
    /// The places in `written` where the lengths of nested messages belong, in the order in which these begin.
    lengths: Vec<Length>,
    /// The bytes of all lengths of `lengths` that are known.
    lengths_bytes: usize,
}

/// A message that has begun and not ended.
struct Open {
    message: &'static Message,
    /// The fields that were there, by their places in the table of fields.
    seen: u64,
    /// The places of the first field of every `oneof` that is set.
    set: u64,
    /// The repeated field of the message around this one that this one belongs to.
    list: Option<&'static Field>,
    /// The place in `lengths`; `None` for the outermost message.
    length: Option<usize>,
    lengths_bytes_before: usize,
}

struct Length {
    at: usize,
    length: usize,
}

impl<'a> Decoder<'a> {
    fn new(value: &'a [u8]) -> Decoder<'a> {
        let mut written = Vec::with_capacity(PREFIX_BYTES + value.len() / 4 * 3);
        written.resize(PREFIX_BYTES, 0);
        Decoder {
            tokens: Tokens::new(value),
            open: Vec::new(),
            written,
            lengths: Vec::new(),
            lengths_bytes: 0,
        }
    }

    fn root(&mut self, message: &'static Message) -> Result<(), Malformed> {
        self.expect(TokenKind::ObjectOpen)?;
        self.open.push(Open { message, seen: 0, set: 0, list: None, length: None, lengths_bytes_before: 0 });
        while !self.open.is_empty() {
            let token = self.tokens.take();
            match token.kind {
                TokenKind::ObjectClose => self.close()?,
                _ => self.field(token)?,
            }
        }
        Ok(())
    }

    /// After the name of a field.
    fn field(&mut self, name: Token) -> Result<(), Malformed> {
        let text = self.string(name)?;
        let message = self.innermost().message;
        let Some((place, field)) = message.by_name(text.as_bytes()) else { return self.skip() };
        let innermost = self.innermost();
        if innermost.seen & (1 << place) != 0 {
            return Err(Malformed::Duplicate { at: self.place(name), raw: self.raw(name) });
        }
        innermost.seen |= 1 << place;
        if self.tokens.peek() == TokenKind::Null {
            self.tokens.take();
            return Ok(());
        }
        if field.is_repeated {
            self.expect(TokenKind::ArrayOpen)?;
            return self.element(field);
        }
        if let Some(one_of) = field.one_of {
            let first = message.fields.iter().position(|other| other.one_of == Some(one_of));
            let bit = 1 << first.expect("the field is one of them");
            if self.innermost().set & bit != 0 {
                return Err(Malformed::OneOf { at: self.place(name), raw: self.raw(name), one_of });
            }
            self.innermost().set |= bit;
        }
        match field.kind {
            Kind::Message(message) => self.begin(field, message, None),
            _ => {
                let token = self.tokens.take();
                self.scalar(field, token)
            }
        }
    }

    /// The next element of a list, or its end. Of scalars all elements.
    fn element(&mut self, field: &'static Field) -> Result<(), Malformed> {
        loop {
            if self.tokens.peek() == TokenKind::ArrayClose {
                self.tokens.take();
                return Ok(());
            }
            match field.kind {
                Kind::Message(message) => return self.begin(field, message, Some(field)),
                _ => {
                    let token = self.tokens.take();
                    self.scalar(field, token)?;
                }
            }
        }
    }

    /// A nested message begins.
    fn begin(
        &mut self,
        field: &'static Field,
        message: &'static Message,
        list: Option<&'static Field>,
    ) -> Result<(), Malformed> {
        self.expect(TokenKind::ObjectOpen)?;
        encode_key(field.number, WireType::LengthDelimited, &mut self.written);
        self.open.push(Open {
            message,
            seen: 0,
            set: 0,
            list,
            length: Some(self.lengths.len()),
            lengths_bytes_before: self.lengths_bytes,
        });
        self.lengths.push(Length { at: self.written.len(), length: 0 });
        Ok(())
    }

    /// The innermost message ends.
    fn close(&mut self) -> Result<(), Malformed> {
        let Some(closed) = self.open.pop() else { return Ok(()) };
        let Some(length) = closed.length else { return Ok(()) };
        let length = &mut self.lengths[length];
        // What was written for it, and the lengths within it that are still to be put in.
        length.length = self.written.len() - length.at + (self.lengths_bytes - closed.lengths_bytes_before);
        self.lengths_bytes += encoded_len_varint(length.length as u64);
        match closed.list {
            Some(field) => self.element(field),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if !self.lengths.is_empty() {
            let mut whole = Vec::with_capacity(self.written.len() + self.lengths_bytes);
            let mut at = 0;
            for length in &self.lengths {
                whole.extend_from_slice(&self.written[at..length.at]);
                encode_varint(length.length as u64, &mut whole);
                at = length.at;
            }
            whole.extend_from_slice(&self.written[at..]);
            assert_eq!(
                whole.len(),
                self.written.len() + self.lengths_bytes,
                "each length takes the bytes that were counted for it"
            );
            self.written = whole;
        }
        let length = u32::try_from(self.written.len() - PREFIX_BYTES);
        let length = length.expect("a request's text is bounded, and no message is longer than its text");
        self.written[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        self.written
    }

    fn innermost(&mut self) -> &mut Open {
        self.open.last_mut().expect("a field is within a message")
    }

    /// Skips the value of a field that is not known.
    fn skip(&mut self) -> Result<(), Malformed> {
        let mut depth = 0_usize;
        loop {
            let token = self.tokens.take();
            match token.kind {
                TokenKind::ObjectOpen | TokenKind::ArrayOpen => depth += 1,
                TokenKind::ObjectClose | TokenKind::ArrayClose => depth -= 1,
                TokenKind::String => drop(self.string(token)?),
                TokenKind::Number | TokenKind::True | TokenKind::False | TokenKind::Null => {}
            }
            // The names within an object are strings like others.
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// A zero is not written: on the wire it is the same as nothing. It is written where the difference matters.
    fn scalar(&mut self, field: &'static Field, token: Token) -> Result<(), Malformed> {
        let keeps_zero = field.is_repeated || field.one_of.is_some();
        let varint = match field.kind {
            Kind::Bool if token.kind == TokenKind::True => Some(1),
            Kind::Bool if token.kind == TokenKind::False => Some(0),
            Kind::Int64 => self.integer(token)?.and_then(|number| i64::try_from(number).ok()).map(signed),
            Kind::Uint32 => self.integer(token)?.and_then(|number| u32::try_from(number).ok()).map(u64::from),
            Kind::Uint64 => self.integer(token)?.and_then(|number| u64::try_from(number).ok()),
            Kind::Enum(of_enum) => match token.kind {
                TokenKind::String => match of_enum.number(&self.string(token)?) {
                    Some(number) => Some(signed(number)),
                    // As for a field that is not known.
                    None => return Ok(()),
                },
                _ => self.integer(token)?.and_then(|number| i32::try_from(number).ok()).map(signed),
            },
            Kind::String if token.kind == TokenKind::String => {
                let text = self.string(token)?;
                if !text.is_empty() || keeps_zero {
                    encode_key(field.number, WireType::LengthDelimited, &mut self.written);
                    encode_varint(text.len() as u64, &mut self.written);
                    self.written.extend_from_slice(text.as_bytes());
                }
                return Ok(());
            }
            Kind::Bytes if token.kind == TokenKind::String => {
                let text = self.string(token)?;
                if self.bytes(field.number, keeps_zero, &text).is_ok() {
                    return Ok(());
                }
                None
            }
            Kind::Bool | Kind::String | Kind::Bytes | Kind::Message(_) => None,
        };
        let Some(varint) = varint else { return Err(self.invalid(field, token)) };
        if varint != 0 || keeps_zero {
            encode_key(field.number, WireType::Varint, &mut self.written);
            encode_varint(varint, &mut self.written);
        }
        Ok(())
    }

    /// Writes a field of bytes, which are base64 in JSON. As in Go, the alphabet is that of URLs if a character
    /// of it occurs, padding is required if the length is a multiple of four, and ends of lines are skipped.
    fn bytes(&mut self, number: u32, keeps_zero: bool, text: &str) -> Result<(), DecodeError> {
        let is_padded = text.len().is_multiple_of(4);
        // Nearly all texts are of this kind.
        let plain = self.base64(number, keeps_zero, text, if is_padded { &PADDED } else { &UNPADDED });
        if plain.is_ok() || !text.contains(['-', '_', '\r', '\n']) {
            return plain;
        }
        let digits = text.replace(['\r', '\n'], "");
        let engine = match (digits.contains(['-', '_']), is_padded) {
            (false, true) => &PADDED,
            (false, false) => &UNPADDED,
            (true, true) => &URL_PADDED,
            (true, false) => &URL_UNPADDED,
        };
        self.base64(number, keeps_zero, &digits, engine)
    }

    fn base64(
        &mut self,
        number: u32,
        keeps_zero: bool,
        text: &str,
        engine: &GeneralPurpose,
    ) -> Result<(), DecodeError> {
        let length = text.trim_end_matches('=').len() * 3 / 4;
        let before = self.written.len();
        encode_key(number, WireType::LengthDelimited, &mut self.written);
        encode_varint(length as u64, &mut self.written);
        let start = self.written.len();
        self.written.resize(start + decoded_len_estimate(text.len()), 0);
        let decoded = engine.decode_slice(text, &mut self.written[start..]);
        let is_kept = decoded.is_ok() && (length > 0 || keeps_zero);
        self.written.truncate(if is_kept { start + length } else { before });
        match decoded {
            Ok(decoded) => {
                assert_eq!(decoded, length, "four digits are three bytes");
                Ok(())
            }
            Err(DecodeSliceError::DecodeError(error)) => Err(error),
            Err(DecodeSliceError::OutputSliceTooSmall) => unreachable!("the estimate is never too small"),
        }
    }

    /// The number that a token is, or that is in its string.
    fn integer(&self, token: Token) -> Result<Option<i128>, Malformed> {
        Ok(match token.kind {
            TokenKind::Number => number::integer(self.tokens.raw(token)),
            TokenKind::String => {
                let text = self.string(token)?;
                // As Go reads it: what follows the number is not looked at.
                let length = number::length(text.as_bytes()).filter(|_| text.trim() == text);
                length.and_then(|length| number::integer(&text.as_bytes()[..length]))
            }
            _ => None,
        })
    }

    fn expect(&mut self, kind: TokenKind) -> Result<(), Malformed> {
        let token = self.tokens.take();
        if token.kind == kind {
            return Ok(());
        }
        if token.kind == TokenKind::String {
            self.string(token)?;
        }
        Err(Malformed::Unexpected { at: self.place(token), raw: self.raw(token) })
    }

    fn string(&self, token: Token) -> Result<Cow<'a, str>, Malformed> {
        self.tokens.string(token).map_err(|error| match error {
            BadString::NotUtf8 => Malformed::NotUtf8 { at: self.place(token) },
            BadString::Escape(code) => Malformed::Escape { at: self.place(token), code },
        })
    }

    fn invalid(&self, field: &'static Field, token: Token) -> Malformed {
        Malformed::Value {
            at: self.place(token),
            kind: field.kind.name(),
            field: field.json_name,
            raw: self.raw(token),
        }
    }

    fn place(&self, token: Token) -> Place {
        Place::of(self.tokens.text(), token.start)
    }

    /// The text of a token, for an error.
    fn raw(&self, token: Token) -> String {
        let raw = self.tokens.raw(token);
        let shown = String::from_utf8_lossy(&raw[..raw.len().min(limits::JSON_QUOTED_BYTES)]);
        if raw.len() > limits::JSON_QUOTED_BYTES { format!("{shown}...") } else { shown.into_owned() }
    }
}

/// Negative numbers have all their upper bits set on the wire.
fn signed(number: impl Into<i64>) -> u64 {
    number.into().cast_unsigned()
}

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
const WITH_PADDING: GeneralPurposeConfig =
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
const WITHOUT_PADDING: GeneralPurposeConfig =
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireNone);
static PADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, WITH_PADDING);
static UNPADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, WITHOUT_PADDING);
static URL_PADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, WITH_PADDING);
static URL_UNPADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, WITHOUT_PADDING);
