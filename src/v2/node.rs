//! A node of the tree.

use std::sync::Arc;

/// A file has a value, and a directory has children. The children are not here: their keys say where they
/// are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) created: u64,
    pub(crate) modified: u64,
    /// In nanoseconds since 1970.
    pub(crate) expires: Option<i64>,
    /// `None` for a directory.
    pub(crate) value: Option<Arc<str>>,
}

impl Node {
    pub(super) fn is_dir(&self) -> bool {
        self.value.is_none()
    }
}

/// The seconds until an expiration, rounded up. Negative if it is overdue.
pub(crate) fn ttl_secs(expires: i64, now: i64) -> i64 {
    const SECOND: i64 = 1_000_000_000;
    let nanos = expires.saturating_sub(now);
    // The quotient of a negative number is rounded towards zero, as in Go.
    nanos / SECOND + i64::from(nanos % SECOND > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_rounded_up() {
        for (nanos, secs) in
            [(0, 0), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2), (-1, 0), (-1_500_000_000, -1)]
        {
            assert_eq!(ttl_secs(7 + nanos, 7), secs, "{nanos}");
        }
    }
}
