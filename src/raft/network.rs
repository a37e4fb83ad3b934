//! The roads that openraft's messages take.
//!
//! Each task of openraft that speaks to a peer has a connection of its own: a heartbeat never
//! waits behind a megabyte of entries, nor behind a snapshot. Whatever goes wrong on the way is
//! "unreachable", after which openraft waits a little before it tries again (never a granted
//! vote).

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    error::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tonic::transport::Channel;

use super::{
    message::{self, MessageKind, Unreadable},
    peers::Peers,
    snapshot::{self, SnapshotImage},
    typ::{Peer, Snapshot, TypeConfig, Vote},
};
use crate::{
    pb::retcd::peer::{RaftRequest, peer_client::PeerClient},
    telemetry::PeerMetrics,
};

/// Makes connections.
pub(crate) struct Network {
    peers: Arc<Peers>,
    /// How long a peer may take to put entries on its disk and answer.
    append_timeout: Duration,
}

impl Network {
    pub(super) fn new(peers: Arc<Peers>, append_timeout: Duration) -> Network {
        Network { peers, append_timeout }
    }
}

/// A connection to one peer.
pub(crate) struct PeerConnection {
    peers: Arc<Peers>,
    target: u64,
    peer: Peer,
    append_timeout: Duration,
    metrics: Arc<PeerMetrics>,
    /// `None` if the peer's URL is none.
    client: Option<PeerClient<Channel>>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerConnection;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> PeerConnection {
        PeerConnection {
            peers: self.peers.clone(),
            target,
            peer: peer.clone(),
            append_timeout: self.append_timeout,
            metrics: self.peers.metrics_of(target),
            client: Peers::connect(peer).ok().map(Peers::client),
        }
    }
}

impl PeerConnection {
    async fn send(
        &mut self,
        kind: MessageKind,
        message: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Unreachable<TypeConfig>> {
        let client = self.client.as_mut().ok_or_else(|| Unreachable::from_string("its peer URL is none"))?;
        let envelope = Some(self.peers.envelope(self.target));
        self.metrics.sent(message.len());
        let request = RaftRequest { envelope, kind: kind.into(), message };
        let answer = self.peers.answer(self.target, &self.peer, patience, client.raft(request)).await;
        let reply = answer.map_err(|error| Unreachable::new(&error))?.message;
        self.metrics.received(reply.len());
        Ok(reply)
    }
}

fn unreadable(error: Unreadable) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<TypeConfig> for PeerConnection {
    type SnapshotData = SnapshotImage;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // A heartbeat is answered from memory. Entries have to get to the disk over there, and
        // giving up on them early would only mean to send them again.
        let patience = if request.entries.is_empty() { option.soft_ttl() } else { self.append_timeout };
        let sent = self.send(MessageKind::Append, message::encode_append(&request), patience).await;
        if sent.is_err() && request.entries.is_empty() {
            self.peers.heartbeat_failed();
        }
        let reply = sent?;
        message::decode_append_reply(reply).map_err(unreadable)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let reply = self.send(MessageKind::Vote, message::encode_vote(&request), option.soft_ttl()).await?;
        message::decode_vote_reply(reply).map_err(unreadable)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let reply =
            self.send(MessageKind::PreVote, message::encode_vote(&request), option.soft_ttl()).await?;
        message::decode_vote_reply(reply).map_err(unreadable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let transfer = self.metrics.sending_snapshot();
        let sent = snapshot::send(&self.peers, self.target, &self.peer, &vote, snapshot, cancel).await;
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
        let reply = self.send(MessageKind::TransferLeader, encoded, option.soft_ttl()).await?;
        if let Err(reason) = message::decode_transfer_reply(reply).map_err(unreadable)? {
            tracing::warn!(target_member = self.target, reason, "leadership was not taken over");
        }
        Ok(Ok(()))
    }
}
