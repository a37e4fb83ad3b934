//! Changing the store, one revision at a time.
//!
//! A write adds each change to the index and to the head of the tape at once. Readers do not see the
//! changes before [`Write::commit`], because until then the changes are above `rev_current`. A write cannot
//! be undone, so a request is refused, if at all, before its first change.

use bytes::Bytes;

use crate::{
    limits::APPLY_STRIDE_KEYS,
    mvcc::{Step, Store, key_index::Live, recent::Recent},
    storage::Record,
    types::{Chunked, Event, EventKind, KeyRange, KeyValue, LeaseId, Rev, Revision, Whereabouts},
};

/// The changes of one request. They all get the same revision, and sub-revisions in the order in which
/// they are made.
///
/// A write does not borrow the store, so that a large request can release the store between its changes.
/// Every method takes the store on which the write began.
#[derive(Debug)]
pub(crate) struct Write {
    /// The revision that the changes get.
    main: Rev,
    events: Chunked<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PutDone {
    /// The lease that the key was attached to.
    pub(crate) prev_lease: Option<LeaseId>,
    pub(crate) existed: bool,
}

/// The progress of a deletion through its range.
#[derive(Debug, Default)]
pub(crate) struct Deletion {
    /// The key that was visited last.
    after: Option<Box<[u8]>>,
    /// Keys that were deleted.
    pub(crate) deleted: i64,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Committed {
    /// The newest revision: a new one if there were changes.
    pub(crate) rev: Rev,
    /// The changes, in order; with `prev_kv` where the caller asked for it.
    pub(crate) events: Chunked<Event>,
}

impl Store {
    pub(crate) fn begin(&mut self) -> Write {
        assert_eq!(self.recent.last(), self.rev_current, "the previous write was committed");
        Write { main: self.rev_current.next(), events: Chunked::default() }
    }
}

impl Write {
    /// `whereabouts` is where the log has the value. With `want_prev`, the event contains the previous key-value pair if that is in memory, as do the
    /// first [`APPLY_STRIDE_KEYS`] events of a deletion.
    pub(crate) fn put(
        &mut self,
        store: &mut Store,
        key: Bytes,
        value: Bytes,
        whereabouts: Whereabouts,
        lease: LeaseId,
        want_prev: bool,
    ) -> PutDone {
        let revision = self.next_revision(store);
        let prev = store.index.put(&key, revision, lease);
        let prev_kv = prev.and_then(|(live, _)| prev_kv(&store.recent, live, revision, want_prev));
        let kv = KeyValue {
            key,
            value,
            create_rev: prev.map_or(revision.main, |(live, _)| live.create_rev),
            mod_rev: revision.main,
            version: prev.map_or(1, |(live, _)| live.version + 1),
            lease,
        };
        let record = Record::put_found(&kv, whereabouts);
        let kv = record.key_value();
        store.size.add(record.bytes().len());
        store.recent.push(revision, record);
        self.events.push(Event { kind: EventKind::Put, kv, prev_kv });
        PutDone {
            prev_lease: prev.map(|(_, lease)| lease).filter(|lease| lease.is_some()),
            existed: prev.is_some(),
        }
    }

    /// Deletes the next keys of a range that exist, in the order of the keys. Calls `show` for each key with
    /// the lease that it was attached to. `keys_left` is the number of keys that may be visited, and is
    /// reduced by those that were.
    pub(crate) fn delete_some(
        &mut self,
        store: &mut Store,
        range: &KeyRange,
        deletion: &mut Deletion,
        keys_left: &mut usize,
        want_prev: bool,
        mut show: impl FnMut(&[u8], LeaseId),
    ) -> Step {
        let revision = self.next_revision(store);
        let Store { index, recent, size, .. } = store;
        let after = deletion.after.take();
        deletion.after =
            index.delete_some(range, after.as_deref(), keys_left, revision, |key, lease, live, revision| {
                let prev_kv = prev_kv(recent, live, revision, want_prev);
                let record = Record::tombstone(key);
                let kv = record.deleted_key_value(revision.main);
                size.add(record.bytes().len());
                recent.push(revision, record);
                show(key, lease);
                deletion.deleted += 1;
                self.events.push(Event { kind: EventKind::Delete, kv, prev_kv });
            });
        if deletion.after.is_some() { Step::More } else { Step::Done }
    }

    /// The revision for a header: that of the write once it has changed something, and until then the one
    /// before it.
    pub(crate) fn rev(&self) -> Rev {
        if self.events.is_empty() { Rev(self.main.0 - 1) } else { self.main }
    }

    /// The revision of the next change. The state just before it is what this write sees now. A reader with a
    /// [`Hold`](super::Hold) can read that state later, with [`RangeWalk::before`](super::RangeWalk::before).
    pub(crate) fn now(&self) -> Revision {
        Revision { main: self.main, sub: self.events.len() as i64 }
    }

    pub(crate) fn commit(self, store: &mut Store) -> Committed {
        let rev = self.rev();
        assert_eq!(self.main, store.rev_current.next(), "one write at a time changes the store");
        assert!(store.rev_compacted <= rev, "the newest revision is never compacted away");
        store.rev_current = rev;
        assert_eq!(store.recent.last(), rev, "the newest record has the newest revision");
        Committed { rev, events: self.events }
    }

    fn next_revision(&self, store: &Store) -> Revision {
        assert_eq!(self.main, store.rev_current.next(), "one write at a time changes the store");
        self.now()
    }
}

/// The key-value pair before a change, for its event. A write has the lock of the store, so it does not read from the
/// database, and it does not look for the pairs of more events than a stride has: whoever gets an event without it
/// looks for it then, see [`Store::locate_prev`].
fn prev_kv(recent: &Recent, before: Live, change: Revision, want_prev: bool) -> Option<KeyValue> {
    let is_wanted = want_prev && usize::try_from(change.sub).is_ok_and(|sub| sub < APPLY_STRIDE_KEYS);
    if !is_wanted {
        return None;
    }
    recent.get(before.revision).map(Record::key_value)
}
