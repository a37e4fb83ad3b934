//! The request and the answer of a range read.

use crate::types::{KeyRange, KeyValue};

/// A parsed Range request. Names and rules are etcd's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) range: KeyRange,
    /// The revision to read at, as the client gave it: 0 and below mean the newest.
    pub(crate) rev: i64,
    /// Maximum number of keys in the answer; 0 and below mean no limit.
    pub(crate) limit: i64,
    pub(crate) sort: Sort,
    /// Only keys with `min <= mod_rev <= max` are returned; 0 means that there is no such bound.
    pub(crate) mod_rev: RevBounds,
    pub(crate) create_rev: RevBounds,
    pub(crate) keys_only: bool,
    pub(crate) count_only: bool,
}

impl Range {
    /// All keys in `range` at the newest revision, in key order.
    pub(crate) fn of(range: KeyRange) -> Range {
        Range {
            range,
            rev: 0,
            limit: 0,
            sort: Sort::default(),
            mod_rev: RevBounds::default(),
            create_rev: RevBounds::default(),
            keys_only: false,
            count_only: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RevBounds {
    pub(crate) min: i64,
    pub(crate) max: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sort {
    pub(crate) target: SortTarget,
    pub(crate) order: SortOrder,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SortTarget {
    #[default]
    Key,
    Version,
    CreateRev,
    ModRev,
    Value,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RangeResult {
    pub(crate) kvs: Vec<KeyValue>,
    /// There are more keys than `limit` allowed.
    pub(crate) more: bool,
    /// The number of live keys in the range at that revision, regardless of limit and bounds.
    pub(crate) count: i64,
}
