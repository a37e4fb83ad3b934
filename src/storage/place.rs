//! The name under which a file is found, and every change of what that name leads to.
//!
//! A swap is a rename, and then a sync of the directory. Everything that could fail for want of
//! rights, memory or descriptors comes before the rename: the directory is open already, and the
//! file that gets the name is written, synced and opened. So after the rename only the disk itself
//! can fail. If it does, nobody knows which of the two files a restart finds, and neither may be
//! written to: the log can make up for either as it was at the swap, and for nothing that is
//! written to the wrong one of them afterwards.

use std::{path::Path, sync::Arc};

use super::{StorageError, draft::Complete, error::io_error};
use crate::disk::{Disk, DiskFile};

/// See the module.
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) name: Arc<Path>,
    /// The name with the path of its directory, for messages.
    pub(super) path: Arc<Path>,
}

/// A swap that failed.
pub(super) enum SwapError {
    /// The name leads where it led before.
    Kept(StorageError),
    /// The name may lead to either file after a crash.
    Unsettled(StorageError),
}

impl Place {
    pub(super) fn of(disk: Arc<dyn Disk>, name: &Path) -> Place {
        let path = disk.path().join(name).into();
        Place { disk, name: name.into(), path }
    }

    /// Gives the name to `file`, for good.
    pub(super) fn give_to(&self, file: Complete) -> Result<(), SwapError> {
        self.give_to_file(file.name(), file.file())
    }

    /// Gives the name to `file`, which is durable, and has the name `from` until now.
    pub(super) fn give_to_file(&self, from: &Path, file: &dyn DiskFile) -> Result<(), SwapError> {
        assert_ne!(from, &*self.name, "a file takes the place of another file");
        if let Err(error) = self.disk.rename(from, &self.name) {
            let error = io_error("rename", &self.disk.path().join(from))(error);
            // After a rename that reports an error, only the names tell whether it was done.
            return Err(match self.leads_to(from, file) && !self.leads_to(&self.name, file) {
                true => SwapError::Kept(error),
                false => SwapError::Unsettled(error),
            });
        }
        #[cfg(test)]
        if crate::planted::is(crate::planted::Bug::SwapNotSynced) {
            return Ok(());
        }
        let synced = self.disk.sync().map_err(io_error("sync", self.disk.path()));
        synced.map_err(SwapError::Unsettled)
    }

    fn leads_to(&self, name: &Path, file: &dyn DiskFile) -> bool {
        let named = self.disk.identity(name);
        named.is_ok_and(|named| file.identity().is_ok_and(|opened| named == opened))
    }
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
