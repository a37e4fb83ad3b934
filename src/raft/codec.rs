//! openraft's values as they stand on the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use bytes::{Buf, BufMut, Bytes};
use openraft::{EntryPayload, vote::leader_id_std::CommittedLeaderId};
use prost::{Message, encoding};

use super::typ::{Batch, Entry, LogId, Membership, StoredMembership, Tag, Vote};
use crate::{
    apply::{self, codec},
    limits,
    link::Peer,
    pb::retcd::raft as pb,
    types::{ValuePlace, Whereabouts},
    wal::{EntryKind, FoundEntry, FrameBuffer, HardState, LogPosition},
};

/// Before the commands of a batch that has a tag: member and serial.
const TAG_BYTES: usize = 16;

/// What an entry says.
type Payload = EntryPayload<Batch, u64, Peer>;

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
    let start = frame.push_entry(at, kind(&entry.payload), |bytes| encode_payload(&entry.payload, bytes));
    for (value, whereabouts) in values_apart(&entry.payload, frame.added_from(start)) {
        frame.tell_place(start + value.start..start + value.end, whereabouts);
    }
}

/// The values in the payload of an entry that the database is not to store again, and where they stand in its encoding.
fn values_apart(payload: &Payload, encoded: &[u8]) -> Vec<(Range<usize>, Whereabouts)> {
    let EntryPayload::Normal(batch) = payload else { return Vec::new() };
    let tag_len = if batch.tag.is_some() { TAG_BYTES } else { 0 };
    let values = apply::values_apart(&batch.commands, &encoded[tag_len..]);
    values.into_iter().map(|(value, found)| (value.start + tag_len..value.end + tag_len, found)).collect()
}

pub(super) fn kind(payload: &Payload) -> EntryKind {
    match payload {
        EntryPayload::Blank => EntryKind::Blank,
        EntryPayload::Normal(Batch { tag: None, .. }) => EntryKind::Batch,
        EntryPayload::Normal(Batch { tag: Some(_), .. }) => EntryKind::TaggedBatch,
        EntryPayload::Membership(_) => EntryKind::Membership,
    }
}

pub(super) fn encode_payload(payload: &Payload, bytes: &mut Vec<u8>) {
    match payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(batch) => {
            if let Some(tag) = batch.tag {
                bytes.put_u64_le(tag.member);
                bytes.put_u64_le(tag.serial);
            }
            codec::encode(&batch.commands, bytes);
        }
        EntryPayload::Membership(membership) => {
            membership_message(membership).encode(bytes).expect("a Vec has room");
        }
    }
}

/// An entry that was read back from the log. `None` if this version cannot decode it.
pub(crate) fn found_entry(found: &FoundEntry) -> Option<Entry> {
    // A copy of its own, or one entry in memory would keep all that was read with it.
    let payload = Bytes::copy_from_slice(&found.payload);
    let entry = entry(found.at, found.kind, payload.clone())?;
    for (value, whereabouts) in values_apart(&entry.payload, &payload) {
        let (offset, len) = (found.offset + value.start as u32, value.len() as u32);
        whereabouts.found(ValuePlace { file: found.sequence, offset, len });
    }
    Some(entry)
}

/// An entry of the log. `None` if this version cannot decode it.
pub(crate) fn entry(at: LogPosition, kind: EntryKind, mut payload: Bytes) -> Option<Entry> {
    let payload = match kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Batch => EntryPayload::Normal(batch(payload, None)?),
        EntryKind::TaggedBatch => {
            let (member, serial) = (payload.try_get_u64_le().ok()?, payload.try_get_u64_le().ok()?);
            EntryPayload::Normal(batch(payload, Some(Tag { member, serial }))?)
        }
        EntryKind::Membership => EntryPayload::Membership(membership(pb::Membership::decode(payload).ok()?)?),
    };
    Some(Entry { log_id: log_id(at), payload })
}

/// Whether a payload that a peer sent is one that a peer may send: no larger than an entry may be, and with
/// no more commands than a batch may have. Commands are counted before they are decoded, because each
/// takes far more memory than the two bytes that it can have on the wire.
pub(super) fn is_payload_bounded(kind: EntryKind, payload: &Bytes) -> bool {
    let commands = match kind {
        EntryKind::Blank | EntryKind::Membership => Some(0),
        EntryKind::Batch => count_commands(payload.clone()),
        EntryKind::TaggedBatch => {
            payload.len().checked_sub(TAG_BYTES).and_then(|_| count_commands(payload.slice(TAG_BYTES..)))
        }
    };
    payload.len() <= limits::ENTRY_BYTES_MAX
        && commands.is_some_and(|commands| commands <= limits::BATCH_COMMANDS_MAX)
}

/// The fields of an encoded batch, each of which is a command. `None` if it is no encoding.
fn count_commands(mut batch: Bytes) -> Option<usize> {
    let mut count = 0;
    while batch.has_remaining() {
        let (field, wire_type) = encoding::decode_key(&mut batch).ok()?;
        encoding::skip_field(wire_type, field, &mut batch, encoding::DecodeContext::default()).ok()?;
        count += 1;
    }
    Some(count)
}

/// A batch that a peer wants to be put into the log. `None` if it is none, or larger than one may be.
pub(super) fn batch_of_peer(commands: Bytes) -> Option<Batch> {
    let is_bounded = commands.len() <= limits::COMMAND_BYTES_MAX
        && count_commands(commands.clone()).is_some_and(|count| count <= limits::BATCH_COMMANDS_MAX);
    is_bounded.then(|| batch(commands, None))?
}

pub(super) fn batch(commands: Bytes, tag: Option<Tag>) -> Option<Batch> {
    Some(Batch { commands: codec::decode(commands).ok()?.into(), tag, began: None })
}

pub(crate) fn encode_log_id(log_id: &LogId) -> Bytes {
    log_id_message(log_id).encode_to_vec().into()
}

pub(crate) fn decode_log_id(bytes: Bytes) -> Option<LogId> {
    let log_id = log_id_of(pb::LogId::decode(bytes).ok()?);
    // There is always an entry after it.
    (log_id.index < u64::MAX).then_some(log_id)
}

pub(crate) fn encode_membership(stored: &StoredMembership) -> Bytes {
    stored_membership_message(stored).encode_to_vec().into()
}

pub(crate) fn decode_membership(bytes: Bytes) -> Option<StoredMembership> {
    stored_membership(pb::StoredMembership::decode(bytes).ok()?)
}

pub(super) fn stored_membership_message(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_message),
        membership: Some(membership_message(stored.membership())),
    }
}

pub(super) fn stored_membership(message: pb::StoredMembership) -> Option<StoredMembership> {
    Some(StoredMembership::new(message.log_id.map(log_id_of), membership(message.membership?)?))
}

pub(super) fn log_id_of(message: pb::LogId) -> LogId {
    log_id(LogPosition { term: message.term, index: message.index })
}

pub(super) fn log_id_message(log_id: &LogId) -> pb::LogId {
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
            .map(|(id, peer)| pb::Node {
                id: *id,
                peer_urls: peer.peer_urls.clone(),
                is_learner: peer.is_learner,
            })
            .collect(),
    }
}

fn membership(message: pb::Membership) -> Option<Membership> {
    let configs: Vec<BTreeSet<u64>> =
        message.configs.into_iter().map(|voters| voters.ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Peer> = message
        .nodes
        .into_iter()
        .map(|node| (node.id, Peer { peer_urls: node.peer_urls, is_learner: node.is_learner }))
        .collect();
    Membership::new(configs, nodes).ok()
}
