//! The core thread: proposals in, batches through the log, answers out.
//!
//! ```text
//! reactors --- bounded queue ---> gather ---> openraft ---> WAL (sync) ---> apply --- mailboxes
//! ```
//!
//! Everything between the queue and the mailboxes runs on this one thread. While it waits for
//! the disk the next proposals gather in the queue and become the next batch; there is no timer
//! and no size to tune.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::{
    ProposeError,
    mailbox::{self, Ticket},
};
use crate::{
    apply::Command,
    limits,
    raft::{Consensus, NotProposed},
};

/// One command on its way into the log, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) command: Command,
    pub(crate) ticket: Ticket,
}

/// Batches between the queue and their answers. More than one lets a batch be replicated while
/// the one before it is still on its way; few keep batches large.
const BATCHES_IN_FLIGHT: usize = 4;

/// Runs until every sender of the queue is gone.
pub(crate) async fn gather(mut queue: mpsc::Receiver<Proposal>, consensus: Consensus) {
    let in_flight = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    let mut waiting = Vec::with_capacity(limits::BATCH_COMMANDS_MAX);
    loop {
        let batch_permit = in_flight.clone().acquire_owned().await.expect("the semaphore is never closed");
        if waiting.is_empty() && queue.recv_many(&mut waiting, limits::BATCH_COMMANDS_MAX).await == 0 {
            return;
        }
        let (commands, tickets) = take_batch(&mut waiting);
        consensus
            .propose(commands, move |outcomes| {
                drop(batch_permit);
                match outcomes {
                    Ok(outcomes) => mailbox::deliver(tickets, outcomes.into_iter().map(Ok)),
                    Err(refusal) => {
                        let error = propose_error(refusal);
                        mailbox::deliver(tickets, std::iter::repeat_with(|| Err(error.clone())));
                    }
                }
            })
            .await;
        // Let the core take the batch to the disk before the next one is formed.
        tokio::task::yield_now().await;
    }
}

/// As many of the waiting proposals as one entry may hold, oldest first.
fn take_batch(waiting: &mut Vec<Proposal>) -> (Arc<[Command]>, Vec<Ticket>) {
    let mut bytes = 0;
    let count = waiting
        .iter()
        .take_while(|proposal| {
            let fits = bytes == 0 || bytes + proposal.command.size() <= limits::BATCH_BYTES_MAX;
            bytes += proposal.command.size();
            fits
        })
        .count();
    let mut tickets = Vec::with_capacity(count);
    let commands: Vec<Command> = waiting
        .drain(..count)
        .map(|proposal| {
            tickets.push(proposal.ticket);
            proposal.command
        })
        .collect();
    (commands.into(), tickets)
}

fn propose_error(refusal: NotProposed) -> ProposeError {
    match refusal {
        NotProposed::NotLeader => ProposeError::NoLeader,
        NotProposed::Unknown => ProposeError::LeaderChanged,
        NotProposed::Stopped => ProposeError::Stopped,
    }
}
