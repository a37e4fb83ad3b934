//! Batches of commands on their way to the leader.
//!
//! A batch is proposed, under a tag, in the term of the leader that this member knows; its clients are
//! answered when this member has applied it. A batch that certainly was not accepted, or that certainly
//! is not in the log, is proposed again to the next leader. So an election delays an answer, and no
//! command is executed twice. While it is not known whether the batch is in the log, this member waits
//! until the log shows it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    ProposeError,
    leader_search::{Leader, LeaderSearch, NotFound, Route},
    mailbox::{self, Ticket},
    patience::{Expired, Patience},
};
use crate::{
    apply::{Outcome, Request, admission},
    clock,
    link::{Forwarded, Peers},
    raft::{Began, Consensus, Fate, Leadership, NotProposed, Tags},
    sync::watch,
};

/// Pause before a leader that refused a batch is asked again, unless leadership changes earlier.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How often, while there is no leader, commands whose clients have gone are taken out of a batch. A batch
/// without commands ends, which lets the next one begin.
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
    /// Places for batches whose outcome only the log can tell.
    pub(super) unsettled: Arc<Semaphore>,
}

impl Forwarder {
    /// Whether this member's own log is the quorum.
    pub(crate) fn is_sole_leader(&self) -> bool {
        let leadership = self.leadership.borrow();
        leadership.is_leader && leadership.is_sole_voter
    }

    /// Proposes a batch until its outcome is known or its time is over, and answers its clients.
    pub(crate) async fn see_through(
        self: Arc<Self>,
        mut commands: Arc<[Request]>,
        mut tickets: Vec<Ticket<Outcome>>,
        began: Began,
        mut batch_permit: OwnedSemaphorePermit,
    ) {
        let start = clock::now();
        let run = self.run(&mut commands, &mut tickets, began, &mut batch_permit);
        let outcomes = self.patience.bound(run).await;
        let outcomes = outcomes.unwrap_or_else(|expired| match expired {
            Expired::MemberEnds => Err(ProposeError::Stopped),
            Expired::TimeIsOver => Err(self.patience.timeout(start)),
        });
        mailbox::deliver_batch(tickets, outcomes);
    }

    async fn run(
        &self,
        commands: &mut Arc<[Request]>,
        tickets: &mut Vec<Ticket<Outcome>>,
        began: Began,
        batch_permit: &mut OwnedSemaphorePermit,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let mut search = LeaderSearch::new(&self.consensus, &self.leadership, self.own, RETRY_PAUSE);
        loop {
            let leader = search.next(LEADERLESS_LOOK).await;
            // No attempt is under way, so nothing of the batch is in the log or will be.
            leave_out_forsaken(commands, tickets);
            if tickets.is_empty() {
                return Err(ProposeError::Timeout);
            }
            let leader = match leader {
                Ok(leader) => leader,
                Err(NotFound::Leaderless) => continue,
                Err(NotFound::Stopped) => return Err(ProposeError::Stopped),
            };
            assert!(!commands.is_empty(), "an entry of the log holds a command");
            match self.attempt(&leader, commands, began, batch_permit).await {
                Attempt::Fate(Fate::Applied(outcomes)) => return Ok(outcomes),
                Attempt::Fate(Fate::Unknown) => return Err(ProposeError::LeaderChanged),
                // The batch is lost where another term has begun. Either way it is not in the log.
                Attempt::Fate(Fate::Lost) | Attempt::Refused => {}
                Attempt::NoSpace => {
                    refuse_what_adds_data(commands, tickets);
                    if tickets.is_empty() {
                        return Err(ProposeError::NoSpace);
                    }
                }
                Attempt::Stopped => return Err(ProposeError::Stopped),
            }
        }
    }

    async fn attempt(
        &self,
        leader: &Leader,
        commands: &Arc<[Request]>,
        began: Began,
        batch_permit: &mut OwnedSemaphorePermit,
    ) -> Attempt {
        let term = leader.term;
        let mut expected = Expected::new(self, term);
        let serial = expected.serial;
        let proposed = async {
            match &leader.route {
                Route::Own => {
                    let tag = (self.own, serial);
                    match self.consensus.propose_tagged(term, commands.clone(), tag, Some(began)).await {
                        Err(NotProposed::NotLeader) => Some(Attempt::Refused),
                        Err(NotProposed::Stopped) => Some(Attempt::Stopped),
                        Ok(()) | Err(NotProposed::Unknown) => None,
                    }
                }
                Route::Peer(peer) => {
                    let batch = (term, serial, Consensus::encode(commands));
                    match self.peers.propose(leader.id, peer, self.patience.limit, batch).await {
                        Ok(Forwarded::NotLeader) => Some(Attempt::Refused),
                        Ok(Forwarded::NoSpace) => Some(Attempt::NoSpace),
                        Ok(Forwarded::Applied | Forwarded::Unknown) => None,
                        Err(error) => {
                            self.patience.connection_lost();
                            #[cfg(test)]
                            let error = match crate::planted::is(crate::planted::Bug::ProposedTwice) {
                                true => return Some(Attempt::Refused),
                                false => error,
                            };
                            if !error.was_sent {
                                return Some(Attempt::Refused);
                            }
                            tracing::debug!(%error, "the outcome of a forwarded batch is unknown until the log shows it");
                            self.let_others_pass(batch_permit);
                            None
                        }
                    }
                }
                Route::Unknown => Some(Attempt::Refused),
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

impl Forwarder {
    /// The batch waits for the log, in which it may never appear while the same member leads. So it does not
    /// count as one in flight any more, and those behind it need not wait until its time is over.
    fn let_others_pass(&self, batch_permit: &mut OwnedSemaphorePermit) {
        if let Ok(place) = self.unsettled.clone().try_acquire_owned() {
            *batch_permit = place;
        }
    }
}

/// Takes those commands out of a batch whose clients have gone or whose deadlines have passed, so that a
/// command is not executed after its deadline.
fn leave_out_forsaken(commands: &mut Arc<[Request]>, tickets: &mut Vec<Ticket<Outcome>>) {
    assert_eq!(commands.len(), tickets.len(), "each command of a batch has a ticket");
    if tickets.iter().all(Ticket::is_waited_for) {
        return;
    }
    // Each ticket is looked at once, because a client may go between two looks.
    let (kept, waited_for): (Vec<Request>, Vec<Ticket<Outcome>>) = commands
        .iter()
        .zip(tickets.drain(..))
        .filter(|(_, ticket)| ticket.is_waited_for())
        .map(|(command, ticket)| (command.clone(), ticket))
        .unzip();
    (*commands, *tickets) = (kept.into(), waited_for);
    assert_eq!(commands.len(), tickets.len(), "a command is left out together with its ticket");
}

/// Takes those commands out of a batch that add data, and answers them.
fn refuse_what_adds_data(commands: &mut Arc<[Request]>, tickets: &mut Vec<Ticket<Outcome>>) {
    assert_eq!(commands.len(), tickets.len(), "each command of a batch has a ticket");
    let (refused, kept): (Vec<_>, Vec<_>) = commands
        .iter()
        .cloned()
        .zip(tickets.drain(..))
        .partition(|(request, _)| admission::quota_cost(&request.command) > 0);
    let refused = refused.into_iter().map(|(_, ticket)| ticket).collect();
    mailbox::deliver_batch(refused, Err(ProposeError::NoSpace));
    let (kept_commands, kept_tickets): (Vec<Request>, Vec<Ticket<Outcome>>) = kept.into_iter().unzip();
    (*commands, *tickets) = (kept_commands.into(), kept_tickets);
}

/// The result of one attempt.
enum Attempt {
    Fate(Fate),
    /// The leader put nothing of the batch into the log.
    Refused,
    /// The same, and it will not as long as its disk is full and the batch adds data.
    NoSpace,
    Stopped,
}

/// Registers a tag whose outcome is waited for, until this is dropped.
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
    use futures_util::FutureExt;

    use super::*;
    use crate::{
        apply::{Command, DeleteRange, Put},
        node::mailbox::Mailbox,
        types::{Caller, KeyRange},
    };

    fn put(key: &'static str) -> Request {
        let key = key.into();
        Command::Put(Put::new(key, Some("v".into()), None, false)).by(Caller::Nobody)
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
        let delete = Command::DeleteRange(DeleteRange { range, prev_kv: false }).by(Caller::Nobody);
        let mut commands: Arc<[Request]> = vec![put("a"), put("b"), delete.clone(), put("c")].into();
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
    fn what_adds_data_is_taken_out_of_a_batch_and_the_rest_stays() {
        let mailbox = Arc::new(Mailbox::default());
        let (mut tickets, mut waiting): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (slot, answer) = oneshot::channel();
                (Ticket { mailbox: mailbox.clone(), slot }, answer)
            })
            .unzip();
        let range = KeyRange::Point("d".into());
        let delete = Command::DeleteRange(DeleteRange { range, prev_kv: false }).by(Caller::Nobody);
        let mut commands: Arc<[Request]> = vec![put("a"), delete.clone(), put("b")].into();
        assert!(Consensus::adds_data(Consensus::encode(&commands)));
        refuse_what_adds_data(&mut commands, &mut tickets);
        assert_eq!((&commands[..], tickets.len()), (&[delete][..], 1));
        assert!(!Consensus::adds_data(Consensus::encode(&commands)));
        drop(tickets.remove(0).slot.send(Err(ProposeError::Stopped)));
        assert_eq!(waiting[1].try_recv(), Ok(Err(ProposeError::Stopped)), "it was not answered before");
        mailbox.hand_out().now_or_never();
        assert_eq!(waiting[0].try_recv(), Ok(Err(ProposeError::NoSpace)));
        assert_eq!(waiting[2].try_recv(), Ok(Err(ProposeError::NoSpace)));
    }

    #[test]
    fn nothing_is_left_of_a_batch_that_nobody_waits_for() {
        let (slot, answer) = oneshot::channel();
        drop(answer);
        let mut tickets = vec![Ticket { mailbox: Arc::new(Mailbox::default()), slot }];
        let mut commands: Arc<[Request]> = vec![put("a")].into();
        leave_out_forsaken(&mut commands, &mut tickets);
        assert!(commands.is_empty() && tickets.is_empty());
    }
}
