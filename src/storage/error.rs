//! What can go wrong with this node's own disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::inside::Inside;

/// For a file that cannot be opened.
pub(crate) const REMEDY: &str =
    "restore a snapshot, or remove the member and add it again with an empty data directory";

/// A failure of this node, never an answer: it stops the node. Start-up is the only repair path.
#[derive(Debug, Error)]
pub(crate) enum StorageError {
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// There is no space for what should be written next, and nothing was written. It may be tried
    /// again. After any other error of a write it is unknown what was written.
    #[error("the disk is full: no space for {what} in {}", path.display())]
    NoSpace { what: &'static str, path: PathBuf },
    /// What is stored cannot be what was written.
    #[error("{} is damaged: {detail}", path.display())]
    Corrupted { path: PathBuf, detail: String },
    /// The directory belongs to something else, or to a newer version.
    #[error("{} cannot be used: {detail}", path.display())]
    Foreign { path: PathBuf, detail: String },
    /// A file was being replaced, and nobody knows which of the two has the name after a crash.
    #[error(
        "{} was being replaced when the disk failed: {detail}. The server does not write to it any more, because after a \
         crash that name may be the old file or the new one. Either file and the log together have all data: \
         check the disk, and start the server again",
        path.display()
    )]
    Unsettled { path: PathBuf, detail: String },
    #[error("database: {0}")]
    Redb(Box<redb::Error>),
}

impl StorageError {
    /// Whether what is on the disk is not what was written, or cannot be read any more. Everything
    /// else says something about this process or its moment.
    pub(crate) fn is_damage(&self) -> bool {
        let is_of_disk = |error: &io::Error| {
            // What is there says so as well: an end where there should be more, or a bad sector.
            error.kind() == io::ErrorKind::UnexpectedEof
                || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        };
        match self {
            StorageError::Corrupted { .. } => true,
            StorageError::Io { source, .. } => is_of_disk(source),
            StorageError::Redb(error) => match &**error {
                redb::Error::Corrupted(_) => true,
                redb::Error::Io(error) => is_of_disk(error),
                _ => false,
            },
            StorageError::NoSpace { .. } | StorageError::Foreign { .. } | StorageError::Unsettled { .. } => {
                false
            }
        }
    }
}

impl<E: Into<redb::Error>> From<E> for StorageError {
    fn from(error: E) -> StorageError {
        let error = error.into();
        let Some(path) = Inside::file() else { return StorageError::Redb(Box::new(error)) };
        match error {
            redb::Error::Corrupted(detail) => corrupted(&path, format!("{detail}; {REMEDY}")),
            redb::Error::Io(source) => io_error("read or write", &path)(source),
            // The tables are always of the same types, and what is inserted at an end of one is behind all that is in it: what
            // redb found of them is not what it has written.
            unlike @ (redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::UnorderedKey) => corrupted(&path, format!("{unlike}; {REMEDY}")),
            other => StorageError::Redb(Box::new(other)),
        }
    }
}

/// Names the action and the file of an error of the system.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    move |source| StorageError::Io { action, path: path.to_path_buf(), source }
}

pub(super) fn corrupted(path: &Path, detail: String) -> StorageError {
    StorageError::Corrupted { path: path.to_path_buf(), detail }
}

/// A file that redb refuses to open, in words for an operator.
pub(super) fn not_opened(error: redb::DatabaseError, path: &Path) -> StorageError {
    use redb::{DatabaseError, StorageError as RedbError};

    let foreign = |detail: String| StorageError::Foreign { path: path.to_path_buf(), detail };
    match error {
        DatabaseError::DatabaseAlreadyOpen => foreign("another process is using it".to_owned()),
        DatabaseError::UpgradeRequired(version) => {
            foreign(format!("it has redb's file format {version}, which this version does not read"))
        }
        DatabaseError::Storage(RedbError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            foreign(error.to_string())
        }
        DatabaseError::Storage(RedbError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            corrupted(path, format!("the file is shorter than it should be; {REMEDY}"))
        }
        DatabaseError::Storage(RedbError::Io(source)) => io_error("open", path)(source),
        DatabaseError::Storage(RedbError::Corrupted(detail)) => {
            corrupted(path, format!("{detail}; {REMEDY}"))
        }
        other => other.into(),
    }
}
