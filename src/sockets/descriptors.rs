//! How many connections the limit of open files allows.
//!
//! A connection uses a file descriptor, and so does the next segment of the log. If clients used up all
//! descriptors, the server could not open that segment and would have to stop. So a fixed number of
//! descriptors is reserved for the files of the server, each kind of port has its own share of the
//! rest, and a connection beyond that share waits until another connection closes.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Reminder;
use crate::limits;

/// Raises the soft limit of open files to the hard limit, as Go does for every program. Returns the
/// limit; `u64::MAX` means that there is none.
pub(crate) fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // If the limit cannot be raised, the server starts with the limit that it has.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The connections that each kind of port may have.
#[derive(Clone, Debug)]
pub(crate) struct Descriptors {
    pub(crate) clients: Places,
    /// A share of its own, so that health checks still pass when clients use all of their connections.
    pub(crate) metrics: Places,
    pub(crate) peers: Places,
}

impl Descriptors {
    /// The error is a message for the operator.
    pub(crate) fn within(limit: u64, reactors: usize) -> Result<Descriptors, String> {
        let reserved = limits::DESCRIPTORS_RESERVED + limits::DESCRIPTORS_PER_REACTOR * reactors as u64;
        if limit <= reserved {
            let with_one_reactor = limits::DESCRIPTORS_RESERVED + limits::DESCRIPTORS_PER_REACTOR;
            let or_else = if limit > with_one_reactor { ", or set a lower --reactors" } else { "" };
            return Err(format!(
                "the limit of open files is {limit}, but the server needs {reserved} for its own files and \
                 connections with --reactors {reactors}; raise the limit above {reserved} (`ulimit -n` in a shell, \
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

/// The connections that may be open at the same time, counted over all ports of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    total: usize,
    /// Who opens these connections, as the log names it.
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

    /// Waits until a connection may be opened.
    pub(super) async fn take(&self) -> Place {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return place;
        }
        if self.reminder.is_due() {
            tracing::warn!(
                connections = self.total,
                "all connections that the limit of open files allows for {} are in use; further connections wait \
                 until one closes. Raise the limit (`ulimit -n`, LimitNOFILE= in a systemd unit), or close unused \
                 connections",
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
        let needed = |reactors| limits::DESCRIPTORS_RESERVED + limits::DESCRIPTORS_PER_REACTOR * reactors;
        let error = Descriptors::within(needed(2), 2).expect_err("nothing is left for clients");
        let expected = format!("is {0}, but the server needs {0} for", needed(2));
        assert!(error.contains(&expected) && error.contains("`ulimit -n`"), "{error}");
        assert!(error.ends_with("or set a lower --reactors"), "{error}");
        let error = Descriptors::within(needed(1), 1).expect_err("fewer reactors than one there are not");
        assert!(error.ends_with("--ulimit nofile= for docker)"), "{error}");
        let shares = |limit| {
            let Descriptors { clients, metrics, peers } =
                Descriptors::within(limit, 2).expect("some are left");
            (clients.total, metrics.total, peers.total)
        };
        assert_eq!(shares(needed(2) + 1), (1, 16, 48));
        assert_eq!(shares(needed(2) + 98), (98 - 2 * 12, 16 + 12, 48 + 12));
        let (clients, metrics, peers) = shares(20_000);
        let all = (clients + metrics + peers - 16 - 48) as u64 + needed(2);
        assert_eq!(all, 20_000, "they add up to the limit");
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
