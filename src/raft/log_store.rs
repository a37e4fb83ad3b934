//! The log as openraft sees it.
//!
//! Entries that may still be asked for are kept in memory as well as in the WAL: the applier
//! reads each one right after it was appended. What has been evicted is read back from the files.
//!
//! A member that is alone writes, syncs and reports completion before `append` returns. The core
//! thread waits for the disk, and meanwhile the next proposals gather: that is the group commit.
//! There is no second thread to wake, which is what a lone writer would pay for.
//!
//! With peers, a core thread that waits for the disk would be deaf to them and late with its
//! heartbeats. Then everything that is written goes to the flusher, a thread that takes what has
//! gathered, syncs it as one frame, and reports completion in order. There is one queue for entries,
//! votes, truncations and purges, so the files always are a state that the log went through: an
//! entry of a term is never there without the vote for that term.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::PathBuf,
    sync::Arc,
};

use futures_util::{Stream, stream};
use openraft::{
    EntryPayload, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    codec,
    flusher::{Done, Effect, Flusher, Job},
    plausible,
    stages::SlowSyncs,
    typ::{Entry, LogId, Membership, TypeConfig, Vote},
};
use crate::{
    disk::Disk,
    limits,
    link::Peer,
    storage::{StorageError, Values},
    telemetry::Metrics,
    threads,
    wal::{FoundEntry, FrameBuffer, HardState, LogPosition, Record, Recovered, Wal, WalReader},
};

/// What a record of the log says beside its entry, and what aligns it.
const ENTRY_RECORD_BYTES: usize = 64;

/// Cheap to clone; the clones are the readers.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    flusher: Arc<Flusher>,
    /// Nobody else belongs to the cluster: waiting for the disk holds up nobody.
    is_alone: bool,
    frame: FrameBuffer,
    /// The newest entries, contiguous, ending with the last one of the log, and the bytes that
    /// each takes.
    cache: VecDeque<(Entry, usize)>,
    cache_bytes: usize,
    hard_state: Option<HardState>,
    purged: Option<LogPosition>,
    committed: Option<LogPosition>,
    last: Option<LogPosition>,
}

impl LogStore {
    /// Opens the log on `disk`, which has to be there if it `has_begun`. `applied` is the last entry
    /// whose effects the database holds: a log that ends before it has lost entries, unless they
    /// came `installed`, with a snapshot that the log had not been told of when the process ended.
    /// `members` is how many nodes the database knows of. `values` are those that the database leaves to the log.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        has_begun: bool,
        applied: Option<&LogId>,
        installed: Option<&LogId>,
        members: usize,
        values: Option<Arc<Values>>,
        metrics: Arc<Metrics>,
    ) -> Result<LogStore, StorageError> {
        let dir = disk.path().to_owned();
        let (wal, recovered) = Wal::open(disk, has_begun, values)?;
        let Recovered { hard_state, mut purged, committed, mut entries, repaired } = recovered;
        // A start that was cut short leaves a log that says at most what it begins behind.
        let is_untouched = hard_state.is_none()
            && entries.is_empty()
            && (purged.is_none() || purged == installed.map(codec::position));
        if !has_begun && !is_untouched {
            return Err(StorageError::Foreign {
                path: dir.clone(),
                detail: "it contains the log of another member, or the log of this member from before its data directory was emptied or \
                         restored; move that log away, or choose an empty --wal-dir"
                    .to_owned(),
            });
        }
        if let Some((path, offset)) = repaired {
            tracing::warn!(
                path = %path.display(),
                offset,
                "repaired the write-ahead log: removed a record that was only partly written when the process ended"
            );
        }
        let mut missing = None;
        if let Some(applied) = applied
            && entries.last().map(|entry| entry.at).or(purged).is_none_or(|last| last.index < applied.index)
        {
            if installed == Some(applied) {
                entries.clear();
                purged = Some(codec::position(applied));
                missing = purged;
            } else {
                return Err(StorageError::Corrupted {
                    path: dir.clone(),
                    detail: format!(
                        "the log ends before entry {}, which the database has applied: log files are missing or cut \
                         off. Put them back, or restore this member from a backup",
                        applied.index
                    ),
                });
            }
        }
        let mut cache = VecDeque::with_capacity(entries.len());
        let mut cache_bytes = 0;
        for found in entries {
            let entry = codec::found_entry(&found).ok_or_else(|| StorageError::Foreign {
                path: dir.clone(),
                detail: format!("log entry {} was written by a newer version of retcd", found.at.index),
            })?;
            let bytes = weight(&entry, found.payload.len());
            cache_bytes += bytes;
            cache.push_back((entry, bytes));
            // What the database holds is asked for by peers only, if at all.
            while cache_bytes > limits::LOG_CACHE_BYTES
                && let Some((_, bytes)) = cache.pop_front_if(|(entry, _)| {
                    entry.log_id.index <= applied.map_or(0, |applied| applied.index)
                })
            {
                cache_bytes -= bytes;
            }
        }
        let last = cache.back().map(|(entry, _)| codec::position(&entry.log_id)).or(purged);
        if let Some(detail) = plausible::beyond_reach(hard_state.as_ref(), last) {
            return Err(StorageError::Corrupted { path: dir, detail });
        }
        // The mark is a hint. One beyond the log would have consensus apply what is not there.
        let committed = committed.filter(|committed| Some(*committed) <= last);
        let is_alone = members <= 1
            && cache.iter().all(|(entry, _): &(Entry, usize)| match &entry.payload {
                EntryPayload::Membership(membership) => membership.nodes().count() <= 1,
                EntryPayload::Blank | EntryPayload::Normal(_) => true,
            });
        let flusher = Arc::new(Flusher::new(wal, last.map_or(0, |last| last.index), metrics));
        let frame = FrameBuffer::new();
        let mut inner =
            Inner { flusher, is_alone, frame, cache, cache_bytes, hard_state, purged, committed, last };
        if let Some(upto) = missing {
            inner.frame.push(&Record::Purge { upto });
            inner.write_inline(Some(upto.index), Effect::Purge(upto)).map_err(|error| StorageError::Io {
                action: "write",
                path: dir.clone(),
                source: error,
            })?;
        }
        Ok(LogStore { inner: Arc::new(Mutex::new(inner)) })
    }

    /// Whether nothing was ever written to it.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.lock().last.is_none()
    }

    /// The first entry that there ever was, if it still is in this log.
    pub(crate) fn first_entry(&self) -> Option<Entry> {
        let inner = self.inner.lock();
        inner.cache.front().filter(|(entry, _)| entry.log_id.index == 0).map(|(entry, _)| entry.clone())
    }

    /// Whether the log begins with the first entry that there ever was.
    pub(crate) fn is_whole(&self) -> bool {
        let inner = self.inner.lock();
        inner.purged.is_none() && inner.last.is_some()
    }

    /// Lets go of all entries up to `upto`, whose effects the database holds. To be called before
    /// consensus starts on this log.
    pub(crate) fn begin_behind(&self, upto: &LogId) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let upto = codec::position(upto);
        assert!(inner.last >= Some(upto), "entries are let go of that are not there");
        inner.purge(upto);
        inner.write_inline(None, Effect::Purge(upto))
    }

    /// Makes this member the only one; all others that the log names are permanently lost. To be
    /// called before consensus starts on this log. `known` is the membership that the database
    /// holds, `own_urls` where this member is reached if that does not say it. Returns who was
    /// removed and how many entries there are behind the `applied` and committed ones; `None` if
    /// this member was alone.
    ///
    /// Those entries stay. Nobody is left who could say that they were not committed, and if one
    /// was, somebody may have been told so.
    pub(super) fn forget_others(
        &self,
        own: u64,
        known: &Membership,
        own_urls: &[String],
        applied: u64,
    ) -> io::Result<Option<(Vec<u64>, u64)>> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let in_log = inner.cache.iter().rev().find_map(|(entry, _)| match &entry.payload {
            EntryPayload::Membership(membership) => Some(membership),
            EntryPayload::Blank | EntryPayload::Normal(_) => None,
        });
        let membership = in_log.unwrap_or(known);
        let others: Vec<u64> = membership.nodes().map(|(id, _)| *id).filter(|id| *id != own).collect();
        if others.is_empty() && membership.voter_ids().eq([own]) {
            return Ok(None);
        }
        let peer_urls = membership.get_node(&own).map_or(own_urls, |peer| &peer.peer_urls).to_vec();
        let nodes = BTreeMap::from([(own, Peer { peer_urls, is_learner: false })]);
        let alone = Membership::new(vec![BTreeSet::from([own])], nodes).expect("the one voter is a node");
        let last = inner.last.unwrap_or_default();
        let term = inner.hard_state.map_or(0, |state| state.term).max(last.term);
        let at = LogPosition { term, index: last.index + 1 };
        let entry = Entry { log_id: codec::log_id(at), payload: EntryPayload::Membership(alone) };
        codec::push_entry(&mut inner.frame, &entry);
        inner.write_inline(Some(at.index), Effect::None)?;
        let bytes = weight(&entry, 0);
        inner.cache.push_back((entry, bytes));
        inner.cache_bytes += bytes;
        inner.last = Some(at);
        inner.is_alone = true;
        let committed = inner.committed.map_or(0, |committed| committed.index).max(applied);
        Ok(Some((others, last.index.saturating_sub(committed))))
    }

    /// The entries after entry `index`, or all of them if not even the first `is_applied`. Those that the database does
    /// not hold are in memory when the log was opened.
    pub(super) fn entries_after(&self, index: u64, is_applied: bool) -> Vec<Entry> {
        let inner = self.inner.lock();
        let entries = inner.cache.iter().map(|(entry, _)| entry);
        entries.filter(|entry| !is_applied || entry.log_id.index > index).cloned().collect()
    }

    /// The last entry of each segment that is full, oldest first. A purge gives whole ones back.
    pub(crate) fn sealed(&self) -> Vec<u64> {
        self.flusher().sealed()
    }

    /// Blocks until entry `index` is on the disk, or until writing the log has failed. A checkpoint
    /// waits for this, because a crash must not leave a database that has applied entries which the
    /// log does not hold.
    pub(crate) fn wait_for_disk(&self, index: u64) {
        let flusher = self.flusher();
        flusher.wait_for(index);
    }

    /// Whether a wait for entry `index` would be over at once.
    #[cfg(test)]
    pub(crate) fn is_on_disk(&self, index: u64) -> bool {
        self.flusher().flushed() >= index
    }

    /// The newest vote, which may not be on the disk yet. Nobody has been told of a later one.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.inner.lock().hard_state.map(codec::vote)
    }

    /// The directory of the log.
    pub(crate) fn dir(&self) -> PathBuf {
        self.flusher().reader().dir().to_owned()
    }

    /// Whether what should be written to the log waits for space of the disk.
    pub(crate) fn lacks_space(&self) -> bool {
        self.flusher().lacks_space()
    }

    /// Reserves the space of the next segment ahead. False if the disk has no room for it.
    pub(crate) fn reserve_next_segment(&self) -> Result<bool, StorageError> {
        self.flusher().reserve_next()
    }

    /// The syncs that were slow, as they come.
    pub(crate) fn slow_syncs(&self) -> Arc<SlowSyncs> {
        self.flusher().slow_syncs.clone()
    }

    fn flusher(&self) -> Arc<Flusher> {
        self.inner.lock().flusher.clone()
    }
}

impl Inner {
    /// Whether this thread may wait for the disk itself. Not while the flusher has work: what is
    /// written later must not overtake it. Nor if the disk may have no space for the frame: that wait
    /// can be long.
    fn writes_inline(&self) -> bool {
        self.is_alone && self.flusher.is_idle() && self.flusher.has_room_for(self.frame.len())
    }

    /// One frame, one sync.
    fn write_inline(&mut self, last_index: Option<u64>, effect: Effect) -> io::Result<()> {
        self.flusher.write(&mut self.frame, last_index, &[effect])
    }

    /// Leaves the frame to the flusher, which tells `done` when it is on the disk.
    fn write_behind(&mut self, last_index: Option<u64>, effect: Effect, done: Done) {
        let frame = std::mem::replace(&mut self.frame, FrameBuffer::new());
        Flusher::submit(&self.flusher, Job { frame, last_index, effect, done });
    }

    /// Keeps the cache within its bound, at the expense of entries that have been committed, for
    /// the applier is through with those, or about to be; and that can be read from the files.
    fn evict(&mut self) {
        let committed = self.committed.map_or(0, |committed| committed.index).min(self.flusher.flushed());
        while self.cache_bytes > limits::LOG_CACHE_BYTES
            && self.cache.front().is_some_and(|(entry, _)| entry.log_id.index < committed)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, bytes)) = self.cache.pop_front() {
            assert!(bytes <= self.cache_bytes, "every entry of the cache is counted");
            self.cache_bytes -= bytes;
        }
    }

    /// Drops what comes up to `upto`, and says so in the next frame.
    fn purge(&mut self, upto: LogPosition) {
        self.frame.push(&Record::Purge { upto });
        while self.cache.front().is_some_and(|(entry, _)| entry.log_id.index <= upto.index) {
            self.forget_oldest();
        }
        self.purged = Some(upto);
    }

    /// Drops what comes after `last`.
    fn forget_after(&mut self, last: Option<LogPosition>) {
        while self
            .cache
            .back()
            .is_some_and(|(entry, _)| last.is_none_or(|last| entry.log_id.index > last.index))
        {
            let (_, bytes) = self.cache.pop_back().expect("looked at");
            self.cache_bytes -= bytes;
        }
        self.last = last;
    }

    /// An entry that is not found in the files was released or cut off meanwhile. Otherwise the files
    /// lack an entry that the log has, which is an error.
    fn verify_gone(&self, index: u64) -> io::Result<()> {
        let is_released = self.purged.is_some_and(|purged| index <= purged.index);
        let is_cut_off = self.last.is_none_or(|last| index > last.index);
        if is_released || is_cut_off {
            return Ok(());
        }
        Err(io::Error::other(format!("log entry {index} is missing in the log's files")))
    }

    /// The entries `[from, until)` that the cache holds, if it holds the first of them.
    fn cached(&self, from: u64, until: u64) -> Option<impl Iterator<Item = &Entry>> {
        let first = self.cache.front()?.0.log_id.index;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        let take = usize::try_from(until.saturating_sub(from)).ok()?;
        Some(self.cache.iter().map(|(entry, _)| entry).skip(skip).take(take))
    }
}

/// What an entry costs in memory. Its keys and values are slices of the buffers that they came in
/// from the network, and keep those whole: for small commands that is most of it.
fn weight(entry: &Entry, encoded_bytes: usize) -> usize {
    let commands = match &entry.payload {
        EntryPayload::Normal(batch) => batch.commands.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 1,
    };
    encoded_bytes + commands * limits::COMMAND_BUFFER_BYTES
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
        // The newest of them are in the cache and perhaps not in the files yet.
        let (reader, newer, until) = {
            let inner = self.inner.lock();
            let end = inner.last.map_or(0, |last| last.index + 1);
            let until = match range.end_bound() {
                Bound::Included(&last) => last + 1,
                Bound::Excluded(&until) => until,
                Bound::Unbounded => end,
            }
            .min(end);
            let cached_from = inner.cache.front().map_or(end, |(entry, _)| entry.log_id.index);
            let newer: Vec<Entry> = match inner.cached(cached_from.max(from), until) {
                Some(entries) => entries.cloned().collect(),
                None => Vec::new(),
            };
            (inner.flusher.reader().clone(), newer, until.min(cached_from))
        };
        if from >= until {
            return Ok(newer);
        }
        let mut entries = read_back(reader, from, until, usize::MAX).await?;
        let next = from + entries.len() as u64;
        if next < until {
            // The newer entries would leave a gap.
            self.inner.lock().verify_gone(next)?;
            return Ok(entries);
        }
        entries.extend(newer);
        Ok(entries)
    }

    /// As many as fit one message, and at least one.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let end = end.min(start + limits::APPEND_ENTRIES_MAX);
        let (reader, until) = {
            let inner = self.inner.lock();
            let end = end.min(inner.last.map_or(0, |last| last.index + 1));
            let cached_from = inner.cache.front().map_or(end, |(entry, _)| entry.log_id.index);
            if cached_from <= start {
                let mut bytes = 0;
                let cached = inner.cache.iter().skip((start - cached_from) as usize);
                let fitting = cached.take(end.saturating_sub(start) as usize).take_while(|(_, of_entry)| {
                    let fits = bytes == 0 || bytes + of_entry <= limits::APPEND_BYTES_MAX;
                    bytes += of_entry;
                    fits
                });
                return Ok(fitting.map(|(entry, _)| entry.clone()).collect());
            }
            (inner.flusher.reader().clone(), end.min(cached_from))
        };
        let entries = read_back(reader, start, until, limits::APPEND_BYTES_MAX).await?;
        if entries.is_empty() && start < until {
            self.inner.lock().verify_gone(start)?;
        }
        Ok(entries)
    }

    /// Committed entries, which are applied next. If the log lacks one, that is an error, because consensus
    /// would count it as applied.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        use std::ops::Bound;
        let last = match range.end_bound() {
            Bound::Included(&last) => Some(last),
            Bound::Excluded(&until) => until.checked_sub(1),
            Bound::Unbounded => None,
        };
        let read = self.try_get_log_entries(range).await.and_then(|entries| {
            let found = entries.last().map(|entry| entry.log_id.index);
            match last {
                Some(last) if found != Some(last) => Err(io::Error::other(format!(
                    "entry {last} is committed, and the log of this member does not hold it"
                ))),
                _ => Ok(entries),
            }
        });
        let (entries, error) = match read {
            Ok(entries) => (entries, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        stream::iter(entries.into_iter().map(Ok).chain(error.map(Err)))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
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

    /// Reads see the vote at once; this returns only when the vote is on the disk.
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let written = {
            let mut inner = self.inner.lock();
            let state = codec::hard_state(vote);
            inner.frame.push(&Record::HardState(state));
            inner.hard_state = Some(state);
            #[cfg(test)]
            if crate::planted::is(crate::planted::Bug::VoteNotSynced) {
                return Ok(());
            }
            inner.write_waited(None, Effect::HardState(state))
        };
        written.wait().await
    }

    /// Written with the next frame and not synced by itself. If a crash loses the mark, no data is
    /// lost: the member learns from the next leader what is committed.
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
            let at = codec::position(&entry.log_id());
            if let Some(last) = inner.last {
                assert_eq!(at.index, last.index + 1, "entries are appended without a gap");
                assert!(at.term >= last.term, "the terms of entries do not fall");
            }
            let before = inner.frame.len();
            codec::push_entry(&mut inner.frame, &entry);
            let encoded_bytes = inner.frame.len() - before;
            assert!(
                encoded_bytes <= limits::ENTRY_BYTES_MAX + ENTRY_RECORD_BYTES,
                "entry {} cannot travel",
                entry.log_id
            );
            let bytes = weight(&entry, encoded_bytes);
            if let EntryPayload::Membership(membership) = &entry.payload {
                inner.is_alone = membership.nodes().count() <= 1;
            }
            inner.last = Some(at);
            inner.cache_bytes += bytes;
            inner.cache.push_back((entry, bytes));
            if inner.frame.len() >= limits::FRAME_BYTES {
                // What comes before in the log may be on the disk before.
                let last_index = inner.last.map(|last| last.index);
                if !inner.writes_inline() {
                    inner.write_behind(last_index, Effect::None, Done::Nobody);
                } else if let Err(error) = inner.write_inline(last_index, Effect::None) {
                    drop(guard);
                    callback.io_completed(Err(io::Error::other(error.to_string())));
                    return Err(error);
                }
            }
        }
        inner.evict();
        let last_index = inner.last.map(|last| last.index);
        if !inner.writes_inline() {
            inner.write_behind(last_index, Effect::None, Done::Append(callback));
            return Ok(());
        }
        let written = inner.write_inline(last_index, Effect::None);
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
        let written = {
            let mut inner = self.inner.lock();
            let last = last_log_id.as_ref().map(codec::position);
            assert!(last <= inner.last, "the log is cut where it has entries");
            assert!(last >= inner.purged, "entries that were released cannot be cut off");
            #[cfg(test)]
            let logs = !crate::planted::is(crate::planted::Bug::TruncateNotLogged);
            #[cfg(not(test))]
            let logs = true;
            if logs {
                inner.frame.push(&Record::Truncate { last });
            }
            inner.forget_after(last);
            inner.write_waited(Some(last.map_or(0, |last| last.index)), Effect::None)
        };
        written.wait().await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let written = {
            let mut inner = self.inner.lock();
            let upto = codec::position(&log_id);
            inner.purge(upto);
            // A snapshot took the place of entries that this log has never had.
            let is_beyond = inner.last < Some(upto);
            inner.last = inner.last.max(Some(upto));
            inner.write_waited(is_beyond.then_some(upto.index), Effect::Purge(upto))
        };
        written.wait().await
    }
}

impl Inner {
    fn write_waited(&mut self, last_index: Option<u64>, effect: Effect) -> Written {
        if self.writes_inline() {
            return Written::Done(self.write_inline(last_index, effect));
        }
        let (tell, done) = oneshot::channel();
        self.write_behind(last_index, effect, Done::Waiter(tell));
        Written::Waiting(done)
    }
}

/// A write that somebody waits for.
enum Written {
    Done(io::Result<()>),
    Waiting(oneshot::Receiver<io::Result<()>>),
}

impl Written {
    async fn wait(self) -> io::Result<()> {
        match self {
            Written::Done(result) => result,
            Written::Waiting(done) => {
                done.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
            }
        }
    }
}

/// Entries that have left the cache, as long as they are no more than `bytes` together, and one in
/// any case. The core thread does not wait for the disk meanwhile.
async fn read_back(reader: WalReader, from: u64, until: u64, bytes: usize) -> io::Result<Vec<Entry>> {
    let work = move || {
        let entries = reader.read(from, until, bytes).map_err(io::Error::other)?;
        let decode = |found: &FoundEntry| {
            codec::found_entry(found)
                .ok_or_else(|| io::Error::other(format!("log entry {} cannot be decoded", found.at.index)))
        };
        entries.iter().map(decode).collect()
    };
    threads::blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        apply::{Command, Put, Request},
        config::{Config, Invocation},
        disk::Directory,
        raft::typ::Batch,
        types::{Caller, LeaseId},
    };

    const ENTRIES: u64 = 20;
    const VALUE_BYTES: usize = 512 * 1024;

    fn open(home: &TempDir, has_begun: bool, applied: Option<u64>) -> LogStore {
        let Ok(Invocation::Serve(config)) = Config::load(&[], &[]) else {
            panic!("etcd starts without flags")
        };
        let applied = applied.map(|index| codec::log_id(LogPosition { term: 1, index }));
        let metrics = Arc::new(Metrics::new(&config));
        let wal = Directory::open(&home.path().join("wal")).expect("a directory");
        let log = LogStore::open(Arc::new(wal), has_begun, applied.as_ref(), None, 3, None, metrics);
        log.expect("a sound log")
    }

    fn entry(index: u64) -> Entry {
        large_entry(index, VALUE_BYTES)
    }

    fn large_entry(index: u64, bytes: usize) -> Entry {
        let put = Put::new("k".into(), Some(vec![index as u8; bytes].into()), Some(LeaseId::NONE), false);
        let commands: Arc<[Request]> = vec![Command::Put(put).by(Caller::Nobody)].into();
        let log_id = codec::log_id(LogPosition { term: 1, index });
        Entry { log_id, payload: EntryPayload::Normal(Batch { commands, tag: None, began: None }) }
    }

    fn is_equal(some: &[Entry], others: &[Entry]) -> bool {
        let commands = |entry: &Entry| match &entry.payload {
            EntryPayload::Normal(batch) => batch.commands.clone(),
            EntryPayload::Blank | EntryPayload::Membership(_) => panic!("commands were written"),
        };
        some.len() == others.len()
            && some.iter().zip(others).all(|(a, b)| a.log_id == b.log_id && commands(a) == commands(b))
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    /// More than the cache may hold.
    async fn written() -> TempDir {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join("wal")).expect("a directory");
        let mut log = open(&home, false, None);
        log.append((0..=ENTRIES).map(entry).collect::<Vec<_>>(), IOFlushed::noop()).await.expect("an append");
        log.wait_for_disk(ENTRIES);
        home
    }

    #[tokio::test]
    async fn a_log_that_is_opened_keeps_in_memory_what_the_database_lacks() {
        let home = written().await;
        let log = open(&home, true, Some(2));
        let cached: Vec<u64> = log.inner.lock().cache.iter().map(|(entry, _)| entry.log_id.index).collect();
        assert_eq!(cached, (3..=ENTRIES).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_log_that_is_opened_keeps_little_in_memory_of_what_the_database_has() {
        let home = written().await;
        let mut log = open(&home, true, Some(ENTRIES));
        let cache_bytes = log.inner.lock().cache_bytes;
        assert!(cache_bytes <= limits::LOG_CACHE_BYTES, "{cache_bytes} bytes");
        assert!(log.inner.lock().cache.len() > 2, "what fits is kept");
        let all = log.try_get_log_entries(0..=ENTRIES).await.expect("all of it can be read");
        assert_eq!(indexes(&all), (0..=ENTRIES).collect::<Vec<_>>());
        let EntryPayload::Normal(batch) = &all[5].payload else { panic!("commands were written") };
        let Command::Put(put) = &batch.commands[0].command else { panic!("a put was written") };
        assert_eq!(put.value.as_deref(), Some([5; VALUE_BYTES].as_slice()));
    }

    /// The files of the oldest entries are gone. If these entries were released, the reader gets what
    /// is left from the beginning on, which is nothing; otherwise an error. It never gets a gap.
    #[tokio::test]
    async fn entries_that_are_missing_in_the_files_are_no_gap() {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join("wal")).expect("a directory");
        let mut log = open(&home, false, None);
        let large = (0..5).map(|index| large_entry(index, limits::FRAME_BYTES)).collect::<Vec<_>>();
        log.append(large, IOFlushed::noop()).await.expect("an append");
        log.wait_for_disk(4);
        assert!(log.sealed().first().is_some_and(|last| *last < 4), "the oldest are in a file of their own");
        drop(log);
        let mut log = open(&home, true, Some(4));
        log.append(vec![entry(5)], IOFlushed::noop()).await.expect("an append");
        log.wait_for_disk(5);
        let upto = LogPosition { term: 1, index: log.sealed()[0] };
        {
            let mut inner = log.inner.lock();
            inner.frame.push(&Record::Purge { upto });
            inner.write_inline(None, Effect::Purge(upto)).expect("a purge of the files");
        }
        let found = log.try_get_log_entries(0..=5).await.map(|entries| indexes(&entries));
        let error = found.expect_err("entry 0 is missing");
        assert!(error.to_string().contains("log entry 0 is missing"), "{error}");
        assert!(log.limited_get_log_entries(0, 6).await.is_err());
        log.inner.lock().purged = Some(upto);
        assert!(log.try_get_log_entries(0..=5).await.expect("they were released").is_empty());
        assert!(log.limited_get_log_entries(0, 6).await.expect("they were released").is_empty());
        let rest = log.try_get_log_entries(upto.index + 1..=5).await.expect("they are there");
        assert_eq!(indexes(&rest), (upto.index + 1..=5).collect::<Vec<_>>());
    }

    /// What is read back for a peer is a message, and fits one.
    #[tokio::test]
    async fn entries_that_are_read_back_are_no_more_than_a_message() {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join("wal")).expect("a directory");
        let mut log = open(&home, false, None);
        // The fourth does not fit beside the others, nor does anything beside it.
        let sizes = [100_000, 100_000, 100_000, 3 * limits::APPEND_BYTES_MAX, 100_000, 100_000];
        let entries: Vec<Entry> = (0..).zip(sizes).map(|(index, bytes)| large_entry(index, bytes)).collect();
        log.append(entries, IOFlushed::noop()).await.expect("an append");
        log.wait_for_disk(5);
        let reader = log.inner.lock().flusher.reader().clone();
        let mut messages = Vec::new();
        let mut next = 0;
        while next < 6 {
            let read =
                read_back(reader.clone(), next, 6, limits::APPEND_BYTES_MAX).await.expect("a sound log");
            messages.push(indexes(&read));
            next += read.len() as u64;
        }
        assert_eq!(messages, [vec![0, 1, 2], vec![3], vec![4, 5]]);
    }

    /// Apply is told of a committed entry that the log does not hold, and does not skip it.
    #[tokio::test]
    async fn committed_entries_are_all_there_or_an_error() {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join("wal")).expect("a directory");
        let mut log = open(&home, false, None);
        log.append((0..3).map(entry).collect::<Vec<_>>(), IOFlushed::noop()).await.expect("an append");
        let read: Result<Vec<Entry>, io::Error> = log.entries_stream(1..3).await.try_collect().await;
        assert_eq!(indexes(&read.expect("they are there")), [1, 2]);
        let read: Result<Vec<Entry>, io::Error> = log.entries_stream(1..5).await.try_collect().await;
        let error = read.expect_err("entries 3 and 4 are not there").to_string();
        assert!(error.contains("entry 4 is committed"), "{error}");
    }

    /// However much is appended at once, and however large an entry is.
    #[tokio::test]
    async fn a_large_append_is_several_frames_and_comes_back() {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join("wal")).expect("a directory");
        let mut log = open(&home, false, None);
        // The last is larger than a segment.
        let sizes = [limits::FRAME_BYTES, 10, limits::FRAME_BYTES, 10, limits::REQUEST_BYTES_LIMIT, 10];
        let entries: Vec<Entry> = (0..).zip(sizes).map(|(index, bytes)| large_entry(index, bytes)).collect();
        log.append(entries.clone(), IOFlushed::noop()).await.expect("an append");
        log.wait_for_disk(5);
        drop(log);
        let mut log = open(&home, true, None);
        let read = log.try_get_log_entries(0..=5).await.expect("a sound log");
        assert!(is_equal(&read, &entries));
        let reader = log.inner.lock().flusher.reader().clone();
        let read = read_back(reader, 0, 6, usize::MAX).await.expect("a sound log");
        assert!(is_equal(&read, &entries));
    }
}
