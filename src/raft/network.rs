//! The roads that openraft's messages take.
//!
//! Each task of openraft that speaks to a peer has a connection of its own: a heartbeat never
//! waits behind a megabyte of entries, nor behind a snapshot. Entries go as a stream (`pipeline`),
//! everything else as calls. Whatever goes wrong on the way is "unreachable", after which openraft
//! waits a little before it tries again (never a granted vote).

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::{
    base::{BoxFuture, BoxStream},
    error::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, stream_append_sequential, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tonic::{Streaming, transport::Channel};

use super::{
    message::{self, Unreadable},
    pipeline::{self, Pipeline},
    snapshot::{Outgoing, Snapshot, SnapshotImage},
    typ::{TypeConfig, Vote},
};
use crate::{
    link::{MessageKind, Peer, Peers},
    pb::retcd::peer::{RaftKind, RaftReply, RaftRequest, peer_client::PeerClient},
    telemetry::PeerMetrics,
};

/// Makes connections.
pub(crate) struct Network {
    peers: Arc<Peers>,
    outgoing: Arc<Outgoing>,
    /// How long a peer may take to put entries on its disk and answer.
    append_timeout: Duration,
}

impl Network {
    pub(super) fn new(peers: Arc<Peers>, outgoing: Arc<Outgoing>, append_timeout: Duration) -> Network {
        Network { peers, outgoing, append_timeout }
    }

    fn connection(&self, target: u64, peer: &Peer, appends: Appends) -> PeerConnection {
        PeerConnection {
            peers: self.peers.clone(),
            outgoing: self.outgoing.clone(),
            target,
            peer: peer.clone(),
            appends,
            append_timeout: self.append_timeout,
            metrics: self.peers.metrics_of(target),
            client: Peers::connect(peer).ok().map(Peers::client),
        }
    }
}

/// How AppendEntries travels.
#[derive(Clone, Copy, Debug)]
enum Appends {
    /// Heartbeats: one now and then, answered or given up before the next.
    OneByOne,
    /// Entries: one after the other without waiting.
    Streamed,
}

/// A connection to one peer.
pub(crate) struct PeerConnection {
    peers: Arc<Peers>,
    outgoing: Arc<Outgoing>,
    target: u64,
    peer: Peer,
    appends: Appends,
    append_timeout: Duration,
    metrics: Arc<PeerMetrics>,
    /// `None` if the peer's URL is none.
    client: Option<PeerClient<Channel>>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerConnection;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> PeerConnection {
        self.connection(target, peer, Appends::Streamed)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &Peer) -> PeerConnection {
        self.connection(target, peer, Appends::OneByOne)
    }
}

impl PeerConnection {
    /// To where the peer is reached now, which may have changed since this connection was made.
    fn client(&mut self) -> Result<PeerClient<Channel>, Unreachable<TypeConfig>> {
        if let Some(moved) = self.peers.moved_from(self.target, &self.peer) {
            self.client = Peers::connect(&moved).ok().map(Peers::client);
            self.peer = moved;
        }
        self.client.clone().ok_or_else(|| Unreachable::from_string("the member has no valid peer URL"))
    }

    /// On this connection.
    async fn send(
        &mut self,
        kind: MessageKind,
        message: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Unreachable<TypeConfig>> {
        let client = self.client()?;
        self.send_over(client, kind, message, patience).await
    }

    /// On the connection that this member keeps to the peer anyway. Whoever asks for votes was given
    /// this one for nothing else, and an election is no time to make connections.
    async fn send_at_once(
        &mut self,
        kind: MessageKind,
        message: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Unreachable<TypeConfig>> {
        let moved = self.peers.moved_from(self.target, &self.peer);
        let kept = self.peers.channel(self.target, moved.as_ref().unwrap_or(&self.peer));
        let client = kept.map_err(|error| Unreachable::new(&error))?;
        self.send_over(client, kind, message, patience).await
    }

    async fn send_over(
        &self,
        mut client: PeerClient<Channel>,
        kind: MessageKind,
        message: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Unreachable<TypeConfig>> {
        let envelope = Some(self.peers.envelope(self.target));
        self.metrics.sent(message.len());
        let request = RaftRequest { envelope, kind: RaftKind::from(kind).into(), message };
        let answer = self.peers.answer(self.target, &self.peer, patience, client.raft(request)).await;
        let reply = answer.map_err(|error| Unreachable::new(&error))?.message;
        self.metrics.received(reply.len());
        Ok(reply)
    }

    /// Begins a stream with `first`, which goes with the envelope. The peer has looked at that
    /// when this returns.
    async fn open<S>(
        &mut self,
        first: &AppendEntriesRequest<TypeConfig>,
        requests: S,
    ) -> Result<Pipeline<S, Streaming<RaftReply>>, RPCError<TypeConfig>> {
        let (outgoing, pieces) =
            pipeline::outgoing(self.peers.envelope(self.target), first, self.metrics.clone());
        let mut client = self.client()?;
        let answers = client.append(pieces);
        // The peer has all of the first message when it answers.
        let patience = self.append_timeout + outgoing.way();
        let answers = self.peers.answer(self.target, &self.peer, patience, answers).await;
        let answers = answers.map_err(|error| Unreachable::new(&error))?;
        let (peers, peer) = (self.peers.clone(), self.peer.clone());
        Ok(Pipeline::new(peers, self.target, peer, self.append_timeout, requests, outgoing, answers))
    }
}

fn unreadable(error: Unreadable) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}

/// A stream of entries and its answers, as openraft sees it.
enum Session<'s, S> {
    Begins(&'s mut PeerConnection, S),
    Runs(Box<Pipeline<S, Streaming<RaftReply>>>),
}

impl RaftNetworkV2<TypeConfig> for PeerConnection {
    type SnapshotData = SnapshotImage;

    /// A heartbeat, for entries are streamed. openraft gives up on it before the next one is due,
    /// and this a little earlier, to say so: there is nothing to be gained by giving up any
    /// sooner, for the answer also means that the peer has what it got before on its disk, and a
    /// busy machine takes its time.
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let patience = option.hard_ttl() * 9 / 10;
        let sent = self.send(MessageKind::Append, message::encode_append(&request), patience).await;
        if sent.is_err() && request.entries.is_empty() {
            self.peers.heartbeat_failed();
        }
        let reply = sent?;
        message::decode_append_reply(reply).map_err(unreadable)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        match self.appends {
            Appends::OneByOne => stream_append_sequential(self, requests, option),
            Appends::Streamed => Box::pin(async move {
                let answers = stream::unfold(Some(Session::Begins(self, requests)), async |session| {
                    let mut pipeline = match session? {
                        Session::Runs(pipeline) => pipeline,
                        Session::Begins(connection, mut requests) => {
                            // The pause after a failure is in here: no connection before that.
                            let first = requests.next().await?;
                            match connection.open(&first, requests).await {
                                Ok(pipeline) => Box::new(pipeline),
                                Err(error) => return Some((Err(error), None)),
                            }
                        }
                    };
                    let answer = pipeline.next().await?;
                    Some((answer, Some(Session::Runs(pipeline))))
                });
                let answers: BoxStream<'s, _> = Box::pin(answers);
                Ok(answers)
            }),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let reply =
            self.send_at_once(MessageKind::Vote, message::encode_vote(&request), option.hard_ttl()).await?;
        message::decode_vote_reply(reply).map_err(unreadable)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let reply = self
            .send_at_once(MessageKind::PreVote, message::encode_vote(&request), option.hard_ttl())
            .await?;
        message::decode_vote_reply(reply).map_err(unreadable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let moved = self.peers.moved_from(self.target, &self.peer);
        let peer = moved.as_ref().unwrap_or(&self.peer);
        let transfer = self.metrics.sending_snapshot();
        let sent = self.outgoing.send(&self.peers, self.target, peer, &vote, snapshot, cancel).await;
        if sent.is_ok() {
            transfer.arrived();
        }
        sent
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let encoded = message::encode_transfer(&request);
        let reply = self.send_at_once(MessageKind::TransferLeader, encoded, option.soft_ttl()).await?;
        if let Err(reason) = message::decode_transfer_reply(reply).map_err(unreadable)? {
            tracing::warn!(
                "transferee-member-id" = format_args!("{:x}", self.target),
                reason,
                "the transferee did not become the leader"
            );
        }
        Ok(Ok(()))
    }
}
