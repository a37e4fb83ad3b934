//! What the rest of the member orders of the disk thread.

use std::{mem, sync::Arc, time::Instant};

use parking_lot::{Condvar, Mutex};

use crate::{clock, limits, node::lane::Lane};

/// Orders that the disk thread has not taken yet. Each thing is ordered or it is not, so there is no
/// queue that could be full; a caller that needs the result waits for that.
pub(crate) struct Orders {
    given: Mutex<Ordered>,
    arrived: Condvar,
    pub(in crate::node) defragmentations: Lane<(), Result<(), String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ordered {
    /// A compaction was applied; there is space to free.
    pub(super) compaction: bool,
    /// Somebody waits until what was compacted is off the disk.
    pub(super) physical_compaction: bool,
    /// Somebody waits until the database holds what has been applied.
    pub(super) checkpoint: bool,
    pub(super) defragmentation: bool,
    /// One last checkpoint, then end.
    pub(super) stop: bool,
}

impl Orders {
    pub(crate) fn new() -> Orders {
        Orders {
            given: Mutex::default(),
            arrived: Condvar::new(),
            defragmentations: Lane::new(limits::DEFRAGMENTATIONS_WAITING),
        }
    }

    pub(in crate::node) fn compact(&self) {
        self.give(|orders| orders.compaction = true);
    }

    pub(in crate::node) fn compact_physically(&self) {
        self.give(|orders| (orders.compaction, orders.physical_compaction) = (true, true));
    }

    pub(in crate::node) fn checkpoint(&self) {
        self.give(|orders| orders.checkpoint = true);
    }

    pub(in crate::node) fn defragment(&self) {
        self.give(|orders| orders.defragmentation = true);
    }

    pub(in crate::node) fn stop(&self) {
        self.give(|orders| orders.stop = true);
    }

    fn give(&self, order: impl FnOnce(&mut Ordered)) {
        order(&mut self.given.lock());
        self.arrived.notify_one();
    }

    /// What was ordered since the last call.
    pub(super) fn take(&self) -> Ordered {
        mem::take(&mut self.given.lock())
    }

    /// Waits until something is ordered, but no longer than until `time`.
    pub(super) fn wait_until(&self, time: Instant) {
        let mut given = self.given.lock();
        let wait = time.saturating_duration_since(clock::now());
        if *given == Ordered::default() && !wait.is_zero() {
            self.arrived.wait_for(&mut given, wait);
        }
    }

    /// The same for a simulated thread, which looks now and then.
    #[cfg(test)]
    pub(super) async fn given_until(self: &Arc<Self>, time: Instant) {
        while *self.given.lock() == Ordered::default() && !self.is_abandoned() && clock::now() < time {
            let next = clock::now() + crate::threads::SIMULATED_PAUSE;
            tokio::time::sleep_until(next.min(time).into()).await;
        }
    }

    /// Whether nobody is left who could order anything.
    pub(super) fn is_abandoned(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_taken_once_and_ends_the_wait() {
        let orders = Arc::new(Orders::new());
        assert!(orders.is_abandoned(), "the thread's own handle orders nothing");
        let other = orders.clone();
        assert!(!orders.is_abandoned());
        other.compact_physically();
        other.checkpoint();
        // Without the order this would wait for an hour.
        orders.wait_until(clock::now() + std::time::Duration::from_secs(3600));
        let ordered =
            Ordered { compaction: true, physical_compaction: true, checkpoint: true, ..Ordered::default() };
        assert_eq!(orders.take(), ordered);
        assert_eq!(orders.take(), Ordered::default());
    }
}
