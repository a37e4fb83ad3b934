//! What lives as long as leadership: the clock of the leases.
//!
//! Only the leader knows when a lease ends, and all it does about it is to propose a revoke. The
//! deadlines are in [`Expiry`](crate::lease::Expiry), which reads no clock; this is the one place
//! that sleeps for them.

use std::time::Instant;

use tokio::{sync::watch, time};

use super::Node;
use crate::{apply::Command, limits, raft::Leadership};

/// What the loop wakes up for.
enum Event {
    Leadership,
    /// A deadline was set that may be earlier than the one slept for.
    LeaseChanged,
    Deadline,
    Stopping,
}

pub(crate) async fn run(node: Node, mut leadership: watch::Receiver<Leadership>) {
    // The term that this member leads in. A watch skips what came between two looks: another may
    // have led meanwhile, and what is known here of deadlines is of before.
    let mut leads = None;
    let mut leader = None;
    let mut told = (None, 0);
    loop {
        let deadline = node.expiry().next_deadline().filter(|_| leads.is_some());
        let event = tokio::select! { biased;
            () = node.stopping() => Event::Stopping,
            changed = leadership.changed() => if changed.is_ok() { Event::Leadership } else { Event::Stopping },
            () = node.lease_changed() => Event::LeaseChanged,
            () = sleep_until(deadline) => Event::Deadline,
        };
        match event {
            Event::Stopping => return,
            Event::LeaseChanged => {}
            Event::Leadership => {
                let now = *leadership.borrow_and_update();
                if now.leader.is_some() && now.leader != leader {
                    leader = now.leader;
                    node.metrics().leader_changes.inc();
                }
                if (now.leader, now.term) != told {
                    told = (now.leader, now.term);
                    tell(&now);
                }
                let now_leads = now.is_leader.then_some(now.term);
                if now_leads != leads {
                    leads = now_leads;
                    if leads.is_some() { node.promote_leases() } else { node.expiry().demote() }
                }
            }
            Event::Deadline => revoke_expired(&node).await,
        }
    }
}

fn tell(leadership: &Leadership) {
    match leadership.leader {
        Some(leader) => {
            tracing::info!(
                leader = format_args!("{leader:x}"),
                term = leadership.term,
                "a leader was elected"
            )
        }
        None => tracing::info!(term = leadership.term, "there is no leader"),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// One round of revokes. They are proposed together and share a log entry; a round that fails is
/// repeated, for `Expiry` hands a lease out again until it is revoked.
///
/// Where others vote, a member that was paused or cut off may lead no more and not know it. It
/// makes sure first, and what it proposes is for its own term only: an old leader's idea of time
/// never reaches the log of the next one.
async fn revoke_expired(node: &Node) {
    let term = node.leadership().term;
    if node.read_barrier().await.is_err() || node.leadership().term != term {
        // The leases that are due stay due. News of leadership comes first.
        time::sleep(limits::LEASE_ROUND_PAUSE).await;
        return;
    }
    let expired = node.expiry().expired(Instant::now(), limits::LEASE_REVOKES_PER_ROUND);
    let is_full_round = expired.len() == limits::LEASE_REVOKES_PER_ROUND;
    if !expired.is_empty() {
        let count = expired.len() as u64;
        let revokes: Vec<Command> = expired.into_iter().map(|id| Command::LeaseRevoke { id }).collect();
        match node.propose_in_term(term, revokes.into()).await {
            Ok(()) => node.metrics().leases_expired.inc_by(count),
            Err(error) => tracing::warn!(%error, count, "failed to revoke expired leases; will retry"),
        }
    }
    if is_full_round {
        time::sleep(limits::LEASE_ROUND_PAUSE).await;
    }
}
