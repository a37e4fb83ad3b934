//! Half-open intervals of keys, found by a key inside them.
//!
//! A balanced (AVL) tree ordered by `(start, end)`, in which each node also has the largest end of its
//! subtree. A search skips every subtree whose intervals end at or before the key, and all intervals that
//! start after the key. The tree is balanced by rotations and not by random numbers, so that no client can
//! choose ranges that make it slow.

use std::cmp::Ordering;

use bytes::Bytes;

use super::seats::{Seat, Seats};

/// The end of an interval: before a key, or none. No end is ordered after every key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    At(Bytes),
    Unbounded,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::At(end) => key < end.as_ref(),
            End::Unbounded => true,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Intervals {
    root: Link,
}

type Link = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    seats: Seats,
    /// The largest end in this subtree.
    end_max: End,
    /// The levels of this subtree. Those of the two children differ by at most one.
    height: u8,
    left: Link,
    right: Link,
}

impl Intervals {
    pub(super) fn insert(&mut self, start: &Bytes, end: &End, seat: Seat) {
        insert(&mut self.root, start, end, seat);
    }

    pub(super) fn remove(&mut self, start: &Bytes, end: &End, seat: Seat) {
        remove(&mut self.root, start, end, seat);
    }

    pub(super) fn stab(&self, key: &[u8], visit: &mut impl FnMut(&[Seat])) {
        stab(&self.root, key, visit);
    }
}

fn insert(link: &mut Link, start: &Bytes, end: &End, seat: Seat) {
    let Some(node) = link else {
        *link = Some(Box::new(Node {
            start: start.clone(),
            end: end.clone(),
            seats: Seats::one(seat),
            end_max: end.clone(),
            height: 1,
            left: None,
            right: None,
        }));
        return;
    };
    match node.compare(start, end) {
        Ordering::Equal => return node.seats.insert(seat),
        Ordering::Less => insert(&mut node.left, start, end, seat),
        Ordering::Greater => insert(&mut node.right, start, end, seat),
    }
    rebalance(link);
}

fn remove(link: &mut Link, start: &Bytes, end: &End, seat: Seat) {
    let node = link.as_mut().expect("a synced watcher is in the group");
    match node.compare(start, end) {
        Ordering::Equal => {
            node.seats.remove(seat);
            if !node.seats.is_empty() {
                return;
            }
            unlink(link);
        }
        Ordering::Less => remove(&mut node.left, start, end, seat),
        Ordering::Greater => remove(&mut node.right, start, end, seat),
    }
    rebalance(link);
}

fn stab(link: &Link, key: &[u8], visit: &mut impl FnMut(&[Seat])) {
    let Some(node) = link else { return };
    if !node.end_max.is_after(key) {
        return;
    }
    stab(&node.left, key, visit);
    if node.start.as_ref() <= key {
        if node.end.is_after(key) {
            visit(node.seats.as_slice());
        }
        stab(&node.right, key, visit);
    }
}

impl Node {
    /// The order of `(start, end)` relative to this node.
    fn compare(&self, start: &Bytes, end: &End) -> Ordering {
        start.cmp(&self.start).then_with(|| end.cmp(&self.end))
    }

    /// Recomputes the fields that are derived from the children.
    fn refresh(&mut self) {
        self.height = 1 + height(&self.left).max(height(&self.right));
        let below = [&self.left, &self.right].into_iter().flatten().map(|child| &child.end_max);
        let end_max = below.fold(&self.end, Ord::max);
        if *end_max != self.end_max {
            self.end_max = end_max.clone();
        }
    }

    /// The levels of the left subtree minus those of the right one.
    fn lean(&self) -> i16 {
        i16::from(height(&self.left)) - i16::from(height(&self.right))
    }
}

fn height(link: &Link) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

/// Removes the topmost node of the tree.
fn unlink(link: &mut Link) {
    let mut gone = link.take().expect("there is a node to take out");
    *link = match (gone.left.take(), gone.right.take()) {
        (None, child) | (child, None) => child,
        (left, mut right) => {
            let mut heir = take_first(&mut right);
            heir.left = left;
            heir.right = right;
            Some(heir)
        }
    };
}

fn take_first(link: &mut Link) -> Box<Node> {
    let node = link.as_mut().expect("the tree is not empty");
    let first = match node.left {
        Some(_) => take_first(&mut node.left),
        None => {
            let mut first = link.take().expect("the tree is not empty");
            *link = first.right.take();
            return first;
        }
    };
    rebalance(link);
    first
}

/// Balances a node whose children are balanced, but may differ by two levels.
fn rebalance(link: &mut Link) {
    let Some(node) = link else { return };
    node.refresh();
    match node.lean() {
        -1..=1 => {}
        2.. => {
            if node.left.as_ref().is_some_and(|left| left.lean() < 0) {
                rotate_left(&mut node.left);
            }
            rotate_right(link);
        }
        _ => {
            if node.right.as_ref().is_some_and(|right| right.lean() > 0) {
                rotate_right(&mut node.right);
            }
            rotate_left(link);
        }
    }
}

fn rotate_right(link: &mut Link) {
    let mut top = link.take().expect("a node that leans");
    let mut pivot = top.left.take().expect("a node that leans to the left");
    top.left = pivot.right.take();
    top.refresh();
    pivot.right = Some(top);
    pivot.refresh();
    *link = Some(pivot);
}

fn rotate_left(link: &mut Link) {
    let mut top = link.take().expect("a node that leans");
    let mut pivot = top.right.take().expect("a node that leans to the right");
    top.right = pivot.left.take();
    top.refresh();
    pivot.left = Some(top);
    pivot.refresh();
    *link = Some(pivot);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::watch::{StreamId, WatchId};

    /// The tree is in order and balanced, and its derived fields are right.
    fn check(link: &Link) -> (u8, Option<End>) {
        let Some(node) = link else { return (0, None) };
        let (left, left_end) = check(&node.left);
        let (right, right_end) = check(&node.right);
        assert!(left.abs_diff(right) <= 1, "leans too far");
        assert_eq!(node.height, 1 + left.max(right));
        let end_max = [Some(node.end.clone()), left_end, right_end].into_iter().flatten().max();
        assert_eq!(Some(&node.end_max), end_max.as_ref());
        if let Some(left) = &node.left {
            assert_eq!(node.compare(&left.start, &left.end), Ordering::Less);
        }
        if let Some(right) = &node.right {
            assert_eq!(node.compare(&right.start, &right.end), Ordering::Greater);
        }
        assert!(!node.seats.is_empty());
        (node.height, end_max)
    }

    fn key(byte: u8) -> Bytes {
        Bytes::from(vec![byte])
    }

    fn end(byte: Option<u8>) -> End {
        byte.map_or(End::Unbounded, |byte| End::At(key(byte)))
    }

    proptest! {
        #[test]
        fn finds_what_a_list_finds(
            steps in prop::collection::vec((0..40u8, prop::option::of(0..44u8), any::<prop::sample::Index>(), 0..3u8), 0..200),
        ) {
            let mut tree = Intervals::default();
            let mut list: Vec<(u8, Option<u8>, Seat)> = Vec::new();
            for (number, (start, until, victim, dice)) in steps.into_iter().enumerate() {
                if dice == 0 && !list.is_empty() {
                    let (start, until, seat) = list.swap_remove(victim.index(list.len()));
                    tree.remove(&key(start), &end(until), seat);
                } else {
                    let seat = (StreamId(0), WatchId(number as i64));
                    tree.insert(&key(start), &end(until), seat);
                    list.push((start, until, seat));
                }
                check(&tree.root);
            }
            for probe in 0..45u8 {
                let mut found = Vec::new();
                tree.stab(&[probe], &mut |seats| found.extend_from_slice(seats));
                found.sort();
                let mut expected: Vec<Seat> = list
                    .iter()
                    .filter(|(start, until, _)| *start <= probe && until.is_none_or(|until| probe < until))
                    .map(|(_, _, seat)| *seat)
                    .collect();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn rising_and_falling_ranges_stay_balanced() {
        let mut tree = Intervals::default();
        let seat = (StreamId(0), WatchId(0));
        for number in 0..1000u32 {
            tree.insert(&Bytes::from(number.to_be_bytes().to_vec()), &End::Unbounded, seat);
        }
        check(&tree.root);
        assert!(height(&tree.root) <= 14);
        for number in 0..990u32 {
            tree.remove(&Bytes::from(number.to_be_bytes().to_vec()), &End::Unbounded, seat);
        }
        check(&tree.root);
        assert!(height(&tree.root) <= 5);
    }
}
