//! How much of each file of values the database refers to.

use std::collections::BTreeMap;

use crate::types::{Rev, ValuePlace};

/// What is referred to in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Occupied {
    /// Of the values.
    pub(crate) bytes: u64,
    pub(crate) values: u64,
    /// The records with these values are among those of these revisions.
    pub(crate) first: Rev,
    pub(crate) last: Rev,
    /// The file has at least this length.
    pub(crate) end: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Occupancy(BTreeMap<u32, Occupied>);

impl Occupancy {
    /// The record of a revision refers to a value.
    pub(crate) fn add(&mut self, rev: Rev, place: ValuePlace) {
        let end = u64::from(place.offset) + u64::from(place.len);
        let occupied =
            self.0.entry(place.file).or_insert(Occupied { bytes: 0, values: 0, first: rev, last: rev, end });
        occupied.bytes += u64::from(place.len);
        occupied.values += 1;
        occupied.first = occupied.first.min(rev);
        occupied.last = occupied.last.max(rev);
        occupied.end = occupied.end.max(end);
    }

    /// A record that referred to a value is gone. True if nothing else in the file is referred to.
    pub(crate) fn remove(&mut self, place: ValuePlace) -> bool {
        let occupied = self.0.get_mut(&place.file).expect("a reference was counted");
        assert!(occupied.values > 0 && occupied.bytes >= u64::from(place.len), "a reference is removed once");
        occupied.bytes -= u64::from(place.len);
        occupied.values -= 1;
        let is_empty = occupied.values == 0;
        if is_empty {
            assert_eq!(occupied.bytes, 0, "without values there are no bytes");
            self.0.remove(&place.file);
        }
        is_empty
    }

    pub(crate) fn has(&self, file: u32) -> bool {
        self.0.contains_key(&file)
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (u32, &Occupied)> {
        self.0.iter().map(|(file, occupied)| (*file, occupied))
    }
}
