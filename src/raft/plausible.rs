//! Whether what another member says can be true.
//!
//! openraft believes its peers: it stores the term of a message, appends the entries that it is sent, and
//! relies on what Raft guarantees between correct members. A message that breaks these guarantees would
//! reach the log: an entry behind a gap, or a term that no election can follow, is on the disk then, and
//! every later start fails because of it. So every message is judged here before consensus gets it, and
//! refused if no correct member can have sent it. Nothing of a refused message is kept.
//!
//! The rules rest on guarantees of Raft alone, so an honest message is never refused, however late or
//! stale it is:
//!
//! - a member speaks for itself: a candidate asks for its own votes, and only an elected leader appends;
//! - the log of a leader has no gap, its terms do not fall, and none is above the term of the leader;
//! - what is committed is in the log of every later leader, so any two positions of a log that both are
//!   at or behind the committed one are in the same order by term as by index;
//! - a leader does not contradict itself: see `expected_log`.
//!
//! A member that forges a well-formed message in the name of another is not found out here; that takes
//! authentication of members.

use std::cmp::Ordering;

use openraft::{
    EntryPayload,
    entry::RaftEntry,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteResponse},
};

use super::{
    codec,
    typ::{LogId, Membership, SnapshotMeta, TypeConfig, Vote},
};
use crate::{
    limits,
    types::MemberId,
    wal::{HardState, LogPosition},
};

/// Why a message cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Implausible {
    #[error("term {term} cannot be reached from term {ours} of this member")]
    Term { term: u64, ours: u64 },
    #[error("log index {index} cannot be reached from index {ours} of this member")]
    Index { index: u64, ours: u64 },
    #[error("the message names member {named} as its candidate or leader, and member {from} sent it")]
    Sender { named: MemberId, from: MemberId },
    #[error(
        "member {from} asks for votes as a leader that is elected already, or appends without being elected"
    )]
    Role { from: MemberId },
    #[error("entry {index} follows entry {before}, and the entries between them are missing")]
    Gap { before: u64, index: u64 },
    #[error("the term falls from {before} to {term} at entry {index}")]
    TermFalls { before: u64, term: u64, index: u64 },
    #[error("entry {index} has term {term}, and the leader or candidate that sends it is of term {sender}")]
    LaterTerm { index: u64, term: u64, sender: u64 },
    #[error(
        "entry {index} of term {term} contradicts entry {known} of term {known_term}, which the leader has"
    )]
    Contradiction { index: u64, term: u64, known: u64, known_term: u64 },
    #[error("a membership without voters, or with more URLs than a change of the members may add")]
    Membership,
    #[error("a snapshot without a last entry, or with a membership of a later one")]
    Snapshot,
    #[error("an answer about entries that were not sent")]
    Unasked,
}

/// What this member knows when it judges a message. It may be a little behind what consensus knows;
/// then a rule is only more lenient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) own: u64,
    pub(super) vote: Vote,
    pub(super) last_index: u64,
    pub(super) committed: Option<LogPosition>,
}

impl Known {
    /// Judges a message of a leader, and leaves of its commit index what the message itself vouches for.
    pub(super) fn append(
        &self,
        from: u64,
        request: &mut AppendEntriesRequest<TypeConfig>,
    ) -> Result<(), Implausible> {
        self.leader(from, &request.vote)?;
        if self.is_stale(&request.vote) {
            // Consensus answers with the higher vote and uses nothing else, except for the commit index.
            request.leader_commit = None;
            return Ok(());
        }
        let mut before = request.prev_log_id.as_ref().map(codec::position);
        if let Some(before) = before {
            self.entry_of_leader(before, &request.vote)?;
        }
        for entry in &request.entries {
            let at = codec::position(&entry.log_id());
            follows(before, at)?;
            self.entry_of_leader(at, &request.vote)?;
            if let EntryPayload::Membership(members) = &entry.payload {
                membership(members)?;
            }
            before = Some(at);
        }
        if let Some(committed) = &request.leader_commit {
            self.entry_of_leader(codec::position(committed), &request.vote)?;
        }
        request.leader_commit = vouched_commit(request)?;
        let last = before.map_or(0, |last| last.index);
        assert!(
            request.leader_commit.as_ref().is_none_or(|commit| commit.index <= last),
            "a message vouches for what it names, and for nothing behind that"
        );
        Ok(())
    }

    /// Judges a request for a vote, or the question whether a vote would be granted.
    pub(super) fn candidate(&self, from: u64, vote: &Vote, last: Option<&LogId>) -> Result<(), Implausible> {
        self.sender(from, vote)?;
        if vote.committed {
            return Err(Implausible::Role { from: MemberId(from) });
        }
        last.map_or(Ok(()), |last| self.entry_of_sender(codec::position(last), vote))
    }

    /// Judges a leader's wish that another member leads.
    pub(super) fn transfer(&self, from: u64, vote: &Vote, last: Option<&LogId>) -> Result<(), Implausible> {
        self.leader(from, vote)?;
        last.map_or(Ok(()), |last| self.entry_of_sender(codec::position(last), vote))
    }

    /// Judges what is said of a snapshot before it arrives, and once more when it has arrived.
    pub(super) fn snapshot(&self, from: u64, vote: &Vote, meta: &SnapshotMeta) -> Result<(), Implausible> {
        self.leader(from, vote)?;
        if self.is_stale(vote) {
            return Ok(());
        }
        let last = meta.last_log_id.as_ref().ok_or(Implausible::Snapshot)?;
        self.entry_of_leader(codec::position(last), vote)?;
        if meta.last_membership.log_id().as_ref() > Some(last) {
            return Err(Implausible::Snapshot);
        }
        membership(meta.last_membership.membership())
    }

    fn leader(&self, from: u64, vote: &Vote) -> Result<(), Implausible> {
        self.sender(from, vote)?;
        if vote.committed { Ok(()) } else { Err(Implausible::Role { from: MemberId(from) }) }
    }

    /// A message names its sender as the candidate or the leader, and never this member: the vote would
    /// make this member a leader that nobody elected.
    fn sender(&self, from: u64, vote: &Vote) -> Result<(), Implausible> {
        let named = vote.leader_id.voted_for;
        if named != from || named == self.own {
            return Err(Implausible::Sender { named: MemberId(named), from: MemberId(from) });
        }
        reachable_term(vote.leader_id.term, self.vote.leader_id.term)
    }

    /// Whether consensus will answer that it knows of a later leader or candidate.
    pub(super) fn is_stale(&self, vote: &Vote) -> bool {
        is_behind(vote, &self.vote)
    }

    /// An entry that the log of a leader of this member holds.
    fn entry_of_leader(&self, at: LogPosition, vote: &Vote) -> Result<(), Implausible> {
        self.entry_of_sender(at, vote)?;
        let Some(committed) = self.committed else { return Ok(()) };
        let agrees = match at.index.cmp(&committed.index) {
            Ordering::Less => at.term <= committed.term,
            Ordering::Equal => at.term == committed.term,
            Ordering::Greater => at.term >= committed.term,
        };
        if agrees {
            return Ok(());
        }
        Err(Implausible::Contradiction {
            index: at.index,
            term: at.term,
            known: committed.index,
            known_term: committed.term,
        })
    }

    /// An entry that the log of the sender holds.
    fn entry_of_sender(&self, at: LogPosition, vote: &Vote) -> Result<(), Implausible> {
        let sender = vote.leader_id.term;
        if at.term > sender {
            return Err(Implausible::LaterTerm { index: at.index, term: at.term, sender });
        }
        reachable_index(at.index, self.last_index)
    }
}

/// Whether a vote of a leader or candidate is not accepted after `known` was.
pub(super) fn is_behind(vote: &Vote, known: &Vote) -> bool {
    !matches!(vote.partial_cmp(known), Some(order) if order.is_ge())
}

/// Judges a log index that the leader says a member has to come to.
pub(super) fn awaited_index(index: u64, last_index: u64) -> Result<(), Implausible> {
    reachable_index(index, last_index)
}

/// Judges the vote in the answer to a message of this member, which was of `vote`.
pub(super) fn vote_in_answer(vote: &Vote, answer: &Vote) -> Result<(), Implausible> {
    reachable_term(answer.leader_id.term, vote.leader_id.term)
}

/// Judges the answer to a request that covered the log behind `previous` up to `last`.
pub(super) fn append_answer(
    vote: &Vote,
    (previous, last): (Option<&LogId>, Option<&LogId>),
    answer: &AppendEntriesResponse<TypeConfig>,
) -> Result<(), Implausible> {
    match answer {
        AppendEntriesResponse::HigherVote(higher) => vote_in_answer(vote, higher),
        AppendEntriesResponse::PartialSuccess(appended) => {
            let appended = appended.as_ref();
            if previous <= appended && appended <= last { Ok(()) } else { Err(Implausible::Unasked) }
        }
        AppendEntriesResponse::Success | AppendEntriesResponse::Conflict => Ok(()),
    }
}

/// Judges the answer to a request for a vote.
pub(super) fn vote_answer(vote: &Vote, answer: &VoteResponse<TypeConfig>) -> Result<(), Implausible> {
    vote_in_answer(vote, &answer.vote)?;
    let Some(last) = &answer.last_log_id else { return Ok(()) };
    let last = codec::position(last);
    reachable_term(last.term, vote.leader_id.term)?;
    reachable_index(last.index, 0)
}

/// What in a log that was opened no cluster can have come to, if anything is.
pub(super) fn beyond_reach(vote: Option<&HardState>, last: Option<LogPosition>) -> Option<String> {
    let term = vote.map_or(0, |vote| vote.term).max(last.map_or(0, |last| last.term));
    let index = last.map_or(0, |last| last.index);
    let (what, number) = match limits::LOG_NUMBER_MAX {
        max if term > max => ("term", term),
        max if index > max => ("entry", index),
        _ => return None,
    };
    Some(format!(
        "the log has come to {what} {number}, which no cluster reaches: a process that is not a member sent it to a \
         version of retcd that stored it unchecked"
    ))
}

fn reachable_term(term: u64, ours: u64) -> Result<(), Implausible> {
    let ceiling = ours.saturating_add(limits::TERMS_AHEAD_MAX).min(limits::LOG_NUMBER_MAX);
    if term <= ceiling { Ok(()) } else { Err(Implausible::Term { term, ours }) }
}

fn reachable_index(index: u64, ours: u64) -> Result<(), Implausible> {
    let ceiling = ours.saturating_add(limits::INDICES_AHEAD_MAX).min(limits::LOG_NUMBER_MAX);
    if index <= ceiling { Ok(()) } else { Err(Implausible::Index { index, ours }) }
}

/// Each entry follows the one before it: its index is the next one, and its term is not lower.
fn follows(before: Option<LogPosition>, at: LogPosition) -> Result<(), Implausible> {
    let next = before.map_or(0, |before| before.index + 1);
    if at.index != next {
        return Err(Implausible::Gap { before: next.saturating_sub(1), index: at.index });
    }
    match before {
        Some(before) if at.term < before.term => {
            Err(Implausible::TermFalls { before: before.term, term: at.term, index: at.index })
        }
        Some(_) | None => Ok(()),
    }
}

/// The commit index that consensus may believe: at most the last entry that the message speaks of. A
/// commit index behind that entry need not be in this member's log, and consensus would compare it with
/// the end of the log by its term first. The next message repeats what is left out here.
fn vouched_commit(request: &AppendEntriesRequest<TypeConfig>) -> Result<Option<LogId>, Implausible> {
    let Some(commit) = &request.leader_commit else { return Ok(None) };
    let spoken_of = request.prev_log_id.iter().copied().chain(request.entries.iter().map(RaftEntry::log_id));
    let mut last = None;
    for entry in spoken_of {
        if entry.index == commit.index && entry != *commit {
            let (at, commit) = (codec::position(&entry), codec::position(commit));
            return Err(Implausible::Contradiction {
                index: at.index,
                term: at.term,
                known: commit.index,
                known_term: commit.term,
            });
        }
        last = Some(entry);
    }
    if let Some(previous) = &request.prev_log_id
        && commit.index < previous.index
    {
        let (at, end) = (codec::position(commit), codec::position(previous));
        if at.term > end.term {
            return Err(Implausible::TermFalls { before: at.term, term: end.term, index: end.index });
        }
        return Ok(Some(*commit));
    }
    Ok(last.map(|last| if last.index < commit.index { last } else { *commit }))
}

/// A membership that a cluster can have: somebody votes, and the URLs are no more than changes of the
/// members may make them.
fn membership(members: &Membership) -> Result<(), Implausible> {
    let configs = members.get_joint_config().len();
    let url_bytes = members.nodes().flat_map(|(_, peer)| &peer.peer_urls);
    let url_bytes: usize = url_bytes.map(|url| url.len() + limits::URL_BYTES).sum();
    let is_known = (1..=2).contains(&configs) && members.voter_ids().next().is_some();
    if is_known && url_bytes <= limits::MEMBERSHIP_BYTES_MAX { Ok(()) } else { Err(Implausible::Membership) }
}

#[cfg(test)]
mod tests;
