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
    let mut is_leader = false;
    let mut leader = None;
    loop {
        let deadline = node.expiry().next_deadline().filter(|_| is_leader);
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
                if now.is_leader != is_leader {
                    is_leader = now.is_leader;
                    if is_leader { node.promote_leases() } else { node.expiry().demote() }
                }
            }
            Event::Deadline => revoke_expired(&node).await,
        }
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
async fn revoke_expired(node: &Node) {
    let expired = node.expiry().expired(Instant::now(), limits::LEASE_REVOKES_PER_ROUND);
    let is_full_round = expired.len() == limits::LEASE_REVOKES_PER_ROUND;
    let revokes = expired.into_iter().map(|id| async move {
        match node.propose(Command::LeaseRevoke { id }).await {
            Ok(_) => node.metrics().leases_expired.inc(),
            Err(error) => {
                tracing::warn!(lease = %id, %error, "failed to revoke an expired lease; will retry")
            }
        }
    });
    futures_util::future::join_all(revokes).await;
    if is_full_round {
        time::sleep(limits::LEASE_ROUND_PAUSE).await;
    }
}
