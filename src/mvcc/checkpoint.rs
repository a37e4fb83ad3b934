//! Moving the head of the tape to its body.
//!
//! A checkpoint takes everything since the one before. The store goes on while it is written; when
//! it is durable, the seam moves and what it held may leave memory.

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
    /// The newest revision that it holds.
    pub(crate) rev: Rev,
    /// More removals are waiting than one checkpoint takes: capture again soon.
    pub(crate) more: bool,
}

impl Store {
    /// Everything since the last capture. Captures must be made durable in order, each before
    /// [`Store::checkpointed`] is told of it.
    pub(crate) fn capture(&mut self) -> StoreCheckpoint {
        assert_eq!(self.recent.last(), self.rev_current, "a capture holds no write that is half done");
        assert!(self.rev_checkpointed <= self.rev_captured, "what is durable was captured");
        assert!(self.rev_captured <= self.rev_current, "what is captured was committed");
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

    /// Whether a capture would hold anything that the last one did not.
    pub(crate) fn has_changes(&self) -> bool {
        self.rev_captured != self.rev_current || self.compaction.has_changes()
    }

    /// The newest capture, which holds `rev`, is durable and took `removed_bytes` off the disk.
    pub(crate) fn checkpointed(&mut self, rev: Rev, removed_bytes: u64) -> Result<(), StorageError> {
        assert_eq!(rev, self.rev_captured, "captures become durable in order");
        assert!(rev >= self.rev_checkpointed, "the seam moves forwards only");
        self.body = Arc::new(self.database.reader()?);
        self.rev_checkpointed = rev;
        self.recent.checkpointed();
        self.compaction.rev_finished = self.compaction.rev_captured;
        self.size.remove(removed_bytes);
        self.recent.trim(rev, RECENT_CACHE_BYTES);
        assert!(self.recent.first() <= rev.next(), "every record above the seam is in memory");
        Ok(())
    }

    /// The file has been rewritten without its holes.
    pub(crate) fn defragmented(&mut self) -> Result<(), StorageError> {
        self.body = Arc::new(self.database.reader()?);
        self.size.total = self.size.in_use;
        Ok(())
    }
}
