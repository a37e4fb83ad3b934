//! What happened to a node.

use std::sync::Arc;

use super::{Action, Key, node::Node, ttl_secs};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) action: Action,
    pub(crate) node: Seen,
    pub(crate) prev: Option<Seen>,
    /// A TTL was refreshed: the answer says so, and watchers do not see the event.
    pub(crate) is_refresh: bool,
}

/// A node as an event shows it, without its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) key: Key,
    /// `None` for a directory, and for a node that is gone.
    pub(crate) value: Option<Arc<str>>,
    pub(crate) is_dir: bool,
    pub(crate) expires: Option<i64>,
    /// What was left of the TTL, in seconds, when the command was proposed.
    pub(crate) ttl_secs: i64,
    pub(crate) modified: u64,
    pub(crate) created: u64,
}

impl Event {
    pub(crate) fn index(&self) -> u64 {
        self.node.modified
    }

    /// Whether the answer is `201 Created`.
    pub(crate) fn created(&self) -> bool {
        match self.action {
            Action::Create => true,
            Action::Set => self.prev.is_none(),
            Action::Update
            | Action::Delete
            | Action::CompareAndSwap
            | Action::CompareAndDelete
            | Action::Expire => false,
        }
    }

    /// The bytes that are accounted for it in the history.
    pub(super) fn size(&self) -> usize {
        self.node.size() + self.prev.as_ref().map_or(0, Seen::size)
    }

    /// Whether a watcher sees the event, that looks for it in the history. As in etcd this is not quite the
    /// rule for a watcher that waits when the event happens: hidden nodes are seen, and the removal of a
    /// directory is seen at every key that begins with the directory's.
    pub(super) fn is_found_by(&self, key: &Key, recursive: bool) -> bool {
        let at = &self.node.key;
        let removes_dir = matches!(self.action, Action::Delete | Action::Expire)
            && self.prev.as_ref().is_some_and(|prev| prev.is_dir);
        at == key
            || (recursive && (key.is_root() || at.is_below(key)))
            || (removes_dir && key.as_str().starts_with(at.as_str()))
    }
}

impl Seen {
    pub(super) fn of(key: &Key, node: &Node, now: i64) -> Seen {
        Seen {
            key: key.clone(),
            value: node.value.clone(),
            is_dir: node.is_dir(),
            expires: node.expires,
            ttl_secs: node.expires.map_or(0, |expires| ttl_secs(expires, now)),
            modified: node.modified,
            created: node.created,
        }
    }

    /// A node that was removed.
    pub(super) fn gone(key: &Key, is_dir: bool, modified: u64, created: u64) -> Seen {
        Seen { key: key.clone(), value: None, is_dir, expires: None, ttl_secs: 0, modified, created }
    }

    fn size(&self) -> usize {
        const OVERHEAD: usize = 128;
        OVERHEAD + self.key.as_str().len() + self.value.as_ref().map_or(0, |value| value.len())
    }
}
