//! What can go wrong with this node's own disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A failure of this node, never an answer: it stops the node. Start-up is the only repair path.
#[derive(Debug, Error)]
pub(crate) enum StorageError {
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// What is stored cannot be what was written.
    #[error("{} is damaged: {detail}", path.display())]
    Corrupted { path: PathBuf, detail: String },
    /// The directory belongs to something else, or to a newer version.
    #[error("{} cannot be used: {detail}", path.display())]
    Foreign { path: PathBuf, detail: String },
    #[error("database: {0}")]
    Redb(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for StorageError {
    fn from(error: E) -> StorageError {
        StorageError::Redb(Box::new(error.into()))
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    move |source| StorageError::Io { action, path: path.to_path_buf(), source }
}
