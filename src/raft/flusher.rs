//! The thread that waits for the disk where the core thread must not.
//!
//! It takes everything that has gathered since its last turn, writes it as one frame, syncs, and
//! then reports completion in the order in which things came. After an error nothing is written
//! any more, and everybody who waits hears of it.
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
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{stages::SlowSyncs, typ::TypeConfig};
use crate::{
    clock,
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
    /// As [`Wal::sealed`], for those who must not wait for a sync.
    sealed: Mutex<Vec<u64>>,
    /// The last entry that is on the disk.
    flushed: Mutex<u64>,
    advanced: Condvar,
    /// Started with the first job.
    queue: Mutex<Option<mpsc::Sender<Job>>>,
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
    /// Whoever waits, waits for a later one.
    Nobody,
}

impl Flusher {
    pub(super) fn new(wal: Wal, last_index: u64, metrics: Arc<Metrics>) -> Flusher {
        Flusher {
            reader: wal.reader(),
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

    /// Writes a frame on the calling thread and returns when it is on the disk.
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
        let written = state.wal.append(frame, last_index).and_then(|written| {
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
            if took > SlowSyncs::SLOW {
                self.slow_syncs.note(last, end);
            }
            // Whoever waits for an entry that cannot be written need not wait: this member ends.
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
            let (queue, jobs) = mpsc::channel();
            let flusher = flusher.clone();
            threads::spawn("retcd-log", move || flusher.run(&jobs));
            queue
        });
        queue.send(job).expect("the thread lives as long as its queue");
    }

    /// Runs for as long as the process: this thread holds the queue's other end through itself.
    fn run(&self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut gathered = vec![first];
            let mut bytes = gathered[0].frame.len();
            while bytes < GATHER_BYTES_MAX
                && let Ok(job) = jobs.try_recv()
            {
                bytes += job.frame.len();
                gathered.push(job);
            }
            self.flush(gathered);
        }
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
            self.pending.fetch_sub(1, Ordering::AcqRel);
            let result = written.clone().map_err(io::Error::other);
            match job.done {
                Done::Append(callback) => callback.io_completed(result),
                // Whoever waited is gone with the core; the disk has it all the same.
                Done::Waiter(waiter) => drop(waiter.send(result)),
                Done::Nobody => {}
            }
        }
    }

    pub(super) fn reader(&self) -> &WalReader {
        &self.reader
    }
}
