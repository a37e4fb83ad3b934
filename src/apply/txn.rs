//! Transactions: if this holds then do that, all of it or none of it.
//!
//! Three phases. *Decide*: every comparison is made, those of the transactions inside the chosen
//! branch too, all against the state as it was; what comes of it is a path through the tree.
//! *Check*: each step on the path that could be refused is, still against that state. *Execute*:
//! the steps run in order, each seeing what the ones before it did. Nothing is written before
//! nothing can be refused any more, so a transaction never stops half-way.

use std::{cmp::Ordering, slice};

use super::{Stop, kv};
use crate::{
    apply::{
        ApplyError, Compare, CompareOperator, CompareTarget, Op, OpResult, Outcome, Response, Txn,
        TxnResult,
    },
    lease::Lessor,
    mvcc::{Range, Store, WriteTxn},
    storage::StorageError,
    types::{Event, KeyRange, KeyValue, Rev},
};

/// Which branch each transaction on the way takes, in the order in which they are met.
type Path = Vec<bool>;

pub(super) fn run(
    store: &mut Store,
    lessor: &mut Lessor,
    txn: &Txn,
    want_prev_events: bool,
) -> Result<(Response, Vec<Event>), Stop> {
    let mut path = Path::new();
    decide(store, lessor, txn, &mut path)?;
    check(store, lessor, txn, &mut path.iter())?;
    let mut execution = Execution { txn: store.begin(), lessor, want_prev_events };
    let result = execution.run(txn, &mut path.iter())?;
    Ok((Response::Txn(result), execution.txn.commit().events))
}

/// A transaction of ranges only, at the newest revision. It needs no log.
pub(super) fn run_read_only(store: &Store, lessor: &Lessor, txn: &Txn) -> Result<TxnResult, Stop> {
    let mut path = Path::new();
    decide(store, lessor, txn, &mut path)?;
    check(store, lessor, txn, &mut path.iter())?;
    let (succeeded, ops) = branch(txn, &mut path.iter());
    let rev = store.rev_current();
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let Op::Range(range) = op else { unreachable!("not a read-only transaction: {op:?}") };
        responses.push(OpResult::Range { rev, result: store.range(range)? });
    }
    Ok(TxnResult { succeeded, responses })
}

fn branch<'t>(txn: &'t Txn, path: &mut slice::Iter<'_, bool>) -> (bool, &'t [Op]) {
    let succeeded = *path.next().expect("every transaction on the path was decided");
    (succeeded, if succeeded { &txn.success } else { &txn.failure })
}

fn decide(store: &Store, lessor: &Lessor, txn: &Txn, path: &mut Path) -> Result<(), StorageError> {
    let mut succeeded = true;
    for compare in &txn.compares {
        if !holds(store, lessor, compare)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for op in if succeeded { &txn.success } else { &txn.failure } {
        if let Op::Txn(inner) = op {
            decide(store, lessor, inner, path)?;
        }
    }
    Ok(())
}

/// Whether every key of the range satisfies the comparison. A range without keys is like a key
/// that does not exist.
fn holds(store: &Store, lessor: &Lessor, compare: &Compare) -> Result<bool, StorageError> {
    let needs_value = matches!(compare.target, CompareTarget::Value(_));
    match &compare.range {
        KeyRange::Point(key) if needs_value => {
            Ok(satisfies(store.get(key)?.as_ref(), lessor, compare))
        }
        KeyRange::Point(key) => {
            let found = store.lookup(key).map(|meta| KeyValue {
                key: key.clone(),
                create_rev: meta.create_rev,
                mod_rev: meta.mod_rev,
                version: meta.version,
                ..KeyValue::default()
            });
            Ok(satisfies(found.as_ref(), lessor, compare))
        }
        KeyRange::Span(..) | KeyRange::From(_) => {
            let mut range = Range::of(compare.range.clone());
            range.keys_only = !needs_value;
            let found = store.range(&range)?.kvs;
            Ok(match found.is_empty() {
                true => satisfies(None, lessor, compare),
                false => found.iter().all(|kv| satisfies(Some(kv), lessor, compare)),
            })
        }
    }
}

/// A missing key has no value to compare, and zero for everything else.
fn satisfies(found: Option<&KeyValue>, lessor: &Lessor, compare: &Compare) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(given) => found.map_or(0, |kv| kv.version).cmp(given),
        CompareTarget::CreateRev(given) => found.map_or(0, |kv| kv.create_rev.0).cmp(given),
        CompareTarget::ModRev(given) => found.map_or(0, |kv| kv.mod_rev.0).cmp(given),
        CompareTarget::Lease(given) => found.map_or(0, |kv| lessor.lease_of(&kv.key).0).cmp(given),
        CompareTarget::Value(given) => match found {
            Some(kv) => kv.value.cmp(given),
            None => return false,
        },
    };
    match compare.operator {
        CompareOperator::Equal => ordering == Ordering::Equal,
        CompareOperator::Greater => ordering == Ordering::Greater,
        CompareOperator::Less => ordering == Ordering::Less,
        CompareOperator::NotEqual => ordering != Ordering::Equal,
        CompareOperator::Unknown => true,
    }
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

/// Stricter than a range outside a transaction: a negative revision is not the newest one but
/// long compacted, as soon as anything is.
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
    txn: WriteTxn<'s>,
    lessor: &'s mut Lessor,
    want_prev_events: bool,
}

impl Execution<'_> {
    fn run(&mut self, txn: &Txn, path: &mut slice::Iter<'_, bool>) -> Result<TxnResult, StorageError> {
        let (succeeded, ops) = branch(txn, path);
        let responses = ops.iter().map(|op| self.step(op, path)).collect::<Result<_, _>>()?;
        Ok(TxnResult { succeeded, responses })
    }

    fn step(&mut self, op: &Op, path: &mut slice::Iter<'_, bool>) -> Result<OpResult, StorageError> {
        Ok(match op {
            Op::Range(range) => {
                let result = self.txn.range(range)?;
                OpResult::Range { rev: self.txn.rev(), result }
            }
            Op::Put(put) => {
                let prev_kv = kv::put(&mut self.txn, self.lessor, put, self.want_prev_events)?;
                OpResult::Put { rev: self.txn.rev(), prev_kv }
            }
            Op::DeleteRange(delete) => {
                let (deleted, prev_kvs) =
                    kv::delete_range(&mut self.txn, self.lessor, delete, self.want_prev_events)?;
                OpResult::DeleteRange { rev: self.txn.rev(), deleted, prev_kvs }
            }
            Op::Txn(inner) => OpResult::Txn(self.run(inner, path)?),
        })
    }
}
