//! Answers on their way back to a reactor.
//!
//! A reactor is one thread. Waking a task of it from outside costs a system call, so the core
//! does not wake the hundred handlers whose writes one sync made durable: it puts all answers
//! into the reactor's mailbox and wakes the reactor once. The reactor then hands the answers to its
//! own tasks, which costs no system call.

use std::{mem, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::ProposeError;
use crate::apply::Outcome;

pub(crate) type Answer<T> = Result<T, ProposeError>;

/// Who confirmed that a read sees every write that was answered before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// A quorum, to this member as the leader of a term.
    ByThisLeader { term: u64 },
    /// Another member, as the leader.
    ByAnotherLeader,
}

/// An answer and the slot that it goes into.
#[derive(Debug)]
pub(crate) enum Letter {
    Outcome(oneshot::Sender<Answer<Outcome>>, Answer<Outcome>),
    Barrier(oneshot::Sender<Answer<Confirmed>>, Answer<Confirmed>),
}

/// What a mailbox delivers.
pub(crate) trait Content: Sized {
    fn letter(slot: oneshot::Sender<Answer<Self>>, answer: Answer<Self>) -> Letter;
}

impl Content for Outcome {
    fn letter(slot: oneshot::Sender<Answer<Self>>, answer: Answer<Self>) -> Letter {
        Letter::Outcome(slot, answer)
    }
}

impl Content for Confirmed {
    fn letter(slot: oneshot::Sender<Answer<Self>>, answer: Answer<Self>) -> Letter {
        Letter::Barrier(slot, answer)
    }
}

/// One reactor's mailbox. It never holds more than the requests that are under way, and those are
/// bounded by the proposal queue and the read queue.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    bell: Notify,
}

impl Mailbox {
    /// Adds answers and wakes the reactor.
    fn deliver(&self, letters: impl Iterator<Item = Letter>) {
        self.letters.lock().extend(letters);
        self.bell.notify_one();
    }

    /// Hands out answers for as long as the reactor lives.
    pub(crate) async fn hand_out(self: Arc<Self>) {
        let mut letters = Vec::new();
        loop {
            self.bell.notified().await;
            mem::swap(&mut letters, &mut *self.letters.lock());
            for letter in letters.drain(..) {
                // A client that has gone away does not want its answer any more.
                match letter {
                    Letter::Outcome(slot, answer) => drop(slot.send(answer)),
                    Letter::Barrier(slot, answer) => drop(slot.send(answer)),
                }
            }
        }
    }
}

/// Where the answer to one request goes.
#[derive(Debug)]
pub(crate) struct Ticket<T> {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) slot: oneshot::Sender<Answer<T>>,
}

impl<T> Ticket<T> {
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.slot.is_closed()
    }
}

/// Answers the requests of a batch, each with its own outcome, or all with the same error.
pub(crate) fn deliver_batch<T: Content>(tickets: Vec<Ticket<T>>, outcomes: Answer<Vec<T>>) {
    match outcomes {
        Ok(outcomes) => {
            assert_eq!(outcomes.len(), tickets.len(), "a batch has one outcome for each of its commands");
            deliver(tickets, outcomes.into_iter().map(Ok));
        }
        Err(error) => deliver(tickets, std::iter::repeat_with(|| Err(error.clone()))),
    }
}

/// Gives all the same answer.
pub(crate) fn deliver_to_all<T: Content + Clone>(tickets: Vec<Ticket<T>>, answer: &Answer<T>) {
    deliver(tickets, std::iter::repeat_with(|| answer.clone()));
}

/// Sends each answer to its ticket's mailbox, and wakes each reactor once.
fn deliver<T: Content>(tickets: Vec<Ticket<T>>, answers: impl Iterator<Item = Answer<T>>) {
    let mut waiting: Vec<(Ticket<T>, Answer<T>)> = tickets.into_iter().zip(answers).collect();
    while let Some((ticket, _)) = waiting.first() {
        let mailbox = ticket.mailbox.clone();
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(ticket, _)| Arc::ptr_eq(&ticket.mailbox, &mailbox));
        mailbox.deliver(here.into_iter().map(|(ticket, answer)| T::letter(ticket.slot, answer)));
        waiting = elsewhere;
    }
}
