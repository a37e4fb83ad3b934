//! The last events, for watchers that ask for an index of the past.
//!
//! Every index has a slot. The slot is empty where there is nothing to see: a TTL was refreshed, or users and
//! roles changed.

use std::{collections::VecDeque, sync::Arc};

use super::{Code, Event, Key, Refusal};
use crate::limits::{V2_HISTORY_BYTES_MAX, V2_HISTORY_EVENTS_MAX};

/// The index of a store before its first change, as in an etcd of one member: etcd keeps its members, too, in
/// this store.
pub(super) const INDEX_INITIAL: u64 = 3;

#[derive(Debug)]
pub(super) struct History {
    /// The index of the first slot.
    first: u64,
    slots: VecDeque<Option<Arc<Event>>>,
    bytes: usize,
}

impl History {
    pub(super) fn new() -> History {
        let slots = std::iter::repeat_n(None, INDEX_INITIAL as usize).collect();
        History { first: 1, slots, bytes: 0 }
    }

    /// The index of the newest slot, which is that of the store.
    pub(super) fn last(&self) -> u64 {
        self.first + self.slots.len() as u64 - 1
    }

    /// Takes the slot of the next index. Returns the indexes of the slots that had to go for it.
    pub(super) fn push(&mut self, event: Option<Arc<Event>>) -> std::ops::Range<u64> {
        if let Some(event) = &event {
            assert_eq!(event.index(), self.last() + 1, "every index has one slot");
        }
        self.bytes += size(&event);
        self.slots.push_back(event);
        let before = self.first;
        while self.slots.len() > V2_HISTORY_EVENTS_MAX
            || (self.bytes > V2_HISTORY_BYTES_MAX && self.slots.len() > 1)
        {
            let gone = self.slots.pop_front().expect("there is more than one");
            self.bytes -= size(&gone);
            self.first += 1;
        }
        before..self.first
    }

    /// The first event from index `from` to index `to` that a watcher of `key` is to see.
    pub(super) fn find(
        &self,
        key: &Key,
        recursive: bool,
        from: u64,
        to: u64,
    ) -> Result<Option<Arc<Event>>, Refusal> {
        let Some(skipped) = from.checked_sub(self.first) else {
            let cause = format!("the requested history has been cleared [{}/{from}]", self.first);
            return Err(Refusal { code: Code::IndexCleared, cause, index: self.last() });
        };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let mut events = self.slots.iter().skip(skipped).flatten().take_while(|event| event.index() <= to);
        Ok(events.find(|event| event.is_found_by(key, recursive)).cloned())
    }

    /// Puts back the next slot that was stored. `None` if it does not follow the one before.
    pub(super) fn restore(&mut self, index: u64, event: Option<Event>, is_first: bool) -> Option<()> {
        if is_first {
            (self.first, self.bytes) = (index, 0);
            self.slots.clear();
        } else if index != self.last() + 1 {
            return None;
        }
        if event.as_ref().is_some_and(|event| event.index() != index) {
            return None;
        }
        let event = event.map(Arc::new);
        self.bytes += size(&event);
        self.slots.push_back(event);
        Some(())
    }
}

fn size(event: &Option<Arc<Event>>) -> usize {
    event.as_ref().map_or(0, |event| event.size())
}
