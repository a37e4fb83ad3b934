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
    collections::BTreeSet,
    io, slice,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine as RaftStateMachineTrait},
};
use parking_lot::Mutex;

use super::{
    lease_clock::LeaseClock,
    logins::Logins,
    marks,
    replica::{Replica, admit_members},
    replica_lock::ReplicaLock,
    snapshot::{self, Inbox, Received, Snapshot, SnapshotImage},
    stages::{Began, SlowSyncs, Stages, Warnings},
    tags::Tags,
    typ::{Batch, BatchOutcome, LogId, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    apply::{Alarm, Application, Applied, ApplyError, AuthCommand, Command, Progress, Request, Response},
    clock, limits,
    link::Peer,
    mvcc::Step,
    storage::{Database, StorageError},
    sync::watch,
    telemetry::{EntryStages, GoDuration, Metrics, RequestKind, list},
    threads,
    types::{Chunked, Event, Rev},
    v2::{Answer, Hub as V2Hub},
    watch::{Matched, WatchHub},
};

/// What openraft drives.
pub(crate) struct RaftStateMachine {
    own: u64,
    parts: Parts,
    /// The term of the last applied entry.
    term: u64,
    warnings: Warnings,
}

/// What the state machine shares with the rest of the member.
pub(crate) struct Parts {
    pub(crate) replica: Arc<ReplicaLock>,
    pub(crate) database: Arc<Database>,
    /// Held while the database and the replica change together: through a checkpoint, and while
    /// a snapshot takes their place.
    pub(crate) checkpointing: Arc<Mutex<()>>,
    /// Held while an entry is applied. A checkpoint that is captured takes it too, before the lock of the
    /// replica.
    pub(crate) entry: Arc<tokio::sync::Mutex<()>>,
    /// Asks for a checkpoint before its time.
    pub(crate) ask_for_checkpoint: Box<dyn Fn() + Send + Sync>,
    /// Changes with every checkpoint.
    pub(crate) durable: watch::Receiver<u64>,
    pub(crate) hub: Arc<Mutex<WatchHub>>,
    pub(crate) v2_hub: Arc<Mutex<V2Hub>>,
    pub(crate) leases: Arc<LeaseClock>,
    pub(crate) logins: Arc<Logins>,
    pub(crate) tags: Arc<Tags>,
    /// Index of the last applied entry.
    pub(crate) applied: watch::Sender<u64>,
    /// Cells of the database that are this member's own, whoever's snapshot it installs; `None`
    /// is not to be there.
    pub(crate) own_cells: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slow_syncs: Arc<SlowSyncs>,
    pub(crate) warning_apply_duration: Duration,
    /// Of a whole write.
    pub(crate) warning_write_duration: Duration,
}

impl RaftStateMachine {
    pub(crate) fn new(own: u64, parts: Parts) -> RaftStateMachine {
        RaftStateMachine { own, parts, term: 0, warnings: Warnings::default() }
    }

    /// Where snapshots for this state machine arrive.
    pub(super) fn inbox(&self) -> Inbox {
        Inbox::new(
            self.parts.database.disk().clone(),
            self.parts.own_cells.clone(),
            self.parts.metrics.clone(),
        )
    }

    /// What the database holds now, pinned.
    fn current_snapshot(&self) -> Result<Snapshot, StorageError> {
        let reader = self.parts.database.reader()?;
        let meta = marks::meta(&reader)?;
        Ok(snapshot::pinned(reader, meta))
    }
}

/// The events of the revisions that one entry made.
type Revisions = Vec<(Rev, Chunked<Event>)>;

/// What watchers are told of one entry.
#[derive(Default)]
struct Told {
    revisions: Revisions,
    /// What came of the commands of the version 2 API.
    v2: Vec<Answer>,
}

/// The commands of an entry that is being applied.
struct BatchRun<'b> {
    log_id: LogId,
    has_begun: bool,
    requests: slice::Iter<'b, Request>,
    /// The command that is under way.
    running: Option<(&'b Command, Application<'b>)>,
    /// When the command that is under way began.
    start: Instant,
    want_prev: bool,
    /// Before the first command that raises or clears one.
    alarms_before: Option<BTreeSet<Alarm>>,
    outcomes: BatchOutcome,
    told: Told,
}

impl RaftStateMachine {
    /// Readers have the replica between the strides of an entry, and see whole revisions. A checkpoint would
    /// see half an entry, so it waits for the lock of the entry.
    async fn apply_entry(
        &self,
        log_id: LogId,
        payload: EntryPayload<Batch, u64, Peer>,
        want_prev: bool,
    ) -> Result<(BatchOutcome, Told), StorageError> {
        let _entry = self.parts.entry.lock().await;
        match payload {
            EntryPayload::Normal(batch) => return self.apply_batch(log_id, &batch, want_prev).await,
            EntryPayload::Blank => {
                let mut replica = self.parts.replica.write();
                replica.begin_entry(log_id);
                replica.end_entry(log_id);
            }
            EntryPayload::Membership(membership) => {
                let mut replica = self.parts.replica.write();
                replica.begin_entry(log_id);
                assert!(*replica.membership.log_id() < Some(log_id), "a membership replaces an earlier one");
                admit_members(&mut replica.state, &membership);
                replica.membership = StoredMembership::new(Some(log_id), membership);
                replica.end_entry(log_id);
            }
        }
        Ok((BatchOutcome::default(), Told::default()))
    }

    async fn apply_batch(
        &self,
        log_id: LogId,
        batch: &Batch,
        want_prev: bool,
    ) -> Result<(BatchOutcome, Told), StorageError> {
        let mut run = BatchRun {
            log_id,
            has_begun: false,
            requests: batch.commands.iter(),
            running: None,
            start: clock::now(),
            want_prev,
            alarms_before: None,
            outcomes: BatchOutcome(Vec::with_capacity(batch.commands.len())),
            told: Told::default(),
        };
        while let Step::More = self.stride(&mut run) {
            while let Some((_, application)) = &mut run.running
                && let Step::More = application.digest()?
            {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(run.outcomes.0.len(), batch.commands.len(), "every command has one outcome");
        if let Some(before) = run.alarms_before {
            let now = active_alarms(&self.parts.replica.read());
            tell_alarms(&before, &now);
        }
        Ok((run.outcomes, run.told))
    }

    /// Applies some of the commands. Each counts as a key at least, so that a large batch lets readers in as
    /// a large deletion does.
    fn stride(&self, run: &mut BatchRun<'_>) -> Step {
        let mut keys_left = limits::Knob::ApplyStrideKeys.or(limits::APPLY_STRIDE_KEYS);
        let mut replica = self.parts.replica.write();
        if !std::mem::replace(&mut run.has_begun, true) {
            replica.begin_entry(run.log_id);
        }
        while keys_left > 0 {
            let (command, application) = match run.running.take() {
                Some(running) => running,
                None => {
                    let Some(request) = run.requests.next() else {
                        replica.end_entry(run.log_id);
                        return Step::Done;
                    };
                    let command = &request.command;
                    if matches!(command, Command::AlarmActivate(_) | Command::AlarmDeactivate(_)) {
                        run.alarms_before.get_or_insert_with(|| active_alarms(&replica));
                    }
                    (command, Application::new(request, run.want_prev))
                }
            };
            let visited_before = keys_left;
            let applied = match replica.state.advance(application, &mut keys_left) {
                Progress::More(rest) => {
                    run.running = Some((command, rest));
                    break;
                }
                Progress::Done(applied) => applied,
            };
            let end = clock::now();
            self.parts.metrics.observe_apply(request_kind(command), is_success(&applied), end - run.start);
            run.start = end;
            self.parts.leases.applied(command, &applied.outcome);
            if let Command::Auth(command) = command {
                let auth = &replica.state.auth;
                self.parts.logins.applied(command, &applied.outcome, run.log_id.index, auth);
            }
            self.count(command, &applied);
            if !applied.events.is_empty() {
                run.told.revisions.push((applied.outcome.rev, applied.events));
            }
            if let Ok(Response::V2(answer)) = &applied.outcome.result {
                run.told.v2.push(Answer::clone(answer));
            }
            run.outcomes.0.push(applied.outcome);
            keys_left = keys_left.min(visited_before - 1);
        }
        // A reader that waits gets the lock, though this thread wants it again soon.
        replica.unlock_fair();
        Step::More
    }
}

impl RaftStateMachine {
    /// Hands the events of an entry to the watchers.
    async fn publish(&self, Told { revisions, v2 }: Told) {
        if !v2.is_empty() {
            let mut hub = self.parts.v2_hub.lock();
            v2.iter().for_each(|answer| hub.publish(answer));
        }
        let is_small = |events: &Chunked<Event>| events.len() <= limits::PUBLISH_STRIDE_EVENTS;
        let mut revisions = revisions.into_iter().peekable();
        while revisions.peek().is_some() {
            {
                let mut hub = self.parts.hub.lock();
                while let Some((rev, events)) = revisions.next_if(|(_, events)| is_small(events)) {
                    hub.publish(rev, Arc::new(events));
                }
            }
            if let Some((rev, events)) = revisions.next() {
                self.publish_in_strides(rev, Arc::new(events)).await;
            }
        }
    }

    /// Neither those who want the hub nor the other tasks of this thread wait for a revision with a million events.
    async fn publish_in_strides(&self, rev: Rev, events: Arc<Chunked<Event>>) {
        let mut publication = self.parts.hub.lock().begin(rev, Arc::clone(&events));
        loop {
            let matched = self.parts.hub.lock().match_some(&mut publication);
            if matched == Matched::All {
                break;
            }
            tokio::task::yield_now().await;
        }
        publication.sort();
        self.parts.hub.lock().finish(publication);
        threads::drop_apart(events);
    }

    /// A member that catches up applies faster than its disk takes it. What it has not applied is in
    /// its log, and costs no memory.
    async fn keep_unsaved_within_bounds(&mut self) {
        loop {
            self.parts.durable.mark_unchanged();
            let (unsaved, not_in_hand) = {
                let state = &self.parts.replica.read().state;
                (state.unsaved_bytes(), state.uncaptured_bytes())
            };
            if not_in_hand > limits::UNSAVED_BYTES / 2 {
                (self.parts.ask_for_checkpoint)();
            }
            if unsaved <= limits::UNSAVED_BYTES {
                return;
            }
            assert!(
                unsaved > not_in_hand || not_in_hand > limits::UNSAVED_BYTES / 2,
                "a checkpoint will come"
            );
            // Of an error the member ends, so that nobody has to wait any more.
            if self.parts.durable.changed().await.is_err() {
                return;
            }
        }
    }
}

fn active_alarms(replica: &Replica) -> BTreeSet<Alarm> {
    replica.state.alarms.active().collect()
}

/// Every member says what the cluster has been told is wrong, and when it is not any more.
fn tell_alarms(before: &BTreeSet<Alarm>, now: &BTreeSet<Alarm>) {
    for alarm in now.difference(before) {
        tracing::warn!(
            alarm = alarm.kind.as_str(),
            "member-id" = %alarm.member,
            "alarm raised: see `etcdctl alarm list`, and \"Quota and alarms\" in docs/operations.md"
        );
    }
    let still: Vec<String> =
        now.iter().map(|alarm| format!("{}:{}", alarm.member, alarm.kind.as_str())).collect();
    for alarm in before.difference(now) {
        tracing::info!(
            alarm = alarm.kind.as_str(),
            "member-id" = %alarm.member,
            "still-active" = ?list(&still),
            "alarm disarmed"
        );
    }
    if now.is_empty() && !before.is_empty() {
        tracing::info!("no alarm is active any more: all writes are accepted again");
    }
}

/// What etcd calls this request in its metrics.
pub(crate) fn request_kind(command: &Command) -> RequestKind {
    match command {
        Command::Put(_) => RequestKind::Put,
        Command::DeleteRange(_) => RequestKind::DeleteRange,
        Command::Txn(_) => RequestKind::Txn,
        Command::Compact { .. } => RequestKind::Compaction,
        Command::LeaseGrant { .. } => RequestKind::LeaseGrant,
        Command::LeaseRevoke { .. } => RequestKind::LeaseRevoke,
        Command::LeaseCheckpoint { .. } => RequestKind::LeaseCheckpoint,
        Command::AlarmActivate(_) | Command::AlarmDeactivate(_) => RequestKind::Alarm,
        Command::MemberPublish { .. } => RequestKind::ClusterMemberAttrSet,
        Command::Auth(command) => match command {
            AuthCommand::UserAdd { .. } => RequestKind::AuthUserAdd,
            AuthCommand::UserDelete { .. } => RequestKind::AuthUserDelete,
            AuthCommand::UserChangePassword { .. } => RequestKind::AuthUserChangePassword,
            AuthCommand::UserGrantRole { .. } => RequestKind::AuthUserGrantRole,
            AuthCommand::UserRevokeRole { .. } => RequestKind::AuthUserRevokeRole,
            AuthCommand::RoleAdd { .. } => RequestKind::AuthRoleAdd,
            AuthCommand::RoleDelete { .. } => RequestKind::AuthRoleDelete,
            AuthCommand::RoleGrantPermission { .. } => RequestKind::AuthRoleGrantPermission,
            AuthCommand::RoleRevokePermission { .. } => RequestKind::AuthRoleRevokePermission,
            AuthCommand::Enable => RequestKind::AuthEnable,
            AuthCommand::Disable => RequestKind::AuthDisable,
            AuthCommand::Login { .. } => RequestKind::Authenticate,
        },
        Command::V2(_) => RequestKind::V2,
    }
}

/// As etcd counts it: asking for what has been compacted is no failure.
fn is_success(applied: &Applied) -> bool {
    matches!(applied.outcome.result, Ok(_) | Err(ApplyError::Compacted { .. }))
}

impl RaftStateMachine {
    fn count(&self, command: &Command, applied: &Applied) {
        let metrics = &self.parts.metrics;
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
            | Command::Auth(_)
            | Command::V2(_) => {}
        }
    }

    fn warn(&mut self, index: u64, began: Option<Began>, committed: Instant, done: Instant, commands: usize) {
        let Some(held_back) = self.warnings.next(done) else { return };
        let synced = began.and_then(|began| self.parts.slow_syncs.of(index, began.taken));
        let stages = Stages::of(began, synced, committed, done);
        let Stages { queue, fsync, quorum, apply } = stages;
        macro_rules! line {
            ($took:expr, $expected:expr, $message:literal) => {
                tracing::warn!(
                    took = %GoDuration($took),
                    "expected-duration" = %GoDuration($expected),
                    stage = stages.slowest(),
                    queue = %GoDuration(queue),
                    fsync = %GoDuration(fsync),
                    quorum = %GoDuration(quorum),
                    apply = %GoDuration(apply),
                    commands,
                    "held-back" = held_back,
                    $message
                )
            };
        }
        if stages.slowest() == "apply" {
            line!(apply, self.parts.warning_apply_duration, "apply request took too long");
        } else {
            line!(stages.total(), self.parts.warning_write_duration, "write took too long");
        }
    }
}

impl RaftStateMachineTrait<TypeConfig> for RaftStateMachine {
    type SnapshotData = SnapshotImage;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let replica = self.parts.replica.read();
        Ok((replica.applied, replica.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // What waits for those before it to be applied was committed all the same.
        let committed = clock::now();
        let mut start = committed;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let log_id = entry.log_id;
            let began = match &entry.payload {
                EntryPayload::Normal(batch) => batch.began,
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            };
            let own_serial = match &entry.payload {
                EntryPayload::Normal(Batch { tag: Some(tag), .. }) if tag.member == self.own => {
                    Some(tag.serial)
                }
                EntryPayload::Normal(_) | EntryPayload::Blank | EntryPayload::Membership(_) => None,
            };
            let want_prev = self.parts.hub.lock().any_prev_kv();
            let (outcomes, told) =
                self.apply_entry(log_id, entry.payload, want_prev).await.map_err(io::Error::other)?;
            #[cfg(test)]
            let told = if crate::planted::is(crate::planted::Bug::SkipPublish) && log_id.index % 16 == 5 {
                Told {
                    revisions: told.revisions.into_iter().map(|(rev, _)| (rev, Chunked::default())).collect(),
                    ..told
                }
            } else {
                told
            };
            self.publish(told).await;
            let done = clock::now();
            let commands = outcomes.0.len();
            self.parts.metrics.observe_applied_entry(done - start, commands);
            let is_slow = done - start > self.parts.warning_apply_duration
                || began.is_some_and(|began| done - began.queued > self.parts.warning_write_duration);
            if is_slow {
                self.warn(log_id.index, began, committed, done, commands);
            }
            start = done;
            if let Some(tracer) = &self.parts.metrics.tracer
                && let Some(last) = outcomes.0.last()
            {
                tracer.applied(EntryStages {
                    revision: last.rev.0,
                    taken: began.map(|began| began.taken),
                    synced: began.and_then(|began| self.parts.slow_syncs.of(log_id.index, began.taken)),
                    committed,
                    applied: done,
                });
            }
            self.parts.applied.send_replace(log_id.index);
            if let Some(serial) = own_serial {
                self.parts.tags.applied(serial, outcomes);
                if let Some(responder) = responder {
                    responder.send(BatchOutcome::default());
                }
            } else if let Some(responder) = responder {
                responder.send(outcomes);
            }
            if log_id.leader_id.term > self.term {
                self.term = log_id.leader_id.term;
                self.parts.tags.term_began(self.term);
            }
            self.keep_unsaved_within_bounds().await;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { snapshot: self.current_snapshot().map_err(io::Error::other) }
    }

    /// The database that was received takes this member's own one's place in one rename, and its
    /// replica the place of the one that was served until now. A crash before the rename leaves
    /// the old state and the whole log; a crash after it leaves the new state, and a note that the
    /// log need not reach it.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: SnapshotImage) -> Result<(), io::Error> {
        let SnapshotImage::Received(received) = image else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "only a received snapshot can be installed",
            ));
        };
        let start = clock::now();
        let (replica, database) = (self.parts.replica.clone(), self.parts.database.clone());
        let (checkpointing, logins) = (self.parts.checkpointing.clone(), self.parts.logins.clone());
        self.parts.metrics.snapshot_apply_inflight.set(1);
        let work = move || install(&checkpointing, &replica, &logins, database, *received);
        let (rev, replaced) =
            threads::blocking(work).await.expect("installing does not panic").map_err(io::Error::other)?;
        threads::drop_apart(replaced);
        self.parts.metrics.snapshot_apply_inflight.set(0);
        self.parts.hub.lock().restored(rev);
        let index = self.parts.replica.read().state.v2.tree().index;
        self.parts.v2_hub.lock().reset(index);
        // What came of batches that the snapshot covers is not known here.
        self.parts.tags.skipped();
        self.parts.applied.send_replace(meta.last_log_id.as_ref().map_or(0, |last| last.index));
        tracing::info!(
            revision = rev.0,
            took = %GoDuration(clock::since(start)),
            "installed a snapshot from the leader"
        );
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.current_snapshot().map_err(io::Error::other)?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

fn install(
    checkpointing: &Mutex<()>,
    replica: &ReplicaLock,
    logins: &Logins,
    database: Arc<Database>,
    received: Received,
) -> Result<(Rev, Replica), StorageError> {
    let Received { replica: mut installed, database: image, file: _file } = received;
    let rev = installed.state.mvcc.rev_current();
    let replaced = {
        let _checkpointing = checkpointing.lock();
        assert!(
            installed.applied > replica.read().applied,
            "a snapshot is installed only if it is ahead of what was applied here"
        );
        installed.state.mvcc.remember_hashes_of(&replica.read().state.mvcc);
        // Between the file's swap and the replica's nothing may fail: a checkpoint of the old state
        // must never get into the new file.
        let body = database.replace_with(&image)?;
        installed.state.mvcc.moved_to(database, body);
        let mut replica = replica.write();
        logins.replaced(&installed.state.auth);
        std::mem::replace(&mut *replica, installed)
    };
    Ok((rev, replaced))
}

/// "Builds" the snapshot that the last checkpoint already is, so that the log before it may go.
pub(crate) struct SnapshotBuilder {
    snapshot: Result<Snapshot, io::Error>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotImage;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        std::mem::replace(&mut self.snapshot, Err(io::Error::other("a snapshot is built once")))
    }
}
