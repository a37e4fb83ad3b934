//! The leader's deadlines of leases, set where a grant is applied.
//!
//! Every member applies grants and revokes; the one that leads keeps a deadline for each lease. The
//! deadline is set when the grant is applied and not when it is requested, so a lease has a deadline
//! also if its client has disconnected, and if the request came to another member.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::{
    apply::{Command, Outcome, Response},
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
            // Also if the revoke was refused: then there is no such lease, and no deadline for it.
            (Command::LeaseRevoke { id }, _) => self.expiry.lock().forget(*id),
            _ => {}
        }
    }
}
