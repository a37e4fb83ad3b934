//! The store: its state, how it is opened, and how one key is read.

use std::sync::Arc;

use thiserror::Error;

use crate::{
    mvcc::{
        Hold, Size,
        cells::StoredCells,
        compaction_work::Compaction,
        hold::Holds,
        index::Index,
        key_index::{KeyIndex, Live},
        recent::Recent,
    },
    storage::{Database, Occupancy, Reader, Record, StorageError, StoredChange, StoredChanges},
    types::{KeyRange, KeyValue, LeaseId, Rev, Revision},
};

/// All keys, at all revisions that have not been compacted.
///
/// Many readers borrow the store for short strides, or one writer changes it; the lock around the store
/// belongs to its owner.
pub(crate) struct Store {
    pub(super) database: Arc<Database>,
    /// The body of the tape: a snapshot of the database, which is replaced after each checkpoint. A
    /// reader that still needs the previous snapshot keeps its own reference to it.
    pub(super) body: Arc<Reader>,
    pub(super) index: Index,
    pub(super) recent: Recent,
    pub(super) rev_current: Rev,
    /// Reads below it are refused.
    pub(super) rev_compacted: Rev,
    pub(super) compaction: Compaction,
    pub(super) holds: Holds,
    /// Every record up to this revision has been captured for a checkpoint.
    pub(super) rev_captured: Rev,
    /// The seam: every record up to this revision is in `body`.
    pub(super) rev_checkpointed: Rev,
    pub(super) size: Size,
}

/// Why a revision cannot be read or compacted. All replicas agree on it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum RevError {
    #[error("revision {asked} has been compacted, the oldest is {compacted}")]
    Compacted { asked: Rev, compacted: Rev },
    #[error("revision {asked} is in the future, the newest is {current}")]
    Future { asked: Rev, current: Rev },
}

/// Whether a walk over the store needs another stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    Done,
}

/// What the index alone knows about a key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyMeta {
    pub(crate) create_rev: Rev,
    pub(crate) mod_rev: Rev,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

impl Store {
    /// Builds the index from all records in the database, without reading values that lie apart, and resumes a compaction that had not finished.
    /// `ahead` may have another thread take what is read, so that reading and building go on at the same time.
    pub(crate) fn open<C>(
        database: Arc<Database>,
        ahead: impl FnOnce(StoredChanges) -> C,
    ) -> Result<Store, StorageError>
    where
        C: Iterator<Item = Result<(Revision, StoredChange), StorageError>>,
    {
        let body = Arc::new(database.reader()?);
        let cells = StoredCells::read(&body)?;
        #[cfg(test)]
        let cells = if crate::planted::is(crate::planted::Bug::RevisionOfRecords) {
            let mut newest = Rev(1);
            for item in body.records(Revision::default())? {
                newest = newest.max(item?.0.main);
            }
            StoredCells { rev_current: newest, ..cells }
        } else {
            cells
        };
        let mut index = Index::new();
        let mut size = Size::EMPTY;
        let mut record_count = 0;
        let mut occupancy = Occupancy::default();
        for item in ahead(body.stored_changes()?) {
            let (revision, change) = item?;
            if revision.main > cells.rev_current {
                return Err(body.corrupted(format!(
                    "it has revision {revision}, but the newest is {}",
                    cells.rev_current
                )));
            }
            size.add(change.key_value_len);
            if let Some(place) = change.place {
                occupancy.add(revision.main, place);
            }
            index.restore(revision, change).map_err(|detail| body.corrupted(detail))?;
            record_count += 1;
        }
        index.restored();
        body.occupies(occupancy)?;
        let expected = body.record_count()?;
        if record_count != expected {
            return Err(body.corrupted(format!("it has {record_count} records instead of {expected}")));
        }
        size.total = size.total.max(cells.size_total);
        Ok(Store {
            database,
            body,
            index,
            recent: Recent::after(cells.rev_current),
            rev_current: cells.rev_current,
            rev_compacted: cells.rev_compact_scheduled,
            compaction: Compaction::after(cells.rev_compact_finished, cells.rev_compact_scheduled),
            holds: Holds::new(),
            rev_captured: cells.rev_current,
            rev_checkpointed: cells.rev_current,
            size,
        })
    }

    /// To be called when the store's file has replaced the file of `database`. `body` reads that file.
    pub(crate) fn moved_to(&mut self, database: Arc<Database>, body: Reader) {
        self.body = Arc::new(body);
        self.database = database;
    }

    pub(crate) fn rev_current(&self) -> Rev {
        self.rev_current
    }

    /// [`Rev::NEVER_COMPACTED`] until the first compaction.
    pub(crate) fn rev_compacted(&self) -> Rev {
        self.rev_compacted
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Keeps everything that can be read now readable, for as long as the hold lives.
    pub(crate) fn hold(&self) -> Hold {
        self.holds.take()
    }

    /// Whether the state just before a revision can be read: it is not compacted, or it was not when the
    /// hold was taken from this store.
    pub(crate) fn is_readable(&self, before: Revision, hold: Option<&Hold>) -> bool {
        before.main > self.rev_compacted || hold.is_some_and(|hold| self.holds.honours(hold))
    }

    /// Leases, users or roles, which count towards the size like records, took `before` bytes and now take
    /// `after`.
    pub(crate) fn cells_changed(&mut self, before: u64, after: u64) {
        self.size.change(before, after);
    }

    /// The memory of the records that no checkpoint has stored yet.
    pub(crate) fn unsaved_bytes(&self) -> usize {
        self.recent.unsaved_bytes()
    }

    /// The part of [`Store::unsaved_bytes`] that no checkpoint has captured.
    pub(crate) fn uncaptured_bytes(&self) -> usize {
        self.recent.uncaptured_bytes()
    }

    /// The number of keys that exist.
    pub(crate) fn keys_live(&self) -> usize {
        self.index.count(&KeyRange::all(), None)
    }

    /// The newest value of a key.
    #[cfg(test)]
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StorageError> {
        self.locate_newest(key).map(Located::load).transpose()
    }

    /// Where the newest value of a key is.
    pub(crate) fn locate_newest(&self, key: &[u8]) -> Option<Located> {
        let live = self.index.get(key).and_then(KeyIndex::newest)?;
        Some(self.locate(live.revision))
    }

    /// What the index knows about a key, if the key exists.
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<KeyMeta> {
        self.index.get(key).and_then(KeyMeta::of)
    }

    /// As [`Store::lookup`], for every key of a range that exists, in order.
    pub(crate) fn lookup_range(&self, range: &KeyRange) -> impl Iterator<Item = (&[u8], KeyMeta)> {
        self.index.range(range, None).filter_map(|(key, changes)| Some((key, KeyMeta::of(changes)?)))
    }

    /// What the index knows about the value that a key had just before a revision.
    pub(crate) fn lookup_before(&self, key: &[u8], before: Revision) -> Option<KeyAt<'_>> {
        KeyAt::of(self, self.index.get(key)?, before)
    }

    /// As [`Store::lookup_before`], for the keys of a range after `after`, in order. Keys that did not exist
    /// then are returned with `None`, because visiting them costs as much.
    pub(crate) fn lookup_range_before(
        &self,
        range: &KeyRange,
        after: Option<&[u8]>,
        before: Revision,
    ) -> impl Iterator<Item = (&[u8], Option<KeyAt<'_>>)> {
        let keys = self.index.range(range, after);
        keys.map(move |(key, changes)| (key, KeyAt::of(self, changes, before)))
    }

    /// Finds the record of a put, so that it can be read after the store's lock was released.
    pub(super) fn locate(&self, revision: Revision) -> Located {
        match self.recent.get(revision) {
            Some(record) => Located::Head(record.clone()),
            None => {
                assert!(
                    revision.main <= self.rev_checkpointed,
                    "a record that is not in memory is in the database"
                );
                Located::Body(Place { revision, body: Arc::clone(&self.body) })
            }
        }
    }
}

impl KeyMeta {
    fn of(changes: &KeyIndex) -> Option<KeyMeta> {
        let Live { revision, create_rev, version } = changes.newest()?;
        Some(KeyMeta { create_rev, mod_rev: revision.main, version, lease: changes.lease() })
    }
}

/// What the index knows about the value that a key had at some moment.
pub(crate) struct KeyAt<'s> {
    pub(crate) create_rev: Rev,
    pub(crate) mod_rev: Rev,
    pub(crate) version: i64,
    /// `None` if only the record contains it: the index knows the lease of the newest value alone.
    pub(crate) lease: Option<LeaseId>,
    revision: Revision,
    store: &'s Store,
}

impl<'s> KeyAt<'s> {
    fn of(store: &'s Store, changes: &KeyIndex, before: Revision) -> Option<KeyAt<'s>> {
        let live @ Live { revision, create_rev, version } = changes.before(before)?;
        let lease = (changes.newest() == Some(live)).then(|| changes.lease());
        Some(KeyAt { create_rev, mod_rev: revision.main, version, lease, revision, store })
    }

    /// The record of the value.
    pub(crate) fn locate(&self) -> Located {
        self.store.locate(self.revision)
    }
}

/// A record from memory, or its place in the database.
pub(crate) enum Located {
    Head(Record),
    Body(Place),
}

/// Where a record is that is not in memory.
pub(crate) struct Place {
    pub(super) revision: Revision,
    body: Arc<Reader>,
}

impl Located {
    pub(super) fn load(self) -> Result<KeyValue, StorageError> {
        match self {
            Located::Head(record) => Ok(record.key_value()),
            Located::Body(place) => place.read(),
        }
    }
}

impl Place {
    pub(crate) fn read(self) -> Result<KeyValue, StorageError> {
        Ok(self.body.record(self.revision)?.key_value())
    }
}
