//! The nodes and the history: what commands change, and what is stored of it.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use bytes::Bytes;
use imbl::OrdMap;

use super::{
    Code, Event, Key, Refusal, cell,
    history::{History, INDEX_INITIAL},
    node::Node,
};
use crate::storage::{Table, cell_footprint};

/// A snapshot of the nodes. The root is not among them: it always exists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(super) nodes: OrdMap<Key, Node>,
    pub(crate) index: u64,
}

/// The cells that have changed since they were taken last, and what nodes take and have taken.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) cells: Vec<(Table, Bytes, Option<Bytes>)>,
    /// Bytes of the nodes before.
    pub(crate) counted_before: u64,
    /// Bytes of the nodes after.
    pub(crate) counted_after: u64,
}

/// The nodes that a command changes, with the events that it makes.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: OrdMap<Key, Node>,
    /// The nodes that expire, by time.
    expiring: BTreeSet<(i64, Key)>,
    pub(super) history: History,
    pub(super) changes: Changes,
}

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes {
            nodes: OrdMap::new(),
            expiring: BTreeSet::new(),
            history: History::new(),
            changes: Changes::default(),
        }
    }
}

impl Nodes {
    pub(super) fn tree(&self) -> Tree {
        Tree { nodes: self.nodes.clone(), index: self.index() }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Node> {
        self.nodes.get(key)
    }

    /// The node at a key, or what is in its way.
    pub(super) fn find(&self, key: &Key) -> Result<Node, Refusal> {
        find(&self.nodes, key, self.index())
    }

    /// The next node that expires, and when.
    pub(super) fn next_to_expire(&self) -> Option<&(i64, Key)> {
        self.expiring.first()
    }

    /// The first node below a directory whose keys begin with `prefix`.
    pub(super) fn first_below(&self, prefix: &str) -> Option<&Key> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let next = self.nodes.range::<_, str>(from).next();
        next.map(|(key, _)| key).filter(|key| key.as_str().starts_with(prefix))
    }

    pub(super) fn index(&self) -> u64 {
        self.history.last()
    }

    pub(super) fn put(&mut self, key: &Key, node: Node) {
        self.forget(key);
        if let Some(expires) = node.expires {
            self.expiring.insert((expires, key.clone()));
        }
        let stored = cell::node(&node);
        self.changes.counted_after += cell_footprint(key.as_str().as_bytes(), &stored);
        self.record(Table::V2Node, node_key(key), Some(stored));
        self.nodes.insert(key.clone(), node);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.forget(key);
        self.nodes.remove(key);
        self.record(Table::V2Node, node_key(key), None);
    }

    /// Takes what there is of a node out of the account and the queue.
    fn forget(&mut self, key: &Key) {
        if let Some(before) = self.nodes.get(key) {
            self.changes.counted_before += cell_footprint(key.as_str().as_bytes(), &cell::node(before));
            if let Some(expires) = before.expires {
                assert!(self.expiring.remove(&(expires, key.clone())), "a node that expires is in the queue");
            }
        }
    }

    /// Puts an event into the history, which makes the next index.
    pub(super) fn push(&mut self, event: Event) -> Arc<Event> {
        let event = Arc::new(event);
        // Nobody finds a refresh in the history.
        self.push_slot((!event.is_refresh).then(|| event.clone()));
        event
    }

    /// Takes an index without an event.
    pub(super) fn push_empty(&mut self) {
        self.push_slot(None);
    }

    fn push_slot(&mut self, event: Option<Arc<Event>>) {
        if self.index() == INDEX_INITIAL {
            for index in 1..=INDEX_INITIAL {
                self.record(Table::V2Event, slot_key(index), Some(Bytes::new()));
            }
        }
        let stored = cell::slot(event.as_deref());
        let gone = self.history.push(event);
        let index = self.index();
        self.record(Table::V2Event, slot_key(index), Some(stored));
        for index in gone {
            self.record(Table::V2Event, slot_key(index), None);
        }
    }

    pub(super) fn record(&mut self, table: Table, key: Bytes, cell: Option<Bytes>) {
        self.changes.cells.push((table, key, cell));
    }

    /// `None` if this is not what was stored.
    pub(super) fn restore_node(&mut self, key: &[u8], cell: &[u8]) -> Option<()> {
        let path = str::from_utf8(key).ok()?;
        let key = Key::of(path).ok().filter(|key| key.as_str() == path && !key.is_root())?;
        let node = cell::read_node(cell)?;
        if let Some(expires) = node.expires {
            self.expiring.insert((expires, key.clone()));
        }
        self.nodes.insert(key, node);
        Some(())
    }

    /// `None` if this is not what was stored. The slots have to come in the order of their keys.
    pub(super) fn restore_event(&mut self, key: &[u8], cell: &[u8], is_first: bool) -> Option<()> {
        let index = u64::from_be_bytes(key.try_into().ok()?);
        self.history.restore(index, cell::read_slot(cell)?, is_first)
    }

    /// Whether every node is in a directory.
    pub(super) fn is_whole(&self) -> bool {
        let is_dir = |key: &Key| self.nodes.get(key).is_some_and(Node::is_dir);
        self.nodes.keys().all(|key| parents(key).last().is_none_or(is_dir))
    }
}

fn node_key(key: &Key) -> Bytes {
    Bytes::copy_from_slice(key.as_str().as_bytes())
}

fn slot_key(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_be_bytes())
}

/// The directories above a node, from the highest. The root is left out.
pub(super) fn parents(key: &Key) -> Vec<Key> {
    let steps = key.steps().filter(|step| *step != key.as_str());
    steps.map(|step| Key::of(step).expect("shorter than a key")).collect()
}

/// The node at a key. The root is a directory that was there from the beginning.
pub(super) fn find(nodes: &OrdMap<Key, Node>, key: &Key, index: u64) -> Result<Node, Refusal> {
    let mut found = Node { created: 0, modified: 0, expires: None, value: None };
    let mut at = "/";
    for step in key.steps() {
        if !found.is_dir() {
            return Err(Refusal { code: Code::NotDir, cause: at.to_owned(), index });
        }
        let Some(node) = nodes.get(step) else {
            return Err(Refusal { code: Code::KeyNotFound, cause: step.to_owned(), index });
        };
        (found, at) = (node.clone(), step);
    }
    Ok(found)
}
