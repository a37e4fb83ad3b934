//! One client's watchers, and how they catch up with history.
//!
//! What is published comes through the stream's feed. What its unsynced watchers have missed is read
//! from history, one turn at a time, as fast as whoever owns the stream takes it: those that stand
//! close together share one stride, and the next stride is for others.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    ops::Bound,
    sync::Arc,
};

use thiserror::Error;

use super::{Credentials, ManyEvents, Node, ReadError, answer_memory::Memory, past::Past};
use crate::{
    apply::admission::Call,
    auth::AuthError,
    limits::{
        HISTORY_BYTES_MAX, HISTORY_BYTES_PER_WATCHER, Knob, WATCH_BATCH_REVS, WATCH_QUEUE,
        WATCH_WHOLE_EVENTS, WATCHERS_JUDGED_AT_ONCE,
    },
    mvcc::{History, LongHistory, RevError},
    types::{Caller, Chunked, Event, Rev},
    watch::{CreateError, Delivery, Feed, Lagging, State, WatchId, WatcherSpec},
};

pub(crate) struct WatchStream {
    node: Node,
    credentials: Credentials,
    /// Who created the last watcher.
    caller: Caller,
    /// What the watchers wait for, so that they can be judged again.
    watchers: BTreeMap<WatchId, Arc<WatcherSpec>>,
    feed: Feed,
    /// Unsynced watchers, the next to be served first.
    lagging: VecDeque<Lagging>,
    /// A stride that some watchers have yet to take.
    stride: Option<Stride>,
}

/// A stretch of history, and who walks it. All of them have seen what comes before it.
struct Stride {
    path: Path,
    walkers: VecDeque<Lagging>,
}

enum Path {
    Short {
        history: History,
        /// For each revision, whether its events have their previous values.
        filled: Vec<bool>,
    },
    Long {
        events: Arc<Chunked<Event>>,
        next: Rev,
        current: Rev,
        memory: Arc<Memory>,
    },
}

/// What one turn of catching up came to.
pub(crate) enum CaughtUp {
    /// A watcher has got these events; the store was at `rev` when they were read.
    Events { id: WatchId, spec: Arc<WatcherSpec>, rev: Rev, events: Vec<Event> },
    /// The same, with more events than are handled in one go.
    ManyEvents { id: WatchId, spec: Arc<WatcherSpec>, rev: Rev, events: ManyEvents },
    /// A watcher needs history below this revision, which is gone, and has ended.
    Compacted { id: WatchId, compacted: Rev },
}

/// A watcher was not created. The texts are what clients get as `cancel_reason`.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum NotCreated {
    #[error(transparent)]
    Refused(#[from] CreateError),
    #[error(transparent)]
    Denied(#[from] AuthError),
}

impl WatchStream {
    pub(super) fn open(node: Node, credentials: Credentials) -> WatchStream {
        let feed = node.watch_hub().open_stream(Knob::WatchQueue.or(WATCH_QUEUE));
        WatchStream {
            node,
            credentials,
            caller: Caller::Nobody,
            watchers: BTreeMap::new(),
            feed,
            lagging: VecDeque::new(),
            stride: None,
        }
    }

    /// Creates a watcher. Comes with the last published revision, of the same moment.
    pub(crate) fn create(&mut self, spec: WatcherSpec) -> (Result<WatchId, NotCreated>, Rev) {
        let permitted = self.permit(&spec);
        let mut hub = self.node.watch_hub();
        let published = hub.published();
        if let Err(denied) = permitted {
            return (Err(denied.into()), published);
        }
        let created = hub.create(&mut self.feed, spec);
        drop(hub);
        let created = created.map(|created| {
            self.watchers.insert(created.id, Arc::clone(&created.spec));
            if let State::Unsynced { next_rev } = created.state {
                self.lagging.push_back(Lagging { id: created.id, next_rev, spec: created.spec });
            }
            created.id
        });
        (created.map_err(NotCreated::from), published)
    }

    fn permit(&mut self, spec: &WatcherSpec) -> Result<(), AuthError> {
        let caller = self.node.identify(&self.credentials)?;
        self.node.permit(&caller, Call::Watch(&spec.range))?;
        self.caller = caller;
        Ok(())
    }

    /// Users or roles have changed: ends the watchers that would not be permitted any more. As in etcd, a
    /// watcher does not end because its token does.
    pub(crate) async fn judge_again(&mut self) -> Vec<(WatchId, AuthError)> {
        let caller = match self.node.identify(&self.credentials) {
            Ok(caller @ Caller::User { .. }) => caller,
            Ok(_) | Err(_) => self.caller.clone(),
        };
        let caller = self.node.as_of_now(caller);
        let mut denied = Vec::new();
        let mut last = None;
        loop {
            let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
            let some = self.watchers.range((behind, Bound::Unbounded)).take(WATCHERS_JUDGED_AT_ONCE);
            let some: Vec<_> = some.map(|(id, spec)| (*id, Arc::clone(spec))).collect();
            let Some((id, _)) = some.last() else { break };
            last = Some(*id);
            {
                let state = &self.node.shared.replica.read().state;
                denied.extend(some.iter().filter_map(|(id, spec)| {
                    let denied = state.permit(&caller, Call::Watch(&spec.range)).err()?;
                    Some((*id, denied))
                }));
            }
            tokio::task::yield_now().await;
        }
        for (id, _) in &denied {
            self.cancel(*id);
        }
        denied
    }

    /// Ends a watcher. Returns the last published revision, or `None` if there is no such watcher.
    pub(crate) fn cancel(&mut self, id: WatchId) -> Option<Rev> {
        let published = {
            let mut hub = self.node.watch_hub();
            hub.cancel(&mut self.feed, id).then(|| hub.published())
        };
        if published.is_some() {
            self.watchers.remove(&id);
            self.lagging.retain(|laggard| laggard.id != id);
            if let Some(stride) = &mut self.stride {
                stride.walkers.retain(|walker| walker.id != id);
            }
        }
        published
    }

    /// Has the feed say how far the whole stream is, once it is that far.
    pub(crate) fn ask_for_progress(&self) {
        self.node.watch_hub().progress(self.feed.stream);
    }

    /// Has the feed say how far those watchers are that wanted to be told and have heard nothing.
    pub(crate) fn tick(&self) {
        self.node.watch_hub().tick(self.feed.stream);
    }

    /// `None` once the hub is gone. Nothing is lost if this is dropped before it resolves.
    pub(crate) async fn recv(&mut self) -> Option<Delivery> {
        self.feed.recv().await
    }

    /// The number of deliveries that wait.
    pub(crate) fn queued(&self) -> usize {
        self.feed.queued()
    }

    /// The next delivery, if there is one already.
    pub(crate) fn try_recv(&mut self) -> Option<Delivery> {
        self.feed.try_recv()
    }

    /// The feed has said that watchers fell behind. From here on they catch up.
    pub(crate) fn fell_behind(&mut self) {
        let lagging = self.node.watch_hub().lagging(self.feed.stream);
        self.lagging.extend(lagging);
    }

    /// Whether some watcher has to catch up.
    pub(crate) fn is_behind(&self) -> bool {
        self.stride.is_some() || !self.lagging.is_empty()
    }

    /// One turn of catching up: reads a stride, or lets one watcher walk it. `None` if no watcher
    /// gets to hear of the turn.
    pub(crate) async fn catch_up(&mut self) -> Result<Option<CaughtUp>, ReadError> {
        let Some(mut stride) = self.stride.take() else {
            return self.read_stride().await;
        };
        let Some(walker) = stride.walkers.pop_front() else { return Ok(None) };
        let is_last = stride.walkers.is_empty();
        let walked = match &mut stride.path {
            Path::Short { history, filled } => self.walk(history, filled, walker, is_last).await?,
            Path::Long { events, next, current, memory } => {
                let picks = self.walk_long(events, walker.next_rev, &walker.spec).await;
                let (events, memory) = (Arc::clone(events), Arc::clone(memory));
                let many = ManyEvents::new(&self.node, events, picks, walker.spec.prev_kv, memory);
                let (id, spec, rev) = (walker.id, Arc::clone(&walker.spec), *current);
                let heard = many.len() > 0;
                self.resume(walker, *next, heard);
                heard.then_some(CaughtUp::ManyEvents { id, spec, rev, events: many })
            }
        };
        if !is_last {
            self.stride = Some(stride);
        }
        Ok(walked)
    }

    async fn read_stride(&mut self) -> Result<Option<CaughtUp>, ReadError> {
        let Some(first) = self.lagging.pop_front() else { return Ok(None) };
        let from = first.next_rev;
        // What many watchers walk costs each of them little.
        let bytes = HISTORY_BYTES_MAX.min(HISTORY_BYTES_PER_WATCHER * (1 + self.lagging.len()));
        let past = match self.node.history(from, WATCH_BATCH_REVS, bytes).await {
            Ok(past) => past,
            Err(ReadError::Rev(RevError::Compacted { compacted, .. })) => {
                self.node.watch_hub().retire(self.feed.stream, first.id);
                self.watchers.remove(&first.id);
                return Ok(Some(CaughtUp::Compacted { id: first.id, compacted }));
            }
            Err(error) => return Err(error),
        };
        let (next, path) = match past {
            Past::Short(history) => {
                (history.next, Path::Short { filled: vec![false; history.revs.len()], history })
            }
            Past::Long(LongHistory { events, next, current }, memory) => {
                (next, Path::Long { events: Arc::new(events), next, current, memory: Arc::new(memory) })
            }
        };
        let (mut walkers, lagging): (VecDeque<_>, VecDeque<_>) = mem::take(&mut self.lagging)
            .into_iter()
            .partition(|laggard| from <= laggard.next_rev && laggard.next_rev < next);
        walkers.push_front(first);
        self.lagging = lagging;
        self.stride = Some(Stride { path, walkers });
        Ok(None)
    }

    /// Gives a watcher what it wants of a stride, and moves it behind it.
    async fn walk(
        &mut self,
        history: &mut History,
        filled: &mut [bool],
        walker: Lagging,
        is_last: bool,
    ) -> Result<Option<CaughtUp>, ReadError> {
        let (id, spec) = (walker.id, Arc::clone(&walker.spec));
        let mut wanted = Vec::new();
        let start = history.revs.partition_point(|(rev, _)| *rev < walker.next_rev);
        for ((_, events), filled) in history.revs[start..].iter_mut().zip(&mut filled[start..]) {
            if spec.prev_kv && !*filled && events.iter().any(|event| spec.wants(event)) {
                self.node.fill_prev(events).await?;
                *filled = true;
            }
            if !is_last {
                wanted.extend(events.iter().filter(|event| spec.wants(event)).cloned());
                continue;
            }
            events.retain(|event| spec.wants(event));
            if wanted.is_empty() {
                wanted = mem::take(events);
            } else {
                wanted.append(events);
            }
        }
        let heard = !wanted.is_empty();
        self.resume(walker, history.next, heard);
        Ok(heard.then_some(CaughtUp::Events { id, spec, rev: history.current, events: wanted }))
    }

    /// Which events of a long stride a watcher gets.
    async fn walk_long(&self, events: &Chunked<Event>, next_rev: Rev, spec: &WatcherSpec) -> Arc<[u32]> {
        let mut picks = Vec::new();
        for start in (0..events.len()).step_by(WATCH_WHOLE_EVENTS) {
            let some = events.iter_from(start).take(WATCH_WHOLE_EVENTS).zip(start..);
            let wanted = some.filter(|(event, _)| event.kv.mod_rev >= next_rev && spec.wants(event));
            picks.extend(wanted.map(|(_, place)| place as u32));
            tokio::task::yield_now().await;
        }
        picks.into()
    }

    /// A watcher has seen everything before `next_rev`.
    fn resume(&mut self, walker: Lagging, next_rev: Rev, heard: bool) {
        let Lagging { id, next_rev: before, spec } = walker;
        let state = self.node.watch_hub().resume(self.feed.stream, id, next_rev.max(before), heard);
        if let State::Unsynced { next_rev } = state {
            self.lagging.push_back(Lagging { id, next_rev, spec });
        }
    }

    /// Adds to each event what the key held before it.
    pub(crate) async fn fill_prev(&self, events: &mut [Event]) -> Result<(), ReadError> {
        self.node.fill_prev(events).await
    }

    /// Events of a published revision. All streams share them, so they take no memory here.
    pub(crate) fn published(
        &self,
        (events, picks): (Arc<Chunked<Event>>, Arc<[u32]>),
        prev_kv: bool,
    ) -> ManyEvents {
        ManyEvents::new(&self.node, events, picks, prev_kv, Arc::default())
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.node.watch_hub().close_stream(self.feed.stream);
    }
}
