//! The bounded queue between the hub and one stream.
//!
//! The hub never waits. When a stream has too much untaken (deliveries or bytes), the hub keeps
//! the revision to itself, lets the watchers fall behind, and *knocks*: one slot of the queue is
//! kept free for that, so a stream always learns of its laggards, and learns of them only after
//! it took what had been queued before. One knock at a time is enough, since the answer to it
//! names all of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use super::{Delivery, StreamId, WatchId};
use crate::limits::WATCH_QUEUE_BYTES;

/// The hub's end.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: mpsc::Sender<Queued>,
    bytes: Arc<AtomicUsize>,
    /// Deliveries queued since the stream was opened.
    handed: u64,
    /// A knock has not been answered yet.
    knocked: bool,
}

/// The stream's end: what it is handed, in order.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) stream: StreamId,
    queue: mpsc::Receiver<Queued>,
    bytes: Arc<AtomicUsize>,
    /// Deliveries taken out since the stream was opened.
    taken: u64,
    /// Cancelled watchers that the next deliveries may still name, and until which one.
    cancelled: BTreeMap<WatchId, u64>,
    /// Progress of the whole stream up to this delivery is void: it knows nothing of a watcher
    /// that has come since.
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
    let outlet = Outlet { queue: sender, bytes: Arc::clone(&bytes), handed: 0, knocked: false };
    let cancelled = BTreeMap::new();
    (outlet, Feed { stream, queue: receiver, bytes, taken: 0, cancelled, progress_void: 0 })
}

impl Outlet {
    /// Queues `delivery`, which keeps `bytes` of memory alive, or gives it back if there is no
    /// room. An only delivery may be of any size.
    pub(super) fn hand(&mut self, delivery: Delivery, bytes: usize) -> Result<(), Delivery> {
        // A stream that is gone takes everything.
        if self.queue.is_closed() {
            return Ok(());
        }
        let waiting = self.bytes.load(Ordering::Relaxed);
        let room = waiting == 0 || waiting + bytes <= WATCH_QUEUE_BYTES;
        // Only the hub fills the queue, so the slot of the knock stays free.
        if !room || self.queue.capacity() < 2 {
            return Err(delivery);
        }
        self.push(delivery, bytes);
        Ok(())
    }

    /// Makes the stream ask for its laggards, unless it has been told to already.
    pub(super) fn knock(&mut self) {
        if !self.knocked && !self.queue.is_closed() {
            self.knocked = true;
            self.push(Delivery::Lagging, 0);
        }
    }

    pub(super) fn knocked(&self) -> bool {
        self.knocked
    }

    /// The stream has taken the knock out of the queue.
    pub(super) fn answered(&mut self) {
        self.knocked = false;
    }

    /// Deliveries that have not been taken.
    pub(super) fn len(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    pub(super) fn handed(&self) -> u64 {
        self.handed
    }

    fn push(&mut self, delivery: Delivery, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = self.queue.try_send(Queued { delivery, bytes });
        assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))), "the queue had room");
        self.handed += 1;
    }
}

impl Feed {
    /// The next delivery; `None` once the stream has been closed. Nothing is lost when the
    /// future is dropped.
    pub(crate) async fn recv(&mut self) -> Option<Delivery> {
        loop {
            let queued = self.queue.recv().await?;
            if let Some(delivery) = self.take(queued) {
                return Some(delivery);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn try_recv(&mut self) -> Option<Delivery> {
        loop {
            let queued = self.queue.try_recv().ok()?;
            if let Some(delivery) = self.take(queued) {
                return Some(delivery);
            }
        }
    }

    /// What is queued up to the `handed`-th delivery is no longer for the watcher `id`.
    pub(super) fn forget(&mut self, id: WatchId, handed: u64) {
        if self.taken < handed {
            self.cancelled.insert(id, handed);
        }
    }

    /// Progress of the whole stream that is queued up to the `handed`-th delivery would promise
    /// too much.
    pub(super) fn void_progress(&mut self, handed: u64) {
        self.progress_void = handed;
    }

    /// Accounts for a delivery, and takes out of it what is for nobody any more.
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
