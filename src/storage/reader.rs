//! A file of the database that is open, and snapshots of what it holds.
//!
//! Whatever is read is checked against its checksum: damage is an error that names the file.

use std::{ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase, TableError};

use super::{
    Occupancy, Record, StorageError, StoredChange, StoredRecord, Table, Values,
    backend::{FileBackend, HeldBack},
    error::{corrupted, io_error, not_opened},
    inside::Inside,
    meta,
    tables::{self, COUNTS_CELLS, RECORDS, RecordKey},
    values::Era,
};
use crate::{
    disk::{Disk, DiskFile},
    types::Revision,
};

/// A file, and what reads and writes it.
pub(super) struct Opened {
    /// `None` while this is dropped.
    redb: Option<redb::Database>,
    path: Arc<Path>,
    /// To hint what is about to be read, and to know the file by.
    pub(super) file: Arc<dyn DiskFile>,
    held_back: Arc<HeldBack>,
}

impl Opened {
    /// Opens the file `name`. Errors call it `path`, which it is at or is going to be at.
    pub(super) fn at(
        disk: &dyn Disk,
        name: &Path,
        path: &Arc<Path>,
        cache_bytes: usize,
    ) -> Result<Opened, StorageError> {
        let _inside = Inside::of(path);
        let file: Arc<dyn DiskFile> = disk.open(name).map_err(io_error("open", path))?.into();
        let backend = FileBackend::new(file.clone());
        let held_back = backend.held_back();
        let redb = redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(backend);
        let redb = redb.map_err(|error| not_opened(error, path))?;
        Ok(Opened { redb: Some(redb), path: path.clone(), file, held_back })
    }

    pub(super) fn redb(&self) -> &redb::Database {
        self.redb.as_ref().expect("it is there until this is dropped")
    }

    /// Whether something that was committed is not in the file, because the disk is full.
    pub(super) fn holds_back(&self) -> bool {
        self.held_back.is_any()
    }

    /// Puts that into the file. False if the disk has no room for it.
    pub(super) fn settle(&self) -> Result<bool, StorageError> {
        self.held_back.settle(&*self.file).map_err(io_error("write", &self.path))
    }

    /// Length of the file, holes included.
    pub(super) fn file_bytes(&self, path: &Path) -> Result<u64, StorageError> {
        self.file.len().map_err(io_error("measure", path))
    }
}

impl Drop for Opened {
    /// Closing a database reads and writes its file too.
    fn drop(&mut self) {
        let _inside = Inside::of(&self.path);
        self.redb = None;
    }
}

type CellsTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// A snapshot of the file. It sees neither later commits nor later removals.
pub(crate) struct Reader {
    // In this order: the table and the transaction end before their database does.
    records: ReadOnlyTable<&'static RecordKey, &'static [u8]>,
    transaction: ReadTransaction,
    apart: ApartValues,
    path: Arc<Path>,
    opened: Arc<Opened>,
}

/// Where the values are that a snapshot of the file refers to. They stay for as long as this is held.
#[derive(Clone)]
struct ApartValues {
    values: Option<Arc<Values>>,
    _era: Option<Arc<Era>>,
}

impl ApartValues {
    fn of(values: Option<Arc<Values>>) -> ApartValues {
        ApartValues { _era: values.as_ref().map(|values| values.enter()), values }
    }

    fn load(&self, stored: StoredRecord, path: &Path) -> Result<Record, StorageError> {
        stored.load(|value, out| match &self.values {
            Some(values) => values.read(value, out),
            None => Err(corrupted(path, REFERS.to_owned())),
        })
    }
}

const REFERS: &str = "it refers to values in files of a log, and was opened without a log";

impl Reader {
    pub(super) fn of(
        opened: Arc<Opened>,
        path: Arc<Path>,
        values: Option<Arc<Values>>,
    ) -> Result<Reader, StorageError> {
        // First, so that nothing goes that the snapshot refers to.
        let apart = ApartValues::of(values);
        let _inside = Inside::of(&path);
        let transaction = opened.redb().begin_read()?;
        let records = transaction.open_table(RECORDS)?;
        Ok(Reader { records, transaction, apart, path, opened })
    }

    /// The record of a revision that is known to be stored.
    pub(crate) fn record(&self, revision: Revision) -> Result<Record, StorageError> {
        let key = tables::record_key(revision);
        let stored = {
            let _inside = Inside::of(&self.path);
            match self.records.get(&key)? {
                Some(stored) => {
                    unseal_record(&self.path, &key, |key| StoredRecord::unseal(key, stored.value()))?
                }
                None => return Err(corrupted(&self.path, missing(revision))),
            }
        };
        self.apart.load(stored, &self.path)
    }

    /// A record with its value.
    pub(super) fn load(&self, stored: StoredRecord) -> Result<Record, StorageError> {
        self.apart.load(stored, &self.path)
    }

    /// Tells the files of values what is referred to in them, once all records were looked at.
    pub(crate) fn occupies(&self, occupancy: Occupancy) -> Result<(), StorageError> {
        match &self.apart.values {
            Some(values) => values.occupied(occupancy),
            None if occupancy.files().next().is_none() => Ok(()),
            None => Err(self.corrupted(REFERS.to_owned())),
        }
    }

    /// How many records a scan of all of them must find.
    pub(crate) fn record_count(&self) -> Result<u64, StorageError> {
        let count = self.cell(Table::Meta, meta::RECORD_COUNT)?;
        let count = count.as_deref().and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        count.ok_or_else(|| self.corrupted("the count of its records is missing".to_owned()))
    }

    /// How many cells a walk through all tables must find; `None` in a file of a format that does not say it.
    pub(crate) fn cell_count(&self) -> Result<Option<u64>, StorageError> {
        let number = |name| {
            let cell = self.cell(Table::Meta, name)?;
            Ok::<_, StorageError>(
                cell.as_deref().and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes),
            )
        };
        match number(meta::CELL_COUNT)? {
            None if number(meta::FORMAT_VERSION)?.is_none_or(|version| version >= COUNTS_CELLS) => {
                Err(self.corrupted("the count of its cells is missing".to_owned()))
            }
            count => Ok(count),
        }
    }

    /// Reads every cell against its checksum, finds as many as were written, and each by its key too. Damage can hide a cell
    /// from whoever looks for it alone: in a page of entries, or on the way to it.
    pub(crate) fn check_cells(&self) -> Result<(), StorageError> {
        let _inside = Inside::of(&self.path);
        let mut found = 0;
        for table in Table::ALL {
            let by_key = self.open_table(table)?;
            for cell in self.cells(table)? {
                let (key, _) = cell?;
                if by_key.as_ref().map(|cells| cells.get(&*key)).transpose()?.flatten().is_none() {
                    let (table, key) = (table.name(), key.escape_ascii());
                    return Err(self.corrupted(format!("it has {table} \"{key}\" and does not find it")));
                }
                found += 1;
            }
        }
        self.compare_cells(found)
    }

    /// An error if other than `found` cells were written.
    pub(super) fn compare_cells(&self, found: u64) -> Result<(), StorageError> {
        match self.cell_count()? {
            Some(written) if written != found => {
                Err(self.corrupted(format!("it has {found} cells, and {written} were written")))
            }
            _ => Ok(()),
        }
    }

    /// All records from `from` on, in order.
    pub(crate) fn records(&self, from: Revision) -> Result<Records, StorageError> {
        Ok(Records { stored: self.stored_records(from)?, apart: self.apart.clone() })
    }

    /// As [`Reader::records`], without the values that lie apart.
    pub(crate) fn stored_records(&self, from: Revision) -> Result<StoredRecords, StorageError> {
        let _inside = Inside::of(&self.path);
        let range = self.records.range::<&RecordKey>(&tables::place(from)..)?;
        Ok(StoredRecords { range, path: Arc::clone(&self.path), _opened: Arc::clone(&self.opened) })
    }

    /// What the index keeps of all records, in order.
    pub(crate) fn stored_changes(&self) -> Result<StoredChanges, StorageError> {
        Ok(StoredChanges(self.stored_records(Revision::default())?))
    }

    pub(crate) fn cell(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let _inside = Inside::of(&self.path);
        let Some(cells) = self.open_table(table)? else { return Ok(None) };
        match cells.get(key)? {
            Some(stored) => Ok(Some(unseal_cell(&self.path, table, key, stored.value())?)),
            None => Ok(None),
        }
    }

    /// All cells of a table with their keys, in the order of the keys.
    pub(crate) fn cells(&self, table: Table) -> Result<Cells, StorageError> {
        let _inside = Inside::of(&self.path);
        let cells = self.open_table(table)?;
        let range = cells.map(|cells| cells.range::<&[u8]>(..)).transpose()?;
        Ok(Cells { range, table, path: Arc::clone(&self.path), _opened: Arc::clone(&self.opened) })
    }

    /// `None` for a table that is younger than the file: the first checkpoint with a cell of it makes it.
    fn open_table(&self, table: Table) -> Result<Option<CellsTable>, StorageError> {
        match self.transaction.open_table(table.definition()) {
            Ok(cells) => Ok(Some(cells)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn opened(&self) -> &Arc<Opened> {
        &self.opened
    }

    /// Length of the file, holes included.
    pub(super) fn file_bytes(&self) -> Result<u64, StorageError> {
        self.opened.file_bytes(&self.path)
    }

    /// Hints that part of the file will be read soon. Returns at once.
    pub(super) fn prefetch(&self, span: Range<u64>) {
        self.opened.file.prefetch(span);
    }

    /// An error that names this file.
    pub(crate) fn corrupted(&self, detail: String) -> StorageError {
        corrupted(&self.path, detail)
    }
}

/// See [`Reader::records`]. It keeps its snapshot alive by itself.
pub(crate) struct Records {
    stored: StoredRecords,
    apart: ApartValues,
}

/// See [`Reader::stored_records`]. It keeps its snapshot alive by itself.
pub(crate) struct StoredRecords {
    // In this order: the range ends before its database does, which may have been replaced meanwhile.
    range: redb::Range<'static, &'static RecordKey, &'static [u8]>,
    path: Arc<Path>,
    _opened: Arc<Opened>,
}

/// See [`Reader::stored_changes`]. It keeps its snapshot alive by itself.
pub(crate) struct StoredChanges(StoredRecords);

/// Where a record is, and what it says if it is not damaged.
type Placed<R> = (Revision, Result<R, StorageError>);

impl Records {
    /// The next record, and where it is even if it is damaged.
    pub(super) fn next_with_place(&mut self) -> Option<Result<Placed<Record>, StorageError>> {
        let item = self.stored.next_with_place()?;
        Some(item.map(|(revision, stored)| {
            (revision, stored.and_then(|stored| self.apart.load(stored, &self.stored.path)))
        }))
    }
}

impl StoredRecords {
    fn next_with_place(&mut self) -> Option<Result<Placed<StoredRecord>, StorageError>> {
        self.next_unsealed(StoredRecord::unseal)
    }

    /// `unseal` has nothing to return for a record that is not what was written.
    fn next_unsealed<T>(
        &mut self,
        unseal: impl FnOnce(&RecordKey, &[u8]) -> Option<T>,
    ) -> Option<Result<Placed<T>, StorageError>> {
        let _inside = Inside::of(&self.path);
        let item = self.range.next()?;
        Some(item.map_err(StorageError::from).map(|(key, stored)| {
            let key = key.value();
            (tables::revision(key), unseal_record(&self.path, key, |key| unseal(key, stored.value())))
        }))
    }
}

impl Iterator for StoredChanges {
    type Item = Result<(Revision, StoredChange), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.0.next_unsealed(StoredChange::unseal)?;
        Some(item.and_then(|(revision, change)| Ok((revision, change?))))
    }
}

impl Iterator for Records {
    type Item = Result<(Revision, Record), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.next_with_place()?;
        Some(item.and_then(|(revision, record)| Ok((revision, record?))))
    }
}

impl Iterator for StoredRecords {
    type Item = Result<(Revision, StoredRecord), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.next_with_place()?;
        Some(item.and_then(|(revision, stored)| Ok((revision, stored?))))
    }
}

/// See [`Reader::cells`]. It keeps its snapshot alive by itself.
pub(crate) struct Cells {
    // In this order, as in `Records`.
    range: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
    table: Table,
    path: Arc<Path>,
    _opened: Arc<Opened>,
}

impl Iterator for Cells {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let _inside = Inside::of(&self.path);
        let item = self.range.as_mut()?.next()?;
        Some(item.map_err(StorageError::from).and_then(|(key, stored)| {
            let bytes = unseal_cell(&self.path, self.table, key.value(), stored.value())?;
            Ok((Bytes::copy_from_slice(key.value()), bytes))
        }))
    }
}

fn unseal_record<T>(
    path: &Path,
    key: &RecordKey,
    unseal: impl FnOnce(&RecordKey) -> Option<T>,
) -> Result<T, StorageError> {
    let revision = tables::revision(key);
    if !tables::is_of_a_change(revision) {
        return Err(corrupted(
            path,
            format!("it has a record at revision {revision}, which no change can have"),
        ));
    }
    unseal(key).ok_or_else(|| corrupted(path, format!("the checksum of revision {revision} does not match")))
}

fn unseal_cell(path: &Path, table: Table, key: &[u8], stored: &[u8]) -> Result<Bytes, StorageError> {
    tables::unseal(key, stored).map(Bytes::copy_from_slice).ok_or_else(|| {
        let (table, key) = (table.name(), key.escape_ascii());
        corrupted(path, format!("the checksum of {table} \"{key}\" does not match"))
    })
}

pub(super) fn missing(revision: Revision) -> String {
    format!("revision {revision} is missing")
}
