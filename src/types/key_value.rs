//! A key-value pair at one revision, and the event of a change.

use bytes::Bytes;

use super::{LeaseId, Rev};

/// A key-value pair as clients get it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// The revision that created the key after it was last deleted, if ever.
    pub(crate) create_rev: Rev,
    /// The revision of the last change.
    pub(crate) mod_rev: Rev,
    /// 1 when the key is created, one more after each put.
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    Put,
    Delete,
}

/// One change, as watchers get it. The events of a revision are in the order of its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    /// For a deletion only the key and, as `mod_rev`, the revision of the deletion are set.
    pub(crate) kv: KeyValue,
    /// The key-value pair before the change, if a watcher asked for it, the key existed, and that revision
    /// is not compacted. While it is being published, an event may lack a pair that is not in memory.
    pub(crate) prev_kv: Option<KeyValue>,
}
