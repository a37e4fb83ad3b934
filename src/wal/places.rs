//! Where in the files an entry stands.
//!
//! ```text
//! entries    ... 40 41 42 | 43 44 | 45 46 47 ...
//! files      [  ^place      (46) ][ ^place (44 45 46) ^place ... ]
//! ```
//!
//! A place is an entry and the frame that it is in. There is one for about every 64 KiB, and one
//! where the first entries of each segment are. Where the log was cut, the places behind the cut are
//! gone. So an entry is to be found by reading one stretch of one file, from its place to the next,
//! however long the log is: the records there are followed in order, cuts among them, and what is
//! left of them up to the next place is what the log holds.

use std::collections::VecDeque;

/// Bytes of a file between two places, at least.
const SPACING: u32 = 64 * 1024;

/// How far back a frame changes the log: the lowest entry that it holds or cuts off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach(Option<u64>);

impl Reach {
    pub(crate) fn to(&mut self, index: u64) {
        self.0 = Some(self.0.map_or(index, |lowest| lowest.min(index)));
    }

    pub(crate) fn lowest(self) -> Option<u64> {
        self.0
    }

    pub(crate) fn absorb(&mut self, other: Reach) {
        if let Some(lowest) = other.0 {
            self.to(lowest);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    index: u64,
    sequence: u32,
    offset: u32,
}

/// One stretch of one file, and the entries that are to be found there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) sequence: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) first: u64,
    /// `None`: as far as the log goes.
    pub(crate) until: Option<u64>,
}

/// Of the whole log, as far as it is on the disk.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Both entries and places in the files grow.
    places: VecDeque<Place>,
    /// Where the frames of each segment end, oldest first. Its file may go on behind them: space that
    /// is reserved, or that a crash kept from being given back.
    ends: VecDeque<(u32, u32)>,
}

impl Places {
    /// A frame that reaches so far stands in `start..end` of a segment.
    pub(crate) fn wrote(&mut self, reach: Reach, sequence: u32, start: u32, end: u32) {
        assert!(start < end, "a frame takes space");
        match self.ends.back_mut() {
            Some((last, last_end)) if *last == sequence => {
                assert!(start >= *last_end, "frames are written one behind the other");
                *last_end = end;
            }
            last => {
                assert!(last.is_none_or(|(last, _)| *last < sequence), "segments are written in their order");
                self.ends.push_back((sequence, end));
            }
        }
        let Some(lowest) = reach.0 else { return };
        while self.places.back().is_some_and(|place| place.index >= lowest) {
            self.places.pop_back();
        }
        debug_assert!(
            self.places.back().is_none_or(|place| place.index < lowest),
            "both the entries and the places in the files grow"
        );
        let is_near = self
            .places
            .back()
            .is_some_and(|place| place.sequence == sequence && start - place.offset < SPACING);
        if !is_near {
            self.places.push_back(Place { index: lowest, sequence, offset: start });
        }
    }

    /// Segments up to this one are gone.
    pub(crate) fn removed(&mut self, sequence: u32) {
        while self.places.front().is_some_and(|place| place.sequence <= sequence) {
            self.places.pop_front();
        }
        while self.ends.front().is_some_and(|(ended, _)| *ended <= sequence) {
            self.ends.pop_front();
        }
    }

    /// Where entry `index` is, if the log has it.
    pub(crate) fn find(&self, index: u64) -> Option<Stretch> {
        let behind = self.places.partition_point(|place| place.index <= index);
        let place = self.places.get(behind.checked_sub(1)?)?;
        let next = self.places.get(behind);
        let end = match next {
            Some(next) if next.sequence == place.sequence => next.offset,
            _ => {
                let segment = self.ends.binary_search_by_key(&place.sequence, |(sequence, _)| *sequence);
                self.ends[segment.expect("a place is in a segment that was written to")].1
            }
        };
        let (sequence, start) = (place.sequence, place.offset);
        assert!(place.index <= index && start < end, "the stretch holds the entry that was asked for");
        Some(Stretch { sequence, start, end, first: place.index, until: next.map(|next| next.index) })
    }
}
