//! Moving the head of the tape to its body.
//!
//! A checkpoint contains every change since the previous checkpoint. Writes to the store continue while
//! the checkpoint is committed to the database. Once the commit is durable, the seam moves, and the
//! records of the checkpoint may be dropped from memory.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    limits::{CHECKPOINT_REMOVALS_MAX, RECENT_CACHE_BYTES},
    mvcc::{Store, recent::Trimmed},
    storage::{Reader, Record, Table, meta},
    types::{Rev, Revision},
};

/// The store's part of a [`Checkpoint`](crate::storage::Checkpoint), but for its records: those stay in memory
/// until the checkpoint is durable, and [`Store::captured`] returns them in strides.
#[derive(Debug)]
pub(crate) struct StoreCheckpoint {
    /// The oldest revision in the checkpoint.
    pub(crate) first: Rev,
    pub(crate) removed: Vec<Revision>,
    pub(crate) cells: Vec<(Table, Bytes, Option<Bytes>)>,
    /// The newest revision in the checkpoint.
    pub(crate) rev: Rev,
    /// More removals wait than one checkpoint takes, so the next capture should follow soon.
    pub(crate) more: bool,
}

impl Store {
    /// Takes every change since the last capture. The caller commits the captures in order, and calls
    /// [`Store::checkpointed`] after each commit.
    pub(crate) fn capture(&mut self) -> StoreCheckpoint {
        assert_eq!(self.recent.last(), self.rev_current, "no write is in progress during a capture");
        assert!(self.rev_checkpointed <= self.rev_captured, "only captured revisions are checkpointed");
        assert!(self.rev_captured <= self.rev_current, "only revisions that were written are captured");
        let first = self.rev_captured.next();
        assert!(self.recent.first() <= first, "every record that was not captured is in memory");
        self.rev_captured = self.rev_current;
        self.recent.captured();
        let (removed, more) = self.compaction.capture(CHECKPOINT_REMOVALS_MAX);
        let cell = |key: &'static [u8], number: i64| {
            let bytes = Bytes::copy_from_slice(&number.to_be_bytes());
            (Table::Meta, Bytes::from_static(key), Some(bytes))
        };
        let cells = vec![
            cell(meta::REV_CURRENT, self.rev_current.0),
            cell(meta::REV_COMPACT_SCHEDULED, self.rev_compacted.0),
            cell(meta::REV_COMPACT_FINISHED, self.compaction.rev_captured.0),
            cell(meta::SIZE_TOTAL, self.size.total),
        ];
        StoreCheckpoint { first, removed, cells, rev: self.rev_current, more }
    }

    /// The records from a revision on that the newest capture contains, `records_max` of them at most.
    pub(crate) fn captured(&self, from: Revision, records_max: usize) -> Vec<(Revision, Record)> {
        assert!(from.main > self.rev_checkpointed, "a captured record stays in memory until it is durable");
        let records = self.recent.changes(from).take(records_max);
        let records = records.take_while(|(revision, _)| revision.main <= self.rev_captured);
        records.map(|(revision, record)| (revision, record.clone())).collect()
    }

    /// Whether anything has changed since the last capture.
    pub(crate) fn has_changes(&self) -> bool {
        self.rev_captured != self.rev_current || self.compaction.has_changes()
    }

    /// To be called once the newest capture, which ends with `rev`, is committed. The commit removed
    /// `removed_bytes` from the database, and `body` sees it. Returns the body before it: if nobody reads it any
    /// more, dropping it may close a file, so the caller does that without the store.
    #[must_use]
    pub(crate) fn checkpointed(&mut self, rev: Rev, removed_bytes: u64, body: Reader) -> Arc<Reader> {
        assert_eq!(rev, self.rev_captured, "captures become durable in order");
        assert!(rev >= self.rev_checkpointed, "the seam only moves forwards");
        self.rev_checkpointed = rev;
        self.recent.checkpointed();
        self.compaction.rev_finished = self.compaction.rev_captured;
        self.size.remove(removed_bytes);
        std::mem::replace(&mut self.body, Arc::new(body))
    }

    /// Drops the oldest records that are in the database, while there are more than the cache may hold:
    /// `revs_max` revisions at most. Taking a large revision apart takes long, so the caller drops the result
    /// without the store.
    pub(crate) fn trim(&mut self, revs_max: usize) -> Trimmed {
        let trimmed = self.recent.trim(self.rev_checkpointed, RECENT_CACHE_BYTES, revs_max);
        assert!(
            self.recent.first() <= self.rev_checkpointed.next(),
            "every record above the seam is in memory"
        );
        trimmed
    }

    /// To be called after values were moved, which changes nothing that can be read. `body` sees where they are now. Returns
    /// the body before it, as [`Store::checkpointed`] does.
    #[must_use]
    pub(crate) fn values_moved(&mut self, body: Reader) -> Arc<Reader> {
        std::mem::replace(&mut self.body, Arc::new(body))
    }

    /// To be called after a defragmentation has replaced the database file by a copy without free space, which
    /// `body` reads. Returns the body before it, as [`Store::checkpointed`] does.
    #[must_use]
    pub(crate) fn defragmented(&mut self, body: Reader) -> Arc<Reader> {
        self.size.total = self.size.in_use;
        std::mem::replace(&mut self.body, Arc::new(body))
    }
}
