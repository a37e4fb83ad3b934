//! Readers that keep history from being removed.
//!
//! A reader that needs more than one stride takes a [`Hold`] during its first stride. A compaction
//! that is accepted later takes effect at once, so later requests below its revision are refused, but
//! its removal begins only when every hold that was taken before it has been dropped. So what such a
//! reader could read in its first stride stays readable until the reader ends.
//!
//! All holds between two compactions share one counter. Taking a hold is one atomic increment, and
//! the compaction after it keeps a weak reference that shows when the last of these holds is gone.

use std::sync::{Arc, Weak};

/// While it lives, everything that could be read when it was taken stays readable.
#[derive(Clone, Debug)]
pub(crate) struct Hold(Arc<Period>);

/// The time between two compactions of a store.
#[derive(Debug)]
struct Period {
    /// Identifies the store: a store that was installed from a snapshot honours no holds of the one
    /// that it replaced.
    store: Arc<()>,
}

/// The holds that were taken before a compaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Earlier(Vec<Weak<Period>>);

/// The holds of one store.
#[derive(Debug)]
pub(super) struct Holds {
    current: Hold,
}

impl Holds {
    pub(super) fn new() -> Holds {
        Holds { current: Hold(Arc::new(Period { store: Arc::new(()) })) }
    }

    pub(super) fn take(&self) -> Hold {
        self.current.clone()
    }

    /// Whether the hold was taken from this store.
    pub(super) fn honours(&self, hold: &Hold) -> bool {
        Arc::ptr_eq(&self.current.0.store, &hold.0.store)
    }

    /// A compaction is accepted. Returns the holds that were taken before it.
    pub(super) fn end_period(&mut self) -> Earlier {
        let store = Arc::clone(&self.current.0.store);
        let ended = std::mem::replace(&mut self.current, Hold(Arc::new(Period { store })));
        Earlier(vec![Arc::downgrade(&ended.0)])
    }
}

impl Earlier {
    /// Whether any of these holds is still there.
    pub(super) fn any_left(&self) -> bool {
        self.0.iter().any(|period| period.strong_count() > 0)
    }

    /// Adds the holds before another compaction. Periods without holds are left out, so there are
    /// never more periods than readers.
    pub(super) fn add(&mut self, later: Earlier) {
        self.0.extend(later.0);
        self.0.retain(|period| period.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compaction_waits_for_the_holds_before_it_and_for_no_later_ones() {
        let mut holds = Holds::new();
        let before = holds.take();
        let mut earlier = holds.end_period();
        let between = holds.take();
        assert!(earlier.any_left());
        earlier.add(holds.end_period());
        let after = holds.take();
        drop(before);
        assert!(earlier.any_left(), "the hold between the two compactions is left");
        drop(between);
        assert!(!earlier.any_left(), "the hold that is left was taken later");
        assert!(holds.honours(&after) && !Holds::new().honours(&after));
    }

    #[test]
    fn periods_without_holds_take_no_memory() {
        let mut holds = Holds::new();
        let _held = holds.take();
        let mut earlier = holds.end_period();
        for _ in 0..1000 {
            earlier.add(holds.end_period());
        }
        assert_eq!(earlier.0.len(), 1);
    }
}
