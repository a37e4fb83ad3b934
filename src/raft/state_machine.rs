//! Committed entries, made visible: apply, then publish, then respond.
//!
//! The order is the consistency argument. A write is answered only after its effects can be read
//! here and its events have been handed to the watchers, so a client that has an answer finds
//! what it wrote, and a watcher never learns of a revision that a read cannot see.
//!
//! Nothing here touches the disk: the log is the durable truth for everything that the
//! checkpointer has not moved to the database yet. A refusal is a value inside the outcome; only
//! a failure of this node's own storage is an error, and it ends the node.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine as RaftStateMachineTrait},
};
use parking_lot::{Mutex, RwLock};

use super::{
    codec,
    lease_clock::LeaseClock,
    typ::{BatchOutcome, LogId, Membership, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    apply::{Applied, Captured, Command, StateMachine},
    storage::{Checkpoint, Database, StorageError, Table},
    telemetry::Metrics,
    types::{Event, Rev},
    watch::WatchHub,
};

const APPLIED_CELL: &[u8] = b"raft_applied";
const MEMBERSHIP_CELL: &[u8] = b"raft_membership";

/// The replicated state, and how far into the log it reaches. One lock guards both, so that a
/// checkpoint never separates effects from the index that they belong to.
pub(crate) struct Replica {
    pub(crate) state: StateMachine,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// As far as the database knows.
    durable: SnapshotMeta,
}

impl Replica {
    /// The state as the last checkpoint left it.
    pub(crate) fn open(database: Arc<Database>) -> Result<Replica, StorageError> {
        let reader = database.reader()?;
        let corrupt =
            |cell: &[u8]| reader.corrupted(format!("cell {} cannot be decoded", cell.escape_ascii()));
        let applied = match reader.cell(Table::Meta, APPLIED_CELL)? {
            Some(bytes) => Some(codec::decode_log_id(bytes).ok_or_else(|| corrupt(APPLIED_CELL))?),
            None => None,
        };
        let membership = match reader.cell(Table::Meta, MEMBERSHIP_CELL)? {
            Some(bytes) => codec::decode_membership(bytes).ok_or_else(|| corrupt(MEMBERSHIP_CELL))?,
            None => StoredMembership::default(),
        };
        drop(reader);
        let durable = SnapshotMeta { last_log_id: applied, last_membership: membership.clone() };
        Ok(Replica { state: StateMachine::open(database)?, applied, membership, durable })
    }

    /// What takes the log's mark out of a database, so that it can begin another log.
    pub(crate) fn forget() -> Checkpoint {
        let cells = [APPLIED_CELL, MEMBERSHIP_CELL];
        let cells = cells.into_iter().map(|cell| (Table::Meta, cell.into(), None)).collect();
        Checkpoint { cells, ..Checkpoint::default() }
    }

    pub(crate) fn applied(&self) -> Option<&LogId> {
        self.applied.as_ref()
    }

    pub(crate) fn membership(&self) -> &Membership {
        self.membership.membership()
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.as_ref().map_or(0, |applied| applied.index)
    }

    /// Takes what changed since the last checkpoint, with the index that it belongs to. `None` if
    /// nothing did.
    pub(crate) fn capture(&mut self) -> Option<(Captured, SnapshotMeta)> {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        if meta == self.durable && !self.state.has_changes() {
            return None;
        }
        let mut cells = Vec::new();
        if let Some(applied) = &self.applied {
            cells.push((APPLIED_CELL.into(), codec::encode_log_id(applied)));
        }
        if meta.last_membership != self.durable.last_membership {
            cells.push((MEMBERSHIP_CELL.into(), codec::encode_membership(&self.membership)));
        }
        Some((self.state.capture(cells), meta))
    }

    /// A captured checkpoint is on the disk.
    pub(crate) fn checkpointed(
        &mut self,
        rev: Rev,
        removed_bytes: u64,
        meta: SnapshotMeta,
    ) -> Result<(), StorageError> {
        self.state.checkpointed(rev, removed_bytes)?;
        self.durable = meta;
        Ok(())
    }
}

/// What openraft drives.
pub(crate) struct RaftStateMachine {
    replica: Arc<RwLock<Replica>>,
    hub: Arc<Mutex<WatchHub>>,
    leases: Arc<LeaseClock>,
    metrics: Arc<Metrics>,
    warning_apply_duration: Duration,
}

impl RaftStateMachine {
    pub(crate) fn new(
        replica: Arc<RwLock<Replica>>,
        hub: Arc<Mutex<WatchHub>>,
        leases: Arc<LeaseClock>,
        metrics: Arc<Metrics>,
        warning_apply_duration: Duration,
    ) -> RaftStateMachine {
        RaftStateMachine { replica, hub, leases, metrics, warning_apply_duration }
    }
}

/// The events of the revisions that one entry made.
type Revisions = Vec<(Rev, Vec<Event>)>;

impl RaftStateMachine {
    fn apply_entry(
        &self,
        log_id: LogId,
        payload: EntryPayload<super::typ::Batch, u64, super::typ::Peer>,
        want_prev: bool,
    ) -> Result<(BatchOutcome, Revisions), StorageError> {
        let mut outcomes = BatchOutcome::default();
        let mut revisions = Vec::new();
        let mut replica = self.replica.write();
        match payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(batch) => {
                outcomes.0.reserve(batch.0.len());
                for command in batch.0.iter() {
                    let applied = replica.state.apply(command, want_prev)?;
                    self.leases.applied(command, &applied.outcome);
                    self.count(command, &applied);
                    if !applied.events.is_empty() {
                        revisions.push((applied.outcome.rev, applied.events));
                    }
                    outcomes.0.push(applied.outcome);
                }
            }
            EntryPayload::Membership(membership) => {
                replica.membership = StoredMembership::new(Some(log_id), membership);
            }
        }
        replica.applied = Some(log_id);
        Ok((outcomes, revisions))
    }
}

impl RaftStateMachine {
    fn count(&self, command: &Command, applied: &Applied) {
        let metrics = &self.metrics;
        metrics.events.inc_by(applied.events.len() as u64);
        if applied.outcome.result.is_err() {
            return;
        }
        match command {
            Command::Put(put) => {
                metrics.puts.inc();
                metrics.put_bytes.add((put.key.len() + put.value.as_ref().map_or(0, Bytes::len)) as i64);
            }
            Command::DeleteRange(_) => metrics.deletes.inc(),
            Command::Txn(_) => metrics.txns.inc(),
            Command::LeaseGrant { ttl_secs, .. } => {
                metrics.leases_granted.inc();
                metrics.lease_ttl_secs.observe(*ttl_secs as f64);
            }
            Command::LeaseRevoke { .. } => metrics.leases_revoked.inc(),
            Command::Compact { .. }
            | Command::LeaseCheckpoint { .. }
            | Command::AlarmActivate(_)
            | Command::AlarmDeactivate(_)
            | Command::MemberPublish { .. }
            | Command::Auth(_) => {}
        }
    }

    fn warn_if_slow(&self, took: Duration, commands: usize) {
        if took > self.warning_apply_duration {
            tracing::warn!(
                took = %humantime::format_duration(took),
                expected = %humantime::format_duration(self.warning_apply_duration),
                commands,
                stage = "apply",
                "apply request took too long"
            );
        }
    }
}

impl RaftStateMachineTrait<TypeConfig> for RaftStateMachine {
    type SnapshotData = SnapshotImage;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let replica = self.replica.read();
        Ok((replica.applied, replica.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let start = Instant::now();
            let want_prev = self.hub.lock().any_prev_kv();
            let (outcomes, revisions) =
                self.apply_entry(entry.log_id, entry.payload, want_prev).map_err(io::Error::other)?;
            if !revisions.is_empty() {
                let mut hub = self.hub.lock();
                for (rev, events) in revisions {
                    hub.publish(rev, events.into());
                }
            }
            self.metrics.observe_apply(start.elapsed(), outcomes.0.len());
            self.warn_if_slow(start.elapsed(), outcomes.0.len());
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { meta: self.replica.read().durable.clone() }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        _image: SnapshotImage,
    ) -> Result<(), io::Error> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a cluster of one has nobody to get a snapshot from"))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let meta = self.replica.read().durable.clone();
        Ok(meta.last_log_id.is_some().then_some(Snapshot { meta, snapshot: SnapshotImage }))
    }
}

/// The database itself is the snapshot: every checkpoint is one.
#[derive(Debug)]
pub(crate) struct SnapshotImage;

/// "Builds" the snapshot that the last checkpoint already is, so that the log before it may go.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder {
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotImage;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotImage })
    }
}
