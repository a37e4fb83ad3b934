//! One watcher: what the client asked for, and which revision comes next.

use std::{fmt, sync::Arc};

use thiserror::Error;

use crate::types::{Event, EventKind, KeyRange, Rev};

/// The stream of a client, which can have many watchers. Ids are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(super) u64);

/// The id of a watcher in its stream. Any value is legal; the client may choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WatchId(pub(crate) i64);

impl WatchId {
    /// No watcher: in the answer to a refused creation, and in progress notifications of the whole stream.
    pub(crate) const NONE: WatchId = WatchId(-1);
}

impl fmt::Display for WatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatcherSpec {
    /// 0 lets the hub choose.
    pub(crate) id: i64,
    pub(crate) range: KeyRange,
    /// The first revision that the watcher wants; 0 means the next one.
    pub(crate) start_rev: i64,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    pub(crate) prev_kv: bool,
    pub(crate) progress_notify: bool,
    pub(crate) fragment: bool,
}

impl WatcherSpec {
    /// Whether the filters admit this kind of event.
    pub(crate) fn admits(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }

    pub(crate) fn wants(&self, event: &Event) -> bool {
        self.admits(event.kind) && self.range.contains(&event.kv.key)
    }
}

/// Why a watcher is refused. The texts are etcd's, and clients get them as `cancel_reason`.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum CreateError {
    /// A negative start revision.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
}

/// How far a watcher is. It was sent all its events before `next_rev`, which only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Each revision from `next_rev` on is queued for the watcher when it is published.
    Synced { next_rev: Rev },
    /// The stream reads history for the watcher.
    Unsynced { next_rev: Rev },
}

/// An unsynced watcher, for which its stream has to read history. The queue of the stream contains no more
/// events for it.
#[derive(Clone, Debug)]
pub(crate) struct Lagging {
    pub(crate) id: WatchId,
    pub(crate) next_rev: Rev,
    pub(crate) spec: Arc<WatcherSpec>,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) spec: Arc<WatcherSpec>,
    pub(super) state: State,
    /// Whether the watcher got events in this interval of progress notifications, and so needs none.
    pub(super) heard: bool,
}

impl Watcher {
    /// Whether the watcher gets a revision when it is published.
    pub(super) fn is_due(&self, rev: Rev) -> bool {
        match self.state {
            State::Synced { next_rev } => next_rev <= rev,
            State::Unsynced { .. } => false,
        }
    }

    /// Whether a progress notification at `published` is true for this watcher: it was sent all events up to
    /// there, and its start revision is not later.
    pub(super) fn may_hear_progress(&self, published: Rev) -> bool {
        match self.state {
            State::Synced { next_rev } => published.0 >= self.spec.start_rev && next_rev <= published.next(),
            State::Unsynced { .. } => false,
        }
    }
}
