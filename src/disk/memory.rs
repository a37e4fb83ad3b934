//! A disk in memory whose power can fail, for tests.
//!
//! It counts what is asked of it, and refuses everything from a chosen operation on, as if the
//! process had been killed or the power had failed there. [`MemoryDisk::after_power_loss`] is what
//! the next start finds: everything that was synced, and of the rest what chance has kept. A write
//! that was not synced is kept or lost sector by sector; changes of names that were not synced are
//! kept up to some of them, in their order, as a file system with a journal does it.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Disk, DiskFile, Disks, FileIdentity};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// Directories on one disk in memory. Cheap to clone; the clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisks {
    directories: Arc<Mutex<BTreeMap<PathBuf, MemoryDisk>>>,
    power: Arc<Mutex<Power>>,
}

impl MemoryDisks {
    /// Refuses everything from so many operations on.
    pub(crate) fn fail_after(&self, operations: u64) {
        let mut power = self.power.lock();
        power.fails_at = Some(power.operations + operations);
    }

    /// Has one sync fail after so many others, and every further one.
    pub(crate) fn fail_sync_after(&self, syncs: u64) {
        self.power.lock().syncs_left = Some(syncs);
    }

    /// From now on files can grow by so many bytes together, and by what is removed; without a number by any.
    pub(crate) fn limit_room(&self, room: Option<u64>) {
        self.power.lock().room = room;
    }

    /// How often there was no room for what was to be written.
    pub(crate) fn refusals(&self) -> u64 {
        self.power.lock().refusals
    }

    /// Whether an operation was refused because the power has failed.
    pub(crate) fn has_failed(&self) -> bool {
        let power = self.power.lock();
        power.fails_at.is_some_and(|fails_at| power.operations > fails_at)
    }

    /// How many operations were asked for.
    pub(crate) fn operations(&self) -> u64 {
        self.power.lock().operations
    }

    /// What is found when the power comes back: see [`MemoryDisk::after_power_loss`].
    pub(crate) fn after_power_loss(&self, mut is_kept: impl FnMut() -> bool) -> MemoryDisks {
        let before = self.power.lock();
        let power = Power { room: before.room, refusals: before.refusals, ..Power::default() };
        drop(before);
        let power = Arc::new(Mutex::new(power));
        let directories = self.directories.lock();
        let kept = directories.iter().map(|(path, directory)| {
            let found = MemoryDisk { power: power.clone(), ..directory.after_power_loss(&mut is_kept) };
            (path.clone(), found)
        });
        let directories = Arc::new(Mutex::new(kept.collect()));
        MemoryDisks { directories, power }
    }

    /// Inverts a bit of a file, as a disk that decays. `choose` is told how many bits there are in bytes that are not zero.
    /// The result is which bit of the file it was.
    pub(crate) fn flip_bit(&self, path: &Path, choose: impl FnOnce(usize) -> usize) -> Option<usize> {
        let contents = self.contents(path)?;
        let bit = {
            let contents = contents.lock();
            let bytes = contents.durable.bytes.iter().enumerate();
            let written: Vec<usize> = bytes.filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
            if written.is_empty() {
                return None;
            }
            let chosen = choose(written.len() * 8);
            written[chosen / 8] * 8 + chosen % 8
        };
        self.invert_bit(path, bit);
        Some(bit)
    }

    /// Inverts this bit of a file.
    pub(crate) fn invert_bit(&self, path: &Path, bit: usize) {
        let Some(contents) = self.contents(path) else { return };
        let mut contents = contents.lock();
        let Contents { now, durable, .. } = &mut *contents;
        for extent in [now, durable] {
            if let Some(byte) = extent.bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    fn contents(&self, path: &Path) -> Option<Arc<Mutex<Contents>>> {
        let directories = self.directories.lock();
        let directory = directories.get(path.parent()?)?;
        let names = directory.names.lock();
        names.now.get(Path::new(path.file_name()?)).cloned()
    }

    /// The paths of all files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let directories = self.directories.lock();
        let files = directories.iter().flat_map(|(path, directory)| {
            directory.names.lock().now.keys().map(|name| path.join(name)).collect::<Vec<_>>()
        });
        files.collect()
    }
}

/// The directories themselves are there at once, and no crash removes them.
impl Disks for MemoryDisks {
    fn make(&self, path: &Path) -> io::Result<()> {
        self.power.lock().operate()?;
        for above in path.ancestors() {
            self.directories.lock().entry(above.to_owned()).or_insert_with(|| MemoryDisk {
                path: above.to_owned(),
                names: Arc::default(),
                power: self.power.clone(),
            });
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        self.power.lock().operate()?;
        let directory = self.directories.lock().get(path).cloned();
        Ok(Arc::new(directory.ok_or(io::ErrorKind::NotFound)?))
    }

    fn holds(&self, path: &Path) -> bool {
        let directories = self.directories.lock();
        let parent = path.parent().and_then(|parent| directories.get(parent));
        let is_file = parent.is_some_and(|parent| {
            path.file_name().is_some_and(|name| parent.names.lock().now.contains_key(Path::new(name)))
        });
        is_file || directories.contains_key(path)
    }
}

/// Cheap to clone; the clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk {
    path: PathBuf,
    names: Arc<Mutex<Names>>,
    power: Arc<Mutex<Power>>,
}

type Listing = BTreeMap<PathBuf, Arc<Mutex<Contents>>>;

#[derive(Debug, Default)]
struct Names {
    now: Listing,
    /// What was durable at first, and what the listing was after each change that was not synced.
    unsynced: Vec<Listing>,
}

#[derive(Debug, Default)]
struct Power {
    operations: u64,
    fails_at: Option<u64>,
    /// The number of syncs until one fails.
    syncs_left: Option<u64>,
    fails_directory_sync: bool,
    /// Bytes that may be added to the files.
    room: Option<u64>,
    /// How often there was no room.
    refusals: u64,
}

/// What is in a file: `bytes`, and zeros behind them up to `len`.
#[derive(Clone, Debug, Default)]
struct Extent {
    bytes: Vec<u8>,
    len: usize,
}

#[derive(Debug, Default)]
struct Contents {
    now: Extent,
    durable: Extent,
    unsynced: Vec<Change>,
    is_locked: bool,
    /// Up to where the file has space that was reserved for it.
    reserved: usize,
}

impl Contents {
    /// All of it is durable.
    fn settle(&mut self) {
        let Contents { durable, unsynced, .. } = self;
        unsynced.drain(..).for_each(|change| change.keep_some(durable, &mut || true));
    }
}

#[derive(Debug)]
enum Change {
    Written { offset: usize, bytes: Vec<u8> },
    Resized { len: usize },
}

impl MemoryDisk {
    /// Refuses everything from operation number `operation` on.
    pub(crate) fn fail_at(&self, operation: u64) {
        self.power.lock().fails_at = Some(operation);
    }

    pub(crate) fn break_directory_sync(&self) {
        self.power.lock().fails_directory_sync = true;
    }

    /// From now on files can grow by so many bytes together; without a number by any.
    pub(crate) fn limit_room(&self, room: Option<u64>) {
        self.power.lock().room = room;
    }

    /// How many operations it has been asked for.
    pub(crate) fn operations(&self) -> u64 {
        self.power.lock().operations
    }

    /// What is found when the power comes back. `is_kept` decides for each piece that was not synced.
    pub(crate) fn after_power_loss(&self, mut is_kept: impl FnMut() -> bool) -> MemoryDisk {
        let names = self.names.lock();
        let mut kept = &names.now;
        if let Some((durable, later)) = names.unsynced.split_first() {
            kept = later.iter().chain([&names.now]).take_while(|_| is_kept()).last().unwrap_or(durable);
        }
        let files = kept.iter().map(|(name, contents)| {
            let contents = contents.lock();
            let mut found = contents.durable.clone();
            contents.unsynced.iter().for_each(|change| change.keep_some(&mut found, &mut is_kept));
            let reserved = contents.reserved.min(found.len);
            let file = Contents { now: found.clone(), durable: found, reserved, ..Contents::default() };
            (name.clone(), Arc::new(Mutex::new(file)))
        });
        let now: Listing = files.collect();
        MemoryDisk {
            path: self.path.clone(),
            names: Arc::new(Mutex::new(Names { now, unsynced: Vec::new() })),
            power: Arc::default(),
        }
    }

    fn change_names<T>(&self, change: impl FnOnce(&mut Listing) -> io::Result<T>) -> io::Result<T> {
        self.power.lock().operate()?;
        let mut names = self.names.lock();
        let before = names.now.clone();
        let result = change(&mut names.now)?;
        names.unsynced.push(before);
        Ok(result)
    }

    /// A file has no name any more. (That somebody may still have it open makes no difference here.)
    fn give_back(&self, removed: Option<Arc<Mutex<Contents>>>) {
        let Some(contents) = removed else { return };
        let taken = {
            let contents = contents.lock();
            contents.reserved.max(contents.now.bytes.len())
        };
        self.power.lock().shrink(taken as u64);
    }

    fn file(&self, contents: Arc<Mutex<Contents>>) -> Box<dyn DiskFile> {
        let holds_lock = AtomicBool::new(false);
        Box::new(MemoryFile { contents, power: self.power.clone(), holds_lock })
    }
}

impl Power {
    /// Takes space that a file grows by.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        let Some(room) = &mut self.room else { return Ok(()) };
        match room.checked_sub(bytes) {
            Some(left) => *room = left,
            None => {
                self.refusals += 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(())
    }

    /// Gives back what a file that is removed took.
    fn shrink(&mut self, bytes: u64) {
        if let Some(room) = &mut self.room {
            *room += bytes;
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.operate()?;
        match &mut self.syncs_left {
            Some(0) => Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn operate(&mut self) -> io::Result<()> {
        let operation = self.operations;
        self.operations += 1;
        match self.fails_at {
            Some(fails_at) if operation >= fails_at => Err(io::Error::other("the power failed")),
            _ => Ok(()),
        }
    }
}

impl Disk for MemoryDisk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<PathBuf>> {
        self.power.lock().operate()?;
        Ok(self.names.lock().now.keys().cloned().collect())
    }

    fn create(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        let contents: Arc<Mutex<Contents>> = Arc::default();
        self.change_names(|names| Ok(names.insert(name.to_owned(), contents.clone())))?;
        Ok(self.file(contents))
    }

    fn open(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.power.lock().operate()?;
        let contents = self.names.lock().now.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(contents))
    }

    fn open_to_read(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(name)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change_names(|names| {
            let contents = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            Ok(names.insert(to.to_owned(), contents))
        })
        .map(|replaced| self.give_back(replaced))
    }

    fn remove(&self, name: &Path) -> io::Result<()> {
        let removed = self.change_names(|names| names.remove(name).ok_or(io::ErrorKind::NotFound.into()))?;
        self.give_back(Some(removed));
        Ok(())
    }

    fn identity(&self, name: &Path) -> io::Result<FileIdentity> {
        self.power.lock().operate()?;
        let names = self.names.lock();
        names.now.get(name).map(identity).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut power = self.power.lock();
        power.sync()?;
        if power.fails_directory_sync {
            return Err(io::Error::other("the directory cannot be synced"));
        }
        self.names.lock().unsynced.clear();
        Ok(())
    }
}

fn identity(contents: &Arc<Mutex<Contents>>) -> FileIdentity {
    FileIdentity { device: 0, number: Arc::as_ptr(contents).addr() as u64 }
}

#[derive(Debug)]
struct MemoryFile {
    contents: Arc<Mutex<Contents>>,
    power: Arc<Mutex<Power>>,
    holds_lock: AtomicBool,
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let _ = self.unlock();
    }
}

impl MemoryFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut power = self.power.lock();
        power.operate()?;
        let mut contents = self.contents.lock();
        if let Change::Written { offset, bytes } = &change {
            let reserved = contents.reserved.max(contents.now.bytes.len());
            power.grow((offset + bytes.len()).saturating_sub(reserved) as u64)?;
        }
        change.keep_some(&mut contents.now, &mut || true);
        contents.unsynced.push(change);
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn identity(&self) -> io::Result<FileIdentity> {
        self.power.lock().operate()?;
        Ok(identity(&self.contents))
    }

    fn try_lock(&self) -> io::Result<bool> {
        let was_locked = std::mem::replace(&mut self.contents.lock().is_locked, true);
        self.holds_lock.fetch_or(!was_locked, Ordering::Relaxed);
        Ok(self.holds_lock.load(Ordering::Relaxed))
    }

    fn unlock(&self) -> io::Result<()> {
        if self.holds_lock.swap(false, Ordering::Relaxed) {
            self.contents.lock().is_locked = false;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.power.lock().operate()?;
        Ok(self.contents.lock().now.len as u64)
    }

    fn data_len(&self) -> io::Result<u64> {
        self.power.lock().operate()?;
        Ok(self.contents.lock().now.bytes.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.power.lock().operate()?;
        let contents = self.contents.lock();
        let offset = offset as usize;
        if offset + bytes.len() > contents.now.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.fill(0);
        let written = contents.now.bytes.get(offset..).unwrap_or_default();
        let count = written.len().min(bytes.len());
        bytes[..count].copy_from_slice(&written[..count]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Written { offset: offset as usize, bytes: bytes.to_owned() })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Resized { len: len as usize })
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let len = {
            let mut power = self.power.lock();
            let mut contents = self.contents.lock();
            let taken = contents.reserved.max(contents.now.bytes.len());
            power.grow((len as usize).saturating_sub(taken) as u64)?;
            contents.reserved = taken.max(len as usize);
            contents.now.len.max(len as usize)
        };
        self.change(Change::Resized { len })
    }

    fn prefetch(&self, _: Range<u64>) {}

    fn start_writing(&self, _: Range<u64>) {}

    fn sync_data(&self) -> io::Result<()> {
        self.power.lock().sync()?;
        let mut contents = self.contents.lock();
        contents.settle();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Change {
    /// Makes the change, or those of its sectors that `is_kept` names.
    fn keep_some(&self, extent: &mut Extent, is_kept: &mut impl FnMut() -> bool) {
        match self {
            Change::Written { offset, bytes } => {
                let mut at = 0;
                while at < bytes.len() {
                    let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
                    if is_kept() {
                        extent.write(offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
            Change::Resized { len } => {
                if is_kept() {
                    extent.len = *len;
                    extent.bytes.truncate(*len);
                }
            }
        }
    }
}

impl Extent {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset..end].copy_from_slice(bytes);
        self.len = self.len.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_can_be_lost_and_what_was_synced_cannot() {
        let disk = MemoryDisk::default();
        let name = Path::new("a");
        let file = disk.create(name).expect("power");
        file.reserve(4096).expect("power");
        file.write_at(&[1; 1000], 0).expect("power");
        file.sync_all().expect("power");
        assert!(disk.after_power_loss(|| false).open(name).is_err(), "its name was not synced");
        disk.sync().expect("power");
        file.write_at(&[2; 1000], 500).expect("power");
        let read = |disk: &MemoryDisk| {
            let mut bytes = [0; 4096];
            disk.open(name).and_then(|file| file.read_at(&mut bytes, 0)).expect("it is there");
            [bytes[499], bytes[500], bytes[511], bytes[512], bytes[1400], bytes[4095]]
        };
        assert_eq!(read(&disk), [1, 2, 2, 2, 2, 0]);
        assert_eq!(read(&disk.after_power_loss(|| true)), [1, 2, 2, 2, 2, 0]);
        assert_eq!(read(&disk.after_power_loss(|| false)), [1, 1, 1, 1, 0, 0]);
        let mut sectors = [true, false, true].into_iter();
        let torn = disk.after_power_loss(|| sectors.next().expect("the write is in three sectors"));
        assert_eq!(read(&torn), [1, 2, 2, 1, 2, 0]);
        disk.fail_at(disk.operations());
        assert!(file.sync_data().is_err() && disk.list().is_err());
    }
}
