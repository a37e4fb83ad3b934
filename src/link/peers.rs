//! The other members, and what can be asked of them.
//!
//! ```text
//! openraft ---- PeerConnection (network.rs) ----+
//!                                               +---- envelope, deadline ---- tonic ---- peer URL
//! node -------- Peers (this handle) ------------+
//! ```
//!
//! Every request says who speaks to whom, in which cluster and in which version; whoever it does
//! not concern refuses it. A call either gets its answer or fails: whether a failed call had an
//! effect is for the caller to find out from the log.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{sync::watch, time};
use tonic::{
    Code, Status,
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};

use super::{peer::Peer, reason::reason};
use crate::{
    clock, limits,
    pb::retcd::peer::{
        AddMember, ChangeRequest, Changed, Envelope, LeaseRequest, MembersReply, MembersRequest,
        ProposeReply, ProposeRequest, Proposed, ReadIndexRequest, UpdateMember, change_request as pb,
        peer_client::PeerClient,
    },
    sockets::Dialer,
    telemetry::{Metrics, PeerMetrics},
    types::{Base, MemberId},
};

/// Of the protocol between members.
pub(crate) const PROTOCOL_VERSION: u32 = 2;

/// How a member is told that it does not belong to the cluster any more.
pub(crate) const REMOVED: &str = "the member has been permanently removed from the cluster";

/// A connection that has been silent for this long is asked whether it is there, and given up
/// when it does not answer for as long again.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// A peer that has not answered anything for so long, though it was asked, is lost.
const SILENCE: Duration = Duration::from_secs(1);

/// Two members of one cluster whose logs began behind different states.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "restored data mismatch: member {other} began with {theirs}, and member {own} began with {ours}; restore the same \
     snapshot for all founding members, or remove the member with the wrong data, empty its data directory and add it again"
)]
pub(crate) struct BaseMismatch {
    own: MemberId,
    ours: Base,
    other: MemberId,
    theirs: Base,
}

impl BaseMismatch {
    pub(crate) fn between(
        (own, ours): (MemberId, Base),
        (other, theirs): (MemberId, Base),
    ) -> Option<BaseMismatch> {
        (ours != theirs).then_some(BaseMismatch { own, ours, other, theirs })
    }
}

/// A peer could not be asked, or did not answer in time.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("member {target:x} at {url}: {reason}")]
pub(crate) struct PeerError {
    target: u64,
    url: String,
    reason: String,
    /// Whether the peer may have got the request.
    pub(crate) was_sent: bool,
}

impl PeerError {
    fn new(target: u64, peer: &Peer, reason: String, was_sent: bool) -> PeerError {
        PeerError { target, url: peer.to_string(), reason, was_sent }
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

/// What came of a batch that the leader was asked to put into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// It was applied there, and will be here.
    Applied,
    /// It was not put into the log, and will not be.
    NotLeader,
    Unknown,
}

/// A client's question about a lease, or its wish to keep it.
#[derive(Clone, Debug)]
pub(crate) struct LeaseQuery {
    pub(crate) id: i64,
    pub(crate) renew: bool,
    /// Who asks, encoded.
    pub(crate) caller: Bytes,
}

/// What the leader says about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaseAnswer {
    /// Ask somebody else.
    NotLeader,
    /// The caller may not ask that.
    Denied,
    NotFound,
    Found {
        granted_secs: i64,
        remaining_secs: i64,
        /// How far the leader had applied the log.
        applied: u64,
    },
}

/// A change of who belongs to the cluster, as an operator asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add { id: u64, peer_urls: Vec<String>, is_learner: bool },
    Remove { id: u64 },
    Update { id: u64, peer_urls: Vec<String> },
    Promote { id: u64 },
}

/// Why the members stay who they are.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ChangeRefusal {
    #[error("not leader")]
    NotLeader,
    #[error("member not found")]
    NotFound,
    #[error("member ID already exist")]
    Exists,
    #[error("peer URLs already exist")]
    UrlExists,
    #[error("too many learner members in cluster")]
    TooManyLearners,
    #[error("not enough started members")]
    NotEnoughStarted,
    #[error("unhealthy cluster")]
    Unhealthy,
    #[error("can only promote a learner member")]
    NotLearner,
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    #[error("the peer URLs of all members are too long together")]
    TooManyUrls,
    #[error("permission denied")]
    Denied,
}

impl ChangeRefusal {
    /// As it travels between members.
    const CODES: [(ChangeRefusal, Changed); 11] = [
        (ChangeRefusal::NotLeader, Changed::ChangeNotLeader),
        (ChangeRefusal::NotFound, Changed::MemberNotFound),
        (ChangeRefusal::Exists, Changed::MemberExists),
        (ChangeRefusal::UrlExists, Changed::PeerUrlExists),
        (ChangeRefusal::TooManyLearners, Changed::TooManyLearners),
        (ChangeRefusal::NotEnoughStarted, Changed::NotEnoughStarted),
        (ChangeRefusal::Unhealthy, Changed::Unhealthy),
        (ChangeRefusal::NotLearner, Changed::NotLearner),
        (ChangeRefusal::LearnerNotReady, Changed::LearnerNotReady),
        (ChangeRefusal::TooManyUrls, Changed::TooManyUrls),
        (ChangeRefusal::Denied, Changed::ChangeDenied),
    ];

    pub(crate) fn code(self) -> i32 {
        let code = Self::CODES.iter().find(|(refusal, _)| *refusal == self);
        code.expect("every refusal is in the list").1.into()
    }

    fn of_code(code: Changed) -> Option<ChangeRefusal> {
        Self::CODES.iter().find(|(_, known)| *known == code).map(|(refusal, _)| *refusal)
    }
}

/// A member, as somebody outside of the cluster is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownMember {
    pub(crate) id: u64,
    pub(crate) peer_urls: Vec<String>,
    /// It has been part of the cluster with a data directory.
    pub(crate) is_started: bool,
}

/// A cluster, as one of its members tells it to somebody outside.
#[derive(Clone, Debug)]
pub(crate) struct KnownCluster {
    pub(crate) id: u64,
    /// What its log began behind, if that member knows it.
    pub(crate) base: Option<Base>,
    pub(crate) members: Vec<KnownMember>,
}

pub(crate) struct Peers {
    cluster: u64,
    own: u64,
    base: Option<Base>,
    /// Where each is reached, as the newest membership has it that this member knows of.
    addresses: Mutex<BTreeMap<u64, Peer>>,
    /// For what clients ask: not the connections that the log travels on.
    channels: Mutex<BTreeMap<u64, (Peer, Channel)>>,
    /// When each peer that was asked last answered; `None` while it is lost.
    heard: Mutex<BTreeMap<u64, Option<Instant>>>,
    metrics: Arc<Metrics>,
    metrics_of: Mutex<BTreeMap<u64, Arc<PeerMetrics>>>,
    removed: watch::Sender<bool>,
}

impl Peers {
    pub(crate) fn new(cluster: u64, own: u64, base: Option<Base>, metrics: Arc<Metrics>) -> Peers {
        Peers {
            cluster,
            own,
            base,
            addresses: Mutex::default(),
            channels: Mutex::default(),
            heard: Mutex::default(),
            metrics,
            metrics_of: Mutex::default(),
            removed: watch::Sender::new(false),
        }
    }

    /// Resolves once a peer has said that this member was removed from the cluster.
    pub(crate) async fn removed(&self) {
        let mut removed = self.removed.subscribe();
        // The sender is in here.
        let _ = removed.wait_for(|removed| *removed).await;
    }

    /// What is counted of the traffic with a peer.
    pub(crate) fn metrics_of(&self, peer: u64) -> Arc<PeerMetrics> {
        let mut known = self.metrics_of.lock();
        known.entry(peer).or_insert_with(|| Arc::new(self.metrics.peer(self.own, peer))).clone()
    }

    /// A heartbeat was not answered in time.
    pub(crate) fn heartbeat_failed(&self) {
        self.metrics.heartbeat_failures.inc();
    }

    /// Who `target` is to be told is speaking.
    pub(crate) fn envelope(&self, target: u64) -> Envelope {
        let base = self.base.map(|base| base.0);
        Envelope { version: PROTOCOL_VERSION, cluster: self.cluster, from: self.own, to: target, base }
    }

    pub(crate) fn own(&self) -> u64 {
        self.own
    }

    /// The members are these now. Connections move to where they are reached.
    pub(crate) fn moved_to(&self, addresses: BTreeMap<u64, Peer>) {
        *self.addresses.lock() = addresses;
    }

    /// Where `target` is reached now, if that is not as in `known`.
    pub(crate) fn moved_from(&self, target: u64, known: &Peer) -> Option<Peer> {
        self.addresses.lock().get(&target).filter(|peer| peer.peer_urls != known.peer_urls).cloned()
    }

    /// A connection that is made when it is first used, and again after it broke, to whichever of
    /// the peer's URLs is the first to accept it.
    pub(crate) fn connect(peer: &Peer) -> Result<Channel, tonic::transport::Error> {
        let dialer = Dialer::new(&peer.peer_urls);
        let endpoint = Endpoint::from_shared(format!("http://{}", dialer.authority()))?;
        let connector = tower::service_fn(move |_: Uri| {
            let dialer = dialer.clone();
            async move { dialer.dial().await.map(TokioIo::new) }
        });
        Ok(endpoint
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(limits::HEADER_LIST_BYTES)
            // An answer to a call that was given up is one of these, and the count never ends.
            .http2_max_local_error_reset_streams(None)
            .connect_with_connector_lazy(connector))
    }

    pub(crate) fn client(channel: Channel) -> PeerClient<Channel> {
        PeerClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
    }

    /// The answer to a call, or why there is none.
    pub(crate) async fn answer<T>(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, PeerError> {
        match time::timeout(patience, call).await {
            Ok(Ok(answer)) => {
                if self.heard.lock().insert(target, Some(clock::now())).flatten().is_none() {
                    self.metrics_of(target).found();
                    tracing::info!("peer-id" = format_args!("{target:x}"), "peer became active");
                }
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => Err(self.refused(target, peer, &status)),
            Err(_) => Err(self.silent(target, peer, patience)),
        }
    }

    /// A peer, or the way to it, has said no.
    pub(crate) fn refused(&self, target: u64, peer: &Peer, status: &Status) -> PeerError {
        if status.code() == Code::FailedPrecondition && status.message() == REMOVED {
            self.removed.send_replace(true);
        }
        let was_sent = !is_connect_error(status);
        self.lost(PeerError::new(target, peer, reason(status), was_sent))
    }

    /// A peer has not answered in time.
    pub(crate) fn silent(&self, target: u64, peer: &Peer, patience: Duration) -> PeerError {
        self.lost(PeerError::new(target, peer, format!("no answer within {patience:?}"), true))
    }

    /// One line for each time that a peer is lost, however often it is asked. One that is only
    /// late for a heartbeat is not lost.
    fn lost(&self, error: PeerError) -> PeerError {
        self.metrics_of(error.target).send_failed();
        let mut heard = self.heard.lock();
        let is_only_late = |at: Instant| error.was_sent && clock::since(at) < SILENCE;
        let is_news = match heard.get(&error.target) {
            Some(None) => false,
            Some(Some(at)) if is_only_late(*at) => false,
            Some(Some(_)) => {
                self.metrics_of(error.target).lost();
                true
            }
            None => true,
        };
        if is_news {
            heard.insert(error.target, None);
            tracing::warn!(
                "peer-id" = format_args!("{:x}", error.target),
                %error,
                "peer became inactive (message send to peer failed)"
            );
        }
        drop(heard);
        error
    }

    /// The connection that is kept to a peer.
    pub(crate) fn channel(&self, target: u64, peer: &Peer) -> Result<PeerClient<Channel>, PeerError> {
        let mut channels = self.channels.lock();
        let channel = match channels.get(&target) {
            Some((known, channel)) if known == peer => channel.clone(),
            _ => {
                let channel = Peers::connect(peer)
                    .map_err(|error| PeerError::new(target, peer, error.to_string(), false))?;
                channels.insert(target, (peer.clone(), channel.clone()));
                channel
            }
        };
        Ok(Peers::client(channel))
    }

    /// Asks the leader of `term` to put an encoded batch into the log.
    pub(crate) async fn propose(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        (term, serial, batch): (u64, u64, Bytes),
    ) -> Result<Forwarded, PeerError> {
        let mut client = self.channel(target, peer)?;
        self.metrics_of(target).sent(batch.len());
        let request = ProposeRequest { envelope: Some(self.envelope(target)), term, serial, batch };
        let reply: ProposeReply = self.answer(target, peer, patience, client.propose(request)).await?;
        Ok(match reply.result() {
            Proposed::Applied => Forwarded::Applied,
            Proposed::NotLeader => Forwarded::NotLeader,
            Proposed::Unknown => Forwarded::Unknown,
        })
    }

    /// How far the log has to be applied to read what is current. `None` if `target` does not
    /// lead, or does not know whether it does.
    pub(crate) async fn read_index(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
    ) -> Result<Option<u64>, PeerError> {
        let mut client = self.channel(target, peer)?;
        let request = ReadIndexRequest { envelope: Some(self.envelope(target)) };
        let reply = self.answer(target, peer, patience, client.read_index(request)).await?;
        Ok(reply.index)
    }

    pub(crate) async fn lease(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
        query: LeaseQuery,
    ) -> Result<LeaseAnswer, PeerError> {
        let mut client = self.channel(target, peer)?;
        let LeaseQuery { id, renew, caller } = query;
        let request = LeaseRequest { envelope: Some(self.envelope(target)), id, renew, caller };
        let reply = self.answer(target, peer, patience, client.lease(request)).await?;
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
        let mut client = self.channel(target, peer)?;
        let change = match change {
            Change::Add { id, peer_urls, is_learner } => {
                pb::Change::Add(AddMember { id, peer_urls, is_learner })
            }
            Change::Remove { id } => pb::Change::Remove(id),
            Change::Update { id, peer_urls } => pb::Change::Update(UpdateMember { id, peer_urls }),
            Change::Promote { id } => pb::Change::Promote(id),
        };
        let request = ChangeRequest { envelope: Some(self.envelope(target)), change: Some(change), caller };
        let reply = self.answer(target, peer, patience, client.change(request)).await?;
        Ok(match ChangeRefusal::of_code(reply.result()) {
            Some(refusal) => Err(refusal),
            None => Ok(reply.index),
        })
    }

    /// Asks a peer whether it is there. How long that takes is a metric, and whether it is there
    /// is known afterwards, even if nothing else is asked of it.
    pub(crate) async fn probe(&self, target: u64, peer: &Peer, patience: Duration) -> Result<(), PeerError> {
        let mut client = self.channel(target, peer)?;
        let start = clock::now();
        let request = MembersRequest { version: PROTOCOL_VERSION };
        let asked = async {
            let reply = client.members(request).await?;
            // Somebody is there, and it is nobody that this member works with.
            match self.difference(target, reply.get_ref()) {
                Some(difference) => Err(Status::failed_precondition(difference)),
                None => Ok(reply),
            }
        };
        self.answer(target, peer, patience, asked).await?;
        self.metrics_of(target).observe_round_trip(clock::since(start));
        Ok(())
    }

    /// What keeps this member from working with `target`, as far as its answer tells.
    fn difference(&self, target: u64, reply: &MembersReply) -> Option<String> {
        if reply.cluster != self.cluster {
            return Some(format!(
                "cluster ID mismatch: member {target:x} is of cluster {:x}, this member is of cluster {:x}",
                reply.cluster, self.cluster
            ));
        }
        let (own, ours, theirs) = (MemberId(self.own), self.base?, Base(reply.base?));
        BaseMismatch::between((own, ours), (MemberId(target), theirs)).map(|mismatch| mismatch.to_string())
    }

    /// The cluster of whoever listens at one of `peer`'s URLs.
    pub(crate) async fn members_at(peer: &Peer, patience: Duration) -> Result<KnownCluster, PeerError> {
        let failed = |reason: String| PeerError::new(0, peer, reason, true);
        let mut client = Peers::client(Peers::connect(peer).map_err(|error| failed(error.to_string()))?);
        let request = MembersRequest { version: PROTOCOL_VERSION };
        let reply: MembersReply = match time::timeout(patience, client.members(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(failed(status.message().to_owned())),
            Err(_) => return Err(failed(format!("no answer within {patience:?}"))),
        };
        let members = reply.members.into_iter().map(|member| KnownMember {
            id: member.id,
            peer_urls: member.peer_urls,
            is_started: member.is_started,
        });
        let members = members.collect();
        Ok(KnownCluster { id: reply.cluster, base: reply.base.map(Base), members })
    }
}

/// Nobody was there to get the request.
fn is_connect_error(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
