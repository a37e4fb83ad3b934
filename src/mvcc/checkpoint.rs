//! Moving the head of the tape to its body.
//!
//! A checkpoint contains every change since the previous checkpoint. Writes to the store continue while
//! the checkpoint is committed to the database. Once the commit is durable, the seam moves, and the
//! records of the checkpoint may be dropped from memory.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    limits::{CHECKPOINT_REMOVALS_MAX, RECENT_CACHE_BYTES},
    mvcc::Store,
    storage::{Record, StorageError, Table, meta},
    types::{Rev, Revision},
};

/// The store's part of a [`Checkpoint`](crate::storage::Checkpoint).
#[derive(Debug)]
pub(crate) struct StoreCheckpoint {
    pub(crate) records: Vec<(Revision, Record)>,
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
        let records = self.recent.changes(self.rev_captured.next());
        let records: Vec<(Revision, Record)> =
            records.map(|(revision, record)| (revision, record.clone())).collect();
        let first = records.first().map_or(self.rev_current.next(), |(revision, _)| revision.main);
        assert_eq!(first, self.rev_captured.next(), "a capture begins where the last one ended");
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
        StoreCheckpoint { records, removed, cells, rev: self.rev_current, more }
    }

    /// Whether anything has changed since the last capture.
    pub(crate) fn has_changes(&self) -> bool {
        self.rev_captured != self.rev_current || self.compaction.has_changes()
    }

    /// To be called once the newest capture, which ends with `rev`, is committed. The commit removed
    /// `removed_bytes` from the database.
    pub(crate) fn checkpointed(&mut self, rev: Rev, removed_bytes: u64) -> Result<(), StorageError> {
        assert_eq!(rev, self.rev_captured, "captures become durable in order");
        assert!(rev >= self.rev_checkpointed, "the seam only moves forwards");
        self.body = Arc::new(self.database.reader()?);
        self.rev_checkpointed = rev;
        self.recent.checkpointed();
        self.compaction.rev_finished = self.compaction.rev_captured;
        self.size.remove(removed_bytes);
        self.recent.trim(rev, RECENT_CACHE_BYTES);
        assert!(self.recent.first() <= rev.next(), "every record above the seam is in memory");
        Ok(())
    }

    /// To be called after a defragmentation has replaced the database file by a copy without free space.
    pub(crate) fn defragmented(&mut self) -> Result<(), StorageError> {
        self.body = Arc::new(self.database.reader()?);
        self.size.total = self.size.in_use;
        Ok(())
    }
}
