//! How long a connection waits for bytes that its client has to send.
//!
//! A client that has begun to send a preface, a head or a frame has to go on sending it. What is bounded is the
//! time without progress, so that a slow upload survives however long it takes as a whole.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{self, Sleep};

use crate::limits;

/// Waits for one client.
#[derive(Debug)]
pub(crate) struct Patience {
    period: Duration,
    /// The end of the current period; `None` while the client does not have to send anything.
    due: Option<Pin<Box<Sleep>>>,
    /// Bytes received in the current period.
    received: usize,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { period: limits::CLIENT_PATIENCE, due: None, received: 0 }
    }
}

impl Patience {
    /// The client sent bytes. If they are enough, a new period begins.
    pub(crate) fn received(&mut self, bytes: usize, enough: usize) {
        self.received += bytes;
        if self.received >= enough {
            self.reset();
        }
    }

    /// The client has sent all that it had to.
    pub(crate) fn reset(&mut self) {
        self.due = None;
        self.received = 0;
    }

    /// Nothing was received, and the client has to send something. Ready if it has not sent enough for too long.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.due.get_or_insert_with(|| Box::pin(time::sleep(self.period))).as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_client_without_progress_is_given_up() {
        let mut patience = Patience { period: Duration::from_millis(1), ..Patience::default() };
        poll_fn(|cx| patience.poll_over(cx)).await;
    }

    #[tokio::test]
    async fn progress_begins_a_new_period_and_a_trickle_does_not() {
        let mut patience = Patience::default();
        let due = async |patience: &mut Patience| {
            assert!(poll_fn(|cx| patience.poll_over(cx)).now_or_never().is_none());
            patience.due.as_ref().expect("the period has an end").deadline()
        };
        let first = due(&mut patience).await;
        patience.received(99, 100);
        assert_eq!(due(&mut patience).await, first);
        patience.received(1, 100);
        let second = due(&mut patience).await;
        assert!(second > first);
        patience.received(99, 100);
        assert_eq!(due(&mut patience).await, second, "what came before does not count");
        patience.reset();
        assert!(due(&mut patience).await > second);
    }
}
