//! Messages that lie in one another as deep as a client likes.
//!
//! prost reads nested messages by recursion and gives up at a hundred, and when it writes one it
//! measures it anew at every level around it. So a nested transaction is bytes to prost (see
//! `proto/build.rs`; on the wire that is the same). Who reads one decodes it level by level, and
//! counts the levels; who writes one does it here, at a cost that grows with its bytes alone.

use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

/// A message that names its fields, in the order of their tags.
pub(crate) trait Nested {
    fn fields(&self, fields: &mut impl Fields);
}

/// What becomes of the fields of a message.
pub(crate) trait Fields {
    /// A field that is there if it is true.
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

/// First each nested message is measured, once.
#[derive(Default)]
struct Measured {
    /// Of the message whose fields are looked at.
    len: usize,
    /// Of all nested messages, in the order in which they begin.
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

/// Then all are written, each behind its length.
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
