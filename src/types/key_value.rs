//! A key at one revision, and the event that made it.

use bytes::Bytes;

use super::{LeaseId, Rev};

/// What a client gets for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// Revision that created the key's current life.
    pub(crate) create_rev: Rev,
    /// Revision of the last change.
    pub(crate) mod_rev: Rev,
    /// 1 on creation, one more with each put.
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    Put,
    Delete,
}

/// One change, as watchers see it. Events of one revision are ordered by their place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    /// A delete carries the key and, as `mod_rev`, the revision of the deletion; nothing else.
    pub(crate) kv: KeyValue,
    /// What the key held before: only if somebody asked for it, and only if it existed and its
    /// revision has not been compacted.
    pub(crate) prev_kv: Option<KeyValue>,
}
