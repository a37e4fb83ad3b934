//! Applying committed commands to the state.
//!
//! Applying is a function of the state and the command: replicas that applied the same commands have equal
//! tables and gave equal answers. A refusal is an answer. A stride of a command does not use the disk, so it
//! cannot fail: the changes are kept in memory until [`StateMachine::capture`] takes them for a checkpoint, and
//! what has to be read is read between two strides ([`Application::digest`]). An error of the storage there ends
//! this process.

// Every `match` names all commands and errors, so that a new one has to be handled everywhere.
#![warn(clippy::wildcard_enum_match_arm)]

pub(crate) mod admission;
mod alarm;
#[cfg(test)]
pub(crate) mod arbitrary;
mod auth;
pub(crate) mod codec;
mod command;
mod compare;
mod decision;
mod kv;
mod lease;
mod members;
#[cfg(test)]
mod model;
mod state;
#[cfg(test)]
pub(crate) mod tape;
#[cfg(test)]
mod tests;
mod txn;
mod unread;
mod v2;
mod values_apart;

pub(crate) use command::{
    Alarm, AlarmKind, ApplyError, AuthCommand, Command, Compare, CompareOperator, CompareTarget, DeleteRange,
    Op, OpResult, Outcome, Put, Request, Response, Txn, TxnResult, Unread,
};
pub(crate) use members::Member;
pub(crate) use state::{Application, Applied, Captured, Progress, StateMachine};
pub(crate) use txn::ReadTxn;
pub(crate) use unread::Missing;
pub(crate) use values_apart::values_apart;

use crate::{
    mvcc::RevError,
    types::{Chunked, Event},
};

/// What a command did.
struct Effect {
    response: Response,
    /// What the response lacks, because only the member that answers reads it.
    unread: Option<Box<Unread>>,
    events: Chunked<Event>,
}

/// How far a command is that takes strides.
enum Advanced<T> {
    More(T),
    Done(Effect),
}

impl<T> Advanced<T> {
    fn map<U>(self, into: impl FnOnce(T) -> U) -> Advanced<U> {
        match self {
            Advanced::More(rest) => Advanced::More(into(rest)),
            Advanced::Done(effect) => Advanced::Done(effect),
        }
    }
}

impl Effect {
    fn quiet(response: Response) -> Effect {
        Effect { response, unread: None, events: Chunked::default() }
    }
}

impl From<RevError> for ApplyError {
    fn from(error: RevError) -> ApplyError {
        match error {
            RevError::Compacted { asked, compacted } => ApplyError::Compacted { asked, compacted },
            RevError::Future { asked, current } => ApplyError::FutureRevision { asked, current },
        }
    }
}
