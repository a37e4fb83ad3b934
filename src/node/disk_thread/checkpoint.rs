//! Checkpoints: what was applied goes into the database.

use std::{path::PathBuf, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::{
    clock, limits,
    mvcc::{Size, Step},
    raft::{LogStore, Replica},
    storage::{Database, Defragmentation, StorageError},
    telemetry::Metrics,
    types::Rev,
};

/// The one that writes the database. Only the disk thread has it.
pub(crate) struct Checkpointer {
    pub(crate) replica: Arc<RwLock<Replica>>,
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
}

impl Checkpointer {
    /// Moves what was applied since the last time into the database, and tells a copy of the database
    /// that is being made. True if there is more than one checkpoint takes. Nothing is stored once an
    /// entry was applied in part: the member ends, and its log has what the database lacks.
    pub(super) fn checkpoint(&mut self, copy: Option<&mut Defragmentation>) -> Result<bool, StorageError> {
        let _checkpointing = self.checkpointing.lock();
        let entry = self.entry.blocking_lock();
        let mut replica = self.replica.write();
        if replica.is_half_applied() {
            return Ok(false);
        }
        let index = replica.applied_index();
        let durable = *self.durable.borrow();
        assert!(durable <= index, "the database holds entry {durable}, and only {index} was applied");
        let Some((mut captured, meta)) = replica.capture() else {
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
        let committing = clock::now();
        let removed_bytes = self.database.commit(&captured.checkpoint)?;
        self.metrics.observe_checkpoint(clock::since(committing));
        if let Some(copy) = copy {
            copy.committed(&captured.checkpoint);
        }
        let mut replica = self.replica.write();
        assert!(index <= replica.applied_index(), "no snapshot is installed during a checkpoint");
        replica.checkpointed(captured.rev, removed_bytes, meta)?;
        let compacted = replica.state.mvcc.rev_compact_finished();
        drop(replica);
        self.trim();
        let before = self.durable.send_replace(index);
        assert!(before <= index, "the database holds entry {before} already, and is said to end at {index}");
        self.compacted.send_if_modified(|known| std::mem::replace(known, compacted) != compacted);
        Ok(captured.more)
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
