//! The files of a directory, behind a trait.
//!
//! The log and the database read and write their files through [`Disk`] alone. The server gives them a
//! [`Directory`] of the file system; a test gives them a disk in memory that loses what was not synced
//! when its power fails, at a moment that the test chooses.
//!
//! The names of files are relative to the directory. A change of names (a file created, renamed or
//! removed) is durable after [`Disk::sync`], and the contents of a file are durable after a sync of
//! that file.

mod directory;
#[cfg(test)]
pub(crate) mod memory;
mod overlay;

use std::{
    fmt::Debug,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use directory::{Directory, FileSystem, create_directory};
pub(crate) use overlay::Overlay;

/// Whether an operation failed only because the disk, or the part of it that this user may have, is
/// full. Then it may succeed later.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Where directories are, of which each is a [`Disk`].
pub(crate) trait Disks: Debug + Send + Sync {
    /// Makes a directory that only its owner can look into, and those above it that are missing.
    fn make(&self, path: &Path) -> io::Result<()>;

    /// Opens a directory.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>>;

    /// Whether there is something of this name.
    fn holds(&self, path: &Path) -> bool;
}

/// A directory whose files are read and written.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// The names in it, in any order.
    fn list(&self) -> io::Result<Vec<PathBuf>>;

    /// Makes a file that its owner alone can read, or empties the one that has this name.
    fn create(&self, name: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to read and to write it.
    fn open(&self, name: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to read it.
    fn open_to_read(&self, name: &Path) -> io::Result<Box<dyn DiskFile>>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, name: &Path) -> io::Result<()>;

    /// Which file has this name.
    fn identity(&self, name: &Path) -> io::Result<FileIdentity>;

    /// Makes all changes of names durable that were made before.
    fn sync(&self) -> io::Result<()>;
}

/// Tells a file from every other file, whatever their names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    device: u64,
    number: u64,
}

/// An open file. It can be used even after its name was removed.
pub(crate) trait DiskFile: Debug + Send + Sync {
    fn identity(&self) -> io::Result<FileIdentity>;

    /// Takes the lock of the file, which one open file at a time can have. False if another one has
    /// it, in this process or in another. The lock ends with [`DiskFile::unlock`], and at the latest
    /// when this open file is closed.
    fn try_lock(&self) -> io::Result<bool>;

    fn unlock(&self) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;

    /// Up to where the file has data. Behind that it reads as zeros.
    fn data_len(&self) -> io::Result<u64>;

    /// Fills `bytes` with what is at `offset`; an error if the file ends before that.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Takes the space for `len` bytes, so that writing within them changes no metadata. What was not
    /// written reads as zeros.
    fn reserve(&self, len: u64) -> io::Result<()>;

    /// Hints that `span` will be read soon. Returns at once.
    fn prefetch(&self, span: Range<u64>);

    /// Hints that `span`, which was just written, should go to the disk now and need not stay in
    /// memory. Returns at once; nothing is durable before a sync.
    fn start_writing(&self, span: Range<u64>);

    /// Makes the contents durable, and of the metadata what is needed to read them.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes contents and metadata durable.
    fn sync_all(&self) -> io::Result<()>;
}
