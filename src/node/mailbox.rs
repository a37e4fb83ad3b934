//! Answers on their way back to a reactor.
//!
//! A reactor is one thread. Waking a task of it from outside costs a system call, so the core
//! does not wake the hundred handlers whose writes one sync made durable: it puts all answers
//! into the reactor's mailbox and rings once. The reactor hands them out itself, which wakes
//! nobody but its own tasks.

use std::{mem, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{ProposeError, read_index::Confirmed};
use crate::apply::Outcome;

pub(crate) type Answer = Result<Outcome, ProposeError>;

/// An answer and the slot that it goes into.
#[derive(Debug)]
pub(crate) enum Letter {
    Outcome(oneshot::Sender<Answer>, Answer),
    Barrier(oneshot::Sender<Result<Confirmed, ProposeError>>, Result<Confirmed, ProposeError>),
}

/// One reactor's mailbox. It never holds more than the proposals that are under way, and those
/// are bounded by the proposal queue.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    bell: Notify,
}

impl Mailbox {
    /// Adds answers and rings.
    pub(crate) fn deliver(&self, letters: impl Iterator<Item = Letter>) {
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

/// Where the answer to one proposal goes.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) slot: oneshot::Sender<Answer>,
}

impl Ticket {
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.slot.is_closed()
    }
}

/// Sends each answer to its ticket's mailbox, ringing once per mailbox.
pub(crate) fn deliver(tickets: Vec<Ticket>, answers: impl Iterator<Item = Answer>) {
    let mut waiting: Vec<(Ticket, Answer)> = tickets.into_iter().zip(answers).collect();
    while let Some((ticket, _)) = waiting.first() {
        let mailbox = ticket.mailbox.clone();
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(ticket, _)| Arc::ptr_eq(&ticket.mailbox, &mailbox));
        mailbox.deliver(here.into_iter().map(|(ticket, answer)| Letter::Outcome(ticket.slot, answer)));
        waiting = elsewhere;
    }
}
