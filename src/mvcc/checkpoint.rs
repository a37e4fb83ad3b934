//! Moving the head of the tape to its body.
//!
//! A checkpoint takes everything since the one before. The store goes on while it is written; when
//! it is durable, the seam moves and what it held may leave memory.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    limits::{CHECKPOINT_REMOVALS_MAX, RECENT_CACHE_BYTES},
    mvcc::Store,
    storage::{Reader, Record, StorageError, Table, meta},
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

/// No store gets there by counting: there is room above for every sum.
const REV_MAX: Rev = Rev(i64::MAX / 4);
const SIZE_MAX: i64 = i64::MAX / 4;

/// What the meta table says of the store.
pub(super) struct StoredCells {
    pub(super) rev_current: Rev,
    pub(super) rev_compact_scheduled: Rev,
    pub(super) rev_compact_finished: Rev,
    pub(super) size_total: i64,
}

impl Store {
    /// Everything since the last capture. Captures must be made durable in order, each before
    /// [`Store::checkpointed`] is told of it.
    pub(crate) fn capture(&mut self) -> StoreCheckpoint {
        let records = self.recent.changes(self.rev_captured.next());
        let records = records.map(|(revision, record)| (revision, record.clone())).collect();
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
        self.body = Arc::new(self.database.reader()?);
        self.rev_checkpointed = rev;
        self.recent.checkpointed();
        self.compaction.rev_finished = self.compaction.rev_captured;
        self.size.remove(removed_bytes);
        self.recent.trim(rev, RECENT_CACHE_BYTES);
        Ok(())
    }

    /// The file has been rewritten without its holes.
    pub(crate) fn defragmented(&mut self) -> Result<(), StorageError> {
        self.body = Arc::new(self.database.reader()?);
        self.size.total = self.size.in_use;
        Ok(())
    }
}

/// A new file has none of them yet.
pub(super) fn read_cells(body: &Reader) -> Result<StoredCells, StorageError> {
    let number = |key: &'static [u8], initial: i64| match body.cell(Table::Meta, key)? {
        Some(bytes) => bytes.as_ref().try_into().map(i64::from_be_bytes).map_err(|_| {
            body.corrupted(format!("meta \"{}\" has {} bytes", key.escape_ascii(), bytes.len()))
        }),
        None => Ok(initial),
    };
    let cells = StoredCells {
        rev_current: Rev(number(meta::REV_CURRENT, Rev::INITIAL.0)?),
        rev_compact_scheduled: Rev(number(meta::REV_COMPACT_SCHEDULED, Rev::NEVER_COMPACTED.0)?),
        rev_compact_finished: Rev(number(meta::REV_COMPACT_FINISHED, Rev::NEVER_COMPACTED.0)?),
        size_total: number(meta::SIZE_TOTAL, 0)?,
    };
    let StoredCells { rev_current, rev_compact_scheduled, rev_compact_finished, size_total } = cells;
    let is_sound = (Rev::INITIAL..=REV_MAX).contains(&rev_current)
        && (Rev::NEVER_COMPACTED..=rev_current).contains(&rev_compact_scheduled)
        && (Rev::NEVER_COMPACTED..=rev_compact_scheduled).contains(&rev_compact_finished)
        && (0..=SIZE_MAX).contains(&size_total);
    if !is_sound {
        return Err(body.corrupted(format!(
            "it is at revision {rev_current}, compacted to {rev_compact_scheduled}, done to {rev_compact_finished}, \
             with {size_total} bytes, which cannot be"
        )));
    }
    Ok(cells)
}
