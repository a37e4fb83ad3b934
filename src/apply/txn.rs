//! Transactions: comparisons choose one of two lists of operations, which is executed as a whole or not
//! at all.
//!
//! There are three phases. *Decide* makes the comparisons, also those of the transactions nested in the
//! chosen branch, all against the state before the transaction. The decisions are a path through the
//! tree of transactions. *Check* looks for an operation on the path that has to be refused, against the
//! same state. *Execute* runs the operations on the path in order, each on the state that the operations
//! before it left. No operation runs before all are checked, so a transaction never stops half-way.

use std::{
    cmp::Ordering,
    collections::btree_map::{BTreeMap, Entry},
    slice,
};

use bytes::Bytes;

use super::{Stop, kv};
use crate::{
    apply::{ApplyError, Compare, CompareOperator, CompareTarget, Op, OpResult, Response, Txn, TxnResult},
    lease::Lessor,
    mvcc::{KeyMeta, Range, Store, Write},
    storage::StorageError,
    types::{Event, EventKind, KeyRange, KeyValue, Rev},
};

/// Whether the comparisons hold, for each transaction on the path, in the order of execution.
type Path = Vec<bool>;

const READABLE: &str = "the revision was checked, and no compaction runs within a transaction";

pub(super) fn run(
    store: &mut Store,
    lessor: &mut Lessor,
    txn: &Txn,
    want_prev_events: bool,
) -> Result<(Response, Vec<Event>), Stop> {
    let mut path = Path::new();
    decide(store, txn, &mut path)?;
    let mut checked = path.iter();
    check(store, lessor, txn, &mut checked)?;
    assert!(checked.next().is_none(), "every transaction on the path is checked");
    let mut execution = Execution { write: store.begin(), lessor, want_prev_events };
    let mut executed = path.iter();
    let result = execution.run(txn, &mut executed)?;
    assert!(executed.next().is_none(), "every transaction on the path is executed");
    let mut events = execution.write.commit().events;
    if want_prev_events && events.len() > 1 {
        look_before_the_revision(&mut events);
    }
    Ok((Response::Txn(result), events))
}

/// In events, the previous pair is the one before the whole revision. If a transaction changes a key
/// several times, every event has the pair from before the first change. A put that creates the key has
/// no previous pair, also if the same transaction deleted the key before.
fn look_before_the_revision(events: &mut [Event]) {
    let mut before: BTreeMap<Bytes, Option<KeyValue>> = BTreeMap::new();
    for event in events {
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

/// Executes a transaction that only reads, at the newest revision and without the log.
pub(super) fn run_read_only(store: &Store, lessor: &Lessor, txn: &Txn) -> Result<TxnResult, Stop> {
    let mut path = Path::new();
    decide(store, txn, &mut path)?;
    check(store, lessor, txn, &mut path.iter())?;
    let (succeeded, ops) = branch(txn, &mut path.iter());
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let Op::Range(range) = op else { unreachable!("not a read-only transaction: {op:?}") };
        let (rev, result) = store.range(range)?.expect(READABLE);
        responses.push(OpResult::Range { rev, result });
    }
    Ok(TxnResult { succeeded, responses })
}

fn branch<'t>(txn: &'t Txn, path: &mut slice::Iter<'_, bool>) -> (bool, &'t [Op]) {
    let succeeded = *path.next().expect("every transaction on the path was decided");
    (succeeded, if succeeded { &txn.success } else { &txn.failure })
}

fn decide(store: &Store, txn: &Txn, path: &mut Path) -> Result<(), StorageError> {
    let mut succeeded = true;
    for compare in &txn.compares {
        if !holds(store, compare)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for op in if succeeded { &txn.success } else { &txn.failure } {
        if let Op::Txn(inner) = op {
            decide(store, inner, path)?;
        }
    }
    Ok(())
}

/// Whether every key of the range satisfies the comparison. A range without keys is compared like a key
/// that does not exist.
fn holds(store: &Store, compare: &Compare) -> Result<bool, StorageError> {
    if let KeyRange::Point(key) = &compare.range {
        return satisfies(store, compare, key, store.lookup(key));
    }
    let mut is_empty = true;
    for (key, meta) in store.lookup_range(&compare.range) {
        is_empty = false;
        if !satisfies(store, compare, key, Some(meta))? {
            return Ok(false);
        }
    }
    if is_empty { satisfies(store, compare, compare.range.start(), None) } else { Ok(true) }
}

/// A comparison with the value of a key that does not exist does not hold. Its version, revisions and
/// lease are compared as 0.
fn satisfies(
    store: &Store,
    compare: &Compare,
    key: &[u8],
    found: Option<KeyMeta>,
) -> Result<bool, StorageError> {
    let ordering = match &compare.target {
        CompareTarget::Version(given) => found.map_or(0, |meta| meta.version).cmp(given),
        CompareTarget::CreateRev(given) => found.map_or(0, |meta| meta.create_rev.0).cmp(given),
        CompareTarget::ModRev(given) => found.map_or(0, |meta| meta.mod_rev.0).cmp(given),
        CompareTarget::Lease(given) => found.map_or(0, |meta| meta.lease.0).cmp(given),
        CompareTarget::Value(given) => match found {
            None => return Ok(false),
            Some(_) => store.get(key)?.expect("its index entry was found").value.cmp(given),
        },
    };
    Ok(match compare.operator {
        CompareOperator::Equal => ordering == Ordering::Equal,
        CompareOperator::Greater => ordering == Ordering::Greater,
        CompareOperator::Less => ordering == Ordering::Less,
        CompareOperator::NotEqual => ordering != Ordering::Equal,
        CompareOperator::Unknown => true,
    })
}

fn check(
    store: &Store,
    lessor: &Lessor,
    txn: &Txn,
    path: &mut slice::Iter<'_, bool>,
) -> Result<(), ApplyError> {
    let (_, ops) = branch(txn, path);
    for op in ops {
        match op {
            Op::Range(range) => check_range(store, range)?,
            Op::Put(put) => kv::check_put(store, lessor, put)?,
            Op::DeleteRange(_) => {}
            Op::Txn(inner) => check(store, lessor, inner, path)?,
        }
    }
    Ok(())
}

/// As in etcd, this check is stricter than that of a range outside a transaction: a negative revision
/// does not mean the newest one, but is refused as compacted after the first compaction.
fn check_range(store: &Store, range: &Range) -> Result<(), ApplyError> {
    let (asked, current, compacted) = (Rev(range.rev), store.rev_current(), store.rev_compacted());
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

struct Execution<'s> {
    write: Write<'s>,
    lessor: &'s mut Lessor,
    want_prev_events: bool,
}

impl Execution<'_> {
    /// Calls itself for nested transactions, so its stack frame is kept small: a loop, and no iterator
    /// adapters.
    fn run(&mut self, txn: &Txn, path: &mut slice::Iter<'_, bool>) -> Result<TxnResult, StorageError> {
        let (succeeded, ops) = branch(txn, path);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(self.step(op, path)?);
        }
        Ok(TxnResult { succeeded, responses })
    }

    fn step(&mut self, op: &Op, path: &mut slice::Iter<'_, bool>) -> Result<OpResult, StorageError> {
        Ok(match op {
            Op::Range(range) => {
                let (rev, result) = self.write.range(range)?.expect(READABLE);
                OpResult::Range { rev, result }
            }
            Op::Put(put) => {
                let prev_kv = kv::put(&mut self.write, self.lessor, put, self.want_prev_events)?;
                OpResult::Put { rev: self.write.rev(), prev_kv }
            }
            Op::DeleteRange(delete) => {
                let (deleted, prev_kvs) =
                    kv::delete_range(&mut self.write, self.lessor, delete, self.want_prev_events)?;
                OpResult::DeleteRange { rev: self.write.rev(), deleted, prev_kvs }
            }
            Op::Txn(inner) => OpResult::Txn(self.run(inner, path)?),
        })
    }
}
