//! What a read asks for, and what it gets.

use crate::types::{KeyRange, KeyValue};

/// A parsed Range request. Names and rules are etcd's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) range: KeyRange,
    /// Revision to read at, as the client gave it: 0 and below mean the newest.
    pub(crate) rev: i64,
    /// Most keys in the answer; 0 and below mean no limit.
    pub(crate) limit: i64,
    pub(crate) sort: Sort,
    /// Keep keys with `min <= mod_rev <= max`; 0 leaves a side open.
    pub(crate) mod_rev: RevBounds,
    pub(crate) create_rev: RevBounds,
    pub(crate) keys_only: bool,
    pub(crate) count_only: bool,
}

impl Range {
    /// Everything in `range`, newest revision, key order.
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
    /// `limit` cut the answer.
    pub(crate) more: bool,
    /// Live keys in the range at that revision, whatever limit and bounds say.
    pub(crate) count: i64,
}
