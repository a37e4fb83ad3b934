//! The watchers that wait for events.
//!
//! An event is shown to the watchers at its key and at the directories above, and, if it removes nodes, to
//! those that wait at a removed node. A watcher has a queue of its own; the hub never waits for one.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{Action, Answer, Event, Happened, Key};
use crate::{
    limits::{V2_WATCHER_QUEUE, V2_WATCHERS_MAX},
    sync::watch,
};

#[derive(Debug)]
pub(crate) struct Hub {
    /// The index up to which watchers were told.
    published: watch::Sender<u64>,
    /// How often the state was replaced.
    generation: u64,
    by_key: BTreeMap<Key, Vec<Watcher>>,
    count: usize,
    next_id: u64,
    counts: Counts,
}

/// What was asked of this member, and what the log has asked of it, since it started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) gets: Tally,
    pub(crate) sets: Tally,
    pub(crate) deletes: Tally,
    pub(crate) updates: Tally,
    pub(crate) creates: Tally,
    pub(crate) swaps: Tally,
    pub(crate) compared_deletes: Tally,
    pub(crate) expired: u64,
    pub(crate) watchers: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) success: u64,
    pub(crate) fail: u64,
}

impl Tally {
    fn count(&mut self, is_success: bool) {
        if is_success { self.success += 1 } else { self.fail += 1 }
    }
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    recursive: bool,
    from: u64,
    queue: mpsc::Sender<Arc<Event>>,
}

/// A watcher that was registered.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) id: u64,
    /// The index up to which events come from the history, and not from the queue.
    pub(crate) published: u64,
    pub(crate) generation: u64,
    /// Ends when the queue was full, and when the state was replaced.
    pub(crate) events: mpsc::Receiver<Arc<Event>>,
}

impl Hub {
    pub(crate) fn new(published: u64) -> Hub {
        Hub {
            published: watch::Sender::new(published),
            generation: 0,
            by_key: BTreeMap::new(),
            count: 0,
            next_id: 0,
            counts: Counts::default(),
        }
    }

    /// Registers a watcher for the events from index `from` on. `None` if there are too many.
    pub(crate) fn register(&mut self, key: &Key, recursive: bool, from: u64) -> Option<Watching> {
        if self.count >= V2_WATCHERS_MAX {
            return None;
        }
        let (queue, events) = mpsc::channel(V2_WATCHER_QUEUE);
        let id = self.next_id;
        self.next_id += 1;
        let published = *self.published.borrow();
        let from = from.max(published + 1);
        self.by_key.entry(key.clone()).or_default().push(Watcher { id, recursive, from, queue });
        self.count += 1;
        Some(Watching { id, published, generation: self.generation, events })
    }

    pub(crate) fn unregister(&mut self, key: &Key, id: u64) {
        self.retain(key, |watcher| watcher.id != id);
    }

    /// Changes with every index.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { watchers: self.count, ..self.counts }
    }

    pub(crate) fn count_get(&mut self, is_success: bool) {
        self.counts.gets.count(is_success);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Counts what came of a command, and shows it to the watchers.
    pub(crate) fn publish(&mut self, answer: &Answer) {
        match answer {
            Answer::Key(asked, result) => {
                self.tally(asked).count(result.is_ok());
                if let Ok(happened) = result {
                    self.show(happened);
                }
            }
            Answer::Expired(happened) => {
                self.counts.expired += happened.len() as u64;
                happened.iter().for_each(|happened| self.show(happened));
            }
            Answer::Account { index, .. } => {
                self.published.send_replace(*index);
            }
        }
    }

    fn tally(&mut self, action: &Action) -> &mut Tally {
        let counts = &mut self.counts;
        match action {
            Action::Create => &mut counts.creates,
            Action::Set => &mut counts.sets,
            Action::Update => &mut counts.updates,
            Action::Delete | Action::Expire => &mut counts.deletes,
            Action::CompareAndSwap => &mut counts.swaps,
            Action::CompareAndDelete => &mut counts.compared_deletes,
        }
    }

    /// The state was replaced by another one: whoever waits has to ask again.
    pub(crate) fn reset(&mut self, published: u64) {
        self.generation += 1;
        self.published.send_replace(published);
        self.count = 0;
        self.by_key.clear();
    }

    fn show(&mut self, happened: &Happened) {
        let Happened { event, removed } = happened;
        if self.count > 0 && !event.is_refresh {
            self.send_all(event, removed);
        }
        self.published.send_replace(event.index());
    }

    fn send_all(&mut self, event: &Arc<Event>, removed: &[Key]) {
        let key = &event.node.key;
        let above = key.steps().filter(|step| *step != key.as_str());
        let above: Vec<Key> = ["/"].into_iter().chain(above).filter_map(|step| Key::of(step).ok()).collect();
        for ancestor in &above {
            if !is_hidden_from(ancestor, key) {
                self.send(ancestor, event, |watcher| watcher.recursive);
            }
        }
        self.send(key, event, |_| true);
        for gone in removed.iter().filter(|gone| *gone != key) {
            self.send(gone, event, |_| true);
        }
    }

    fn send(&mut self, key: &Key, event: &Arc<Event>, wants: impl Fn(&Watcher) -> bool) {
        self.retain(key, |watcher| {
            if !wants(watcher) || event.index() < watcher.from {
                return true;
            }
            match watcher.queue.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
            }
        });
    }

    fn retain(&mut self, key: &Key, keeps: impl FnMut(&Watcher) -> bool) {
        let Some(watchers) = self.by_key.get_mut(key) else { return };
        let before = watchers.len();
        watchers.retain(keeps);
        self.count -= before - watchers.len();
        if watchers.is_empty() {
            self.by_key.remove(key);
        }
    }
}

/// Whether a component below the watched directory is hidden.
fn is_hidden_from(watched: &Key, key: &Key) -> bool {
    key.as_str().strip_prefix(&watched.prefix()).is_some_and(|rest| format!("/{rest}").contains("/_"))
}
