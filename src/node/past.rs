//! What watchers read of the past: history, and what keys held before an event.
//!
//! What is not in memory is read on the blocking pool. A revision may have so many events that nobody should handle
//! all of them in one go: these are counted as the memory of an answer, and sent a piece at a time.

use std::{mem, ops::Range, sync::Arc};

use tokio::task;

use super::{Node, ReadError, answer_memory::Memory};
use crate::{
    limits,
    mvcc::{History, Hold, LongHistory, RevError, Step},
    threads,
    types::{Chunked, Event, KeyValue, Rev, Revision},
};

/// A part of the history.
pub(super) enum Past {
    Short(History),
    Long(LongHistory, Memory),
}

/// The events that a watcher gets, of which there are many. They are taken a piece at a time. Clones share them.
#[derive(Clone)]
pub(crate) struct ManyEvents {
    node: Node,
    events: Arc<Chunked<Event>>,
    /// Which of `events`: their positions, ascending.
    picks: Arc<[u32]>,
    /// Those of `picks` that were not taken yet.
    rest: Range<usize>,
    /// Of watchers that want previous pairs.
    before: Option<Before>,
    memory: Arc<Memory>,
}

/// Keeps previous pairs readable.
#[derive(Clone)]
struct Before {
    hold: Hold,
    /// When the hold was taken.
    compacted: Rev,
}

impl ManyEvents {
    /// `memory` is what `events` take, if they are not in memory anyway.
    pub(super) fn new(
        node: &Node,
        events: Arc<Chunked<Event>>,
        picks: Arc<[u32]>,
        want_prev: bool,
        memory: Arc<Memory>,
    ) -> ManyEvents {
        let before = want_prev.then(|| {
            let store = &node.shared.replica.read().state.mvcc;
            Before { hold: store.hold(), compacted: store.rev_compacted() }
        });
        let rest = 0..picks.len();
        ManyEvents { node: node.clone(), events, picks, rest, before, memory }
    }

    /// How many were not taken yet.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// So many of the events that were not taken yet, which count as taken here.
    pub(crate) fn split_off(&mut self, count: usize) -> ManyEvents {
        assert!(count <= self.len(), "only events that there are can be split off");
        let end = self.rest.start + count;
        let mut first = self.clone();
        first.rest.end = end;
        self.rest.start = end;
        first
    }

    /// Whether others wait for what these events keep: memory, or the removal of what was compacted.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.memory.is_counted() || self.before.is_some()
    }

    /// The next events; `None` after the last. They are the same in every clone. Fails if a snapshot from the leader
    /// has replaced the state that previous pairs are read from.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Event>>, ReadError> {
        let end = self.rest.end.min(self.rest.start + limits::READ_STRIDE_RECORDS);
        let picks = &self.picks[self.rest.start..end];
        let event =
            |pick: &u32| self.events.get(*pick as usize).expect("a pick is one of the events").clone();
        let mut some: Vec<Event> = picks.iter().map(event).collect();
        if some.is_empty() {
            return Ok(None);
        }
        if let Some(before) = &self.before {
            let found = self.node.pairs_before(&some, Some(before)).await?;
            some.truncate(found.len());
            some.iter_mut().zip(found).for_each(|(event, prev)| event.prev_kv = prev);
        } else {
            some.iter_mut().for_each(|event| event.prev_kv = None);
        }
        self.rest.start += some.len();
        Ok(Some(some))
    }
}

impl Drop for ManyEvents {
    /// Nobody on the reactor waits until a million events are dropped.
    fn drop(&mut self) {
        if let Some(events) = Arc::into_inner(mem::take(&mut self.events)) {
            threads::drop_apart(events);
        }
    }
}

impl Node {
    /// Changes from `from` on, whole revisions, for a watcher that is behind.
    pub(super) async fn history(
        &self,
        from: Rev,
        max_revs: usize,
        max_bytes: usize,
    ) -> Result<Past, ReadError> {
        assert!(max_revs > 0, "a stride of history takes at least one revision");
        let mut stride = self.shared.replica.read().state.mvcc.history(from, max_revs, max_bytes)?;
        let step = match stride.events_in_memory() {
            Some(_) => stride.read(limits::WATCH_WHOLE_EVENTS)?,
            None => {
                let read = move || stride.read(limits::WATCH_WHOLE_EVENTS).map(|step| (stride, step));
                let step;
                (stride, step) = self.read_apart(&self.shared.turns.long, read).await?;
                step
            }
        };
        if step == Step::Done {
            return Ok(Past::Short(stride.into_history()));
        }
        // How many there are in the database is known when they were read.
        let bytes = stride.events_in_memory().map_or(usize::MAX, memory_of);
        let mut memory = self.shared.answer_memory.reserve_up_to(bytes).await?;
        let read = move || {
            let step = stride.read(usize::MAX)?;
            assert_eq!(step, Step::Done, "there is no bound");
            Ok(stride.into_long_history())
        };
        let history = self.read_apart(&self.shared.turns.long, read).await?;
        memory.shrink_to(memory_of(history.events.len()));
        Ok(Past::Long(history, memory))
    }

    /// Adds to each event what the key held before it.
    pub(super) async fn fill_prev(&self, events: &mut [Event]) -> Result<(), ReadError> {
        let mut rest = events;
        while !rest.is_empty() {
            let some = rest.len().min(limits::RANGE_STRIDE_KEYS);
            let found = self.pairs_before(&rest[..some], None).await?;
            let (filled, others) = rest.split_at_mut(found.len());
            filled.iter_mut().zip(found).for_each(|(event, prev)| event.prev_kv = prev);
            rest = others;
            task::yield_now().await;
        }
        Ok(())
    }

    /// What keys held before some events: before as many of them as are read at once, which is one at least.
    async fn pairs_before(
        &self,
        events: &[Event],
        before: Option<&Before>,
    ) -> Result<Vec<Option<KeyValue>>, ReadError> {
        let borrowed: Vec<&Event> = events.iter().collect();
        let lookup = {
            let store = &self.shared.replica.read().state.mvcc;
            let compacted = before.map_or(store.rev_compacted(), |before| before.compacted);
            if let (Some(before), Some(first)) = (before, events.first())
                && !store.is_readable(Revision { main: first.kv.mod_rev, sub: 0 }, Some(&before.hold))
            {
                return Err(RevError::Compacted { asked: first.kv.mod_rev, compacted }.into());
            }
            store.locate_prev(&borrowed, compacted)
        };
        if lookup.unread() <= limits::READS_ON_REACTOR {
            return Ok(lookup.load(limits::READ_STRIDE_BYTES)?);
        }
        self.read_apart(&self.shared.turns.short, || lookup.load(limits::READ_STRIDE_BYTES)).await
    }
}

fn memory_of(events: usize) -> usize {
    events * size_of::<Event>()
}
