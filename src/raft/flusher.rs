//! The thread that waits for the disk where the core thread must not.
//!
//! In each turn the thread takes the jobs that have gathered since its last one, writes them as one
//! frame, syncs the frame, and reports completion in the order in which the jobs were submitted.
//! After an error nothing more is written to the log, and every job is told of the error. A disk without
//! space for the next segment is not such an error: the thread waits for space, and so does every job.
//!
//! The queue has no bound of its own, for the core must not wait for it; what can be in it is
//! bounded by who waits for completion. On a leader that is every proposal: each member has four
//! batches under way and no more (`node::core`). On a follower it is the leader: what it has sent
//! and has no answer to stays within `limits::APPENDS_IN_FLIGHT` and `APPENDS_IN_FLIGHT_BYTES`.
//! Votes, truncations and purges are waited for one by one.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, oneshot};

use super::{stages::SlowSyncs, typ::TypeConfig};
use crate::{
    clock, limits,
    storage::StorageError,
    telemetry::{GoDuration, Metrics},
    threads,
    wal::{FrameBuffer, HardState, LogPosition, Wal, WalReader},
};

/// Bytes gathered for one sync, at most. What is over waits for the next one.
const GATHER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A sync that takes longer gets a line in the log, whether anybody waited for it or not.
const SLOW_SYNC: Duration = Duration::from_secs(1);

pub(super) struct Flusher {
    wal: Mutex<State>,
    reader: WalReader,
    /// Jobs submitted and not reported.
    pending: AtomicUsize,
    /// As [`Wal::room`], for those who must not wait for the disk.
    room: AtomicU64,
    /// The thread has a frame that the disk has no space for.
    lacks_space: AtomicBool,
    /// Space was reserved.
    space_came: Condvar,
    /// As [`Wal::sealed`], for those who must not wait for a sync.
    sealed: Mutex<Vec<u64>>,
    /// The last entry that is on the disk.
    flushed: Mutex<u64>,
    advanced: Condvar,
    /// Started with the first job.
    queue: Mutex<Option<mpsc::UnboundedSender<Job>>>,
    metrics: Arc<Metrics>,
    pub(super) slow_syncs: Arc<SlowSyncs>,
}

struct State {
    wal: Wal,
    /// Writing has failed: what is on the disk is unknown.
    is_broken: bool,
}

pub(super) struct Job {
    pub(super) frame: FrameBuffer,
    /// The log's last entry once this is written; `None` if it does not change that.
    pub(super) last_index: Option<u64>,
    pub(super) effect: Effect,
    pub(super) done: Done,
}

/// What the log itself has to know of a frame that is on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    None,
    HardState(HardState),
    Purge(LogPosition),
}

pub(super) enum Done {
    Append(IOFlushed<TypeConfig>),
    Waiter(oneshot::Sender<io::Result<()>>),
    /// Nobody waits for this job: it is followed by one that somebody waits for.
    Nobody,
}

impl Flusher {
    pub(super) fn new(wal: Wal, last_index: u64, metrics: Arc<Metrics>) -> Flusher {
        Flusher {
            reader: wal.reader(),
            room: AtomicU64::new(wal.room()),
            lacks_space: AtomicBool::new(false),
            space_came: Condvar::new(),
            sealed: Mutex::new(wal.sealed().collect()),
            wal: Mutex::new(State { wal, is_broken: false }),
            pending: AtomicUsize::new(0),
            flushed: Mutex::new(last_index),
            advanced: Condvar::new(),
            queue: Mutex::new(None),
            metrics,
            slow_syncs: Arc::default(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Whether a frame can be written without reserving space for it.
    pub(super) fn has_room_for(&self, frame_len: usize) -> bool {
        frame_len as u64 <= self.room.load(Ordering::Relaxed)
    }

    /// Whether writing waits for space of the disk.
    pub(super) fn lacks_space(&self) -> bool {
        self.lacks_space.load(Ordering::Relaxed)
    }

    /// Reserves the space of the next segment ahead. False if the disk has no room for it.
    pub(super) fn reserve_next(&self) -> Result<bool, StorageError> {
        let mut state = self.wal.lock();
        let is_reserved = state.is_broken || state.wal.reserve_next()?;
        self.room.store(state.wal.room(), Ordering::Relaxed);
        if is_reserved {
            self.space_came.notify_all();
        }
        Ok(is_reserved)
    }

    /// Whether these jobs can be written without a wait for space, which would block a simulated member.
    #[cfg(test)]
    fn has_space_for(&self, jobs: &[Job]) -> bool {
        let frame_len: usize = jobs.iter().map(|job| job.frame.len()).sum();
        let mut state = self.wal.lock();
        // Another error is that of the write.
        let has_space = state.is_broken || state.wal.has_space_for(frame_len).unwrap_or(true);
        if !has_space {
            self.lacks_space.store(true, Ordering::Relaxed);
        }
        has_space
    }

    /// The last entry of each sealed segment, oldest first. Does not wait for the disk.
    pub(super) fn sealed(&self) -> Vec<u64> {
        self.sealed.lock().clone()
    }

    pub(super) fn flushed(&self) -> u64 {
        *self.flushed.lock()
    }

    /// Blocks until entry `index` is on the disk, or the log is broken and it never will be.
    pub(super) fn wait_for(&self, index: u64) {
        let mut flushed = self.flushed.lock();
        while *flushed < index {
            self.advanced.wait(&mut flushed);
        }
    }

    /// Writes a frame on the calling thread and returns when it is on the disk. Where the disk has no
    /// space for the frame, that is when it has some again.
    pub(super) fn write(
        &self,
        frame: &mut FrameBuffer,
        last_index: Option<u64>,
        effects: &[Effect],
    ) -> io::Result<()> {
        let bytes = frame.len();
        let start = clock::now();
        let mut state = self.wal.lock();
        if state.is_broken {
            return Err(io::Error::other("the log could not be written to before"));
        }
        let mut sync_began = start;
        let appended = loop {
            match state.wal.append(frame, last_index) {
                Err(error @ StorageError::NoSpace { .. }) => {
                    if !self.lacks_space.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "the log waits for free disk space; nothing is lost");
                    }
                    self.space_came.wait_for(&mut state, limits::SPACE_INTERVAL);
                }
                appended => break appended,
            }
        };
        if self.lacks_space.swap(false, Ordering::Relaxed) {
            tracing::info!("the log has disk space again");
        }
        let written = appended.and_then(|written| {
            sync_began = written;
            for effect in effects {
                match effect {
                    Effect::None => {}
                    Effect::HardState(hard_state) => state.wal.set_hard_state(*hard_state),
                    Effect::Purge(upto) => state.wal.purge(*upto)?,
                }
            }
            Ok(())
        });
        state.is_broken = written.is_err();
        self.room.store(state.wal.room(), Ordering::Relaxed);
        {
            let mut sealed = self.sealed.lock();
            // Purged from the front, grown at the back.
            if state.wal.sealed().len() != sealed.len()
                || state.wal.sealed().next() != sealed.first().copied()
            {
                *sealed = state.wal.sealed().collect();
            }
        }
        drop(state);
        let end = clock::now();
        let took = end - start;
        if let Some(last) = last_index {
            if took > SlowSyncs::SLOW || self.metrics.tracer.is_some() {
                self.slow_syncs.note(last, end);
            }
            // After an error no entry gets to the disk any more and this member stops, so waiting for an
            // entry has to end.
            *self.flushed.lock() = if written.is_ok() { last } else { u64::MAX };
            self.advanced.notify_all();
        }
        self.metrics.observe_wal_append(sync_began - start, end - sync_began, bytes);
        if took > SLOW_SYNC {
            tracing::warn!(
                took = %GoDuration(took),
                "expected-duration" = %GoDuration(SLOW_SYNC),
                "slow fdatasync"
            );
        }
        written.map_err(io::Error::other)
    }

    /// Leaves a job to the thread.
    pub(super) fn submit(flusher: &Arc<Flusher>, job: Job) {
        flusher.pending.fetch_add(1, Ordering::AcqRel);
        let mut queue = flusher.queue.lock();
        let queue = queue.get_or_insert_with(|| {
            let (queue, jobs) = mpsc::unbounded_channel();
            LogThread { flusher: flusher.clone(), jobs, next: None }.start();
            queue
        });
        assert!(queue.send(job).is_ok(), "the thread lives as long as its queue");
    }

    fn flush(&self, mut jobs: Vec<Job>) {
        let (first, others) = jobs.split_first_mut().expect("there is a first job");
        for job in others {
            first.frame.absorb(&mut job.frame);
        }
        let mut frame = std::mem::replace(&mut first.frame, FrameBuffer::new());
        let last_index = jobs.iter().rev().find_map(|job| job.last_index);
        let effects: Vec<Effect> = jobs.iter().map(|job| job.effect).collect();
        let written = self.write(&mut frame, last_index, &effects).map_err(|error| error.to_string());
        for job in jobs {
            let pending = self.pending.fetch_sub(1, Ordering::AcqRel);
            assert!(pending > 0, "a job is reported once, and after it was submitted");
            let result = written.clone().map_err(io::Error::other);
            match job.done {
                Done::Append(callback) => callback.io_completed(result),
                // The waiter may have been dropped when the core stopped. The frame is on the disk.
                Done::Waiter(waiter) => drop(waiter.send(result)),
                Done::Nobody => {}
            }
        }
    }

    pub(super) fn reader(&self) -> &WalReader {
        &self.reader
    }
}

/// The state of the thread.
struct LogThread {
    flusher: Arc<Flusher>,
    jobs: mpsc::UnboundedReceiver<Job>,
    /// The job that ended the wait for one.
    next: Option<Job>,
}

impl LogThread {
    fn start(self) {
        #[cfg(test)]
        if threads::is_simulated() {
            drop(tokio::spawn(self.run_as_task()));
            return;
        }
        threads::spawn("retcd-log", move || self.run());
    }

    /// The same as [`LogThread::run`] for a simulated member, whose threads are tasks.
    #[cfg(test)]
    async fn run_as_task(mut self) {
        loop {
            let gathered = self.gather();
            if gathered.is_empty() {
                let Some(job) = self.jobs.recv().await else { return };
                self.next = Some(job);
                threads::disk_pause().await;
                continue;
            }
            while !self.flusher.has_space_for(&gathered) {
                tokio::time::sleep(threads::SIMULATED_PAUSE).await;
            }
            self.flusher.flush(gathered);
        }
    }

    /// Takes turns for as long as the process runs: the flusher holds the other end of the queue. Each turn writes and
    /// syncs what has gathered, as one frame.
    fn run(mut self) {
        loop {
            let gathered = self.gather();
            if gathered.is_empty() {
                let Some(job) = self.jobs.blocking_recv() else { return };
                self.next = Some(job);
            } else {
                self.flusher.flush(gathered);
            }
        }
    }

    /// The jobs that are there now.
    fn gather(&mut self) -> Vec<Job> {
        let mut gathered = Vec::new();
        let mut bytes = 0;
        while bytes < GATHER_BYTES_MAX
            && let Some(job) = self.next.take().or_else(|| self.jobs.try_recv().ok())
        {
            bytes += job.frame.len();
            gathered.push(job);
        }
        gathered
    }
}
