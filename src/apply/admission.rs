//! What the member that a request came to asks before it proposes it.
//!
//! Functions of the command alone, so that the log's own checks ([`super::alarm`]) mean the same
//! by "grows" and "reads only".

use super::{Stop, txn};
use crate::{
    apply::{Command, Op, Outcome, Put, Response, StateMachine, Txn},
    storage::StorageError,
};

/// What a put costs beyond its bytes: revision, index and room to breathe.
const PUT_OVERHEAD: i64 = 256;
const LEASE_COST: i64 = 64;

/// Bytes that the command may add to the store. A transaction costs what its dearer branch costs,
/// and so does one inside it.
pub(crate) fn quota_cost(command: &Command) -> i64 {
    match command {
        Command::Put(put) => put_cost(put),
        Command::Txn(txn) => txn_cost(txn),
        Command::LeaseGrant { .. } => LEASE_COST,
        Command::DeleteRange(_)
        | Command::Compact { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseCheckpoint { .. }
        | Command::AlarmActivate(_)
        | Command::AlarmDeactivate(_)
        | Command::MemberPublish { .. }
        | Command::Auth(_) => 0,
    }
}

fn put_cost(put: &Put) -> i64 {
    let bytes = put.key.len() + put.value.as_ref().map_or(0, |value| value.len());
    PUT_OVERHEAD + i64::try_from(bytes).expect("a request fits in memory")
}

fn txn_cost(txn: &Txn) -> i64 {
    let (mut success, mut failure) = (0, 0);
    for op in &txn.success {
        success += op_cost(op);
    }
    for op in &txn.failure {
        failure += op_cost(op);
    }
    success.max(failure)
}

fn op_cost(op: &Op) -> i64 {
    match op {
        Op::Put(put) => put_cost(put),
        Op::Txn(txn) => txn_cost(txn),
        Op::Range(_) | Op::DeleteRange(_) => 0,
    }
}

/// Whether a transaction need not go through the log. It is a matter of its text alone: both
/// branches hold nothing but ranges. One with a transaction inside always goes through the log.
pub(crate) fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

/// The answer to a read-only transaction, at the newest revision.
pub(crate) fn run_read_only(state: &StateMachine, txn: &Txn) -> Result<Outcome, StorageError> {
    let result = match txn::run_read_only(&state.mvcc, &state.lessor, txn) {
        Ok(result) => Ok(Response::Txn(result)),
        Err(Stop::Refused(refusal)) => Err(refusal),
        Err(Stop::Broken(error)) => return Err(error),
    };
    Ok(Outcome { rev: state.mvcc.rev_current(), result })
}
