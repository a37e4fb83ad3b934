//! The hub knows every watcher, and the last revision that was published to them.
//!
//! The hub's owner keeps it behind one lock, which orders the creation of watchers and the publishing of
//! revisions. Whether a new watcher is synced is decided under that lock, so no revision is missed between
//! the two.
//!
//! A revision with very many events is published in strides, and the lock is released between them. A watcher that
//! is created or becomes synced meanwhile might miss some of the events, so it reads that revision from history.
//!
//! No event is lost, and none overtakes another. If the queue of a stream has no room for a revision, its
//! watchers read that revision from history. Progress notifications go through the same queue as events.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::{
    Batch, CreateError, Delivery, Feed, Lagging, State, StreamId, WatchId, WatcherSpec,
    batch::event_bytes,
    group::Group,
    queue::{self, Outlet},
    seats::Seat,
    watcher::Watcher,
};
use crate::{
    limits::{PUBLISH_HITS_MAX, PUBLISH_STRIDE_EVENTS},
    types::{Chunked, Event, KeyRange, Rev},
};

#[derive(Debug)]
pub(crate) struct WatchHub {
    /// Every revision up to this one has been queued for its watchers, or is left for them to read from
    /// history.
    published: Rev,
    /// The revision that is being published, or else the last one that was. A watcher that needs this revision or an
    /// earlier one is unsynced until it has read it from history.
    begun: Rev,
    streams: BTreeMap<StreamId, Stream>,
    stream_next: u64,
    /// The synced watchers, and only they.
    synced: Group,
    watchers: usize,
    /// The number of watchers that asked for previous key-value pairs.
    prev_kv: usize,
    /// The buffer for the hits of one revision, kept for the next revision.
    hits: Vec<Hit>,
}

/// A watcher, and the position of an event that it watches for.
type Hit = (Seat, u32);

/// A revision that is being published, in strides.
#[derive(Debug)]
pub(crate) struct Publication {
    rev: Rev,
    events: Arc<Chunked<Event>>,
    /// The position of the next event.
    next: u32,
    /// What the events before it keep alive.
    bytes: usize,
    hits: Vec<Hit>,
    /// If there are more hits than a queue should hold, the watchers of these events read all of them from history.
    laggards: Option<BTreeSet<Seat>>,
}

#[derive(Debug)]
struct Stream {
    outlet: Outlet,
    watchers: BTreeMap<WatchId, Watcher>,
    /// Watchers that a compaction ended. They keep their ids until their client cancels them.
    retired: BTreeSet<WatchId>,
    /// The first id to try for a watcher whose client does not choose one.
    id_next: i64,
    /// The watchers that the lag notice in the queue is about.
    lagging: Vec<WatchId>,
    /// Watchers that became unsynced after that notice was queued. They wait for the next notice.
    lagging_later: Vec<WatchId>,
}

/// See [`WatchHub::census`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) streams: u64,
    pub(crate) watchers: u64,
    /// Watchers for which history is read.
    pub(crate) unsynced: u64,
    /// Deliveries in the queues of all streams.
    pub(crate) pending: u64,
}

/// A new watcher.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    pub(crate) id: WatchId,
    pub(crate) state: State,
    pub(crate) spec: Arc<WatcherSpec>,
}

impl WatchHub {
    /// The hub of a store that is at revision `published`.
    pub(crate) fn new(published: Rev) -> WatchHub {
        WatchHub {
            published,
            begun: published,
            streams: BTreeMap::new(),
            stream_next: 0,
            synced: Group::default(),
            watchers: 0,
            prev_kv: 0,
            hits: Vec::new(),
        }
    }

    pub(crate) fn published(&self) -> Rev {
        self.published
    }

    /// Whether any watcher asked for previous key-value pairs, so that events have to contain them.
    pub(crate) fn any_prev_kv(&self) -> bool {
        self.prev_kv > 0
    }

    /// The numbers for the metrics.
    pub(crate) fn census(&self) -> Census {
        let pending: usize = self.streams.values().map(|stream| stream.outlet.len()).sum();
        Census {
            streams: self.streams.len() as u64,
            watchers: self.watchers as u64,
            unsynced: (self.watchers - self.synced.len()) as u64,
            pending: pending as u64,
        }
    }

    /// Opens a stream whose queue has room for `capacity` deliveries.
    pub(crate) fn open_stream(&mut self, capacity: usize) -> Feed {
        let id = StreamId(self.stream_next);
        self.stream_next += 1;
        let (outlet, feed) = queue::queue(id, capacity);
        let stream = Stream {
            outlet,
            watchers: BTreeMap::new(),
            retired: BTreeSet::new(),
            id_next: 0,
            lagging: Vec::new(),
            lagging_later: Vec::new(),
        };
        self.streams.insert(id, stream);
        feed
    }

    /// Ends a stream and all of its watchers. Does nothing if it is closed already.
    pub(crate) fn close_stream(&mut self, stream: StreamId) {
        let Some(closed) = self.streams.remove(&stream) else { return };
        for (id, watcher) in closed.watchers {
            self.forget((stream, id), &watcher);
        }
    }

    /// Creates a watcher. If it is synced, all its events come through the feed; if it is unsynced, the
    /// stream reads history for it, beginning with `next_rev`.
    pub(crate) fn create(&mut self, feed: &mut Feed, spec: WatcherSpec) -> Result<Created, CreateError> {
        if spec.start_rev < 0 {
            return Err(CreateError::Compacted);
        }
        if matches!(&spec.range, KeyRange::Span(start, end) if end <= start) {
            return Err(CreateError::EmptyRange);
        }
        let published = self.published;
        let stream = feed.stream;
        let entry = self.streams.get_mut(&stream).expect("the stream is open");
        let id = entry.claim(spec.id)?;
        let next_rev = if spec.start_rev == 0 { published.next() } else { Rev(spec.start_rev) };
        #[cfg(test)]
        let next_rev = match crate::planted::is(crate::planted::Bug::FutureIsNow) {
            true => next_rev.min(published.next()),
            false => next_rev,
        };
        let state = match next_rev > self.begun {
            true => State::Synced { next_rev },
            false => State::Unsynced { next_rev },
        };
        if spec.start_rev != 0 || matches!(state, State::Unsynced { .. }) {
            // A notification that is queued already is not about this watcher, which may read later revisions from
            // history before the client gets the notification.
            feed.void_progress(entry.outlet.handed());
        }
        let spec = Arc::new(spec);
        if let State::Synced { .. } = state {
            self.synced.insert(&spec.range, (stream, id));
        }
        self.watchers += 1;
        self.prev_kv += usize::from(spec.prev_kv);
        entry.watchers.insert(id, Watcher { spec: Arc::clone(&spec), state, heard: false });
        Ok(Created { id, state, spec })
    }

    /// Ends a watcher; the feed yields none of its events any more. Returns whether the watcher existed.
    pub(crate) fn cancel(&mut self, feed: &mut Feed, id: WatchId) -> bool {
        let entry = self.streams.get_mut(&feed.stream).expect("the stream is open");
        let Some(watcher) = entry.watchers.remove(&id) else {
            return entry.retired.remove(&id);
        };
        entry.lagging.retain(|lagging| *lagging != id);
        entry.lagging_later.retain(|lagging| *lagging != id);
        feed.forget(id, entry.outlet.handed());
        self.forget((feed.stream, id), &watcher);
        true
    }

    /// Ends an unsynced watcher because the history that it needs was compacted. The watcher keeps its id
    /// until its client cancels it.
    pub(crate) fn retire(&mut self, stream: StreamId, id: WatchId) {
        let entry = self.streams.get_mut(&stream).expect("the stream is open");
        let watcher = entry.watchers.remove(&id).expect("the watcher exists");
        assert!(matches!(watcher.state, State::Unsynced { .. }), "only an unsynced watcher reads history");
        entry.retired.insert(id);
        self.forget((stream, id), &watcher);
    }

    /// Queues the events of the revision after the last one for their watchers, in one go.
    pub(crate) fn publish(&mut self, rev: Rev, events: Arc<Chunked<Event>>) {
        let mut publication = self.begin(rev, events);
        while self.match_some(&mut publication) == Matched::Some {}
        publication.sort();
        self.finish(publication);
    }

    /// Begins to publish the revision after the last one. The caller calls [`WatchHub::match_some`] until all events are
    /// matched, then [`Publication::sort`], then [`WatchHub::finish`], and may release the hub in between.
    pub(crate) fn begin(&mut self, rev: Rev, events: Arc<Chunked<Event>>) -> Publication {
        assert_eq!(rev, self.published.next(), "revisions are published one after the other");
        assert_eq!(self.begun, self.published, "one revision is published at a time");
        self.begun = rev;
        Publication { rev, events, next: 0, bytes: 0, hits: mem::take(&mut self.hits), laggards: None }
    }

    /// Finds the watchers of the next events, [`PUBLISH_STRIDE_EVENTS`] at most.
    pub(crate) fn match_some(&self, publication: &mut Publication) -> Matched {
        let Publication { events, next, bytes, hits, laggards, .. } = publication;
        for event in events.iter_from(*next as usize).take(PUBLISH_STRIDE_EVENTS) {
            self.synced.matching(&event.kv.key, |seats| match laggards {
                None => hits.extend(seats.iter().map(|seat| (*seat, *next))),
                Some(laggards) => laggards.extend(seats),
            });
            *bytes += event_bytes(event);
            *next += 1;
        }
        if laggards.is_none() && *next as usize > PUBLISH_STRIDE_EVENTS && hits.len() > PUBLISH_HITS_MAX {
            *laggards = Some(mem::take(hits).into_iter().map(|(seat, _)| seat).collect());
        }
        if *next as usize == events.len() { Matched::All } else { Matched::Some }
    }

    /// Queues the events for the watchers that were found, if they are still there.
    pub(crate) fn finish(&mut self, publication: Publication) {
        let Publication { rev, events, next, bytes, mut hits, laggards } = publication;
        assert_eq!(next as usize, events.len(), "every event was matched");
        assert_eq!(rev, self.begun, "a revision is published that was begun");
        self.published = rev;
        for of_stream in hits.chunk_by(|(a, _), (b, _)| a.0 == b.0) {
            self.publish_to(of_stream[0].0.0, rev, &events, bytes, of_stream);
        }
        for (stream, id) in laggards.into_iter().flatten() {
            self.fall_back(stream, rev, [id]);
        }
        hits.clear();
        self.hits = hits;
    }

    /// The watchers that the last [`Delivery::Lagging`] is about. To be called once for each of these
    /// deliveries.
    pub(crate) fn lagging(&mut self, stream: StreamId) -> Vec<Lagging> {
        let entry = self.streams.get_mut(&stream).expect("the stream is open");
        entry.outlet.lag_notice_taken();
        let ready = mem::take(&mut entry.lagging);
        let later = mem::take(&mut entry.lagging_later);
        entry.laggards(later);
        ready
            .into_iter()
            .map(|id| {
                let watcher = &entry.watchers[&id];
                let State::Unsynced { next_rev } = watcher.state else {
                    panic!("watcher {id} is listed as lagging, but is synced")
                };
                Lagging { id, next_rev, spec: Arc::clone(&watcher.spec) }
            })
            .collect()
    }

    /// To be called when an unsynced watcher was sent all its events before `next_rev`; `heard` says whether
    /// there were any. If there is no later revision, the watcher becomes synced.
    pub(crate) fn resume(&mut self, stream: StreamId, id: WatchId, next_rev: Rev, heard: bool) -> State {
        let entry = self.streams.get_mut(&stream).expect("the stream is open");
        let watcher = entry.watchers.get_mut(&id).expect("the watcher exists");
        let State::Unsynced { next_rev: last } = watcher.state else {
            panic!("watcher {id} is synced, and reads no history")
        };
        assert!(next_rev >= last, "watcher {id} went back from {last} to {next_rev}");
        watcher.heard |= heard;
        if next_rev > self.begun {
            watcher.state = State::Synced { next_rev };
            self.synced.insert(&watcher.spec.range, (stream, id));
        } else {
            watcher.state = State::Unsynced { next_rev };
        }
        watcher.state
    }

    /// Answers a client's request for progress through the feed, if all watchers of the stream are synced.
    pub(crate) fn progress(&mut self, stream: StreamId) {
        let rev = self.published;
        let entry = self.streams.get_mut(&stream).expect("the stream is open");
        let all = entry.watchers.values().all(|watcher| watcher.may_hear_progress(rev));
        if all && !entry.watchers.is_empty() {
            entry.tell_progress(Delivery::StreamProgress { rev });
        }
    }

    /// To be called at every interval of progress notifications. Queues a notification for each watcher
    /// that asked for them and got no event during the interval.
    pub(crate) fn tick(&mut self, stream: StreamId) {
        let rev = self.published;
        let entry = self.streams.get_mut(&stream).expect("the stream is open");
        let mut due = Vec::new();
        for (id, watcher) in &mut entry.watchers {
            if watcher.spec.progress_notify {
                let heard = mem::replace(&mut watcher.heard, false);
                #[cfg(test)]
                let heard = heard && !crate::planted::is(crate::planted::Bug::ProgressAhead);
                #[cfg(test)]
                let may_hear =
                    watcher.may_hear_progress(rev) || crate::planted::is(crate::planted::Bug::ProgressAhead);
                #[cfg(not(test))]
                let may_hear = watcher.may_hear_progress(rev);
                if !heard && may_hear {
                    due.push(*id);
                }
            }
        }
        for id in due {
            entry.tell_progress(Delivery::Progress { rev, id });
        }
    }

    /// To be called when a snapshot at `rev` has replaced the store. Watchers read the revisions that were
    /// not published here from history.
    pub(crate) fn restored(&mut self, rev: Rev) {
        assert!(rev >= self.published, "a snapshot is not older than what was published");
        assert_eq!(self.begun, self.published, "no revision is being published");
        let published = mem::replace(&mut self.published, rev);
        self.begun = rev;
        for (stream, entry) in &mut self.streams {
            let mut fallen = Vec::new();
            for (id, watcher) in &mut entry.watchers {
                let State::Synced { next_rev } = watcher.state else { continue };
                let next_rev = next_rev.max(published.next());
                #[cfg(test)]
                let next_rev = match crate::planted::is(crate::planted::Bug::WatchersThrownBack) {
                    true => Rev(next_rev.0 - 3).max(Rev(watcher.spec.start_rev)).max(Rev(1)),
                    false => next_rev,
                };
                if next_rev <= rev {
                    watcher.state = State::Unsynced { next_rev };
                    self.synced.remove(&watcher.spec.range, (*stream, *id));
                    fallen.push(*id);
                }
            }
            entry.laggards(fallen);
        }
    }

    fn publish_to(
        &mut self,
        stream: StreamId,
        rev: Rev,
        events: &Arc<Chunked<Event>>,
        bytes: usize,
        hits: &[Hit],
    ) {
        // It may have been closed since the events were matched.
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        let mut batch = Batch::new(rev, events);
        for of_watcher in hits.chunk_by(|(a, _), (b, _)| a == b) {
            let id = of_watcher[0].0.1;
            let Some(watcher) = entry.watchers.get(&id) else { continue };
            // A watcher that has taken the id of another one meanwhile reads the revision from history, or waits for
            // a later one.
            if watcher.is_due(rev) {
                let spec = &watcher.spec;
                let picks = of_watcher.iter().map(|(_, pick)| *pick);
                let admitted = picks
                    .filter(|pick| events.get(*pick as usize).is_some_and(|event| spec.admits(event.kind)));
                batch.push(id, spec.prev_kv, spec.fragment, admitted);
            }
        }
        if batch.is_empty() {
            return;
        }
        for id in batch.ids() {
            entry.watcher(id).heard = true;
        }
        if let Err(Delivery::Batch(refused)) = entry.outlet.hand(Delivery::Batch(Box::new(batch)), bytes) {
            self.fall_back(stream, rev, refused.ids());
        }
    }

    /// Has watchers that are due at a revision read it from history.
    fn fall_back(&mut self, stream: StreamId, rev: Rev, ids: impl IntoIterator<Item = WatchId>) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        let mut fallen = Vec::new();
        for id in ids {
            let Some(watcher) = entry.watchers.get_mut(&id).filter(|watcher| watcher.is_due(rev)) else {
                continue;
            };
            let next_rev = rev;
            #[cfg(test)]
            let next_rev = if crate::planted::is(crate::planted::Bug::CursorMovedOnFullQueue) {
                rev.next()
            } else {
                next_rev
            };
            watcher.state = State::Unsynced { next_rev };
            self.synced.remove(&watcher.spec.range, (stream, id));
            fallen.push(id);
        }
        entry.laggards(fallen);
    }

    /// Removes a watcher, which was removed from its stream before, from the rest of the hub.
    fn forget(&mut self, seat: Seat, watcher: &Watcher) {
        if let State::Synced { .. } = watcher.state {
            self.synced.remove(&watcher.spec.range, seat);
        }
        self.watchers -= 1;
        self.prev_kv -= usize::from(watcher.spec.prev_kv);
    }
}

/// Whether there are events that were not matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    Some,
    All,
}

impl Publication {
    /// Brings the hits into the order in which they are queued. Needs no hub.
    pub(crate) fn sort(&mut self) {
        // By stream, then by watcher, then in the order of the events. The stable sort is faster here, because the hits
        // are a few sorted runs.
        self.hits.sort();
    }
}

impl Stream {
    /// The id of a new watcher: `wanted`, or, if that is 0, the next that is free.
    fn claim(&mut self, wanted: i64) -> Result<WatchId, CreateError> {
        if wanted != 0 {
            let id = WatchId(wanted);
            return if self.is_taken(id) { Err(CreateError::DuplicateId) } else { Ok(id) };
        }
        while self.is_taken(WatchId(self.id_next)) {
            self.id_next += 1;
        }
        let id = WatchId(self.id_next);
        self.id_next += 1;
        Ok(id)
    }

    fn is_taken(&self, id: WatchId) -> bool {
        self.watchers.contains_key(&id) || self.retired.contains(&id)
    }

    fn watcher(&mut self, id: WatchId) -> &mut Watcher {
        self.watchers.get_mut(&id).expect("the watcher exists")
    }

    /// Notifies the stream of watchers that have just become unsynced. While a lag notice is in the queue,
    /// they wait for the next one, because deliveries for them may be queued behind that notice.
    fn laggards(&mut self, fallen: Vec<WatchId>) {
        if fallen.is_empty() {
            return;
        }
        if self.outlet.has_lag_notice() {
            self.lagging_later.extend(fallen);
        } else {
            self.lagging = fallen;
            self.outlet.send_lag_notice();
        }
    }

    /// If the queue is full, the notification is dropped: the client asks again, or the next interval comes.
    fn tell_progress(&mut self, progress: Delivery) {
        let _no_room = self.outlet.hand(progress, 0);
    }
}
