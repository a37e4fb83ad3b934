//! Walks through the state, a stride at a time: under the lock for the index, without it for the records.

use std::sync::Arc;

use tokio::{sync::Semaphore, task};

use super::{Node, ReadError, answer_memory::Memory};
use crate::{
    limits,
    mvcc::{RangeWalk, RevError, Step},
    storage::StorageError,
    threads,
};

/// How far a walk has come.
pub(super) enum Walked<'a> {
    Whole(RangeWalk<'a>),
    /// The walk keeps no more keys. The last stride, which this is the result of, is not digested.
    Cut(RangeWalk<'a>, Step),
    /// There is no memory for more, so what was read has been dropped.
    WithoutMemory,
}

/// Whose turn it is to read from the database on the blocking pool, so that neither kind of reader waits for
/// the other.
pub(super) struct Turns {
    pub(super) long: Arc<Semaphore>,
    pub(super) short: Arc<Semaphore>,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns {
            long: Arc::new(Semaphore::new(limits::LONG_READS_AT_ONCE)),
            short: Arc::new(Semaphore::new(limits::SHORT_READS_AT_ONCE)),
        }
    }
}

impl Node {
    /// Walks to the end, or to where the walk keeps no more keys. `before_bytes` is what the same answer takes
    /// already.
    pub(super) async fn walk<'a>(
        &self,
        mut walk: RangeWalk<'a>,
        before_bytes: usize,
        memory: &mut Memory,
    ) -> Result<Walked<'a>, ReadError> {
        loop {
            let step = self.step(&mut walk)?;
            loop {
                let digested;
                if walk.unread() <= limits::READS_ON_REACTOR {
                    digested = walk.digest()?;
                } else {
                    let turns = &self.shared.turns.short;
                    (walk, digested) = self.digest_apart(walk.into_owned(), turns).await?;
                }
                if walk.is_cut() {
                    return Ok(Walked::Cut(walk, step));
                }
                if !self.shared.answer_memory.covers(memory, before_bytes + walk.memory_bytes())? {
                    return Ok(Walked::WithoutMemory);
                }
                match digested {
                    Step::More => task::yield_now().await,
                    Step::Done => break,
                }
            }
            match step {
                Step::More => task::yield_now().await,
                Step::Done => return Ok(Walked::Whole(walk)),
            }
        }
    }

    pub(super) fn step(&self, walk: &mut RangeWalk<'_>) -> Result<Step, RevError> {
        walk.step(&self.shared.replica.read().state.mvcc)
    }

    /// Reads a part of what the last stride has found, on the blocking pool, when it is its turn.
    pub(super) async fn digest_apart(
        &self,
        mut walk: RangeWalk<'static>,
        turns: &Arc<Semaphore>,
    ) -> Result<(RangeWalk<'static>, Step), ReadError> {
        self.read_apart(turns, move || walk.digest().map(|step| (walk, step))).await
    }

    /// Reads something on the blocking pool, when it is its turn.
    pub(super) async fn read_apart<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        read: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let turn = Arc::clone(turns).acquire_owned().await.map_err(|_| ReadError::Stopped)?;
        let read = move || {
            // The turn ends when the part was read, also if the client has gone meanwhile.
            let _turn = turn;
            read()
        };
        Ok(threads::blocking(read).await.map_err(|_| ReadError::Stopped)??)
    }
}
