//! What redb reads and writes: a file of a [`Disk`](crate::disk::Disk), and in memory what the disk has
//! no room for.
//!
//! redb writes page after page, in no order. They wait until there are many of them or redb syncs the file, and are then
//! written in runs. The kernel is not asked to begin early with that: some pages of a large checkpoint are written more than
//! once, and only their last contents have to reach the disk.
//!
//! redb never uses a file again after one operation on it has failed, not even to read it. So an
//! operation that fails because the disk is full is not reported to redb. That operation and all
//! further ones are held back in memory, in their order, and reads see them. To redb the transaction is
//! committed, and to everybody else it is not: the file is as the transaction before left it, as if the
//! power had failed, until [`HeldBack::settle`] has made up for all that was held back.

use std::{
    collections::VecDeque,
    io,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};

use super::unwritten::Unwritten;
use crate::{
    disk::{self, DiskFile},
    limits,
};

/// The file of a database. The database has the lock of the file for as long as it is open.
#[derive(Debug)]
pub(super) struct FileBackend {
    pub(super) file: Arc<dyn DiskFile>,
    /// Empty while something is held back.
    unwritten: Unwritten,
    held_back: Arc<HeldBack>,
}

/// Operations that the disk had no room for, and those after them.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    is_any: AtomicBool,
    operations: Mutex<VecDeque<Operation>>,
}

#[derive(Debug)]
enum Operation {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
    Sync,
}

impl FileBackend {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> FileBackend {
        FileBackend { file, unwritten: Unwritten::default(), held_back: Arc::default() }
    }

    pub(super) fn held_back(&self) -> Arc<HeldBack> {
        self.held_back.clone()
    }

    /// Does an operation, or holds it back.
    fn change(
        &self,
        change: impl FnOnce(&dyn DiskFile) -> io::Result<()>,
        operation: impl FnOnce() -> Operation,
    ) -> io::Result<()> {
        if !self.held_back.is_any() {
            match change(&*self.file) {
                Err(error) if disk::is_full(&error) => {}
                result => return result,
            }
        }
        self.held_back.push(operation());
        Ok(())
    }

    /// Writes what waits for that, or holds it back.
    fn write_out(&self) -> io::Result<()> {
        self.unwritten.write_out(|offset, run| {
            self.change(
                |file| file.write_at(run, offset),
                || Operation::Write { offset, data: run.to_owned() },
            )
        })
    }
}

impl HeldBack {
    pub(super) fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Acquire)
    }

    /// Does what was held back, in order. False if the disk has no room for all of it. After another
    /// error it is unknown what is in the file.
    pub(super) fn settle(&self, file: &dyn DiskFile) -> io::Result<bool> {
        loop {
            let mut operations = self.operations.lock();
            let done = match operations.front() {
                None => {
                    self.is_any.store(false, Ordering::Release);
                    return Ok(true);
                }
                Some(Operation::Write { offset, data }) => file.write_at(data, *offset),
                Some(Operation::SetLen(len)) => file.set_len(*len),
                Some(Operation::Sync) => {
                    // Readers do not wait for the sync, and nobody adds operations meanwhile: only one
                    // thread writes a database, and that thread is here.
                    drop(operations);
                    file.sync_data()?;
                    operations = self.operations.lock();
                    Ok(())
                }
            };
            match done {
                Ok(()) => drop(operations.pop_front()),
                Err(error) if disk::is_full(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn push(&self, operation: Operation) {
        let mut operations = self.operations.lock();
        let is_first = operations.is_empty();
        assert!(
            !is_first || !matches!(operation, Operation::Sync),
            "a sync is held back behind a change only"
        );
        operations.push_back(operation);
        self.is_any.store(true, Ordering::Release);
    }

    fn len(&self, file: &dyn DiskFile) -> io::Result<u64> {
        let operations = self.operations.lock();
        Ok(operations.iter().fold(file.len()?, |len, operation| match operation {
            Operation::Write { offset, data } => len.max(offset + data.len() as u64),
            Operation::SetLen(len) => *len,
            Operation::Sync => len,
        }))
    }

    fn read(&self, file: &dyn DiskFile, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let operations = self.operations.lock();
        // The file is as long as it could be made.
        let in_file = file.len()?.saturating_sub(offset).min(out.len() as u64) as usize;
        if in_file > 0 {
            file.read_at(&mut out[..in_file], offset)?;
        }
        out[in_file..].fill(0);
        let end = offset + out.len() as u64;
        for operation in operations.iter() {
            let Operation::Write { offset: at, data } = operation else { continue };
            let (from, until) = (offset.max(*at), end.min(at + data.len() as u64));
            if from < until {
                let data = &data[(from - at) as usize..(until - at) as usize];
                out[(from - offset) as usize..(until - offset) as usize].copy_from_slice(data);
            }
        }
        Ok(())
    }
}

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        if self.held_back.is_any() { self.held_back.len(&*self.file) } else { self.file.len() }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.unwritten.read(offset, out, |offset, out| match self.held_back.is_any() {
            true => self.held_back.read(&*self.file, offset, out),
            false => self.file.read_at(out, offset),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write_out()?;
        self.change(|file| file.set_len(len), || Operation::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.write_out()?;
        if self.held_back.is_any() {
            self.held_back.push(Operation::Sync);
            return Ok(());
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.held_back.is_any() {
            self.held_back.push(Operation::Write { offset, data: data.to_owned() });
            return Ok(());
        }
        while !self.unwritten.add(offset, data) {
            self.write_out()?;
        }
        if self.unwritten.bytes() > limits::UNWRITTEN_BYTES { self.write_out() } else { Ok(()) }
    }

    fn close(&self) -> io::Result<()> {
        self.file.unlock()
    }

    /// Locks the whole file. redb asks for that where parts of it cannot be locked.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        match (start, end) {
            (Bound::Unbounded | Bound::Included(0), Bound::Unbounded) => Ok(self.file.try_lock()?),
            _ => Err(BackendError::Unsupported),
        }
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(self.file.unlock()?)
    }
}
