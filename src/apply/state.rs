//! The state machine: everything that the log decides, in one hand.
//!
//! Commands go in one by one; each changes the state in memory and says what came of it. What has
//! changed since the last checkpoint is kept as *cells* (a table, a key, and what is there now) and,
//! for keys and values, in the store's head. A checkpoint takes all of it at once, so that what
//! is on disk is always the state after some command, and never half of one.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Stop, alarm::Alarms, auth, kv, lease, members::Members, txn};
use crate::{
    apply::{
        ApplyError, Command, Outcome, Request, Response,
        admission::{self, Call},
    },
    auth::AuthStore,
    lease::Lessor,
    mvcc::{Store, StoreCheckpoint},
    storage::{self, Checkpoint, Database, Reader, StorageError, Table},
    types::{Event, KeyRange, MemberId, Rev},
};

/// The tables that clients fill beside records. What is in them counts towards the quota.
const COUNTED: [Table; 3] = [Table::Lease, Table::AuthUser, Table::AuthRole];

pub(crate) struct StateMachine {
    pub(crate) mvcc: Store,
    pub(crate) lessor: Lessor,
    pub(crate) alarms: Alarms,
    pub(crate) members: Members,
    pub(crate) auth: AuthStore,
    /// Changed since the last checkpoint; `None` is to be removed.
    cells: BTreeMap<(Table, Bytes), Option<Bytes>>,
}

/// What came of a command: the answer, and what watchers are to be told. All events are of one
/// revision, that of the answer, and in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Applied {
    pub(crate) outcome: Outcome,
    pub(crate) events: Vec<Event>,
}

/// What is to be stored, as of one moment.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) checkpoint: Checkpoint,
    /// The newest revision in it.
    pub(crate) rev: Rev,
    /// More of what was compacted waits to be removed than one checkpoint takes: capture again
    /// soon.
    pub(crate) more: bool,
}

impl StateMachine {
    /// The state as of the last checkpoint in the database. The log after it is to be applied
    /// again.
    pub(crate) fn open(database: Arc<Database>) -> Result<StateMachine, StorageError> {
        let reader = database.reader()?;
        let mut lessor = Lessor::default();
        for cell in reader.cells(Table::Lease)? {
            let (key, cell) = cell?;
            let restored = lessor.restore(&key, &cell);
            restored.ok_or_else(|| reader.corrupted(unreadable("lease", &key)))?;
        }
        let mut alarms = Alarms::default();
        for cell in reader.cells(Table::Alarm)? {
            let (key, _) = cell?;
            alarms.restore(&key).ok_or_else(|| reader.corrupted(unreadable("alarm", &key)))?;
        }
        let mut members = Members::default();
        for cell in reader.cells(Table::Member)? {
            let (key, cell) = cell?;
            let restored = members.restore(&key, &cell);
            restored.ok_or_else(|| reader.corrupted(unreadable("member", &key)))?;
        }
        for cell in reader.cells(Table::MemberRemoved)? {
            let (key, _) = cell?;
            let restored = members.restore_removed(&key);
            restored.ok_or_else(|| reader.corrupted(unreadable("removed member", &key)))?;
        }
        let auth = open_auth(&reader)?;
        let cells = COUNTED.into_iter().map(|table| stored_bytes(&reader, table)).sum::<Result<u64, _>>()?;
        drop(reader);
        let mut mvcc = Store::open(Arc::clone(&database))?;
        mvcc.cells_changed(0, cells);
        for (key, meta) in mvcc.lookup_range(&KeyRange::all()).filter(|(_, meta)| meta.lease.is_some()) {
            if !lessor.contains(meta.lease) {
                return Err(database.corrupted(format!("lease {} has keys but is not there", meta.lease)));
            }
            lessor.attach(key, meta.lease);
        }
        Ok(StateMachine { mvcc, lessor, alarms, members, auth, cells: BTreeMap::new() })
    }

    /// With `want_prev_events`, each event says what its key held before.
    pub(crate) fn apply(
        &mut self,
        request: &Request,
        want_prev_events: bool,
    ) -> Result<Applied, StorageError> {
        let (result, events) = match self.execute(request, want_prev_events) {
            Ok((response, events)) => (Ok(response), events),
            Err(Stop::Refused(refusal)) => (Err(refusal), Vec::new()),
            Err(Stop::Broken(error)) => return Err(error),
        };
        Ok(Applied { outcome: Outcome { rev: self.mvcc.rev_current(), result }, events })
    }

    fn execute(&mut self, request: &Request, want_prev_events: bool) -> Result<(Response, Vec<Event>), Stop> {
        let Request { caller, command } = request;
        self.alarms.check(command)?;
        admission::permit(caller, Call::Command(command)).map_err(ApplyError::from)?;
        let quiet = |response| Ok((response, Vec::new()));
        match command {
            Command::Put(put) => kv::run_put(&mut self.mvcc, &mut self.lessor, put, want_prev_events),
            Command::DeleteRange(delete) => {
                kv::run_delete_range(&mut self.mvcc, &mut self.lessor, delete, want_prev_events)
            }
            Command::Txn(txn) => txn::run(&mut self.mvcc, &mut self.lessor, txn, want_prev_events),
            Command::Compact { rev } => {
                self.mvcc.compact(*rev)?;
                quiet(Response::Compact)
            }
            Command::LeaseGrant { id, ttl_secs } => quiet(lease::grant(self, *id, *ttl_secs)?),
            Command::LeaseRevoke { id } => lease::revoke(self, *id, want_prev_events),
            Command::LeaseCheckpoint { remaining_millis } => quiet(lease::checkpoint(self, remaining_millis)),
            Command::AlarmActivate(alarm) => {
                let response = self.alarms.activate(*alarm);
                self.record(Table::Alarm, Alarms::cell_key(*alarm), self.alarms.cell(*alarm));
                quiet(response)
            }
            Command::AlarmDeactivate(alarm) => {
                let response = self.alarms.deactivate(*alarm);
                self.record(Table::Alarm, Alarms::cell_key(*alarm), self.alarms.cell(*alarm));
                quiet(response)
            }
            Command::MemberPublish { id, name, client_urls } => {
                self.members.publish(*id, name, client_urls);
                self.record_member(*id);
                quiet(Response::MemberPublish)
            }
            Command::Auth(command) => quiet(auth::run(self, command)?),
        }
    }

    /// Consensus has taken in a member, or changed where it is reached or whether it votes.
    pub(crate) fn admit_member(&mut self, id: MemberId, peer_urls: Vec<String>, is_learner: bool) {
        self.members.admit(id, peer_urls, is_learner);
        self.record_member(id);
    }

    /// Consensus has removed a member.
    pub(crate) fn remove_member(&mut self, id: MemberId) {
        self.members.remove(id);
        self.record_member(id);
    }

    /// Whether there is anything to capture.
    pub(crate) fn has_changes(&self) -> bool {
        !self.cells.is_empty() || self.mvcc.has_changes()
    }

    /// All that has changed since the last capture, and what consensus wants stored with it.
    /// Captures are to be made durable in order, each before [`StateMachine::checkpointed`] is
    /// told of it.
    pub(crate) fn capture(&mut self, raft_cells: Vec<(Bytes, Bytes)>) -> Captured {
        let StoreCheckpoint { records, removed, mut cells, rev, more } = self.mvcc.capture();
        let changed = std::mem::take(&mut self.cells);
        cells.extend(changed.into_iter().map(|((table, key), cell)| (table, key, cell)));
        cells.extend(raft_cells.into_iter().map(|(key, cell)| (Table::Meta, key, Some(cell))));
        Captured { checkpoint: Checkpoint { records, removed, cells }, rev, more }
    }

    /// The newest capture, which went up to `rev`, is durable and took `removed_bytes` off the
    /// disk.
    pub(crate) fn checkpointed(&mut self, rev: Rev, removed_bytes: u64) -> Result<(), StorageError> {
        self.mvcc.checkpointed(rev, removed_bytes)
    }

    pub(super) fn record(&mut self, table: Table, key: Bytes, cell: Option<Bytes>) {
        self.cells.insert((table, key), cell);
    }

    fn record_member(&mut self, id: MemberId) {
        let key = Members::cell_key(id);
        self.record(Table::Member, key.clone(), self.members.cell(id));
        self.record(Table::MemberRemoved, key, self.members.cell_removed(id));
    }
}

fn stored_bytes(reader: &Reader, table: Table) -> Result<u64, StorageError> {
    reader.cells(table)?.map(|cell| cell.map(|(key, bytes)| storage::cell_footprint(&key, &bytes))).sum()
}

fn open_auth(reader: &Reader) -> Result<AuthStore, StorageError> {
    let mut auth = AuthStore::default();
    for cell in reader.cells(Table::AuthUser)? {
        let (key, cell) = cell?;
        auth.restore_user(&key, &cell).ok_or_else(|| reader.corrupted(unreadable("user", &key)))?;
    }
    for cell in reader.cells(Table::AuthRole)? {
        let (key, cell) = cell?;
        auth.restore_role(&key, &cell).ok_or_else(|| reader.corrupted(unreadable("role", &key)))?;
    }
    if let Some(cell) = reader.cell(Table::Meta, AuthStore::REV_CELL)? {
        let restored = auth.restore_rev(&cell);
        restored.ok_or_else(|| reader.corrupted(unreadable("number", AuthStore::REV_CELL)))?;
    }
    Ok(auth)
}

fn unreadable(what: &str, key: &[u8]) -> String {
    format!("the {what} at \"{}\" cannot be read", key.escape_ascii())
}
