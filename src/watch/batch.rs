//! What the hub sends to a stream: one revision, for all watchers of the stream that match its events.
//!
//! All streams share the events. A batch only adds a flat list of which watcher gets which events, so ten
//! thousand watchers of a key cost ten thousand list entries, and not ten thousand copies.

use std::{ops::Range, sync::Arc};

use super::WatchId;
use crate::types::{Chunked, Event, KeyValue, Rev};

/// An item in the queue of a stream.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// In a box, because a queue has room for many deliveries from the beginning.
    Batch(Box<Batch>),
    /// The watcher `id` has been sent all its events up to `rev`.
    Progress { rev: Rev, id: WatchId },
    /// Every watcher of the stream has been sent all its events up to `rev`.
    StreamProgress { rev: Rev },
    /// Some watchers have become unsynced. The stream asks the hub which, and reads history for them.
    Lagging,
}

/// One whole revision.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) rev: Rev,
    events: Arc<Chunked<Event>>,
    /// Not empty, ordered by id, each id once.
    hits: Vec<Hit>,
    /// Positions in `events`. Each hit has a part of this list, which is ascending and not empty.
    picks: Vec<u32>,
}

#[derive(Debug)]
struct Hit {
    id: WatchId,
    prev_kv: bool,
    fragment: bool,
    picks: Range<u32>,
}

/// A watcher's share of a batch.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    pub(crate) id: WatchId,
    pub(crate) prev_kv: bool,
    pub(crate) fragment: bool,
    events: &'a Arc<Chunked<Event>>,
    picks: &'a [u32],
}

impl Batch {
    pub(super) fn new(rev: Rev, events: &Arc<Chunked<Event>>) -> Batch {
        Batch { rev, events: Arc::clone(events), hits: Vec::new(), picks: Vec::new() }
    }

    /// Adds a watcher's share, unless the share is empty.
    pub(super) fn push(
        &mut self,
        id: WatchId,
        prev_kv: bool,
        fragment: bool,
        picks: impl Iterator<Item = u32>,
    ) {
        let start = self.picks.len() as u32;
        self.picks.extend(picks);
        let end = self.picks.len() as u32;
        if start < end {
            self.hits.push(Hit { id, prev_kv, fragment, picks: start..end });
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(WatchId) -> bool) {
        self.hits.retain(|hit| keep(hit.id));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hits.is_empty()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = WatchId> {
        self.hits.iter().map(|hit| hit.id)
    }

    /// The number of watchers that get something.
    pub(crate) fn watchers(&self) -> usize {
        self.hits.len()
    }

    pub(crate) fn shares(&self) -> impl Iterator<Item = Share<'_>> {
        (0..self.watchers()).map(|position| self.share(position))
    }

    /// The share of one of them.
    pub(crate) fn share(&self, position: usize) -> Share<'_> {
        let hit = &self.hits[position];
        Share {
            id: hit.id,
            prev_kv: hit.prev_kv,
            fragment: hit.fragment,
            events: &self.events,
            picks: self.picks_of(hit),
        }
    }

    /// Whether the watchers at two positions get the same.
    pub(crate) fn is_alike(&self, position: usize, other: usize) -> bool {
        let (one, other) = (&self.hits[position], &self.hits[other]);
        one.prev_kv == other.prev_kv && self.picks_of(one) == self.picks_of(other)
    }

    /// Whether the same watchers get something of another revision, so that positions here are positions there.
    pub(crate) fn has_watchers_of(&self, other: &Batch) -> bool {
        let of = |hit: &Hit| (hit.id, hit.prev_kv, hit.fragment);
        self.hits.iter().map(of).eq(other.hits.iter().map(of))
    }

    fn picks_of(&self, hit: &Hit) -> &[u32] {
        &self.picks[hit.picks.start as usize..hit.picks.end as usize]
    }
}

impl<'a> Share<'a> {
    /// The events of the whole revision, and which of them these are.
    pub(crate) fn picked(&self) -> (Arc<Chunked<Event>>, Arc<[u32]>) {
        (Arc::clone(self.events), self.picks.into())
    }

    pub(crate) fn events(&self) -> impl ExactSizeIterator<Item = &'a Event> + use<'a> {
        let events = &**self.events;
        self.picks.iter().map(move |&pick| events.get(pick as usize).expect("a pick is one of the events"))
    }
}

/// The memory that an event keeps alive.
pub(super) fn event_bytes(event: &Event) -> usize {
    let of = |kv: &KeyValue| kv.key.len() + kv.value.len();
    size_of::<Event>() + of(&event.kv) + event.prev_kv.as_ref().map_or(0, of)
}
