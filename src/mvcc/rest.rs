//! The keys behind the part of an answer that was kept.
//!
//! An answer whose keys are in order need not be in memory as a whole: a walk keeps its first part and counts
//! the bytes of the keys behind it, so that the length of the answer is known before it is sent. Those keys
//! are read again, piece by piece, when the client takes them. The state that is read stays readable until
//! then, because the rest has a [`Hold`].

use crate::{
    limits::ANSWER_PIECE_BYTES,
    mvcc::{Hold, Range},
    storage::Record,
    types::{KeyValue, Revision},
};

/// The number of keys of an answer, and the bytes that they take in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) keys: usize,
    /// The encoded key-values, each with its tag and its length.
    pub(crate) bytes: usize,
}

/// The memory of a key of an answer beside the bytes of its key and its value: its place in the answer, its
/// place in the order of the answer, and its allocations.
const KEY_MEMORY_BYTES: usize = 192;

/// The memory that a key of an answer takes while the answer is made.
pub(super) fn memory_of(kv: &KeyValue) -> usize {
    KEY_MEMORY_BYTES + kv.key.len() + kv.value.len()
}

impl Weight {
    /// The tag of the field that a key is in.
    pub(crate) const TAG_BYTES: usize = 1;

    pub(crate) fn of(kv: &KeyValue) -> Weight {
        let length = Record::len_of(kv);
        Weight { keys: 1, bytes: Weight::TAG_BYTES + length_of_length(length) + length }
    }

    pub(super) fn add(&mut self, other: Weight) {
        self.keys += other.keys;
        self.bytes += other.bytes;
    }
}

/// The bytes of a length in protobuf: seven bits in each.
fn length_of_length(length: usize) -> usize {
    (usize::BITS - (length | 1).leading_zeros()).div_ceil(7) as usize
}

/// Keys of an answer that are still to be read.
#[derive(Debug)]
pub(crate) struct Rest {
    /// Begins behind the last key that was read; its limit is the number of keys of the next piece.
    pub(super) range: Range,
    pub(super) before: Revision,
    pub(super) hold: Hold,
    weight: Weight,
}

impl Rest {
    pub(super) fn new(range: Range, before: Revision, hold: Hold, weight: Weight) -> Rest {
        assert!(weight.keys > 0, "there is a rest only if it has a key");
        let mut rest = Rest { range, before, hold, weight };
        rest.choose_limit();
        rest
    }

    pub(crate) fn weight(&self) -> Weight {
        self.weight
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.weight.keys == 0
    }

    /// To be called with each piece that was read.
    pub(crate) fn took(&mut self, piece: &[KeyValue]) {
        let last = piece.last().expect("a piece has a key");
        let mut taken = Weight::default();
        piece.iter().for_each(|kv| taken.add(Weight::of(kv)));
        assert!(
            taken.keys <= self.weight.keys && taken.bytes <= self.weight.bytes,
            "the keys that are sent are those that were counted"
        );
        self.weight.keys -= taken.keys;
        self.weight.bytes -= taken.bytes;
        assert_eq!(self.weight.keys == 0, self.weight.bytes == 0, "the last key takes the last byte");
        self.range.range = self.range.range.after(&last.key);
        self.choose_limit();
    }

    /// As many keys as are likely to make a piece: a walk visits all keys up to its limit, also those that it
    /// does not keep.
    fn choose_limit(&mut self) {
        let average_bytes = self.weight.bytes / self.weight.keys.max(1);
        let keys = (ANSWER_PIECE_BYTES / average_bytes.max(1)).clamp(1, self.weight.keys.max(1));
        self.range.limit = i64::try_from(keys).unwrap_or(i64::MAX);
    }
}
