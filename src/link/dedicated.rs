//! A connection to one peer that one task has to itself.
//!
//! A heartbeat never waits behind a megabyte of entries, because each task of consensus that sends
//! many messages to a peer has a connection of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    appends::Appends, calls::PeerError, connection::Link, exchange::Exchange, peer::Peer, peers::Peers,
};
use crate::{
    pb::retcd::peer::{RaftKind, RaftReply, RaftRequest},
    telemetry::PeerMetrics,
};

pub(crate) struct DedicatedLink {
    peers: Arc<Peers>,
    target: u64,
    peer: Peer,
    metrics: Arc<PeerMetrics>,
    /// `None` if none of the peer's URLs can be connected to.
    link: Option<Arc<dyn Link>>,
    heartbeats: Exchange<RaftRequest, RaftReply>,
}

impl DedicatedLink {
    pub(crate) fn new(peers: Arc<Peers>, target: u64, peer: &Peer) -> DedicatedLink {
        let link = peers.reach(target, peer).ok();
        let metrics = peers.metrics_of(target);
        let heartbeats = Exchange::default();
        DedicatedLink { peers, target, peer: peer.clone(), metrics, link, heartbeats }
    }

    pub(crate) fn target(&self) -> u64 {
        self.target
    }

    /// Where the peer is reached now.
    pub(crate) fn peer(&self) -> Peer {
        self.peers.moved_from(self.target, &self.peer).unwrap_or_else(|| self.peer.clone())
    }

    /// The connection to where the peer is reached now, which may have changed since it was made.
    fn link(&mut self) -> Result<Arc<dyn Link>, PeerError> {
        if let Some(moved) = self.peers.moved_from(self.target, &self.peer) {
            self.link = self.peers.reach(self.target, &moved).ok();
            self.peer = moved;
            self.heartbeats.end();
        }
        self.link.clone().ok_or_else(|| {
            let reason = "the member has no valid peer URL".to_owned();
            PeerError::new(self.target, &self.peer, reason, false)
        })
    }

    /// An append that is answered before the next one is sent, and the answer to it.
    pub(crate) async fn append_one(
        &mut self,
        message: Bytes,
        patience: Duration,
    ) -> Result<Bytes, PeerError> {
        let link = self.link()?;
        self.metrics.sent(message.len());
        let reply = self.heartbeats.ask(
            self.peers.envelope(self.target),
            |envelope| RaftRequest { envelope, kind: RaftKind::Append.into(), message: message.clone() },
            |messages| link.raft(messages),
        );
        let reply = self.peers.answer(self.target, &self.peer, patience, reply).await?.message;
        self.metrics.received(reply.len());
        Ok(reply)
    }

    /// Begins a stream of appends with its first message, which the peer has accepted when this returns.
    /// `patience` is how long a small message may go without its answer.
    pub(crate) async fn append(&mut self, first: Bytes, patience: Duration) -> Result<Appends, PeerError> {
        let link = self.link()?;
        Appends::open(self.peers.clone(), self.target, &self.peer, &*link, first, patience).await
    }
}
