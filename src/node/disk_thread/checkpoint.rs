//! Checkpoints: what was applied goes into the database.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use crate::{
    clock, limits,
    mvcc::{Size, Step},
    node::space::Space,
    raft::{LogMark, LogStore, ReplicaLock},
    storage::{Database, Defragmentation, Reserve, StorageError},
    sync::watch,
    telemetry::Metrics,
    types::Rev,
};

/// The one that writes the database. Only the disk thread has it.
pub(crate) struct Checkpointer {
    pub(crate) replica: Arc<ReplicaLock>,
    pub(crate) database: Arc<Database>,
    pub(crate) log: LogStore,
    /// See [`Parts`](crate::raft::Parts).
    pub(crate) checkpointing: Arc<Mutex<()>>,
    /// See [`Parts`](crate::raft::Parts).
    pub(crate) entry: Arc<tokio::sync::Mutex<()>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Index of the last log entry that the database holds.
    pub(crate) durable: watch::Sender<u64>,
    /// What was compacted up to here is off the disk.
    pub(crate) compacted: watch::Sender<Rev>,
    /// Space of the disk for checkpoints when the disk is full.
    pub(crate) reserve: Reserve,
    /// A checkpoint that was committed, and that the disk has no room for.
    pub(crate) held_back: Option<Committed>,
    pub(crate) space: Arc<Space>,
}

/// A checkpoint that is durable, or will be.
pub(crate) struct Committed {
    rev: Rev,
    /// Of the log, up to which the checkpoint goes.
    index: u64,
    mark: LogMark,
    removed_bytes: u64,
}

impl Checkpointer {
    /// Moves what was applied since the last time into the database, and tells a copy of the database
    /// that is being made. True if there is more than one checkpoint takes. Nothing is stored once an
    /// entry was applied in part: the member ends, and its log has what the database lacks. While the
    /// disk has no room for a checkpoint, that one is held back, and no further one is made.
    pub(super) fn checkpoint(&mut self, copy: Option<&mut Defragmentation>) -> Result<bool, StorageError> {
        let checkpointing = self.checkpointing.clone();
        let _checkpointing = checkpointing.lock();
        // A log that waits for space may not hold what was applied; nobody waits for that here.
        if !self.settle()? || self.log.lacks_space() {
            return Ok(false);
        }
        let entry_lock = self.entry.clone();
        // A simulated thread must not block, and takes its turn only while this lock is free.
        let entry = entry_lock.try_lock();
        let entry = entry.unwrap_or_else(|_| entry_lock.blocking_lock());
        let mut replica = self.replica.write();
        if replica.is_half_applied() {
            return Ok(false);
        }
        let index = replica.applied_index();
        let durable = *self.durable.borrow();
        assert!(durable <= index, "the database holds entry {durable}, and only {index} was applied");
        let Some((mut captured, mark)) = replica.capture() else {
            drop(replica);
            self.durable.send_if_modified(|durable| std::mem::replace(durable, index) != index);
            return Ok(false);
        };
        drop(replica);
        drop(entry);
        // No snapshot is installed during a checkpoint, so it is the same state.
        while self.replica.read().state.gather(&mut captured) == Step::More {}
        // A quorum of others may have committed what this member's own log does not hold yet.
        self.log.wait_for_disk(index);
        self.metrics.compacted_revisions.inc_by(captured.checkpoint.removed.len() as u64);
        #[cfg(test)]
        if crate::planted::is(crate::planted::Bug::AppliedIdBeforeData) {
            let cells = captured.checkpoint.cells.clone();
            self.database.commit(&crate::storage::Checkpoint { cells, ..Default::default() })?;
        }
        let committing = clock::now();
        let removed_bytes = self.database.commit_or_hold_back(&captured.checkpoint)?;
        self.metrics.observe_checkpoint(clock::since(committing));
        #[cfg(test)]
        let copy = copy.filter(|_| !crate::planted::is(crate::planted::Bug::DefragmentationForgets));
        if let Some(copy) = copy {
            copy.committed(&captured.checkpoint);
        }
        let committed = Committed { rev: captured.rev, index, mark, removed_bytes };
        if !self.database.holds_back() {
            self.stored(committed)?;
            return Ok(captured.more);
        }
        assert!(self.held_back.is_none(), "one checkpoint is held back at a time");
        self.held_back = Some(committed);
        self.reserve.release();
        Ok(self.settle()? && captured.more)
    }

    /// Whether a turn would wait for nobody: no entry is being applied, and the log holds all that was.
    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        let applied = self.replica.read().applied_index();
        self.entry.try_lock().is_ok() && self.log.is_on_disk(applied)
    }

    /// Stores a checkpoint that was held back. False if the disk still has no room for it.
    fn settle(&mut self) -> Result<bool, StorageError> {
        let was_held_back = self.database.holds_back();
        if was_held_back && !self.database.settle()? {
            return Ok(false);
        }
        // Values that were moved may be held back too, and are no checkpoint.
        let Some(committed) = self.held_back.take() else { return Ok(true) };
        // Otherwise a snapshot took the place of the database, and with it of this checkpoint.
        if was_held_back {
            self.stored(committed)?;
        }
        Ok(true)
    }

    /// A checkpoint is durable.
    fn stored(&mut self, committed: Committed) -> Result<(), StorageError> {
        let Committed { rev, index, mark, removed_bytes } = committed;
        let body = self.database.reader()?;
        let mut replica = self.replica.write();
        assert!(index <= replica.applied_index(), "no snapshot is installed during a checkpoint");
        let body_before = replica.checkpointed(rev, removed_bytes, mark, body);
        let compacted = replica.state.mvcc.rev_compact_finished();
        drop(replica);
        drop(body_before);
        self.trim();
        let before = self.durable.send_replace(index);
        assert!(before <= index, "the database holds entry {before} already, and is said to end at {index}");
        self.compacted.send_if_modified(|known| std::mem::replace(known, compacted) != compacted);
        Ok(())
    }

    /// Reserves space for the next segment of the log and for checkpoints, and notes where the disk has
    /// none.
    pub(super) fn reserve_space(&mut self) -> Result<(), StorageError> {
        let mut full = Vec::new();
        if !self.log.reserve_next_segment()? {
            full.push(self.log.dir());
        }
        if self.database.holds_back() || !self.reserve.fill()? {
            full.push(self.database.dir().to_owned());
        }
        self.space.note(full);
        Ok(())
    }

    /// A database that holds something back has not the file that a copy of it would replace.
    pub(super) fn verify_settled(&self) -> Result<(), StorageError> {
        match self.database.holds_back() {
            false => Ok(()),
            true => Err(StorageError::NoSpace { what: "a checkpoint", path: self.path() }),
        }
    }

    /// Makes checkpoints until nothing is left that belongs into the database. There must be no copy
    /// of the database in the making, which would have to be told.
    pub(super) fn checkpoint_all(&mut self) -> Result<(), StorageError> {
        while self.checkpoint(None)? {}
        Ok(())
    }

    /// Drops records from memory that the database holds, as many as the cache has too many.
    fn trim(&self) {
        loop {
            let trimmed = self.replica.write().state.mvcc.trim(limits::CAPTURE_STRIDE_RECORDS);
            if trimmed.is_empty() {
                return;
            }
        }
    }

    pub(super) fn size(&self) -> Size {
        self.replica.read().state.mvcc.size()
    }

    /// Of the database's file.
    pub(super) fn path(&self) -> PathBuf {
        self.database.dir().join("db")
    }
}
