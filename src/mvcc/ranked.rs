//! The first keys of a range, in an order that is not the order of the keys.
//!
//! Keys are inserted one by one, and no more are kept than the answer may contain. So sorting with a small
//! limit takes little memory, and no single step sorts the whole range.

use std::{cmp::Reverse, collections::BTreeMap};

use bytes::Bytes;

use crate::{
    mvcc::{rest::memory_of, store::Place},
    types::KeyValue,
};

pub(super) struct Ranked {
    is_descending: bool,
    kept_max: usize,
    kept: BTreeMap<Rank, Candidate>,
    /// The memory of the keys in `kept`.
    bytes: usize,
}

/// A key of the answer; with a place, the record has yet to be read from there.
pub(super) struct Candidate {
    pub(super) kv: KeyValue,
    pub(super) place: Option<Place>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SortKey {
    Number(i64),
    Value(Bytes),
}

/// The first of the answer is the smallest. Keys that sort equally are in the order of the keys, whether
/// the order is ascending or descending.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Ascending(SortKey, usize),
    Descending(Reverse<SortKey>, usize),
}

impl Ranked {
    pub(super) fn new(is_descending: bool, kept_max: usize) -> Ranked {
        assert!(kept_max > 0, "an answer contains a key");
        Ranked { is_descending, kept_max, kept: BTreeMap::new(), bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Inserts the key at a position in the order of the keys. Keeps the first `kept_max` keys.
    pub(super) fn insert(&mut self, key: SortKey, position: usize, candidate: impl FnOnce() -> Candidate) {
        let rank = match self.is_descending {
            true => Rank::Descending(Reverse(key), position),
            false => Rank::Ascending(key, position),
        };
        if self.kept.len() == self.kept_max {
            if self.kept.last_key_value().is_some_and(|(last, _)| *last < rank) {
                return;
            }
            let last = self.kept.pop_last();
            self.bytes -= last.map_or(0, |(_, candidate)| memory_of(&candidate.kv));
        }
        let candidate = candidate();
        self.bytes += memory_of(&candidate.kv);
        let before = self.kept.insert(rank, candidate);
        assert!(before.is_none(), "every position is inserted once");
    }

    pub(super) fn pop_first(&mut self) -> Option<Candidate> {
        let (_, candidate) = self.kept.pop_first()?;
        self.bytes -= memory_of(&candidate.kv);
        Some(candidate)
    }
}
