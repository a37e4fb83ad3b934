//! Large values, which are on the disk once.
//!
//! A value of [`limits::VALUE_APART_BYTES`](crate::limits::VALUE_APART_BYTES) or more is written to the log, as every write
//! is, and stays where the log has it: the database stores the record without the value, and where the value lies. So
//! a checkpoint of large values is as small as one of small ones, and a start does not read them.
//!
//! ```text
//! 0000002a.wal       a segment of the log: its values may be referred to from the first checkpoint on
//! 00000029.values    the same, when the log does not need it any more, and the database still does
//! 80000001.values    values that were moved here, because little else was left in their files
//! ```
//!
//! A file that holds no value of the database goes when it is no segment of the log any more, and nobody reads a
//! state of the database that may still refer to it ([`eras`]).

mod eras;
mod moving;
mod occupancy;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

pub(crate) use eras::Era;
use eras::Eras;
pub(crate) use moving::Moving;
pub(crate) use occupancy::Occupancy;
use occupancy::Occupied;

use super::{StorageError, error::corrupted, io_error, tables::ApartValue};
use crate::{
    disk::{self, Disk, DiskFile},
    limits,
    types::{Rev, ValuePlace},
};

/// The files that are no segments of the log have numbers from here on.
const MOVED_FIRST: u32 = 0x8000_0000;

/// The files of values of one member. They are in the directory of its log.
#[derive(Debug)]
pub(crate) struct Values {
    disk: Arc<dyn Disk>,
    /// Some of the files, which are open to be read.
    open: RwLock<BTreeMap<u32, Arc<dyn DiskFile>>>,
    state: Mutex<State>,
    /// Where moved values go. Only the thread that writes the database moves any.
    target: Mutex<Target>,
}

/// The file to whose end values are moved.
#[derive(Debug)]
struct Target {
    number: u32,
    /// None until the first value is moved there.
    file: Option<Arc<dyn DiskFile>>,
    end: u32,
}

#[derive(Debug)]
struct State {
    /// What the database refers to.
    occupancy: Occupancy,
    /// Files that are no segments of the log any more, and their lengths.
    retired: BTreeMap<u32, u64>,
    /// Files that nothing refers to since an era.
    emptied: BTreeMap<u32, u64>,
    /// The file that values are moved to.
    growing: Option<u32>,
    eras: Eras,
}

impl Values {
    /// Those in the directory of a log. Which values the database refers to is not known before
    /// [`Values::occupied`].
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Values, StorageError> {
        let mut retired = BTreeMap::new();
        for name in disk.list().map_err(io_error("list", disk.path()))? {
            if let Some(file) = number_of(&name) {
                let path = disk.path().join(&name);
                let len = disk.open_to_read(&name).and_then(|file| file.len());
                retired.insert(file, len.map_err(io_error("open", &path))?);
            }
        }
        // A crash may have left the end of a file in any state, so none is continued.
        let number = retired.last_key_value().map_or(MOVED_FIRST, |(last, _)| MOVED_FIRST.max(last + 1));
        let state = State {
            occupancy: Occupancy::default(),
            emptied: retired.keys().map(|file| (*file, 0)).collect(),
            retired,
            growing: None,
            eras: Eras::default(),
        };
        let target = Target { number, file: None, end: 0 };
        Ok(Values { disk, open: RwLock::default(), state: Mutex::new(state), target: Mutex::new(target) })
    }

    /// Tells what the database refers to, when it has been opened. Every file of it has to be there.
    pub(crate) fn occupied(&self, occupancy: Occupancy) -> Result<(), StorageError> {
        for (file, occupied) in occupancy.files() {
            let len = self.file(file)?.len().map_err(io_error("measure", &self.path_of(file)))?;
            if len < occupied.end {
                let detail = format!(
                    "it has {len} bytes, and the database refers to values up to byte {}: it was cut off",
                    occupied.end
                );
                return Err(corrupted(&self.path_of(file), detail));
            }
        }
        let mut state = self.state.lock();
        state.emptied.retain(|file, _| !occupancy.has(*file));
        state.occupancy = occupancy;
        Ok(())
    }

    /// Fills `out` with a value, and checks it.
    pub(super) fn read(&self, value: ApartValue, out: &mut [u8]) -> Result<(), StorageError> {
        let ApartValue { place: ValuePlace { file, offset, len }, checksum } = value;
        assert_eq!(out.len(), len as usize, "a value is read as a whole");
        let opened = self.file(file)?;
        match opened.read_at(out, u64::from(offset)) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(corrupted(
                    &self.path_of(file),
                    format!("it ends before the value at byte {offset}"),
                ));
            }
            read => read.map_err(io_error("read", &self.path_of(file)))?,
        }
        if crc32c::crc32c(out) != checksum {
            let detail = format!("the checksum of the value at byte {offset} does not match");
            return Err(corrupted(&self.path_of(file), detail));
        }
        Ok(())
    }

    /// For a reader of the database that begins now.
    pub(super) fn enter(&self) -> Arc<Era> {
        self.state.lock().eras.enter()
    }

    /// A commit has added references, and removed some.
    pub(super) fn committed(&self, added: &[(Rev, ValuePlace)], removed: &[ValuePlace]) {
        if added.is_empty() && removed.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for (rev, place) in added {
            state.occupancy.add(*rev, *place);
            state.emptied.remove(&place.file);
        }
        let emptied: BTreeSet<u32> =
            removed.iter().filter(|place| state.occupancy.remove(**place)).map(|place| place.file).collect();
        state.empty(emptied);
    }

    /// Another file has taken the place of the database, which refers to nothing here.
    pub(super) fn forget_all(&self) {
        let mut state = self.state.lock();
        let occupancy = std::mem::take(&mut state.occupancy);
        state.empty(occupancy.files().map(|(file, _)| file).collect());
    }

    /// The log does not need its segment `sequence` any more. If the database does, or somebody reads what it was, the
    /// file is kept under another name and true is returned. The caller syncs the directory.
    pub(crate) fn keep_segment(&self, sequence: u32) -> Result<bool, StorageError> {
        let is_needed = {
            let state = self.state.lock();
            state.occupancy.has(sequence) || state.emptied.contains_key(&sequence)
        };
        if is_needed {
            let path = self.disk.path().join(segment_name(sequence));
            let len = self.file(sequence)?.len().map_err(io_error("measure", &path))?;
            let renamed = self.disk.rename(&segment_name(sequence), &kept_name(sequence));
            renamed.map_err(io_error("rename", &path))?;
            self.state.lock().retired.insert(sequence, len);
        }
        Ok(is_needed)
    }

    /// Removes the files that nobody refers to any more. Returns how many bytes they had.
    fn sweep(&self) -> Result<u64, StorageError> {
        let unused: Vec<u32> = {
            let mut state = self.state.lock();
            let oldest = state.eras.oldest_in_use();
            let State { emptied, retired, growing, .. } = &*state;
            let unused = emptied.iter().filter(|(_, since)| **since <= oldest).map(|(file, _)| *file);
            unused.filter(|file| retired.contains_key(file) && *growing != Some(*file)).collect()
        };
        let mut bytes = 0;
        for &file in &unused {
            self.open.write().remove(&file);
            let removed = self.disk.remove(&kept_name(file));
            removed.map_err(io_error("remove", &self.path_of(file)))?;
            let mut state = self.state.lock();
            bytes += state.retired.remove(&file).unwrap_or(0);
            state.emptied.remove(&file);
        }
        if !unused.is_empty() {
            self.disk.sync().map_err(io_error("sync", self.disk.path()))?;
        }
        Ok(bytes)
    }

    /// The file of which the smallest part is needed, if that is less than half of it. Not one that is a segment of the log,
    /// that values are moved to, or one of `except`.
    fn sparsest(&self, except: &dyn Fn(u32) -> bool) -> Option<(u32, Occupied)> {
        let state = self.state.lock();
        let files = state.occupancy.files().filter_map(|(file, occupied)| {
            let len = *state.retired.get(&file)?;
            let is_sparse = occupied.bytes * 2 < len && state.growing != Some(file) && !except(file);
            is_sparse.then(|| (occupied.bytes * 1000 / len, file, *occupied))
        });
        files.min_by_key(|(share, file, _)| (*share, *file)).map(|(_, file, occupied)| (file, occupied))
    }

    /// Writes values, one behind the other, to a file of moved values. They are on the disk when this returns where
    /// they begin.
    fn append(&self, values: &[u8]) -> Result<ValuePlace, StorageError> {
        let len = u32::try_from(values.len()).expect("a slice of values is bounded");
        let mut target = self.target.lock();
        if target.end > 0 && target.end.saturating_add(len) > limits::VALUE_FILE_BYTES {
            *target = Target { number: target.number + 1, file: None, end: 0 };
        }
        let name = kept_name(target.number);
        let path = self.disk.path().join(&name);
        let no_space = || StorageError::NoSpace { what: "values that are moved", path: path.clone() };
        let failed = |action: &'static str, error: io::Error| match disk::is_full(&error) {
            true => no_space(),
            false => io_error(action, &path)(error),
        };
        let (file, is_new) = match &target.file {
            Some(file) => (file.clone(), false),
            None => (self.disk.create(&name).map_err(|error| failed("create", error))?.into(), true),
        };
        let offset = target.end;
        file.write_at(values, u64::from(offset)).map_err(|error| failed("write", error))?;
        file.sync_all().map_err(|error| failed("sync", error))?;
        if is_new {
            self.disk.sync().map_err(io_error("sync", self.disk.path()))?;
        }
        target.file = Some(file);
        target.end = offset + len;
        let mut state = self.state.lock();
        state.growing = Some(target.number);
        state.retired.insert(target.number, u64::from(target.end));
        Ok(ValuePlace { file: target.number, offset, len })
    }

    /// The file, open. It may have got its other name meanwhile.
    fn file(&self, file: u32) -> Result<Arc<dyn DiskFile>, StorageError> {
        if let Some(opened) = self.open.read().get(&file) {
            return Ok(opened.clone());
        }
        let opened = match self.disk.open_to_read(&segment_name(file)) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.disk.open_to_read(&kept_name(file)),
            opened => opened,
        };
        let opened: Arc<dyn DiskFile> = match opened {
            Ok(opened) => opened.into(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let detail = "it is missing, and the database refers to values in it".to_owned();
                return Err(corrupted(&self.path_of(file), detail));
            }
            Err(error) => return Err(io_error("open", &self.path_of(file))(error)),
        };
        let mut open = self.open.write();
        if open.len() >= limits::VALUE_FILES_OPEN {
            open.pop_first();
        }
        open.insert(file, opened.clone());
        Ok(opened)
    }

    /// For messages.
    fn path_of(&self, file: u32) -> PathBuf {
        self.disk.path().join(kept_name(file))
    }
}

impl State {
    fn empty(&mut self, files: BTreeSet<u32>) {
        if files.is_empty() {
            return;
        }
        let since = self.eras.advance();
        self.emptied.extend(files.into_iter().map(|file| (file, since)));
    }
}

/// While the file is a segment of the log.
fn segment_name(file: u32) -> PathBuf {
    format!("{file:08x}.wal").into()
}

fn kept_name(file: u32) -> PathBuf {
    format!("{file:08x}.values").into()
}

/// `None` if it is not the name of a file of values.
fn number_of(name: &Path) -> Option<u32> {
    let number = u32::from_str_radix(name.file_stem()?.to_str()?, 16).ok()?;
    (*name == kept_name(number)).then_some(number)
}
