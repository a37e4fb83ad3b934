//! Changing the store, one revision at a time.
//!
//! A write adds each change to the index and to the head of the tape at once. Readers do not see the
//! changes before [`Write::commit`], because until then the changes are above `rev_current`. A write cannot
//! be undone, so a request is refused, if at all, before its first change.

use bytes::Bytes;

use crate::{
    mvcc::{KeyMeta, Range, RangeResult, RevError, Store},
    storage::{Record, StorageError},
    types::{Event, EventKind, KeyRange, KeyValue, LeaseId, Rev, Revision},
};

/// The changes of one request. They all get the same revision, and sub-revisions in the order in which
/// they are made.
pub(crate) struct Write<'a> {
    store: &'a mut Store,
    events: Vec<Event>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct PutDone {
    /// The lease that the key was attached to.
    pub(crate) prev_lease: Option<LeaseId>,
    pub(crate) existed: bool,
    /// The previous key-value pair, if the key existed and the caller asked for the pair.
    pub(crate) prev_kv: Option<KeyValue>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Deleted {
    pub(crate) key: Bytes,
    /// The lease that the key was attached to, or [`LeaseId::NONE`].
    pub(crate) lease: LeaseId,
    /// The previous key-value pair, if the caller asked for it.
    pub(crate) prev_kv: Option<KeyValue>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Committed {
    /// The newest revision: a new one if there were changes.
    pub(crate) rev: Rev,
    /// The changes, in order; with `prev_kv` where the caller asked for it.
    pub(crate) events: Vec<Event>,
}

impl Store {
    pub(crate) fn begin(&mut self) -> Write<'_> {
        assert_eq!(self.recent.last(), self.rev_current, "the previous write was committed");
        Write { store: self, events: Vec::new() }
    }
}

impl Write<'_> {
    pub(crate) fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        lease: LeaseId,
        want_prev: bool,
    ) -> Result<PutDone, StorageError> {
        let revision = self.next_revision();
        let prev = self.store.index.put(&key, revision, lease);
        let prev_kv = match prev {
            Some((live, _)) if want_prev => Some(self.store.value(live.revision)?),
            _ => None,
        };
        let record = Record::put(&KeyValue {
            key,
            value,
            create_rev: prev.map_or(revision.main, |(live, _)| live.create_rev),
            mod_rev: revision.main,
            version: prev.map_or(1, |(live, _)| live.version + 1),
            lease,
        });
        let kv = record.key_value();
        self.store.size.add(&record);
        self.store.recent.push(revision, record);
        self.events.push(Event { kind: EventKind::Put, kv, prev_kv: prev_kv.clone() });
        Ok(PutDone {
            prev_lease: prev.map(|(_, lease)| lease).filter(|lease| lease.is_some()),
            existed: prev.is_some(),
            prev_kv,
        })
    }

    /// Deletes the keys of a range that exist, and returns them, in the order of the keys.
    pub(crate) fn delete_range(
        &mut self,
        range: &KeyRange,
        want_prev: bool,
    ) -> Result<Vec<Deleted>, StorageError> {
        let revision = self.next_revision();
        let Store { index, recent, body, size, .. } = &mut *self.store;
        let mut deleted = Vec::new();
        index.delete_range(range, revision, |key, changes, live, revision| {
            let prev_kv = match recent.get(live.revision) {
                _ if !want_prev => None,
                Some(record) => Some(record.key_value()),
                None => Some(body.record(live.revision)?.key_value()),
            };
            let record = Record::tombstone(key);
            let kv = record.deleted_key_value(revision.main);
            size.add(&record);
            recent.push(revision, record);
            let lease = changes.lease();
            deleted.push(Deleted { key: kv.key.clone(), lease, prev_kv: prev_kv.clone() });
            self.events.push(Event { kind: EventKind::Delete, kv, prev_kv });
            Ok::<(), StorageError>(())
        })?;
        Ok(deleted)
    }

    /// The newest value of a key, with the changes of this write.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StorageError> {
        self.store.get(key)
    }

    /// What the index knows about a key that exists, with the changes of this write.
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<KeyMeta> {
        self.store.lookup(key)
    }

    /// Reads a range, with the changes of this write unless the request asks for an older revision.
    pub(crate) fn range(&self, range: &Range) -> Result<Result<(Rev, RangeResult), RevError>, StorageError> {
        self.store.range_at(range, self.rev())
    }

    /// The revision for a header: that of the write once it has changed something, and until then the one
    /// before it.
    pub(crate) fn rev(&self) -> Rev {
        if self.events.is_empty() { self.store.rev_current } else { self.store.rev_current.next() }
    }

    pub(crate) fn commit(self) -> Committed {
        let rev = self.rev();
        assert!(self.store.rev_compacted <= rev, "the newest revision is never compacted away");
        self.store.rev_current = rev;
        assert_eq!(self.store.recent.last(), rev, "the newest record has the newest revision");
        Committed { rev, events: self.events }
    }

    fn next_revision(&self) -> Revision {
        Revision { main: self.store.rev_current.next(), sub: self.events.len() as i64 }
    }
}
