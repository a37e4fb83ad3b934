//! A database that is written whole and then put where it belongs.
//!
//! Whatever breaks off leaves nothing at the path: the file is written beside it, made durable
//! once, at the end, and renamed. If there is a file of that name already,
//! [`Place`](super::place::Place) renames the new one.
//!
//! Until then the file need not survive a crash, so nothing waits for the disk; but the kernel is
//! asked to write each stretch as soon as it was added. Writing all of the file at the end, or
//! syncing it every few moments, would delay the syncs of the log on the same disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use redb::StorageBackend;

use crate::{
    disk::{Disk, DiskFile},
    limits,
    storage::{
        StorageError, StoredRecord, Table,
        checkpoint::{Checkpoint, begin_write, create_tables, put_cell_count, put_cells, put_records},
        error::{io_error, not_opened},
        inside::Inside,
        meta,
        tables::FORMAT_VERSION,
        unwritten::Unwritten,
    },
};

/// See the module.
pub(crate) struct Draft {
    name: PathBuf,
    /// What was added and is not in the file yet, and its bytes.
    pending: Option<(redb::WriteTransaction, usize)>,
    redb: redb::Database,
    /// The path that the file has until it is given its name.
    path: Arc<Path>,
    file: Arc<dyn DiskFile>,
    // The last to go.
    unfinished: Unfinished,
}

impl Draft {
    /// Begins a file that will have the name `name`. The unfinished file of an earlier attempt is
    /// removed.
    pub(crate) fn begin(disk: &Arc<dyn Disk>, name: &Path) -> Result<Draft, StorageError> {
        sweep(&**disk, name)?;
        let unfinished = Unfinished { disk: disk.clone(), name: unfinished_name(name) };
        let path: Arc<Path> = unfinished.path().into();
        let _inside = Inside::of(&path);
        let file = disk.create(&unfinished.name).map_err(io_error("create", &path))?;
        let file: Arc<dyn DiskFile> = file.into();
        let redb = redb::Builder::new()
            .set_cache_size(limits::DRAFT_CACHE_BYTES)
            .create_with_backend(SteadyFile::new(file.clone()));
        let redb = redb.map_err(|error| not_opened(error, &path))?;
        let transaction = begin_write(&redb)?;
        create_tables(&transaction)?;
        transaction.commit()?;
        Ok(Draft { name: name.to_owned(), pending: None, redb, path, file, unfinished })
    }

    /// Adds a stretch: records that are newer than all before them, and cells. Nothing is removed
    /// from a draft.
    pub(crate) fn add(&mut self, stretch: &Checkpoint) -> Result<(), StorageError> {
        let records =
            stretch.records.iter().map(|(revision, record)| (*revision, StoredRecord::whole(record)));
        let records = records.collect();
        self.copy(Checkpoint { records, removed: Vec::new(), cells: stretch.cells.clone() })
    }

    /// As [`Draft::add`], for records as another database has them.
    pub(super) fn copy(&mut self, stretch: Checkpoint<StoredRecord>) -> Result<(), StorageError> {
        assert!(stretch.removed.is_empty(), "a draft has only what was added to it: nothing is removed");
        let _inside = Inside::of(&self.path);
        let (transaction, bytes) = match self.pending.take() {
            Some(pending) => pending,
            None => (self.redb.begin_write()?, 0),
        };
        let bytes = bytes + stretch.bytes();
        put_records(&transaction, stretch.records)?;
        put_cells(&transaction, &stretch.cells)?;
        // A transaction writes pages that all of them need, so it takes several small stretches. Pages that are in the
        // file before their transaction ends are written a second time at its end, so all of it fits into the cache.
        if bytes >= limits::DRAFT_TRANSACTION_BYTES {
            transaction.commit()?;
        } else {
            self.pending = Some((transaction, bytes));
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StorageError> {
        let _inside = Inside::of(&self.path);
        Ok(self.pending.take().map_or(Ok(()), |(transaction, _)| transaction.commit())?)
    }

    /// Adds what every database says of itself. To be called once, with the number of records that were added, for a
    /// database that is not a copy of another one.
    pub(crate) fn add_numbers(&mut self, records: u64) -> Result<(), StorageError> {
        let number = |key: &'static [u8], number: u64| {
            (Table::Meta, Bytes::from_static(key), Some(Bytes::copy_from_slice(&number.to_be_bytes())))
        };
        let cells = vec![number(meta::RECORD_COUNT, records), number(meta::FORMAT_VERSION, FORMAT_VERSION)];
        self.add(&Checkpoint { cells, ..Checkpoint::default() })
    }

    /// Waits until what was added is on the disk.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        self.commit()?;
        self.file.sync_data().map_err(io_error("sync", &self.unfinished.path()))
    }

    /// Gives the file its name. The file is durable and complete; its name is durable once the caller has
    /// synced the directory.
    pub(crate) fn finish(self) -> Result<(), StorageError> {
        let name = self.name.clone();
        let Unfinished { disk, name: from } = &self.complete()?.unfinished;
        disk.rename(from, &name).map_err(io_error("rename", &disk.path().join(from)))
    }

    /// Makes the file durable. It does not have its name yet.
    pub(super) fn complete(mut self) -> Result<Complete, StorageError> {
        self.commit()?;
        let Draft { name: _, pending: _, redb, path, file, unfinished } = self;
        let _inside = Inside::of(&path);
        let transaction = begin_write(&redb)?;
        put_cell_count(&transaction)?;
        transaction.commit()?;
        drop(redb);
        file.sync_all().map_err(io_error("sync", &unfinished.path()))?;
        Ok(Complete { file, unfinished })
    }
}

/// A file that has everything but its name. It is removed unless it is given its name.
pub(super) struct Complete {
    file: Arc<dyn DiskFile>,
    unfinished: Unfinished,
}

impl Complete {
    /// The name that the file has until then.
    pub(super) fn name(&self) -> &Path {
        &self.unfinished.name
    }

    pub(super) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }
}

/// A file that is removed when this is dropped, unless it was renamed before.
struct Unfinished {
    disk: Arc<dyn Disk>,
    name: PathBuf,
}

impl Unfinished {
    fn path(&self) -> PathBuf {
        self.disk.path().join(&self.name)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = self.disk.remove(&self.name);
    }
}

fn unfinished_name(name: &Path) -> PathBuf {
    name.with_added_extension("unfinished")
}

/// Removes what a crash left of a draft for `name`.
pub(super) fn sweep(disk: &dyn Disk, name: &Path) -> Result<(), StorageError> {
    let name = unfinished_name(name);
    match disk.remove(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", &disk.path().join(&name))(error))
        }
        _ => Ok(()),
    }
}

/// A file whose syncs do not wait for the disk, but have the kernel begin to write what is new.
#[derive(Debug)]
struct SteadyFile {
    file: Arc<dyn DiskFile>,
    unwritten: Unwritten,
}

impl SteadyFile {
    fn new(file: Arc<dyn DiskFile>) -> SteadyFile {
        SteadyFile { file, unwritten: Unwritten::default() }
    }

    /// Only what is written is named to the kernel, because the other pages of the file should stay in memory: all of the
    /// file is read when it is opened.
    fn write_out(&self) -> io::Result<()> {
        self.unwritten.write_out(|start, run| {
            self.file.write_at(run, start)?;
            self.file.start_writing(start..start + run.len() as u64);
            Ok(())
        })
    }
}

impl StorageBackend for SteadyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.unwritten.read(offset, out, |offset, out| self.file.read_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write_out()?;
        self.file.set_len(len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        while !self.unwritten.add(offset, data) {
            self.write_out()?;
        }
        if self.unwritten.bytes() > limits::UNWRITTEN_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.write_out()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        disk::Directory,
        storage::{Database, Record},
        types::{KeyValue, Rev, Revision},
    };

    fn record(main: i64) -> (Revision, Record) {
        let kv = KeyValue {
            key: "k".into(),
            value: vec![main as u8; 3000].into(),
            mod_rev: Rev(main),
            version: 1,
            ..KeyValue::default()
        };
        (Revision::new(main, 0), Record::put(&kv))
    }

    fn disk(directory: &tempfile::TempDir) -> Arc<dyn Disk> {
        Arc::new(Directory::open(directory.path()).expect("a directory"))
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory");
        entries.map(|entry| entry.expect("a file").file_name().into_string().expect("a name")).collect()
    }

    #[test]
    fn a_finished_draft_has_all_that_was_added_and_is_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db");
        let mut draft = Draft::begin(&disk(&directory), Path::new("db")).expect("a draft");
        for stretch in 0..40 {
            let records = (0..50).map(|at| record(2 + stretch * 50 + at)).collect();
            draft.add(&Checkpoint { records, ..Checkpoint::default() }).expect("there is room");
            assert_eq!(names(directory.path()), ["db.unfinished"]);
        }
        draft.add_numbers(2000).expect("there is room");
        draft.finish().expect("there is room");
        assert_eq!(names(directory.path()), ["db"]);

        let reader = Database::at(&path, 1 << 20).expect("a database").reader().expect("a reader");
        let found: Vec<_> =
            reader.records(Revision::default()).expect("records").map(Result::unwrap).collect();
        assert!(found.into_iter().eq((2..2002).map(record)));
        assert_eq!(reader.record_count().expect("a count"), 2000);
    }

    #[test]
    fn an_abandoned_draft_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db");
        fs::write(path.with_added_extension("unfinished"), "of an earlier attempt").expect("a file");
        let mut draft = Draft::begin(&disk(&directory), Path::new("db")).expect("a draft");
        draft.add(&Checkpoint { records: vec![record(2)], ..Checkpoint::default() }).expect("there is room");
        drop(draft);
        assert!(names(directory.path()).is_empty());
    }
}
