//! The replica on which the tests of `apply` run commands.

use std::sync::Arc;

use bytes::Bytes;
use expect_test::Expect;
use tempfile::TempDir;

use crate::{
    apply::{
        Application, Applied, Captured, Command, Missing, Outcome, Progress, ReadTxn, Request, StateMachine,
        Txn, tape,
    },
    lease::Lease,
    mvcc::{CompactionStep, HashWalk, Range, RangeResult, Step as WalkStep},
    storage::{Apart, Database, Table},
    types::{Caller, KeyRange, KeyValue, LeaseId},
};

/// A state machine with its own database, which also stores how far the log is applied.
pub(super) struct Replica {
    directory: TempDir,
    database: Arc<Database>,
    pub(super) state: StateMachine,
    /// Captured and not yet committed.
    captured: Option<Captured>,
    /// How many commands of the log are applied.
    pub(super) applied: usize,
}

const APPLIED: &[u8] = b"applied";

impl Replica {
    pub(super) fn new() -> Replica {
        let directory = tempfile::tempdir().expect("a directory");
        let (database, state) = open(&directory);
        Replica { directory, database, state, captured: None, applied: 0 }
    }

    pub(super) fn apply(&mut self, command: &Command) -> Applied {
        self.applied += 1;
        self.run(command, true)
    }

    /// As [`Replica::apply`], for a request of any caller.
    pub(super) fn apply_request(&mut self, request: &Request) -> Applied {
        self.applied += 1;
        let mut applied = self.run_request(request, true, usize::MAX);
        self.fill(applied.outcome.missing(&request.command));
        self.fill_prev(&mut applied);
        applied
    }

    /// As [`Replica::apply`], without counting the command.
    pub(super) fn run(&mut self, command: &Command, want_prev_events: bool) -> Applied {
        let mut applied = self.run_unread(command, want_prev_events, usize::MAX);
        self.fill(applied.outcome.missing(command));
        if want_prev_events {
            self.fill_prev(&mut applied);
        }
        applied
    }

    /// Applies a command in strides of so many keys, and reads nothing for its answer. Its caller is a
    /// member, which may do everything.
    pub(super) fn run_unread(
        &mut self,
        command: &Command,
        want_prev_events: bool,
        stride_keys: usize,
    ) -> Applied {
        self.run_request(&command.clone().by(Caller::Internal), want_prev_events, stride_keys)
    }

    fn run_request(&mut self, request: &Request, want_prev_events: bool, stride_keys: usize) -> Applied {
        let mut application = Application::new(request, want_prev_events);
        let rev = self.state.mvcc.rev_current();
        loop {
            // Between two strides others have the state, and only then the database is read.
            let apart = Apart::new();
            match self.state.advance(application, &mut stride_keys.clone()) {
                Progress::Done(applied) => return applied,
                Progress::More(rest) => application = rest,
            }
            drop(apart);
            assert_eq!(self.state.mvcc.rev_current(), rev, "half a command is not seen");
            while application.digest().expect("the disk is well") == WalkStep::More {}
        }
    }

    /// Looks for the previous pairs that were not in memory.
    fn fill_prev(&self, applied: &mut Applied) {
        for event in applied.events.iter_mut().filter(|event| event.prev_kv.is_none()) {
            let store = &self.state.mvcc;
            let found = store
                .locate_prev(&[event], store.rev_compacted())
                .load(usize::MAX)
                .expect("the disk is well");
            event.prev_kv = found.into_iter().next().expect("each event has its place");
        }
    }

    /// Reads what an answer lacks.
    pub(super) fn fill(&self, missing: Vec<Missing<'_>>) {
        for mut missing in missing {
            let mut walk = missing.walk();
            loop {
                let step = walk.step(&self.state.mvcc).expect("a hold");
                while walk.digest().expect("the disk is well") == WalkStep::More {}
                if step == WalkStep::Done {
                    break;
                }
            }
            let (_, found) = walk.finish();
            missing.fill(found);
        }
    }

    /// The answer to a transaction that only reads, without the log.
    pub(super) fn read_txn(&self, txn: &Txn, stride_keys: usize) -> Outcome {
        let mut reading = ReadTxn::new(txn);
        let mut outcome = loop {
            if let Some(outcome) = reading.step_of(&self.state.mvcc, stride_keys) {
                break outcome;
            }
            while reading.digest().expect("the disk is well") == WalkStep::More {}
        };
        self.fill(outcome.missing_in_txn(txn));
        outcome
    }

    pub(super) fn capture(&mut self) {
        if self.captured.is_none() {
            let applied = Bytes::copy_from_slice(&self.applied.to_be_bytes());
            self.captured = Some(self.state.capture(vec![(Bytes::from_static(APPLIED), applied)]));
        }
    }

    pub(super) fn commit(&mut self) {
        if let Some(mut captured) = self.captured.take() {
            while self.state.gather(&mut captured) == WalkStep::More {}
            let Captured { checkpoint, rev, .. } = captured;
            let removed_bytes = self.database.commit(&checkpoint).expect("the disk is well");
            let body = self.database.reader().expect("the disk is well");
            drop(self.state.checkpointed(rev, removed_bytes, body));
        }
    }

    /// Opens the replica again, as after a crash: changes that were not committed are lost.
    pub(super) fn crash(self) -> Replica {
        let Replica { directory, database, state, .. } = self;
        drop((state, database));
        let (database, state) = open(&directory);
        let reader = database.reader().expect("the disk is well");
        let applied = reader.cell(Table::Meta, APPLIED).expect("the disk is well");
        let applied = applied
            .map_or(0, |cell| usize::from_be_bytes(cell.as_ref().try_into().expect("as it was written")));
        Replica { directory, database, state, captured: None, applied }
    }

    /// One stride of a compaction, over the index or over the disk.
    pub(super) fn compaction_step(&mut self) {
        let store = &mut self.state.mvcc;
        if let CompactionStep::Read(stride) = store.compaction_stride(2) {
            let judged = store.judge(stride.load().expect("the disk is well"));
            store.judged(judged);
        }
    }

    pub(super) fn keys(&self) -> Vec<KeyValue> {
        let range = Range::of(KeyRange::all());
        let (_, RangeResult { kvs, .. }) =
            self.state.mvcc.range(&range).expect("the disk is well").expect("the newest is readable");
        kvs
    }

    pub(super) fn leases(&self) -> Vec<(LeaseId, Lease)> {
        self.state.lessor.leases().map(|(id, lease)| (id, lease.clone())).collect()
    }

    /// Everything on which replicas have to agree.
    pub(super) fn dump(&mut self) -> String {
        let mut walk = HashWalk::new(0);
        while walk.step(&self.state.mvcc).expect("the newest is readable") == WalkStep::More {
            walk.settle();
        }
        let hash = walk.finish().expect("the disk is well");
        self.commit();
        self.capture();
        self.commit();
        let reader = self.database.reader().expect("the disk is well");
        let tables = [
            Table::Lease,
            Table::Alarm,
            Table::Member,
            Table::MemberRemoved,
            Table::AuthUser,
            Table::AuthRole,
            Table::V2Node,
            Table::V2Event,
            Table::V2Account,
        ];
        let cells = tables.map(|table| {
            let cells = reader.cells(table).expect("the disk is well");
            cells.collect::<Result<Vec<_>, _>>().expect("the disk is well")
        });
        let alarms: Vec<_> = self.state.alarms.active().collect();
        let members: Vec<_> = self.state.members.iter().collect();
        let (keys, leases) = (self.keys(), self.leases());
        let auth = &self.state.auth;
        let v2 = &self.state.v2;
        let size = self.state.mvcc.size().in_use;
        format!(
            "{hash:#?}\n{keys:#?}\n{leases:#?}\n{alarms:#?}\n{members:#?}\n{auth:#?}\n{v2:#?}\n{size}\n{cells:#?}"
        )
    }
}

fn open(directory: &TempDir) -> (Arc<Database>, StateMachine) {
    let database = Database::at(&directory.path().join("db"), 1 << 20).expect("the disk is well");
    let database = Arc::new(database);
    let state = StateMachine::open(Arc::clone(&database)).expect("the disk is well");
    (database, state)
}

/// Compares the outcome of each command, without previous pairs in the events.
pub(super) fn check(script: &str, expected: Expect) {
    let mut replica = Replica::new();
    let mut out = String::new();
    for (words, command) in tape::parse(script) {
        let applied = replica.run(&command, false);
        out += &format!("{words}\n  {}\n", tape::print(&applied));
    }
    expected.assert_eq(&out);
}
