//! How openraft's messages reach a peer.
//!
//! openraft gives each of its tasks that speaks to a peer a network of its own, and so each has a
//! connection of its own: a heartbeat never waits behind a megabyte of entries, nor behind a snapshot.
//! Entries are sent as a stream (`pipeline`), heartbeats one by one on a stream of theirs, and everything else as single calls. Whatever goes wrong on
//! the way is reported as "unreachable", and openraft waits a little before it tries again; it is never
//! reported as a granted vote.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::{
    base::{BoxFuture, BoxStream},
    entry::RaftEntry,
    error::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, stream_append_sequential, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use super::{
    message,
    pipeline::Pipeline,
    plausible,
    snapshot::{Outgoing, Snapshot, SnapshotImage},
    typ::{TypeConfig, Vote},
};
use crate::link::{DedicatedLink, MessageKind, Peer, PeerError, Peers};

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

    fn connection(&self, target: u64, peer: &Peer, appends: Appending) -> PeerConnection {
        assert_ne!(target, self.peers.own(), "a member does not connect to itself");
        PeerConnection {
            peers: self.peers.clone(),
            outgoing: self.outgoing.clone(),
            link: DedicatedLink::new(self.peers.clone(), target, peer),
            appends,
            append_timeout: self.append_timeout,
        }
    }
}

/// How AppendEntries are sent.
#[derive(Clone, Copy, Debug)]
enum Appending {
    /// Heartbeats: each is answered or given up before the next.
    OneByOne,
    /// Entries: one message after the other, without waiting for answers.
    Streamed,
}

/// A connection to one peer.
pub(crate) struct PeerConnection {
    peers: Arc<Peers>,
    outgoing: Arc<Outgoing>,
    link: DedicatedLink,
    appends: Appending,
    append_timeout: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerConnection;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> PeerConnection {
        self.connection(target, peer, Appending::Streamed)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &Peer) -> PeerConnection {
        self.connection(target, peer, Appending::OneByOne)
    }
}

impl PeerConnection {
    /// A message on the connection that this member keeps to the peer anyway: an election is no time
    /// to make connections.
    async fn send_at_once(
        &self,
        kind: MessageKind,
        message: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Unreachable<TypeConfig>> {
        let sent = self.peers.raft(self.link.target(), &self.link.peer(), patience, (kind, message)).await;
        sent.map_err(unreachable)
    }

    async fn ask_for_vote(
        &self,
        kind: MessageKind,
        request: &VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let reply = self.send_at_once(kind, message::encode_vote(request), option.hard_ttl()).await?;
        let reply = message::decode_vote_reply(reply).map_err(|error| no_answer(&error))?;
        plausible::vote_answer(&request.vote, &reply).map_err(|error| no_answer(&error))?;
        Ok(reply)
    }

    /// Begins a stream with `first`. The peer has accepted that when this returns.
    async fn open<S>(
        &mut self,
        first: &AppendEntriesRequest<TypeConfig>,
        requests: S,
    ) -> Result<Pipeline<S>, RPCError<TypeConfig>> {
        let stream = self.link.append(message::encode_append(first), self.append_timeout).await;
        Ok(Pipeline::new(stream.map_err(unreachable)?, first, requests))
    }
}

fn unreachable(error: PeerError) -> Unreachable<TypeConfig> {
    Unreachable::new(&error)
}

/// An answer that cannot be read, or cannot be true, is none.
fn no_answer(error: &(impl Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

/// A stream of entries and its answers, as openraft sees it.
enum Session<'s, S> {
    Begins(&'s mut PeerConnection, S),
    Runs(Box<Pipeline<S>>),
}

impl RaftNetworkV2<TypeConfig> for PeerConnection {
    type SnapshotData = SnapshotImage;

    /// A heartbeat, because entries are streamed. openraft gives up on it before the next one is due;
    /// this gives up a little earlier, so that the failure is counted. Giving up any sooner would gain
    /// nothing: the peer answers only when it has synced what it got before, and a busy disk is slow.
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let patience = option.hard_ttl() * 9 / 10;
        let sent = self.link.append_one(message::encode_append(&request), patience).await;
        if sent.is_err() && request.entries.is_empty() {
            self.peers.heartbeat_failed();
        }
        let reply = sent.map_err(unreachable)?;
        let reply = message::decode_append_reply(reply).map_err(|error| no_answer(&error))?;
        let last = request.entries.last().map(RaftEntry::log_id).or(request.prev_log_id);
        plausible::append_answer(&request.vote, (request.prev_log_id.as_ref(), last.as_ref()), &reply)
            .map_err(|error| no_answer(&error))?;
        Ok(reply)
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
            Appending::OneByOne => stream_append_sequential(self, requests, option),
            Appending::Streamed => Box::pin(async move {
                let answers = stream::unfold(Some(Session::Begins(self, requests)), async |session| {
                    let mut pipeline = match session? {
                        Session::Runs(pipeline) => pipeline,
                        Session::Begins(connection, mut requests) => {
                            // openraft's pause after a failure is in here, and no connection is made before.
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
        self.ask_for_vote(MessageKind::Vote, &request, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(MessageKind::PreVote, &request, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (target, peer) = (self.link.target(), self.link.peer());
        let transfer = self.peers.metrics_of(target).sending_snapshot();
        let sent = self.outgoing.send(&self.peers, target, &peer, &vote, snapshot, cancel).await;
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
        if let Err(reason) = message::decode_transfer_reply(reply).map_err(|error| no_answer(&error))? {
            tracing::warn!(
                "transferee-member-id" = format_args!("{:x}", self.link.target()),
                reason,
                "the transferee did not become the leader"
            );
        }
        Ok(Ok(()))
    }
}
