//! One redb file, and the three things done with it.
//!
//! Anybody may open a [`Reader`]: a snapshot that stays as it is for as long as it is held. One
//! thread, the checkpointer, commits [`Checkpoint`]s and defragments; each commit is one durable
//! transaction, so the file always is what some checkpoint made it.
//!
//! Defragmenting writes a new file beside the old one, opens it, and gives it the old one's name
//! ([`Place`]). Readers of the old file finish on it; a crash at any step leaves one file or the
//! other. After a swap that failed half way the database refuses every write.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::{
    disk::Disk,
    storage::{
        StorageError, StoredRecord, Table, Values,
        checkpoint::{
            Checkpoint, begin_write, put_cell_count, put_cells, put_record_count, put_records, remove_records,
        },
        draft::{self, Complete, Draft},
        error::{corrupted, io_error},
        inside::Inside,
        meta,
        place::{Place, SwapError},
        reader::{Opened, Reader, missing},
        tables::{self, FORMAT_VERSION},
    },
    types::Revision,
};

pub(crate) struct Database {
    place: Place,
    /// Large values that are not in the file; `None` where there is no log that has them.
    values: Option<Arc<Values>>,
    cache_bytes: usize,
    /// Replaced when the file is.
    opened: RwLock<Arc<Opened>>,
    /// Held while the file is written or replaced, never while it is read.
    writing: Mutex<Writing>,
}

/// Whether the file may be written to.
#[derive(Debug, Default)]
pub(super) struct Writing {
    /// Why not: a swap that may or may not have happened.
    unsettled: Option<String>,
}

impl Database {
    /// Opens the file `name`, or creates it. It refers to no values outside, and never will.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        name: &Path,
        cache_bytes: usize,
    ) -> Result<Database, StorageError> {
        Database::open_with(disk, name, cache_bytes, None)
    }

    /// Opens the file `name`, or creates it. Large values may be in `values` instead.
    pub(crate) fn open_with(
        disk: Arc<dyn Disk>,
        name: &Path,
        cache_bytes: usize,
        values: Option<Arc<Values>>,
    ) -> Result<Database, StorageError> {
        let place = Place::of(disk, name);
        let _inside = Inside::of(&place.path);
        // A creation or a defragmentation that a crash interrupted may have left a file.
        draft::sweep(&*place.disk, name)?;
        let names = place.disk.list().map_err(io_error("list", place.disk.path()))?;
        let is_new = !names.iter().any(|found| *found == *name);
        if is_new {
            let empty = empty(&place.disk, name)?;
            place.give_to(empty).map_err(|error| error.about(&place.path))?;
        }
        let opened = Opened::at(&*place.disk, name, &place.path, cache_bytes)?;
        let database = Database {
            place,
            values,
            cache_bytes,
            opened: RwLock::new(Arc::new(opened)),
            writing: Mutex::default(),
        };
        if !is_new {
            database.check_format()?;
        }
        Ok(database)
    }

    /// A snapshot of what the last commit left.
    pub(crate) fn reader(&self) -> Result<Reader, StorageError> {
        let opened = Arc::clone(&self.opened.read());
        Reader::of(opened, Arc::clone(&self.place.path), self.values.clone())
    }

    /// The files of the values that lie apart.
    pub(crate) fn values(&self) -> Option<&Arc<Values>> {
        self.values.as_ref()
    }

    /// Makes a checkpoint durable, all of it or nothing. Returns the footprint of the records
    /// that it removed. After an error the file is as it was, and this process has to stop.
    pub(crate) fn commit(&self, checkpoint: &Checkpoint) -> Result<u64, StorageError> {
        let removed_bytes = self.commit_or_hold_back(checkpoint)?;
        if self.settle()? { Ok(removed_bytes) } else { Err(self.no_space()) }
    }

    /// As [`Database::commit`], but a checkpoint that the disk has no room for is held back in memory,
    /// where readers find it. It is not durable before [`Database::settle`] says so.
    pub(crate) fn commit_or_hold_back(&self, checkpoint: &Checkpoint) -> Result<u64, StorageError> {
        let is_sorted = checkpoint.records.is_sorted_by(|(one, _), (next, _)| one < next);
        assert!(is_sorted, "the records of a checkpoint are in the order of their revisions");
        assert!(checkpoint.removed.is_sorted_by(|one, next| one < next), "removals are in order, each once");
        let _writing = self.begin_writing()?;
        let opened = Arc::clone(&self.opened.read());
        if !opened.settle()? {
            return Err(self.no_space());
        }
        assert!(!opened.holds_back(), "a checkpoint begins in a file that holds all before it");
        let _inside = Inside::of(&self.place.path);
        let transaction = begin_write(opened.redb())?;
        let mut added = Vec::new();
        let records = checkpoint.records.iter().map(|(revision, record)| {
            let stored = match &self.values {
                Some(_) => StoredRecord::without_value(record),
                None => StoredRecord::whole(record),
            };
            added.extend(stored.place().map(|place| (revision.main, place)));
            (*revision, stored)
        });
        put_records(&transaction, records)?;
        let freed = remove_records(&transaction, &checkpoint.removed)?
            .map_err(|revision| self.corrupted(missing(revision)))?;
        put_record_count(&transaction)?;
        put_cells(&transaction, &[format_cell()])?;
        put_cells(&transaction, &checkpoint.cells)?;
        put_cell_count(&transaction)?;
        transaction.commit()?;
        if let Some(values) = &self.values {
            values.committed(&added, &freed.values);
        }
        Ok(freed.bytes)
    }

    /// Whether a checkpoint is held back.
    pub(crate) fn holds_back(&self) -> bool {
        self.opened.read().holds_back()
    }

    /// Makes a checkpoint durable that was held back. False if the disk still has no room for it.
    pub(crate) fn settle(&self) -> Result<bool, StorageError> {
        let _writing = self.begin_writing()?;
        let opened = Arc::clone(&self.opened.read());
        opened.settle()
    }

    /// For a thread that is about to use redb.
    pub(super) fn inside(&self) -> Inside {
        Inside::of(&self.place.path)
    }

    pub(super) fn no_space(&self) -> StorageError {
        StorageError::NoSpace { what: "a checkpoint", path: self.place.path.to_path_buf() }
    }

    /// The file that `complete` makes takes this one's place; it is given a snapshot of this one, to which
    /// nothing is committed meanwhile. After an error the file is as it was and goes on being used,
    /// unless the error is [`StorageError::Unsettled`]: then this process has to stop.
    pub(super) fn replace_by(
        &self,
        complete: impl FnOnce(Reader) -> Result<Complete, StorageError>,
    ) -> Result<(), StorageError> {
        let mut writing = self.begin_writing()?;
        let complete = complete(self.reader()?)?;
        let disk = &*self.place.disk;
        let next = Opened::at(disk, complete.name(), &self.place.path, self.cache_bytes)?;
        self.note_swap(&mut writing, self.place.give_to(complete))?;
        self.go_on_in(Arc::new(next));
        Ok(())
    }

    /// Opens the file at `path`, or creates it.
    #[cfg(test)]
    pub(crate) fn at(path: &Path, cache_bytes: usize) -> Result<Database, StorageError> {
        let (directory, name) = (path.parent().expect("a directory"), path.file_name().expect("a name"));
        let directory = crate::disk::Directory::open(directory).map_err(io_error("open", directory))?;
        Database::open(Arc::new(directory), Path::new(name), cache_bytes)
    }

    /// Writes what the last commit left to the file `name` beside this one.
    #[cfg(test)]
    pub(crate) fn copy_to(&self, name: &Path) -> Result<(), StorageError> {
        let mut draft = Draft::begin(&self.place.disk, name)?;
        for stretch in self.reader()?.into_stretches()? {
            draft.add(&stretch?)?;
        }
        draft.finish()
    }

    /// Puts the file of `image`, which is durable and in the same directory, in the place of this
    /// one; `image` is not to be written to any more. Returns a snapshot of it. A crash leaves one
    /// or the other; readers of the old file finish on it. After an error this process has to stop;
    /// until it has stopped, a write goes to the old file, and is refused if that may have lost its name.
    pub(crate) fn replace_with(&self, image: &Database) -> Result<Reader, StorageError> {
        let mut writing = self.begin_writing()?;
        let next = Arc::clone(&image.opened.read());
        // All that can fail comes first.
        let reader = Reader::of(Arc::clone(&next), Arc::clone(&self.place.path), self.values.clone())?;
        assert_eq!(self.dir(), image.dir(), "one sync of the directory makes the rename durable");
        assert!(image.values.is_none(), "a file that was received has all of its values");
        self.note_swap(&mut writing, self.place.give_to_file(&image.place.name, &*next.file))?;
        self.go_on_in(next);
        if let Some(values) = &self.values {
            values.forget_all();
        }
        Ok(reader)
    }

    /// A file that is written whole, to take this one's place.
    pub(super) fn draft(&self) -> Result<Draft, StorageError> {
        Draft::begin(&self.place.disk, &self.place.name)
    }

    pub(super) fn opened(&self) -> Arc<Opened> {
        Arc::clone(&self.opened.read())
    }

    /// The file may be written to for as long as this is held.
    pub(super) fn begin_writing(&self) -> Result<MutexGuard<'_, Writing>, StorageError> {
        let writing = self.writing.lock();
        match &writing.unsettled {
            None => Ok(writing),
            Some(detail) => {
                Err(StorageError::Unsettled { path: self.place.path.to_path_buf(), detail: detail.clone() })
            }
        }
    }

    /// Takes note of how a swap ended.
    fn note_swap(&self, writing: &mut Writing, swapped: Result<(), SwapError>) -> Result<(), StorageError> {
        if let Err(SwapError::Unsettled(error)) = &swapped {
            writing.unsettled = Some(error.to_string());
        }
        swapped.map_err(|error| error.about(&self.place.path))
    }

    /// From now on the file is `next`, which has the name.
    fn go_on_in(&self, next: Arc<Opened>) {
        assert!(!Arc::ptr_eq(&self.opened.read(), &next), "a file is replaced by another one");
        let replaced = std::mem::replace(&mut *self.opened.write(), next);
        // Nobody waits for what closing a file takes.
        drop(replaced);
    }

    /// The directory that the file is in.
    pub(crate) fn dir(&self) -> &Path {
        self.place.disk.path()
    }

    /// The disk that the file is on, for files beside it.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.place.disk
    }

    /// A hash of every record and every cell but those of the meta table, which differ between
    /// members that agree.
    /// `None` if the caller no longer wants the result.
    pub(crate) fn hash(&self, is_wanted: &dyn Fn() -> bool) -> Result<Option<u32>, StorageError> {
        let reader = self.reader()?;
        let mut hash = 0;
        for item in reader.records(Revision::default())? {
            if !is_wanted() {
                return Ok(None);
            }
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
        Ok(Some(hash))
    }

    /// Length of the file, holes included.
    #[cfg(test)]
    pub(crate) fn file_bytes(&self) -> Result<u64, StorageError> {
        let opened = Arc::clone(&self.opened.read());
        opened.file_bytes(&self.place.path)
    }

    /// Checks the records from `from` on: up to `records_max` of them, or to the one that reaches
    /// `bytes_max`.
    pub(crate) fn verify_stride(
        &self,
        from: Revision,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Verified, StorageError> {
        let mut records = self.reader()?.records(from)?;
        let mut verified = Verified { next: None, damaged: Vec::new() };
        let (mut count, mut bytes) = (0, 0);
        while let Some(item) = records.next_with_place() {
            let (revision, record) = item?;
            if count == records_max || bytes >= bytes_max {
                // A damaged key may name a revision before those that were read. A walk that went on
                // from there would never end.
                verified.next = (revision > from).then_some(revision);
                break;
            }
            count += 1;
            match record {
                Ok(record) => bytes += record.bytes().len(),
                Err(error) if error.is_damage() => verified.damaged.push((revision, error)),
                // A value that lies apart cannot be read now, which says nothing of what it is.
                Err(error) => return Err(error),
            }
        }
        Ok(verified)
    }

    /// An error that names this file.
    pub(crate) fn corrupted(&self, detail: String) -> StorageError {
        corrupted(&self.place.path, detail)
    }

    fn check_format(&self) -> Result<(), StorageError> {
        let foreign = |detail: String| StorageError::Foreign { path: self.place.path.to_path_buf(), detail };
        let reader = match self.reader() {
            Err(StorageError::Redb(error)) if matches!(*error, redb::Error::TableDoesNotExist(_)) => {
                return Err(foreign("it is a database of something else".to_owned()));
            }
            reader => reader?,
        };
        let version = reader.cell(Table::Meta, meta::FORMAT_VERSION)?;
        match version.as_deref().and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))) {
            Some(1..=FORMAT_VERSION) => Ok(()),
            Some(other) => Err(foreign(format!(
                "it has format {other} and this version reads formats up to {FORMAT_VERSION}; run the version that wrote it"
            ))),
            None => Err(foreign("it does not say what format it has".to_owned())),
        }
    }
}

/// See [`Database::verify_stride`].
#[derive(Debug)]
pub(crate) struct Verified {
    /// Where to go on; `None` at the end.
    pub(crate) next: Option<Revision>,
    /// What is not what was written.
    pub(crate) damaged: Vec<(Revision, StorageError)>,
}

/// What says that values may lie apart, and that cells are counted.
fn format_cell() -> (Table, Bytes, Option<Bytes>) {
    let version = Bytes::copy_from_slice(&FORMAT_VERSION.to_be_bytes());
    (Table::Meta, Bytes::from_static(meta::FORMAT_VERSION), Some(version))
}

/// An empty database.
fn empty(disk: &Arc<dyn Disk>, name: &Path) -> Result<Complete, StorageError> {
    let mut draft = Draft::begin(disk, name)?;
    draft.add_numbers(0)?;
    draft.complete()
}

#[cfg(test)]
mod tests;
