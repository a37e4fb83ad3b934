//! A list that grows without moving what it holds.

use std::slice;

/// Items of a chunk. Small lists are one chunk, which grows as a `Vec` does.
const CHUNK_ITEMS: usize = if cfg!(test) { 4 } else { 1024 };

/// A list in chunks, for the changes of one revision: there may be a million of them, and they are collected under
/// a lock, for which nobody should wait while a large buffer is moved into a larger one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunked<T> {
    first: Vec<T>,
    /// All full but the last. Empty unless `first` is full.
    more: Vec<Vec<T>>,
}

/// The items of a [`Chunked`] in order.
pub(crate) type Iter<'a, T> =
    std::iter::Chain<slice::Iter<'a, T>, std::iter::Flatten<slice::Iter<'a, Vec<T>>>>;

impl<T> Chunked<T> {
    pub(crate) fn push(&mut self, item: T) {
        if self.first.is_empty() {
            // Most revisions have one change.
            self.first.reserve_exact(1);
        }
        if self.first.len() < CHUNK_ITEMS {
            return self.first.push(item);
        }
        match self.more.last_mut().filter(|last| last.len() < CHUNK_ITEMS) {
            Some(last) => last.push(item),
            None => {
                let mut next = Vec::with_capacity(CHUNK_ITEMS);
                next.push(item);
                self.more.push(next);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self.more.last() {
            None => self.first.len(),
            Some(last) => self.more.len() * CHUNK_ITEMS + last.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        match place.checked_sub(CHUNK_ITEMS) {
            None => self.first.get(place),
            Some(behind) => self.more.get(behind / CHUNK_ITEMS)?.get(behind % CHUNK_ITEMS),
        }
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.first.first()
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.more.last().unwrap_or(&self.first).last()
    }

    pub(crate) fn iter(&self) -> Iter<'_, T> {
        self.iter_from(0)
    }

    /// The items from a place on. What is before it is not visited.
    pub(crate) fn iter_from(&self, place: usize) -> Iter<'_, T> {
        let (begun, whole) = match place.checked_sub(CHUNK_ITEMS) {
            None => (self.first.get(place..), &self.more[..]),
            Some(behind) => {
                let number = behind / CHUNK_ITEMS;
                let begun = self.more.get(number).and_then(|chunk| chunk.get(behind % CHUNK_ITEMS..));
                (begun, self.more.get(number + 1..).unwrap_or_default())
            }
        };
        begun.unwrap_or_default().iter().chain(whole.iter().flatten())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.first.iter_mut().chain(self.more.iter_mut().flatten())
    }
}

/// A single item, as a list.
pub(crate) fn one<T>(item: &T) -> Iter<'_, T> {
    slice::from_ref(item).iter().chain([].iter().flatten())
}

impl<T> Default for Chunked<T> {
    fn default() -> Chunked<T> {
        Chunked { first: Vec::new(), more: Vec::new() }
    }
}

impl<T> FromIterator<T> for Chunked<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Chunked<T> {
        let mut chunked = Chunked::default();
        items.into_iter().for_each(|item| chunked.push(item));
        chunked
    }
}

impl<'a, T> IntoIterator for &'a Chunked<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_list_of_what_was_pushed() {
        for len in 0..4 * CHUNK_ITEMS + 2 {
            let list: Vec<usize> = (0..len).collect();
            let mut chunked: Chunked<usize> = list.iter().copied().collect();
            assert_eq!((chunked.len(), chunked.is_empty()), (len, len == 0));
            assert_eq!((chunked.first(), chunked.last()), (list.first(), list.last()));
            for place in 0..len + 2 * CHUNK_ITEMS {
                assert_eq!(chunked.get(place), list.get(place));
                let from: Vec<_> = chunked.iter_from(place).copied().collect();
                assert_eq!(from, list.get(place..).unwrap_or_default(), "{place} of {len}");
            }
            chunked.iter_mut().for_each(|item| *item += 1);
            assert!(chunked.iter().copied().eq(1..=len));
        }
    }

    #[test]
    fn what_it_holds_stays_where_it_is() {
        let mut chunked: Chunked<usize> = (0..CHUNK_ITEMS).collect();
        let places = |chunked: &Chunked<usize>, len| -> Vec<*const usize> {
            chunked.iter().take(len).map(std::ptr::from_ref).collect()
        };
        for len in CHUNK_ITEMS..4 * CHUNK_ITEMS {
            let before = places(&chunked, len);
            chunked.push(len);
            assert_eq!(places(&chunked, len), before);
        }
    }

    #[test]
    fn one_item_is_a_list_too() {
        assert_eq!(one(&7).collect::<Vec<_>>(), [&7]);
    }
}
