//! The leader's deadlines of leases, set where a grant is applied.
//!
//! Every member applies grants and revokes; the one that leads keeps a deadline for each lease. The
//! deadline is set when the grant is applied and not when it is requested, so a lease has a deadline
//! also if its client has disconnected, and if the request came to another member.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::{
    apply::{ApplyError, Command, Outcome, Response},
    clock,
    lease::Expiry,
};

/// The leader's deadlines, and a notification of the task that sleeps until the next one.
#[derive(Debug, Default)]
pub(crate) struct LeaseClock {
    expiry: Mutex<Expiry>,
    changed: Notify,
}

impl LeaseClock {
    pub(crate) fn expiry(&self) -> MutexGuard<'_, Expiry> {
        self.expiry.lock()
    }

    /// Resolves if a deadline was set since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn applied(&self, command: &Command, outcome: &Outcome) {
        match (command, &outcome.result) {
            (Command::LeaseGrant { .. }, Ok(Response::LeaseGrant { id, ttl_secs })) => {
                let ttl = Duration::from_secs(u64::try_from(*ttl_secs).unwrap_or(0));
                self.expiry.lock().granted(*id, ttl, clock::now());
                self.changed.notify_one();
            }
            // After any other refusal, by an alarm or of a user, the lease lives on and has to end some time.
            (Command::LeaseRevoke { id }, Ok(_) | Err(ApplyError::LeaseNotFound)) => {
                self.expiry.lock().forget(*id);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::AuthError,
        types::{LeaseId, Rev},
    };

    /// A lease that nobody revokes any more would keep its keys for ever.
    #[test]
    fn a_lease_whose_revoke_was_refused_ends_all_the_same() {
        const LEASE: LeaseId = LeaseId(7);
        let clock = LeaseClock::default();
        clock.expiry().promote(1, clock::now(), Duration::ZERO, [(LEASE, Duration::from_secs(60))]);
        let revoked = |result| {
            let outcome = Outcome { rev: Rev(1), result, unread: None };
            clock.applied(&Command::LeaseRevoke { id: LEASE }, &outcome);
            clock.expiry().remaining(LEASE, clock::now()).is_some()
        };
        for refusal in [ApplyError::Corrupt, ApplyError::Auth(AuthError::PermissionDenied)] {
            assert!(revoked(Err(refusal)), "the lease is still there");
        }
        assert!(!revoked(Err(ApplyError::LeaseNotFound)));
    }
}
