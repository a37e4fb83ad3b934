//! Rewriting the database without its holes, a slice at a time.
//!
//! ```text
//! order -> Freeing (what had been compacted is freed first) -> Copying (in passes) -> the copy takes its place
//!             ^                                                  |
//!             +---- a snapshot was installed, with another file -+
//! ```
//!
//! Reads, writes and checkpoints go on meanwhile. A full disk is an answer and no reason to stop.

use std::{mem, time::Instant};

use super::{Checkpointer, Orders, compaction::Compaction};
use crate::{
    clock,
    limits::{self, Knob},
    mvcc::Size,
    node::lane::Run,
    storage::{Checkpoint, Copied, Defragmentation, Pass, StorageError, StoredRecord, StoredStretches},
    telemetry::{GoDuration, HumanBytes},
    threads::{self, Batch},
    types::Rev,
};

#[derive(Default)]
pub(super) struct Defragmenter {
    under_way: Option<UnderWay>,
}

/// A defragmentation that was begun. It goes on when its callers have gone, as in etcd: callers whose
/// patience is shorter than a large database takes count on that.
struct UnderWay {
    run: Run<(), Result<(), String>>,
    start: Instant,
    before: Size,
    stage: Stage,
}

enum Stage {
    /// What had been compacted up to here when it began is freed first.
    Freeing(Rev),
    Copying {
        copy: Box<Defragmentation>,
        passes: u32,
    },
}

impl Defragmenter {
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn is_copying(&self) -> bool {
        matches!(self.under_way, Some(UnderWay { stage: Stage::Copying { .. }, .. }))
    }

    /// The copy in the making, which has to be told of every checkpoint.
    pub(super) fn copy(&mut self) -> Option<&mut Defragmentation> {
        match &mut self.under_way {
            Some(UnderWay { stage: Stage::Copying { copy, .. }, .. }) => Some(copy),
            _ => None,
        }
    }

    /// Drops the copy; those who wait are told that the server stops.
    pub(super) fn abandon(&mut self) {
        self.under_way = None;
    }

    /// Begins a defragmentation if one was ordered, or does a slice of the one under way.
    pub(super) fn turn(
        &mut self,
        orders: &Orders,
        checkpointer: &mut Checkpointer,
        compaction: &mut Compaction,
        now: Instant,
    ) -> Result<(), StorageError> {
        if self.under_way.is_none() {
            let Some(run) = orders.defragmentations.take() else { return Ok(()) };
            self.under_way = Some(begin(run, checkpointer, now));
            compaction.order(true, false);
        }
        match self.slice(checkpointer, compaction) {
            Ok(false) => Ok(()),
            Ok(true) => self.finish(checkpointer, Ok(())),
            Err(error @ StorageError::Unsettled { .. }) => Err(error),
            Err(error) => {
                tracing::error!(%error, "defragmentation failed; the database is unchanged");
                self.finish(checkpointer, Err(error.to_string()))
            }
        }
    }

    /// True if it is done. An error leaves the database as it was, unless it is
    /// [`StorageError::Unsettled`].
    fn slice(
        &mut self,
        checkpointer: &mut Checkpointer,
        compaction: &Compaction,
    ) -> Result<bool, StorageError> {
        let Some(UnderWay { stage, .. }) = &mut self.under_way else { return Ok(true) };
        let (copy, passes) = match stage {
            Stage::Freeing(rev) => {
                let is_freed = checkpointer.replica.read().state.mvcc.rev_compact_finished() >= *rev;
                if is_freed || compaction.next_stride_after().is_none() {
                    *stage = begin_copy(checkpointer)?;
                }
                return Ok(false);
            }
            Stage::Copying { copy, passes } => (copy, passes),
        };
        let until = clock::now() + limits::DEFRAGMENTATION_SLICE;
        let stretches_max = Knob::DefragmentationStretches.or(limits::DEFRAGMENTATION_STRETCHES);
        let mut stretches = 0;
        let copied = loop {
            stretches += 1;
            match copy.step()? {
                Copied::More if clock::now() < until && stretches < stretches_max => {}
                copied => break copied,
            }
        };
        let Copied::Pass { bytes } = copied else { return Ok(false) };
        *passes += 1;
        assert!(*passes <= limits::DEFRAGMENTATION_PASSES_MAX, "a copy ends after its last pass");
        if bytes > limits::DEFRAGMENTATION_REST_BYTES && *passes < limits::DEFRAGMENTATION_PASSES_MAX {
            let _checkpointing = checkpointer.checkpointing.lock();
            if copy.is_of(&checkpointer.database) {
                copy.next_pass(&checkpointer.database)?;
            } else {
                *stage = BEGIN_AGAIN;
            }
            return Ok(false);
        }
        copy.sync()?;
        checkpointer.checkpoint(Some(copy))?;
        checkpointer.verify_settled()?;
        finish_copy(stage, checkpointer)
    }

    fn finish(
        &mut self,
        checkpointer: &mut Checkpointer,
        result: Result<(), String>,
    ) -> Result<(), StorageError> {
        let Some(UnderWay { run, start, before, .. }) = self.under_way.take() else { return Ok(()) };
        let metrics = &checkpointer.metrics;
        metrics.defrag_inflight.set(0);
        metrics.backend_defrag.observe(clock::since(start).as_secs_f64());
        if result.is_ok() {
            // With the size that it has now.
            checkpointer.checkpoint(None)?;
            let size = checkpointer.size();
            tracing::info!(
                path = %checkpointer.path().display(),
                "current-db-size-bytes-diff" = size.total - before.total,
                "current-db-size-bytes" = size.total,
                "current-db-size" = %HumanBytes(size.total),
                "current-db-size-in-use-bytes-diff" = size.in_use - before.in_use,
                "current-db-size-in-use-bytes" = size.in_use,
                "current-db-size-in-use" = %HumanBytes(size.in_use),
                took = %GoDuration(clock::since(start)),
                "finished defragmenting directory"
            );
            tracing::info!("finished defragment");
        }
        run.finish(result);
        Ok(())
    }
}

/// A snapshot was installed, and its file took the place of the one that is copied.
const BEGIN_AGAIN: Stage = Stage::Freeing(Rev::NEVER_COMPACTED);

fn begin(run: Run<(), Result<(), String>>, checkpointer: &Checkpointer, now: Instant) -> UnderWay {
    checkpointer.metrics.defrag_inflight.set(1);
    tracing::info!("starting defragment");
    // What `endpoint status` shows, before and afterwards.
    let before = checkpointer.size();
    tracing::info!(
        path = %checkpointer.path().display(),
        "current-db-size-bytes" = before.total,
        "current-db-size" = %HumanBytes(before.total),
        "current-db-size-in-use-bytes" = before.in_use,
        "current-db-size-in-use" = %HumanBytes(before.in_use),
        "defragmenting"
    );
    let stage = Stage::Freeing(checkpointer.replica.read().state.mvcc.rev_compacted());
    UnderWay { run, start: now, before, stage }
}

fn begin_copy(checkpointer: &mut Checkpointer) -> Result<Stage, StorageError> {
    // With these go all removals that are known.
    checkpointer.checkpoint_all()?;
    checkpointer.verify_settled()?;
    let _checkpointing = checkpointer.checkpointing.lock();
    let copy = Box::new(Defragmentation::begin(&checkpointer.database, read_ahead)?);
    Ok(Stage::Copying { copy, passes: 0 })
}

/// Has another thread read what is copied, ahead of the one that writes it.
pub(in crate::node) fn read_ahead(all: StoredStretches) -> Pass {
    let limit = Batch {
        items: limits::DEFRAGMENTATION_BATCH_STRETCHES,
        bytes: limits::DEFRAGMENTATION_BATCH_STRETCHES * limits::STRETCH_BYTES,
    };
    let bytes = |stretch: &Result<Checkpoint<StoredRecord>, StorageError>| {
        stretch.as_ref().map_or(0, Checkpoint::bytes)
    };
    Box::new(threads::ahead("retcd-defrag", all, limit, bytes))
}

/// Puts the copy in the database's place. False if the copy is of a database that is gone.
fn finish_copy(stage: &mut Stage, checkpointer: &Checkpointer) -> Result<bool, StorageError> {
    let _checkpointing = checkpointer.checkpointing.lock();
    match mem::replace(stage, BEGIN_AGAIN) {
        Stage::Copying { copy, .. } if copy.is_of(&checkpointer.database) => {
            checkpointer.database.finish_defragmentation(*copy)?;
            let body = checkpointer.database.reader()?;
            let body_before = checkpointer.replica.write().state.mvcc.defragmented(body);
            // With its last reader the old file is closed.
            drop(body_before);
            Ok(true)
        }
        Stage::Copying { .. } | Stage::Freeing(_) => Ok(false),
    }
}
