//! What is left to do for a call that ended before its time.
//!
//! A call may leave something in the cluster that only the call knows of: a lease that was granted on
//! its behalf, or a place in a queue. If the call ends early, because its client goes, its deadline
//! passes or the member stops, a clean-up takes that away. Clean-ups run on the core thread, which
//! outlives the reactors, and a member that stops waits a moment for those under way.

use std::time::Duration;

use tokio::{runtime::Handle, task::JoinHandle, time};

use super::{Node, ProposeError, mailbox::Mailbox};
use crate::{apply::Command, limits, sync::watch, types::LeaseId};

/// Pause before a clean-up is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Where clean-ups run, and how many do.
pub(super) struct Cleanups {
    core: Handle,
    mailbox: std::sync::Arc<Mailbox>,
    running: watch::Sender<usize>,
}

impl Cleanups {
    /// For clean-ups on the current runtime, which hands out what comes into `mailbox`.
    pub(super) fn new(mailbox: std::sync::Arc<Mailbox>) -> Cleanups {
        Cleanups { core: Handle::current(), mailbox, running: watch::Sender::new(0) }
    }
}

/// Counts as running for as long as it lives.
struct Running(Node);

impl Running {
    fn begin(node: Node) -> Running {
        node.shared.cleanups.running.send_modify(|running| *running += 1);
        Running(node)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.shared.cleanups.running.send_modify(|running| {
            assert!(*running > 0, "a clean-up ends that has begun");
            *running -= 1;
        });
    }
}

impl Node {
    /// Revokes a lease that was granted on behalf of a call and that nobody has been told of. It is
    /// harmless to try that again, until the lease ends by itself.
    pub(super) fn clean_up_lease(&self, id: LeaseId, ttl: Duration) {
        self.clean_up(move |node| async move {
            let revoked = async {
                while let Err(error) = node.propose_own(Command::LeaseRevoke { id }).await {
                    if error == ProposeError::Stopped {
                        return;
                    }
                    time::sleep(RETRY_PAUSE).await;
                }
            };
            // If that takes too long, the lease is gone by itself.
            let _ = time::timeout(ttl, revoked).await;
        });
    }

    /// Undoes something of a call. What fails is not tried again, unless it was not even queued:
    /// the client may have come back for it in the meantime.
    pub(super) fn clean_up_with(&self, command: Command) {
        self.clean_up(|node| async move {
            while node.propose_own(command.clone()).await == Err(ProposeError::TooManyRequests) {
                time::sleep(RETRY_PAUSE).await;
            }
        });
    }

    fn clean_up<F>(&self, work: impl FnOnce(Node) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if *self.shared.cleanups.running.borrow() < limits::CLEANUPS_MAX {
            self.outliving(work);
        }
    }

    /// Runs a part of a call on the core thread, where it goes on when the call ends.
    pub(super) fn outliving<T, F>(&self, work: impl FnOnce(Node) -> F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let cleanups = &self.shared.cleanups;
        let node = Node { shared: self.shared.clone(), mailbox: cleanups.mailbox.clone() };
        let running = Running::begin(node.clone());
        let work = work(node);
        cleanups.core.spawn(async move {
            let done = work.await;
            // Only now: what came of it may ask for a clean-up when it is dropped.
            drop(running);
            done
        })
    }

    /// Resolves when no clean-up is under way, or after a moment.
    pub(super) async fn cleaned_up(&self) {
        let mut running = self.shared.cleanups.running.subscribe();
        let _ = time::timeout(limits::CLEANUP_TIMEOUT, running.wait_for(|running| *running == 0)).await;
    }
}
