//! One watcher: what it asked for, and where it stands.

use std::{fmt, sync::Arc};

use thiserror::Error;

use crate::types::{Event, EventKind, KeyRange, Rev};

/// A client's stream: it carries many watchers. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(super) u64);

/// A watcher's name on its stream. Any value is legal; the client may choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WatchId(pub(crate) i64);

impl WatchId {
    /// "Not a watcher": the answer to a refused creation, and progress of the whole stream.
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
    /// First revision to be seen; 0 is "from now on".
    pub(crate) start_rev: i64,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    pub(crate) prev_kv: bool,
    pub(crate) progress_notify: bool,
    pub(crate) fragment: bool,
}

impl WatcherSpec {
    /// The filters let this kind of event through.
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

/// A refused creation. The texts are etcd's: clients get them as `cancel_reason`.
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

/// Where a watcher stands. It needs `next_rev` and everything after it, and has been handed
/// everything before; `next_rev` only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Handed each revision as it is published, from `next_rev` on.
    Synced { next_rev: Rev },
    /// Its stream reads history for it.
    Unsynced { next_rev: Rev },
}

/// An unsynced watcher, for its stream to read history with. Nothing of it waits in the
/// stream's queue any more.
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
    /// It got events since the last progress tick, so that the next one may pass it over.
    pub(super) heard: bool,
}

impl Watcher {
    /// A progress notification at `published` would promise nothing that has not been kept, and
    /// would not speak of a time before the watcher's own.
    pub(super) fn may_hear_progress(&self, published: Rev) -> bool {
        match self.state {
            State::Synced { next_rev } => published.0 >= self.spec.start_rev && next_rev <= published.next(),
            State::Unsynced { .. } => false,
        }
    }
}
