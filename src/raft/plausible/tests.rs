//! One message of each kind that no correct member sends, and beside it the honest ones that look alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use openraft::{EntryPayload, storage::RaftLogStorage, vote::leader_id_std::LeaderId};

use super::*;
use crate::{
    config::Config,
    disk::memory::MemoryDisk,
    link::Peer,
    raft::{
        LogStore,
        typ::{Entry, StoredMembership},
    },
    telemetry::Metrics,
};

const OWN: u64 = 1;
const LEADER: u64 = 7;

fn at(term: u64, index: u64) -> LogId {
    codec::log_id(LogPosition { term, index })
}

fn vote(term: u64, voted_for: u64, committed: bool) -> Vote {
    Vote { leader_id: LeaderId { term, voted_for }, committed }
}

/// A follower of the leader of term 5, whose log is committed up to entry 100 of term 4.
fn known() -> Known {
    Known {
        own: OWN,
        vote: vote(5, LEADER, true),
        last_index: 120,
        committed: Some(LogPosition { term: 4, index: 100 }),
    }
}

fn append(
    previous: Option<LogId>,
    entries: &[LogId],
    commit: Option<LogId>,
) -> AppendEntriesRequest<TypeConfig> {
    let entries = entries.iter().map(|log_id| Entry { log_id: *log_id, payload: EntryPayload::Blank });
    AppendEntriesRequest {
        vote: vote(5, LEADER, true),
        prev_log_id: previous,
        entries: entries.collect(),
        leader_commit: commit,
    }
}

fn members(voters: &[u64], url: &str) -> Membership {
    let peer = Peer { peer_urls: vec![url.to_owned()], is_learner: false };
    let nodes: BTreeMap<u64, Peer> = voters.iter().map(|id| (*id, peer.clone())).collect();
    let configs =
        if voters.is_empty() { Vec::new() } else { vec![BTreeSet::from_iter(voters.iter().copied())] };
    Membership::new(configs, nodes).expect("every voter is a node")
}

/// The verdict, and the commit index that is left.
fn judged(mut request: AppendEntriesRequest<TypeConfig>) -> Result<Option<LogId>, Implausible> {
    known().append(LEADER, &mut request).map(|()| request.leader_commit)
}

#[test]
fn what_a_leader_sends_is_believed() {
    let cases = [
        // A heartbeat that knows nothing of this member yet, and one that does.
        (append(None, &[], Some(at(4, 100))), None),
        (append(Some(at(4, 110)), &[], Some(at(4, 105))), Some(at(4, 105))),
        // The commit index may be far ahead of a member that catches up.
        (append(Some(at(4, 110)), &[], Some(at(5, 9000))), Some(at(4, 110))),
        (append(Some(at(4, 110)), &[at(4, 111), at(5, 112)], Some(at(5, 9000))), Some(at(5, 112))),
        (append(Some(at(4, 110)), &[at(4, 111), at(5, 112)], Some(at(4, 111))), Some(at(4, 111))),
        // Entries from the beginning, and what was sent before.
        (append(None, &[at(0, 0), at(1, 1)], None), None),
        (append(Some(at(3, 90)), &[at(4, 91)], Some(at(4, 91))), Some(at(4, 91))),
        // A member that was away for long.
        (append(Some(at(5, 1 << 40)), &[], None), None),
    ];
    for (request, commit) in cases {
        let described = format!("{request:?}");
        assert_eq!(judged(request), Ok(commit), "{described}");
    }
}

/// Consensus answers it with the vote that it knows. What else it says is not used.
#[test]
fn a_leader_that_was_deposed_is_answered() {
    for deposed in [vote(4, LEADER, true), vote(5, LEADER + 1, true)] {
        let from = deposed.leader_id.voted_for;
        let mut request = append(Some(at(3, 500)), &[], Some(at(3, 500)));
        request.vote = deposed;
        assert_eq!(known().append(from, &mut request), Ok(()));
        assert_eq!(request.leader_commit, None);
    }
}

#[test]
fn an_append_that_breaks_what_raft_guarantees_is_refused() {
    let far = at(5, u64::MAX);
    let cases = [
        (append(Some(at(4, 110)), &[at(5, 500), at(5, 3)], None), "entry 500 follows entry 110"),
        (append(Some(at(4, 110)), &[at(5, 111), at(5, 113)], None), "entry 113 follows entry 111"),
        (append(Some(at(4, 110)), &[at(5, 111), at(5, 111)], None), "entry 111 follows entry 111"),
        (append(None, &[at(1, 1)], None), "entry 1 follows entry 0"),
        (append(Some(at(5, 110)), &[at(4, 111)], None), "the term falls from 5 to 4"),
        (append(Some(at(4, 110)), &[at(6, 111)], None), "entry 111 has term 6"),
        (append(Some(at(6, 110)), &[], None), "entry 110 has term 6"),
        (append(Some(far), &[], None), "cannot be reached"),
        (append(Some(at(4, 110)), &[], Some(far)), "cannot be reached"),
        (append(Some(at(3, 101)), &[at(3, 102)], None), "contradicts entry 100 of term 4"),
        (append(Some(at(5, 99)), &[], None), "contradicts entry 100 of term 4"),
        (append(Some(at(3, 99)), &[at(5, 100)], None), "contradicts entry 100 of term 4"),
        (append(Some(at(4, 110)), &[], Some(at(3, 109))), "contradicts entry 100 of term 4"),
        (append(Some(at(4, 110)), &[], Some(at(5, 109))), "the term falls from 5 to 4"),
        (append(Some(at(4, 110)), &[at(4, 111)], Some(at(5, 111))), "contradicts"),
    ];
    for (request, reason) in cases {
        let described = format!("{request:?}");
        let refusal = judged(request).expect_err(&described).to_string();
        assert!(refusal.contains(reason), "{refusal}: {described}");
    }
    let huge = "x".repeat(limits::MEMBERSHIP_BYTES_MAX);
    for lie in [members(&[], ""), members(&[1, 2], &huge)] {
        let mut request = append(Some(at(4, 110)), &[at(5, 111)], None);
        request.entries[0].payload = EntryPayload::Membership(lie);
        assert_eq!(judged(request), Err(Implausible::Membership));
    }
}

#[test]
fn a_term_that_no_election_reaches_is_refused() {
    for term in [u64::MAX, 6 + limits::TERMS_AHEAD_MAX, limits::LOG_NUMBER_MAX + 1] {
        let mut request = append(None, &[], None);
        request.vote = vote(term, LEADER, true);
        assert_eq!(judged(request), Err(Implausible::Term { term, ours: 5 }));
        let candidate = vote(term, LEADER, false);
        assert_eq!(known().candidate(LEADER, &candidate, None), Err(Implausible::Term { term, ours: 5 }));
        let leader = vote(5, LEADER, true);
        assert!(vote_in_answer(&leader, &vote(term, LEADER, false)).is_err());
    }
    let isolated = vote(5 + limits::TERMS_AHEAD_MAX, LEADER, false);
    assert_eq!(known().candidate(LEADER, &isolated, None), Ok(()), "a member that stood alone for years");
    // However many messages it takes: what is stored can be opened, and an election can follow it.
    let last = Known { vote: vote(limits::LOG_NUMBER_MAX, LEADER, true), ..known() };
    let next = vote(limits::LOG_NUMBER_MAX + 1, LEADER, false);
    assert!(last.candidate(LEADER, &next, None).is_err());
}

#[test]
fn a_member_speaks_for_itself_and_in_its_role() {
    let known = known();
    let (leader, candidate) = (vote(6, LEADER, true), vote(6, LEADER, false));
    assert!(known.candidate(LEADER, &candidate, Some(&at(5, 130))).is_ok());
    assert!(known.candidate(LEADER, &candidate, Some(&at(3, 1))).is_ok(), "consensus refuses a short log");
    assert!(known.candidate(8, &candidate, None).is_err(), "in the name of another");
    assert!(known.candidate(LEADER, &leader, None).is_err(), "as if it had won");
    assert!(known.candidate(LEADER, &candidate, Some(&at(7, 130))).is_err(), "a log of a later term");
    assert!(known.candidate(OWN, &vote(6, OWN, false), None).is_err(), "in this member's own name");
    let mut request = append(None, &[], None);
    request.vote = vote(6, OWN, true);
    assert!(known.append(OWN, &mut request).is_err(), "it would make this member the leader");
    request.vote = candidate;
    assert!(known.append(LEADER, &mut request).is_err(), "nobody has elected it");
    assert!(known.transfer(LEADER, &leader, Some(&at(6, 130))).is_ok());
    assert!(known.transfer(LEADER, &candidate, None).is_err());
}

#[test]
fn a_snapshot_is_of_the_log_of_its_leader() {
    let known = known();
    let leader = vote(5, LEADER, true);
    let meta = |last: Option<LogId>, of: Option<LogId>, voters: &[u64]| SnapshotMeta {
        last_log_id: last,
        last_membership: StoredMembership::new(of, members(voters, "http://a:1")),
    };
    let honest = meta(Some(at(5, 9000)), Some(at(4, 50)), &[1, 7]);
    assert_eq!(known.snapshot(LEADER, &leader, &honest), Ok(()));
    let lies = [
        meta(None, None, &[1, 7]),
        meta(Some(at(6, 9000)), Some(at(4, 50)), &[1, 7]),
        meta(Some(at(3, 9000)), Some(at(3, 50)), &[1, 7]),
        meta(Some(at(5, u64::MAX)), Some(at(4, 50)), &[1, 7]),
        meta(Some(at(5, 9000)), Some(at(5, 9001)), &[1, 7]),
        meta(Some(at(5, 9000)), Some(at(4, 50)), &[]),
    ];
    for lie in lies {
        assert!(known.snapshot(LEADER, &leader, &lie).is_err(), "{lie:?}");
    }
}

#[test]
fn an_answer_is_to_what_was_asked() {
    let leader = vote(5, LEADER, true);
    let (previous, last) = (at(4, 110), at(5, 120));
    let judge = |answer| append_answer(&leader, (Some(&previous), Some(&last)), &answer);
    for appended in [previous, at(5, 115), last] {
        assert_eq!(judge(AppendEntriesResponse::PartialSuccess(Some(appended))), Ok(()));
    }
    for appended in [at(4, 109), at(5, 121), at(6, 115)] {
        let lie = AppendEntriesResponse::PartialSuccess(Some(appended));
        assert_eq!(judge(lie), Err(Implausible::Unasked));
    }
    assert!(judge(AppendEntriesResponse::HigherVote(vote(u64::MAX, 9, false))).is_err());
    let answer = |last| VoteResponse { vote: leader, vote_granted: false, last_log_id: Some(last) };
    assert_eq!(vote_answer(&leader, &answer(at(5, 9000))), Ok(()));
    assert!(vote_answer(&leader, &answer(at(5, u64::MAX))).is_err());
}

#[test]
fn a_log_beyond_reach_is_named() {
    let vote = HardState { term: u64::MAX, voted_for: 7, committed: true };
    let named = beyond_reach(Some(&vote), None).expect("no election reaches that");
    assert!(named.contains("term 18446744073709551615"), "{named}");
    let named = beyond_reach(None, Some(LogPosition { term: 1, index: u64::MAX - 1 }));
    assert!(named.expect("no log is that long").contains("entry 18446744073709551614"));
    let vote = HardState { term: limits::LOG_NUMBER_MAX, ..vote };
    assert_eq!(beyond_reach(Some(&vote), None), None, "what a message may say can be opened");
}

/// As a version stored it that did not judge messages.
#[tokio::test]
async fn a_start_names_the_term_that_the_log_has_come_to() {
    let disk = Arc::new(MemoryDisk::default());
    let metrics = || Arc::new(Metrics::new(&Config::of_flags(&[])));
    let mut log = LogStore::open(disk.clone(), false, None, None, 3, None, metrics()).expect("a new log");
    log.save_vote(&vote(u64::MAX, LEADER, true)).await.expect("it is stored");
    drop(log);
    let refused = LogStore::open(disk, true, None, None, 3, None, metrics());
    let error = refused.err().expect("the start is refused").to_string();
    assert!(error.contains("damaged: the log has come to term 18446744073709551615"), "{error}");
}
