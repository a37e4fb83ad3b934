//! The tasks of a leader's term: renewing, revoking and checkpointing leases.
//!
//! Only the leader knows when a lease ends, and all it does about it is to propose a revoke. The
//! deadlines are in [`Expiry`](crate::lease::Expiry), which reads no clock; this is the one place
//! that sleeps for them.
//!
//! One task follows changes of leadership. While this member leads, a second task looks after the
//! leases, and a third after the nodes of the version 2 API that expire. These end with the term, at any point of their work; this is safe because what they
//! propose is valid in its own term only.

use std::time::{Duration, Instant};

use tokio::{
    task::{JoinHandle, JoinSet},
    time,
};

use super::{Node, v2};
use crate::{
    apply::Command, clock, lease::Attention, limits, raft::Leadership, sync::watch, telemetry::GoDuration,
    types::MemberId,
};

pub(crate) async fn run(node: Node, mut leadership: watch::Receiver<Leadership>) {
    // The term that this member leads in. A watch channel skips values, so another member may have led
    // between two of them, and deadlines of an earlier term must not be used.
    let mut leads: Option<(u64, Reign)> = None;
    let mut leader = None;
    let mut told = (None, 0);
    loop {
        tokio::select! { biased;
            () = node.stopping() => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
        let now = *leadership.borrow_and_update();
        assert!(now.term >= told.1, "this member is in term {} after term {}", now.term, told.1);
        if now.leader.is_some() && now.leader != leader {
            leader = now.leader;
            node.metrics().leader_changes.inc();
        }
        if (now.leader, now.term) != told {
            node.leader_was_found(now.leader);
            // A candidate that loses moves to a new term each time, which is not worth a line.
            if now.leader.is_some() || told.0.is_some() {
                tell(&now);
            }
            told = (now.leader, now.term);
        }
        let now_leads = now.is_leader.then_some(now.term);
        if now_leads != leads.as_ref().map(|(term, _)| *term) {
            // The task of the old term ends before the task of the new term begins.
            drop(leads.take());
            node.expiry().demote();
            leads = now_leads.map(|term| {
                node.promote_leases(term);
                let leases = tokio::spawn(look_after_leases(node.clone(), term));
                (term, Reign([leases, tokio::spawn(v2::expire(node.clone(), term))]))
            });
        }
    }
}

/// The tasks of one term.
struct Reign([JoinHandle<()>; 2]);

impl Drop for Reign {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn tell(leadership: &Leadership) {
    match leadership.leader {
        Some(leader) => {
            tracing::info!(
                leader = %MemberId(leader),
                term = leadership.term,
                "a leader was elected"
            )
        }
        None => tracing::info!(term = leadership.term, "there is no leader"),
    }
}

/// What the leader does about leases now and next. It reads no clock: each turn is told the time.
struct LeaseWatch {
    attention: Attention,
    /// A round is under way; there is never a second one beside it.
    is_round_under_way: bool,
    rest_until: Option<Instant>,
}

/// A round is one batch of proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Revoke,
    Checkpoint,
}

/// What comes of a turn.
#[derive(Debug)]
struct Turn {
    /// By how much the leader was late for this turn, if it was held up.
    late: Option<Duration>,
    /// The round that begins now.
    begins: Option<Round>,
    /// When the next turn is due; `None` if only a new deadline or the end of a round makes it due.
    next: Option<Instant>,
}

impl LeaseWatch {
    fn new(election_timeout: Duration, now: Instant) -> LeaseWatch {
        LeaseWatch {
            attention: Attention::new(election_timeout, now),
            is_round_under_way: false,
            rest_until: None,
        }
    }

    /// With the next `deadline` of a lease, and when the next `note` of what is left of one is due.
    fn turn(&mut self, now: Instant, deadline: Option<Instant>, note: Option<Instant>) -> Turn {
        let late = self.attention.look(now);
        self.rest_until = self.rest_until.filter(|until| now < *until);
        let is_due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        let is_sure = self.attention.is_sure(now);
        #[cfg(test)]
        let is_sure = is_sure || crate::planted::is(crate::planted::Bug::RevokeOnDemotedLeader);
        let begins = if self.is_round_under_way || self.rest_until.is_some() {
            None
        } else if is_due(deadline) && is_sure {
            Some(Round::Revoke)
        } else if is_due(note) {
            Some(Round::Checkpoint)
        } else {
            None
        };
        self.is_round_under_way |= begins.is_some();
        let look = self.attention.next_look(now, deadline);
        let note = note.filter(|note| *note > now);
        let next = [look, note, self.rest_until].into_iter().flatten().min();
        Turn { late, begins, next }
    }

    /// The next round may begin after `rest`.
    fn round_ended(&mut self, now: Instant, rest: Duration) {
        assert!(self.is_round_under_way, "a round ends that has begun");
        self.is_round_under_way = false;
        self.rest_until = Some(now + rest);
    }
}

async fn look_after_leases(node: Node, term: u64) {
    let mut watch = LeaseWatch::new(node.config().election_timeout, clock::now());
    let mut round: JoinSet<Duration> = JoinSet::new();
    loop {
        let now = clock::now();
        let (deadline, note) = {
            let expiry = node.expiry();
            (expiry.next_deadline(), expiry.next_note().filter(|_| node.config().lease_checkpoint))
        };
        let turn = watch.turn(now, deadline, note);
        if let Some(late) = turn.late {
            tracing::warn!(
                late = %GoDuration(late),
                "the leader was stalled; no lease expires until pending keep-alives have been processed"
            );
        }
        match turn.begins {
            Some(Round::Revoke) => drop(round.spawn(revoke_expired(node.clone(), term, now))),
            Some(Round::Checkpoint) => drop(round.spawn(checkpoint(node.clone(), term))),
            None => {}
        }
        tokio::select! { biased;
            Some(rest) = round.join_next() => {
                watch.round_ended(clock::now(), rest.unwrap_or(limits::LEASE_ROUND_PAUSE));
            }
            // A deadline was set that may be earlier than the next turn.
            () = node.lease_changed() => {}
            () = sleep_until(turn.next) => {}
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// One round of revokes, of leases that had ended at `now`. They are proposed together and share a
/// log entry; a round that fails is repeated, for `Expiry` hands a lease out again until it is
/// revoked. Returns how long the next one has to wait.
///
/// With more than one voter, a member that was paused or isolated may have lost its leadership without
/// knowing it. So it has a quorum confirm its leadership first, and it proposes the revokes for its own
/// term only: what an old leader thinks the time is never reaches the log of its successor.
async fn revoke_expired(node: Node, term: u64, now: Instant) -> Duration {
    #[cfg(test)]
    let asks = !crate::planted::is(crate::planted::Bug::RevokeOnDemotedLeader);
    #[cfg(not(test))]
    let asks = true;
    if asks && !node.confirm_leadership(term).await {
        return limits::LEASE_ROUND_PAUSE;
    }
    let expired = {
        let mut expiry = node.expiry();
        if expiry.term() != Some(term) {
            return limits::LEASE_ROUND_PAUSE;
        }
        expiry.expired(now, limits::LEASE_REVOKES_PER_ROUND)
    };
    #[cfg(test)]
    let expired: Vec<_> = expired
        .into_iter()
        .filter(|id| !crate::planted::is(crate::planted::Bug::DropRevoke) || id.0 % 4 != 0)
        .collect();
    assert!(expired.len() <= limits::LEASE_REVOKES_PER_ROUND, "a round of revokes fits an entry");
    let is_full_round = expired.len() == limits::LEASE_REVOKES_PER_ROUND;
    if !expired.is_empty() {
        let count = expired.len() as u64;
        #[cfg(test)]
        if !asks {
            for id in expired {
                drop(tokio::spawn({
                    let node = node.clone();
                    async move { node.propose_own(Command::LeaseRevoke { id }).await.is_ok() }
                }));
            }
            return limits::LEASE_ROUND_PAUSE;
        }
        let revokes = expired.into_iter().map(|id| Command::LeaseRevoke { id }).collect();
        match node.propose_in_term(term, revokes).await {
            Ok(()) => node.metrics().leases_expired.inc_by(count),
            Err(error) => tracing::warn!(%error, count, "failed to revoke expired leases; will retry"),
        }
    }
    // Leases that expire meanwhile are revoked together in the next round.
    if is_full_round { limits::LEASE_ROUND_PAUSE } else { limits::LEASE_LOOK_INTERVAL }
}

/// One round of checkpoints. Returns how long the next one has to wait.
async fn checkpoint(node: Node, term: u64) -> Duration {
    node.checkpoint_leases(term).await;
    limits::LEASE_ROUND_PAUSE
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_secs(1);

    #[test]
    fn rounds_come_one_after_the_other_and_rest_between() {
        let start = Instant::now();
        let mut watch = LeaseWatch::new(ELECTION, start);
        let deadline = Some(start);
        let mut now = start;
        // It looks again and again until it has been awake for an election timeout.
        while now < start + ELECTION {
            let turn = watch.turn(now, deadline, None);
            assert_eq!(
                (turn.begins, turn.late),
                (None, None),
                "a leader that is new lets holders renew first"
            );
            now = turn.next.expect("a lease is due");
        }
        assert_eq!(watch.turn(now, deadline, None).begins, Some(Round::Revoke));
        assert_eq!(watch.turn(now, deadline, Some(now)).begins, None, "a round is under way");
        watch.round_ended(now, limits::LEASE_ROUND_PAUSE);
        let turn = watch.turn(now, None, Some(now));
        assert_eq!(turn.begins, None, "it rests");
        assert_eq!(turn.next, Some(now + limits::LEASE_ROUND_PAUSE));
        now += limits::LEASE_ROUND_PAUSE;
        assert_eq!(watch.turn(now, None, Some(now)).begins, Some(Round::Checkpoint));
    }

    #[test]
    fn a_leader_without_leases_waits_for_one() {
        let now = Instant::now();
        assert_eq!(LeaseWatch::new(ELECTION, now).turn(now, None, None).next, None);
    }
}
