//! What members say to each other about the log, in bytes.
//!
//! Entries are encoded as in the log's files. A message that cannot be decoded comes from another
//! version; its sender gets an error, and no part of the message is used.

use bytes::Bytes;
use openraft::{
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
        VoteResponse,
    },
    vote::leader_id_std::LeaderId,
};
use prost::Message;

use super::{
    codec,
    typ::{SnapshotMeta, TypeConfig, Vote},
};
use crate::{
    limits,
    pb::retcd::raft as pb,
    storage::{self, Checkpoint, Record, Table},
    types::Revision,
    wal::{EntryKind, LogPosition},
};

/// A message of another version, a damaged one, or one that is larger than any message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message that this version of retcd cannot decode")]
pub(crate) struct Unreadable;

pub(super) fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    assert!(
        request.entries.len() as u64 <= limits::APPEND_ENTRIES_MAX,
        "a message has no more entries than its receiver takes: {}",
        request.entries.len()
    );
    let mut next = request.prev_log_id.as_ref().map_or(0, |previous| previous.index + 1);
    let entries = request.entries.iter().map(|entry| {
        let at = codec::position(&entry.log_id);
        assert_eq!(at.index, next, "the entries of a message follow the previous one without a gap");
        next += 1;
        let mut payload = Vec::new();
        codec::encode_payload(&entry.payload, &mut payload);
        let kind = u32::from(codec::kind(&entry.payload).code());
        pb::Entry { term: at.term, index: at.index, kind, payload: payload.into() }
    });
    let message = pb::AppendRequest {
        vote: Some(vote_message(&request.vote)),
        previous: request.prev_log_id.as_ref().map(codec::log_id_message),
        entries: entries.collect(),
        committed: request.leader_commit.as_ref().map(codec::log_id_message),
    };
    let bytes = message.encode_to_vec();
    assert!(
        bytes.len() <= limits::PEER_MESSAGE_BYTES_MAX,
        "a message of {} bytes cannot be sent",
        bytes.len()
    );
    bytes.into()
}

pub(super) fn decode_append(bytes: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, Unreadable> {
    let message = pb::AppendRequest::decode(bytes).map_err(|_| Unreadable)?;
    if message.entries.len() as u64 > limits::APPEND_ENTRIES_MAX {
        return Err(Unreadable);
    }
    let entries = message.entries.into_iter().map(|entry| {
        let kind = u8::try_from(entry.kind).ok().and_then(EntryKind::from_code)?;
        codec::is_payload_bounded(kind, &entry.payload).then_some(())?;
        // A copy of its own, or one entry in the log's cache would keep the whole message.
        let payload = Bytes::copy_from_slice(&entry.payload);
        codec::entry(LogPosition { term: entry.term, index: entry.index }, kind, payload)
    });
    Ok(AppendEntriesRequest {
        vote: vote(message.vote)?,
        prev_log_id: message.previous.map(codec::log_id_of),
        entries: entries.collect::<Option<_>>().ok_or(Unreadable)?,
        leader_commit: message.committed.map(codec::log_id_of),
    })
}

pub(super) fn encode_append_reply(reply: &AppendEntriesResponse<TypeConfig>) -> Bytes {
    use pb::append_reply::Result as Reply;
    let result = match reply {
        AppendEntriesResponse::Success => Reply::Success(true),
        AppendEntriesResponse::PartialSuccess(Some(last)) => Reply::Partial(codec::log_id_message(last)),
        // Nothing was appended, so the leader has to go further back, as after a conflict.
        AppendEntriesResponse::PartialSuccess(None) | AppendEntriesResponse::Conflict => {
            Reply::Conflict(true)
        }
        AppendEntriesResponse::HigherVote(vote) => Reply::HigherVote(vote_message(vote)),
    };
    pb::AppendReply { result: Some(result) }.encode_to_vec().into()
}

pub(super) fn decode_append_reply(bytes: Bytes) -> Result<AppendEntriesResponse<TypeConfig>, Unreadable> {
    use pb::append_reply::Result as Reply;
    let message = pb::AppendReply::decode(bytes).map_err(|_| Unreadable)?;
    Ok(match message.result.ok_or(Unreadable)? {
        Reply::Success(_) => AppendEntriesResponse::Success,
        Reply::Partial(last) => AppendEntriesResponse::PartialSuccess(Some(codec::log_id_of(last))),
        Reply::Conflict(_) => AppendEntriesResponse::Conflict,
        Reply::HigherVote(higher) => AppendEntriesResponse::HigherVote(vote(Some(higher))?),
    })
}

pub(super) fn encode_vote(request: &VoteRequest<TypeConfig>) -> Bytes {
    let message = pb::VoteRequest {
        vote: Some(vote_message(&request.vote)),
        last: request.last_log_id.as_ref().map(codec::log_id_message),
        leadership_transfer: request.leadership_transfer,
    };
    message.encode_to_vec().into()
}

pub(super) fn decode_vote(bytes: Bytes) -> Result<VoteRequest<TypeConfig>, Unreadable> {
    let message = pb::VoteRequest::decode(bytes).map_err(|_| Unreadable)?;
    Ok(VoteRequest {
        vote: vote(message.vote)?,
        last_log_id: message.last.map(codec::log_id_of),
        leadership_transfer: message.leadership_transfer,
    })
}

pub(super) fn encode_vote_reply(reply: &VoteResponse<TypeConfig>) -> Bytes {
    let message = pb::VoteReply {
        vote: Some(vote_message(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(codec::log_id_message),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode_vote_reply(bytes: Bytes) -> Result<VoteResponse<TypeConfig>, Unreadable> {
    let message = pb::VoteReply::decode(bytes).map_err(|_| Unreadable)?;
    Ok(VoteResponse {
        vote: vote(message.vote)?,
        vote_granted: message.granted,
        last_log_id: message.last.map(codec::log_id_of),
    })
}

pub(super) fn encode_transfer(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let message = pb::TransferRequest {
        leader: Some(vote_message(request.from_leader())),
        target: *request.to_node_id(),
        last: request.last_log_id().map(codec::log_id_message),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode_transfer(bytes: Bytes) -> Result<TransferLeaderRequest<TypeConfig>, Unreadable> {
    let message = pb::TransferRequest::decode(bytes).map_err(|_| Unreadable)?;
    let last = message.last.map(codec::log_id_of);
    Ok(TransferLeaderRequest::new(vote(message.leader)?, message.target, last))
}

pub(super) fn encode_transfer_reply(refusal: Option<String>) -> Bytes {
    pb::TransferReply { refusal: refusal.unwrap_or_default() }.encode_to_vec().into()
}

/// The inner error is the reason of the peer.
pub(super) fn decode_transfer_reply(bytes: Bytes) -> Result<Result<(), String>, Unreadable> {
    let message = pb::TransferReply::decode(bytes).map_err(|_| Unreadable)?;
    Ok(if message.refusal.is_empty() { Ok(()) } else { Err(message.refusal) })
}

pub(super) fn encode_snapshot_header(from: &Vote, meta: &SnapshotMeta, records: u64) -> Bytes {
    let message = pb::SnapshotHeader {
        vote: Some(vote_message(from)),
        membership: Some(codec::stored_membership_message(&meta.last_membership)),
        last: meta.last_log_id.as_ref().map(codec::log_id_message),
        records,
    };
    message.encode_to_vec().into()
}

/// The leader, what the snapshot holds, and how many records.
pub(super) fn decode_snapshot_header(bytes: Bytes) -> Result<(Vote, SnapshotMeta, u64), Unreadable> {
    let message = pb::SnapshotHeader::decode(bytes).map_err(|_| Unreadable)?;
    let last_membership = message.membership.and_then(codec::stored_membership).ok_or(Unreadable)?;
    let meta = SnapshotMeta { last_log_id: message.last.map(codec::log_id_of), last_membership };
    Ok((vote(message.vote)?, meta, message.records))
}

pub(super) fn encode_snapshot_reply(reply: &SnapshotResponse<TypeConfig>) -> Bytes {
    pb::SnapshotReply { vote: Some(vote_message(&reply.vote)) }.encode_to_vec().into()
}

pub(super) fn decode_snapshot_reply(bytes: Bytes) -> Result<SnapshotResponse<TypeConfig>, Unreadable> {
    let message = pb::SnapshotReply::decode(bytes).map_err(|_| Unreadable)?;
    Ok(SnapshotResponse::new(vote(message.vote)?))
}

/// A stretch of the state, and whether it is the last one.
pub(super) fn encode_snapshot_part(content: &Checkpoint, is_last: bool) -> Bytes {
    let Checkpoint { records, cells, .. } = content;
    let records = records.iter().map(|(revision, record)| pb::SnapshotRecord {
        main: revision.main.0,
        sub: revision.sub,
        is_tombstone: record.is_tombstone(),
        key_value: record.bytes().clone(),
    });
    let cells = cells.iter().map(|(table, key, bytes)| pb::SnapshotCell {
        table: table.name().to_owned(),
        key: key.clone(),
        bytes: bytes.clone().unwrap_or_default(),
    });
    let part = pb::SnapshotPart { records: records.collect(), cells: cells.collect(), is_last };
    let bytes = part.encode_to_vec();
    assert!(
        bytes.len() <= limits::SNAPSHOT_PART_BYTES_MAX,
        "a part of {} bytes would be given up by its receiver",
        bytes.len()
    );
    bytes.into()
}

pub(super) fn decode_snapshot_part(bytes: Bytes) -> Result<(Checkpoint, bool), Unreadable> {
    let part = pb::SnapshotPart::decode(bytes).map_err(|_| Unreadable)?;
    let records = part.records.into_iter().map(|record| {
        let pb::SnapshotRecord { main, sub, is_tombstone, key_value } = record;
        let revision = Revision::new(main, sub);
        Some((revision, Record::decode(is_tombstone, key_value)?))
            .filter(|_| storage::is_of_a_change(revision))
    });
    let cells = part.cells.into_iter().map(|cell| {
        let pb::SnapshotCell { table, key, bytes } = cell;
        Some((Table::named(&table)?, key, Some(bytes)))
    });
    let records = records.collect::<Option<_>>().ok_or(Unreadable)?;
    let cells = cells.collect::<Option<_>>().ok_or(Unreadable)?;
    Ok((Checkpoint { records, cells, ..Checkpoint::default() }, part.is_last))
}

fn vote_message(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, voted_for: vote.leader_id.voted_for, committed: vote.committed }
}

fn vote(message: Option<pb::Vote>) -> Result<Vote, Unreadable> {
    let message = message.ok_or(Unreadable)?;
    let leader_id = LeaderId { term: message.term, voted_for: message.voted_for };
    Ok(Vote { leader_id, committed: message.committed })
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::{
        apply::{Command, Request},
        link::Peer,
        raft::typ::{Batch, Entry, LogId, Membership, Tag},
        types::{Caller, LeaseId},
    };

    fn at(index: u64) -> LogId {
        codec::log_id(LogPosition { term: 3, index })
    }

    fn leader() -> Vote {
        Vote { leader_id: LeaderId { term: 3, voted_for: 7 }, committed: true }
    }

    /// Every kind of entry there is, as one message.
    fn request() -> AppendEntriesRequest<TypeConfig> {
        let commands: std::sync::Arc<[Request]> =
            vec![Command::LeaseRevoke { id: LeaseId(5) }.by(Caller::Internal)].into();
        let voter = Peer { peer_urls: vec!["http://a:1".to_owned()], is_learner: false };
        let learner = Peer { peer_urls: vec!["http://b:1".to_owned()], is_learner: true };
        let nodes = std::collections::BTreeMap::from([(7, voter), (8, learner)]);
        let membership = Membership::new(vec![std::collections::BTreeSet::from([7])], nodes);
        let membership = membership.expect("every voter is a node");
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Batch { commands: commands.clone(), tag: None, began: None }),
            EntryPayload::Normal(Batch { commands, tag: Some(Tag { member: 7, serial: 99 }), began: None }),
            EntryPayload::Membership(membership),
        ];
        let entries = (5..).zip(payloads).map(|(index, payload)| Entry { log_id: at(index), payload });
        AppendEntriesRequest {
            vote: leader(),
            prev_log_id: Some(at(4)),
            entries: entries.collect(),
            leader_commit: Some(at(2)),
        }
    }

    #[test]
    fn entries_arrive_as_they_were_sent() {
        let sent = request();
        let received = decode_append(encode_append(&sent)).expect("it was just encoded");
        assert_eq!(format!("{received:?}"), format!("{sent:?}"));
    }

    #[test]
    fn votes_and_answers_arrive_as_they_were_sent() {
        let request = VoteRequest { vote: leader(), last_log_id: Some(at(9)), leadership_transfer: true };
        assert_eq!(decode_vote(encode_vote(&request)), Ok(request));
        let reply = VoteResponse { vote: leader(), vote_granted: true, last_log_id: None };
        assert_eq!(decode_vote_reply(encode_vote_reply(&reply)), Ok(reply));
        for reply in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(at(6))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(leader()),
        ] {
            assert_eq!(decode_append_reply(encode_append_reply(&reply)), Ok(reply));
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_message() {
        assert!(decode_append(Bytes::from_static(b"\xff\xff")).is_err());
        assert!(decode_vote(Bytes::new()).is_err(), "a request for votes without a candidate");
        assert!(decode_append_reply(Bytes::new()).is_err(), "an answer without an answer");
    }
}
