//! What a committed command does to the state.

mod command;

pub(crate) use command::{
    Alarm, AlarmKind, ApplyError, Command, Compare, CompareOperator, CompareTarget, DeleteRange, Op,
    OpResult, Outcome, Put, Response, Txn, TxnResult,
};
