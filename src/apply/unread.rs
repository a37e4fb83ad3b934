//! What the answer to a command still lacks after the command was applied.
//!
//! Applying a command changes the state and reads nothing for the client. For each range of a transaction,
//! and for each previous pair that the client asked for, it notes the moment that the operation saw. The
//! member that answers the client reads the state of that moment afterwards, without the lock. The other
//! members, and a replay of the log, drop the note.

use std::{borrow::Cow, vec};

use crate::{
    apply::{Command, Op, OpResult, Outcome, Response, Txn, TxnResult, Unread},
    mvcc::{Hold, Range, RangeResult, RangeWalk, Store},
    types::{KeyRange, KeyValue, Revision},
};

/// One read that an answer lacks.
pub(crate) struct Missing<'a> {
    range: Cow<'a, Range>,
    before: Revision,
    hold: Hold,
    place: Place<'a>,
}

/// Where the result of a read is put.
enum Place<'a> {
    Range(&'a mut RangeResult),
    PrevKv(&'a mut Option<KeyValue>),
    PrevKvs(&'a mut Vec<KeyValue>),
}

/// Notes moments that are readable now. Returns `None` if there are none.
pub(super) fn note(store: &Store, moments: Vec<Revision>) -> Option<Box<Unread>> {
    assert!(
        moments.iter().all(|before| before.main > store.rev_compacted()),
        "no compaction runs within a command"
    );
    if moments.is_empty() { None } else { held(store.hold(), moments) }
}

/// Notes moments that were readable when the hold was taken.
pub(super) fn held(hold: Hold, moments: Vec<Revision>) -> Option<Box<Unread>> {
    (!moments.is_empty()).then(|| Box::new(Unread { hold, moments }))
}

impl Outcome {
    /// Everything that the answer to a command lacks. The answer is complete once all of it is filled in.
    pub(crate) fn missing<'a>(&'a mut self, command: &'a Command) -> Vec<Missing<'a>> {
        if let Command::Txn(txn) = command {
            return self.missing_in_txn(txn);
        }
        let Some(mut missing) = Collector::of(self.unread.take()) else { return Vec::new() };
        match (command, &mut self.result) {
            (Command::Put(put), Ok(Response::Put { prev_kv })) => {
                missing.prev_kv(KeyRange::Point(put.key.clone()), Place::PrevKv(prev_kv));
            }
            (Command::DeleteRange(delete), Ok(Response::DeleteRange { prev_kvs, .. })) => {
                missing.prev_kv(delete.range.clone(), Place::PrevKvs(prev_kvs));
            }
            (command, _) => panic!("nothing is read for the answer to {command:?}"),
        }
        missing.into_all()
    }

    /// As [`Outcome::missing`], for a transaction.
    pub(crate) fn missing_in_txn<'a>(&'a mut self, txn: &'a Txn) -> Vec<Missing<'a>> {
        let Some(mut missing) = Collector::of(self.unread.take()) else { return Vec::new() };
        let Ok(Response::Txn(result)) = &mut self.result else { panic!("only a transaction reads ranges") };
        missing.txn(txn, result);
        missing.into_all()
    }
}

impl Missing<'_> {
    pub(crate) fn walk(&self) -> RangeWalk<'_> {
        RangeWalk::before(&self.range, self.before, self.hold.clone())
    }

    /// Puts what was found into the answer, in the place of what was found before.
    pub(crate) fn fill(&mut self, found: RangeResult) {
        match &mut self.place {
            Place::Range(place) => **place = found,
            Place::PrevKv(place) => **place = found.kvs.into_iter().next(),
            Place::PrevKvs(place) => **place = found.kvs,
        }
    }
}

/// Whether the operation reads something for the answer.
pub(super) fn is_read(op: &Op) -> bool {
    match op {
        Op::Range(_) => true,
        Op::Put(put) => put.prev_kv,
        Op::DeleteRange(delete) => delete.prev_kv,
        Op::Txn(txn) => reads(txn),
    }
}

/// Whether either branch of a transaction reads anything for the answer.
fn reads(txn: &Txn) -> bool {
    for op in txn.success.iter().chain(&txn.failure) {
        if is_read(op) {
            return true;
        }
    }
    false
}

impl Command {
    /// Whether the command may read something for the answer.
    pub(crate) fn reads(&self) -> bool {
        match self {
            Command::Put(put) => put.prev_kv,
            Command::DeleteRange(delete) => delete.prev_kv,
            Command::Txn(txn) => reads(txn),
            Command::Compact { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseRevoke { .. }
            | Command::LeaseCheckpoint { .. }
            | Command::AlarmActivate(_)
            | Command::AlarmDeactivate(_)
            | Command::MemberPublish { .. }
            | Command::Auth(_)
            | Command::V2(_) => false,
        }
    }
}

struct Collector<'a> {
    hold: Hold,
    moments: vec::IntoIter<Revision>,
    missing: Vec<Missing<'a>>,
}

impl<'a> Collector<'a> {
    fn of(unread: Option<Box<Unread>>) -> Option<Collector<'a>> {
        let Unread { hold, moments } = *unread?;
        Some(Collector { hold, moments: moments.into_iter(), missing: Vec::new() })
    }

    fn into_all(mut self) -> Vec<Missing<'a>> {
        assert_eq!(self.moments.next(), None, "every moment is that of a read");
        self.missing
    }

    /// Calls itself for nested transactions, so its stack frame is kept small: a loop, and no iterator
    /// adapters.
    fn txn(&mut self, txn: &'a Txn, result: &'a mut TxnResult) {
        let ops = if result.succeeded { &txn.success } else { &txn.failure };
        assert_eq!(ops.len(), result.responses.len(), "every operation of the branch has a response");
        let mut responses = result.responses.iter_mut();
        for op in ops {
            let Some(response) = responses.next() else { return };
            match (op, response) {
                (Op::Txn(inner), OpResult::Txn(result)) => self.txn(inner, result),
                (op, response) if is_read(op) => self.op(op, response),
                _ => {}
            }
        }
    }

    fn op(&mut self, op: &'a Op, response: &'a mut OpResult) {
        match (op, response) {
            (Op::Range(range), OpResult::Range { result, .. }) => {
                self.add(Cow::Borrowed(range), Place::Range(result));
            }
            (Op::Put(put), OpResult::Put { prev_kv, .. }) => {
                self.prev_kv(KeyRange::Point(put.key.clone()), Place::PrevKv(prev_kv));
            }
            (Op::DeleteRange(delete), OpResult::DeleteRange { prev_kvs, .. }) => {
                self.prev_kv(delete.range.clone(), Place::PrevKvs(prev_kvs));
            }
            _ => panic!("a response is of the kind of its operation"),
        }
    }

    fn prev_kv(&mut self, range: KeyRange, place: Place<'a>) {
        self.add(Cow::Owned(Range::of(range)), place);
    }

    fn add(&mut self, range: Cow<'a, Range>, place: Place<'a>) {
        let before = self.moments.next().expect("every read has its moment");
        self.missing.push(Missing { range, before, hold: self.hold.clone(), place });
    }
}
