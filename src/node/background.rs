//! What is done behind the writers' backs: checkpoints, compaction, defragmentation, scrubbing.
//!
//! One thread of its own, for it waits for the disk. It alone writes the database. It takes what
//! was applied since its last turn, with the log index that it reaches, and commits it in one
//! durable transaction; the log before that index may go. A crash loses nothing: the log is
//! replayed from where the database stands.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use crate::{
    limits,
    mvcc::CompactionStep,
    raft::{LogStore, Replica},
    storage::{Database, StorageError},
    telemetry::Metrics,
    types::Revision,
};

/// What the rest of the node may ask of this thread.
#[derive(Debug)]
pub(crate) enum Request {
    /// A compaction was applied; there is space to free.
    Compact,
    /// Answer once everything compacted so far has been freed on the disk.
    AwaitCompaction(oneshot::Sender<()>),
    Defragment(oneshot::Sender<Result<(), String>>),
    /// Answer once the database holds everything applied so far.
    Checkpoint(oneshot::Sender<()>),
    /// One last checkpoint, then end.
    Stop,
}

/// The thread's own things.
pub(crate) struct Background {
    pub(crate) replica: Arc<RwLock<Replica>>,
    pub(crate) database: Arc<Database>,
    pub(crate) log: LogStore,
    /// See [`Parts`](crate::raft::Parts).
    pub(crate) checkpointing: Arc<Mutex<()>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) requests: mpsc::Receiver<Request>,
    /// Index of the last log entry that the database holds.
    pub(crate) durable: watch::Sender<u64>,
    /// Learns of damage that the scrubber found.
    pub(crate) damage: watch::Sender<bool>,
    pub(crate) compaction_stride_keys: usize,
    pub(crate) compaction_pause: Duration,
}

/// What the thread has in hand.
struct Work {
    /// The index may hold what has been compacted.
    compacting: bool,
    /// Those who wait until everything compacted is off the disk.
    physical_waiters: Vec<oneshot::Sender<()>>,
    checkpoint_due: Instant,
    scrub_due: Instant,
    scrub_from: Revision,
}

/// Why the thread woke up.
enum Event {
    Request(Request),
    Due,
    /// The node is gone.
    Abandoned,
}

impl Background {
    /// Runs until told to stop. An error means that the database cannot be trusted any more: the
    /// node has to end, and start-up repairs it from the log.
    pub(crate) fn run(self) -> Result<(), StorageError> {
        let now = Instant::now();
        let mut work = Work {
            // A compaction that a crash interrupted goes on where it can.
            compacting: true,
            physical_waiters: Vec::new(),
            checkpoint_due: now + limits::CHECKPOINT_INTERVAL,
            scrub_due: now + limits::SCRUB_INTERVAL,
            scrub_from: Revision::default(),
        };
        loop {
            if work.compacting {
                work.compacting = self.compact_stride()?;
            }
            let idle = work.checkpoint_due.saturating_duration_since(Instant::now());
            match self.next_event(if work.compacting { self.compaction_pause } else { idle }) {
                Event::Due => {}
                Event::Request(Request::Compact) => work.compacting = true,
                Event::Request(Request::AwaitCompaction(waiter)) => {
                    work.physical_waiters.push(waiter);
                    work.compacting = true;
                }
                // Whoever asked may have gone; that is no reason not to go on.
                Event::Request(Request::Defragment(answer)) => {
                    self.metrics.defrag_inflight.set(1);
                    let result = self.defragment()?;
                    self.metrics.defrag_inflight.set(0);
                    let _ = answer.send(result);
                }
                Event::Request(Request::Checkpoint(answer)) => {
                    self.checkpoint()?;
                    let _ = answer.send(());
                }
                Event::Request(Request::Stop) | Event::Abandoned => {
                    self.checkpoint()?;
                    return Ok(());
                }
            }
            self.do_what_is_due(&mut work)?;
        }
    }

    fn next_event(&self, wait: Duration) -> Event {
        match self.requests.recv_timeout(wait) {
            Ok(request) => Event::Request(request),
            Err(mpsc::RecvTimeoutError::Timeout) => Event::Due,
            Err(mpsc::RecvTimeoutError::Disconnected) => Event::Abandoned,
        }
    }

    fn do_what_is_due(&self, work: &mut Work) -> Result<(), StorageError> {
        let is_awaited = !work.compacting && !work.physical_waiters.is_empty();
        if is_awaited {
            self.checkpoint_all()?;
            for waiter in work.physical_waiters.drain(..) {
                let _ = waiter.send(());
            }
        } else if Instant::now() >= work.checkpoint_due {
            let start = Instant::now();
            self.checkpoint()?;
            // However slow the disk is, most of its time belongs to the log.
            work.checkpoint_due = Instant::now() + limits::CHECKPOINT_INTERVAL.max(start.elapsed() * 2);
            // To see whether there is anything costs nothing.
            work.compacting = true;
        }
        if Instant::now() >= work.scrub_due {
            work.scrub_from = self.scrub(work.scrub_from);
            work.scrub_due = Instant::now() + limits::SCRUB_INTERVAL;
        }
        Ok(())
    }

    /// Moves what was applied since the last time into the database. True if there is more than
    /// one checkpoint takes.
    fn checkpoint(&self) -> Result<bool, StorageError> {
        let _checkpointing = self.checkpointing.lock();
        let mut replica = self.replica.write();
        let Some((captured, meta)) = replica.capture() else { return Ok(false) };
        let index = replica.applied_index();
        drop(replica);
        // A quorum of others may have committed what this member's own log does not hold yet.
        self.log.wait_for_disk(index);
        self.metrics.compacted_revisions.inc_by(captured.checkpoint.removed.len() as u64);
        let committing = Instant::now();
        let removed_bytes = self.database.commit(&captured.checkpoint)?;
        self.metrics.observe_checkpoint(committing.elapsed());
        self.replica.write().checkpointed(captured.rev, removed_bytes, meta)?;
        self.durable.send_replace(index);
        Ok(captured.more)
    }

    /// Until nothing is left that belongs into the database.
    fn checkpoint_all(&self) -> Result<(), StorageError> {
        while self.checkpoint()? {}
        Ok(())
    }

    /// Frees the history of some keys, or removes what was freed from some of the database. True
    /// if there is more to do.
    fn compact_stride(&self) -> Result<bool, StorageError> {
        let start = Instant::now();
        match self.compaction_step()? {
            CompactionStep::Idle => return Ok(false),
            CompactionStep::AwaitsCheckpoint => {
                self.checkpoint()?;
            }
            CompactionStep::More | CompactionStep::Read(_) => {
                self.metrics.observe_compaction_pause(start.elapsed());
            }
            CompactionStep::Finished(rev) => {
                tracing::info!(compact_revision = rev.0, "finished scheduled compaction");
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.metrics.compaction_last.set(now.as_secs() as i64);
            }
        }
        Ok(true)
    }

    fn compaction_step(&self) -> Result<CompactionStep, StorageError> {
        // A snapshot that is installed meanwhile would bring another database and another index.
        let _checkpointing = self.checkpointing.lock();
        let step = self.replica.write().state.mvcc.compaction_stride(self.compaction_stride_keys);
        let CompactionStep::Read(stride) = step else { return Ok(step) };
        let records = stride.load()?;
        if let Some(damage) = &records.damage {
            self.report_damage(damage);
        }
        let judged = self.replica.read().state.mvcc.judge(records);
        Ok(self.replica.write().state.mvcc.judged(judged))
    }

    /// Rewrites the database without its holes. Reads and writes go on: writes gather in memory
    /// and in the log meanwhile. A full disk is an answer and no reason to stop.
    fn defragment(&self) -> Result<Result<(), String>, StorageError> {
        let _timer = self.metrics.backend_defrag.start_timer();
        let start = Instant::now();
        while self.compact_stride()? {}
        self.checkpoint_all()?;
        let before = self.database.file_bytes()?;
        tracing::info!(current_db_size_bytes = before, "starting defragment");
        {
            let _checkpointing = self.checkpointing.lock();
            match self.database.defragment() {
                Ok(()) => {}
                Err(error @ StorageError::Unsettled { .. }) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "defragment failed; the database is as it was");
                    return Ok(Err(error.to_string()));
                }
            }
            self.replica.write().state.mvcc.defragmented()?;
        }
        self.checkpoint()?;
        tracing::info!(
            current_db_size_bytes_before = before,
            current_db_size_bytes = self.database.file_bytes()?,
            took = %humantime::format_duration(start.elapsed()),
            "finished defragment"
        );
        Ok(Ok(()))
    }

    /// Reads some records for no other reason than to see that they are what was written. Returns
    /// where to go on.
    fn scrub(&self, from: Revision) -> Revision {
        match self.database.verify_stride(from, limits::SCRUB_RECORDS) {
            Ok(next) => next.unwrap_or_default(),
            Err(error) => {
                self.report_damage(&error);
                Revision { main: from.main.next(), sub: 0 }
            }
        }
    }

    fn report_damage(&self, error: &StorageError) {
        tracing::error!(
            %error,
            "found damage in the database; what is damaged is not served. Replace the disk, and restore \
             this member from a backup or from its peers"
        );
        self.damage.send_replace(true);
    }
}
