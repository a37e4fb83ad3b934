//! Batches of this member that are on their way through the log, whoever leads.
//!
//! A batch is put into the log of the leader of one term, here or elsewhere, with a tag, and this
//! member finds the batch by that tag when it applies the log. So the answer to a client comes from the
//! state of the member that the client asked, also if the leader fails before it has answered: either the
//! batch is applied here, or an entry of a later term is. In the second case the batch will never be
//! applied, and can be proposed again.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::typ::BatchOutcome;
use crate::apply::Outcome;

/// What became of a tagged batch.
#[derive(Debug)]
pub(crate) enum Fate {
    Applied(Vec<Outcome>),
    /// It is not in the log, and will never be.
    Lost,
    /// A snapshot took the place of that part of the log.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Tags {
    waiting: Mutex<BTreeMap<u64, Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    term: u64,
    tell: oneshot::Sender<Fate>,
}

impl Tags {
    /// A batch with this serial is about to be given to the leader of `term`.
    pub(crate) fn expect(&self, serial: u64, term: u64) -> oneshot::Receiver<Fate> {
        let (tell, fate) = oneshot::channel();
        let before = self.waiting.lock().insert(serial, Waiter { term, tell });
        assert!(before.is_none(), "serial {serial} is of two batches at the same time");
        fate
    }

    /// Nobody waits for this batch any more.
    pub(crate) fn forget(&self, serial: u64) {
        self.waiting.lock().remove(&serial);
    }

    pub(super) fn applied(&self, serial: u64, outcomes: BatchOutcome) {
        if let Some(waiter) = self.waiting.lock().remove(&serial) {
            // The receiver is gone if the batch took too long.
            let _ = waiter.tell.send(Fate::Applied(outcomes.0));
        }
    }

    /// An entry of `term` was applied: none of an earlier term will follow.
    pub(super) fn term_began(&self, term: u64) {
        #[cfg(test)]
        let term = if crate::planted::is(crate::planted::Bug::LostTooEarly) { term + 1 } else { term };
        let lost = self.waiting.lock().extract_if(.., |_, waiter| waiter.term < term).collect::<Vec<_>>();
        for (_, waiter) in lost {
            let _ = waiter.tell.send(Fate::Lost);
        }
    }

    pub(super) fn skipped(&self) {
        for (_, waiter) in std::mem::take(&mut *self.waiting.lock()) {
            let _ = waiter.tell.send(Fate::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> BatchOutcome {
        BatchOutcome::default()
    }

    #[test]
    fn a_batch_is_found_by_its_serial() {
        let tags = Tags::default();
        let (mut first, mut second) = (tags.expect(1, 5), tags.expect(2, 5));
        tags.applied(2, outcome());
        assert!(matches!(second.try_recv(), Ok(Fate::Applied(_))));
        assert!(first.try_recv().is_err(), "nothing became of it yet");
        tags.applied(3, outcome());
    }

    #[test]
    fn a_later_term_says_that_a_batch_is_lost_and_an_equal_one_does_not() {
        let tags = Tags::default();
        let (mut old, mut current) = (tags.expect(1, 5), tags.expect(2, 6));
        tags.term_began(6);
        assert!(matches!(old.try_recv(), Ok(Fate::Lost)));
        assert!(current.try_recv().is_err());
        tags.skipped();
        assert!(matches!(current.try_recv(), Ok(Fate::Unknown)));
    }
}
