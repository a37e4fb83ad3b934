//! What a linearizable read waits for: an index of the log, and a quorum that has followed its leader since the read began.
//!
//! Heartbeats show that (Ongaro's thesis, section 6.4), and cost a round trip to the others. A member that asks on
//! behalf of its own readers shows it by asking: its request says that it has voted for nobody later than this leader
//! ([`Vouch`]). Where the two of them are a quorum, as in a cluster of three, no heartbeat is sent, and the answer takes
//! one round trip instead of two (decision 0065).

use std::collections::BTreeSet;

use openraft::{ServerState, raft::ReadPolicy};

use super::consensus::Consensus;

/// The word of a member that asks a leader for a read index: when it asked, it had voted for nobody of a later term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vouch {
    pub(crate) member: u64,
    /// The term in which it follows the leader that it asks.
    pub(crate) term: u64,
}

/// What the leader has committed, and in which term it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadPoint {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// What a vouch is judged by: the state of the member that was asked, at a moment after the vouch was given.
struct Standing<'s> {
    id: u64,
    /// The term in which it leads. `None` if it does not.
    leads: Option<u64>,
    /// Index and term of the last entry that it knows to be committed.
    committed: Option<(u64, u64)>,
    /// Of each configuration that has to agree, those who vote.
    voters: &'s [BTreeSet<u64>],
}

impl Standing<'_> {
    /// The index to wait for, if the leader and the member that vouches for it are a quorum.
    ///
    /// A later leader has the votes of a quorum, and so that of one of the two. This one had not voted for it when it asked, and
    /// the leader has not yet. So nothing was committed by a later leader when the request was sent. What was committed
    /// before is in this leader's log, up to an entry of its own term: without one it does not know how far (Raft paper,
    /// section 8).
    fn confirmed_by(&self, vouch: Vouch) -> Option<ReadPoint> {
        let term = self.leads.filter(|term| *term == vouch.term)?;
        let (index, _) = self.committed.filter(|(_, committed_term)| *committed_term == term)?;
        let agree = |voters: &BTreeSet<u64>| {
            let agreeing = BTreeSet::from([self.id, vouch.member]).intersection(voters).count();
            agreeing > voters.len() / 2
        };
        let is_quorum = !self.voters.is_empty() && self.voters.iter().all(agree);
        #[cfg(test)]
        let is_quorum = is_quorum || crate::planted::is(crate::planted::Bug::OneVouchIsEnough);
        is_quorum.then_some(ReadPoint { index, term })
    }
}

impl Consensus {
    /// The term in which this member follows `leader`, or has voted for it. `None` if its newest vote is for somebody else.
    pub(crate) fn follows(&self, leader: u64) -> Option<u64> {
        // The log store has each vote before anybody is told of it, so no later one was told when this is read.
        let vote = self.log.vote()?;
        (vote.leader_id.voted_for == leader).then_some(vote.leader_id.term)
    }

    /// The index that a read has to wait for, confirmed by a quorum after this call, or after the vouch was given. `None` if
    /// this member does not lead, or cannot reach a quorum.
    pub(crate) async fn read_index(&self, vouch: Option<Vouch>) -> Option<ReadPoint> {
        #[cfg(test)]
        if crate::planted::is(crate::planted::Bug::LeaderReadsAlone) {
            let now = self.leadership();
            return now.is_leader.then_some(ReadPoint { index: 0, term: now.term });
        }
        if let Some(vouch) = vouch
            && let Some(point) = self.confirmed_by(vouch).await
        {
            return Some(point);
        }
        let read = self.raft.get_read_log_id(ReadPolicy::ReadIndex).await;
        let (read, _) = read.ok()?;
        Some(ReadPoint { index: read.index(), term: read.committed_leader_id().term })
    }

    async fn confirmed_by(&self, vouch: Vouch) -> Option<ReadPoint> {
        let id = self.id;
        let judged = self.raft.with_raft_state(move |state| {
            let vote = state.vote_ref();
            let is_own = state.server_state == ServerState::Leader && vote.leader_id.voted_for == id;
            let standing = Standing {
                id,
                leads: (is_own && vote.committed).then_some(vote.leader_id.term),
                committed: state.local_committed().map(|last| (last.index, last.leader_id.term)),
                voters: state.membership_state.effective().membership().get_joint_config(),
            };
            standing.confirmed_by(vouch)
        });
        judged.await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(configurations: &[&[u64]]) -> Vec<BTreeSet<u64>> {
        configurations.iter().map(|voters| voters.iter().copied().collect()).collect()
    }

    /// Member 1, which leads in term 5 and has committed an entry of that term, is asked by `member`.
    fn confirms(configurations: &[&[u64]], member: u64) -> bool {
        let voters = voters(configurations);
        let standing = Standing { id: 1, leads: Some(5), committed: Some((70, 5)), voters: &voters };
        let point = standing.confirmed_by(Vouch { member, term: 5 });
        assert!(point.is_none_or(|point| point == ReadPoint { index: 70, term: 5 }));
        point.is_some()
    }

    #[test]
    fn the_two_have_to_be_a_quorum_of_those_who_vote() {
        assert!(confirms(&[&[1, 2, 3]], 2));
        assert!(confirms(&[&[1, 2]], 2));
        assert!(!confirms(&[&[1, 2, 3, 4]], 2));
        assert!(!confirms(&[&[1, 2, 3, 4, 5]], 2));
        // Member 9 has no vote.
        assert!(!confirms(&[&[1, 2, 3]], 9));
        assert!(!confirms(&[&[1, 2]], 9));
        // A leader that is being removed does not count.
        assert!(!confirms(&[&[2, 3, 4]], 2));
        assert!(!confirms(&[], 2));
    }

    #[test]
    fn while_the_members_change_both_configurations_have_to_agree() {
        assert!(confirms(&[&[1, 2, 3], &[1, 2]], 2));
        assert!(!confirms(&[&[1, 2, 3], &[1, 2, 3, 4]], 2));
        assert!(!confirms(&[&[1, 2, 3], &[1, 3, 4]], 2));
    }

    #[test]
    fn only_the_leader_of_that_term_is_confirmed_and_only_once_it_has_committed() {
        let voters = voters(&[&[1, 2, 3]]);
        let vouch = Vouch { member: 2, term: 5 };
        let with =
            |leads, committed| Standing { id: 1, leads, committed, voters: &voters }.confirmed_by(vouch);
        assert_eq!(with(Some(5), Some((70, 5))), Some(ReadPoint { index: 70, term: 5 }));
        assert_eq!(with(None, Some((70, 5))), None);
        assert_eq!(with(Some(6), Some((70, 6))), None);
        assert_eq!(with(Some(4), Some((70, 4))), None);
        // How much of what earlier leaders have committed it has heard of is not known yet.
        assert_eq!(with(Some(5), Some((70, 4))), None);
        assert_eq!(with(Some(5), None), None);
    }
}
