//! Finding whoever leads, and asking again until somebody answers as the leader.
//!
//! Everything that only the leader can do is asked for in the same way: wait until a leader is
//! known, ask it, and, if it did not answer as the leader, pause and ask whoever leads then. What is
//! asked, how long the caller waits, and which answer counts as "not the leader" differ, and stay
//! with the caller.

use std::{future, mem, time::Duration};

use tokio::time;

use crate::{
    link::Peer,
    raft::{Consensus, Leadership},
    sync::watch,
};

/// The leader of a term.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) id: u64,
    pub(super) term: u64,
    pub(super) route: Route,
}

/// How the leader is reached.
#[derive(Debug)]
pub(super) enum Route {
    /// This member is the leader.
    Own,
    Peer(Peer),
    /// The membership that this member knows does not hold the leader yet.
    Unknown,
}

/// Why no leader was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    /// None was known in the time that the caller gave.
    Leaderless,
    /// Consensus has stopped, and no leader will be known any more.
    Stopped,
}

/// One request's search for the leader, over as many leaders as it takes.
pub(super) struct LeaderSearch<'a> {
    consensus: &'a Consensus,
    leadership: watch::Receiver<Leadership>,
    own: u64,
    /// How long to pause after a leader that did not answer as one, unless a change of leadership
    /// comes earlier.
    pause: Duration,
    has_found: bool,
    /// Of the last leader that was found.
    term: u64,
}

impl<'a> LeaderSearch<'a> {
    pub(super) fn new(
        consensus: &'a Consensus,
        leadership: &watch::Receiver<Leadership>,
        own: u64,
        pause: Duration,
    ) -> LeaderSearch<'a> {
        LeaderSearch { consensus, leadership: leadership.clone(), own, pause, has_found: false, term: 0 }
    }

    /// The next leader to ask. It waits up to `leaderless_max` until a leader is known. After the
    /// first leader it pauses before that, because the one found before did not answer as the leader.
    pub(super) async fn next(&mut self, leaderless_max: Duration) -> Result<Leader, NotFound> {
        if mem::take(&mut self.has_found) {
            change_or(&mut self.leadership, self.pause).await;
        }
        let known = time::timeout(leaderless_max, known_leader(&mut self.leadership)).await;
        let (id, term) = known.map_err(|_| NotFound::Leaderless)??;
        self.has_found = true;
        assert!(term >= self.term, "a leader of term {term} is found after one of term {}", self.term);
        self.term = term;
        let route = if id == self.own {
            Route::Own
        } else {
            self.consensus.peer(id).map_or(Route::Unknown, Route::Peer)
        };
        Ok(Leader { id, term, route })
    }

    /// Resolves once `leader` is known not to lead in its term any more, or consensus has stopped.
    pub(super) async fn replaced(&mut self, leader: &Leader) {
        let is_other = |now: &Leadership| (now.leader, now.term) != (Some(leader.id), leader.term);
        drop(self.leadership.wait_for(is_other).await);
    }
}

/// Waits until there is a leader. Returns it and its term.
async fn known_leader(leadership: &mut watch::Receiver<Leadership>) -> Result<(u64, u64), NotFound> {
    let known = leadership.wait_for(|leadership| leadership.leader.is_some()).await;
    let known = known.map_err(|_| NotFound::Stopped)?;
    Ok((known.leader.expect("waited for"), known.term))
}

/// Waits for a change of leadership, but for no longer than `pause`. Once consensus has stopped there
/// is no more change, and the whole pause is waited for, so that no caller asks again without a pause.
async fn change_or(leadership: &mut watch::Receiver<Leadership>, pause: Duration) {
    let change = async {
        if leadership.changed().await.is_err() {
            future::pending().await
        }
    };
    let _ = time::timeout(pause, change).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_asks_again_without_a_pause_when_consensus_has_stopped() {
        let (publish, mut leadership) = watch::channel(Leadership::default());
        publish.send_replace(Leadership { leader: Some(7), ..Leadership::default() });
        let hour = Duration::from_secs(3600);
        change_or(&mut leadership, hour).await;
        drop(publish);
        assert_eq!(known_leader(&mut leadership).await, Ok((7, 0)), "the last known leader stays known");
        tokio::select! { biased;
            () = change_or(&mut leadership, hour) => panic!("there is no change, and no pause"),
            () = tokio::task::yield_now() => {}
        }
    }

    #[tokio::test]
    async fn a_stopped_consensus_without_a_leader_ends_the_search() {
        let (publish, mut leadership) = watch::channel(Leadership::default());
        drop(publish);
        assert_eq!(known_leader(&mut leadership).await, Err(NotFound::Stopped));
    }
}
