//! Reads: a barrier or nothing, then the state under its lock, a stride at a time.

use tokio::{
    sync::{mpsc::error::TrySendError, oneshot},
    task,
};

use super::{
    Node, ProposeError, ReadError,
    answer_memory::Memory,
    long_answer::Tail,
    mailbox::{Confirmed, Ticket},
    walk::Walked,
};
use crate::{
    apply::{Missing, Outcome, ReadTxn, Txn, admission::Call},
    auth::{AuthError, AuthStore},
    clock, limits,
    mvcc::{Range, RangeResult, RangeWalk, RevError, Step},
    types::{Caller, Rev},
};

/// What a range has found.
pub(crate) struct Found {
    /// The newest revision at the moment of reading.
    pub(crate) rev: Rev,
    /// Of a long answer the first part.
    pub(crate) result: RangeResult,
    /// What `result` takes.
    pub(crate) memory: Memory,
    /// Reads the rest of a long answer.
    pub(crate) tail: Option<Tail>,
}

/// Whether an answer is complete.
enum Filled {
    All,
    /// There is no memory for the rest. What was read is to be dropped.
    WithoutMemory,
}

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
    pub(super) async fn barrier(&self) -> Result<Confirmed, ProposeError> {
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
    pub(super) async fn range(&self, query: &Range) -> Result<Found, ReadError> {
        self.metrics().ranges.inc();
        self.observe_range(self.walk_range(query)).await
    }

    /// As [`Node::range`], for a piece of a longer read, whose limit keeps it short. Without `counted` the walk ends
    /// where the limit is reached.
    pub(super) async fn range_piece(
        &self,
        query: &Range,
        counted: bool,
    ) -> Result<(Rev, RangeResult), ReadError> {
        let read = async {
            let mut memory = Memory::default();
            loop {
                let walk = if counted { RangeWalk::new(query) } else { RangeWalk::uncounted(query) };
                match self.walk(walk, 0, &mut memory).await? {
                    Walked::Whole(walk) => return Ok(walk.finish()),
                    Walked::WithoutMemory => self.shared.answer_memory.wait(&mut memory).await?,
                    Walked::Cut(..) => unreachable!("the walk was not told to keep a part only"),
                }
            }
        };
        self.observe_range(read).await
    }

    async fn observe_range<T>(
        &self,
        read: impl Future<Output = Result<T, ReadError>>,
    ) -> Result<T, ReadError> {
        let start = clock::now();
        let result = read.await;
        self.metrics().observe_range(result.is_ok(), clock::since(start));
        result
    }

    /// Walks a range. Of a long answer only the first part is in the result.
    async fn walk_range(&self, query: &Range) -> Result<Found, ReadError> {
        let mut memory = Memory::default();
        let mut place = None;
        loop {
            let walk = RangeWalk::new(query)
                .keeping(limits::ANSWER_WHOLE_BYTES)
                .keeping_in_memory(limits::ANSWER_WHOLE_BYTES);
            match self.walk(walk, 0, &mut memory).await? {
                Walked::Whole(walk) => {
                    memory.shrink_to(walk.memory_bytes());
                    let (rev, result) = walk.finish();
                    return Ok(Found { rev, result, memory, tail: None });
                }
                Walked::WithoutMemory => self.shared.answer_memory.wait(&mut memory).await?,
                Walked::Cut(walk, step) => {
                    memory = Memory::default();
                    match place.take().or_else(|| self.shared.long_answers.try_take_place()) {
                        Some(place) => {
                            let (rev, result, tail) = self.count_rest(walk.into_owned(), step, place).await?;
                            return Ok(Found { rev, result, memory, tail });
                        }
                        // Nobody waits with memory in its hands.
                        None => drop(walk),
                    }
                    place = Some(self.shared.long_answers.take_place().await?);
                }
            }
        }
    }

    /// A transaction that only reads, at one revision.
    ///
    /// It takes strides as a range does. If a snapshot from the leader takes the place of the state in the
    /// middle of it, or if there is no memory for its answer, it begins again.
    pub(super) async fn read_txn(&self, txn: &Txn) -> Result<(Outcome, Memory), ReadError> {
        let mut memory = Memory::default();
        loop {
            let mut outcome = self.decide(txn).await?;
            match self.try_fill(&mut outcome.missing_in_txn(txn), &mut memory).await {
                Ok(Filled::All) => return Ok((outcome, memory)),
                Ok(Filled::WithoutMemory) => {
                    drop(outcome);
                    self.shared.answer_memory.wait(&mut memory).await?;
                }
                Err(ReadError::Rev(RevError::Compacted { .. })) => {}
                Err(error) => return Err(error),
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
                task::yield_now().await;
            }
            task::yield_now().await;
        }
    }

    /// Reads what an answer lacks, when there is memory for it. Fails with [`ReadError::Rev`] only if a snapshot
    /// from the leader has taken the place of the state that the command was executed on.
    pub(super) async fn fill(&self, mut missing: Vec<Missing<'_>>) -> Result<Memory, ReadError> {
        let mut memory = Memory::default();
        while let Filled::WithoutMemory = self.try_fill(&mut missing, &mut memory).await? {
            missing.iter_mut().for_each(|missing| missing.fill(RangeResult::default()));
            self.shared.answer_memory.wait(&mut memory).await?;
        }
        Ok(memory)
    }

    async fn try_fill(&self, missing: &mut [Missing<'_>], memory: &mut Memory) -> Result<Filled, ReadError> {
        let mut bytes = 0;
        for missing in missing {
            match self.walk(missing.walk(), bytes, memory).await? {
                Walked::Whole(walk) => {
                    bytes += walk.memory_bytes();
                    let (_, found) = walk.finish();
                    missing.fill(found);
                }
                Walked::WithoutMemory => return Ok(Filled::WithoutMemory),
                Walked::Cut(..) => unreachable!("the walk was not told to keep a part only"),
            }
        }
        memory.shrink_to(bytes);
        Ok(Filled::All)
    }

    /// Asks users and roles, after a barrier, and the newest revision at that moment. Whether the caller may
    /// is judged at that moment too.
    pub(super) async fn ask_auth<T>(
        &self,
        caller: impl FnOnce() -> Result<Caller, AuthError>,
        call: Call<'_>,
        ask: impl FnOnce(&AuthStore) -> T,
    ) -> Result<(Rev, T), ProposeError> {
        self.read_barrier().await?;
        let caller = caller()?;
        let replica = self.shared.replica.read();
        replica.state.permit(&caller, call)?;
        Ok((replica.state.mvcc.rev_current(), ask(&replica.state.auth)))
    }
}
