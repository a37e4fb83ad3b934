//! What lives as long as leadership: the clock of the leases.
//!
//! Only the leader knows when a lease ends, and all it does about it is to propose a revoke. The
//! deadlines are in [`Expiry`](crate::lease::Expiry), which reads no clock; this is the one place
//! that sleeps for them.
//!
//! One task follows who leads. Another looks after the leases, for one term of this member, and is
//! gone with it, in the middle of whatever it does: what it proposes is for its own term only.

use std::time::{Duration, Instant};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time,
};

use super::Node;
use crate::{
    apply::Command, clock, lease::Attention, limits, raft::Leadership, telemetry::GoDuration, types::MemberId,
};

pub(crate) async fn run(node: Node, mut leadership: watch::Receiver<Leadership>) {
    // The term that this member leads in. A watch skips what came between two looks: another may
    // have led meanwhile, and what is known here of deadlines is of before.
    let mut leads: Option<(u64, Reign)> = None;
    let mut leader = None;
    let mut told = (None, 0);
    loop {
        tokio::select! { biased;
            () = node.stopping() => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
        let now = *leadership.borrow_and_update();
        if now.leader.is_some() && now.leader != leader {
            leader = now.leader;
            node.metrics().leader_changes.inc();
        }
        if (now.leader, now.term) != told {
            // Members that stand and lose come to a new term each time, which is no news.
            if now.leader.is_some() || told.0.is_some() {
                tell(&now);
            }
            told = (now.leader, now.term);
        }
        let now_leads = now.is_leader.then_some(now.term);
        if now_leads != leads.as_ref().map(|(term, _)| *term) {
            // The old one ends before the new one begins.
            drop(leads.take());
            node.expiry().demote();
            leads = now_leads.map(|term| {
                node.promote_leases(term);
                (term, Reign(tokio::spawn(look_after_leases(node.clone(), term))))
            });
        }
    }
}

/// The task of one term.
struct Reign(JoinHandle<()>);

impl Drop for Reign {
    fn drop(&mut self) {
        self.0.abort();
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

/// What the loop wakes up for.
enum Event {
    /// A round is over. How long the next one has to wait.
    Round(Duration),
    /// A deadline was set that may be earlier than the one slept for.
    LeaseChanged,
    Time,
}

async fn look_after_leases(node: Node, term: u64) {
    let mut attention = Attention::new(node.config().election_timeout, clock::now());
    let mut round: JoinSet<Duration> = JoinSet::new();
    let mut rest_until = None;
    loop {
        let now = clock::now();
        if let Some(late) = attention.look(now) {
            tracing::warn!(
                late = %GoDuration(late),
                "the leader was held up; no lease ends before its holder could renew it"
            );
        }
        rest_until = rest_until.filter(|until| now < *until);
        let (deadline, note) = {
            let expiry = node.expiry();
            (expiry.next_deadline(), expiry.next_note().filter(|_| node.config().lease_checkpoint))
        };
        if round.is_empty() && rest_until.is_none() {
            if deadline.is_some_and(|deadline| deadline <= now) && attention.is_sure(now) {
                round.spawn(revoke_expired(node.clone(), term, now));
            } else if note.is_some_and(|note| note <= now) {
                round.spawn(checkpoint(node.clone(), term));
            }
        }
        let look = attention.next_look(now, deadline);
        let note = note.filter(|note| *note > now);
        let event = tokio::select! { biased;
            Some(rest) = round.join_next() => Event::Round(rest.unwrap_or(limits::LEASE_ROUND_PAUSE)),
            () = node.lease_changed() => Event::LeaseChanged,
            () = sleep_until([look, note, rest_until].into_iter().flatten().min()) => Event::Time,
        };
        match event {
            Event::Round(rest) => rest_until = Some(clock::now() + rest),
            Event::LeaseChanged | Event::Time => {}
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
/// Where others vote, a member that was paused or cut off may lead no more and not know it. It
/// makes sure first, and what it proposes is for its own term only: an old leader's idea of time
/// never reaches the log of the next one.
async fn revoke_expired(node: Node, term: u64, now: Instant) -> Duration {
    if !node.confirm_leadership(term).await {
        return limits::LEASE_ROUND_PAUSE;
    }
    let expired = {
        let mut expiry = node.expiry();
        if expiry.term() != Some(term) {
            return limits::LEASE_ROUND_PAUSE;
        }
        expiry.expired(now, limits::LEASE_REVOKES_PER_ROUND)
    };
    let is_full_round = expired.len() == limits::LEASE_REVOKES_PER_ROUND;
    if !expired.is_empty() {
        let count = expired.len() as u64;
        let revokes: Vec<Command> = expired.into_iter().map(|id| Command::LeaseRevoke { id }).collect();
        match node.propose_in_term(term, revokes.into()).await {
            Ok(()) => node.metrics().leases_expired.inc_by(count),
            Err(error) => tracing::warn!(%error, count, "failed to revoke expired leases; will retry"),
        }
    }
    // What ends one after the other gathers meanwhile.
    if is_full_round { limits::LEASE_ROUND_PAUSE } else { limits::LEASE_LOOK_INTERVAL }
}

/// One round of checkpoints. Returns how long the next one has to wait.
async fn checkpoint(node: Node, term: u64) -> Duration {
    node.checkpoint_leases(term).await;
    limits::LEASE_ROUND_PAUSE
}
