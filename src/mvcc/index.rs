//! Every key of the store, in order, with its changes. The index holds no values.
//!
//! An answer with a limit also contains the number of all keys in its range. Beside the keys there is
//! therefore a coarse map of *segments* of up to [`SEGMENT_KEYS_MAX`] neighbouring keys, each with the
//! number of its keys that exist now. To count a range, the index visits the keys of the segments at both
//! ends of the range, and adds up the numbers of the segments in between.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound::{self, Excluded, Included, Unbounded},
};

use crate::{
    mvcc::key_index::{Kept, KeyIndex, Live},
    storage::StoredChange,
    types::{KeyRange, LeaseId, Rev, Revision},
};

#[derive(Debug)]
pub(super) struct Index {
    keys: BTreeMap<Box<[u8]>, KeyIndex>,
    /// By the lower bound of their keys. There is always a segment at the empty key, so every key belongs
    /// to a segment.
    segments: Segments,
}

#[derive(Debug, Default)]
struct Segment {
    keys: usize,
    /// The keys that exist now; the others are deleted.
    live: usize,
}

/// A segment with more keys is split.
const SEGMENT_KEYS_MAX: usize = if cfg!(test) { 3 } else { 256 };

impl Index {
    pub(super) fn new() -> Index {
        let segments = BTreeMap::from([(Box::default(), Segment::default())]);
        Index { keys: BTreeMap::new(), segments }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&KeyIndex> {
        self.keys.get(key)
    }

    /// The keys of a range that come after `after`, deleted ones included.
    pub(super) fn range(
        &self,
        range: &KeyRange,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&[u8], &KeyIndex)> {
        let keys = bounds(range, after).map(|bounds| self.keys.range::<[u8], _>(bounds));
        keys.into_iter().flatten().map(|(key, changes)| (key.as_ref(), changes))
    }

    /// The number of keys in a range that exist now; only those after `after`, if it is given.
    pub(super) fn count(&self, range: &KeyRange, after: Option<&[u8]>) -> usize {
        let Some((lower, upper)) = bounds(range, after) else { return 0 };
        let start = after.unwrap_or(range.start());
        let mut segments = self.segments.range::<[u8], _>((Excluded(start), upper));
        let Some((low, mut last)) = segments.next() else { return self.count_keys(lower, upper) };
        let mut count = self.count_keys(lower, Excluded(low));
        let mut last_low = low;
        for (low, segment) in segments {
            count += last.live;
            (last_low, last) = (low, segment);
        }
        count + self.count_keys(Included(last_low), upper)
    }

    /// Returns the previous put of the key, if the key existed, and its lease.
    pub(super) fn put(&mut self, key: &[u8], revision: Revision, lease: LeaseId) -> Option<(Live, LeaseId)> {
        let Some(changes) = self.keys.get_mut(key) else {
            let first = Live { revision, create_rev: revision.main, version: 1 };
            self.keys.insert(key.into(), KeyIndex::of_put(first, lease));
            self.grow_segment(key);
            return None;
        };
        let prev = changes.newest().map(|live| (live, changes.lease()));
        changes.put(revision, lease);
        if prev.is_none() {
            segment_of(&mut self.segments, key).1.live += 1;
        }
        prev
    }

    /// Deletes the keys of a range after `after` that exist, in order, the first of them at `revision`. Calls
    /// `show` for each key, with its lease, before it is deleted, and stops at the first error. `keys_left`
    /// is the number of keys that may be visited, and is reduced by those that were. Returns the last key if
    /// there may be more.
    pub(super) fn delete_some(
        &mut self,
        range: &KeyRange,
        after: Option<&[u8]>,
        keys_left: &mut usize,
        mut revision: Revision,
        mut show: impl FnMut(&[u8], LeaseId, Live, Revision),
    ) -> Option<Box<[u8]>> {
        assert!(*keys_left > 0, "a stride visits a key");
        let keys = bounds(range, after).map(|bounds| self.keys.range_mut::<[u8], _>(bounds));
        for (key, changes) in keys.into_iter().flatten() {
            if let Some(live) = changes.newest() {
                show(key, changes.lease(), live, revision);
                changes.delete(revision);
                let segment = segment_of(&mut self.segments, key).1;
                assert!(segment.live > 0, "a key that exists is counted in its segment");
                segment.live -= 1;
                revision.sub += 1;
            }
            *keys_left -= 1;
            if *keys_left == 0 {
                return Some(key.clone());
            }
        }
        None
    }

    /// Compacts the next `keys_max` keys after `after`. Returns the last of these keys, or `None` at the
    /// end of the index; and whether any change up to `rev` was kept.
    pub(super) fn compact(
        &mut self,
        after: Option<&[u8]>,
        keys_max: usize,
        rev: Rev,
    ) -> (Option<Box<[u8]>>, bool) {
        assert!(keys_max > 0, "a stride visits at least one key");
        let mut emptied: Vec<Box<[u8]>> = Vec::new();
        let mut visited = 0;
        let mut any_kept = false;
        let mut last = None;
        let lower = after.map_or(Unbounded, Excluded);
        for (key, changes) in self.keys.range_mut::<[u8], _>((lower, Unbounded)) {
            match changes.compact(rev) {
                Kept::Nothing => emptied.push(key.clone()),
                Kept::Later => {}
                Kept::Newest => any_kept = true,
            }
            visited += 1;
            if visited == keys_max {
                last = Some(key.clone());
                break;
            }
        }
        for key in emptied {
            self.keys.remove(&key);
            self.shrink_segment(&key);
        }
        (last, any_kept)
    }

    /// Adds a stored record while the store is opened. Records come in order; one that cannot follow
    /// the records before it is damage, and is returned as an error. After the last record
    /// [`Index::restored`] is called.
    pub(super) fn restore(&mut self, revision: Revision, change: StoredChange) -> Result<(), String> {
        let StoredChange { tombstone, key, create_rev, mod_rev, version, lease, .. } = change;
        let put = Live { revision, create_rev, version };
        if !tombstone && !could_be(put, mod_rev) {
            return Err(format!("revision {revision} holds {put:?}"));
        }
        let changes = match self.keys.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(match tombstone {
                    true => KeyIndex::of_tombstone(revision),
                    false => KeyIndex::of_put(put, lease),
                });
                return Ok(());
            }
        };
        match (changes.newest(), tombstone) {
            (Some(_), true) => changes.delete(revision),
            (None, true) => {
                return Err(format!("revision {revision} deletes a key that does not exist"));
            }
            (_, false) => {
                changes.put(revision, lease);
                if changes.newest() != Some(put) {
                    let expected = changes.newest();
                    return Err(format!("revision {revision} holds {put:?}, expected {expected:?}"));
                }
            }
        }
        Ok(())
    }

    /// Builds the segments, once all records have been added.
    pub(super) fn restored(&mut self) {
        assert_eq!(self.segments.len(), 1, "segments are built after all records were added");
        let mut low: Box<[u8]> = Box::default();
        let mut segment = Segment::default();
        for (key, changes) in &self.keys {
            if segment.keys == SEGMENT_KEYS_MAX / 2 {
                let full = std::mem::take(&mut segment);
                self.segments.insert(std::mem::replace(&mut low, key.clone()), full);
            }
            segment.keys += 1;
            segment.live += usize::from(changes.newest().is_some());
        }
        self.segments.insert(low, segment);
    }

    fn count_keys(&self, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> usize {
        let keys = self.keys.range::<[u8], _>((lower, upper));
        keys.filter(|(_, changes)| changes.newest().is_some()).count()
    }

    /// Counts a new key.
    fn grow_segment(&mut self, key: &[u8]) {
        let (low, segment) = segment_of(&mut self.segments, key);
        segment.keys += 1;
        segment.live += 1;
        assert!(segment.live <= segment.keys, "a segment has no more live keys than keys");
        if segment.keys > SEGMENT_KEYS_MAX {
            let kept = segment.keys / 2;
            let keys = self.keys.range::<[u8], _>((Included(low), Unbounded));
            let mut moved = keys.take(segment.keys).skip(kept).peekable();
            let middle = moved.peek().expect("a segment's keys are in the index").0.clone();
            let live = moved.filter(|(_, changes)| changes.newest().is_some()).count();
            assert!(live <= segment.live, "both halves together have the live keys of the whole");
            let half = Segment { keys: segment.keys - kept, live };
            *segment = Segment { keys: kept, live: segment.live - live };
            self.segments.insert(middle, half);
        }
    }

    /// Stops counting a deleted key that was removed from the index.
    fn shrink_segment(&mut self, key: &[u8]) {
        let (low, segment) = segment_of(&mut self.segments, key);
        assert!(segment.live < segment.keys, "a key that leaves the index was counted as deleted");
        segment.keys -= 1;
        if segment.keys == 0 && !low.is_empty() {
            let low: Box<[u8]> = low.into();
            self.segments.remove(&low);
        }
    }
}

/// Whether any history can contain this put. The version may be greater than the number of revisions,
/// because one request can change a key several times.
fn could_be(put: Live, mod_rev: Rev) -> bool {
    let Live { revision: Revision { main, .. }, create_rev, version } = put;
    mod_rev == main
        && (Rev::INITIAL.next()..=main).contains(&create_rev)
        && (1..=VERSION_MAX).contains(&version)
}

/// No key reaches this version by counting up, so there is always a next version.
const VERSION_MAX: i64 = i64::MAX / 4;

type Segments = BTreeMap<Box<[u8]>, Segment>;

/// The segment that a key belongs to, and its lower bound.
fn segment_of<'a>(segments: &'a mut Segments, key: &[u8]) -> (&'a [u8], &'a mut Segment) {
    let segment = segments.range_mut::<[u8], _>((Unbounded, Included(key))).next_back();
    let (low, segment) = segment.expect("there is a segment for the empty key");
    (low, segment)
}

/// Where a walk over the index begins and ends.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// `None` if no key can be within the bounds: for such bounds [`BTreeMap::range`] panics.
fn bounds<'a>(range: &'a KeyRange, after: Option<&'a [u8]>) -> Option<Bounds<'a>> {
    let lower = after.map_or(Included(range.start().as_ref()), Excluded);
    match range {
        KeyRange::Point(key) if after.is_none() => Some((lower, Included(key))),
        KeyRange::Point(_) => None,
        KeyRange::Span(start, end) if start < end => Some((lower, Excluded(end))),
        KeyRange::Span(..) => None,
        KeyRange::From(_) => Some((lower, Unbounded)),
    }
}
