//! What members ask of each other, and over what: the seam between this member and the network.
//!
//! Production has gRPC behind these two traits (`grpc.rs`). A simulator, or a test, has whatever hands
//! a request to the other member, and everything above the traits is the same code: envelopes,
//! deadlines, the window of unanswered messages, and what is known of each peer.
//!
//! The futures and the connections are boxed. A call to a peer carries a batch, an election or a
//! heartbeat, and allocates in the transport anyway; type parameters would have to be carried through
//! consensus, the node and every handler.

use std::{error::Error, sync::Arc};

use futures_util::{future::BoxFuture, stream::BoxStream};

use super::{peer::Peer, way::Way};
use crate::pb::retcd::peer::{
    AppendPiece, ChangeReply, ChangeRequest, ContactsReply, ContactsRequest, HelloReply, HelloRequest,
    HistoryReply, HistoryRequest, LeaseReply, LeaseRequest, MembersReply, MembersRequest, ProposeReply,
    ProposeRequest, RaftReply, RaftRequest, ReadIndexReply, ReadIndexRequest, SnapshotPiece, StatusReply,
    StatusRequest, TunnelPiece,
};

/// Makes connections to peers.
pub(crate) trait Connector: Send + Sync {
    /// A connection to whichever of the peer's URLs accepts first. It is made when it is first used, on
    /// the runtime that this is called on, and made again after it broke.
    fn connect(&self, peer: &Peer) -> Result<Arc<dyn Link>, CallError>;

    /// A connection to the member that `way` leads to. Like [`Connector::connect`], but where the peer port
    /// does not answer, a tunnel of the member is used.
    fn reach(&self, way: Arc<Way>, peer: &Peer) -> Result<Arc<dyn Link>, CallError>;
}

/// The calls of peer.proto, over one connection to one peer.
pub(crate) trait Link: Send + Sync {
    /// Resolves once the peer has accepted the first message. Each is answered before the next is sent.
    fn raft(&self, messages: Questions<RaftRequest>) -> Call<Replies<RaftReply>>;
    /// Resolves once the peer has accepted the first piece.
    fn append(&self, pieces: Questions<AppendPiece>) -> Call<Replies<RaftReply>>;
    fn snapshot(&self, pieces: Questions<SnapshotPiece>) -> Call<RaftReply>;
    /// Resolves once the peer has accepted the first piece.
    fn tunnel(&self, pieces: Questions<TunnelPiece>) -> Call<Replies<TunnelPiece>>;
    fn propose(&self, request: ProposeRequest) -> Call<ProposeReply>;
    /// As [`raft`](Link::raft).
    fn read_index(&self, questions: Questions<ReadIndexRequest>) -> Call<Replies<ReadIndexReply>>;
    fn lease(&self, request: LeaseRequest) -> Call<LeaseReply>;
    fn change(&self, request: ChangeRequest) -> Call<ChangeReply>;
    fn members(&self, request: MembersRequest) -> Call<MembersReply>;
    fn hello(&self, request: HelloRequest) -> Call<HelloReply>;
    fn contacts(&self, request: ContactsRequest) -> Call<ContactsReply>;
    fn status(&self, request: StatusRequest) -> Call<StatusReply>;
    fn history(&self, request: HistoryRequest) -> Call<HistoryReply>;
}

/// A call under way. It owns all that it needs, so the connection may be used meanwhile.
pub(crate) type Call<T> = BoxFuture<'static, Result<T, CallError>>;

/// What this member sends on a stream.
pub(crate) type Questions<T> = BoxStream<'static, T>;

/// What the peer sends back, in the order of what it answers. An error is the last item.
pub(crate) type Replies<T> = BoxStream<'static, Result<T, CallError>>;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct CallError {
    /// In words that an operator can act on.
    pub(crate) reason: String,
    /// Whether the peer may have got the request.
    pub(crate) was_sent: bool,
    /// The peer says that this member was removed from the cluster.
    pub(crate) says_removed: bool,
}

impl CallError {
    /// The request did not leave this member.
    pub(crate) fn not_sent(error: &dyn Error) -> CallError {
        CallError { reason: error.to_string(), was_sent: false, says_removed: false }
    }

    /// The peer answered, and the answer is of no use.
    pub(crate) fn unusable(reason: String) -> CallError {
        CallError { reason, was_sent: true, says_removed: false }
    }
}
