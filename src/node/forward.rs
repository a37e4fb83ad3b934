//! Batches on their way to whoever leads.
//!
//! A batch is proposed in the term of the leader that this member knows of, under a tag; it is
//! answered when it is applied here. Where it certainly was not accepted, or certainly is lost,
//! it is proposed again to the next leader: a client whose member lives through an election gets
//! its answer late, and exactly once. Where nobody can say, it waits for the log to tell.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, oneshot, watch},
    time,
};

use super::{
    ProposeError,
    mailbox::{self, Ticket},
    patience::Patience,
};
use crate::{
    apply::{Command, Outcome},
    raft::{Began, Consensus, Fate, Forwarded, Leadership, NotProposed, Peers, Tags},
};

/// Pause before somebody who does not lead (any more) is asked again, unless news comes earlier.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// While there is no leader, how often those are looked for who do not wait any more: a batch that
/// nobody waits for makes room for the next.
const LEADERLESS_LOOK: Duration = Duration::from_millis(100);

pub(crate) struct Forwarder {
    pub(crate) consensus: Consensus,
    pub(crate) peers: Arc<Peers>,
    pub(crate) tags: Arc<Tags>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) own: u64,
    pub(crate) next_serial: AtomicU64,
    /// How long a batch may take.
    pub(super) patience: Arc<Patience>,
    /// Set when this member is about to end and nothing is worth waiting for.
    pub(crate) giving_up: watch::Receiver<bool>,
}

impl Forwarder {
    /// Whether this member's own log is the quorum.
    pub(crate) fn is_sole_leader(&self) -> bool {
        let leadership = self.leadership.borrow();
        leadership.is_leader && leadership.is_sole_voter
    }

    /// Takes a batch to its end and answers those who wait for it.
    pub(crate) async fn see_through(
        self: Arc<Self>,
        mut commands: Arc<[Command]>,
        mut tickets: Vec<Ticket>,
        began: Began,
        _batch_permit: OwnedSemaphorePermit,
    ) {
        let start = Instant::now();
        let outcomes = tokio::select! { biased;
            outcomes = self.run(&mut commands, &mut tickets, began) => outcomes,
            () = given_up(self.giving_up.clone()) => Err(ProposeError::Stopped),
            () = time::sleep(self.patience.limit) => Err(self.patience.timeout(start)),
        };
        match outcomes {
            Ok(outcomes) => mailbox::deliver(tickets, outcomes.into_iter().map(Ok)),
            Err(error) => mailbox::deliver(tickets, std::iter::repeat_with(|| Err(error.clone()))),
        }
    }

    async fn run(
        &self,
        commands: &mut Arc<[Command]>,
        tickets: &mut Vec<Ticket>,
        began: Began,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let known = time::timeout(LEADERLESS_LOOK, known_leader(&mut leadership)).await;
            // Nothing of the batch is in the log now, or will be.
            leave_out_forsaken(commands, tickets);
            if tickets.is_empty() {
                return Err(ProposeError::Timeout);
            }
            let Ok(known) = known else { continue };
            let (leader, term) = known?;
            let expected = Expected::new(self, term);
            match self.attempt(leader, term, expected, commands, began).await {
                Attempt::Fate(Fate::Applied(outcomes)) => return Ok(outcomes),
                Attempt::Fate(Fate::Lost) => {
                    // Another term has begun. This member may not know yet who leads in it.
                    let now = *leadership.borrow();
                    if (now.leader, now.term) == (Some(leader), term) {
                        news_or(&mut leadership, RETRY_PAUSE).await;
                    }
                }
                Attempt::Fate(Fate::Unknown) => return Err(ProposeError::LeaderChanged),
                Attempt::Refused => {
                    news_or(&mut leadership, RETRY_PAUSE).await;
                }
                Attempt::Stopped => return Err(ProposeError::Stopped),
            }
        }
    }

    async fn attempt(
        &self,
        leader: u64,
        term: u64,
        mut expected: Expected<'_>,
        commands: &Arc<[Command]>,
        began: Began,
    ) -> Attempt {
        let serial = expected.serial;
        let proposed = async {
            if leader == self.own {
                let tag = (self.own, serial);
                match self.consensus.propose_tagged(term, commands.clone(), tag, Some(began)).await {
                    Err(NotProposed::NotLeader) => Some(Attempt::Refused),
                    Err(NotProposed::Stopped) => Some(Attempt::Stopped),
                    Ok(()) | Err(NotProposed::Unknown) => None,
                }
            } else {
                let Some(peer) = self.consensus.peer(leader) else { return Some(Attempt::Refused) };
                let batch = (term, serial, Consensus::encode(commands));
                match self.peers.propose(leader, &peer, self.patience.limit, batch).await {
                    Ok(Forwarded::NotLeader) => Some(Attempt::Refused),
                    Ok(Forwarded::Applied | Forwarded::Unknown) => None,
                    Err(error) => {
                        self.patience.connection_lost();
                        if !error.was_sent {
                            return Some(Attempt::Refused);
                        }
                        tracing::debug!(%error, "nobody knows what became of a batch; the log will tell");
                        None
                    }
                }
            }
        };
        tokio::select! { biased;
            fate = &mut expected.fate => return fate.map_or(Attempt::Stopped, Attempt::Fate),
            attempt = proposed => if let Some(attempt) = attempt {
                return attempt;
            },
        }
        (&mut expected.fate).await.map_or(Attempt::Stopped, Attempt::Fate)
    }
}

/// Takes those commands out of a batch whose clients have gone, or whose deadlines have passed: what
/// was not done in time is not done late.
fn leave_out_forsaken(commands: &mut Arc<[Command]>, tickets: &mut Vec<Ticket>) {
    if tickets.iter().all(Ticket::is_waited_for) {
        return;
    }
    // Each is asked once, for a client may go at any moment.
    let (kept, waited_for): (Vec<Command>, Vec<Ticket>) = commands
        .iter()
        .zip(tickets.drain(..))
        .filter(|(_, ticket)| ticket.is_waited_for())
        .map(|(command, ticket)| (command.clone(), ticket))
        .unzip();
    (*commands, *tickets) = (kept.into(), waited_for);
}

/// Waits until there is a leader. Returns it and its term.
pub(super) async fn known_leader(
    leadership: &mut watch::Receiver<Leadership>,
) -> Result<(u64, u64), ProposeError> {
    let known = leadership.wait_for(|leadership| leadership.leader.is_some()).await;
    let known = known.map_err(|_| ProposeError::Stopped)?;
    Ok((known.leader.expect("waited for"), known.term))
}

/// Waits for news of who leads, but for no longer than `pause`. Once consensus has stopped there is
/// no more news, and the pause is waited for all the same: nobody goes round without one.
pub(super) async fn news_or(leadership: &mut watch::Receiver<Leadership>, pause: Duration) {
    let news = async {
        if leadership.changed().await.is_err() {
            std::future::pending().await
        }
    };
    let _ = time::timeout(pause, news).await;
}

/// Resolves when this member is about to end: who still waits is told, and can ask another.
pub(super) async fn given_up(mut giving_up: watch::Receiver<bool>) {
    // The sender lives as long as the core; without it there is nobody left to wait.
    let _ = giving_up.wait_for(|giving_up| *giving_up).await;
}

/// What one attempt came to.
enum Attempt {
    Fate(Fate),
    /// Nothing was put into the log.
    Refused,
    Stopped,
}

/// A tag that is waited for, for as long as this lives.
struct Expected<'a> {
    tags: &'a Tags,
    serial: u64,
    fate: oneshot::Receiver<Fate>,
}

impl<'a> Expected<'a> {
    fn new(forwarder: &'a Forwarder, term: u64) -> Expected<'a> {
        let serial = forwarder.next_serial.fetch_add(1, Ordering::Relaxed);
        Expected { tags: &forwarder.tags, serial, fate: forwarder.tags.expect(serial, term) }
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.tags.forget(self.serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply::{DeleteRange, Put},
        node::mailbox::Mailbox,
        types::KeyRange,
    };

    fn put(key: &'static str) -> Command {
        let key = key.into();
        Command::Put(Put { key, value: Some("v".into()), lease: None, prev_kv: false })
    }

    #[test]
    fn what_nobody_waits_for_is_left_out_of_a_batch_that_is_not_in_the_log() {
        let mailbox = Arc::new(Mailbox::default());
        let (mut tickets, mut waiting): (Vec<_>, Vec<_>) = (0..4)
            .map(|_| {
                let (slot, answer) = oneshot::channel();
                (Ticket { mailbox: mailbox.clone(), slot }, answer)
            })
            .unzip();
        let range = KeyRange::Point("d".into());
        let delete = Command::DeleteRange(DeleteRange { range, prev_kv: false });
        let mut commands: Arc<[Command]> = vec![put("a"), put("b"), delete.clone(), put("c")].into();
        let all = commands.clone();
        leave_out_forsaken(&mut commands, &mut tickets);
        assert!(Arc::ptr_eq(&commands, &all), "nothing is copied while all wait");

        // The first and the last client go.
        drop((waiting.remove(3), waiting.remove(0)));
        leave_out_forsaken(&mut commands, &mut tickets);
        assert_eq!(commands[..], [put("b"), delete]);
        let answered = tickets.into_iter().zip(&mut waiting).map(|(ticket, answer)| {
            drop(ticket.slot.send(Err(ProposeError::Stopped)));
            answer.try_recv()
        });
        assert!(answered.into_iter().all(|answer| answer == Ok(Err(ProposeError::Stopped))));
    }

    #[test]
    fn nothing_is_left_of_a_batch_that_nobody_waits_for() {
        let (slot, answer) = oneshot::channel();
        drop(answer);
        let mut tickets = vec![Ticket { mailbox: Arc::new(Mailbox::default()), slot }];
        let mut commands: Arc<[Command]> = vec![put("a")].into();
        leave_out_forsaken(&mut commands, &mut tickets);
        assert!(commands.is_empty() && tickets.is_empty());
    }

    #[tokio::test]
    async fn nobody_goes_round_without_a_pause_when_consensus_has_stopped() {
        let (tell, mut leadership) = watch::channel(Leadership::default());
        tell.send_replace(Leadership { leader: Some(7), ..Leadership::default() });
        let hour = Duration::from_secs(3600);
        news_or(&mut leadership, hour).await;
        drop(tell);
        assert!(known_leader(&mut leadership).await.is_ok(), "what is known last stays known");
        tokio::select! { biased;
            () = news_or(&mut leadership, hour) => panic!("there is no news, and no pause"),
            () = tokio::task::yield_now() => {}
        }
    }
}
