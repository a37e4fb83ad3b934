//! Consensus: openraft, and the log and the state machine that it drives.
//!
//! openraft's generics stay in this room. What leaves it is a handle to propose with and to watch
//! leadership (`Consensus`), the replicated state under its lock (`Replica`), and the log. The way
//! to the other members is `link`.

pub(crate) mod base;
mod codec;
mod consensus;
mod expected_log;
#[cfg(test)]
mod flips;
mod flusher;
mod incoming;
mod lease_clock;
mod log_store;
mod logins;
mod marks;
mod message;
mod network;
mod pipeline;
mod plausible;
mod read_barrier;
mod replica;
mod replica_lock;
mod retention;
mod runtime;
mod signed_tokens;
mod snapshot;
mod stages;
mod start_up;
mod state_machine;
mod tags;
#[cfg(test)]
mod tests;
mod typ;
mod watched;

/// What is in the files of a log.
pub(crate) use crate::wal::{SegmentFindings, inspect as inspect_log};
pub(crate) use consensus::{Consensus, Leadership, MemberChange, NotProposed, Timing};
pub(crate) use incoming::MessageError;
pub(crate) use lease_clock::LeaseClock;
pub(crate) use log_store::LogStore;
pub(crate) use logins::{Bearer, Logins, Tokens};
pub(crate) use plausible::Implausible;
pub(crate) use read_barrier::{ReadPoint, Vouch};
pub(crate) use replica::{LogMark, Replica};
pub(crate) use replica_lock::ReplicaLock;
pub(crate) use signed_tokens::TokenKeyError;
pub(crate) use stages::Began;
pub(crate) use start_up::{catch_up, forget_others, open_log};
pub(crate) use state_machine::{Parts, RaftStateMachine, request_kind};
pub(crate) use tags::{Fate, Tags};
