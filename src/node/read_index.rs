//! The barrier of linearizable reads where others vote too.
//!
//! All reads that wait share a round: the leader, which may be this member, makes sure of a
//! quorum and says how far its log is committed; this member waits until it has applied that
//! much. A read that comes while a round is under way takes the next one, for what was written
//! since that round began has to be seen. A round that fails begins anew with whoever leads then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{
    ProposeError,
    forward::{given_up, known_leader, news_or},
    mailbox::{Letter, Mailbox},
};
use crate::{
    limits,
    raft::{Consensus, Leadership, Peers},
    telemetry::Metrics,
};

/// Pause before a round that came to nothing begins anew.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A round that takes longer is counted as slow.
const SLOW: Duration = Duration::from_millis(500);

/// A read that waits.
pub(crate) struct Waiting {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) slot: oneshot::Sender<Result<Confirmed, ProposeError>>,
}

/// Who stood behind a round: this member as the leader of a term, or another member.
pub(crate) type Confirmed = Option<u64>;

pub(crate) struct ReadIndex {
    pub(crate) consensus: Consensus,
    pub(crate) peers: Arc<Peers>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) own: u64,
    /// How long a round may take, and how long one attempt.
    pub(crate) patience: Duration,
    pub(crate) attempt: Duration,
    /// As the [`Forwarder`](super::forward::Forwarder) has it.
    pub(crate) giving_up: watch::Receiver<bool>,
}

impl ReadIndex {
    /// Runs until every sender of the queue is gone.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Waiting>) {
        let mut waiting = Vec::new();
        while queue.recv_many(&mut waiting, limits::READ_QUEUE).await > 0 {
            waiting.retain(|read| !read.slot.is_closed());
            let start = Instant::now();
            let result = tokio::select! { biased;
                result = self.round() => result,
                () = given_up(self.giving_up.clone()) => Err(ProposeError::Stopped),
                () = time::sleep(self.patience) => Err(ProposeError::Timeout),
            };
            if start.elapsed() > SLOW {
                self.metrics.slow_read_indexes.inc();
            }
            if result.is_err() {
                self.metrics.failed_read_indexes.inc();
            }
            while let Some(first) = waiting.first() {
                let mailbox = first.mailbox.clone();
                let (here, elsewhere): (Vec<_>, Vec<_>) =
                    waiting.into_iter().partition(|read| Arc::ptr_eq(&read.mailbox, &mailbox));
                mailbox.deliver(here.into_iter().map(|read| Letter::Barrier(read.slot, result.clone())));
                waiting = elsewhere;
            }
        }
    }

    /// After this, this member has applied everything that was committed before the call.
    async fn round(&self) -> Result<Confirmed, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let (leader, _) = known_leader(&mut leadership).await?;
            if let Some((index, confirmed)) = self.ask(leader).await {
                let mut applied = self.applied.clone();
                applied.wait_for(|applied| *applied >= index).await.map_err(|_| ProposeError::Stopped)?;
                return Ok(confirmed);
            }
            news_or(&mut leadership, RETRY_PAUSE).await;
        }
    }

    async fn ask(&self, leader: u64) -> Option<(u64, Confirmed)> {
        if leader == self.own {
            return self.consensus.read_index().await.map(|(index, term)| (index, Some(term)));
        }
        let peer = self.consensus.peer(leader)?;
        match self.peers.read_index(leader, &peer, self.attempt).await {
            Ok(index) => index.map(|index| (index, None)),
            Err(error) => {
                tracing::debug!(%error, "the leader could not be asked for a read index");
                None
            }
        }
    }
}
