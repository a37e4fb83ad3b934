//! The questions of this member's readers to the leader.

use std::{sync::Arc, time::Duration};

use super::{calls::PeerError, exchange::Exchange, peer::Peer, peers::Peers};
use crate::pb::retcd::peer::{ReadIndexReply, ReadIndexRequest};

/// Asks the leader how far the log has to be applied to read what is current.
pub(crate) struct ReadIndexes {
    peers: Arc<Peers>,
    /// Who is asked on the stream that is kept.
    asked: Option<(u64, Peer)>,
    exchange: Exchange<ReadIndexRequest, ReadIndexReply>,
}

impl ReadIndexes {
    pub(crate) fn new(peers: Arc<Peers>) -> ReadIndexes {
        ReadIndexes { peers, asked: None, exchange: Exchange::default() }
    }

    /// Nothing is asked for a while: the stream is ended.
    pub(crate) fn rest(&mut self) {
        self.exchange.end();
    }

    /// `None` if `target` does not lead, or does not know whether it does. `followed_term` is the term in which this member
    /// follows `target`.
    pub(crate) async fn ask(
        &mut self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        followed_term: Option<u64>,
    ) -> Result<Option<u64>, PeerError> {
        if self.asked.as_ref().is_none_or(|(asked, at)| (*asked, at) != (target, peer)) {
            self.exchange.end();
            self.asked = Some((target, peer.clone()));
        }
        let link = self.peers.kept(target, peer)?;
        let reply = self.exchange.ask(
            self.peers.envelope(target),
            |envelope| ReadIndexRequest { envelope, followed_term },
            |questions| link.read_index(questions),
        );
        Ok(self.peers.answer(target, peer, patience, reply).await?.index)
    }
}
