//! The peer port's connections on which no member has shown itself yet.
//!
//! These connections are served by the core thread, as all connections of peers are, and anybody can make
//! them. So all of them together get little of that thread: to accept one, to read from one, and to begin a
//! call on one takes a *step*, and there are only a few steps in a millisecond. Who finds none waits in
//! turn. The first call that comes from a member of the cluster lets its connection leave the lobby; from
//! then on the connection pays nothing, and nothing here is asked for its messages.
//!
//! A connection that stays in the lobby for too long is closed, because places on the peer port are few.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore},
    time::{self, Sleep},
};

use crate::{limits, sockets::Standing};

/// What all connections in the lobby share.
#[derive(Debug)]
pub(super) struct Lobby {
    steps: Arc<Semaphore>,
    taken: Notify,
}

impl Lobby {
    /// A lobby with all its steps.
    pub(super) fn new() -> Arc<Lobby> {
        Arc::new(Lobby { steps: Arc::new(Semaphore::new(limits::LOBBY_STEPS)), taken: Notify::new() })
    }

    /// Gives steps back, as long as it runs.
    pub(super) async fn refill(&self) {
        loop {
            self.taken.notified().await;
            while let missing @ 1.. = limits::LOBBY_STEPS - self.steps.available_permits() {
                time::sleep(limits::LOBBY_INTERVAL).await;
                self.steps.add_permits(limits::LOBBY_STEPS_PER_INTERVAL.min(missing));
            }
        }
    }

    /// Takes a step, to accept a connection.
    pub(super) async fn step(&self) {
        self.take(self.steps.clone().acquire_owned().await);
    }

    fn take(&self, step: Result<OwnedSemaphorePermit, AcquireError>) {
        step.expect("the steps are never closed").forget();
        self.taken.notify_one();
    }
}

/// The wait for a step.
type Step = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// One connection, or one call on it, that pays for what it does while its connection is in the lobby.
pub(super) struct Visit {
    lobby: Arc<Lobby>,
    standing: Standing,
    step: Option<Step>,
    /// When a connection has been in the lobby for too long. Begins when the connection first waits for bytes.
    over: Option<Pin<Box<Sleep>>>,
}

impl Visit {
    pub(super) fn new(lobby: Arc<Lobby>, standing: Standing) -> Visit {
        Visit { lobby, standing, step: None, over: None }
    }

    /// Whether a member has shown itself on the connection.
    pub(super) fn is_over(&self) -> bool {
        self.standing.is_member()
    }

    /// Takes a step.
    pub(super) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let step = self.step.get_or_insert_with(|| Box::pin(self.lobby.steps.clone().acquire_owned()));
        let step = ready!(step.as_mut().poll(cx));
        self.step = None;
        self.lobby.take(step);
        Poll::Ready(())
    }

    /// Ready when no member has shown itself on the connection for too long.
    pub(super) fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let over = self.over.get_or_insert_with(|| Box::pin(time::sleep(limits::LOBBY_STAY_MAX)));
        ready!(over.as_mut().poll(cx));
        if self.is_over() { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn those_in_the_lobby_share_a_few_steps_and_take_turns() {
        let lobby = Lobby::new();
        let mut steady = Visit::new(lobby.clone(), Standing::default());
        let mut greedy = Visit::new(lobby.clone(), Standing::default());
        let taken = (0..).take_while(|_| poll_fn(|cx| greedy.poll_step(cx)).now_or_never().is_some());
        assert_eq!(taken.count(), limits::LOBBY_STEPS);
        assert!(poll_fn(|cx| steady.poll_step(cx)).now_or_never().is_none());
        lobby.steps.add_permits(1);
        assert!(poll_fn(|cx| greedy.poll_step(cx)).now_or_never().is_some(), "it came first");
        assert!(poll_fn(|cx| greedy.poll_step(cx)).now_or_never().is_none());
        lobby.steps.add_permits(1);
        assert!(poll_fn(|cx| steady.poll_step(cx)).now_or_never().is_some(), "it is its turn");
    }

    #[tokio::test]
    async fn steps_come_back_and_are_no_more_than_there_were() {
        let lobby = Lobby::new();
        tokio::spawn({
            let lobby = lobby.clone();
            async move { lobby.refill().await }
        });
        for _ in 0..2 * limits::LOBBY_STEPS {
            lobby.step().await;
        }
        while lobby.steps.available_permits() < limits::LOBBY_STEPS {
            tokio::task::yield_now().await;
        }
        assert_eq!(lobby.steps.available_permits(), limits::LOBBY_STEPS);
    }

    #[tokio::test]
    async fn a_stay_ends_with_a_member_or_with_time() {
        let standing = Standing::default();
        let lobby = Lobby::new();
        let short = || Some(Box::pin(time::sleep(limits::LOBBY_INTERVAL)));
        let mut visit = Visit { over: short(), ..Visit::new(lobby.clone(), standing.clone()) };
        poll_fn(|cx| visit.poll_too_long(cx)).await;
        standing.show_member();
        assert!(visit.is_over());
        let mut visit = Visit { over: short(), ..Visit::new(lobby, standing) };
        time::sleep(2 * limits::LOBBY_INTERVAL).await;
        assert!(poll_fn(|cx| visit.poll_too_long(cx)).now_or_never().is_none());
    }
}
