//! openraft's values as they stand on the disk.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{EntryPayload, vote::leader_id_std::CommittedLeaderId};
use prost::Message;

use super::{
    typ::{Batch, Entry, LogId, Membership, Peer, StoredMembership, Vote},
    wal::{EntryKind, FrameBuffer, HardState, LogPosition},
};
use crate::{apply::codec, pb::retcd::raft as pb};

pub(crate) fn position(log_id: &LogId) -> LogPosition {
    LogPosition { term: log_id.leader_id.term, index: log_id.index }
}

pub(crate) fn log_id(at: LogPosition) -> LogId {
    LogId::new(CommittedLeaderId { term: at.term }, at.index)
}

pub(crate) fn hard_state(vote: &Vote) -> HardState {
    HardState { term: vote.leader_id.term, voted_for: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn vote(state: HardState) -> Vote {
    let leader_id = openraft::vote::leader_id_std::LeaderId { term: state.term, voted_for: state.voted_for };
    Vote { leader_id, committed: state.committed }
}

/// Adds an entry to a frame of the log.
pub(crate) fn push_entry(frame: &mut FrameBuffer, entry: &Entry) {
    let at = position(&entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => frame.push_entry(at, EntryKind::Blank, |_| {}),
        EntryPayload::Normal(batch) => {
            frame.push_entry(at, EntryKind::Batch, |bytes| codec::encode(&batch.0, bytes))
        }
        EntryPayload::Membership(membership) => frame.push_entry(at, EntryKind::Membership, |bytes| {
            membership_message(membership).encode(bytes).expect("a Vec has room");
        }),
    };
}

/// An entry as the log gave it back. `None` if this version cannot read it.
pub(crate) fn entry(at: LogPosition, kind: EntryKind, payload: Bytes) -> Option<Entry> {
    let payload = match kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Batch => EntryPayload::Normal(Batch(codec::decode(payload).ok()?.into())),
        EntryKind::Membership => EntryPayload::Membership(membership(pb::Membership::decode(payload).ok()?)?),
    };
    Some(Entry { log_id: log_id(at), payload })
}

pub(crate) fn encode_log_id(log_id: &LogId) -> Bytes {
    log_id_message(log_id).encode_to_vec().into()
}

pub(crate) fn decode_log_id(bytes: Bytes) -> Option<LogId> {
    let message = pb::LogId::decode(bytes).ok()?;
    Some(self::log_id(LogPosition { term: message.term, index: message.index }))
}

pub(crate) fn encode_membership(stored: &StoredMembership) -> Bytes {
    let message = pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_message),
        membership: Some(membership_message(stored.membership())),
    };
    message.encode_to_vec().into()
}

pub(crate) fn decode_membership(bytes: Bytes) -> Option<StoredMembership> {
    let message = pb::StoredMembership::decode(bytes).ok()?;
    let log_id = message.log_id.map(|id| self::log_id(LogPosition { term: id.term, index: id.index }));
    Some(StoredMembership::new(log_id, membership(message.membership?)?))
}

fn log_id_message(log_id: &LogId) -> pb::LogId {
    pb::LogId { term: log_id.leader_id.term, index: log_id.index }
}

fn membership_message(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| pb::Voters { ids: voters.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, peer)| pb::Node { id: *id, peer_urls: peer.peer_urls.clone() })
            .collect(),
    }
}

fn membership(message: pb::Membership) -> Option<Membership> {
    let configs: Vec<BTreeSet<u64>> =
        message.configs.into_iter().map(|voters| voters.ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Peer> =
        message.nodes.into_iter().map(|node| (node.id, Peer { peer_urls: node.peer_urls })).collect();
    Membership::new(configs, nodes).ok()
}
