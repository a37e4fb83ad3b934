//! The whole state, for a member that is too far behind for the log.
//!
//! ```text
//! leader                                     member that is behind
//! pinned reader -> parts -> pieces, paced ~~~> file beside the database -> replica of its own
//!  (the log behind it is kept)                                              | swap, under the lock
//!                                                                           v
//!                                             database, replica <-----------+
//! ```
//!
//! The sending side writes no file and blocks no other work: it reads what one checkpoint left. The
//! receiving side serves its old state until the new one is complete, synced, opened, and found to be
//! what the leader announced; consensus is told of it only then. One rename and one swap make it this
//! member's own. A transfer that breaks leaves both sides as they were, and the next one begins from the
//! start. Both sides work on threads of their own with a lower priority.

mod part;
mod receive;
mod send;

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use receive::{Header, Inbox};
pub(super) use send::Outgoing;

use super::{
    replica::Replica,
    typ::{SnapshotMeta, TypeConfig},
};
use crate::{
    clock,
    disk::Disk,
    storage::{Database, Reader},
    telemetry::GoDuration,
    threads,
};

pub(super) type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotImage>;

/// Time between two lines about a transfer that takes long.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// By how much the niceness of a transfer's threads is above the process's.
const NICENESS: i32 = 10;

/// A state that can be sent, or one that was received.
pub(crate) enum SnapshotImage {
    /// What the database held at some checkpoint. It can be read as long as this lives.
    Pinned(Box<Reader>),
    /// A complete state that waits to be installed.
    Received(Box<Received>),
}

impl fmt::Debug for SnapshotImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotImage::Pinned(_) => f.write_str("Pinned"),
            SnapshotImage::Received(received) => write!(f, "Received({})", received.file.path().display()),
        }
    }
}

/// A database beside this member's own, opened.
pub(crate) struct Received {
    pub(super) replica: Replica,
    pub(super) database: Arc<Database>,
    pub(super) file: TemporaryFile,
}

/// The name of a file that is removed when nobody needs the file any more. The next start removes
/// files that a crash has left.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    disk: Arc<dyn Disk>,
    name: PathBuf,
}

impl TemporaryFile {
    /// `number` tells it from the others of this process.
    fn new(disk: Arc<dyn Disk>, number: u64) -> TemporaryFile {
        TemporaryFile { disk, name: format!("image-peer-{number}.tmp").into() }
    }

    /// For messages.
    fn path(&self) -> PathBuf {
        self.disk.path().join(&self.name)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // The name is gone if the file has taken the database's place.
        let _ = self.disk.remove(&self.name);
    }
}

/// A snapshot of what `reader` sees.
pub(super) fn pinned(reader: Reader, meta: SnapshotMeta) -> Snapshot {
    Snapshot { meta, snapshot: SnapshotImage::Pinned(Box::new(reader)) }
}

/// Lowers the priority of the calling thread.
fn give_way() {
    if let Err(error) = threads::give_way(NICENESS) {
        tracing::warn!(%error, "a snapshot is transferred at full priority");
    }
}

/// How far a transfer is.
struct Progress {
    /// Sending or receiving, for the log.
    what: &'static str,
    /// The other side.
    peer: u64,
    records_total: u64,
    records: u64,
    bytes: u64,
    began: Instant,
    told: Instant,
}

impl Progress {
    fn new(what: &'static str, peer: u64, records_total: u64) -> Progress {
        let now = clock::now();
        Progress { what, peer, records_total, records: 0, bytes: 0, began: now, told: now }
    }

    fn advance(&mut self, records: u64, bytes: usize) {
        self.records += records;
        self.bytes += bytes as u64;
        if clock::since(self.told) >= PROGRESS_INTERVAL {
            self.told = clock::now();
            tracing::info!(
                "peer-id" = format_args!("{:x}", self.peer),
                percent = (self.records * 100).checked_div(self.records_total).unwrap_or(100),
                bytes = self.bytes,
                "bytes-per-second" = self.bytes_per_second(),
                "{}",
                self.what
            );
        }
    }

    fn bytes_per_second(&self) -> u64 {
        (self.bytes as f64 / clock::since(self.began).as_secs_f64().max(0.001)) as u64
    }

    fn took(&self) -> GoDuration {
        GoDuration(clock::since(self.began))
    }
}

#[cfg(test)]
mod tests;
