//! tokio's `watch`, with receivers that are woken in the order in which they began to wait.
//!
//! The value and what each receiver has seen of it are tokio's; only the waiting is done here.

use std::sync::Arc;

pub(crate) use tokio::sync::watch::{Ref, error};
use tokio::sync::{Notify, watch};

use error::{RecvError, SendError};

pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

/// The fields are dropped in this order: receivers that are woken last find that the channel is closed.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    value: watch::Sender<T>,
    waiters: Waiters,
}

#[derive(Clone, Debug, Default)]
struct Waiters(Arc<Notify>);

impl Drop for Waiters {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

#[derive(Debug)]
pub(crate) struct Receiver<T> {
    value: watch::Receiver<T>,
    waiters: Arc<Notify>,
}

impl<T> Sender<T> {
    pub(crate) fn new(value: T) -> Sender<T> {
        Sender { value: watch::Sender::new(value), waiters: Waiters::default() }
    }

    pub(crate) fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value.subscribe(), waiters: self.waiters.0.clone() }
    }

    pub(crate) fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value.send(value)?;
        self.waiters.0.notify_waiters();
        Ok(())
    }

    pub(crate) fn send_replace(&self, value: T) -> T {
        let before = self.value.send_replace(value);
        self.waiters.0.notify_waiters();
        before
    }

    pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.value.send_modify(modify);
        self.waiters.0.notify_waiters();
    }

    pub(crate) fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let is_modified = self.value.send_if_modified(modify);
        if is_modified {
            self.waiters.0.notify_waiters();
        }
        is_modified
    }

    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        self.value.borrow()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.value.is_closed()
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Sender<T> {
        Sender::new(T::default())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { value: self.value.clone(), waiters: self.waiters.clone() }
    }
}

impl<T> Receiver<T> {
    /// Waits for a value that this receiver has not seen.
    pub(crate) async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // Made before the look at the value, so that no change after it is missed.
            let woken = self.waiters.notified();
            match self.value.has_changed() {
                Ok(false) => woken.await,
                Ok(true) | Err(_) => return self.value.changed().await,
            }
        }
    }

    /// Waits for a value of which `is_wanted` is true.
    pub(crate) async fn wait_for(
        &mut self,
        mut is_wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        loop {
            let woken = self.waiters.notified();
            let is_closed = self.value.has_changed().is_err();
            if is_closed || is_wanted(&self.value.borrow_and_update()) {
                break;
            }
            woken.await;
        }
        self.value.wait_for(is_wanted).await
    }

    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        self.value.borrow()
    }

    pub(crate) fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.value.borrow_and_update()
    }

    pub(crate) fn has_changed(&self) -> Result<bool, RecvError> {
        self.value.has_changed()
    }

    pub(crate) fn mark_unchanged(&mut self) {
        self.value.mark_unchanged();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { value: self.value.clone(), waiters: self.waiters.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn receivers_are_woken_in_the_order_in_which_they_began_to_wait() {
        let (sender, receiver) = channel(0);
        let woken: &RefCell<Vec<usize>> = Box::leak(Box::default());
        let waiters = LocalSet::new();
        for number in 0..32 {
            let mut receiver = receiver.clone();
            waiters.spawn_local(async move {
                receiver.wait_for(|value| *value == 1).await.expect("it is open");
                woken.borrow_mut().push(number);
                receiver.changed().await.expect_err("it is closed");
                woken.borrow_mut().push(number);
            });
        }
        waiters.spawn_local(async move {
            sender.send(1).expect("there are receivers");
            tokio::task::yield_now().await;
        });
        waiters.await;
        assert_eq!(*woken.borrow(), (0..32).chain(0..32).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_last_value_is_seen_though_the_channel_is_closed() {
        let (sender, mut receiver) = channel(0);
        sender.clone().send_replace(1);
        assert_eq!(receiver.has_changed().ok(), Some(true), "a clone of the sender is not the last one");
        drop(sender);
        receiver.changed().await.expect("there is a value that was not seen");
        assert_eq!(*receiver.borrow(), 1);
        receiver.changed().await.expect_err("there is no other");
        assert!(receiver.wait_for(|value| *value == 2).await.is_err(), "nor will there be");
        assert_eq!(*receiver.wait_for(|value| *value == 1).await.expect("it is that"), 1);
    }
}
