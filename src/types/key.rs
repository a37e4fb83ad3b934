//! What a `(key, range_end)` pair means.
//!
//! etcd packs four meanings into two byte strings. They are told apart here, once; below
//! `rpc/` nobody asks again what `"\0"` stands for.

use bytes::Bytes;

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyRange {
    /// The one key.
    Point(Bytes),
    /// `[start, end)`. Empty when `end <= start`: legal, and matches nothing.
    Span(Bytes, Bytes),
    /// Every key from `start` on.
    From(Bytes),
}

impl KeyRange {
    /// etcd's rule: no `range_end` is the one key, `"\0"` is every key from `key` on, anything
    /// else bounds a half-open interval.
    pub(crate) fn parse(key: Bytes, range_end: Bytes) -> KeyRange {
        match range_end.as_ref() {
            b"" => KeyRange::Point(key),
            b"\0" => KeyRange::From(key),
            _ => KeyRange::Span(key, range_end),
        }
    }

    /// Every key there is.
    pub(crate) fn all() -> KeyRange {
        KeyRange::From(Bytes::new())
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Point(point) => key == point.as_ref(),
            KeyRange::Span(start, end) => start.as_ref() <= key && key < end.as_ref(),
            KeyRange::From(start) => start.as_ref() <= key,
        }
    }

    /// The first key that could be in the range.
    pub(crate) fn start(&self) -> &Bytes {
        match self {
            KeyRange::Point(start) | KeyRange::Span(start, _) | KeyRange::From(start) => start,
        }
    }

    /// Bytes of the bounds.
    pub(crate) fn size(&self) -> usize {
        match self {
            KeyRange::Point(key) | KeyRange::From(key) => key.len(),
            KeyRange::Span(start, end) => start.len() + end.len(),
        }
    }

    /// `(key, range_end)` as a client would have sent it: the inverse of [`KeyRange::parse`].
    pub(crate) fn to_wire(&self) -> (Bytes, Bytes) {
        match self {
            KeyRange::Point(key) => (key.clone(), Bytes::new()),
            KeyRange::Span(start, end) => (start.clone(), end.clone()),
            KeyRange::From(start) => (start.clone(), Bytes::from_static(b"\0")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static str) -> KeyRange {
        KeyRange::parse(Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()))
    }

    #[test]
    fn four_meanings() {
        assert!(range("a", "").contains(b"a") && !range("a", "").contains(b"ab"));
        assert!(range("a", "b").contains(b"ab") && !range("a", "b").contains(b"b"));
        assert!(range("b", "\0").contains(b"zz") && !range("b", "\0").contains(b"a"));
        assert!(!range("b", "a").contains(b"a") && !range("b", "a").contains(b"b"));
        assert!(KeyRange::all().contains(b"") && KeyRange::all().contains(b"\xff"));
    }

    #[test]
    fn the_wire_form_comes_back() {
        for range in [range("a", ""), range("a", "b"), range("a", "\0")] {
            let (key, end) = range.to_wire();
            assert_eq!(KeyRange::parse(key, end), range);
        }
    }
}
