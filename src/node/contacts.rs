//! Which members reach which, and what a leader does about it.
//!
//! Where nothing passes between the leader and one other member, in one direction or in both, that member applies
//! nothing and its clients wait. Consensus does not help: the leader has its quorum, and as long as the others hear it
//! they elect nobody else. So a leader that does not hear a voter asks the others, and hands the lead to one that reaches
//! everybody whom the leader hears, and in addition a voter which says that the leader does not answer it.
//!
//! ```text
//! leader ---- which of these answer you, and do they reach me? ----> other member
//!                                                                    other member ---- does the leader answer you? ----> voter
//! ```
//!
//! A voter that is slow, stopped or restarting changes nothing: it reaches the leader, or it answers nobody.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use tokio::time;

use super::Node;
use crate::{clock, link::Contacts, types::MemberId};

/// A voter counts as unheard after one and a half election timeouts, as long as a broken connection takes to be
/// replaced.
const UNHEARD: f64 = 1.5;

/// How long a leader has led, in election timeouts, before it looks for another one, and how long it waits after it has
/// found none.
const PAUSE_TIMEOUTS: u32 = 2;

/// Looks for a member that reaches more of the others, while this member leads, until it stops.
pub(crate) async fn run(node: Node) {
    let election_timeout = node.config().election_timeout;
    let mut pause = election_timeout / 4;
    loop {
        tokio::select! { biased;
            () = node.stopping() => return,
            () = time::sleep(pause) => {}
        }
        pause = if node.leave_lead_to_better_connected().await {
            election_timeout * PAUSE_TIMEOUTS
        } else {
            election_timeout / 4
        };
    }
}

impl Node {
    /// Returns whether others had to be asked.
    async fn leave_lead_to_better_connected(&self) -> bool {
        let leadership = self.leadership();
        let election_timeout = self.config().election_timeout;
        let has_led =
            leadership.elected_at.is_some_and(|at| clock::since(at) > election_timeout * PAUSE_TIMEOUTS);
        if !leadership.is_leader || leadership.is_sole_voter || !has_led {
            return false;
        }
        let (_, own) = self.ids();
        let (voters, peers) = self.shared.consensus.membership();
        let heard_of = self.shared.consensus.heard_of();
        let (heard, unheard): (BTreeSet<u64>, BTreeSet<u64>) =
            voters.iter().filter(|voter| **voter != own.0).partition(|voter| {
                heard_of.get(voter).is_some_and(|silence| *silence < election_timeout.mul_f64(UNHEARD))
            });
        if unheard.is_empty() {
            return false;
        }
        let asked =
            heard.iter().filter_map(|voter| Some((*voter, peers.get(voter)?))).map(async |(voter, peer)| {
                let others = voters.iter().copied().filter(|other| ![voter, own.0].contains(other)).collect();
                let asked =
                    self.shared.peers.ask_contacts(voter, peer, election_timeout, others, Some(own.0));
                Some((voter, asked.await.ok()?))
            });
        let contacts = join_all(asked).await.into_iter().flatten().collect();
        let progress = self.shared.consensus.progress();
        let candidates = better_connected(&heard, &unheard, &contacts);
        let Some(best) = candidates.max_by_key(|candidate| progress.get(candidate).copied()) else {
            return true;
        };
        let unheard: Vec<String> = unheard.into_iter().map(|voter| MemberId(voter).to_string()).collect();
        tracing::warn!(
            "unheard-member-ids" = ?unheard,
            "transferee-member-id" = %MemberId(best),
            "this leader does not hear a member that reaches another one; handing the lead to that one"
        );
        if let Err(error) = self.hand_over(MemberId(best), election_timeout).await {
            tracing::warn!(%error, "failed to transfer leadership to a member that reaches more of the others");
        }
        true
    }

    /// Which of some members answer this one. With `about`, also which of these that member answers.
    pub(crate) async fn peer_contacts(&self, members: &[u64], about: Option<u64>) -> Contacts {
        let election_timeout = self.config().election_timeout;
        let (_, own) = self.ids();
        let (_, peers) = self.shared.consensus.membership();
        let asked = peers.iter().filter(|(member, _)| **member != own.0 && members.contains(member));
        let answers = join_all(asked.map(async |(member, peer)| match about {
            None => {
                let greeted = self.shared.peers.greet(*member, peer, election_timeout / 2).await;
                greeted.ok().map(|()| (*member, false))
            }
            Some(about) => {
                // Longer than it takes the member to find out that it does not.
                let patience = election_timeout * 3 / 4;
                let asked = self.shared.peers.ask_contacts(*member, peer, patience, vec![about], None).await;
                asked.ok().map(|contacts| (*member, contacts.answering.contains(&about)))
            }
        }));
        let mut contacts = Contacts::default();
        for (member, reaches) in answers.await.into_iter().flatten() {
            contacts.answering.insert(member);
            if reaches {
                contacts.reaching.insert(member);
            }
        }
        contacts
    }
}

/// Of the voters that a leader hears, those that reach all of these, and in addition one that the leader does not hear
/// and that does not reach the leader.
fn better_connected(
    heard: &BTreeSet<u64>,
    unheard: &BTreeSet<u64>,
    contacts: &BTreeMap<u64, Contacts>,
) -> impl Iterator<Item = u64> {
    contacts.iter().filter_map(|(candidate, Contacts { answering, reaching })| {
        let reaches_all = heard.iter().all(|voter| voter == candidate || answering.contains(voter));
        let reaches_more = unheard.iter().any(|voter| answering.contains(voter) && !reaching.contains(voter));
        (reaches_all && reaches_more).then_some(*candidate)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each item is a voter that answers, with whether it reaches the leader.
    fn contacts(of: &[(u64, &[(u64, bool)])]) -> BTreeMap<u64, Contacts> {
        let of = of.iter().map(|(voter, answers)| {
            let answering = answers.iter().map(|(member, _)| *member).collect();
            let reaching =
                answers.iter().filter(|(_, reaches)| *reaches).map(|(member, _)| *member).collect();
            (*voter, Contacts { answering, reaching })
        });
        of.collect()
    }

    fn found(heard: &[u64], unheard: &[u64], of: &[(u64, &[(u64, bool)])]) -> Vec<u64> {
        let set = |ids: &[u64]| ids.iter().copied().collect();
        better_connected(&set(heard), &set(unheard), &contacts(of)).collect()
    }

    const NOBODY: [u64; 0] = [];

    #[test]
    fn a_voter_that_reaches_everybody_takes_over_where_the_leader_does_not() {
        assert_eq!(found(&[2], &[3], &[(2, &[(3, false)])]), [2]);
        assert_eq!(found(&[2, 4], &[3], &[(2, &[(3, false), (4, true)]), (4, &[(2, true)])]), [2]);
    }

    #[test]
    fn nobody_takes_over_because_a_voter_is_slow_or_gone() {
        assert_eq!(found(&[2], &[3], &[(2, &[(3, true)])]), NOBODY, "it reaches the leader");
        assert_eq!(found(&[2], &[3], &[(2, &[])]), NOBODY, "it answers nobody");
        assert_eq!(found(&[2], &[3], &[]), NOBODY, "nobody answers the leader");
    }

    #[test]
    fn nobody_takes_over_who_would_have_to_hand_the_lead_back() {
        let split: &[(u64, &[(u64, bool)])] = &[(2, &[(3, false)]), (4, &[(3, false)])];
        assert_eq!(found(&[2, 4], &[3], split), NOBODY, "2 and 4 do not reach each other");
    }
}
