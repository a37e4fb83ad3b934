//! A directory of the file system.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError},
    io,
    num::NonZeroU64,
    ops::Range,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Advice, FallocateFlags, SeekFrom, fadvise},
    io::Errno,
};

use super::{Disk, DiskFile, Disks, FileIdentity};

/// The directories of the file system.
#[derive(Debug)]
pub(crate) struct FileSystem;

impl Disks for FileSystem {
    fn make(&self, path: &Path) -> io::Result<()> {
        create_directory(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(Directory::open(path)?))
    }

    fn holds(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// A directory that is open, so that making a change of its names durable takes no descriptor and
/// no right that may be gone by then.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    file: File,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> io::Result<Directory> {
        Ok(Directory { path: path.to_owned(), file: File::open(path)? })
    }

    /// The path of a file in this directory.
    fn at(&self, name: &Path) -> PathBuf {
        debug_assert_eq!(name.components().count(), 1, "a name does not lead out of the directory");
        self.path.join(name)
    }
}

impl Disk for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(PathBuf::from(entry?.file_name()))).collect()
    }

    fn create(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(options.open(self.at(name))?))
    }

    fn open(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(self.at(name))?))
    }

    fn open_to_read(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(self.at(name))?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &Path) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn identity(&self, name: &Path) -> io::Result<FileIdentity> {
        Ok(identity(&fs::symlink_metadata(self.at(name))?))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn identity(metadata: &Metadata) -> FileIdentity {
    FileIdentity { device: metadata.dev(), number: metadata.ino() }
}

impl DiskFile for File {
    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(identity(&self.metadata()?))
    }

    fn try_lock(&self) -> io::Result<bool> {
        match File::try_lock(self) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        File::unlock(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn data_len(&self) -> io::Result<u64> {
        let len = self.metadata()?.len();
        let mut written = 0;
        let mut at = 0;
        while at < len {
            match rustix::fs::seek(self, SeekFrom::Data(at)) {
                Ok(data) => {
                    assert!(data >= at, "data is looked for ahead");
                    at = rustix::fs::seek(self, SeekFrom::Hole(data))?;
                    assert!(at > data, "a stretch of data is not empty, so that the search ends");
                    written = at;
                }
                Err(Errno::NXIO) => break,
                // This file system does not tell data from holes: all of the file may be data.
                Err(_) => {
                    written = len;
                    break;
                }
            }
        }
        Ok(written)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self, FallocateFlags::empty(), 0, len)?)
    }

    fn prefetch(&self, span: Range<u64>) {
        advise(self, span, Advice::WillNeed);
    }

    /// With this hint Linux starts writing those pages of the span that are not on the disk yet, and
    /// returns; it drops the other pages of the span from memory.
    fn start_writing(&self, span: Range<u64>) {
        advise(self, span, Advice::DontNeed);
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }
}

/// A system may ignore the hint, which does no harm.
fn advise(file: &File, span: Range<u64>, advice: Advice) {
    if let Some(len) = NonZeroU64::new(span.end.saturating_sub(span.start)) {
        let _ = fadvise(file, span.start, Some(len), advice);
    }
}

/// Makes a directory that only its owner can look into, and those above it that are missing. Their
/// names are as durable afterwards as what will be in them.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|above| *above != Path::new("") && !above.exists()).count();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for above in path.ancestors().skip(1).take(missing) {
        let above = if above == Path::new("") { Path::new(".") } else { above };
        match Directory::open(above) {
            Ok(above) => above.sync()?,
            // A process that may create names in a directory need not be allowed to read it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_can_look_into_directories_that_are_made() {
        let home = tempfile::tempdir().expect("a directory");
        let inner = home.path().join("data").join("member").join("wal");
        for _ in 0..2 {
            create_directory(&inner).expect("there is room");
            for made in inner.ancestors().take(3) {
                assert_eq!(fs::metadata(made).expect("it is there").mode() & 0o777, 0o700, "{made:?}");
            }
        }
        fs::write(home.path().join("file"), "").expect("a file");
        assert!(create_directory(&home.path().join("file").join("wal")).is_err());
    }
}
