//! Makes JSON of a message.
//!
//! The bytes of the message may arrive in pieces, cut anywhere, as those of a long answer do: what has arrived is
//! written at once, so that no answer has to fit into memory. Fields are written as by Go's `protojson`, in the
//! order of their numbers, which is the order on the wire. A field that is zero is not on the wire, and not in
//! the JSON.

use std::io::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};
use thiserror::Error;

use super::schema::{Field, Kind, Message};

/// Bytes that are not a message of the wanted type. Our own services made them, so this is a bug in retcd.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a service has answered with a message that does not have the type of its method")]
pub(super) struct NotThisMessage;

/// Writes one message.
#[derive(Debug)]
pub(super) struct Encoder {
    /// The messages around the next byte, the innermost last.
    open: Vec<Open>,
    state: State,
}

/// A message that has begun and not ended.
#[derive(Debug)]
struct Open {
    message: &'static Message,
    /// The bytes of it that are still to come.
    left: usize,
    /// The repeated field whose elements are being written.
    list: Option<&'static Field>,
    is_first: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before a field, or within its number and type.
    Key(Varint),
    /// Within a number.
    Number(&'static Field, Varint),
    /// Within the length of a field.
    Length(&'static Field, Varint),
    /// Within numbers that have one key together. So many bytes of them are left.
    Packed { field: &'static Field, left: usize, varint: Varint, is_first: bool },
    /// Within a text.
    String { left: usize },
    /// Within bytes, after up to two that do not make four digits of base64 by themselves.
    Bytes { left: usize, rest: Rest },
}

/// A number on the wire, as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    bytes: [u8; 3],
    len: usize,
}

impl Encoder {
    /// A message of `length` bytes. What is known of it is written to `json`.
    pub(super) fn new(message: &'static Message, length: usize, json: &mut Vec<u8>) -> Encoder {
        let mut encoder = Encoder { open: Vec::new(), state: State::Key(Varint::default()) };
        encoder.begin(message, length, json);
        encoder.field_ended(json);
        encoder
    }

    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// The next bytes of the message, and no more than belong to it.
    pub(super) fn write(&mut self, mut piece: &[u8], json: &mut Vec<u8>) -> Result<(), NotThisMessage> {
        while !piece.is_empty() {
            // A field does not reach beyond its message.
            let within = piece.len().min(self.open.last().map_or(0, |innermost| innermost.left));
            let taken = self.take(&piece[..within], json)?;
            piece = &piece[taken..];
        }
        Ok(())
    }

    /// Takes a part of the innermost message, at least one byte, and tells how many.
    fn take(&mut self, piece: &[u8], json: &mut Vec<u8>) -> Result<usize, NotThisMessage> {
        let first = *piece.first().ok_or(NotThisMessage)?;
        let mut taken = 1;
        self.state = match self.state {
            State::Key(mut varint) => match varint.push(first)? {
                None => State::Key(varint),
                Some(key) => self.key(key, json)?,
            },
            State::Number(field, mut varint) => match varint.push(first)? {
                None => State::Number(field, varint),
                Some(number) => {
                    write_number(field, number, json);
                    State::Key(Varint::default())
                }
            },
            State::Length(field, mut varint) => match varint.push(first)? {
                None => State::Length(field, varint),
                Some(length) => {
                    let length = usize::try_from(length).map_err(|_| NotThisMessage)?;
                    self.spend(1)?;
                    self.state = self.content(field, length, json)?;
                    self.field_ended(json);
                    return Ok(1);
                }
            },
            State::Packed { field, left, mut varint, is_first } => {
                let left = left.checked_sub(1).ok_or(NotThisMessage)?;
                match varint.push(first)? {
                    None => State::Packed { field, left, varint, is_first },
                    Some(number) => {
                        if !is_first {
                            json.push(b',');
                        }
                        write_number(field, number, json);
                        match left {
                            0 => State::Key(Varint::default()),
                            _ => State::Packed { field, left, varint: Varint::default(), is_first: false },
                        }
                    }
                }
            }
            State::String { left } => {
                taken = piece.len().min(left);
                write_escaped(&piece[..taken], json);
                match left - taken {
                    0 => {
                        json.push(b'"');
                        State::Key(Varint::default())
                    }
                    left => State::String { left },
                }
            }
            State::Bytes { left, mut rest } => {
                taken = piece.len().min(left);
                rest.write(&piece[..taken], left == taken, json);
                match left - taken {
                    0 => {
                        json.push(b'"');
                        State::Key(Varint::default())
                    }
                    left => State::Bytes { left, rest },
                }
            }
        };
        self.spend(taken)?;
        self.field_ended(json);
        Ok(taken)
    }

    /// The number and type of a field were read.
    fn key(&mut self, key: u64, json: &mut Vec<u8>) -> Result<State, NotThisMessage> {
        let innermost = self.open.last_mut().ok_or(NotThisMessage)?;
        let number = u32::try_from(key >> 3).map_err(|_| NotThisMessage)?;
        let field = innermost.message.by_number(number).ok_or(NotThisMessage)?;
        innermost.name(field, json);
        match (key & 7, field.kind) {
            (WIRE_LENGTH_DELIMITED, _) => Ok(State::Length(field, Varint::default())),
            (WIRE_VARINT, Kind::Message(_) | Kind::String | Kind::Bytes) => Err(NotThisMessage),
            (WIRE_VARINT, _) => Ok(State::Number(field, Varint::default())),
            _ => Err(NotThisMessage),
        }
    }

    /// The length of a field was read.
    fn content(
        &mut self,
        field: &'static Field,
        length: usize,
        json: &mut Vec<u8>,
    ) -> Result<State, NotThisMessage> {
        if length > self.open.last().map_or(0, |innermost| innermost.left) {
            return Err(NotThisMessage);
        }
        match (field.kind, length) {
            (Kind::Message(message), _) => {
                self.spend(length)?;
                self.begin(message, length, json);
            }
            (Kind::String | Kind::Bytes, 0) => json.extend_from_slice(b"\"\""),
            (Kind::String, left) => {
                json.push(b'"');
                return Ok(State::String { left });
            }
            (Kind::Bytes, left) => {
                json.push(b'"');
                return Ok(State::Bytes { left, rest: Rest::default() });
            }
            (_, 0) => {}
            (_, left) => {
                return Ok(State::Packed { field, left, varint: Varint::default(), is_first: true });
            }
        }
        Ok(State::Key(Varint::default()))
    }

    fn begin(&mut self, message: &'static Message, length: usize, json: &mut Vec<u8>) {
        json.push(b'{');
        self.open.push(Open { message, left: length, list: None, is_first: true });
    }

    /// Closes the messages that end here.
    fn field_ended(&mut self, json: &mut Vec<u8>) {
        if !matches!(self.state, State::Key(Varint { shift: 0, .. })) {
            return;
        }
        while let Some(ended) = self.open.pop_if(|innermost| innermost.left == 0) {
            if ended.list.is_some() {
                json.push(b']');
            }
            json.push(b'}');
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), NotThisMessage> {
        let innermost = self.open.last_mut().ok_or(NotThisMessage)?;
        innermost.left = innermost.left.checked_sub(bytes).ok_or(NotThisMessage)?;
        Ok(())
    }
}

impl Open {
    /// Writes what is in front of a value of `field`.
    fn name(&mut self, field: &'static Field, json: &mut Vec<u8>) {
        if self.list.is_some_and(|list| list.number == field.number) {
            json.push(b',');
            return;
        }
        if self.list.take().is_some() {
            json.push(b']');
        }
        if !std::mem::replace(&mut self.is_first, false) {
            json.push(b',');
        }
        json.push(b'"');
        json.extend_from_slice(field.name.as_bytes());
        json.extend_from_slice(b"\":");
        if field.is_repeated {
            json.push(b'[');
            self.list = Some(field);
        }
    }
}

impl Varint {
    /// The number, if it ends with this byte.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, NotThisMessage> {
        if self.shift > 63 {
            return Err(NotThisMessage);
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

impl Rest {
    /// Writes the digits of these bytes and of those before them, as far as they make whole groups of digits.
    fn write(&mut self, mut bytes: &[u8], is_end: bool, json: &mut Vec<u8>) {
        if self.len > 0 {
            let (filled, after) = bytes.split_at(bytes.len().min(self.bytes.len() - self.len));
            self.bytes[self.len..][..filled.len()].copy_from_slice(filled);
            self.len += filled.len();
            bytes = after;
            if self.len < self.bytes.len() && !is_end {
                return;
            }
            write_base64(&self.bytes[..self.len], json);
            self.len = 0;
        }
        let whole = if is_end { bytes.len() } else { bytes.len() / 3 * 3 };
        let (whole, rest) = bytes.split_at(whole);
        write_base64(whole, json);
        self.bytes[..rest.len()].copy_from_slice(rest);
        self.len = rest.len();
    }
}

const WIRE_VARINT: u64 = 0;
const WIRE_LENGTH_DELIMITED: u64 = 2;

fn write_base64(bytes: &[u8], json: &mut Vec<u8>) {
    let start = json.len();
    json.resize(start + bytes.len().div_ceil(3) * 4, 0);
    STANDARD.encode_slice(bytes, &mut json[start..]).expect("three bytes are four digits");
}

/// Numbers of 64 bits are strings, because numbers of JavaScript have fewer bits.
fn write_number(field: &Field, number: u64, json: &mut Vec<u8>) {
    let signed = number.cast_signed();
    let written = match field.kind {
        Kind::Bool => write!(json, "{}", number != 0),
        Kind::Uint32 => write!(json, "{}", number as u32),
        Kind::Int64 => write!(json, "\"{signed}\""),
        Kind::Enum(of_enum) => match of_enum.name(signed as i32) {
            Some(name) => write!(json, "\"{name}\""),
            // A number of 32 bits is extended to 64 on the wire.
            None => write!(json, "{}", signed as i32),
        },
        Kind::Uint64 | Kind::String | Kind::Bytes | Kind::Message(_) => write!(json, "\"{number}\""),
    };
    written.expect("memory takes what it is given");
}

/// Writes a part of a text as it is within the quotation marks of JSON.
pub(super) fn write_escaped(mut text: &[u8], json: &mut Vec<u8>) {
    while let Some(at) = text.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' ')) {
        json.extend_from_slice(&text[..at]);
        let escape: &[u8] = match text[at] {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            0x08 => b"\\b",
            0x0c => b"\\f",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            other => {
                write!(json, "\\u{other:04x}").expect("memory takes what it is given");
                &[]
            }
        };
        json.extend_from_slice(escape);
        text = &text[at + 1..];
    }
    json.extend_from_slice(text);
}
