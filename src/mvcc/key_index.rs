//! The changes that one key has had.
//!
//! The changes of a key form *generations*: a put begins a generation, further puts continue it, and a
//! tombstone ends it. All generations of a key are kept in one list, oldest change first:
//!
//! ```text
//! put 3.0, put 5.0, delete 8.0, put 9.0       {3.0, 5.0, 8.0t} {9.0}
//! ```
//!
//! Each put has a version, which is its position in its generation, counted from 1. Compaction removes
//! changes from the front of the list only. The oldest generation may therefore lack its first puts, and
//! the revision that created it is kept beside the list; every later generation begins with version 1.
//!
//! There is a [`KeyIndex`] for every key in the store, so its size matters: 32 bytes for a key with one
//! change, which is the common case, and 16 bytes for each change of the other keys.

use std::num::NonZeroI64;

use crate::types::{LeaseId, Rev, Revision};

/// The changes of one key, at least one.
#[derive(Clone, Debug)]
pub(super) struct KeyIndex {
    /// The revision that created the oldest generation.
    create_rev: Rev,
    /// The lease of the newest put; [`LeaseId::NONE`] once the key is deleted.
    lease: LeaseId,
    changes: Changes,
}

#[derive(Clone, Debug)]
enum Changes {
    One(Change),
    Many(Box<Many>),
}

#[derive(Clone, Debug)]
struct Many {
    /// The version of the oldest change, in full.
    version_first: i64,
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    /// No write has revision 0, so the compiler can use that value to tell `One` from `Many`.
    main: NonZeroI64,
    sub: u32,
    /// 0 is a tombstone. [`VERSION_LARGE`] stands for itself and all greater versions, which do not fit
    /// into 32 bits.
    version: u32,
}

const TOMBSTONE: u32 = 0;
const VERSION_LARGE: u32 = u32::MAX;

const _: () = assert!(size_of::<KeyIndex>() == 32 && size_of::<Change>() == 16);

/// A put, as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) revision: Revision,
    pub(super) create_rev: Rev,
    pub(super) version: i64,
}

/// Which changes of a key a compaction kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Nothing,
    /// Only changes after the compacted revision.
    Later,
    /// The newest change up to the compacted revision, and those after it.
    Newest,
}

impl KeyIndex {
    /// A key whose oldest known change is this put.
    pub(super) fn of_put(put: Live, lease: LeaseId) -> KeyIndex {
        assert!(put.create_rev <= put.revision.main, "{put:?} is older than its key");
        let change = Change::put(put.revision, put.version);
        let changes = if change.version == VERSION_LARGE {
            Changes::Many(Box::new(Many { version_first: put.version, changes: vec![change] }))
        } else {
            Changes::One(change)
        };
        KeyIndex { create_rev: put.create_rev, lease, changes }
    }

    /// A key whose oldest known change is a deletion, because a compaction removed the puts before it.
    pub(super) fn of_tombstone(revision: Revision) -> KeyIndex {
        KeyIndex {
            create_rev: revision.main,
            lease: LeaseId::NONE,
            changes: Changes::One(Change::tombstone(revision)),
        }
    }

    pub(super) fn put(&mut self, revision: Revision, lease: LeaseId) {
        let version = self.newest().map_or(1, |live| live.version + 1);
        self.push(Change::put(revision, version));
        self.lease = lease;
    }

    pub(super) fn delete(&mut self, revision: Revision) {
        assert!(self.newest().is_some(), "only a key that exists is deleted, at {revision}");
        self.push(Change::tombstone(revision));
        debug_assert_eq!(self.newest(), None, "a tombstone ends the generation");
        self.lease = LeaseId::NONE;
    }

    /// The newest put, if the key exists.
    pub(super) fn newest(&self) -> Option<Live> {
        self.live(self.changes().len() - 1)
    }

    /// The newest put at `rev`, if the key existed then.
    pub(super) fn at(&self, rev: Rev) -> Option<Live> {
        self.before(Revision::after(rev))
    }

    /// The put that was the key's newest change just before a revision; `None` if that was a tombstone.
    pub(super) fn before(&self, revision: Revision) -> Option<Live> {
        self.live(self.count_before(revision).checked_sub(1)?)
    }

    /// The lease of the newest put; [`LeaseId::NONE`] once the key is deleted.
    pub(super) fn lease(&self) -> LeaseId {
        self.lease
    }

    /// The oldest change that is known.
    pub(super) fn oldest(&self) -> Revision {
        self.changes()[0].revision()
    }

    /// Removes the changes that nobody can read at `rev` or later.
    ///
    /// Of the changes up to `rev`, only the newest can be kept: a put, because it is still readable; a
    /// tombstone only if it is exactly at `rev`, for watchers that start there. After [`Kept::Nothing`]
    /// the caller removes the key from the index.
    pub(super) fn compact(&mut self, rev: Rev) -> Kept {
        let (before, newest) = (self.at(rev), self.newest());
        let count = self.count_before(Revision::after(rev));
        let changes = self.changes();
        let Some(last) = count.checked_sub(1) else { return Kept::Later };
        let keeps_last = !changes[last].is_tombstone() || changes[last].main.get() == rev.0;
        let first = if keeps_last { last } else { count };
        if first == changes.len() {
            assert_eq!(newest, None, "a key that exists is kept");
            return Kept::Nothing;
        }
        if first > 0 {
            self.cut(first);
        }
        assert_eq!(self.newest(), newest, "a compaction does not change the newest put");
        debug_assert_eq!(self.at(rev), before, "a compaction keeps the put that is readable at its revision");
        if keeps_last { Kept::Newest } else { Kept::Later }
    }

    /// The generations, oldest first, for the expectations of tests.
    #[cfg(test)]
    pub(super) fn generations(&self) -> impl Iterator<Item = Vec<(Revision, i64)>> {
        let version = |change: &Change| (change.revision(), i64::from(change.version));
        self.changes()
            .split_inclusive(|change| change.is_tombstone())
            .map(move |generation| generation.iter().map(version).collect())
    }

    fn changes(&self) -> &[Change] {
        match &self.changes {
            Changes::One(change) => std::slice::from_ref(change),
            Changes::Many(many) => &many.changes,
        }
    }

    /// The number of changes before a revision.
    fn count_before(&self, revision: Revision) -> usize {
        let changes = self.changes();
        match changes.last() {
            Some(newest) if newest.revision() < revision => changes.len(),
            _ => changes.partition_point(|change| change.revision() < revision),
        }
    }

    /// The change at `position`, unless it is a tombstone.
    fn live(&self, position: usize) -> Option<Live> {
        let changes = self.changes();
        let change = changes[position];
        if change.is_tombstone() {
            return None;
        }
        // Version 1 of this generation is `version - 1` places before this put, if it is kept at all.
        let create_rev = match position.checked_sub(change.version as usize - 1) {
            Some(first) if first > 0 => changes[first].revision().main,
            _ => self.create_rev,
        };
        let version = match &self.changes {
            Changes::Many(many) if change.version == VERSION_LARGE => many.version_first + position as i64,
            _ => i64::from(change.version),
        };
        Some(Live { revision: change.revision(), create_rev, version })
    }

    fn push(&mut self, change: Change) {
        match &mut self.changes {
            Changes::One(first) => {
                assert!(first.revision() < change.revision(), "changes of a key are in order");
                let many = Many { version_first: i64::from(first.version), changes: vec![*first, change] };
                self.changes = Changes::Many(Box::new(many));
            }
            Changes::Many(many) => {
                let newest = many.changes.last();
                let is_after = newest.is_some_and(|newest| newest.revision() < change.revision());
                assert!(is_after, "changes of a key are in order");
                many.changes.push(change);
            }
        }
    }

    /// Removes the changes before position `first`.
    fn cut(&mut self, first: usize) {
        assert!(first < self.changes().len(), "a key keeps at least one change");
        let oldest = self.live(first);
        if let Some(live) = oldest {
            self.create_rev = live.create_rev;
        }
        let Changes::Many(many) = &mut self.changes else { unreachable!("one change has none before it") };
        many.version_first = oldest.map_or(0, |live| live.version);
        many.changes.drain(..first);
        if let [only] = many.changes[..]
            && only.version != VERSION_LARGE
        {
            self.changes = Changes::One(only);
        } else {
            many.changes.shrink_to(2 * many.changes.len());
        }
    }
}

impl Change {
    fn put(revision: Revision, version: i64) -> Change {
        assert!(version >= 1, "{revision} has version {version}");
        Change::new(revision, u32::try_from(version).unwrap_or(VERSION_LARGE))
    }

    fn tombstone(revision: Revision) -> Change {
        Change::new(revision, TOMBSTONE)
    }

    fn new(revision: Revision, version: u32) -> Change {
        Change {
            main: NonZeroI64::new(revision.main.0).expect("revisions of changes begin at 2"),
            sub: u32::try_from(revision.sub).expect("a revision has fewer than 2^32 changes"),
            version,
        }
    }

    fn revision(self) -> Revision {
        Revision::new(self.main.get(), i64::from(self.sub))
    }

    fn is_tombstone(self) -> bool {
        self.version == TOMBSTONE
    }
}
