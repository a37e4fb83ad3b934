//! The log as openraft sees it.
//!
//! Entries that may still be asked for are kept in memory as well as in the WAL: the applier
//! reads each one right after it was appended. What has been evicted is read back from the files.
//!
//! `append` writes, syncs and reports completion before it returns. The core thread waits for
//! the disk, and meanwhile the next proposals gather: that is the group commit. There is no
//! second thread to wake, which is what a lone writer would pay for.

use std::{collections::VecDeque, fmt::Debug, io, ops::RangeBounds, path::Path, sync::Arc, time::Instant};

use bytes::Bytes;
use openraft::{
    OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use parking_lot::Mutex;

use super::{
    codec,
    typ::{Entry, LogId, TypeConfig, Vote},
    wal::{FrameBuffer, HardState, LogPosition, Record, Recovered, Wal},
};
use crate::{limits, storage::StorageError, telemetry::Metrics};

/// Cheap to clone; the clones are the readers.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    wal: Wal,
    frame: FrameBuffer,
    /// The newest entries, contiguous, ending with the last one of the log, and the bytes that
    /// each takes.
    cache: VecDeque<(Entry, usize)>,
    cache_bytes: usize,
    hard_state: Option<HardState>,
    purged: Option<LogPosition>,
    committed: Option<LogPosition>,
    last: Option<LogPosition>,
    metrics: Arc<Metrics>,
}

impl LogStore {
    /// Opens the log in `dir`, which has to be there if it `has_begun`. `applied` is the last entry whose effects the database holds: a log
    /// that ends before it has lost entries.
    pub(crate) fn open(
        dir: &Path,
        has_begun: bool,
        applied: Option<&LogId>,
        metrics: Arc<Metrics>,
    ) -> Result<LogStore, StorageError> {
        let (wal, recovered) = Wal::open(dir, has_begun)?;
        let Recovered { hard_state, purged, committed, entries, repaired } = recovered;
        if let Some((path, offset)) = repaired {
            tracing::warn!(
                path = %path.display(),
                offset,
                "repaired the write-ahead log: a record that was being written when the process ended was cut off"
            );
        }
        let mut cache = VecDeque::with_capacity(entries.len());
        let mut cache_bytes = 0;
        for (at, kind, payload) in entries {
            let bytes = payload.len();
            // A copy of its own, or one entry in the cache would keep a whole segment in memory.
            let payload = Bytes::copy_from_slice(&payload);
            let entry = codec::entry(at, kind, payload).ok_or_else(|| StorageError::Foreign {
                path: dir.to_owned(),
                detail: format!("log entry {} was written by a newer version of retcd", at.index),
            })?;
            cache_bytes += bytes;
            cache.push_back((entry, bytes));
        }
        let last = cache.back().map(|(entry, _)| codec::position(&entry.log_id)).or(purged);
        if let Some(applied) = applied
            && last.is_none_or(|last| last.index < applied.index)
        {
            return Err(StorageError::Corrupted {
                path: dir.to_owned(),
                detail: format!(
                    "the log ends before entry {}, which the database has applied: log files are missing or cut \
                     off. Put them back, or restore this member from a backup",
                    applied.index
                ),
            });
        }
        let frame = FrameBuffer::new();
        let inner = Inner { wal, frame, cache, cache_bytes, hard_state, purged, committed, last, metrics };
        Ok(LogStore { inner: Arc::new(Mutex::new(inner)) })
    }

    /// Files that could be given back by a purge.
    pub(crate) fn sealed_segments(&self) -> usize {
        self.inner.lock().wal.sealed_len()
    }
}

impl Inner {
    /// One frame, one sync.
    fn write_frame(&mut self, last_index: Option<u64>) -> io::Result<()> {
        let bytes = self.frame.len();
        let start = Instant::now();
        self.wal.append(&mut self.frame, last_index).map_err(io::Error::other)?;
        self.metrics.observe_wal_sync(start.elapsed(), bytes);
        Ok(())
    }

    /// Keeps the cache within its bound, at the expense of entries that have been committed: the
    /// applier is through with those, or about to be.
    fn evict(&mut self) {
        let committed = self.committed.map_or(0, |committed| committed.index);
        while self.cache_bytes > limits::LOG_CACHE_BYTES
            && self.cache.front().is_some_and(|(entry, _)| entry.log_id.index < committed)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, bytes)) = self.cache.pop_front() {
            self.cache_bytes -= bytes;
        }
    }

    /// The entries `[from, until)` that the cache holds, if it holds the first of them.
    fn cached(&self, from: u64, until: u64) -> Option<impl Iterator<Item = &Entry>> {
        let first = self.cache.front()?.0.log_id.index;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        let take = usize::try_from(until.saturating_sub(from)).ok()?;
        Some(self.cache.iter().map(|(entry, _)| entry).skip(skip).take(take))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        use std::ops::Bound;
        let from = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        let inner = self.inner.lock();
        let end = inner.last.map_or(0, |last| last.index + 1);
        let until = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&until) => until,
            Bound::Unbounded => end,
        }
        .min(end);
        if from >= until {
            return Ok(Vec::new());
        }
        if let Some(entries) = inner.cached(from, until) {
            return Ok(entries.cloned().collect());
        }
        let entries = inner.wal.read_entries(from, until).map_err(io::Error::other)?;
        entries
            .into_iter()
            .map(|(at, kind, payload)| {
                codec::entry(at, kind, payload)
                    .ok_or_else(|| io::Error::other(format!("log entry {} cannot be decoded", at.index)))
            })
            .collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.inner.lock().hard_state.map(codec::vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let inner = self.inner.lock();
        Ok(LogState {
            last_purged_log_id: inner.purged.map(codec::log_id),
            last_log_id: inner.last.map(codec::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut inner = self.inner.lock();
        let state = codec::hard_state(vote);
        inner.frame.push(&Record::HardState(state));
        inner.write_frame(None)?;
        inner.wal.set_hard_state(state);
        inner.hard_state = Some(state);
        Ok(())
    }

    /// Not synced by itself: it rides in the next frame. Losing it costs a re-election's worth of
    /// knowledge and no data.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.inner.lock().committed = committed.as_ref().map(codec::position);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.inner.lock().committed.map(codec::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if let Some(at) = inner.committed {
            inner.frame.push(&Record::Committed { at });
        }
        for entry in entries {
            let before = inner.frame.len();
            codec::push_entry(&mut inner.frame, &entry);
            let bytes = inner.frame.len() - before;
            inner.last = Some(codec::position(&entry.log_id()));
            inner.cache_bytes += bytes;
            inner.cache.push_back((entry, bytes));
        }
        inner.evict();
        let last_index = inner.last.map(|last| last.index);
        let written = inner.write_frame(last_index);
        drop(guard);
        match written {
            Ok(()) => {
                callback.io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.io_completed(Err(io::Error::other(error.to_string())));
                Err(error)
            }
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let mut inner = self.inner.lock();
        let last = last_log_id.as_ref().map(codec::position);
        inner.frame.push(&Record::Truncate { last });
        inner.write_frame(None)?;
        while inner
            .cache
            .back()
            .is_some_and(|(entry, _)| last.is_none_or(|last| entry.log_id.index > last.index))
        {
            let (_, bytes) = inner.cache.pop_back().expect("looked at");
            inner.cache_bytes -= bytes;
        }
        inner.last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut inner = self.inner.lock();
        let upto = codec::position(&log_id);
        inner.frame.push(&Record::Purge { upto });
        inner.write_frame(None)?;
        inner.wal.purge(upto).map_err(io::Error::other)?;
        while inner.cache.front().is_some_and(|(entry, _)| entry.log_id.index <= upto.index) {
            inner.forget_oldest();
        }
        inner.purged = Some(upto);
        inner.last = inner.last.max(Some(upto));
        Ok(())
    }
}
