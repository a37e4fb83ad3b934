//! Turns: the work of a thread, apart from the waiting.
//!
//! A thread of the member is a state with a method `turn(&mut self, now) -> Wait`, and a loop of a few lines
//! that calls the method and waits as it returns. A turn does one bounded piece of work and never waits for a
//! request. A test or a simulator that calls `turn` itself therefore decides when the thread runs and what
//! time it is, and runs the code of production.

use std::time::Instant;

/// What a thread waits for before its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For nothing, because there is more work.
    No,
    /// For this time, or for an earlier request.
    Until(Instant),
    /// There is no next turn: the thread ends.
    Ended,
}
