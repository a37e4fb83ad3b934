//! The state machine: all state that the log determines.
//!
//! Commands are applied one by one; each changes the state in memory and returns its outcome. Changes
//! since the last capture are kept as *cells* (a table, a key, and the new value) and, for keys and
//! values, in the store's head. A capture takes all changes at once and between two commands, so the
//! database always contains the state after a whole command.
//!
//! A command that visits many keys is applied in strides. Readers may use the state between two strides:
//! they see the revision before the command until its last stride.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Advanced, Effect, alarm::Alarms, auth, kv, lease, members::Members, txn, v2};
use crate::{
    apply::{
        ApplyError, Command, Outcome, Request, Response,
        admission::{self, Call},
    },
    auth::{AuthError, AuthStore},
    lease::Lessor,
    limits::{APPLY_STRIDE_KEYS, CAPTURE_STRIDE_RECORDS},
    mvcc::{Step, Store, StoreCheckpoint},
    storage::{self, Checkpoint, Database, Reader, StorageError, StoredChange, StoredChanges, Table},
    types::{Caller, Chunked, Event, KeyRange, MemberId, Rev, Revision},
    v2::{Run, Store as V2Store},
};

/// The tables beside the records that clients fill. Their cells count towards the quota.
const COUNTED: [Table; 5] = [Table::Lease, Table::AuthUser, Table::AuthRole, Table::V2Node, Table::V2Account];

pub(crate) struct StateMachine {
    pub(crate) mvcc: Store,
    pub(crate) lessor: Lessor,
    pub(crate) alarms: Alarms,
    pub(crate) members: Members,
    pub(crate) auth: AuthStore,
    pub(crate) v2: V2Store,
    /// The cells that changed since the last capture; `None` removes the cell.
    cells: BTreeMap<(Table, Bytes), Option<Bytes>>,
    /// The bytes of [`StateMachine::cells`], and of the cells that were captured and are not committed.
    cell_bytes: usize,
    captured_cell_bytes: usize,
}

/// The outcome of a command, and the events for watchers. All events have the outcome's revision, and
/// are in the order in which the command made its changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Applied {
    pub(crate) outcome: Outcome,
    pub(crate) events: Chunked<Event>,
}

/// A request that is being applied. It does not borrow the state, so that readers can use the state between
/// two strides.
pub(crate) struct Application<'r> {
    request: &'r Request,
    want_prev_events: bool,
    stage: Stage<'r>,
}

enum Stage<'r> {
    New,
    Put(kv::PutRun<'r>),
    Delete(kv::DeleteRun<'r>),
    Txn(txn::Execution<'r>),
    Revoke(lease::Revocation),
    V2(Run),
}

/// The result of a stride of [`StateMachine::advance`].
pub(crate) enum Progress<'r> {
    /// [`Application::digest`] is to be called before the next stride.
    More(Application<'r>),
    Done(Applied),
}

impl<'r> Application<'r> {
    /// With `want_prev_events`, events contain the previous key-value pairs that are in memory.
    pub(crate) fn new(request: &'r Request, want_prev_events: bool) -> Application<'r> {
        Application { request, want_prev_events, stage: Stage::New }
    }

    /// Reads records from the database that this stride needs for a comparison or for a value that is kept, a
    /// bounded number of them. To be called without the state, until it returns [`Step::Done`].
    pub(crate) fn digest(&mut self) -> Result<Step, StorageError> {
        match &mut self.stage {
            Stage::Put(run) => run.digest(),
            Stage::Txn(run) => run.digest(),
            Stage::New | Stage::Delete(_) | Stage::Revoke(_) | Stage::V2(_) => Ok(Step::Done),
        }
    }
}

/// All changes since the capture before, to be committed as one checkpoint.
#[derive(Debug)]
pub(crate) struct Captured {
    /// Its records are missing at first: see [`StateMachine::gather`].
    pub(crate) checkpoint: Checkpoint,
    /// The next record to gather.
    next: Revision,
    /// The newest revision in it.
    pub(crate) rev: Rev,
    /// More removals wait than one checkpoint takes, so the next capture should follow soon.
    pub(crate) more: bool,
}

impl StateMachine {
    /// Opens the state of the last checkpoint. The caller applies the log after it again.
    pub(crate) fn open(database: Arc<Database>) -> Result<StateMachine, StorageError> {
        StateMachine::open_reading(database, |changes| changes)
    }

    /// As [`StateMachine::open`], with the records taken from what `ahead` makes of them (see [`Store::open`]).
    pub(crate) fn open_reading<C>(
        database: Arc<Database>,
        ahead: impl FnOnce(StoredChanges) -> C,
    ) -> Result<StateMachine, StorageError>
    where
        C: Iterator<Item = Result<(Revision, StoredChange), StorageError>>,
    {
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
        let v2 = v2::open(&reader)?;
        let cells = COUNTED.into_iter().map(|table| stored_bytes(&reader, table)).sum::<Result<u64, _>>()?;
        drop(reader);
        let mut mvcc = Store::open(Arc::clone(&database), ahead)?;
        mvcc.cells_changed(0, cells);
        for (key, meta) in mvcc.lookup_range(&KeyRange::all()).filter(|(_, meta)| meta.lease.is_some()) {
            if !lessor.contains(meta.lease) {
                return Err(database
                    .corrupted(format!("a key is attached to lease {}, which does not exist", meta.lease)));
            }
            lessor.attach(key, meta.lease);
        }
        Ok(StateMachine {
            mvcc,
            lessor,
            alarms,
            members,
            auth,
            v2,
            cells: BTreeMap::new(),
            cell_bytes: 0,
            captured_cell_bytes: 0,
        })
    }

    /// Applies the next stride of a request: until the request is done, `keys_left` keys were visited, or a
    /// record is needed that is not in memory. `keys_left` is reduced by the keys that were visited. Until the
    /// request is done, the caller applies no other request and captures nothing.
    pub(crate) fn advance<'r>(
        &mut self,
        application: Application<'r>,
        keys_left: &mut usize,
    ) -> Progress<'r> {
        assert!(*keys_left > 0, "a stride visits a key");
        let rev_before = self.mvcc.rev_current();
        let Application { request, want_prev_events, stage } = application;
        let (result, unread, events) = match self.advance_stage(request, want_prev_events, stage, keys_left) {
            Ok(Advanced::More(stage)) => {
                assert_eq!(self.mvcc.rev_current(), rev_before, "readers see nothing of half a command");
                return Progress::More(Application { request, want_prev_events, stage });
            }
            Ok(Advanced::Done(Effect { response, unread, events })) => (Ok(response), unread, events),
            Err(refusal) => (Err(refusal), None, Chunked::default()),
        };
        let rev = self.mvcc.rev_current();
        let expected = if events.is_empty() { rev_before } else { rev_before.next() };
        assert_eq!(rev, expected, "a command with changes takes one revision, any other command none");
        let is_of_rev = |event: &Event| event.kv.mod_rev == rev;
        assert!(events.first().is_none_or(is_of_rev), "the events of a command have its revision");
        assert!(events.last().is_none_or(is_of_rev), "the events of a command have its revision");
        assert!(self.mvcc.rev_compacted() <= rev, "the newest revision is never compacted away");
        Progress::Done(Applied { outcome: Outcome { rev, result, unread }, events })
    }

    /// Applies a whole request, while nobody else uses the state.
    pub(crate) fn execute(&mut self, request: &Request) -> Result<Applied, StorageError> {
        let mut application = Application::new(request, false);
        loop {
            let mut keys_left = APPLY_STRIDE_KEYS;
            match self.advance(application, &mut keys_left) {
                Progress::More(rest) => application = rest,
                Progress::Done(applied) => return Ok(applied),
            }
            while application.digest()? == Step::More {}
        }
    }

    fn advance_stage<'r>(
        &mut self,
        request: &'r Request,
        want_prev_events: bool,
        stage: Stage<'r>,
        keys_left: &mut usize,
    ) -> Result<Advanced<Stage<'r>>, ApplyError> {
        let (store, lessor) = (&mut self.mvcc, &mut self.lessor);
        match stage {
            Stage::V2(run) => Ok(v2::advance(self, run, keys_left).map(Stage::V2)),
            Stage::New => self.begin(request, want_prev_events, keys_left),
            Stage::Put(run) => Ok(run.advance(store, lessor, want_prev_events).map(Stage::Put)),
            Stage::Delete(run) => {
                Ok(run.advance(store, lessor, keys_left, want_prev_events).map(Stage::Delete))
            }
            Stage::Txn(run) => Ok(run.advance(store, lessor, keys_left, want_prev_events)?.map(Stage::Txn)),
            Stage::Revoke(run) => Ok(run.advance(store, keys_left, want_prev_events).map(Stage::Revoke)),
        }
    }

    fn begin<'r>(
        &mut self,
        request: &'r Request,
        want_prev_events: bool,
        keys_left: &mut usize,
    ) -> Result<Advanced<Stage<'r>>, ApplyError> {
        let Request { caller: _, command } = request;
        self.admit(request)?;
        let response = match command {
            Command::Put(put) => {
                let run = kv::PutRun::new(&mut self.mvcc, &self.lessor, put)?;
                return Ok(run.advance(&mut self.mvcc, &mut self.lessor, want_prev_events).map(Stage::Put));
            }
            Command::DeleteRange(delete) => {
                let stage = Stage::Delete(kv::DeleteRun::new(&mut self.mvcc, delete));
                return self.advance_stage(request, want_prev_events, stage, keys_left);
            }
            Command::Txn(txn) => {
                let stage = Stage::Txn(txn::Execution::new(txn));
                return self.advance_stage(request, want_prev_events, stage, keys_left);
            }
            Command::LeaseRevoke { id } => {
                let stage = Stage::Revoke(lease::Revocation::begin(self, *id)?);
                return self.advance_stage(request, want_prev_events, stage, keys_left);
            }
            Command::Compact { rev } => {
                self.mvcc.compact(*rev)?;
                Response::Compact
            }
            Command::LeaseGrant { id, ttl_secs } => lease::grant(self, *id, *ttl_secs)?,
            Command::LeaseCheckpoint { remaining_millis } => lease::checkpoint(self, remaining_millis),
            Command::AlarmActivate(alarm) => {
                let response = self.alarms.activate(*alarm);
                self.record(Table::Alarm, Alarms::cell_key(*alarm), self.alarms.cell(*alarm));
                response
            }
            Command::AlarmDeactivate(alarm) => {
                let response = self.alarms.deactivate(*alarm);
                self.record(Table::Alarm, Alarms::cell_key(*alarm), self.alarms.cell(*alarm));
                response
            }
            Command::MemberPublish { id, name, client_urls } => {
                self.members.publish(*id, name, client_urls);
                self.record_member(*id);
                Response::MemberPublish
            }
            Command::Auth(command) => auth::run(self, command)?,
            Command::V2(command) => return Ok(v2::begin(self, command, keys_left).map(Stage::V2)),
        };
        Ok(Advanced::Done(Effect::quiet(response)))
    }

    /// Whether the caller may make a call, by the users and roles of this state.
    pub(crate) fn permit(&self, caller: &Caller, call: Call<'_>) -> Result<(), AuthError> {
        #[cfg(test)]
        if crate::planted::is(crate::planted::Bug::AlarmForgetsUsers) && self.alarms.active().next().is_some()
        {
            return Ok(());
        }
        admission::permit(&self.auth, &self.lessor, caller, call)
    }

    /// Whether a command would be refused by the alarms and the users and roles of this state.
    pub(crate) fn admit(&self, request: &Request) -> Result<(), ApplyError> {
        let Request { caller, command } = request;
        self.alarms.check(command)?;
        Ok(self.permit(caller, Call::Command(command))?)
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
        let StoreCheckpoint { first, removed, mut cells, rev, more } = self.mvcc.capture();
        let changed = std::mem::take(&mut self.cells);
        self.captured_cell_bytes += std::mem::take(&mut self.cell_bytes);
        cells.extend(changed.into_iter().map(|((table, key), cell)| (table, key, cell)));
        cells.extend(raft_cells.into_iter().map(|(key, cell)| (Table::Meta, key, Some(cell))));
        assert_eq!(self.has_changes(), more, "a capture leaves nothing but removals that wait");
        let checkpoint = Checkpoint { records: Vec::new(), removed, cells };
        Captured { checkpoint, next: Revision { main: first, sub: 0 }, rev, more }
    }

    /// Adds the next records to the newest capture, [`CAPTURE_STRIDE_RECORDS`] at most.
    pub(crate) fn gather(&self, captured: &mut Captured) -> Step {
        let Captured { checkpoint: Checkpoint { records, .. }, next, rev, .. } = captured;
        let some = self.mvcc.captured(*next, CAPTURE_STRIDE_RECORDS);
        let is_full = some.len() == CAPTURE_STRIDE_RECORDS;
        if let Some((first, _)) = some.first() {
            assert!(*first == *next || *first == Revision::after(next.main), "no record is left out");
        }
        if let Some((last, _)) = some.last() {
            *next = Revision { sub: last.sub + 1, ..*last };
        }
        records.extend(some);
        if is_full {
            return Step::More;
        }
        assert!(next.main >= *rev, "a capture contains every revision");
        Step::Done
    }

    /// To be called once the newest capture, which ends with `rev`, is committed. The commit removed
    /// `removed_bytes` from the database, and `body` sees it. Returns what is to be dropped without the state.
    #[must_use]
    pub(crate) fn checkpointed(&mut self, rev: Rev, removed_bytes: u64, body: Reader) -> Arc<Reader> {
        self.captured_cell_bytes = 0;
        self.mvcc.checkpointed(rev, removed_bytes, body)
    }

    /// Bytes of changes that no checkpoint has committed.
    pub(crate) fn unsaved_bytes(&self) -> usize {
        self.mvcc.unsaved_bytes() + self.cell_bytes + self.captured_cell_bytes
    }

    /// The part of [`StateMachine::unsaved_bytes`] that no checkpoint has captured.
    pub(crate) fn uncaptured_bytes(&self) -> usize {
        self.mvcc.uncaptured_bytes() + self.cell_bytes
    }

    pub(super) fn record(&mut self, table: Table, key: Bytes, cell: Option<Bytes>) {
        let bytes = |cell: &Option<Bytes>| cell.as_ref().map_or(0, Bytes::len);
        self.cell_bytes += key.len() + bytes(&cell);
        if let Some(replaced) = self.cells.insert((table, key.clone()), cell) {
            self.cell_bytes -= key.len() + bytes(&replaced);
        }
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
    if let Some(cell) = reader.cell(Table::Meta, AuthStore::ENABLED_CELL)? {
        let restored = auth.restore_enabled(&cell);
        restored.ok_or_else(|| reader.corrupted(unreadable("flag", AuthStore::ENABLED_CELL)))?;
    }
    Ok(auth)
}

pub(super) fn unreadable(what: &str, key: &[u8]) -> String {
    format!("the {what} at \"{}\" cannot be read", key.escape_ascii())
}
