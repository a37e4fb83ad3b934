//! How many connections the limit of open files leaves room for.
//!
//! A connection is a descriptor, and so is the next segment of the log. Whoever may open
//! connections could keep the server from opening that, and without it the server ends. So a fixed
//! number of descriptors is kept back for everything that the server opens by itself, each kind of
//! port has its own share, and a connection beyond it waits until another one closes.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Reminder;
use crate::limits;

/// Raises the limit of open files to the highest that this process may give itself, as Go does
/// for every program. Returns the limit; `u64::MAX` is none.
pub(crate) fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Not being allowed to is no reason not to start: the limit is what it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The connections that each kind of port may have.
#[derive(Clone, Debug)]
pub(crate) struct Descriptors {
    pub(crate) clients: Places,
    /// Of their own, so that a member is not taken for dead because its clients are many.
    pub(crate) metrics: Places,
    pub(crate) peers: Places,
}

impl Descriptors {
    /// The error is a line for a person.
    pub(crate) fn within(limit: u64, reactors: usize) -> Result<Descriptors, String> {
        let reserved = limits::DESCRIPTORS_RESERVED + limits::DESCRIPTORS_PER_REACTOR * reactors as u64;
        if limit <= reserved {
            let with_one_reactor = limits::DESCRIPTORS_RESERVED + limits::DESCRIPTORS_PER_REACTOR;
            let or_else = if limit > with_one_reactor { ", or set a lower --reactors" } else { "" };
            return Err(format!(
                "the limit of open files is {limit}, and {reserved} are needed for the server's own files and \
                 connections with --reactors {reactors}; raise it above {reserved} (`ulimit -n` in a shell, \
                 LimitNOFILE= in a systemd unit, --ulimit nofile= for docker){or_else}"
            ));
        }
        let spare = usize::try_from(limit - reserved).unwrap_or(usize::MAX);
        let share = spare / limits::CONNECTIONS_SHARE;
        Ok(Descriptors {
            clients: Places::new("clients", spare - 2 * share),
            metrics: Places::new("metrics and health checks", limits::METRICS_CONNECTIONS + share),
            peers: Places::new("peers", limits::PEER_CONNECTIONS + share),
        })
    }
}

/// Places for connections, shared by all ports of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    total: usize,
    /// Whose connections they are.
    whose: &'static str,
    reminder: Arc<Reminder>,
}

/// Held by a connection for as long as it is open.
pub(super) type Place = OwnedSemaphorePermit;

impl Places {
    pub(crate) fn new(whose: &'static str, total: usize) -> Places {
        let total = total.min(Semaphore::MAX_PERMITS);
        Places { free: Arc::new(Semaphore::new(total)), total, whose, reminder: Arc::default() }
    }

    /// Waits until there is one.
    pub(super) async fn take(&self) -> Place {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return place;
        }
        if self.reminder.is_due() {
            tracing::warn!(
                connections = self.total,
                "as many connections of {} are open as the limit of open files leaves room for; further ones \
                 wait until one closes. Raise the limit (`ulimit -n`, LimitNOFILE= in a systemd unit), or close \
                 connections that are not used",
                self.whose
            );
        }
        self.free.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_refused_with_the_number_to_raise_it_to() {
        let error = Descriptors::within(158, 2).expect_err("nothing is left for clients");
        assert!(error.contains("is 158, and 158 are needed") && error.contains("`ulimit -n`"), "{error}");
        assert!(error.ends_with("or set a lower --reactors"), "{error}");
        let error = Descriptors::within(154, 1).expect_err("fewer reactors than one there are not");
        assert!(error.ends_with("--ulimit nofile= for docker)"), "{error}");
        let shares = |limit| {
            let Descriptors { clients, metrics, peers } =
                Descriptors::within(limit, 2).expect("some are left");
            (clients.total, metrics.total, peers.total)
        };
        assert_eq!(shares(159), (1, 16, 48));
        assert_eq!(shares(256), (98 - 2 * 12, 16 + 12, 48 + 12));
        let (clients, metrics, peers) = shares(20_000);
        assert_eq!(clients + metrics + peers - 16 - 48 + 158, 20_000, "they add up to the limit");
        let endless = Descriptors::within(u64::MAX, 2).expect("no limit");
        assert_eq!(endless.clients.total, Semaphore::MAX_PERMITS);
    }

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        let limit = raise_limit();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }

    #[test]
    fn one_more_waits_until_a_place_is_free() {
        let places = Places::new("tests", 2);
        let first = places.take().now_or_never().expect("free");
        let _second = places.take().now_or_never().expect("free");
        let mut third = Box::pin(places.take());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert!(third.now_or_never().is_some());
    }
}
