//! Removing a node and everything below it, a stride at a time.

use std::sync::Arc;

use super::{Action, Event, Key, Seen, node::Node, nodes::Nodes};

/// An event, and what it has removed from the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    pub(crate) event: Arc<Event>,
    /// The node itself and its descendants, for the watchers that wait at one of them.
    pub(crate) removed: Vec<Key>,
}

#[derive(Debug)]
pub(crate) struct Removal {
    key: Key,
    prefix: String,
    action: Action,
    prev: Seen,
    removed: Vec<Key>,
}

impl Removal {
    pub(super) fn begin(action: Action, key: &Key, node: &Node, now: i64) -> Removal {
        let prev = Seen::of(key, node, now);
        Removal { key: key.clone(), prefix: key.prefix(), action, prev, removed: Vec::new() }
    }

    /// Removes nodes, `keys_left` at most, which is reduced by those that were. What happened, once all are
    /// removed.
    pub(super) fn advance(&mut self, nodes: &mut Nodes, keys_left: &mut usize) -> Option<Happened> {
        while *keys_left > 0 {
            *keys_left -= 1;
            let below = nodes.first_below(&self.prefix);
            let is_last = below.is_none();
            let key = below.unwrap_or(&self.key).clone();
            nodes.remove(&key);
            self.removed.push(key);
            if is_last {
                return Some(self.finish(nodes));
            }
        }
        None
    }

    fn finish(&mut self, nodes: &mut Nodes) -> Happened {
        let (is_dir, created) = (self.prev.is_dir, self.prev.created);
        let node = Seen::gone(&self.key, is_dir, nodes.index() + 1, created);
        let event = Event { action: self.action, node, prev: Some(self.prev.clone()), is_refresh: false };
        let event = nodes.push(event);
        Happened { event, removed: std::mem::take(&mut self.removed) }
    }
}
