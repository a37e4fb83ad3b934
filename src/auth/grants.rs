//! What the roles of one user permit together, as sorted intervals.
//!
//! As in etcd, the permissions of all roles of a user are united: with `[a, b)` from one role and `[b, c)`
//! from another the user may read `[a, c)`. Intervals that touch are merged once, when they are first needed
//! after a change, so that a check takes a binary search and no scan of the roles.

use std::ops::Bound;

use bytes::Bytes;

use super::{Permission, PermissionKind};
use crate::types::KeyRange;

/// Reading and writing are permitted separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

#[derive(Clone, Default)]
pub(super) struct Grants {
    /// Whether the user has the role root, which needs no permissions. Looked up once, because a user may have
    /// many roles.
    is_root: bool,
    read: Intervals,
    write: Intervals,
}

impl Grants {
    pub(super) fn union<'p>(is_root: bool, permissions: impl Iterator<Item = &'p Permission>) -> Grants {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for Permission { kind, range } in permissions {
            let Some(interval) = Interval::of(range) else { continue };
            match kind {
                PermissionKind::Read => read.push(interval),
                PermissionKind::Write => write.push(interval),
                PermissionKind::ReadWrite => {
                    read.push(interval.clone());
                    write.push(interval);
                }
                PermissionKind::Unknown(_) => {}
            }
        }
        Grants { is_root, read: Intervals::merge(read), write: Intervals::merge(write) }
    }

    pub(super) fn is_root(&self) -> bool {
        self.is_root
    }

    pub(super) fn of(&self, access: Access) -> &Intervals {
        match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        }
    }
}

/// Keys from `start`, up to `end` if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    start: Bytes,
    /// `None`: every key from `start` on.
    end: Option<Bytes>,
}

impl Interval {
    /// `None` if the range contains no key.
    fn of(range: &KeyRange) -> Option<Interval> {
        match range {
            KeyRange::Point(key) => {
                Some(Interval { start: key.clone(), end: Some([key, &b"\0"[..]].concat().into()) })
            }
            KeyRange::Span(start, end) => {
                (start < end).then(|| Interval { start: start.clone(), end: Some(end.clone()) })
            }
            KeyRange::From(start) => Some(Interval { start: start.clone(), end: None }),
        }
    }

    fn reaches(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| key <= end.as_ref())
    }

    fn ends_behind(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }
}

/// Disjoint intervals that do not touch, sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Intervals(Vec<Interval>);

impl Intervals {
    fn merge(mut intervals: Vec<Interval>) -> Intervals {
        intervals.sort_by(|one, other| one.start.cmp(&other.start));
        let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
        for interval in intervals {
            match merged.last_mut() {
                Some(last) if last.reaches(&interval.start) => {
                    let reaches_further = match (&last.end, &interval.end) {
                        (None, _) => false,
                        (Some(_), None) => true,
                        (Some(last), Some(end)) => last < end,
                    };
                    if reaches_further {
                        last.end = interval.end;
                    }
                }
                Some(_) | None => merged.push(interval),
            }
        }
        merged.shrink_to_fit();
        Intervals(merged)
    }

    /// The interval with this key.
    fn around(&self, key: &[u8]) -> Option<&Interval> {
        let behind = self.0.partition_point(|interval| interval.start.as_ref() <= key);
        let interval = self.0[..behind].last()?;
        interval.ends_behind(key).then_some(interval)
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.around(key).is_some()
    }

    /// Whether every key of the range is in one interval. As in etcd, a range that contains no key needs an
    /// interval around both of its ends.
    pub(super) fn covers(&self, range: &KeyRange) -> bool {
        match range {
            KeyRange::Point(key) => self.contains(key),
            KeyRange::Span(start, end) if start < end => {
                self.around(start).is_some_and(|interval| interval.reaches(end))
            }
            KeyRange::Span(start, end) => self
                .around(start)
                .is_some_and(|interval| interval.start < *end && interval.ends_behind(start)),
            KeyRange::From(start) => self.around(start).is_some_and(|interval| interval.end.is_none()),
        }
    }

    /// Whether all keys of a sorted set are in intervals. `next` finds the first key of the set from a bound
    /// on. Takes a step for each key or for each interval, of whichever there are fewer.
    pub(super) fn cover_all<'k>(&self, mut next: impl FnMut(Bound<&[u8]>) -> Option<&'k Bytes>) -> bool {
        let mut from: Bound<&[u8]> = Bound::Unbounded;
        while let Some(key) = next(from) {
            let Some(interval) = self.around(key) else { return false };
            let Some(end) = &interval.end else { return true };
            from = Bound::Included(end);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// All keys of up to two letters. Whether a range of such keys is covered can be told from them and from
    /// the keys that follow each of them directly.
    fn keys() -> Vec<Bytes> {
        let letters = [&b"a"[..], b"b", b"c", b"d"];
        let mut keys: Vec<Bytes> = letters.iter().map(|key| Bytes::from_static(key)).collect();
        for first in letters {
            keys.extend(letters.iter().map(|second| Bytes::from([first, second].concat())));
        }
        let after: Vec<Bytes> = keys.iter().map(|key| [key, &b"\0"[..]].concat().into()).collect();
        let before: Vec<Bytes> = keys.iter().map(|key| [key, &b"\0z"[..]].concat().into()).collect();
        keys.into_iter().chain(after).chain(before).chain([Bytes::from_static(b"z")]).collect()
    }

    fn key() -> impl Strategy<Value = Bytes> {
        "[a-d]{1,2}".prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            2 => key().prop_map(KeyRange::Point),
            4 => (key(), key()).prop_map(|(start, end)| KeyRange::Span(start, end)),
            1 => key().prop_map(KeyRange::From),
        ]
    }

    fn permission() -> impl Strategy<Value = Permission> {
        (range(), 0i32..4).prop_map(|(range, kind)| Permission { kind: PermissionKind::of(kind), range })
    }

    fn permits(permissions: &[Permission], access: Access, key: &[u8]) -> bool {
        permissions.iter().any(|permission| {
            let is_kind = match access {
                Access::Read => [0, 2].contains(&permission.kind.number()),
                Access::Write => [1, 2].contains(&permission.kind.number()),
            };
            is_kind && permission.range.contains(key)
        })
    }

    proptest! {
        #[test]
        fn as_asking_every_permission_for_every_key(
            permissions in prop::collection::vec(permission(), 0..8),
            asked in range(),
            access in prop_oneof![Just(Access::Read), Just(Access::Write)],
        ) {
            let grants = Grants::union(false, permissions.iter());
            let of_range: Vec<Bytes> = keys().into_iter().filter(|key| asked.contains(key)).collect();
            let expected = of_range.iter().all(|key| permits(&permissions, access, key));
            if !of_range.is_empty() {
                prop_assert_eq!(grants.of(access).covers(&asked), expected);
            }
            for key in keys() {
                prop_assert_eq!(grants.of(access).contains(&key), permits(&permissions, access, &key));
            }
        }

        #[test]
        fn many_keys_at_once_are_as_each_by_itself(
            permissions in prop::collection::vec(permission(), 0..8),
            keys in prop::collection::btree_set(key(), 0..6),
        ) {
            let grants = Grants::union(false, permissions.iter());
            let intervals = grants.of(Access::Read);
            let keys: BTreeSet<Bytes> = keys;
            let next = |from: Bound<&[u8]>| keys.range::<[u8], _>((from, Bound::Unbounded)).next();
            let expected = keys.iter().all(|key| intervals.contains(key));
            prop_assert_eq!(intervals.cover_all(next), expected);
        }

        #[test]
        fn merged_intervals_are_sorted_and_do_not_touch(permissions in prop::collection::vec(permission(), 0..8)) {
            let grants = Grants::union(false, permissions.iter());
            for pair in grants.of(Access::Read).0.windows(2) {
                prop_assert!(!pair[0].reaches(&pair[1].start), "{:?}", pair);
            }
        }
    }

    #[test]
    fn an_empty_range_needs_an_interval_around_it() {
        let permission = |start: &'static str, end: &'static str| Permission {
            kind: PermissionKind::Read,
            range: KeyRange::parse(start.into(), end.into()),
        };
        let grants = Grants::union(false, [permission("a", "c")].iter());
        let covers = |start: &'static str, end: &'static str| {
            grants.of(Access::Read).covers(&KeyRange::parse(start.into(), end.into()))
        };
        assert!(covers("b", "ab"));
        assert!(!covers("b", "a") && !covers("c", "b") && !covers("x", "b"));
    }
}
