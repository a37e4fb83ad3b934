//! openraft, with our types filled in.

use std::{collections::BTreeMap, fmt, sync::Arc};

use openraft::{impls, raft::responder::Responder};

use crate::apply::{Command, Outcome};

openraft::declare_raft_types!(
    /// The types of this Raft: a log entry is a batch of commands.
    pub(crate) TypeConfig:
        D = Batch,
        R = BatchOutcome,
        NodeId = u64,
        Node = Peer,
        LeaderId = openraft::vote::leader_id_std::LeaderId<u64, u64>,
        Responder<T> = Callback<T> where T: openraft::OptionalSend + 'static,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, super::state_machine::RaftStateMachine>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, super::state_machine::SnapshotImage>;
pub(crate) type WriteResult = openraft::raft::ClientWriteResult<TypeConfig>;

/// The commands of one log entry. Cheap to clone: the log's cache and the applier share it.
#[derive(Clone, Debug)]
pub(crate) struct Batch(pub(crate) Arc<[Command]>);

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {}", self.0.len())
    }
}

/// What came of the commands of one entry, in their order.
#[derive(Debug, Default)]
pub(crate) struct BatchOutcome(pub(crate) Vec<Outcome>);

/// Where a member's peers reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) peer_urls: Vec<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_urls.join(","))
    }
}

/// Runs a closure with the result of a write: on the core thread, right after apply.
pub(crate) struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(run: impl FnOnce(T) + Send + 'static) -> Callback<T> {
        Callback(Box::new(run))
    }
}

impl<T: openraft::OptionalSend + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// A membership of one voter.
pub(crate) fn single_voter(id: u64, peer: Peer) -> BTreeMap<u64, Peer> {
    BTreeMap::from([(id, peer)])
}
