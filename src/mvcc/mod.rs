//! Keys through time.

mod range;

pub(crate) use range::{Range, RangeResult, RevBounds, Sort, SortOrder, SortTarget};
