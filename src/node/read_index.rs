//! The barrier of linearizable reads in a cluster of more than one voter.
//!
//! All reads that wait share a round: the leader, which may be this member, makes sure of a
//! quorum (`raft::read_barrier`) and says how far its log is committed; this member waits until it has applied that
//! much. A read that comes while a round is under way takes the next one, for what was written
//! since that round began has to be seen. A round that fails begins again with the next leader.

use std::{mem, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time};

use super::{
    ProposeError,
    leader_search::{Leader, LeaderSearch, NotFound, Route},
    mailbox::{self, Confirmed, Ticket},
    patience::{Expired, Patience},
};
use crate::{
    clock, limits,
    link::{Peers, ReadIndexes},
    raft::{Consensus, Leadership, ReadPoint},
    sync::watch,
    telemetry::Metrics,
};

/// Pause before a round that came to nothing begins anew.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Without a read for this long, the stream to the leader is ended: the connection of a stream that is open is sent PINGs.
const REST: Duration = Duration::from_secs(1);

/// A round that takes longer is counted as slow.
const SLOW: Duration = Duration::from_millis(500);

pub(crate) struct ReadIndex {
    pub(crate) consensus: Consensus,
    pub(crate) peers: Arc<Peers>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) own: u64,
    /// How long a round may take.
    pub(super) patience: Arc<Patience>,
    /// How long one leader may take to answer.
    pub(crate) attempt: Duration,
}

impl ReadIndex {
    /// Runs until every sender of the queue is gone.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Ticket<Confirmed>>) {
        let mut waiting = Vec::new();
        let mut asking = ReadIndexes::new(self.peers.clone());
        loop {
            let next = time::timeout(REST, queue.recv_many(&mut waiting, limits::READ_QUEUE)).await;
            let taken = match next {
                Ok(taken) => taken,
                Err(_) => {
                    asking.rest();
                    queue.recv_many(&mut waiting, limits::READ_QUEUE).await
                }
            };
            if taken == 0 {
                return;
            }
            waiting.retain(Ticket::is_waited_for);
            let start = clock::now();
            let result = self.patience.bound(self.round(&mut asking)).await;
            let result = result.unwrap_or_else(|expired| match expired {
                Expired::MemberEnds => Err(ProposeError::Stopped),
                Expired::TimeIsOver => Err(ProposeError::Timeout),
            });
            if clock::since(start) > SLOW {
                self.metrics.slow_read_indexes.inc();
            }
            if result.is_err() {
                self.metrics.failed_read_indexes.inc();
            }
            mailbox::deliver_to_all(mem::take(&mut waiting), &result);
        }
    }

    /// After this, this member has applied everything that was committed before the call.
    async fn round(&self, asking: &mut ReadIndexes) -> Result<Confirmed, ProposeError> {
        #[cfg(test)]
        if crate::planted::is(crate::planted::Bug::ReadWithoutBarrier) {
            return Ok(Confirmed::ByAnotherLeader);
        }
        let mut search = LeaderSearch::new(&self.consensus, &self.leadership, self.own, RETRY_PAUSE);
        loop {
            let leader = match search.next(self.patience.limit).await {
                Ok(leader) => leader,
                Err(NotFound::Leaderless) => continue,
                Err(NotFound::Stopped) => return Err(ProposeError::Stopped),
            };
            if let Some((index, confirmed)) = self.ask(&leader, asking).await {
                let mut applied = self.applied.clone();
                applied.wait_for(|applied| *applied >= index).await.map_err(|_| ProposeError::Stopped)?;
                return Ok(confirmed);
            }
        }
    }

    async fn ask(&self, leader: &Leader, asking: &mut ReadIndexes) -> Option<(u64, Confirmed)> {
        match &leader.route {
            Route::Own => {
                let ReadPoint { index, term } = self.consensus.read_index(None).await?;
                assert!(
                    term >= leader.term,
                    "the leader of term {} confirms a read in term {term}",
                    leader.term
                );
                Some((index, Confirmed::ByThisLeader { term }))
            }
            // Whom this member follows is looked up after the round has begun: see `raft::read_barrier`.
            Route::Peer(peer) => {
                match asking.ask(leader.id, peer, self.attempt, self.consensus.follows(leader.id)).await {
                    Ok(Some(index)) => match self.consensus.judge_index(index) {
                        Ok(()) => Some((index, Confirmed::ByAnotherLeader)),
                        Err(error) => {
                            tracing::warn!(%error, "the leader's answer to a read cannot be true");
                            None
                        }
                    },
                    Ok(None) => None,
                    Err(error) => {
                        tracing::debug!(%error, "the leader could not be asked for a read index");
                        None
                    }
                }
            }
            Route::Unknown => None,
        }
    }
}
