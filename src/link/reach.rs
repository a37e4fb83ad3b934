//! Whether the other members answer: asked while there is no leader, for an operator who has to find
//! out what to do about it.

use std::time::Duration;

use tokio::time;
use tonic::Status;

use super::{
    peer::Peer,
    peers::{PROTOCOL_VERSION, PeerError, Peers},
    reason::reason,
};
use crate::pb::retcd::peer::{HelloRequest, MembersReply, MembersRequest};

/// What somebody outside is told by a member about its cluster.
#[derive(Clone, Debug)]
pub(crate) struct ToldMembers {
    pub(crate) cluster: u64,
    /// Ids and peer URLs.
    pub(crate) members: Vec<(u64, Vec<String>)>,
}

impl Peers {
    /// Whether `target` answers, and takes this member for a member of its cluster.
    pub(crate) async fn greet(&self, target: u64, peer: &Peer, patience: Duration) -> Result<(), PeerError> {
        let mut client = self.channel(target, peer)?;
        let request = HelloRequest { envelope: Some(self.envelope(target)), was_removed: false };
        self.answer(target, peer, patience, client.hello(request)).await.map(drop)
    }

    /// Whether this very member answers at `urls`, as seen from here.
    pub(crate) async fn greet_own(&self, urls: &[String], patience: Duration) -> Result<(), String> {
        let peer = Peer { peer_urls: urls.to_vec(), is_learner: false };
        let mut client = Peers::client(Peers::connect(&peer).map_err(|error| error.to_string())?);
        let request = HelloRequest { envelope: Some(self.envelope(self.own())), was_removed: false };
        answered(patience, client.hello(request)).await.map(drop)
    }

    /// Tells `target` that it was removed from the cluster, so that it looks for itself.
    pub(crate) async fn tell_removed(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
    ) -> Result<(), String> {
        let mut client = Peers::client(Peers::connect(peer).map_err(|error| error.to_string())?);
        let request = HelloRequest { envelope: Some(self.envelope(target)), was_removed: true };
        answered(patience, client.hello(request)).await.map(drop)
    }

    /// Who belongs to the cluster of whoever listens at `urls`.
    pub(crate) async fn ask_members(urls: &[String], patience: Duration) -> Result<ToldMembers, String> {
        let peer = Peer { peer_urls: urls.to_vec(), is_learner: false };
        let mut client = Peers::client(Peers::connect(&peer).map_err(|error| error.to_string())?);
        let request = MembersRequest { version: PROTOCOL_VERSION };
        let MembersReply { cluster, members, .. } = answered(patience, client.members(request)).await?;
        let members = members.into_iter().map(|member| (member.id, member.peer_urls)).collect();
        Ok(ToldMembers { cluster, members })
    }
}

async fn answered<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, String> {
    match time::timeout(patience, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(reason(&status)),
        Err(_) => Err(format!("no answer within {patience:?}")),
    }
}
