//! The core thread: proposals in, batches through the log, answers out.
//!
//! ```text
//! reactors --- bounded queue ---> gather ---> openraft ---> WAL (sync) ---> apply --- mailboxes
//! ```
//!
//! Everything between the queue and the mailboxes runs on this one thread. While it waits for
//! the disk, or for a quorum, the next proposals gather in the queue and become the next batch;
//! there is no timer and no size to tune.
//!
//! With more than one voter, a batch is sent to the leader: see `forward`.

use std::{sync::Arc, time::Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    ProposeError,
    forward::Forwarder,
    mailbox::{self, Ticket},
};
use crate::{
    apply::{Outcome, Request},
    clock, limits,
    raft::{Began, NotProposed},
    threads,
};

/// One request on its way into the log, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) request: Request,
    /// Bytes that the request takes in a log entry.
    pub(crate) bytes: usize,
    pub(crate) ticket: Ticket<Outcome>,
    /// Its share of what may wait in the queue.
    pub(crate) _held: OwnedSemaphorePermit,
    /// When the request was queued; `None` if it found others in the queue, which were queued earlier.
    pub(crate) queued: Option<Instant>,
}

impl Proposal {
    /// False once the client has gone or its deadline has passed, because both drop the receiving end.
    /// Such a command is not put into the log any more.
    fn is_waited_for(&self) -> bool {
        self.ticket.is_waited_for()
    }
}

/// Maximum number of batches that were taken from the queue and are not answered yet. With more than
/// one, a batch is replicated while the one before it is applied; a small number keeps batches large.
const BATCHES_IN_FLIGHT: usize = 4;

/// Runs until every sender of the queue is gone.
pub(crate) async fn gather(mut queue: mpsc::Receiver<Proposal>, forwarder: Arc<Forwarder>) {
    let in_flight = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    let commands_max = limits::Knob::BatchCommands.or(limits::BATCH_COMMANDS_MAX);
    let mut waiting = Vec::with_capacity(commands_max);
    let mut pace = Pace::default();
    // When the last batch was taken, if it left proposals in the queue.
    let mut left_over = None;
    loop {
        let batch_permit = in_flight.clone().acquire_owned().await.expect("the semaphore is never closed");
        if waiting.is_empty() && pace.is_brisk() {
            linger(&mut queue, &mut waiting, pace.next_by()).await;
        }
        if waiting.is_empty() && queue.recv_many(&mut waiting, commands_max).await == 0 {
            return;
        }
        waiting.retain(Proposal::is_waited_for);
        if waiting.is_empty() {
            continue;
        }
        let taken = clock::now();
        let (commands, tickets, queued) = take_batch(&mut waiting);
        let began = Began { queued: left_over.or(queued).unwrap_or(taken), taken };
        left_over = (!waiting.is_empty() || !queue.is_empty()).then_some(taken);
        pace.took(commands.len(), taken);
        if !forwarder.is_sole_leader() {
            tokio::spawn(forwarder.clone().see_through(commands, tickets, began, batch_permit));
            continue;
        }
        forwarder
            .consensus
            .propose(commands, began, move |outcomes| {
                drop(batch_permit);
                mailbox::deliver_batch(tickets, outcomes.map_err(propose_error));
            })
            .await;
        // openraft writes the batch to the disk before the next one is formed.
        tokio::task::yield_now().await;
    }
}

/// The rhythm of a lone writer: one command at a time, the next as soon as the last is answered.
///
/// Half of the latency of such a writer is the time that two threads take to wake each other. So while
/// the rhythm lasts, the core thread stays awake and polls the queue for the next command. The rhythm
/// ends with the first command that does not come in time, so an idle server sleeps.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    /// Beats in a row that came in time.
    beats: u32,
}

impl Pace {
    /// A batch of `commands` begins.
    fn took(&mut self, commands: usize, now: Instant) {
        let in_time = self.last.is_some_and(|last| now.duration_since(last) <= limits::LONE_WRITER_BEAT);
        self.beats = if commands == 1 && in_time { self.beats + 1 } else { 0 };
        self.last = Some(now);
    }

    /// In a simulation time stands still while a task runs, so the next command would be awaited for ever.
    fn is_brisk(&self) -> bool {
        !threads::is_simulated() && self.beats >= limits::LONE_WRITER_BEATS
    }

    fn next_by(&self) -> Option<Instant> {
        self.last.map(|last| last + limits::LONE_WRITER_BEAT)
    }
}

/// Polls the queue, letting the other tasks of this thread run between, until a proposal is queued or
/// `until` has passed.
async fn linger(queue: &mut mpsc::Receiver<Proposal>, waiting: &mut Vec<Proposal>, until: Option<Instant>) {
    while until.is_some_and(|until| clock::now() < until) {
        if let Ok(proposal) = queue.try_recv() {
            waiting.push(proposal);
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// As many of the waiting proposals as one entry may hold, oldest first, and since when the oldest
/// waited, if that is known.
fn take_batch(waiting: &mut Vec<Proposal>) -> (Arc<[Request]>, Vec<Ticket<Outcome>>, Option<Instant>) {
    let mut bytes = 0;
    let count = waiting
        .iter()
        .take_while(|proposal| {
            let fits = bytes == 0 || bytes + proposal.bytes <= limits::BATCH_BYTES_MAX;
            bytes += proposal.bytes;
            fits
        })
        .count();
    assert!(count > 0 || waiting.is_empty(), "a batch takes at least the oldest proposal");
    let queued = waiting.iter().take(count).find_map(|proposal| proposal.queued);
    let mut tickets = Vec::with_capacity(count);
    let commands: Vec<Request> = waiting
        .drain(..count)
        .map(|proposal| {
            tickets.push(proposal.ticket);
            proposal.request
        })
        .collect();
    assert_eq!(commands.len(), tickets.len(), "each command of a batch has a ticket");
    assert!(commands.len() <= limits::BATCH_COMMANDS_MAX, "a batch fits an entry");
    (commands.into(), tickets, queued)
}

fn propose_error(refusal: NotProposed) -> ProposeError {
    match refusal {
        NotProposed::NotLeader => ProposeError::NoLeader,
        NotProposed::Unknown => ProposeError::LeaderChanged,
        NotProposed::Stopped => ProposeError::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether the core stays awake after batches of `sizes`, each `gap` after the one before.
    fn is_brisk_after(sizes: &[usize], gap: Duration) -> bool {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for size in sizes {
            now += gap;
            pace.took(*size, now);
        }
        pace.is_brisk()
    }

    #[test]
    fn only_a_lone_writer_in_a_hurry_keeps_the_core_awake() {
        let quick = limits::LONE_WRITER_BEAT / 2;
        let many = limits::LONE_WRITER_BEATS as usize + 1;
        assert!(is_brisk_after(&vec![1; many], quick));
        assert!(!is_brisk_after(&vec![1; many - 1], quick), "a few quick ones may be chance");
        assert!(
            !is_brisk_after(&vec![1; many], limits::LONE_WRITER_BEAT * 2),
            "a slow one may sleep between"
        );
        assert!(!is_brisk_after(&vec![2; many], quick), "several writers fill the time themselves");
        let mut broken = vec![1; many];
        broken.push(3);
        assert!(!is_brisk_after(&broken, quick));
    }
}
