//! The gRPC service between members, on the peer URLs.

use std::{future, pin::Pin};

use futures_util::{Stream, StreamExt, stream};
use tonic::{Extensions, Request, Response, Status, Streaming, service::Routes};

use super::parse;
use crate::{
    node::{Change, Envelope, Forwarded, KnownCluster, LeaseAnswer, LeaseQuery, Node, PeerRefusal, Piece},
    pb::retcd::peer::{
        self as pb, AddMember, AppendPiece, ChangeReply, ChangeRequest, Changed, ContactsReply,
        ContactsRequest, HelloReply, HelloRequest, HistoryReply, HistoryRequest, LeaseReply, LeaseRequest,
        MembersReply, MembersRequest, ProposeReply, ProposeRequest, Proposed, RaftReply, RaftRequest,
        ReadIndexReply, ReadIndexRequest, SnapshotPiece, StatusReply, StatusRequest, TunnelPiece,
        UpdateMember,
        change_request::Change as Wanted,
        peer_server::{self, PeerServer},
    },
    sockets::Standing,
};

/// The routes for the peer ports.
pub(crate) fn peer_routes(node: &Node) -> Routes {
    let service = PeerServer::new(Peer { node: node.clone() });
    // Messages that are too large were refused by `http`.
    Routes::new(service.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX))
}

/// The names of the services in [`peer_routes`].
pub(crate) const PEER_SERVICES: &[&str] = &[peer_server::SERVICE_NAME];

/// The paths of its methods whose clients send a stream of messages.
pub(crate) const PEER_CLIENT_STREAMS: &[&str] = &[
    "/retcd.peer.Peer/Raft",
    "/retcd.peer.Peer/Append",
    "/retcd.peer.Peer/Snapshot",
    "/retcd.peer.Peer/Tunnel",
    "/retcd.peer.Peer/ReadIndex",
];

struct Peer {
    node: Node,
}

impl Peer {
    /// Judges who sends a call, and lets the call's connection out of the lobby.
    fn check(&self, call: &Extensions, envelope: Option<pb::Envelope>) -> Result<Envelope, Status> {
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("a request without an envelope"))?;
        let pb::Envelope { version, cluster, from, to, base } = envelope;
        let envelope = Envelope { version, cluster, from, to, base };
        if let Err(refusal) = self.node.check_envelope(envelope) {
            self.node.tell_refusal(from, &refusal);
            return Err(refusal.into());
        }
        if let Some(standing) = call.get::<Standing>() {
            standing.show_member();
        }
        Ok(envelope)
    }

    /// Who sends a stream, its first item, which has the envelope, and what follows.
    async fn begun<T>(
        &self,
        request: Request<Streaming<T>>,
        envelope: impl FnOnce(&T) -> Option<pb::Envelope>,
    ) -> Result<(u64, T, Streaming<T>), Status> {
        let (_, call, mut items) = request.into_parts();
        let first = items.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("a stream begins with an envelope"))?;
        let from = self.check(&call, envelope(&first))?.from;
        Ok((from, first, items))
    }
}

/// A stream from its first item on. If the connection breaks, it ends without an error, because the peer cannot receive one.
fn following<T>(first: T, others: Streaming<T>) -> impl Stream<Item = T> + Send
where
    T: Send + 'static,
{
    let others = others.take_while(|item| future::ready(item.is_ok()));
    stream::iter([first]).chain(others.filter_map(|item| future::ready(item.ok())))
}

impl From<PeerRefusal> for Status {
    fn from(refusal: PeerRefusal) -> Status {
        match refusal {
            PeerRefusal::Failed(reason) => Status::unavailable(reason),
            refusal => Status::failed_precondition(refusal.to_string()),
        }
    }
}

#[tonic::async_trait]
impl peer_server::Peer for Peer {
    type RaftStream = Pin<Box<dyn Stream<Item = Result<RaftReply, Status>> + Send>>;

    async fn raft(
        &self,
        request: Request<Streaming<RaftRequest>>,
    ) -> Result<Response<Self::RaftStream>, Status> {
        let (from, first, messages) = self.begun(request, |first| first.envelope).await?;
        let node = self.node.clone();
        let answers = following(first, messages).then(move |request| {
            let node = node.clone();
            async move {
                let message = node.peer_message(from, request.kind().into(), request.message).await?;
                Ok(RaftReply { message })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<RaftReply, Status>> + Send>>;

    /// Once the stream of answers has begun, an error is its last item.
    async fn append(
        &self,
        request: Request<Streaming<AppendPiece>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (from, first, pieces) = self.begun(request, |first| first.envelope).await?;
        let messages = following(first, pieces).map(|piece| piece.message);
        let answers = self.node.peer_append(from, messages).map(|answer| match answer {
            Ok(message) => Ok(RaftReply { message }),
            Err(refusal) => Err(refusal.into()),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotPiece>>,
    ) -> Result<Response<RaftReply>, Status> {
        let (from, first, pieces) = self.begun(request, |first| first.envelope).await?;
        let pieces = pieces.map(|piece| match piece {
            Ok(SnapshotPiece { data, data_crc32c: crc32c, is_continued, .. }) => {
                Ok(Piece { data, crc32c, is_continued })
            }
            Err(status) => Err(status.message().to_owned()),
        });
        let message = self.node.peer_snapshot(from, first.message, pieces).await?;
        Ok(Response::new(RaftReply { message }))
    }

    type TunnelStream = Pin<Box<dyn Stream<Item = Result<TunnelPiece, Status>> + Send>>;

    async fn tunnel(
        &self,
        request: Request<Streaming<TunnelPiece>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let (from, _, pieces) = self.begun(request, |first| first.envelope).await?;
        // A connection that breaks ends the data; there is nobody to tell.
        let data = pieces.map(|piece| Some(piece.ok()?.data));
        let data = self.node.peer_tunnel(from, data)?;
        Ok(Response::new(Box::pin(data.map(|data| Ok(TunnelPiece { envelope: None, data })))))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        let (_, call, request) = request.into_parts();
        let ProposeRequest { envelope, term, serial, batch } = request;
        let from = self.check(&call, envelope)?.from;
        let result = match self.node.peer_propose(from, term, serial, batch).await? {
            Forwarded::Applied => Proposed::Applied,
            Forwarded::NotLeader => Proposed::NotLeader,
            Forwarded::Unknown => Proposed::Unknown,
            Forwarded::NoSpace => Proposed::NoSpace,
        };
        Ok(Response::new(ProposeReply { result: result.into() }))
    }

    type ReadIndexStream = Pin<Box<dyn Stream<Item = Result<ReadIndexReply, Status>> + Send>>;

    async fn read_index(
        &self,
        request: Request<Streaming<ReadIndexRequest>>,
    ) -> Result<Response<Self::ReadIndexStream>, Status> {
        let (from, first, questions) = self.begun(request, |first| first.envelope).await?;
        let node = self.node.clone();
        let answers =
            following(first, questions).then(move |question| {
                let node = node.clone();
                async move {
                    Ok(ReadIndexReply { index: node.peer_read_index(from, question.followed_term).await? })
                }
            });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseReply>, Status> {
        let (_, call, request) = request.into_parts();
        let LeaseRequest { envelope, id, renew, caller } = request;
        self.check(&call, envelope)?;
        Ok(Response::new(match self.node.peer_lease(LeaseQuery { id, renew, caller }).await? {
            LeaseAnswer::NotLeader => LeaseReply { not_leader: true, ..LeaseReply::default() },
            LeaseAnswer::Denied => LeaseReply { denied: true, ..LeaseReply::default() },
            LeaseAnswer::NotFound => LeaseReply::default(),
            LeaseAnswer::Found { granted_secs, remaining_secs, applied } => {
                LeaseReply { found: true, granted_secs, remaining_secs, applied, ..LeaseReply::default() }
            }
        }))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let (_, call, request) = request.into_parts();
        self.check(&call, request.envelope)?;
        let change = match request.change {
            Some(Wanted::Add(AddMember { id, peer_urls, is_learner })) => {
                let peer_urls = parse::member_urls(&peer_urls)?;
                Change::Add { id, peer_urls, is_learner }
            }
            Some(Wanted::Remove(id)) => Change::Remove { id },
            Some(Wanted::Update(UpdateMember { id, peer_urls })) => Change::Update { id, peer_urls },
            Some(Wanted::Promote(id)) => Change::Promote { id },
            None => return Err(Status::invalid_argument("a change without a change")),
        };
        Ok(Response::new(match self.node.peer_change(request.caller, change).await? {
            Ok(index) => ChangeReply { result: Changed::Done.into(), index },
            Err(refusal) => ChangeReply { result: refusal.code(), index: 0 },
        }))
    }

    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let (_, call, request) = request.into_parts();
        let HelloRequest { envelope, was_removed } = request;
        let from = self.check(&call, envelope)?.from;
        if was_removed {
            self.node.peer_removed(from);
        }
        Ok(Response::new(HelloReply {}))
    }

    async fn contacts(&self, request: Request<ContactsRequest>) -> Result<Response<ContactsReply>, Status> {
        let (_, call, request) = request.into_parts();
        let ContactsRequest { envelope, members, about } = request;
        self.check(&call, envelope)?;
        Ok(Response::new(self.node.peer_contacts(&members, about).await.into()))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let (_, call, request) = request.into_parts();
        self.check(&call, request.envelope)?;
        Ok(Response::new(self.node.peer_status().into()))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryReply>, Status> {
        let (_, call, request) = request.into_parts();
        self.check(&call, request.envelope)?;
        Ok(Response::new(self.node.peer_history(request.revision).await?.into()))
    }

    async fn members(&self, _request: Request<MembersRequest>) -> Result<Response<MembersReply>, Status> {
        let KnownCluster { id, base, members, is_disk_full, applied_index } = self.node.peer_cluster();
        let members = members.into_iter().map(|member| pb::Member {
            id: member.id,
            peer_urls: member.peer_urls,
            is_started: member.is_started,
        });
        let base = base.map(|base| base.0);
        let members = members.collect();
        Ok(Response::new(MembersReply { cluster: id, members, base, is_disk_full, applied_index }))
    }
}
