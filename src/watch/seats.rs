//! The watchers of one range: a set that usually has one entry, and sometimes thousands.

use super::{StreamId, WatchId};

/// The address of a watcher in the hub: its stream, and its id there.
pub(super) type Seat = (StreamId, WatchId);

/// A sorted list, which is small with one entry, and fast to walk with thousands.
#[derive(Debug)]
pub(super) struct Seats(Vec<Seat>);

impl Seats {
    pub(super) fn one(seat: Seat) -> Seats {
        Seats(vec![seat])
    }

    pub(super) fn insert(&mut self, seat: Seat) {
        let at = self.0.binary_search(&seat).expect_err("a watcher is added once");
        self.0.insert(at, seat);
    }

    pub(super) fn remove(&mut self, seat: Seat) {
        let at = self.0.binary_search(&seat).expect("a synced watcher is in the group");
        self.0.remove(at);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_slice(&self) -> &[Seat] {
        &self.0
    }
}
