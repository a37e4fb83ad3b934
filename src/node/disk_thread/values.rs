//! Files of large values that are not needed any more, or of which little is.

use std::{collections::BTreeSet, time::Instant};

use super::Checkpointer;
use crate::{
    clock, limits,
    node::scrub,
    storage::{Moving, StorageError},
    sync::watch,
};

pub(super) struct ValueKeeper {
    moving: Option<Moving>,
    /// Files with a value that cannot be read, and so cannot be moved.
    damaged: BTreeSet<u32>,
    /// The next slice, or the next look for one.
    due: Instant,
}

impl ValueKeeper {
    pub(super) fn new(now: Instant) -> ValueKeeper {
        ValueKeeper { moving: None, damaged: BTreeSet::new(), due: now + limits::VALUE_SWEEP_INTERVAL }
    }

    /// When the next slice comes, if values are being moved.
    pub(super) fn next_slice(&self) -> Option<Instant> {
        self.moving.as_ref().map(|_| self.due)
    }

    /// Removes files, or moves some values. Not while the database is copied: the copy would refer to what was moved.
    pub(super) fn turn(
        &mut self,
        checkpointer: &Checkpointer,
        damage: &watch::Sender<u64>,
        now: Instant,
    ) -> Result<(), StorageError> {
        if now < self.due {
            return Ok(());
        }
        self.due = now + limits::VALUE_SWEEP_INTERVAL;
        // A snapshot that is installed meanwhile would bring another database.
        let _checkpointing = checkpointer.checkpointing.lock();
        let database = &checkpointer.database;
        let bytes = database.sweep_values()?;
        if bytes > 0 {
            tracing::info!(bytes, "removed files of large values that are not needed any more");
        }
        let moving =
            self.moving.take().or_else(|| database.begin_moving(&|file| self.damaged.contains(&file)));
        let Some(mut moving) = moving else { return Ok(()) };
        let moved = match database.move_some(&mut moving) {
            Ok(moved) => moved,
            // There may be space later.
            Err(StorageError::NoSpace { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Some(error) = &moved.unread {
            tracing::warn!(%error, "could not read a large value to move it; will retry");
        }
        for found in &moved.damaged {
            scrub::tell(found);
            damage.send_modify(|found| *found += 1);
            self.damaged.insert(moving.file());
        }
        if moved.bytes > 0 && !database.holds_back() {
            let body = database.reader()?;
            let body_before = checkpointer.replica.write().state.mvcc.values_moved(body);
            drop(body_before);
        }
        if !moved.is_done {
            self.moving = Some(moving);
            let end = clock::now();
            self.due = end + (end - now) * limits::VALUE_MOVE_PAUSE_FACTOR;
        }
        Ok(())
    }
}
