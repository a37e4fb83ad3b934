//! What a checkpoint changes, and how it is written in a transaction of redb.

use std::ops::Bound;

use bytes::Bytes;
use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::{
    Record, StorageError, StoredRecord, Table, meta,
    tables::{self, RECORDS, RecordKey},
};
use crate::types::{Revision, ValuePlace};

/// Revisions between two removals that are worth looking at to do both at once.
const REMOVAL_GAP_MAX: i64 = 32;

/// Everything that changed since the checkpoint before, from all owners of state.
#[derive(Debug)]
pub(crate) struct Checkpoint<R = Record> {
    /// In order, and newer than all that is stored.
    pub(crate) records: Vec<(Revision, R)>,
    /// In order; stored before, or among `records`.
    pub(crate) removed: Vec<Revision>,
    /// Table, key, and the new bytes or `None` to remove the cell.
    pub(crate) cells: Vec<(Table, Bytes, Option<Bytes>)>,
}

/// A record of either form.
pub(crate) trait Measured {
    /// Bytes that it takes in memory.
    fn len(&self) -> usize;
}

impl Measured for Record {
    fn len(&self) -> usize {
        self.bytes().len()
    }
}

impl Measured for StoredRecord {
    fn len(&self) -> usize {
        self.stored_len()
    }
}

impl<R> Default for Checkpoint<R> {
    fn default() -> Checkpoint<R> {
        Checkpoint { records: Vec::new(), removed: Vec::new(), cells: Vec::new() }
    }
}

impl<R: Measured> Checkpoint<R> {
    /// Bytes of the records and cells, which is about what they take in memory and in the database.
    pub(crate) fn bytes(&self) -> usize {
        let records = self.records.iter().map(|(_, record)| record.len()).sum::<usize>();
        let cell_bytes =
            |(_, key, cell): &(Table, Bytes, Option<Bytes>)| key.len() + cell.as_ref().map_or(0, Bytes::len);
        records + self.cells.iter().map(cell_bytes).sum::<usize>()
    }
}

/// What removals from the database give back.
#[derive(Debug, Default)]
pub(super) struct Freed {
    /// The footprint of the records.
    pub(super) bytes: u64,
    /// Values of theirs that lie apart.
    pub(super) values: Vec<ValuePlace>,
}

/// Every commit saves what is needed to open the file at once after a crash, instead of after a
/// walk through all of it.
pub(super) fn begin_write(redb: &redb::Database) -> Result<WriteTransaction, StorageError> {
    let mut transaction = redb.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), StorageError> {
    transaction.open_table(RECORDS)?;
    for table in Table::ALL {
        transaction.open_table(table.definition())?;
    }
    Ok(())
}

/// Stores records, in order, that are newer than all that is stored, or in the place of what is stored.
///
/// New ones are a run of insertions at the end of the tree, of which redb makes whole pages. To insert one by one takes
/// twice the time, because each finds its way from the root.
pub(super) fn put_records(
    transaction: &WriteTransaction,
    records: impl IntoIterator<Item = (Revision, StoredRecord)>,
) -> Result<(), StorageError> {
    let mut table = transaction.open_table(RECORDS)?;
    let last = table.last()?.map(|(key, _)| *key.value());
    let is_there = |key: &RecordKey| last.is_some_and(|last| *key <= last);
    let mut records =
        records.into_iter().map(|(revision, record)| (tables::record_key(revision), record)).peekable();
    let mut stored = Vec::new();
    while let Some((key, record)) = records.next_if(|(key, _)| is_there(key)) {
        record.seal(&key, &mut stored);
        table.insert(&key, stored.as_slice())?;
    }
    let mut end = table.upper_bound_mut(Bound::<&RecordKey>::Unbounded)?;
    for (key, record) in records {
        record.seal(&key, &mut stored);
        end.insert_before(&key, stored.as_slice())?;
    }
    Ok(end.close()?)
}

/// Stores cells, and removes those that are to go.
pub(super) fn put_cells(
    transaction: &WriteTransaction,
    cells: &[(Table, Bytes, Option<Bytes>)],
) -> Result<(), StorageError> {
    let mut stored = Vec::new();
    for table in Table::ALL {
        let mut changed = cells.iter().filter(|(of, ..)| *of == table).peekable();
        if changed.peek().is_none() {
            continue;
        }
        let mut cells = transaction.open_table(table.definition())?;
        for (_, key, bytes) in changed {
            match bytes {
                Some(bytes) => {
                    tables::seal_cell(key, bytes, &mut stored);
                    cells.insert(key.as_ref(), stored.as_slice())?;
                }
                None => {
                    cells.remove(key.as_ref())?;
                }
            }
        }
    }
    Ok(())
}

/// Removes what is listed, in order, or returns the revision that is missing.
///
/// redb removes many neighbours at once far faster than one by one, but has to look at all that
/// lies between. So the list is cut where the gaps are wide.
pub(super) fn remove_records(
    transaction: &WriteTransaction,
    removed: &[Revision],
) -> Result<Result<Freed, Revision>, StorageError> {
    let mut records = transaction.open_table(RECORDS)?;
    let mut freed = Freed::default();
    for run in removed.chunk_by(|a, b| b.main.0 - a.main.0 <= REMOVAL_GAP_MAX) {
        let (first, last) = (tables::record_key(run[0]), tables::record_key(run[run.len() - 1]));
        assert!(first <= last, "the keys of records are in the order of their revisions");
        let mut rest = run.iter().map(|revision| tables::record_key(*revision)).peekable();
        records.retain_in::<&RecordKey, _>(&first..=&last, |key, stored| {
            let is_removed = rest.next_if_eq(key).is_some();
            if is_removed {
                let (bytes, value) = tables::stored_footprint(stored);
                freed.bytes += bytes;
                freed.values.extend(value);
            }
            !is_removed
        })?;
        if let Some(key) = rest.next() {
            return Ok(Err(tables::revision(&key)));
        }
    }
    Ok(Ok(freed))
}

/// How many records there must be: damage to the tree itself can make some invisible, and those
/// have no checksum to fail.
pub(super) fn put_record_count(transaction: &WriteTransaction) -> Result<(), StorageError> {
    let count = transaction.open_table(RECORDS)?.len()?;
    let mut stored = Vec::new();
    tables::seal_cell(meta::RECORD_COUNT, &count.to_be_bytes(), &mut stored);
    transaction.open_table(Table::Meta.definition())?.insert(meta::RECORD_COUNT, stored.as_slice())?;
    Ok(())
}

/// How many cells there must be: a key that is damaged, or a page that says it has fewer entries, would otherwise hide a
/// cell, and what is absent has a meaning for most of them.
pub(super) fn put_cell_count(transaction: &WriteTransaction) -> Result<(), StorageError> {
    let mut count = 0;
    for table in Table::ALL {
        count += transaction.open_table(table.definition())?.len()?;
    }
    let mut cells = transaction.open_table(Table::Meta.definition())?;
    if cells.get(meta::CELL_COUNT)?.is_none() {
        count += 1;
    }
    let mut stored = Vec::new();
    tables::seal_cell(meta::CELL_COUNT, &count.to_be_bytes(), &mut stored);
    cells.insert(meta::CELL_COUNT, stored.as_slice())?;
    Ok(())
}
