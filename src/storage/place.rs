//! The name under which a file is found, and every change of what that name leads to.
//!
//! A swap is a rename, and then a sync of the directory. Everything that could fail for want of
//! rights, memory or descriptors comes before the rename: the directory is open already, and the
//! file that gets the name is written, synced and opened. So after the rename only the disk itself
//! can fail. If it does, nobody knows which of the two files a restart finds, and neither may be
//! written to: the log can make up for either as it was at the swap, and for nothing that is
//! written to the wrong one of them afterwards.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use super::{StorageError, draft::Complete, error::io_error};
use crate::disk::{Directory, Disk};

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
        let directory = Directory::open(directory).map_err(io_error("open", directory))?;
        Ok(Place { path: path.into(), directory })
    }

    /// Gives the name to `file`, for good.
    pub(super) fn give_to(&self, file: Complete) -> Result<(), SwapError> {
        self.give_to_file_at(file.path(), file.file())
    }

    /// Gives the name to `file`, which is durable, and is at `from` in the same directory.
    pub(super) fn give_to_file_at(&self, from: &Path, file: &File) -> Result<(), SwapError> {
        assert_eq!(from.parent(), self.path.parent(), "one sync of the directory makes the rename durable");
        if let Err(error) = fs::rename(from, &self.path) {
            let error = io_error("rename", from)(error);
            // What a rename has done that reports an error, only the names can tell.
            return Err(match leads_to(from, file) && !leads_to(&self.path, file) {
                true => SwapError::Kept(error),
                false => SwapError::Unsettled(error),
            });
        }
        let synced = self.directory.sync().map_err(io_error("sync", self.directory.path()));
        synced.map_err(SwapError::Unsettled)
    }
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
