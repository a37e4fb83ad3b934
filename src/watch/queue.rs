//! The bounded queue between the hub and one stream.
//!
//! The hub never waits. If the queue has no room for a revision (in deliveries or in bytes), the revision
//! is not queued, its watchers become unsynced, and the hub queues a *lag notice*
//! ([`Delivery::Lagging`]). One place in the queue is reserved for the notice, so a stream always learns of
//! its unsynced watchers, and only after it took all deliveries that were queued before. There is at most
//! one notice in the queue, because the stream then asks the hub for all these watchers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use super::{Delivery, StreamId, WatchId};
use crate::limits::{WATCH_QUEUE_BYTES, WATCH_QUEUE_BYTES_UNREAD};

/// The hub's end.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: mpsc::Sender<Queued>,
    bytes: Arc<AtomicUsize>,
    /// Deliveries queued since the stream was opened.
    handed: u64,
    /// A lag notice is in the queue.
    has_lag_notice: bool,
    /// Bytes in the queue after something was last added. There are fewer if the stream has taken something since.
    filled: usize,
    /// Bytes that were added since the stream is known to have taken something.
    unread: usize,
}

/// The stream's end.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) stream: StreamId,
    queue: mpsc::Receiver<Queued>,
    bytes: Arc<AtomicUsize>,
    /// Deliveries taken out since the stream was opened.
    taken: u64,
    /// Cancelled watchers, each with the last delivery that may still contain events for it.
    cancelled: BTreeMap<WatchId, u64>,
    /// Progress notifications of the whole stream up to this delivery are dropped, because they were
    /// queued before a watcher with a start revision was created, and do not hold for that watcher.
    progress_void: u64,
}

#[derive(Debug)]
struct Queued {
    delivery: Delivery,
    bytes: usize,
}

pub(super) fn queue(stream: StreamId, capacity: usize) -> (Outlet, Feed) {
    assert!(capacity > 0);
    let (sender, receiver) = mpsc::channel(capacity + 1);
    let bytes = Arc::new(AtomicUsize::new(0));
    let outlet = Outlet {
        queue: sender,
        bytes: Arc::clone(&bytes),
        handed: 0,
        has_lag_notice: false,
        filled: 0,
        unread: 0,
    };
    let cancelled = BTreeMap::new();
    (outlet, Feed { stream, queue: receiver, bytes, taken: 0, cancelled, progress_void: 0 })
}

impl Outlet {
    /// Queues `delivery`, which keeps `bytes` of memory alive, or returns it if there is no room. A single
    /// delivery in an empty queue may have any size.
    pub(super) fn hand(&mut self, delivery: Delivery, bytes: usize) -> Result<(), Delivery> {
        // Deliveries to a stream that has ended are dropped.
        if self.queue.is_closed() {
            return Ok(());
        }
        let waiting = self.bytes.load(Ordering::Relaxed);
        if waiting < self.filled {
            self.unread = 0;
        }
        let is_read = self.unread == 0 || self.unread + bytes <= WATCH_QUEUE_BYTES_UNREAD;
        let room = waiting == 0 || (is_read && waiting + bytes <= WATCH_QUEUE_BYTES);
        // Only the hub adds to the queue, so the place for the lag notice stays free.
        if !room || self.queue.capacity() < 2 {
            return Err(delivery);
        }
        self.push(delivery, bytes);
        Ok(())
    }

    /// Queues a lag notice, unless one is in the queue already.
    pub(super) fn send_lag_notice(&mut self) {
        if !self.has_lag_notice && !self.queue.is_closed() {
            self.has_lag_notice = true;
            self.push(Delivery::Lagging, 0);
        }
    }

    pub(super) fn has_lag_notice(&self) -> bool {
        self.has_lag_notice
    }

    /// To be called when the stream has taken the lag notice out of the queue.
    pub(super) fn lag_notice_taken(&mut self) {
        self.has_lag_notice = false;
    }

    /// The number of deliveries in the queue.
    pub(super) fn len(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    pub(super) fn handed(&self) -> u64 {
        self.handed
    }

    fn push(&mut self, delivery: Delivery, bytes: usize) {
        self.filled = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.unread += bytes;
        let sent = self.queue.try_send(Queued { delivery, bytes });
        assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))), "the queue has room");
        self.handed += 1;
    }
}

impl Feed {
    /// The next delivery; `None` once the stream was closed. No delivery is lost if the future is dropped.
    pub(crate) async fn recv(&mut self) -> Option<Delivery> {
        loop {
            let queued = self.queue.recv().await?;
            if let Some(delivery) = self.take(queued) {
                return Some(delivery);
            }
        }
    }

    /// The number of deliveries in the queue.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The next delivery, if there is one already.
    pub(crate) fn try_recv(&mut self) -> Option<Delivery> {
        loop {
            let queued = self.queue.try_recv().ok()?;
            if let Some(delivery) = self.take(queued) {
                return Some(delivery);
            }
        }
    }

    /// Drops what is queued for the watcher `id`, up to the `handed`-th delivery.
    pub(super) fn forget(&mut self, id: WatchId, handed: u64) {
        if self.taken < handed {
            self.cancelled.insert(id, handed);
        }
    }

    /// Drops queued progress notifications of the whole stream, up to the `handed`-th delivery.
    pub(super) fn void_progress(&mut self, handed: u64) {
        self.progress_void = handed;
    }

    /// Counts a delivery as taken, and removes what is for cancelled watchers. `None` if nothing is left.
    fn take(&mut self, queued: Queued) -> Option<Delivery> {
        self.taken += 1;
        self.bytes.fetch_sub(queued.bytes, Ordering::Relaxed);
        let taken = self.taken;
        self.cancelled.retain(|_, handed| taken <= *handed);
        let mut delivery = queued.delivery;
        let wanted = match &mut delivery {
            Delivery::Batch(batch) => {
                if !self.cancelled.is_empty() {
                    batch.retain(|id| !self.cancelled.contains_key(&id));
                }
                !batch.is_empty()
            }
            Delivery::StreamProgress { .. } => taken > self.progress_void,
            Delivery::Progress { id, .. } => !self.cancelled.contains_key(id),
            Delivery::Lagging => true,
        };
        wanted.then_some(delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Rev;

    const BYTES: usize = 16 * 1024;

    /// How many deliveries of [`BYTES`] are queued before one is refused. `reads` says whether the stream takes one
    /// after each second one.
    fn queued(reads: bool) -> usize {
        let (mut outlet, mut feed) = queue(StreamId(0), 1000);
        (0..1000)
            .take_while(|number| {
                if reads && number % 2 == 1 {
                    feed.try_recv().expect("something is queued");
                }
                outlet.hand(Delivery::StreamProgress { rev: Rev(1) }, BYTES).is_ok()
            })
            .count()
    }

    #[test]
    fn a_stream_that_is_not_read_holds_little() {
        assert_eq!(queued(false), WATCH_QUEUE_BYTES_UNREAD / BYTES);
    }

    #[test]
    fn a_stream_that_is_read_too_slowly_may_hold_more() {
        let queued = queued(true);
        assert!(queued > 2 * WATCH_QUEUE_BYTES_UNREAD / BYTES, "{queued}");
    }
}
