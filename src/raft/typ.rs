//! openraft, with our types filled in.

use std::{fmt, sync::Arc};

use openraft::{
    EntryPayload, OptionalSend, RaftTypeConfig, impls,
    raft::responder::Responder,
    type_config::alias,
    vote::leader_id_std::{CommittedLeaderId, LeaderId},
};

use super::stages::Began;
use crate::{
    apply::{Outcome, Request},
    link::Peer,
};

/// The types of this Raft: a log entry is a batch of commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Batch;
    type R = BatchOutcome;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Batch, u64, Peer>;
    type Entry = openraft::Entry<CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = super::runtime::Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = impls::BoxedErrorSource;
}

pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type WriteResult = openraft::raft::ClientWriteResult<TypeConfig>;

/// The commands of one log entry, each with who asked for it. Cheap to clone: the log's cache and the applier share it.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) commands: Arc<[Request]>,
    /// None where nobody looks for it: in a cluster of one.
    pub(crate) tag: Option<Tag>,
    /// Stays in memory: what is read back from the log, or came from a peer, has none.
    pub(crate) began: Option<Began>,
}

/// Whose batch it is. The member that proposed it finds it in the log again by this, whoever
/// leads by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) member: u64,
    /// Not used before by this member, in this run or an earlier one.
    pub(crate) serial: u64,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {}", self.commands.len())
    }
}

/// What came of the commands of one entry, in their order.
#[derive(Debug, Default)]
pub(crate) struct BatchOutcome(pub(crate) Vec<Outcome>);

/// Runs a closure with the result of a write: on the core thread, right after apply.
pub(crate) struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(run: impl FnOnce(T) + Send + 'static) -> Callback<T> {
        Callback(Box::new(run))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
