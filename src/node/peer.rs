//! What peers ask of this member.

use std::{
    collections::{BTreeMap, BTreeSet},
    future, mem,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time;

use super::{Node, boot::Identity};
use crate::{
    apply::codec,
    clock, limits,
    link::{
        BaseMismatch, Change, ChangeRefusal, Forwarded, KnownCluster, KnownMember, LeaseAnswer, LeaseQuery,
        MemberStatus, MessageKind, PROTOCOL_VERSION, Piece, REMOVED,
    },
    raft::{Consensus, Implausible, MessageError, NotProposed, Vouch},
    telemetry::PeerMetrics,
    types::{Base, Caller, ClusterId, MemberId},
};

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) version: u32,
    pub(crate) cluster: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// What the sender's log began behind, if it knows that.
    pub(crate) base: Option<u64>,
}

/// Why a request of a peer is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum PeerRefusal {
    #[error("peer protocol mismatch: the request uses version {theirs}, this member uses version {ours}")]
    Version { ours: u32, theirs: u32 },
    #[error("cluster ID mismatch: the request is of cluster {theirs}, this member is of cluster {ours}")]
    Cluster { ours: ClusterId, theirs: ClusterId },
    #[error("member ID mismatch: the request is for member {theirs}, this is member {ours}")]
    Member { ours: MemberId, theirs: MemberId },
    #[error(transparent)]
    Base(#[from] BaseMismatch),
    #[error("member {0} is unknown: the members of this cluster are others, and one of them leads")]
    Unknown(MemberId),
    #[error("a message that no member can have sent: {0}")]
    Implausible(#[from] Implausible),
    /// In these words, because the sender recognises them.
    #[error("{REMOVED}")]
    Removed,
    #[error("{0}")]
    Failed(String),
}

impl PeerRefusal {
    /// Whether a log line about `other` says what one about this says. What is implausible may differ with
    /// every message of a sender.
    fn is_like(&self, other: &PeerRefusal) -> bool {
        match (self, other) {
            (PeerRefusal::Implausible(this), PeerRefusal::Implausible(other)) => {
                mem::discriminant(this) == mem::discriminant(other)
            }
            (this, other) => this == other,
        }
    }
}

impl From<MessageError> for PeerRefusal {
    fn from(error: MessageError) -> PeerRefusal {
        match error {
            MessageError::Implausible(lie) => PeerRefusal::Implausible(lie),
            error => PeerRefusal::Failed(error.to_string()),
        }
    }
}

/// How long a refusal stands for the next ones of the same kind.
const REFUSAL_REPEAT: Duration = Duration::from_secs(10);

/// What each sender was last refused for, and when that was logged. A peer that is refused tries again at
/// once, as long as it runs.
#[derive(Debug, Default)]
pub(super) struct ToldRefusals(Mutex<BTreeMap<u64, (PeerRefusal, Instant)>>);

impl ToldRefusals {
    /// Whether the refusal is to be logged now.
    fn is_news(&self, from: u64, refusal: &PeerRefusal, now: Instant) -> bool {
        let mut told = self.0.lock();
        if told.get(&from).is_some_and(|(known, at)| known.is_like(refusal) && now < *at + REFUSAL_REPEAT) {
            return false;
        }
        if told.len() >= limits::REFUSED_PEERS {
            told.retain(|_, (_, at)| now < *at + REFUSAL_REPEAT);
        }
        if told.len() >= limits::REFUSED_PEERS && !told.contains_key(&from) {
            return false;
        }
        told.insert(from, (refusal.clone(), now));
        assert!(told.len() <= limits::REFUSED_PEERS, "no more senders of refused requests are remembered");
        true
    }
}

/// The members that are being asked back whether this member was removed: each only once at a time, however
/// often that is said in its name.
#[derive(Clone, Debug, Default)]
pub(super) struct AskingBack(Arc<Mutex<BTreeSet<u64>>>);

impl AskingBack {
    /// `None` if the member is being asked. The member counts as asked until what is returned is dropped.
    fn begin(&self, member: u64) -> Option<Asking> {
        self.0.lock().insert(member).then(|| Asking { all: self.clone(), member })
    }
}

struct Asking {
    all: AskingBack,
    member: u64,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.member);
    }
}

/// What is counted of a sender's messages, and said of those that are refused.
struct Traffic {
    node: Node,
    from: u64,
    /// Looked for again until the sender is known: a member that has just joined learns of the members
    /// from the leader's first messages.
    metrics: OnceLock<Arc<PeerMetrics>>,
}

impl Traffic {
    fn with(node: &Node, from: u64) -> Traffic {
        Traffic { node: node.clone(), from, metrics: OnceLock::new() }
    }

    fn metrics(&self) -> Option<&PeerMetrics> {
        if self.metrics.get().is_none()
            && let Some(metrics) = self.node.shared.peers.metrics_of_member(self.from)
        {
            return Some(self.metrics.get_or_init(|| metrics));
        }
        self.metrics.get().map(|metrics| &**metrics)
    }

    fn received(&self, message: &Bytes) {
        if let Some(metrics) = self.metrics() {
            metrics.received(message.len());
        }
    }

    fn answered(&self, answer: Result<Bytes, MessageError>) -> Result<Bytes, PeerRefusal> {
        match answer {
            Ok(reply) => {
                if let Some(metrics) = self.metrics() {
                    metrics.sent(reply.len());
                }
                Ok(reply)
            }
            Err(error) => {
                if let Some(metrics) = self.metrics() {
                    metrics.receive_failed();
                }
                let refusal = PeerRefusal::from(error);
                if let PeerRefusal::Implausible(_) = refusal {
                    self.node.tell_refusal(self.from, &refusal);
                }
                Err(refusal)
            }
        }
    }
}

impl Node {
    /// Logs a refusal, unless the same was logged for this sender within the last seconds.
    pub(crate) fn tell_refusal(&self, from: u64, refusal: &PeerRefusal) {
        if self.shared.told_refusals.is_news(from, refusal, clock::now()) {
            tracing::warn!(from = %MemberId(from), %refusal, "refused a request of a peer");
        }
    }

    /// Whether a request is for this member, from a member of its cluster.
    pub(crate) fn check_envelope(&self, envelope: Envelope) -> Result<(), PeerRefusal> {
        let (cluster, own) = self.ids();
        if envelope.version != PROTOCOL_VERSION {
            return Err(PeerRefusal::Version { ours: PROTOCOL_VERSION, theirs: envelope.version });
        }
        if envelope.cluster != cluster.0 {
            return Err(PeerRefusal::Cluster { ours: cluster, theirs: ClusterId(envelope.cluster) });
        }
        if envelope.to != own.0 {
            return Err(PeerRefusal::Member { ours: own, theirs: MemberId(envelope.to) });
        }
        self.refuse_removed(envelope.from)?;
        if !self.listens_to(envelope.from) {
            return Err(PeerRefusal::Unknown(MemberId(envelope.from)));
        }
        // A member that does not know its base was made by a version that did not record it.
        if let (Some(ours), Some(theirs)) = (self.shared.identity.base, envelope.base.map(Base))
            && let Some(mismatch) = BaseMismatch::between((own, ours), (MemberId(envelope.from), theirs))
        {
            return Err(mismatch.into());
        }
        Ok(())
    }

    /// Whether `sender` may speak to this member: it is in the membership that was applied last, or in the
    /// newest one of the log, which differ while a change is under way. A member that hears no leader
    /// listens to every sender of its cluster, and a member whose leader is unknown to it listens to that
    /// leader: while it was away, or before it joined, the members may have been replaced, and it learns of
    /// that from nobody else.
    fn listens_to(&self, sender: u64) -> bool {
        let (_, own) = self.ids();
        sender == own.0
            || self.shared.replica.read().peers().any(|(id, _)| id == sender)
            || self.leadership().leader.is_none_or(|leader| leader == sender)
            || self.shared.consensus.peer(sender).is_some()
    }

    fn was_removed(&self, member: u64) -> bool {
        self.shared.replica.read().state.members.is_removed(MemberId(member))
    }

    fn refuse_removed(&self, member: u64) -> Result<(), PeerRefusal> {
        if self.was_removed(member) { Err(PeerRefusal::Removed) } else { Ok(()) }
    }

    pub(crate) async fn peer_message(
        &self,
        from: u64,
        kind: MessageKind,
        message: Bytes,
    ) -> Result<Bytes, PeerRefusal> {
        self.refuse_removed(from)?;
        let traffic = Traffic::with(self, from);
        traffic.received(&message);
        let answer = self.shared.consensus.handle(from, kind, message).await;
        traffic.answered(answer)
    }

    /// Takes the log from a leader, until the leader is removed from the cluster. Answers come in the order of
    /// the messages.
    pub(crate) fn peer_append<S>(
        &self,
        from: u64,
        messages: S,
    ) -> impl Stream<Item = Result<Bytes, PeerRefusal>> + Send + use<S>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let (node, node_at_end) = (self.clone(), self.clone());
        let (arriving, leaving) = (Traffic::with(self, from), Traffic::with(self, from));
        let messages = messages.inspect(move |message| arriving.received(message));
        let messages = messages.take_while(move |_| future::ready(!node.was_removed(from)));
        let answers = self.shared.consensus.append(from, messages);
        let answers = answers.map(move |answer| leaving.answered(answer));
        let refusal = stream::once(async move { node_at_end.was_removed(from) })
            .filter_map(|removed| future::ready(removed.then_some(Err(PeerRefusal::Removed))));
        answers.chain(refusal)
    }

    /// Takes a tunnel that a member has opened. Returns what is sent to the member.
    pub(crate) fn peer_tunnel<S>(
        &self,
        from: u64,
        data: S,
    ) -> Result<impl Stream<Item = Bytes> + Send + use<S>, PeerRefusal>
    where
        S: Stream<Item = Option<Bytes>> + Send + 'static,
    {
        if self.shared.consensus.peer(from).is_none() {
            return Err(PeerRefusal::Failed("the sender is not a member that is known here".to_owned()));
        }
        Ok(self.shared.peers.take_tunnel(from, data))
    }

    pub(crate) async fn peer_snapshot(
        &self,
        from: u64,
        header: Bytes,
        pieces: impl Stream<Item = Result<Piece, String>> + Unpin,
    ) -> Result<Bytes, PeerRefusal> {
        let metrics = self.shared.peers.metrics_of_member(from);
        let transfer = metrics.map(|metrics| metrics.receiving_snapshot());
        let received = self.shared.consensus.receive_snapshot(from, header, pieces).await;
        if received.is_ok()
            && let Some(transfer) = transfer
        {
            transfer.arrived();
        }
        Traffic::with(self, from).answered(received)
    }

    pub(crate) async fn peer_propose(
        &self,
        from: u64,
        term: u64,
        serial: u64,
        batch: Bytes,
    ) -> Result<Forwarded, PeerRefusal> {
        let traffic = Traffic::with(self, from);
        traffic.received(&batch);
        if self.is_full_without_successor() && Consensus::adds_data(batch.clone()) {
            return Ok(Forwarded::NoSpace);
        }
        let proposed = self.shared.consensus.propose_encoded(term, batch, (from, serial));
        // The member that asked gives up after the same time.
        let Ok(proposed) = time::timeout(self.request_timeout(), proposed).await else {
            return Ok(Forwarded::Unknown);
        };
        match proposed? {
            Ok(()) => Ok(Forwarded::Applied),
            Err(NotProposed::NotLeader) => Ok(Forwarded::NotLeader),
            Err(NotProposed::Unknown | NotProposed::Stopped) => Ok(Forwarded::Unknown),
        }
    }

    /// The member `from` follows this one as the leader of `followed_term`, if that is given.
    pub(crate) async fn peer_read_index(
        &self,
        from: u64,
        followed_term: Option<u64>,
    ) -> Result<Option<u64>, PeerRefusal> {
        self.refuse_removed(from)?;
        let vouch = followed_term.map(|term| Vouch { member: from, term });
        Ok(self.shared.consensus.read_index(vouch).await.map(|point| point.index))
    }

    pub(crate) async fn peer_lease(&self, query: LeaseQuery) -> Result<LeaseAnswer, PeerRefusal> {
        let caller = decode_caller(query.caller.clone())?;
        Ok(self.lease_as_leader(&caller, &query).await)
    }

    /// A peer says that this member was removed. That is for those to say who are known to be members:
    /// the peer is asked back at its own address, and an answer to that is believed.
    pub(crate) fn peer_removed(&self, from: u64) {
        let Some(peer) = self.shared.consensus.peer(from) else { return };
        let node = self.clone();
        let Some(asking) = self.shared.asking_back.begin(from) else { return };
        tokio::spawn(async move {
            let _asking = asking;
            let patience = node.config().election_timeout;
            // `Peers` notes it if the answer says that this member was removed.
            let _ = node.shared.peers.greet(from, &peer, patience).await;
        });
    }

    /// On behalf of an encoded caller.
    pub(crate) async fn peer_change(
        &self,
        caller: Bytes,
        change: Change,
    ) -> Result<Result<u64, ChangeRefusal>, PeerRefusal> {
        let caller = decode_caller(caller)?;
        Ok(self.change_as_leader(&caller, change).await)
    }

    /// How this member is, for a member that shows the whole cluster to people.
    pub(crate) fn peer_status(&self) -> MemberStatus {
        self.own_status()
    }

    /// The cluster and its members, for a process that is not a member yet.
    pub(crate) fn peer_cluster(&self) -> KnownCluster {
        // First, so that the members are of this index or a later one.
        let applied_index = self.shared.replica.read().applied_index();
        let members = self.members().into_iter().map(|member| KnownMember {
            id: member.id.0,
            is_started: !member.name.is_empty(),
            peer_urls: member.peer_urls,
        });
        let Identity { cluster, base, .. } = self.shared.identity;
        let is_disk_full = self.shared.space.is_full();
        let members = members.collect();
        KnownCluster { id: cluster.0, base, members, is_disk_full, applied_index }
    }
}

/// Who asked the peer. A caller that cannot be decoded is refused and never taken for `Nobody`.
fn decode_caller(bytes: Bytes) -> Result<Caller, PeerRefusal> {
    codec::decode_caller(bytes).map_err(|error| PeerRefusal::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_asked_back_once_at_a_time() {
        let asking = AskingBack::default();
        let first = asking.begin(1).expect("nobody is being asked");
        assert!(asking.begin(1).is_none());
        assert!(asking.begin(2).is_some(), "another member is asked in the meantime");
        drop(first);
        assert!(asking.begin(1).is_some());
    }

    #[test]
    fn a_refusal_is_told_once_in_a_while() {
        let told = ToldRefusals::default();
        let now = Instant::now();
        let version = |theirs| PeerRefusal::Version { ours: 1, theirs };
        assert!(told.is_news(1, &version(2), now));
        assert!(!told.is_news(1, &version(2), now));
        assert!(told.is_news(1, &version(3), now), "another reason is news");
        let term = |term| PeerRefusal::Implausible(Implausible::Term { term, ours: 1 });
        assert!(told.is_news(3, &term(u64::MAX), now));
        assert!(!told.is_news(3, &term(u64::MAX - 1), now), "the number is the sender's to choose");
        assert!(told.is_news(2, &version(3), now), "and so is another peer");
        assert!(told.is_news(1, &version(3), now + REFUSAL_REPEAT));
        let strangers = (100..100 + 2 * limits::REFUSED_PEERS as u64)
            .filter(|from| told.is_news(*from, &version(2), now));
        assert_eq!(strangers.count() + 3, limits::REFUSED_PEERS, "no more are remembered, nor told");
        assert!(told.is_news(1, &version(4), now + REFUSAL_REPEAT), "a known one still is");
        assert!(told.is_news(99, &version(2), now + 3 * REFUSAL_REPEAT), "there is room again");
    }
}
