//! Every key of the store, in order, with its changes. It holds no values.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
};

use crate::{
    mvcc::key_index::{KeyIndex, Live},
    storage::Record,
    types::{KeyRange, LeaseId, Revision},
};

#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<Box<[u8]>, KeyIndex>,
}

impl Index {
    pub(super) fn get(&self, key: &[u8]) -> Option<&KeyIndex> {
        self.keys.get(key)
    }

    /// The keys of a range that come after `after`, deleted ones included.
    pub(super) fn range(
        &self,
        range: &KeyRange,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&[u8], &KeyIndex)> {
        let keys = bounds(range, after).map(|bounds| self.keys.range::<[u8], _>(bounds));
        keys.into_iter().flatten().map(|(key, changes)| (key.as_ref(), changes))
    }

    /// As [`Index::range`], to be changed.
    pub(super) fn range_mut(
        &mut self,
        range: &KeyRange,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&[u8], &mut KeyIndex)> {
        let keys = bounds(range, after).map(|bounds| self.keys.range_mut::<[u8], _>(bounds));
        keys.into_iter().flatten().map(|(key, changes)| (key.as_ref(), changes))
    }

    /// Returns what the key held, and its lease.
    pub(super) fn put(&mut self, key: &[u8], revision: Revision, lease: LeaseId) -> Option<(Live, LeaseId)> {
        match self.keys.get_mut(key) {
            Some(changes) => {
                let prev = changes.newest().map(|live| (live, changes.lease()));
                changes.put(revision, lease);
                prev
            }
            None => {
                let first = Live { revision, create_rev: revision.main, version: 1 };
                self.keys.insert(key.into(), KeyIndex::of_put(first, lease));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        self.keys.remove(key);
    }

    /// Takes in a stored record; records come in order. Says what is wrong with one that cannot
    /// follow those before it.
    pub(super) fn restore(&mut self, revision: Revision, record: &Record) -> Result<(), String> {
        let parts = record.parts();
        let put = Live { revision, create_rev: parts.create_rev, version: parts.version };
        if !record.is_tombstone() && (parts.mod_rev != revision.main || parts.version < 1) {
            return Err(format!("revision {revision} holds {put:?}"));
        }
        let changes = match self.keys.entry(parts.key.into()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(match record.is_tombstone() {
                    true => KeyIndex::of_tombstone(revision),
                    false => KeyIndex::of_put(put, parts.lease),
                });
                return Ok(());
            }
        };
        match (changes.newest(), record.is_tombstone()) {
            (Some(_), true) => changes.delete(revision),
            (None, true) => return Err(format!("revision {revision} deletes what is not there")),
            (_, false) => {
                changes.put(revision, parts.lease);
                if changes.newest() != Some(put) {
                    let expected = changes.newest();
                    return Err(format!("revision {revision} holds {put:?}, expected {expected:?}"));
                }
            }
        }
        Ok(())
    }
}

/// `None` if nothing can be in between, which the map would take for a mistake.
fn bounds<'a>(range: &'a KeyRange, after: Option<&'a [u8]>) -> Option<(Bound<&'a [u8]>, Bound<&'a [u8]>)> {
    let lower = after.map_or(Bound::Included(range.start().as_ref()), Bound::Excluded);
    match range {
        KeyRange::Point(key) if after.is_none() => Some((lower, Bound::Included(key))),
        KeyRange::Point(_) => None,
        KeyRange::Span(start, end) if start < end => Some((lower, Bound::Excluded(end))),
        KeyRange::Span(..) => None,
        KeyRange::From(_) => Some((lower, Bound::Unbounded)),
    }
}
