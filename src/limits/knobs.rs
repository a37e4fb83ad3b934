//! Bounds that a simulation makes small, so that what is rare becomes frequent. In every other build a knob is
//! the bound that it stands for.

#[cfg(test)]
use std::ops::RangeInclusive;

/// A bound that can be made small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Knob {
    /// Commands of one entry of the log.
    BatchCommands,
    /// Deliveries that wait for a watch stream.
    WatchQueue,
    /// Bytes of a segment of the log.
    SegmentBytes,
    /// Bytes of a value from which on the database refers to the log for it.
    ValueApartBytes,
    /// Keys that apply visits before it lets others go on.
    ApplyStrideKeys,
    /// Keys that a read visits before it lets others go on.
    RangeStrideKeys,
    /// Bytes of a stretch, when a whole database is read.
    StretchBytes,
    /// Stretches that a defragmentation copies before it lets checkpoints go on.
    DefragmentationStretches,
}

#[cfg(not(test))]
impl Knob {
    /// The bound to use.
    pub(crate) const fn or(self, bound: usize) -> usize {
        bound
    }
}

#[cfg(test)]
thread_local! {
    static SET: std::cell::RefCell<std::collections::BTreeMap<Knob, usize>> = const {
        std::cell::RefCell::new(std::collections::BTreeMap::new())
    };
}

#[cfg(test)]
impl Knob {
    /// The bound to use.
    pub(crate) fn or(self, bound: usize) -> usize {
        SET.with_borrow(|set| set.get(&self).copied()).unwrap_or(bound)
    }

    /// Makes the bound small on this thread.
    pub(crate) fn set(self, value: usize) {
        assert!(self.sensible().contains(&value), "{self:?} cannot be {value}");
        SET.with_borrow_mut(|set| set.insert(self, value));
    }

    fn sensible(self) -> RangeInclusive<usize> {
        match self {
            // A segment is as large as its first frame needs, if that is more.
            Knob::SegmentBytes => 8 * 1024..=64 * 1024 * 1024,
            Knob::StretchBytes => 64..=64 * 1024,
            _ => 1..=4096,
        }
    }
}
