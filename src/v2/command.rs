//! The commands in the log.

use std::sync::Arc;

use super::{AccountChange, Action, Key, Who};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum V2Command {
    Key(KeyChange),
    /// Removes nodes that have expired at `cutoff`, the oldest first, no more than `most` and what is below
    /// them. The leader proposes it.
    Expire {
        cutoff: i64,
        most: u32,
    },
    Account {
        who: Who,
        change: AccountChange,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyChange {
    pub(crate) who: Who,
    pub(crate) key: Key,
    /// When the command was proposed, in nanoseconds since 1970. The TTLs in its answer are counted from then.
    pub(crate) at: i64,
    pub(crate) change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Replaces the node, or makes one.
    Set(Written),
    /// Makes a node where there is none. With `in_order` it is a child of the key, and its name is the index
    /// of the command.
    Create {
        written: Written,
        in_order: bool,
    },
    /// Changes a node that exists.
    Update(Written),
    CompareAndSwap {
        condition: Condition,
        written: Written,
    },
    Delete {
        dir: bool,
        recursive: bool,
    },
    CompareAndDelete(Condition),
}

/// What a node is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) value: Arc<str>,
    pub(crate) dir: bool,
    /// In nanoseconds since 1970; `None` for a node that stays.
    pub(crate) expires: Option<i64>,
    /// Only the TTL changes, and watchers do not see it.
    pub(crate) refresh: bool,
}

/// What has to hold of a node; what is `None` is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) value: Option<Arc<str>>,
    pub(crate) index: Option<u64>,
}

impl V2Command {
    /// Approximately the bytes that the command takes in the log.
    pub(crate) fn size(&self) -> usize {
        match self {
            V2Command::Key(change) => change.size(),
            V2Command::Expire { .. } => 0,
            V2Command::Account { change, .. } => change.size(),
        }
    }

    /// The bytes that the command may add to the store.
    pub(crate) fn growth(&self) -> usize {
        match self {
            V2Command::Key(change) => match change.change {
                Change::Delete { .. } | Change::CompareAndDelete(_) => 0,
                Change::Set(_)
                | Change::Create { .. }
                | Change::Update(_)
                | Change::CompareAndSwap { .. } => change.size(),
            },
            V2Command::Expire { .. } => 0,
            V2Command::Account { change, .. } => change.growth(),
        }
    }
}

impl KeyChange {
    fn size(&self) -> usize {
        self.key.as_str().len()
            + match &self.change {
                Change::Set(written) | Change::Create { written, .. } | Change::Update(written) => {
                    written.value.len()
                }
                Change::CompareAndSwap { condition, written } => condition.size() + written.value.len(),
                Change::Delete { .. } => 0,
                Change::CompareAndDelete(condition) => condition.size(),
            }
    }
}

impl Change {
    pub(super) fn action(&self) -> Action {
        match self {
            Change::Set(_) => Action::Set,
            Change::Create { .. } => Action::Create,
            Change::Update(_) => Action::Update,
            Change::CompareAndSwap { .. } => Action::CompareAndSwap,
            Change::Delete { .. } => Action::Delete,
            Change::CompareAndDelete(_) => Action::CompareAndDelete,
        }
    }
}

impl Condition {
    fn size(&self) -> usize {
        self.value.as_ref().map_or(0, |value| value.len())
    }
}
