//! The service that members speak to each other over, on the peer URL.

use std::{future, io, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::Connected},
};

use crate::{
    limits,
    node::{Change, Envelope, Forwarded, LeaseAnswer, LeaseQuery, Node, PeerRefusal, Piece},
    pb::retcd::peer::{
        self as pb, AddMember, AppendPiece, ChangeReply, ChangeRequest, Changed, HelloReply, HelloRequest,
        LeaseReply, LeaseRequest, MembersReply, MembersRequest, ProposeReply, ProposeRequest, Proposed,
        RaftReply, RaftRequest, ReadIndexReply, ReadIndexRequest, SnapshotPiece, UpdateMember,
        change_request::Change as Wanted,
        peer_server::{self, PeerServer},
    },
    sockets::{Bound, Io, Listener, Places},
};

/// A connection that has been silent for this long is asked whether the peer is there, and closed
/// when it does not answer for as long again: a peer that lost its power leaves none behind.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Serves peers on `sockets`, on the runtime that this runs on, for as long as it lives.
pub(crate) async fn serve(node: Node, sockets: Vec<Bound>, places: Places) {
    let servers = sockets.into_iter().map(|socket| {
        let (node, places) = (node.clone(), places.clone());
        async move {
            let served = match socket.listen(places) {
                Ok(listener) => serve_port(node, listener).await,
                Err(error) => Err(error.to_string()),
            };
            // Accepting does not end by itself: this is a mistake, or the runtime is not in order.
            let error = served.err().unwrap_or_else(|| "accepting has ended".to_owned());
            tracing::error!(error, "peers are not served any more on one of --listen-peer-urls");
        }
    });
    futures_util::future::join_all(servers).await;
}

async fn serve_port(node: Node, listener: Listener) -> Result<(), String> {
    let service = PeerServer::new(Peer { node })
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
    tracing::info!(address = %listener.address(), "serving peer traffic");
    let server = Server::builder()
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service)
        .serve_with_incoming(connections(listener));
    server.await.map_err(|error| error.to_string())
}

/// Without an end, and without an error, which would end the server.
fn connections(listener: Listener) -> impl Stream<Item = io::Result<Io>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await.into_io() {
                Ok(io) => return Some((Ok(io.expecting_bytes_within(limits::PEER_FIRST_BYTES)), listener)),
                Err(error) => tracing::warn!(%error, "cannot take over a connection of a peer"),
            }
        }
    })
}

/// Who a peer is stands in each of its requests.
impl Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

struct Peer {
    node: Node,
}

impl Peer {
    fn check(&self, envelope: Option<pb::Envelope>) -> Result<Envelope, Status> {
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("a request without an envelope"))?;
        let pb::Envelope { version, cluster, from, to } = envelope;
        let envelope = Envelope { version, cluster, from, to };
        if let Err(refusal) = self.node.check_envelope(envelope) {
            self.node.tell_refusal(from, &refusal);
            return Err(refusal.into());
        }
        Ok(envelope)
    }
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
    async fn raft(&self, request: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        let request = request.into_inner();
        let kind = request.kind();
        let from = self.check(request.envelope)?.from;
        let message = self.node.peer_message(from, kind, request.message).await?;
        Ok(Response::new(RaftReply { message }))
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<RaftReply, Status>> + Send>>;

    /// Once it has begun, whatever ends the stream is told at its end.
    async fn append(
        &self,
        request: Request<Streaming<AppendPiece>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut pieces = request.into_inner();
        let first = pieces.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("the log begins with an envelope"))?;
        let from = self.check(first.envelope)?.from;
        // A connection that breaks ends the messages; there is nobody to tell.
        let others = pieces.take_while(|piece| future::ready(piece.is_ok()));
        let others = others.filter_map(|piece| future::ready(piece.ok()));
        let messages = stream::iter([first]).chain(others).map(|piece| piece.message);
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
        let mut pieces = request.into_inner();
        let first = pieces.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("a snapshot begins with its header"))?;
        let from = self.check(first.envelope)?.from;
        let pieces = pieces.map(|piece| match piece {
            Ok(SnapshotPiece { data, data_crc32c: crc32c, is_continued, .. }) => {
                Ok(Piece { data, crc32c, is_continued })
            }
            Err(status) => Err(status.message().to_owned()),
        });
        let message = self.node.peer_snapshot(from, first.message, pieces).await?;
        Ok(Response::new(RaftReply { message }))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        let ProposeRequest { envelope, term, serial, batch } = request.into_inner();
        let from = self.check(envelope)?.from;
        let result = match self.node.peer_propose(from, term, serial, batch).await? {
            Forwarded::Applied => Proposed::Applied,
            Forwarded::NotLeader => Proposed::NotLeader,
            Forwarded::Unknown => Proposed::Unknown,
        };
        Ok(Response::new(ProposeReply { result: result.into() }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.check(request.into_inner().envelope)?;
        Ok(Response::new(ReadIndexReply { index: self.node.peer_read_index().await }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseReply>, Status> {
        let LeaseRequest { envelope, id, renew } = request.into_inner();
        self.check(envelope)?;
        Ok(Response::new(match self.node.peer_lease(LeaseQuery { id, renew }).await {
            LeaseAnswer::NotLeader => LeaseReply { not_leader: true, ..LeaseReply::default() },
            LeaseAnswer::NotFound => LeaseReply::default(),
            LeaseAnswer::Found { granted_secs, remaining_secs, applied } => {
                LeaseReply { not_leader: false, found: true, granted_secs, remaining_secs, applied }
            }
        }))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let request = request.into_inner();
        self.check(request.envelope)?;
        let change = match request.change {
            Some(Wanted::Add(AddMember { id, peer_urls, is_learner })) => {
                Change::Add { id, peer_urls, is_learner }
            }
            Some(Wanted::Remove(id)) => Change::Remove { id },
            Some(Wanted::Update(UpdateMember { id, peer_urls })) => Change::Update { id, peer_urls },
            Some(Wanted::Promote(id)) => Change::Promote { id },
            None => return Err(Status::invalid_argument("a change without a change")),
        };
        Ok(Response::new(match self.node.peer_change(change).await {
            Ok(index) => ChangeReply { result: Changed::Done.into(), index },
            Err(refusal) => ChangeReply { result: refusal.code(), index: 0 },
        }))
    }

    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.check(request.into_inner().envelope)?;
        Ok(Response::new(HelloReply {}))
    }

    async fn members(&self, _request: Request<MembersRequest>) -> Result<Response<MembersReply>, Status> {
        let (cluster, _) = self.node.ids();
        let members = self.node.peer_members().into_iter().map(|member| pb::Member {
            id: member.id,
            peer_urls: member.peer_urls,
            is_started: member.is_started,
        });
        Ok(Response::new(MembersReply { cluster: cluster.0, members: members.collect() }))
    }
}
