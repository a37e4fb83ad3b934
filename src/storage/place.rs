//! The name under which a file is found, and every change of what that name leads to.
//!
//! A swap is a rename, and then a sync of the directory. Everything that could fail for want of
//! rights, memory or descriptors comes before the rename: the directory is open already, and the
//! file that gets the name is written, synced and opened. So after the rename only the disk itself
//! can fail. If it does, nobody knows which of the two files a restart finds, and neither may be
//! written to: the log can make up for either as it was at the swap, and for nothing that is
//! written to the wrong one of them afterwards.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{StorageError, draft::Complete, error::io_error};

/// A directory that is open, so that to make a change of its names durable takes no descriptor and
/// no right that may be gone by then.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    file: File,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Directory, StorageError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        Ok(Directory { path: path.to_owned(), file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes every change of its names durable that was made before.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_all().map_err(io_error("sync", &self.path))
    }

    /// From now on it cannot be synced.
    #[cfg(test)]
    pub(crate) fn break_sync(&mut self) {
        self.file = File::open("/dev/null").expect("every system has it");
    }
}

/// See the module.
pub(super) struct Place {
    pub(super) path: Arc<Path>,
    pub(super) directory: Directory,
}

/// A swap that failed.
pub(super) enum SwapError {
    /// The name leads where it led before.
    Kept(StorageError),
    /// The name may lead to either file after a crash.
    Unsettled(StorageError),
}

impl Place {
    pub(super) fn at(path: &Path) -> Result<Place, StorageError> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        Ok(Place { path: path.into(), directory: Directory::open(directory)? })
    }

    /// Gives the name to `file`, for good.
    pub(super) fn give_to(&self, file: Complete) -> Result<(), SwapError> {
        self.give_to_file_at(file.path(), file.file())
    }

    /// Gives the name to `file`, which is durable, and is at `from` in the same directory.
    pub(super) fn give_to_file_at(&self, from: &Path, file: &File) -> Result<(), SwapError> {
        if let Err(error) = fs::rename(from, &self.path) {
            let error = io_error("rename", from)(error);
            // What a rename has done that reports an error, only the names can tell.
            return Err(match leads_to(from, file) && !leads_to(&self.path, file) {
                true => SwapError::Kept(error),
                false => SwapError::Unsettled(error),
            });
        }
        self.directory.sync().map_err(SwapError::Unsettled)
    }
}

/// Makes a directory that only its owner can look into, and those above it that are missing. Their
/// names are as durable afterwards as what will be in them.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|above| *above != Path::new("") && !above.exists()).count();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for above in path.ancestors().skip(1).take(missing) {
        let above = if above == Path::new("") { Path::new(".") } else { above };
        match File::open(above) {
            Ok(above) => above.sync_all()?,
            // Whoever may make names there need not be allowed to read them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn leads_to(path: &Path, file: &File) -> bool {
    let named = fs::symlink_metadata(path).map(|named| (named.dev(), named.ino()));
    let opened = file.metadata().map(|opened| (opened.dev(), opened.ino()));
    named.is_ok_and(|named| opened.is_ok_and(|opened| named == opened))
}

impl SwapError {
    /// As an error about what `path` leads to.
    pub(super) fn about(self, path: &Path) -> StorageError {
        match self {
            SwapError::Kept(error) => error,
            SwapError::Unsettled(error) => {
                StorageError::Unsettled { path: path.to_owned(), detail: error.to_string() }
            }
        }
    }
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
