//! What a committed command does to the state.
//!
//! One function of (state, command): replicas that applied the same commands are the same, tables
//! and answers alike. A refusal is an answer; a [`StorageError`] is the end of this node. Nothing
//! here waits for a disk to write: changes gather in memory until [`StateMachine::capture`]
//! hands them out to be stored together.

// A new command or error has to be given a place wherever they are told apart.
#![warn(clippy::wildcard_enum_match_arm)]

pub(crate) mod admission;
mod alarm;
#[cfg(test)]
mod arbitrary;
mod auth;
pub(crate) mod codec;
mod command;
mod kv;
mod lease;
mod members;
#[cfg(test)]
mod model;
mod state;
#[cfg(test)]
mod tape;
#[cfg(test)]
mod tests;
mod txn;

pub(crate) use command::{
    Alarm, AlarmKind, ApplyError, AuthCommand, Command, Compare, CompareOperator, CompareTarget, DeleteRange,
    Op, OpResult, Outcome, Put, Request, Response, Txn, TxnResult,
};
pub(crate) use state::{Applied, Captured, StateMachine};

use crate::{mvcc::RevError, storage::StorageError};

/// Why a command did not get through: refused, which is an answer, or not done at all.
enum Stop {
    Refused(ApplyError),
    Broken(StorageError),
}

impl From<ApplyError> for Stop {
    fn from(refusal: ApplyError) -> Stop {
        Stop::Refused(refusal)
    }
}

impl From<RevError> for Stop {
    fn from(error: RevError) -> Stop {
        Stop::Refused(match error {
            RevError::Compacted { asked, compacted } => ApplyError::Compacted { asked, compacted },
            RevError::Future { asked, current } => ApplyError::FutureRevision { asked, current },
        })
    }
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Stop {
        Stop::Broken(error)
    }
}
