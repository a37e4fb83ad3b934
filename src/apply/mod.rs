//! What a committed command does to the state.

mod admission;
mod alarm;
#[cfg(test)]
mod arbitrary;
pub(crate) mod codec;
mod command;
mod members;

pub(crate) use command::{
    Alarm, AlarmKind, ApplyError, Command, Compare, CompareOperator, CompareTarget, DeleteRange, Op,
    OpResult, Outcome, Put, Response, Txn, TxnResult,
};
