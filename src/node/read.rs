//! Reads: a barrier or nothing, then the state under its lock, a stride at a time.

use tokio::sync::{mpsc::error::TrySendError, oneshot};

use super::{
    Node, ProposeError, ReadError,
    long_answer::Tail,
    mailbox::{Confirmed, Ticket},
};
use crate::{
    apply::{Missing, Outcome, ReadTxn, Txn},
    auth::AuthStore,
    clock, limits,
    mvcc::{History, Range, RangeResult, RangeWalk, RevError, Step},
    storage::StorageError,
    types::{Event, Rev},
};

impl Node {
    /// After this, a read here sees every write that was answered before the call.
    pub(super) async fn read_barrier(&self) -> Result<(), ProposeError> {
        self.barrier().await.map(|_| ())
    }

    /// As [`Node::read_barrier`], and a quorum has said that this member still leads `term`, at some
    /// moment after the call. False as soon as it is known not to.
    pub(super) async fn confirm_leadership(&self, term: u64) -> bool {
        let mut leadership = self.shared.leadership.clone();
        let lost = leadership.wait_for(|now| !now.is_leader || now.term != term);
        tokio::select! { biased;
            _ = lost => false,
            confirmed = self.barrier() => confirmed == Ok(Confirmed::ByThisLeader { term }),
        }
    }

    /// Where this member is the only voter its own log is the quorum, and whatever was answered
    /// has been applied here: there is nobody to ask and nothing to wait for.
    async fn barrier(&self) -> Result<Confirmed, ProposeError> {
        let leadership = self.leadership();
        if leadership.is_leader && leadership.is_sole_voter {
            return Ok(Confirmed::ByThisLeader { term: leadership.term });
        }
        let (slot, answer) = oneshot::channel();
        let ticket = Ticket { mailbox: self.mailbox.clone(), slot };
        self.shared.reads.try_send(ticket).map_err(|error| match error {
            TrySendError::Full(_) => ProposeError::TooManyRequests,
            TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        match tokio::time::timeout(self.request_timeout(), answer).await {
            Ok(answer) => answer.unwrap_or(Err(ProposeError::Stopped)),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// Whether this member leads and nobody else votes.
    pub(super) fn is_sole_leader(&self) -> bool {
        let leadership = self.shared.leadership.borrow();
        leadership.is_leader && leadership.is_sole_voter
    }

    /// Keys of a range, and the newest revision at the moment of reading.
    ///
    /// A long range releases the lock after each stride and yields to the other tasks of the reactor.
    /// Of a long answer the result is the first part, and the [`Tail`] reads the rest.
    pub(super) async fn range(&self, query: &Range) -> Result<(Rev, RangeResult, Option<Tail>), ReadError> {
        self.metrics().ranges.inc();
        let start = clock::now();
        let result = self.walk_range(query).await;
        self.metrics().observe_range(result.is_ok(), clock::since(start));
        result
    }

    async fn walk(&self, mut walk: RangeWalk<'_>) -> Result<(Rev, RangeResult), ReadError> {
        loop {
            let step = self.step(&mut walk)?;
            while let Step::More = walk.digest()? {
                tokio::task::yield_now().await;
            }
            match step {
                Step::More => tokio::task::yield_now().await,
                Step::Done => return Ok(walk.finish()),
            }
        }
    }

    /// As [`Node::range`], for a piece of a longer read that is known to be short. Without
    /// `counted` the walk ends where the limit is reached.
    pub(super) fn range_piece(&self, query: &Range, counted: bool) -> Result<(Rev, RangeResult), ReadError> {
        let start = clock::now();
        let read = || {
            let mut walk = if counted { RangeWalk::new(query) } else { RangeWalk::uncounted(query) };
            loop {
                let step = self.step(&mut walk)?;
                while let Step::More = walk.digest()? {}
                if let Step::Done = step {
                    return Ok(walk.finish());
                }
            }
        };
        let result = read();
        self.metrics().observe_range(result.is_ok(), clock::since(start));
        result
    }

    pub(super) fn step(&self, walk: &mut RangeWalk<'_>) -> Result<Step, RevError> {
        walk.step(&self.shared.replica.read().state.mvcc)
    }

    /// A transaction that only reads, at one revision.
    ///
    /// It takes strides as a range does. If a snapshot from the leader takes the place of the state in the
    /// middle of it, it begins again.
    pub(super) async fn read_txn(&self, txn: &Txn) -> Result<Outcome, ReadError> {
        loop {
            let mut outcome = self.decide(txn).await?;
            match self.fill(outcome.missing_in_txn(txn)).await {
                Err(ReadError::Rev(RevError::Compacted { .. })) => {}
                filled => return filled.map(|()| outcome),
            }
        }
    }

    async fn decide(&self, txn: &Txn) -> Result<Outcome, ReadError> {
        let mut reading = ReadTxn::new(txn);
        loop {
            let outcome = reading.step(&self.shared.replica.read().state.mvcc);
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
            while let Step::More = reading.digest()? {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Reads what an answer lacks. Fails with [`ReadError::Rev`] only if a snapshot from the leader has
    /// taken the place of the state that the command was executed on.
    pub(super) async fn fill(&self, missing: Vec<Missing<'_>>) -> Result<(), ReadError> {
        for missing in missing {
            let (_, found) = self.walk(missing.walk()).await?;
            missing.fill(found);
        }
        Ok(())
    }

    /// Changes from `from` on, whole revisions, for a watcher that is behind.
    pub(super) fn history(&self, from: Rev, max_revs: usize, max_bytes: usize) -> Result<History, ReadError> {
        assert!(max_revs > 0, "a stride of history takes at least one revision");
        let stride = self.shared.replica.read().state.mvcc.history(from, max_revs, max_bytes)?;
        Ok(stride.load()?)
    }

    /// Adds to each event what the key held before it.
    pub(super) fn fill_prev(&self, events: &mut [Event]) -> Result<(), StorageError> {
        for some in events.chunks_mut(limits::RANGE_STRIDE_KEYS) {
            let borrowed: Vec<&Event> = some.iter().collect();
            let lookup = self.shared.replica.read().state.mvcc.locate_prev(&borrowed);
            let found = lookup.load()?;
            assert_eq!(found.len(), some.len(), "each event has its place among what was looked up");
            for (event, prev) in some.iter_mut().zip(found) {
                event.prev_kv = prev;
            }
        }
        Ok(())
    }

    /// Asks users and roles, after a barrier, and the newest revision at that moment.
    pub(super) async fn ask_auth<T>(
        &self,
        ask: impl FnOnce(&AuthStore) -> T,
    ) -> Result<(Rev, T), ProposeError> {
        self.read_barrier().await?;
        let replica = self.shared.replica.read();
        Ok((replica.state.mvcc.rev_current(), ask(&replica.state.auth)))
    }
}
