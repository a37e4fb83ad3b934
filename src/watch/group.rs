//! The synced watchers, found by key.
//!
//! Watchers of a single key are in a map by that key, all others in a tree of intervals. The watchers of a
//! key are found in O(log n), plus a little for each watcher found.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    intervals::{End, Intervals},
    seats::{Seat, Seats},
};
use crate::types::KeyRange;

#[derive(Debug, Default)]
pub(super) struct Group {
    points: BTreeMap<Bytes, Seats>,
    intervals: Intervals,
    len: usize,
}

impl Group {
    /// `seat` must not be in the group yet.
    pub(super) fn insert(&mut self, range: &KeyRange, seat: Seat) {
        self.len += 1;
        match range {
            KeyRange::Point(key) => match self.points.get_mut(key) {
                Some(seats) => seats.insert(seat),
                None => {
                    self.points.insert(key.clone(), Seats::one(seat));
                }
            },
            KeyRange::Span(start, end) => self.intervals.insert(start, &End::At(end.clone()), seat),
            KeyRange::From(start) => self.intervals.insert(start, &End::Unbounded, seat),
        }
    }

    /// `seat` must be in the group, with this range.
    pub(super) fn remove(&mut self, range: &KeyRange, seat: Seat) {
        self.len -= 1;
        match range {
            KeyRange::Point(key) => {
                let seats = self.points.get_mut(key).expect("a synced watcher is in the group");
                seats.remove(seat);
                if seats.is_empty() {
                    self.points.remove(key);
                }
            }
            KeyRange::Span(start, end) => self.intervals.remove(start, &End::At(end.clone()), seat),
            KeyRange::From(start) => self.intervals.remove(start, &End::Unbounded, seat),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Calls `visit` with sets of watchers that together are the watchers of `key`, each once.
    pub(super) fn matching(&self, key: &[u8], mut visit: impl FnMut(&[Seat])) {
        if let Some(seats) = self.points.get(key) {
            visit(seats.as_slice());
        }
        self.intervals.stab(key, &mut visit);
    }
}
