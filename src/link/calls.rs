//! What can be asked of a member, in plain types.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::peer::Peer;
use crate::{
    pb::retcd::peer::{
        self as pb, Changed, ContactsReply, HistoryReply, MembersReply, Proposed, RaftKind, StatusReply,
        history_reply::Answer,
    },
    types::{Base, MemberId, Rev},
};

/// Of the protocol between members.
pub(crate) const PROTOCOL_VERSION: u32 = 3;

/// How a member is told that it does not belong to the cluster any more.
pub(crate) const REMOVED: &str = "the member has been permanently removed from the cluster";

/// The kinds of messages of consensus that are answered one by one. The receiver decodes the bytes of a
/// message by its kind; this room does not look into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Append,
    Vote,
    PreVote,
    TransferLeader,
}

impl From<RaftKind> for MessageKind {
    fn from(kind: RaftKind) -> MessageKind {
        match kind {
            RaftKind::Append => MessageKind::Append,
            RaftKind::Vote => MessageKind::Vote,
            RaftKind::PreVote => MessageKind::PreVote,
            RaftKind::TransferLeader => MessageKind::TransferLeader,
        }
    }
}

impl From<MessageKind> for RaftKind {
    fn from(kind: MessageKind) -> RaftKind {
        match kind {
            MessageKind::Append => RaftKind::Append,
            MessageKind::Vote => RaftKind::Vote,
            MessageKind::PreVote => RaftKind::PreVote,
            MessageKind::TransferLeader => RaftKind::TransferLeader,
        }
    }
}

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
    pub(super) target: u64,
    url: String,
    reason: String,
    /// Whether the peer may have got the request.
    pub(crate) was_sent: bool,
}

impl PeerError {
    pub(super) fn new(target: u64, peer: &Peer, reason: String, was_sent: bool) -> PeerError {
        PeerError { target, url: peer.to_string(), reason, was_sent }
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

/// What came of a batch that the leader was asked to put into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// The leader has applied it, and this member will.
    Applied,
    /// It was not put into the log, and will not be.
    NotLeader,
    /// It was in the leader's log, and may have been replaced there.
    Unknown,
    /// It was not put into the log, because it adds data and the leader's disk is full.
    NoSpace,
}

impl From<Proposed> for Forwarded {
    fn from(proposed: Proposed) -> Forwarded {
        match proposed {
            Proposed::Applied => Forwarded::Applied,
            Proposed::NotLeader => Forwarded::NotLeader,
            Proposed::Unknown => Forwarded::Unknown,
            Proposed::NoSpace => Forwarded::NoSpace,
        }
    }
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
    /// Ask another member.
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

/// Which members answer a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contacts {
    pub(crate) answering: BTreeSet<u64>,
    /// Those of them that reach the member that was asked about.
    pub(crate) reaching: BTreeSet<u64>,
}

/// What a member says of its history up to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HistoryAnswer {
    Hash(HistoryHash),
    /// It does not have that revision any more.
    IsCompacted,
    /// It does not have that revision yet.
    IsBehind,
}

/// Two hashes of the same revision can be compared if both histories are compacted to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryHash {
    pub(crate) hash: u32,
    pub(crate) compacted: Rev,
    /// The newest revision of the member.
    pub(crate) current: Rev,
}

impl From<HistoryAnswer> for HistoryReply {
    fn from(answer: HistoryAnswer) -> HistoryReply {
        let answer = match answer {
            HistoryAnswer::Hash(HistoryHash { hash, compacted, current }) => {
                Answer::Hash(pb::HistoryHash { hash, compacted: compacted.0, current: current.0 })
            }
            HistoryAnswer::IsCompacted => Answer::IsCompacted(true),
            HistoryAnswer::IsBehind => Answer::IsBehind(true),
        };
        HistoryReply { answer: Some(answer) }
    }
}

impl From<HistoryReply> for Option<HistoryAnswer> {
    fn from(HistoryReply { answer }: HistoryReply) -> Option<HistoryAnswer> {
        Some(match answer? {
            Answer::Hash(pb::HistoryHash { hash, compacted, current }) => {
                HistoryAnswer::Hash(HistoryHash { hash, compacted: Rev(compacted), current: Rev(current) })
            }
            Answer::IsCompacted(_) => HistoryAnswer::IsCompacted,
            Answer::IsBehind(_) => HistoryAnswer::IsBehind,
        })
    }
}

impl From<ContactsReply> for Contacts {
    fn from(ContactsReply { answering, reaching }: ContactsReply) -> Contacts {
        Contacts { answering: answering.into_iter().collect(), reaching: reaching.into_iter().collect() }
    }
}

impl From<Contacts> for ContactsReply {
    fn from(Contacts { answering, reaching }: Contacts) -> ContactsReply {
        ContactsReply { answering: answering.into_iter().collect(), reaching: reaching.into_iter().collect() }
    }
}

/// How a member is, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberStatus {
    /// The release of retcd.
    pub(crate) version: String,
    /// The newest revision of the keys.
    pub(crate) rev: i64,
    pub(crate) term: u64,
    /// 0 if the member knows no leader.
    pub(crate) leader: u64,
    pub(crate) db_bytes: i64,
    pub(crate) db_in_use_bytes: i64,
    /// 0 if there is no quota.
    pub(crate) quota_bytes: i64,
    pub(crate) errors: Vec<String>,
}

impl From<StatusReply> for MemberStatus {
    fn from(reply: StatusReply) -> MemberStatus {
        let StatusReply { version, revision, term, leader, db_bytes, db_in_use_bytes, quota_bytes, errors } =
            reply;
        MemberStatus { version, rev: revision, term, leader, db_bytes, db_in_use_bytes, quota_bytes, errors }
    }
}

impl From<MemberStatus> for StatusReply {
    fn from(status: MemberStatus) -> StatusReply {
        let MemberStatus { version, rev, term, leader, db_bytes, db_in_use_bytes, quota_bytes, errors } =
            status;
        StatusReply { version, revision: rev, term, leader, db_bytes, db_in_use_bytes, quota_bytes, errors }
    }
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

    pub(super) fn of_code(code: Changed) -> Option<ChangeRefusal> {
        Self::CODES.iter().find(|(_, known)| *known == code).map(|(refusal, _)| *refusal)
    }
}

/// A member, as a process outside of the cluster is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownMember {
    pub(crate) id: u64,
    pub(crate) peer_urls: Vec<String>,
    /// It has joined, with a data directory that knows its id.
    pub(crate) is_started: bool,
}

/// A cluster, as one of its members describes it to a process outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownCluster {
    pub(crate) id: u64,
    /// What the member's log began behind, if the member knows it.
    pub(crate) base: Option<Base>,
    pub(crate) members: Vec<KnownMember>,
    /// The disk of the member that describes it is full.
    pub(crate) is_disk_full: bool,
    /// The log index that this is at least as new as: of two descriptions, the one with the higher index counts.
    pub(crate) applied_index: u64,
}

impl From<MembersReply> for KnownCluster {
    fn from(reply: MembersReply) -> KnownCluster {
        let members = reply.members.into_iter().map(|member| KnownMember {
            id: member.id,
            peer_urls: member.peer_urls,
            is_started: member.is_started,
        });
        KnownCluster {
            id: reply.cluster,
            base: reply.base.map(Base),
            members: members.collect(),
            is_disk_full: reply.is_disk_full,
            applied_index: reply.applied_index,
        }
    }
}
