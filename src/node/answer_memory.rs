//! Memory for answers: how much of it all answers may take, and who waits for it.
//!
//! An answer of a few kilobytes is not counted. What a larger one takes is reserved while it is read, before
//! more is read, and released while the client takes it. Nobody waits for memory with memory in its hands:
//! an answer that finds none drops what was read for it, waits for as much as it needs, and is read again. So
//! those that have memory always come to an end, and so does every wait.
//!
//! There are two pools. Answers of more than a megabyte have one of their own, so that smaller ones pass them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ReadError;
use crate::limits;

pub(super) struct AnswerMemory {
    /// For answers of at most [`limits::ANSWER_WHOLE_BYTES`].
    whole: Pool,
    /// For larger ones.
    kept: Pool,
}

struct Pool {
    /// One permit is one byte.
    bytes: Arc<Semaphore>,
    /// What the pool has, and the most that one answer gets of it.
    size: usize,
    answer_bytes_max: usize,
}

/// The memory of one answer. Dropping this releases it.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    reserved: Option<OwnedSemaphorePermit>,
    /// What the answer needs at least, as far as it was read.
    needed: usize,
}

impl Memory {
    /// Whether the answer is so large that it is counted.
    pub(crate) fn is_counted(&self) -> bool {
        self.reserved.is_some()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.reserved.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Releases everything but so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes().saturating_sub(bytes);
        if let Some(reserved) = &mut self.reserved {
            drop(reserved.split(surplus));
        }
    }
}

impl AnswerMemory {
    pub(super) fn new() -> AnswerMemory {
        AnswerMemory {
            whole: Pool::new(limits::WHOLE_ANSWERS_BYTES, limits::ANSWER_WHOLE_BYTES),
            kept: Pool::new(limits::KEPT_ANSWERS_BYTES, limits::KEPT_ANSWERS_BYTES),
        }
    }

    /// Whether an answer may take so many bytes. If not, the caller drops what it has read, calls
    /// [`AnswerMemory::wait`], and reads again. Fails if no answer may take so much.
    pub(super) fn covers(&self, memory: &mut Memory, bytes: usize) -> Result<bool, ReadError> {
        if bytes <= limits::ANSWER_UNCOUNTED_BYTES || bytes <= memory.bytes() {
            return Ok(true);
        }
        if bytes > self.kept.answer_bytes_max {
            return Err(ReadError::AnswerTooLarge);
        }
        memory.needed = bytes;
        Ok(self.pool_for(bytes).try_reserve(bytes, &mut memory.reserved))
    }

    /// Releases the memory, and waits for as much as the answer needs, behind all who wait already.
    pub(super) async fn wait(&self, memory: &mut Memory) -> Result<(), ReadError> {
        memory.reserved = None;
        let pool = self.pool_for(memory.needed);
        memory.reserved = Some(pool.reserve(memory.needed).await?);
        Ok(())
    }

    /// Waits for memory for what has to be in memory as a whole, however much that is. Of what is larger than any
    /// answer may be, so much is reserved: then there is one such at a time.
    pub(super) async fn reserve_up_to(&self, bytes: usize) -> Result<Memory, ReadError> {
        let needed = bytes.min(self.kept.answer_bytes_max);
        let mut memory = Memory { reserved: None, needed };
        self.wait(&mut memory).await?;
        Ok(memory)
    }

    fn pool_for(&self, bytes: usize) -> &Pool {
        if bytes <= self.whole.answer_bytes_max { &self.whole } else { &self.kept }
    }
}

impl Pool {
    fn new(size: usize, answer_bytes_max: usize) -> Pool {
        assert!(answer_bytes_max <= size, "the largest answer fits");
        Pool { bytes: Arc::new(Semaphore::new(size)), size, answer_bytes_max }
    }

    /// Adds to what is reserved in this pool already, or replaces what is reserved in another one. Returns whether
    /// there was enough.
    fn try_reserve(&self, bytes: usize, reserved: &mut Option<OwnedSemaphorePermit>) -> bool {
        let portion = self.portion(bytes);
        let same = reserved.as_mut().filter(|reserved| Arc::ptr_eq(reserved.semaphore(), &self.bytes));
        let has = same.as_ref().map_or(0, |same| same.num_permits() as u32);
        let more = Arc::clone(&self.bytes).try_acquire_many_owned(portion.saturating_sub(has));
        match (more, same) {
            (Err(_), _) => return false,
            (Ok(more), Some(same)) => same.merge(more),
            (Ok(more), None) => *reserved = Some(more),
        }
        true
    }

    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ReadError> {
        let waiting = Arc::clone(&self.bytes).acquire_many_owned(self.portion(bytes));
        waiting.await.map_err(|_| ReadError::Stopped)
    }

    /// Powers of two, so that an answer of any size is read again only a few times.
    fn portion(&self, bytes: usize) -> u32 {
        assert!(
            bytes <= self.answer_bytes_max && self.answer_bytes_max <= self.size,
            "larger answers are refused"
        );
        let portion = bytes.next_power_of_two().min(self.answer_bytes_max);
        u32::try_from(portion).expect("a pool is smaller than 4 GiB")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn memory() -> AnswerMemory {
        AnswerMemory { whole: Pool::new(2 * MIB, MIB), kept: Pool::new(8 * MIB, 8 * MIB) }
    }

    fn take(all: &AnswerMemory, bytes: usize) -> Memory {
        let mut memory = Memory::default();
        assert!(all.covers(&mut memory, bytes).expect("it is not too large"), "there is memory");
        memory
    }

    #[test]
    fn small_answers_are_not_counted() {
        let all = memory();
        let _full = [take(&all, MIB), take(&all, MIB)];
        let small = take(&all, limits::ANSWER_UNCOUNTED_BYTES);
        assert!(!small.is_counted());
        let mut larger = Memory::default();
        assert!(!all.covers(&mut larger, limits::ANSWER_UNCOUNTED_BYTES + 1).expect("it is not too large"));
    }

    #[test]
    fn an_answer_that_finds_no_memory_waits_with_none() {
        let all = memory();
        let first = take(&all, 3 * MIB);
        assert_eq!(first.bytes(), 4 * MIB);
        let mut second = take(&all, 3 * MIB);
        assert!(!all.covers(&mut second, 5 * MIB).expect("it is not too large"));
        let mut waiting = Box::pin(all.wait(&mut second));
        assert!(waiting.as_mut().now_or_never().is_none(), "the first answer has its memory");
        // What the second one had is free, but for those behind it.
        assert!(!all.covers(&mut Memory::default(), 2 * MIB).expect("it is not too large"));
        // Smaller ones have a pool of their own.
        drop(take(&all, MIB));
        drop(first);
        waiting.as_mut().now_or_never().expect("all is free").expect("the server runs");
        drop(waiting);
        assert_eq!(second.bytes(), 8 * MIB);
        second.shrink_to(6 * MIB);
        drop(take(&all, 2 * MIB));
        drop(second);
        drop(take(&all, 8 * MIB));
    }

    #[test]
    fn memory_grows_from_one_pool_into_the_other_and_leaves_the_first() {
        let all = memory();
        let mut growing = take(&all, MIB);
        assert!(all.covers(&mut growing, 2 * MIB).expect("it is not too large"));
        drop([take(&all, MIB), take(&all, MIB)]);
        // All of a pool is there for one answer that grows.
        for bytes in [3, 6, 8] {
            assert!(all.covers(&mut growing, bytes * MIB).expect("it is not too large"));
        }
        drop(growing);
        drop(take(&all, 8 * MIB));
    }

    #[test]
    fn an_answer_that_never_fits_is_refused() {
        let refused = memory().covers(&mut Memory::default(), 8 * MIB + 1);
        assert!(matches!(refused, Err(ReadError::AnswerTooLarge)));
    }
}
