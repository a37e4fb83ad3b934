//! The other members: what is known of each, and what can be asked of them.
//!
//! ```text
//! raft ---- DedicatedLink: heartbeats, appends ----+
//!                                                  +---- Peers: envelope, deadline, who answers
//! node ---- kept connection: everything else ------+        |
//!                                                        Connector, Link ---- gRPC ---- peer URL
//! ```
//!
//! Every request says who speaks to whom, in which cluster and in which version, and a member refuses
//! a request that is not for it. A call either gets its answer or fails; whether a failed call had an
//! effect is for the caller to find out from the log.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::time;

use super::{
    calls::{
        BaseMismatch, Change, ChangeRefusal, Forwarded, KnownCluster, LeaseAnswer, LeaseQuery, MessageKind,
        PROTOCOL_VERSION, PeerError,
    },
    connection::{Call, CallError, Connector, Link},
    exchange::Exchange,
    peer::Peer,
    piece::Piece,
    way::Ways,
};
use crate::{
    clock, limits,
    pb::retcd::peer::{
        AddMember, ChangeRequest, Envelope, LeaseRequest, MembersRequest, ProposeRequest, RaftKind,
        RaftRequest, SnapshotPiece, UpdateMember, change_request as pb,
    },
    sync::watch,
    telemetry::{Metrics, PeerMetrics},
    types::{Base, MemberId},
};

/// How long a peer that answered before may leave requests unanswered until it counts as inactive.
const SILENCE: Duration = Duration::from_secs(1);

/// A connection, and where it leads.
type Kept = (Peer, Arc<dyn Link>);

pub(crate) struct Peers {
    cluster: u64,
    own: u64,
    base: Option<Base>,
    connector: Arc<dyn Connector>,
    /// Where each member is reached, according to the newest membership in this member's log.
    addresses: watch::Sender<BTreeMap<u64, Peer>>,
    /// How connections to members are made.
    ways: Ways,
    /// The connections that are kept for single calls. The log travels on connections of its own.
    kept: Mutex<BTreeMap<u64, Kept>>,
    /// What is known of each peer that was asked.
    heard: Mutex<BTreeMap<u64, Heard>>,
    metrics: Arc<Metrics>,
    metrics_of: Mutex<BTreeMap<u64, Arc<PeerMetrics>>>,
    removed: watch::Sender<bool>,
}

#[derive(Default)]
struct Heard {
    /// When it last answered; `None` while it is inactive.
    at: Option<Instant>,
    /// Why it is inactive: what was logged of that.
    told: Vec<String>,
}

impl Peers {
    pub(crate) fn new(
        cluster: u64,
        own: u64,
        base: Option<Base>,
        connector: Arc<dyn Connector>,
        election_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Peers {
        Peers {
            cluster,
            own,
            base,
            connector,
            addresses: watch::Sender::new(BTreeMap::new()),
            ways: Ways::new(election_timeout),
            kept: Mutex::default(),
            heard: Mutex::default(),
            metrics,
            metrics_of: Mutex::default(),
            removed: watch::Sender::new(false),
        }
    }

    /// Resolves once a peer has said that this member was removed from the cluster.
    pub(crate) async fn removed(&self) {
        let mut removed = self.removed.subscribe();
        // The sender lives as long as `self`.
        let _ = removed.wait_for(|removed| *removed).await;
    }

    /// What is counted of the traffic with a peer.
    pub(crate) fn metrics_of(&self, peer: u64) -> Arc<PeerMetrics> {
        let mut known = self.metrics_of.lock();
        known.entry(peer).or_insert_with(|| Arc::new(self.metrics.peer(self.own, peer))).clone()
    }

    /// The metrics of all peers that there was traffic with.
    pub(crate) fn all_metrics(&self) -> Vec<(u64, Arc<PeerMetrics>)> {
        self.metrics_of.lock().iter().map(|(&peer, metrics)| (peer, metrics.clone())).collect()
    }

    /// The same for a sender, if it is a member: an id that any message may claim makes no series.
    pub(crate) fn metrics_of_member(&self, id: u64) -> Option<Arc<PeerMetrics>> {
        let is_member = self.addresses.borrow().contains_key(&id);
        is_member.then(|| self.metrics_of(id))
    }

    /// A heartbeat was not answered in time.
    pub(crate) fn heartbeat_failed(&self) {
        self.metrics.heartbeat_failures.inc();
    }

    /// Says who sends a request, and to whom.
    pub(super) fn envelope(&self, target: u64) -> Envelope {
        let base = self.base.map(|base| base.0);
        Envelope { version: PROTOCOL_VERSION, cluster: self.cluster, from: self.own, to: target, base }
    }

    pub(crate) fn own(&self) -> u64 {
        self.own
    }

    pub(super) fn connector(&self) -> &dyn Connector {
        &*self.connector
    }

    /// The members are these now. Connections move to where they are reached.
    pub(crate) fn moved_to(&self, addresses: BTreeMap<u64, Peer>) {
        self.ways.retain(|member| addresses.contains_key(&member));
        self.addresses.send_replace(addresses);
    }

    /// Another member has said who the members are. That counts until this member's own log says it: until then a
    /// member that joins offers its tunnels to these.
    pub(crate) fn introduced_to(&self, others: BTreeMap<u64, Peer>) {
        self.addresses.send_if_modified(|known| {
            let is_news = known.is_empty() && !others.is_empty();
            if is_news {
                known.extend(others.into_iter().take(limits::MEMBERS_INTRODUCED));
            }
            is_news
        });
    }

    /// Where `target` is reached now, if that differs from `known`.
    pub(crate) fn moved_from(&self, target: u64, known: &Peer) -> Option<Peer> {
        self.address(target).filter(|peer| peer.peer_urls != known.peer_urls)
    }

    /// Where a member is reached.
    pub(super) fn address(&self, member: u64) -> Option<Peer> {
        self.addresses.borrow().get(&member).cloned()
    }

    pub(super) fn addresses(&self) -> watch::Receiver<BTreeMap<u64, Peer>> {
        self.addresses.subscribe()
    }

    pub(super) fn ways(&self) -> &Ways {
        &self.ways
    }

    /// A connection to a member.
    pub(super) fn reach(&self, target: u64, peer: &Peer) -> Result<Arc<dyn Link>, CallError> {
        self.connector.reach(self.ways.to(target), peer)
    }

    /// Has the next call make a new connection. Calls that are under way keep theirs.
    pub(super) fn reconnect(&self, target: u64) {
        self.kept.lock().remove(&target);
    }

    /// The answer to a call, or why there is none.
    pub(super) async fn answer<T>(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, PeerError> {
        match time::timeout(patience, call).await {
            Ok(Ok(answer)) => {
                let heard = Heard { at: Some(clock::now()), told: Vec::new() };
                let before = self.heard.lock().insert(target, heard);
                if before.is_none_or(|before| before.at.is_none()) {
                    self.metrics_of(target).found();
                    tracing::info!("peer-id" = format_args!("{target:x}"), "peer became active");
                }
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.failed(target, peer, error)),
            Err(_) => Err(self.silent(target, peer, patience)),
        }
    }

    /// A call got no answer, because of the peer or of the way to it.
    pub(super) fn failed(&self, target: u64, peer: &Peer, error: CallError) -> PeerError {
        if error.says_removed {
            self.removed.send_replace(true);
        }
        let reason = error.reason.clone();
        self.lost(PeerError::new(target, peer, error.reason, error.was_sent), &reason)
    }

    /// A peer has not answered in time.
    pub(super) fn silent(&self, target: u64, peer: &Peer, patience: Duration) -> PeerError {
        let error = PeerError::new(target, peer, format!("no answer within {patience:?}"), true);
        self.lost(error, "no answer")
    }

    /// Logs that a peer has become inactive, and then each further `reason`, once, however often it is asked: whoever
    /// looks for what is wrong is not to find what was wrong at first. A peer that answered within the last second is
    /// only late.
    fn lost(&self, error: PeerError, reason: &str) -> PeerError {
        let metrics = self.metrics_of(error.target);
        metrics.send_failed();
        let mut heard = self.heard.lock();
        let peer = heard.entry(error.target).or_default();
        if let Some(at) = peer.at {
            if error.was_sent && clock::since(at) < SILENCE {
                return error;
            }
            metrics.lost();
            *peer = Heard::default();
        }
        let is_news = !peer.told.iter().any(|told| told == reason);
        if is_news && peer.told.len() < limits::PEER_REASONS_TOLD {
            let id = format_args!("{:x}", error.target);
            match peer.told.is_empty() {
                true => {
                    tracing::warn!("peer-id" = id, %error, "peer became inactive (message send to peer failed)")
                }
                false => tracing::warn!("peer-id" = id, %error, "peer is still inactive, for another reason"),
            }
            peer.told.push(reason.to_owned());
        }
        error
    }

    /// A call on the connection that is kept to a peer.
    pub(super) async fn call<T>(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        call: impl FnOnce(&dyn Link) -> Call<T>,
    ) -> Result<T, PeerError> {
        let link = self.kept(target, peer)?;
        self.answer(target, peer, patience, call(&*link)).await
    }

    pub(super) fn kept(&self, target: u64, peer: &Peer) -> Result<Arc<dyn Link>, PeerError> {
        let mut kept = self.kept.lock();
        if let Some((known, link)) = kept.get(&target)
            && known == peer
        {
            return Ok(link.clone());
        }
        let link = self.reach(target, peer);
        let link = link.map_err(|error| PeerError::new(target, peer, error.reason, error.was_sent))?;
        kept.insert(target, (peer.clone(), link.clone()));
        Ok(link)
    }

    /// A message of consensus, on the connection that is kept to the peer. Whoever asks for votes has
    /// just been created for that, and a new connection would delay the election.
    pub(crate) async fn raft(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        (kind, message): (MessageKind, Bytes),
    ) -> Result<Bytes, PeerError> {
        let metrics = self.metrics_of(target);
        metrics.sent(message.len());
        let link = self.kept(target, peer)?;
        let mut exchange = Exchange::default();
        let reply = exchange.ask(
            self.envelope(target),
            |envelope| RaftRequest { envelope, kind: RaftKind::from(kind).into(), message: message.clone() },
            |messages| link.raft(messages),
        );
        let reply = self.answer(target, peer, patience, reply).await?.message;
        metrics.received(reply.len());
        Ok(reply)
    }

    /// Sends a snapshot, on a connection of its own that lives on the caller's runtime. The answer is
    /// consensus's.
    pub(crate) async fn snapshot(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        header: Bytes,
        pieces: impl Stream<Item = Piece> + Send + 'static,
    ) -> Result<Bytes, PeerError> {
        let envelope = Some(self.envelope(target));
        let header = SnapshotPiece { envelope, message: header, ..SnapshotPiece::default() };
        let pieces = stream::once(async { header }).chain(pieces.map(SnapshotPiece::from));
        let link = self.reach(target, peer);
        let link = link.map_err(|error| PeerError::new(target, peer, error.reason, error.was_sent))?;
        let answer = link.snapshot(pieces.boxed());
        Ok(self.answer(target, peer, patience, answer).await?.message)
    }

    /// Asks the leader of `term` to put an encoded batch into the log.
    pub(crate) async fn propose(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        (term, serial, batch): (u64, u64, Bytes),
    ) -> Result<Forwarded, PeerError> {
        self.metrics_of(target).sent(batch.len());
        let request = ProposeRequest { envelope: Some(self.envelope(target)), term, serial, batch };
        let reply = self.call(target, peer, patience, |link| link.propose(request)).await?;
        Ok(reply.result().into())
    }

    pub(crate) async fn lease(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        query: LeaseQuery,
    ) -> Result<LeaseAnswer, PeerError> {
        let LeaseQuery { id, renew, caller } = query;
        let request = LeaseRequest { envelope: Some(self.envelope(target)), id, renew, caller };
        let reply = self.call(target, peer, patience, |link| link.lease(request)).await?;
        Ok(match reply.found {
            _ if reply.not_leader => LeaseAnswer::NotLeader,
            _ if reply.denied => LeaseAnswer::Denied,
            false => LeaseAnswer::NotFound,
            true => LeaseAnswer::Found {
                granted_secs: reply.granted_secs,
                remaining_secs: reply.remaining_secs,
                applied: reply.applied,
            },
        })
    }

    /// Asks the leader for a change, on behalf of an encoded caller. The answer is how far the log
    /// reaches with the change.
    pub(crate) async fn change(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        (caller, change): (Bytes, Change),
    ) -> Result<Result<u64, ChangeRefusal>, PeerError> {
        let change = match change {
            Change::Add { id, peer_urls, is_learner } => {
                pb::Change::Add(AddMember { id, peer_urls, is_learner })
            }
            Change::Remove { id } => pb::Change::Remove(id),
            Change::Update { id, peer_urls } => pb::Change::Update(UpdateMember { id, peer_urls }),
            Change::Promote { id } => pb::Change::Promote(id),
        };
        let request = ChangeRequest { envelope: Some(self.envelope(target)), change: Some(change), caller };
        let reply = self.call(target, peer, patience, |link| link.change(request)).await?;
        Ok(match ChangeRefusal::of_code(reply.result()) {
            Some(refusal) => Err(refusal),
            None => Ok(reply.index),
        })
    }

    /// Asks a peer whether it is there. How long that takes is a metric, and whether the peer is active
    /// is known afterwards, even if nothing else is asked of it. Returns whether the disk of the peer is
    /// full.
    pub(crate) async fn probe(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
    ) -> Result<bool, PeerError> {
        self.restore(target, peer).await;
        let link = self.kept(target, peer)?;
        let start = clock::now();
        let request = MembersRequest { version: PROTOCOL_VERSION };
        let asked = async {
            let cluster: KnownCluster = link.members(request).await?.into();
            // A process answers there, and this member cannot work with it.
            self.difference(target, &cluster)
                .map_or(Ok(cluster.is_disk_full), |difference| Err(CallError::unusable(difference)))
        };
        let is_disk_full = self.answer(target, peer, patience, asked).await?;
        self.metrics_of(target).observe_round_trip(clock::since(start));
        Ok(is_disk_full)
    }

    /// What keeps this member from working with `target`, according to the answer of `target`.
    pub(super) fn difference(&self, target: u64, theirs: &KnownCluster) -> Option<String> {
        if theirs.id != self.cluster {
            return Some(format!(
                "cluster ID mismatch: member {target:x} is of cluster {:x}, this member is of cluster {:x}",
                theirs.id, self.cluster
            ));
        }
        let (own, ours, theirs) = (MemberId(self.own), self.base?, theirs.base?);
        BaseMismatch::between((own, ours), (MemberId(target), theirs)).map(|mismatch| mismatch.to_string())
    }
}
