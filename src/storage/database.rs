//! One redb file, and the three things done with it.
//!
//! Anybody may open a [`Reader`]: a snapshot that stays as it is for as long as it is held. One
//! thread, the checkpointer, commits [`Checkpoint`]s and defragments; each commit is one durable
//! transaction, so the file always is what some checkpoint made it.
//!
//! Defragmenting writes a new file beside the old one and renames it into place. Readers of the
//! old file finish on it; a crash at any step leaves one file or the other.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::{
    storage::{
        Record, StorageError, Table, meta,
        tables::{self, FORMAT_VERSION, RECORDS, RecordKey},
    },
    types::Revision,
};

const REMEDY: &str = "restore a snapshot, or remove the member and add it again with an empty data directory";

/// Everything that changed since the checkpoint before, from all owners of state.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    /// In order, and newer than all that is stored.
    pub(crate) records: Vec<(Revision, Record)>,
    /// Stored before, or among `records`.
    pub(crate) removed: Vec<Revision>,
    /// Table, key, and the new bytes or `None` to remove the cell.
    pub(crate) cells: Vec<(Table, Bytes, Option<Bytes>)>,
}

pub(crate) struct Database {
    path: Arc<Path>,
    cache_bytes: usize,
    /// Replaced when the file is.
    redb: RwLock<Arc<redb::Database>>,
    /// Held while the file is written or replaced, never while it is read.
    writing: Mutex<()>,
}

impl Database {
    /// Opens the file, or creates it.
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Database, StorageError> {
        // What a creation or a defragmentation that was cut short left behind.
        remove_if_present(&unfinished_path(path))?;
        let is_new = !path.exists();
        let redb = if is_new { create(path, cache_bytes)? } else { open_redb(path, cache_bytes)? };
        let database = Database {
            path: path.into(),
            cache_bytes,
            redb: RwLock::new(Arc::new(redb)),
            writing: Mutex::new(()),
        };
        if !is_new {
            database.check_format()?;
        }
        Ok(database)
    }

    /// A snapshot of what the last commit left.
    pub(crate) fn reader(&self) -> Result<Reader, StorageError> {
        let redb = Arc::clone(&self.redb.read());
        let transaction = redb.begin_read()?;
        let records = transaction.open_table(RECORDS)?;
        Ok(Reader { records, transaction, path: Arc::clone(&self.path), _redb: redb })
    }

    /// Makes a checkpoint durable, all of it or nothing. Returns the footprint of the records
    /// that it removed. After an error the file is as it was, and this process must not go on.
    pub(crate) fn commit(&self, checkpoint: &Checkpoint) -> Result<u64, StorageError> {
        let _writing = self.writing.lock();
        let redb = Arc::clone(&self.redb.read());
        let transaction = begin_write(&redb)?;
        let mut stored = Vec::new();
        let mut removed_bytes = 0;
        {
            let mut records = transaction.open_table(RECORDS)?;
            for (revision, record) in &checkpoint.records {
                let key = tables::record_key(*revision);
                tables::seal_record(&key, record.is_tombstone(), record.bytes(), &mut stored);
                records.insert(&key, stored.as_slice())?;
            }
            for revision in &checkpoint.removed {
                let removed = records.remove(&tables::record_key(*revision))?;
                let removed = removed.ok_or_else(|| self.corrupted(missing(*revision)))?;
                removed_bytes += tables::stored_footprint(removed.value().len());
            }
        }
        for (table, key, bytes) in &checkpoint.cells {
            put_cell(&transaction, *table, key, bytes.as_deref(), &mut stored)?;
        }
        transaction.commit()?;
        Ok(removed_bytes)
    }

    /// Rewrites the file without the holes that removals left in it.
    pub(crate) fn defragment(&self) -> Result<(), StorageError> {
        let _writing = self.writing.lock();
        let reader = self.reader()?;
        let copy = write_file(&self.path, self.cache_bytes, |transaction| copy_all(&reader, transaction))?;
        *self.redb.write() = Arc::new(copy);
        Ok(())
    }

    /// Writes what the last commit left to a file of its own, which can be put in this one's place.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), StorageError> {
        let reader = self.reader()?;
        write_file(path, self.cache_bytes, |transaction| copy_all(&reader, transaction))?;
        Ok(())
    }

    /// A hash of every record and every cell but those of the meta table, which differ between
    /// members that agree.
    pub(crate) fn hash(&self) -> Result<u32, StorageError> {
        let reader = self.reader()?;
        let mut hash = 0;
        for item in reader.records(Revision::default())? {
            let (revision, record) = item?;
            hash = crc32c::crc32c_append(hash, &tables::record_key(revision));
            hash = crc32c::crc32c_append(hash, record.bytes());
        }
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Meta) {
            for item in reader.cells(table)? {
                let (key, bytes) = item?;
                hash = crc32c::crc32c_append(hash, &key);
                hash = crc32c::crc32c_append(hash, &bytes);
            }
        }
        Ok(hash)
    }

    /// Length of the file, holes included.
    pub(crate) fn file_bytes(&self) -> Result<u64, StorageError> {
        fs::metadata(&self.path).map(|metadata| metadata.len()).map_err(io_error("measure", &self.path))
    }

    /// Checks the records from `from` on, `max_records` of them at most. Returns where to go on,
    /// or `None` at the end.
    pub(crate) fn verify_stride(
        &self,
        from: Revision,
        max_records: usize,
    ) -> Result<Option<Revision>, StorageError> {
        let mut records = self.reader()?.records(from)?;
        for record in records.by_ref().take(max_records) {
            record?;
        }
        Ok(records.next().transpose()?.map(|(revision, _)| revision))
    }

    /// An error that names this file.
    pub(crate) fn corrupted(&self, detail: String) -> StorageError {
        corrupted(&self.path, detail)
    }

    fn check_format(&self) -> Result<(), StorageError> {
        let foreign = |detail: String| StorageError::Foreign { path: self.path.to_path_buf(), detail };
        let reader = match self.reader() {
            Err(StorageError::Redb(error)) if matches!(*error, redb::Error::TableDoesNotExist(_)) => {
                return Err(foreign("it is a database of something else".to_owned()));
            }
            reader => reader?,
        };
        let version = reader.cell(Table::Meta, meta::FORMAT_VERSION)?;
        match version.as_deref().and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))) {
            Some(FORMAT_VERSION) => Ok(()),
            Some(other) => Err(foreign(format!(
                "it has format {other} and this version reads format {FORMAT_VERSION}; run the version that wrote it"
            ))),
            None => Err(foreign("it does not say what format it has".to_owned())),
        }
    }
}

/// A snapshot of the file. It sees neither later commits nor later removals.
pub(crate) struct Reader {
    // In this order: the table and the transaction end before their database does.
    records: ReadOnlyTable<&'static RecordKey, &'static [u8]>,
    transaction: ReadTransaction,
    path: Arc<Path>,
    _redb: Arc<redb::Database>,
}

impl Reader {
    /// The record of a revision that is known to be stored.
    pub(crate) fn record(&self, revision: Revision) -> Result<Record, StorageError> {
        let key = tables::record_key(revision);
        match self.records.get(&key)? {
            Some(stored) => unseal_record(&self.path, &key, stored.value()),
            None => Err(corrupted(&self.path, missing(revision))),
        }
    }

    /// All records from `from` on, in order.
    pub(crate) fn records(&self, from: Revision) -> Result<Records, StorageError> {
        let range = self.records.range::<&RecordKey>(&tables::record_key(from)..)?;
        Ok(Records { range, path: Arc::clone(&self.path) })
    }

    pub(crate) fn cell(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.transaction.open_table(table.definition())?.get(key)? {
            Some(stored) => Ok(Some(unseal_cell(&self.path, table, key, stored.value())?)),
            None => Ok(None),
        }
    }

    /// All cells of a table with their keys, in the order of the keys.
    pub(crate) fn cells(&self, table: Table) -> Result<Cells, StorageError> {
        let range = self.transaction.open_table(table.definition())?.range::<&[u8]>(..)?;
        Ok(Cells { range, table, path: Arc::clone(&self.path) })
    }

    /// An error that names this file.
    pub(crate) fn corrupted(&self, detail: String) -> StorageError {
        corrupted(&self.path, detail)
    }
}

/// See [`Reader::records`]. It keeps its snapshot alive by itself.
pub(crate) struct Records {
    range: redb::Range<'static, &'static RecordKey, &'static [u8]>,
    path: Arc<Path>,
}

impl Iterator for Records {
    type Item = Result<(Revision, Record), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.range.next()?;
        Some(item.map_err(StorageError::from).and_then(|(key, stored)| {
            let key = key.value();
            Ok((tables::revision(key), unseal_record(&self.path, key, stored.value())?))
        }))
    }
}

/// See [`Reader::cells`]. It keeps its snapshot alive by itself.
pub(crate) struct Cells {
    range: redb::Range<'static, &'static [u8], &'static [u8]>,
    table: Table,
    path: Arc<Path>,
}

impl Iterator for Cells {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.range.next()?;
        Some(item.map_err(StorageError::from).and_then(|(key, stored)| {
            let bytes = unseal_cell(&self.path, self.table, key.value(), stored.value())?;
            Ok((Bytes::copy_from_slice(key.value()), bytes))
        }))
    }
}

fn create(path: &Path, cache_bytes: usize) -> Result<redb::Database, StorageError> {
    write_file(path, cache_bytes, |transaction| {
        transaction.open_table(RECORDS)?;
        for table in Table::ALL {
            transaction.open_table(table.definition())?;
        }
        let version = FORMAT_VERSION.to_be_bytes();
        put_cell(transaction, Table::Meta, meta::FORMAT_VERSION, Some(&version), &mut Vec::new())
    })
}

/// Copies every table. Checksums are checked on the way, so that damage is found now and not
/// passed on.
fn copy_all(reader: &Reader, transaction: &WriteTransaction) -> Result<(), StorageError> {
    let mut stored = Vec::new();
    {
        let mut records = transaction.open_table(RECORDS)?;
        for item in reader.records(Revision::default())? {
            let (revision, record) = item?;
            let key = tables::record_key(revision);
            tables::seal_record(&key, record.is_tombstone(), record.bytes(), &mut stored);
            records.insert(&key, stored.as_slice())?;
        }
    }
    for table in Table::ALL {
        transaction.open_table(table.definition())?;
        for item in reader.cells(table)? {
            let (key, bytes) = item?;
            put_cell(transaction, table, &key, Some(&bytes), &mut stored)?;
        }
    }
    Ok(())
}

/// Puts a new file at `path` in one step: it is written and made durable beside it, then renamed.
fn write_file(
    path: &Path,
    cache_bytes: usize,
    fill: impl FnOnce(&WriteTransaction) -> Result<(), StorageError>,
) -> Result<redb::Database, StorageError> {
    let unfinished = unfinished_path(path);
    remove_if_present(&unfinished)?;
    let redb = open_redb(&unfinished, cache_bytes)?;
    let transaction = begin_write(&redb)?;
    fill(&transaction)?;
    transaction.commit()?;
    fs::rename(&unfinished, path).map_err(io_error("rename", &unfinished))?;
    sync_directory(path)?;
    Ok(redb)
}

fn unfinished_path(path: &Path) -> PathBuf {
    path.with_added_extension("unfinished")
}

fn open_redb(path: &Path, cache_bytes: usize) -> Result<redb::Database, StorageError> {
    use redb::{DatabaseError, StorageError as RedbError};

    let foreign = |detail: String| StorageError::Foreign { path: path.to_path_buf(), detail };
    redb::Builder::new().set_cache_size(cache_bytes).create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => foreign("another process has it open".to_owned()),
        DatabaseError::UpgradeRequired(version) => {
            foreign(format!("it has redb's file format {version}, which this version does not read"))
        }
        DatabaseError::Storage(RedbError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            foreign(error.to_string())
        }
        DatabaseError::Storage(RedbError::Io(source)) => io_error("open", path)(source),
        DatabaseError::Storage(RedbError::Corrupted(detail)) => {
            corrupted(path, format!("{detail}; {REMEDY}"))
        }
        other => other.into(),
    })
}

/// Every commit saves what is needed to open the file at once after a crash, instead of after a
/// walk through all of it.
fn begin_write(redb: &redb::Database) -> Result<WriteTransaction, StorageError> {
    let mut transaction = redb.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

fn put_cell(
    transaction: &WriteTransaction,
    table: Table,
    key: &[u8],
    bytes: Option<&[u8]>,
    stored: &mut Vec<u8>,
) -> Result<(), StorageError> {
    let mut cells = transaction.open_table(table.definition())?;
    match bytes {
        Some(bytes) => {
            tables::seal_cell(key, bytes, stored);
            cells.insert(key, stored.as_slice())?;
        }
        None => {
            cells.remove(key)?;
        }
    }
    Ok(())
}

fn unseal_record(path: &Path, key: &RecordKey, stored: &[u8]) -> Result<Record, StorageError> {
    tables::unseal_record(key, stored)
        .and_then(|(tombstone, bytes)| Record::decode(tombstone, Bytes::copy_from_slice(bytes)))
        .ok_or_else(|| {
            corrupted(path, format!("the checksum of revision {} does not hold", tables::revision(key)))
        })
}

fn unseal_cell(path: &Path, table: Table, key: &[u8], stored: &[u8]) -> Result<Bytes, StorageError> {
    tables::unseal(key, stored).map(Bytes::copy_from_slice).ok_or_else(|| {
        let (table, key) = (table.name(), key.escape_ascii());
        corrupted(path, format!("the checksum of {table} \"{key}\" does not hold"))
    })
}

fn corrupted(path: &Path, detail: String) -> StorageError {
    StorageError::Corrupted { path: path.to_path_buf(), detail }
}

fn missing(revision: Revision) -> String {
    format!("revision {revision} is not there")
}

fn remove_if_present(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a renaming in the file's directory durable.
fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let synced = fs::File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(io_error("sync", directory))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    move |source| StorageError::Io { action, path: path.to_path_buf(), source }
}
