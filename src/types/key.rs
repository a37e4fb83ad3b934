//! The meaning of a `(key, range_end)` pair.
//!
//! In etcd, two byte strings have four meanings. They are parsed here, so that only `rpc` and the
//! encodings know that a range end of `"\0"` means "no end".

use bytes::Bytes;

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyRange {
    /// A single key.
    Point(Bytes),
    /// `[start, end)`. With `end <= start` it is legal and contains no key.
    Span(Bytes, Bytes),
    /// Every key from `start` on.
    From(Bytes),
}

impl KeyRange {
    /// etcd's rule: an empty `range_end` means the single key, `"\0"` means every key from `key` on, and any
    /// other one is the end of a half-open interval.
    pub(crate) fn parse(key: Bytes, range_end: Bytes) -> KeyRange {
        match range_end.as_ref() {
            b"" => KeyRange::Point(key),
            b"\0" => KeyRange::From(key),
            _ => KeyRange::Span(key, range_end),
        }
    }

    /// Every key.
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

    /// The part of the range behind a key that it contains.
    pub(crate) fn after(&self, key: &[u8]) -> KeyRange {
        debug_assert!(self.contains(key), "a range is continued behind one of its keys");
        // The smallest key that is larger.
        let start = [key, b"\0"].concat().into();
        match self {
            KeyRange::Point(_) => KeyRange::Span(start, Bytes::new()),
            KeyRange::Span(_, end) => KeyRange::Span(start, end.clone()),
            KeyRange::From(_) => KeyRange::From(start),
        }
    }

    /// The length of the bounds, in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            KeyRange::Point(key) | KeyRange::From(key) => key.len(),
            KeyRange::Span(start, end) => start.len() + end.len(),
        }
    }

    /// The `(key, range_end)` pair for this range: the inverse of [`KeyRange::parse`].
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
    fn what_comes_after_a_key() {
        for (range, contained, rest) in [
            (range("a", "c"), "ab", vec!["ab\0", "abc", "b"]),
            (range("a", "\0"), "ab", vec!["ab\0", "abc", "b", "c", "z"]),
            (range("a", ""), "a", vec![]),
        ] {
            let after = range.after(contained.as_bytes());
            for key in ["", "a", "aa", "ab", "ab\0", "abc", "b", "c", "z"] {
                let expected = rest.contains(&key);
                assert_eq!(after.contains(key.as_bytes()), expected, "{range:?} after {contained}: {key:?}");
            }
        }
    }

    #[test]
    fn the_wire_form_comes_back() {
        for range in [range("a", ""), range("a", "b"), range("a", "\0")] {
            let (key, end) = range.to_wire();
            assert_eq!(KeyRange::parse(key, end), range);
        }
    }
}
