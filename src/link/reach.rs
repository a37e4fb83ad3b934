//! Whether the other members answer, and who they say belongs to the cluster.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::{
    calls::{Contacts, HistoryAnswer, KnownCluster, MemberStatus, PROTOCOL_VERSION, PeerError},
    connection::{Call, CallError, Connector, Link},
    peer::Peer,
    peers::Peers,
};
use crate::pb::retcd::peer::{ContactsRequest, HelloRequest, HistoryRequest, MembersRequest, StatusRequest};

/// The cluster of the member that listens at one of `peer`'s URLs.
pub(crate) async fn members_at(
    connector: &dyn Connector,
    peer: &Peer,
    patience: Duration,
) -> Result<KnownCluster, CallError> {
    let request = MembersRequest { version: PROTOCOL_VERSION };
    once(connector.connect(peer), patience, |link| link.members(request)).await.map(KnownCluster::from)
}

/// One call on a connection that is closed afterwards.
async fn once<T>(
    link: Result<Arc<dyn Link>, CallError>,
    patience: Duration,
    call: impl FnOnce(&dyn Link) -> Call<T>,
) -> Result<T, CallError> {
    let link = link?;
    let answered = time::timeout(patience, call(&*link)).await;
    answered.unwrap_or_else(|_| Err(CallError::unusable(format!("no answer within {patience:?}"))))
}

impl Peers {
    /// Whether `target` answers, and considers this member a member of its cluster.
    pub(crate) async fn greet(&self, target: u64, peer: &Peer, patience: Duration) -> Result<(), PeerError> {
        let request = self.hello(target, false);
        self.call(target, peer, patience, |link| link.hello(request)).await.map(drop)
    }

    /// Which of some members answer `target`. With `about`, also which of these that member answers.
    pub(crate) async fn ask_contacts(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        members: Vec<u64>,
        about: Option<u64>,
    ) -> Result<Contacts, PeerError> {
        let request = ContactsRequest { envelope: Some(self.envelope(target)), members, about };
        self.call(target, peer, patience, |link| link.contacts(request)).await.map(Contacts::from)
    }

    /// How `target` is, in its own words.
    pub(crate) async fn ask_status(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
    ) -> Result<MemberStatus, PeerError> {
        let request = StatusRequest { envelope: Some(self.envelope(target)) };
        self.call(target, peer, patience, |link| link.status(request)).await.map(MemberStatus::from)
    }

    /// The history of `target` up to a revision.
    pub(crate) async fn ask_history(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        revision: i64,
    ) -> Result<HistoryAnswer, PeerError> {
        let request = HistoryRequest { envelope: Some(self.envelope(target)), revision };
        let answer = self.call(target, peer, patience, |link| link.history(request)).await?;
        let nothing = || PeerError::new(target, peer, "an answer without content".to_owned(), true);
        Option::<HistoryAnswer>::from(answer).ok_or_else(nothing)
    }

    /// Whether this very member answers at `urls`, as seen from here.
    pub(crate) async fn greet_own(&self, urls: &[String], patience: Duration) -> Result<(), String> {
        let peer = Peer { peer_urls: urls.to_vec(), is_learner: false };
        let request = self.hello(self.own(), false);
        let answered = once(self.connector().connect(&peer), patience, |link| link.hello(request)).await;
        answered.map(drop).map_err(|error| error.reason)
    }

    /// Tells `target` that it was removed from the cluster. It asks back before it believes that.
    pub(crate) async fn tell_removed(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
    ) -> Result<(), String> {
        let request = self.hello(target, true);
        let answered = once(self.reach(target, peer), patience, |link| link.hello(request)).await;
        answered.map(drop).map_err(|error| error.reason)
    }

    /// Who belongs to the cluster of the member that listens at `urls`.
    pub(crate) async fn ask_members(
        &self,
        urls: &[String],
        patience: Duration,
    ) -> Result<KnownCluster, String> {
        let peer = Peer { peer_urls: urls.to_vec(), is_learner: false };
        members_at(self.connector(), &peer, patience).await.map_err(|error| error.reason)
    }

    /// Whether a member listens at one of the URLs of `target`. Nothing is noted about the peer.
    pub(crate) async fn is_there(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
    ) -> Result<(), PeerError> {
        let request = MembersRequest { version: PROTOCOL_VERSION };
        let answered = once(self.reach(target, peer), patience, |link| link.members(request)).await;
        answered.map(drop).map_err(|error| PeerError::new(target, peer, error.reason, error.was_sent))
    }

    /// Looks whether the peer port of a member answers that did not, and has connections go there again.
    pub(super) async fn restore(&self, target: u64, peer: &Peer) {
        let way = self.ways().to(target);
        if !way.is_cut() {
            return;
        }
        let patience = way.silence_max();
        let answered = members_at(self.connector(), peer, patience).await;
        if !answered.is_ok_and(|cluster| self.difference(target, &cluster).is_none()) {
            return;
        }
        way.restore();
        self.reconnect(target);
        // Most calls that are under way in a tunnel have ended then.
        time::sleep(patience).await;
        way.end_tunnels();
    }

    fn hello(&self, target: u64, was_removed: bool) -> HelloRequest {
        HelloRequest { envelope: Some(self.envelope(target)), was_removed }
    }
}
