//! Answers to ranges that are too large to be in memory as a whole.
//!
//! ```text
//! strides until the answer is large | wait for a place | count the bytes of the rest | send | piece | piece ...
//! ```
//!
//! The first part of such an answer is kept, and the rest is only counted, because the length of an answer is
//! sent before the answer. Then the rest is read a second time, piece by piece, whenever the client has taken
//! what was read before. The memory of the part that is kept and of the pieces belongs to the place.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Node, ReadError};
use crate::{
    limits,
    mvcc::{RangeResult, RangeWalk, Rest, Step},
    types::{KeyValue, Rev},
};

/// A place for each long answer.
pub(super) struct LongAnswers(Arc<Semaphore>);

pub(super) type Place = OwnedSemaphorePermit;

impl LongAnswers {
    pub(super) fn new() -> LongAnswers {
        LongAnswers(Arc::new(Semaphore::new(limits::LONG_ANSWERS_AT_ONCE)))
    }

    pub(super) fn try_take_place(&self) -> Option<Place> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    pub(super) async fn take_place(&self) -> Result<Place, ReadError> {
        Arc::clone(&self.0).acquire_owned().await.map_err(|_| ReadError::Stopped)
    }
}

/// The keys of an answer that are read while the client takes it. Dropping this gives up the answer.
pub(crate) struct Tail {
    node: Node,
    rest: Rest,
    _place: Place,
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
            walk = self.node.digest_rest(walk).await?;
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
    /// Goes on with a walk that keeps no more keys.
    pub(super) async fn count_rest(
        &self,
        mut walk: RangeWalk<'static>,
        mut step: Step,
        place: Place,
    ) -> Result<(Rev, RangeResult, Option<Tail>), ReadError> {
        loop {
            walk = self.digest_rest(walk).await?;
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
    async fn digest_rest(&self, mut walk: RangeWalk<'static>) -> Result<RangeWalk<'static>, ReadError> {
        loop {
            let step;
            (walk, step) = self.digest_apart(walk, &self.shared.turns.long).await?;
            if step == Step::Done {
                return Ok(walk);
            }
        }
    }
}
