//! Messages that are nested as deeply as a client chooses.
//!
//! prost decodes nested messages recursively, up to a depth of one hundred, and when it encodes a message it
//! computes its length again at every level around it. Therefore a nested transaction is a field of bytes for
//! prost (see `proto/build.rs`), which is the same on the wire. Decoding goes level by level, and counts the
//! levels. Encoding is done here, at a cost that grows only with the number of bytes.

use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

/// A message that lists its fields, in the order of their tags.
pub(crate) trait Nested {
    fn fields(&self, fields: &mut impl Fields);
}

/// What is done with each field of a message.
pub(crate) trait Fields {
    /// A field that is present if it is true.
    fn flag(&mut self, tag: u32, value: bool);
    fn message(&mut self, tag: u32, message: &impl Message);
    fn nested(&mut self, tag: u32, message: &impl Nested);
}

/// The bytes of `message`.
pub(crate) fn encode(message: &impl Nested) -> Vec<u8> {
    let mut measured = Measured::default();
    message.fields(&mut measured);
    let mut written =
        Written { bytes: Vec::with_capacity(measured.len), nested_lens: measured.nested_lens.into_iter() };
    message.fields(&mut written);
    assert_eq!(written.bytes.len(), measured.len, "a message has the length that was measured");
    written.bytes
}

/// The first pass computes the length of each nested message, once.
#[derive(Default)]
struct Measured {
    /// The length so far of the message whose fields are visited.
    len: usize,
    /// The lengths of all nested messages, in the order in which they begin.
    nested_lens: Vec<usize>,
}

impl Fields for Measured {
    fn flag(&mut self, tag: u32, value: bool) {
        if value {
            self.len += key_len(tag) + 1;
        }
    }

    fn message(&mut self, tag: u32, message: &impl Message) {
        self.len += field_len(tag, message.encoded_len());
    }

    fn nested(&mut self, tag: u32, message: &impl Nested) {
        let place = self.nested_lens.len();
        self.nested_lens.push(0);
        let around = std::mem::take(&mut self.len);
        message.fields(self);
        self.nested_lens[place] = self.len;
        self.len = around + field_len(tag, self.len);
    }
}

fn field_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

/// The second pass writes all messages, each after its length.
struct Written {
    bytes: Vec<u8>,
    nested_lens: std::vec::IntoIter<usize>,
}

impl Fields for Written {
    fn flag(&mut self, tag: u32, value: bool) {
        if value {
            encode_key(tag, WireType::Varint, &mut self.bytes);
            self.bytes.push(1);
        }
    }

    fn message(&mut self, tag: u32, message: &impl Message) {
        encode_key(tag, WireType::LengthDelimited, &mut self.bytes);
        message.encode_length_delimited(&mut self.bytes).expect("a Vec takes what it is given");
    }

    fn nested(&mut self, tag: u32, message: &impl Nested) {
        let len = self.nested_lens.next().expect("every nested message was measured");
        encode_key(tag, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(len as u64, &mut self.bytes);
        message.fields(self);
    }
}
