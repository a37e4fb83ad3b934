//! The state machine: all state that the log determines.
//!
//! Commands are applied one by one; each changes the state in memory and returns its outcome. Changes
//! since the last capture are kept as *cells* (a table, a key, and the new value) and, for keys and
//! values, in the store's head. A capture takes all changes at once and between two commands, so the
//! database always contains the state after a whole command.

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

/// The tables beside the records that clients fill. Their cells count towards the quota.
const COUNTED: [Table; 3] = [Table::Lease, Table::AuthUser, Table::AuthRole];

pub(crate) struct StateMachine {
    pub(crate) mvcc: Store,
    pub(crate) lessor: Lessor,
    pub(crate) alarms: Alarms,
    pub(crate) members: Members,
    pub(crate) auth: AuthStore,
    /// The cells that changed since the last capture; `None` removes the cell.
    cells: BTreeMap<(Table, Bytes), Option<Bytes>>,
}

/// The outcome of a command, and the events for watchers. All events have the outcome's revision, and
/// are in the order in which the command made its changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Applied {
    pub(crate) outcome: Outcome,
    pub(crate) events: Vec<Event>,
}

/// All changes since the capture before, to be committed as one checkpoint.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) checkpoint: Checkpoint,
    /// The newest revision in it.
    pub(crate) rev: Rev,
    /// More removals wait than one checkpoint takes, so the next capture should follow soon.
    pub(crate) more: bool,
}

impl StateMachine {
    /// Opens the state of the last checkpoint. The caller applies the log after it again.
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
                return Err(database
                    .corrupted(format!("a key is attached to lease {}, which does not exist", meta.lease)));
            }
            lessor.attach(key, meta.lease);
        }
        Ok(StateMachine { mvcc, lessor, alarms, members, auth, cells: BTreeMap::new() })
    }

    /// With `want_prev_events`, each event contains the previous key-value pair.
    pub(crate) fn apply(
        &mut self,
        request: &Request,
        want_prev_events: bool,
    ) -> Result<Applied, StorageError> {
        let rev_before = self.mvcc.rev_current();
        let (result, events) = match self.execute(request, want_prev_events) {
            Ok((response, events)) => (Ok(response), events),
            Err(Stop::Refused(refusal)) => (Err(refusal), Vec::new()),
            Err(Stop::Broken(error)) => return Err(error),
        };
        let rev = self.mvcc.rev_current();
        let expected = if events.is_empty() { rev_before } else { rev_before.next() };
        assert_eq!(rev, expected, "a command with changes takes one revision, any other command none");
        let is_of_rev = |event: &Event| event.kv.mod_rev == rev;
        assert!(events.first().is_none_or(is_of_rev), "the events of a command have its revision");
        assert!(events.last().is_none_or(is_of_rev), "the events of a command have its revision");
        assert!(self.mvcc.rev_compacted() <= rev, "the newest revision is never compacted away");
        Ok(Applied { outcome: Outcome { rev, result }, events })
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

    /// To be called when consensus has added a member, or has changed its peer URLs or whether it is a
    /// learner.
    pub(crate) fn admit_member(&mut self, id: MemberId, peer_urls: Vec<String>, is_learner: bool) {
        self.members.admit(id, peer_urls, is_learner);
        self.record_member(id);
    }

    /// To be called when consensus has removed a member.
    pub(crate) fn remove_member(&mut self, id: MemberId) {
        self.members.remove(id);
        self.record_member(id);
    }

    /// Whether there is anything to capture.
    pub(crate) fn has_changes(&self) -> bool {
        !self.cells.is_empty() || self.mvcc.has_changes()
    }

    /// Takes all changes since the last capture, together with the cells of consensus. The caller commits
    /// the captures in order, and calls [`StateMachine::checkpointed`] after each commit.
    pub(crate) fn capture(&mut self, raft_cells: Vec<(Bytes, Bytes)>) -> Captured {
        let StoreCheckpoint { records, removed, mut cells, rev, more } = self.mvcc.capture();
        let changed = std::mem::take(&mut self.cells);
        cells.extend(changed.into_iter().map(|((table, key), cell)| (table, key, cell)));
        cells.extend(raft_cells.into_iter().map(|(key, cell)| (Table::Meta, key, Some(cell))));
        assert_eq!(self.has_changes(), more, "a capture leaves nothing but removals that wait");
        Captured { checkpoint: Checkpoint { records, removed, cells }, rev, more }
    }

    /// To be called once the newest capture, which ends with `rev`, is committed. The commit removed
    /// `removed_bytes` from the database.
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
