//! Transactions: comparisons choose one of two lists of operations, which is executed as a whole or not
//! at all.
//!
//! There are three phases. *Decide* makes the comparisons, also those of the transactions nested in the
//! chosen branch, all against the state before the transaction ([`decision`](super::decision)). The result
//! is a plan. *Check* looks for an operation of the plan that has to be refused, against the same state.
//! *Execute* runs the operations in order, each on the state that the operations before it left. No
//! operation runs before all are checked, so a transaction never stops half-way.
//!
//! No phase reads anything for the answer: see [`unread`](super::unread).

use std::{
    collections::btree_map::{BTreeMap, Entry},
    vec,
};

use bytes::Bytes;

use super::{
    Advanced, Effect,
    decision::{Decision, Plan, Planned},
    kv::{self, NewValue},
    unread,
};
use crate::{
    apply::{ApplyError, DeleteRange, Op, OpResult, Outcome, Put, Response, Txn, TxnResult},
    lease::Lessor,
    limits::{APPLY_STRIDE_KEYS, RANGE_STRIDE_KEYS},
    mvcc::{Deletion, Hold, Range, RangeResult, Step, Store, Write},
    storage::StorageError,
    types::{Chunked, Event, EventKind, KeyValue, Rev, Revision},
};

/// A transaction that is being applied.
pub(super) enum Execution<'t> {
    Deciding(Decision<'t>),
    Executing(Executing<'t>),
}

pub(super) struct Executing<'t> {
    write: Write,
    plan: vec::IntoIter<Planned<'t>>,
    /// The transactions with operations that have not run yet, the innermost last.
    open: Vec<Open>,
    /// The operation that the next stride continues.
    running: Option<Running<'t>>,
    /// The moments that the operations so far see, of those that read for the answer.
    moments: Vec<Revision>,
}

enum Running<'t> {
    Deleting(&'t DeleteRange, Deletion),
    Putting(&'t Put, NewValue),
}

struct Open {
    result: TxnResult,
    /// How many of its operations have no result yet.
    ops_left: usize,
}

impl<'t> Execution<'t> {
    pub(super) fn new(txn: &'t Txn) -> Execution<'t> {
        Execution::Deciding(Decision::new(txn))
    }

    /// Runs until the transaction is done, or `keys_left` keys were visited. Until it is done, nothing else
    /// may change the keys.
    pub(super) fn advance(
        self,
        store: &mut Store,
        lessor: &mut Lessor,
        keys_left: &mut usize,
        want_prev_events: bool,
    ) -> Result<Advanced<Execution<'t>>, ApplyError> {
        let mut executing = match self {
            Execution::Deciding(mut decision) => {
                let newest = Revision::after(store.rev_current());
                if decision.step(store, newest, keys_left) == Step::More {
                    return Ok(Advanced::More(Execution::Deciding(decision)));
                }
                let plan = decision.into_plan();
                check(store, lessor, &plan)?;
                Executing::new(store.begin(), plan)
            }
            Execution::Executing(executing) => executing,
        };
        let Some(result) = executing.run(store, lessor, keys_left, want_prev_events) else {
            return Ok(Advanced::More(Execution::Executing(executing)));
        };
        let mut events = executing.write.commit(store).events;
        if want_prev_events && events.len() > 1 {
            match events.len() <= APPLY_STRIDE_KEYS {
                true => look_before_the_revision(&mut events),
                // Of so many events no other has its previous pair.
                false => events.iter_mut().take(APPLY_STRIDE_KEYS).for_each(|event| event.prev_kv = None),
            }
        }
        let unread = unread::note(store, executing.moments);
        Ok(Advanced::Done(Effect { response: Response::Txn(result), unread, events }))
    }

    pub(super) fn digest(&mut self) -> Result<Step, StorageError> {
        match self {
            Execution::Deciding(decision) => decision.digest(),
            Execution::Executing(executing) => executing.digest(),
        }
    }
}

impl<'t> Executing<'t> {
    fn new(write: Write, plan: Plan<'t>) -> Executing<'t> {
        let plan = plan.into_iter();
        Executing { write, plan, open: Vec::new(), running: None, moments: Vec::new() }
    }

    /// Reads the value that an operation of the last stride keeps.
    fn digest(&mut self) -> Result<Step, StorageError> {
        match &mut self.running {
            Some(Running::Putting(_, value)) => value.read()?,
            Some(Running::Deleting(..)) | None => {}
        }
        Ok(Step::Done)
    }

    /// Runs operations. Returns `None` if there are more.
    fn run(
        &mut self,
        store: &mut Store,
        lessor: &mut Lessor,
        keys_left: &mut usize,
        want_prev_events: bool,
    ) -> Option<TxnResult> {
        loop {
            if let Some(result) = self.close() {
                return Some(result);
            }
            if *keys_left == 0 {
                return None;
            }
            let result = match self.running.take() {
                Some(Running::Putting(put, NewValue::Known(value))) => {
                    *keys_left -= 1;
                    kv::put(store, &mut self.write, lessor, put, value, want_prev_events);
                    OpResult::Put { rev: self.write.rev(), prev_kv: None }
                }
                Some(unread @ Running::Putting(_, NewValue::Stored(_))) => {
                    self.running = Some(unread);
                    return None;
                }
                Some(Running::Deleting(delete, mut deletion)) => {
                    let write = &mut self.write;
                    let step = kv::delete_some(
                        store,
                        write,
                        lessor,
                        delete,
                        &mut deletion,
                        keys_left,
                        want_prev_events,
                    );
                    if step == Step::More {
                        self.running = Some(Running::Deleting(delete, deletion));
                        continue;
                    }
                    let deleted = deletion.deleted;
                    OpResult::DeleteRange { rev: self.write.rev(), deleted, prev_kvs: Vec::new() }
                }
                None => match self.plan.next().expect("an open transaction has operations left") {
                    Planned::Enter { succeeded, ops } => {
                        let result = TxnResult { succeeded, responses: Vec::with_capacity(ops) };
                        self.open.push(Open { result, ops_left: ops });
                        continue;
                    }
                    Planned::Op(op) => {
                        if unread::is_read(op) {
                            self.moments.push(moment(op, &self.write));
                        }
                        match op {
                            Op::Range(_) => {
                                OpResult::Range { rev: self.write.rev(), result: RangeResult::default() }
                            }
                            Op::Put(put) => {
                                self.running = Some(Running::Putting(put, NewValue::of(put, store)));
                                continue;
                            }
                            Op::DeleteRange(delete) => {
                                self.running = Some(Running::Deleting(delete, Deletion::default()));
                                continue;
                            }
                            Op::Txn(_) => unreachable!("a plan contains no transactions"),
                        }
                    }
                },
            };
            let open = self.open.last_mut().expect("operations are those of a transaction");
            open.result.responses.push(result);
            open.ops_left -= 1;
        }
    }

    /// Moves the results of nested transactions that are complete into the transactions around them. Returns
    /// the result of the outermost transaction once that is complete.
    fn close(&mut self) -> Option<TxnResult> {
        while self.open.last().is_some_and(|open| open.ops_left == 0) {
            let Open { result, .. } = self.open.pop()?;
            let Some(outer) = self.open.last_mut() else { return Some(result) };
            outer.result.responses.push(OpResult::Txn(result));
            outer.ops_left -= 1;
        }
        None
    }
}

/// The moment that an operation sees.
fn moment(op: &Op, write: &Write) -> Revision {
    match op {
        Op::Range(range) if range.rev > 0 => Revision::after(Rev(range.rev)),
        Op::Range(_) | Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) => write.now(),
    }
}

/// In events, the previous pair is the one before the whole revision. If a transaction changes a key
/// several times, every event has the pair from before the first change. A put that creates the key has
/// no previous pair, also if the same transaction deleted the key before.
fn look_before_the_revision(events: &mut Chunked<Event>) {
    let mut before: BTreeMap<Bytes, Option<KeyValue>> = BTreeMap::new();
    for event in events.iter_mut() {
        match before.entry(event.kv.key.clone()) {
            Entry::Vacant(first) => {
                first.insert(event.prev_kv.clone());
            }
            Entry::Occupied(first) => {
                let creates = event.kind == EventKind::Put && event.kv.version == 1;
                event.prev_kv = if creates { None } else { first.get().clone() };
            }
        }
    }
}

fn check(store: &Store, lessor: &Lessor, plan: &Plan<'_>) -> Result<(), ApplyError> {
    for planned in plan {
        match planned {
            Planned::Op(Op::Range(range)) => check_range(range, store.rev_current(), store.rev_compacted())?,
            Planned::Op(Op::Put(put)) => kv::check_put(store, lessor, put)?,
            Planned::Op(Op::DeleteRange(_) | Op::Txn(_)) | Planned::Enter { .. } => {}
        }
    }
    Ok(())
}

/// As in etcd, this check is stricter than that of a range outside a transaction: a negative revision
/// does not mean the newest one, but is refused as compacted after the first compaction.
fn check_range(range: &Range, current: Rev, compacted: Rev) -> Result<(), ApplyError> {
    let asked = Rev(range.rev);
    if range.rev == 0 {
        Ok(())
    } else if asked > current {
        Err(ApplyError::FutureRevision { asked, current })
    } else if asked < compacted {
        Err(ApplyError::Compacted { asked, compacted })
    } else {
        Ok(())
    }
}

/// A transaction that only reads, at the newest revision and without the log. Its outcome is the one that
/// applying the transaction would have.
pub(crate) struct ReadTxn<'t> {
    txn: &'t Txn,
    /// `None` after the last step.
    decision: Option<Decision<'t>>,
    /// The first step chooses it.
    moment: Option<Moment>,
}

struct Moment {
    current: Rev,
    compacted: Rev,
    hold: Hold,
}

impl<'t> ReadTxn<'t> {
    pub(crate) fn new(txn: &'t Txn) -> ReadTxn<'t> {
        ReadTxn { txn, decision: Some(Decision::new(txn)), moment: None }
    }

    /// Makes the next comparisons, of [`RANGE_STRIDE_KEYS`] keys at most. Returns the outcome once all are
    /// made; the outcome lacks what the ranges find.
    pub(crate) fn step(&mut self, store: &Store) -> Option<Outcome> {
        self.step_of(store, RANGE_STRIDE_KEYS)
    }

    pub(super) fn step_of(&mut self, store: &Store, mut keys_max: usize) -> Option<Outcome> {
        let is_lost =
            |moment: &Moment| !store.is_readable(Revision::after(moment.current), Some(&moment.hold));
        if self.moment.as_ref().is_some_and(is_lost) {
            // A snapshot from the leader has replaced the store that the transaction began with.
            *self = ReadTxn::new(self.txn);
        }
        let moment = self.moment.get_or_insert_with(|| Moment {
            current: store.rev_current(),
            compacted: store.rev_compacted(),
            hold: store.hold(),
        });
        let mut decision = self.decision.take().expect("there is one outcome");
        if decision.step(store, Revision::after(moment.current), &mut keys_max) == Step::More {
            self.decision = Some(decision);
            return None;
        }
        Some(moment.outcome(&decision.into_plan()))
    }

    /// Reads records that a comparison of the last step needs from the database, a bounded number of them. To
    /// be called without the store, until it returns [`Step::Done`].
    pub(crate) fn digest(&mut self) -> Result<Step, StorageError> {
        self.decision.as_mut().map_or(Ok(Step::Done), Decision::digest)
    }
}

impl Moment {
    fn outcome(&self, plan: &Plan<'_>) -> Outcome {
        let rev = self.current;
        let mut result = TxnResult::default();
        let mut moments = Vec::new();
        for planned in plan {
            match planned {
                Planned::Enter { succeeded, .. } => result.succeeded = *succeeded,
                Planned::Op(Op::Range(range)) => {
                    if let Err(refusal) = check_range(range, rev, self.compacted) {
                        return Outcome { rev, result: Err(refusal), unread: None };
                    }
                    moments.push(Revision::after(if range.rev > 0 { Rev(range.rev) } else { rev }));
                    result.responses.push(OpResult::Range { rev, result: RangeResult::default() });
                }
                Planned::Op(op) => unreachable!("not a read-only transaction: {op:?}"),
            }
        }
        let unread = unread::held(self.hold.clone(), moments);
        Outcome { rev, result: Ok(Response::Txn(result)), unread }
    }
}
