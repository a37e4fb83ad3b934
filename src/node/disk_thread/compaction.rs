//! Freeing what was compacted, a stride at a time.

use std::{
    mem,
    time::{Duration, Instant},
};

use super::Checkpointer;
use crate::{
    clock,
    limits::{COMPACTION_PAUSE_FACTOR, COMPACTION_PAUSE_MIN},
    mvcc::CompactionStep,
    node::scrub,
    storage::StorageError,
    sync::watch,
    telemetry::{GoDuration, HumanBytes},
    types::Rev,
};

pub(super) struct Compaction {
    stride_keys: usize,
    /// Between two strides, at most.
    pause_max: Duration,
    /// Before the next stride.
    pause: Duration,
    /// There may be something that has been compacted and not freed.
    is_ordered: bool,
    /// Somebody waits for that.
    is_awaited: bool,
    /// When the compaction began that is under way.
    began: Option<Instant>,
}

impl Compaction {
    pub(super) fn new(stride_keys: usize, pause_max: Duration) -> Compaction {
        assert!(stride_keys > 0, "a stride of a compaction takes at least one key");
        // A compaction that a crash interrupted goes on where it can.
        Compaction {
            stride_keys,
            pause_max,
            pause: pause_max,
            is_ordered: true,
            is_awaited: false,
            began: None,
        }
    }

    pub(super) fn order(&mut self, compaction: bool, is_awaited: bool) {
        self.is_ordered |= compaction;
        self.is_awaited |= is_awaited;
    }

    /// How long to pause before the next stride; `None` if there is nothing to free.
    pub(super) fn next_stride_after(&self) -> Option<Duration> {
        self.is_ordered.then_some(self.pause)
    }

    /// Frees the history of some keys, or removes what was freed from some of the database. Not
    /// while the database is copied: nothing may be removed from it then.
    pub(super) fn turn(
        &mut self,
        checkpointer: &mut Checkpointer,
        damage: &watch::Sender<u64>,
        now: Instant,
    ) -> Result<(), StorageError> {
        if !self.is_ordered {
            return Ok(());
        }
        let start = clock::now();
        let step = self.step(checkpointer, damage)?;
        if !matches!(step, CompactionStep::Idle) {
            self.began.get_or_insert(now);
        }
        self.pause = self.pause_max;
        match step {
            CompactionStep::Idle => {
                self.is_ordered = false;
                if mem::take(&mut self.is_awaited) {
                    checkpointer.checkpoint_all()?;
                }
            }
            CompactionStep::AwaitsCheckpoint => {
                checkpointer.checkpoint(None)?;
            }
            // Readers are done sooner or later, and it is tried again after the pause.
            CompactionStep::AwaitsReaders => {}
            CompactionStep::More | CompactionStep::Read(_) => {
                let took = clock::since(start);
                checkpointer.metrics.observe_compaction_pause(took);
                let pause = COMPACTION_PAUSE_MIN.max(took * COMPACTION_PAUSE_FACTOR);
                self.pause = self.pause_max.min(pause);
            }
            CompactionStep::Finished(rev) => self.finished(checkpointer, rev, now),
        }
        Ok(())
    }

    fn step(
        &self,
        checkpointer: &Checkpointer,
        damage: &watch::Sender<u64>,
    ) -> Result<CompactionStep, StorageError> {
        // A snapshot that is installed meanwhile would bring another database and another index.
        let _checkpointing = checkpointer.checkpointing.lock();
        let replica = &checkpointer.replica;
        let step = replica.write().state.mvcc.compaction_stride(self.stride_keys);
        let CompactionStep::Read(stride) = step else { return Ok(step) };
        let records = stride.load()?;
        if let Some(found) = &records.damage {
            scrub::tell(found);
            damage.send_modify(|found| *found += 1);
        }
        let judged = replica.read().state.mvcc.judge(records);
        Ok(replica.write().state.mvcc.judged(judged))
    }

    fn finished(&mut self, checkpointer: &Checkpointer, rev: Rev, now: Instant) {
        let compacted = checkpointer.replica.read().state.mvcc.rev_compacted();
        assert!(rev <= compacted, "history is freed up to {}, and compacted up to {}", rev.0, compacted.0);
        let size = checkpointer.size();
        let took = clock::since(self.began.take().unwrap_or(now));
        tracing::info!(
            "compact-revision" = rev.0,
            took = %GoDuration(took),
            "current-db-size-bytes" = size.total,
            "current-db-size" = %HumanBytes(size.total),
            "current-db-size-in-use-bytes" = size.in_use,
            "current-db-size-in-use" = %HumanBytes(size.in_use),
            "finished scheduled compaction"
        );
        checkpointer.metrics.compaction_last.set(clock::wall().as_secs() as i64);
        checkpointer.metrics.observe_compaction(took);
    }
}
