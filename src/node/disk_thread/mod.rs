//! The disk thread: checkpoints, compaction, values that are moved, defragmentation, scrubbing.
//!
//! This thread alone writes the database, and it is a thread of its own because it waits for the
//! disk. A checkpoint takes what was applied since the one before, with the log index that this
//! reaches, and commits it in one durable transaction; the log before that index may be released
//! then. A crash loses nothing: the next start replays the log from where the database stands.
//!
//! Whatever takes long is done in strides, with checkpoints between them, because everything that is
//! applied stays in memory until a checkpoint has stored it.

mod checkpoint;
mod compaction;
mod defragmentation;
mod orders;
#[cfg(test)]
mod tests;
mod values;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use checkpoint::Checkpointer;
pub(crate) use orders::Orders;

pub(super) use self::defragmentation::read_ahead;
use self::{compaction::Compaction, defragmentation::Defragmenter, values::ValueKeeper};
use super::scrub::Scrubber;
use crate::{clock, limits, storage::StorageError, sync::watch, turn::Wait};

/// The state of the thread.
pub(crate) struct DiskThread {
    orders: Arc<Orders>,
    checkpointer: Checkpointer,
    compaction: Compaction,
    defragmenter: Defragmenter,
    values: ValueKeeper,
    scrubber: Scrubber,
    checkpoint_due: Instant,
    scrub_due: Instant,
    space_due: Instant,
    /// How often damage was found.
    damage: watch::Sender<u64>,
}

impl DiskThread {
    pub(crate) fn new(
        orders: Arc<Orders>,
        checkpointer: Checkpointer,
        compaction_stride_keys: usize,
        compaction_pause: Duration,
        damage: watch::Sender<u64>,
    ) -> DiskThread {
        let now = clock::now();
        DiskThread {
            orders,
            checkpointer,
            compaction: Compaction::new(compaction_stride_keys, compaction_pause),
            defragmenter: Defragmenter::default(),
            values: ValueKeeper::new(now),
            scrubber: Scrubber::new(now),
            checkpoint_due: now + limits::CHECKPOINT_INTERVAL,
            scrub_due: now + limits::SCRUB_INTERVAL,
            space_due: now,
            damage,
        }
    }

    /// Takes turns until the thread is told to stop. An error means that the database cannot be
    /// trusted any more: the member has to end, and the next start repairs the database from the log.
    pub(crate) fn run(mut self) -> Result<(), StorageError> {
        loop {
            match self.turn(clock::now())? {
                Wait::No => {}
                Wait::Until(time) => self.orders.wait_until(time),
                Wait::Ended => return Ok(()),
            }
        }
    }

    /// The same for a simulated member, whose threads are tasks and must not block.
    #[cfg(test)]
    pub(crate) async fn run_as_task(mut self) -> Result<(), StorageError> {
        loop {
            while !self.checkpointer.is_free() {
                tokio::time::sleep(crate::threads::SIMULATED_PAUSE).await;
            }
            match self.turn(clock::now())? {
                Wait::No => tokio::time::sleep(crate::threads::SIMULATED_PAUSE).await,
                Wait::Until(time) => self.orders.given_until(time).await,
                Wait::Ended => return Ok(()),
            }
        }
    }

    /// Does what was ordered or is due: at most one checkpoint, a stride of compaction, a slice of
    /// defragmentation and a stride of scrubbing. It may make further checkpoints where one of the
    /// latter needs them.
    fn turn(&mut self, now: Instant) -> Result<Wait, StorageError> {
        let ordered = self.orders.take();
        if ordered.stop || self.orders.is_abandoned() {
            self.defragmenter.abandon();
            self.checkpointer.checkpoint(None)?;
            return Ok(Wait::Ended);
        }
        assert!(
            !ordered.physical_compaction || ordered.compaction,
            "a physical compaction that is awaited is ordered too"
        );
        self.compaction.order(ordered.compaction, ordered.physical_compaction);
        if now >= self.space_due {
            self.checkpointer.reserve_space()?;
            self.space_due = clock::now() + limits::SPACE_INTERVAL;
        }
        if ordered.checkpoint || now >= self.checkpoint_due {
            self.checkpoint(now)?;
        }
        if !self.defragmenter.is_copying() {
            self.compaction.turn(&mut self.checkpointer, &self.damage, now)?;
            self.values.turn(&self.checkpointer, &self.damage, now)?;
        }
        self.defragmenter.turn(&self.orders, &mut self.checkpointer, &mut self.compaction, now)?;
        if now >= self.scrub_due {
            if self.scrubber.turn(&self.checkpointer.database, now) {
                self.damage.send_modify(|found| *found += 1);
            }
            self.scrub_due = clock::now() + limits::SCRUB_INTERVAL;
        }
        Ok(self.wait())
    }

    fn wait(&self) -> Wait {
        if self.defragmenter.is_busy() {
            return Wait::No;
        }
        let due = match self.compaction.next_stride_after() {
            Some(pause) => clock::now() + pause,
            None => self.checkpoint_due,
        };
        Wait::Until(self.values.next_slice().map_or(due, |slice| slice.min(due)))
    }

    fn checkpoint(&mut self, now: Instant) -> Result<(), StorageError> {
        self.checkpointer.checkpoint(self.defragmenter.copy())?;
        // However slow the disk is, most of its time belongs to the log.
        let pause = limits::CHECKPOINT_INTERVAL.max(clock::since(now) * 2);
        self.checkpoint_due = clock::now() + pause;
        // To see whether there is anything to compact costs nothing.
        self.compaction.order(true, false);
        Ok(())
    }
}
