//! What redb reads and writes: a file of a [`Disk`](crate::disk::Disk).

use std::{io, ops::Bound, sync::Arc};

use redb::{BackendError, StorageBackend};

use crate::disk::DiskFile;

/// The file of a database. The database has the lock of the file for as long as it is open.
#[derive(Debug)]
pub(super) struct FileBackend(pub(super) Arc<dyn DiskFile>);

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }

    fn close(&self) -> io::Result<()> {
        self.0.unlock()
    }

    /// Locks the whole file. redb asks for that where parts of it cannot be locked.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        match (start, end) {
            (Bound::Unbounded | Bound::Included(0), Bound::Unbounded) => Ok(self.0.try_lock()?),
            _ => Err(BackendError::Unsupported),
        }
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(self.0.unlock()?)
    }
}
