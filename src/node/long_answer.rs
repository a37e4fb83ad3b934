//! Answers to ranges that are too large to be in memory as a whole.
//!
//! ```text
//! strides until the answer is large | wait for a place | count the bytes of the rest | send | piece | piece ...
//! ```
//!
//! The first part of such an answer is kept, and the rest is only counted, because the length of an answer is
//! sent before the answer. Then the rest is read a second time, piece by piece, whenever the client has taken
//! what was read before. Both times the records are read on the blocking pool, a bounded part at a time and
//! in turns, so that neither the reactor nor another large answer waits for long.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
};

use super::{Node, ReadError};
use crate::{
    limits,
    mvcc::{Range, RangeResult, RangeWalk, Rest, Step},
    threads,
    types::{KeyValue, Rev},
};

/// Who may read how much at the same time.
pub(super) struct LongAnswers {
    /// A place for each long answer.
    places: Arc<Semaphore>,
    /// A turn for each piece that is read.
    turns: Arc<Semaphore>,
}

impl LongAnswers {
    pub(super) fn new() -> LongAnswers {
        LongAnswers {
            places: Arc::new(Semaphore::new(limits::LONG_ANSWERS_AT_ONCE)),
            turns: Arc::new(Semaphore::new(limits::LONG_READS_AT_ONCE)),
        }
    }
}

/// The keys of an answer that are read while the client takes it. Dropping this gives up the answer.
pub(crate) struct Tail {
    node: Node,
    rest: Rest,
    _place: OwnedSemaphorePermit,
}

impl Tail {
    /// The bytes of the keys that are still to be read, each an encoded key-value with its tag and length.
    pub(crate) fn bytes(&self) -> usize {
        self.rest.weight().bytes
    }

    /// The next keys; `None` after the last. Fails if a snapshot from the leader has replaced the state.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<KeyValue>>, ReadError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut walk = RangeWalk::piece_of(&self.rest);
        loop {
            let step = self.node.step(&mut walk)?;
            walk = self.node.digest_apart(walk).await?;
            if step == Step::Done {
                break;
            }
        }
        let (_, piece, _) = walk.finish_part();
        self.rest.took(&piece.kvs);
        Ok(Some(piece.kvs))
    }
}

impl Node {
    /// Walks a range. Of a long answer only the first part is in the result.
    pub(super) async fn walk_range(
        &self,
        query: &Range,
    ) -> Result<(Rev, RangeResult, Option<Tail>), ReadError> {
        let mut walk = RangeWalk::new(query).keeping(limits::ANSWER_WHOLE_BYTES);
        loop {
            let step = self.step(&mut walk)?;
            while let Step::More = walk.digest()? {
                if walk.is_cut() {
                    break;
                }
                task::yield_now().await;
            }
            if walk.is_cut() {
                return self.count_rest(walk.into_owned(), step).await;
            }
            match step {
                Step::More => task::yield_now().await,
                Step::Done => {
                    let (rev, result) = walk.finish();
                    return Ok((rev, result, None));
                }
            }
        }
    }

    /// Goes on with a walk that keeps no more keys.
    async fn count_rest(
        &self,
        mut walk: RangeWalk<'static>,
        mut step: Step,
    ) -> Result<(Rev, RangeResult, Option<Tail>), ReadError> {
        let places = Arc::clone(&self.shared.long_answers.places);
        let place = places.acquire_owned().await.map_err(|_| ReadError::Stopped)?;
        loop {
            walk = self.digest_apart(walk).await?;
            if step == Step::Done {
                break;
            }
            step = self.step(&mut walk)?;
        }
        let (rev, result, rest) = walk.finish_part();
        let tail = rest.map(|rest| Tail { node: self.clone(), rest, _place: place });
        Ok((rev, result, tail))
    }

    /// Reads what the last stride has found, on the blocking pool.
    async fn digest_apart(&self, mut walk: RangeWalk<'static>) -> Result<RangeWalk<'static>, ReadError> {
        loop {
            let turns = Arc::clone(&self.shared.long_answers.turns);
            let turn = turns.acquire_owned().await.map_err(|_| ReadError::Stopped)?;
            let digest = move || {
                // The turn ends when the part was read, also if the client has gone meanwhile.
                let _turn = turn;
                walk.digest().map(|step| (walk, step))
            };
            let step;
            (walk, step) = threads::blocking(digest).await.map_err(|_| ReadError::Stopped)??;
            if step == Step::Done {
                return Ok(walk);
            }
        }
    }
}
