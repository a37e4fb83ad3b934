//! The numbers about the store that the database keeps beside the records.

use crate::{
    storage::{Reader, StorageError, Table, meta},
    types::Rev,
};

/// No store reaches these bounds by counting up. Larger stored numbers are damage; if they were
/// accepted, a sum could overflow.
const REV_MAX: Rev = Rev(i64::MAX / 4);
const SIZE_MAX: i64 = i64::MAX / 4;

/// The numbers in the meta table.
pub(super) struct StoredCells {
    pub(super) rev_current: Rev,
    pub(super) rev_compact_scheduled: Rev,
    pub(super) rev_compact_finished: Rev,
    pub(super) size_total: i64,
}

impl StoredCells {
    /// Reads and checks the numbers. A new file has no cells; its store is at the initial revision.
    pub(super) fn read(body: &Reader) -> Result<StoredCells, StorageError> {
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
                "its numbers contradict each other: current revision {rev_current}, compaction scheduled to \
                 {rev_compact_scheduled} and finished to {rev_compact_finished}, size {size_total} bytes"
            )));
        }
        Ok(cells)
    }
}
