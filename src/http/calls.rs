//! How many calls are open, and how many bytes of unfinished messages are held for them.
//!
//! A call is counted from its headers to the end of its answer, for its connection and for all connections of
//! its kind of port. A message that has not arrived whole is held in memory until it has; before the server
//! reads such a message, the message takes its announced length out of a budget that all connections of its
//! kind of port share. So the budget bounds the memory, whatever clients announce or send. Messages that
//! arrive whole, which nearly all do, take nothing.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// What all connections of one kind of port share.
#[derive(Debug)]
pub(crate) struct Load {
    open: AtomicUsize,
    /// Bytes for unfinished messages of at most [`limits::SMALL_MESSAGE_BYTES`], and for larger ones. Small
    /// messages do not wait behind large ones.
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Load {
    pub(crate) fn new() -> Arc<Load> {
        Arc::new(Load {
            open: AtomicUsize::new(0),
            small: Arc::new(Semaphore::new(limits::UNFINISHED_SMALL_BYTES)),
            large: Arc::new(Semaphore::new(limits::UNFINISHED_BYTES)),
        })
    }

    /// Bytes for an unfinished message of this length.
    pub(crate) fn bytes_for(&self, length: usize) -> Held {
        assert!(length <= limits::UNFINISHED_BYTES, "a message that no port accepts was refused before");
        let budget = if length <= limits::SMALL_MESSAGE_BYTES { &self.small } else { &self.large };
        let length = u32::try_from(length).expect("the length of a message is sent in four bytes");
        match budget.clone().try_acquire_many_owned(length) {
            Ok(permit) => Held::Granted { _permit: permit },
            Err(_) => Held::Waiting(Box::pin(budget.clone().acquire_many_owned(length))),
        }
    }
}

/// Bytes out of the budget for unfinished messages. Dropping this puts them back.
pub(crate) enum Held {
    Waiting(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
    Granted { _permit: OwnedSemaphorePermit },
}

impl Held {
    pub(crate) fn poll_granted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Held::Waiting(wait) = self {
            let permit = ready!(wait.as_mut().poll(cx)).expect("the budget is never closed");
            *self = Held::Granted { _permit: permit };
        }
        Poll::Ready(())
    }
}

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct Calls {
    open: AtomicUsize,
    begun: AtomicUsize,
    /// The connection does not speak HTTP any more.
    is_upgraded: AtomicBool,
    load: Arc<Load>,
}

impl Calls {
    pub(super) fn new(load: Arc<Load>) -> Arc<Calls> {
        Arc::new(Calls {
            open: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            is_upgraded: AtomicBool::new(false),
            load,
        })
    }

    pub(super) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    pub(super) fn has_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Ordering::Relaxed)
    }

    /// How many have begun.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Begins a call. There is no place for it if [`limits::CALLS_MAX`] calls are open on this kind of port.
    pub(super) fn begin(self: &Arc<Calls>) -> (Open, bool) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        let others = self.load.open.fetch_add(1, Ordering::Relaxed);
        (Open(self.clone()), others < limits::CALLS_MAX)
    }
}

/// An open call. Dropping this ends the call.
pub(super) struct Open(Arc<Calls>);

impl Open {
    /// The answer to this call is that the connection speaks another protocol from now on.
    pub(super) fn upgraded(&self) {
        self.0.is_upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let of_connection = self.0.open.fetch_sub(1, Ordering::Relaxed);
        let of_all = self.0.load.open.fetch_sub(1, Ordering::Relaxed);
        assert!(of_connection > 0 && of_all > 0, "a call that ends was counted when it began");
    }
}

/// The body of an answer. Its call is open until this is dropped.
pub(super) struct Answer<B> {
    body: B,
    _call: Open,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, call: Open) -> Answer<B> {
        Answer { body, _call: call }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn calls_are_counted_while_they_are_open() {
        let load = Load::new();
        let (one, other) = (Calls::new(load.clone()), Calls::new(load.clone()));
        let (first, has_room) = one.begin();
        assert!(has_room && one.has_open() && !other.has_open());
        load.open.store(limits::CALLS_MAX, Ordering::Relaxed);
        let (second, has_room) = other.begin();
        assert!(!has_room, "the first of one connection is too many for the server");
        drop((first, second));
        assert!(!one.has_open() && !other.has_open());
        assert_eq!(
            (one.begun(), other.begun(), load.open.load(Ordering::Relaxed)),
            (1, 1, limits::CALLS_MAX - 1)
        );
    }

    #[tokio::test]
    async fn a_message_that_does_not_fit_waits_and_a_small_one_passes_it() {
        let load = Load::new();
        let granted =
            |held: &mut Held| std::future::poll_fn(|cx| held.poll_granted(cx)).now_or_never().is_some();
        let mut first = load.bytes_for(limits::UNFINISHED_BYTES);
        let mut second = load.bytes_for(limits::SMALL_MESSAGE_BYTES + 1);
        let mut small = load.bytes_for(limits::SMALL_MESSAGE_BYTES);
        assert!(granted(&mut first) && !granted(&mut second) && granted(&mut small));
        drop(first);
        assert!(granted(&mut second), "its turn has come");
    }
}
