//! The size that the store reports.
//!
//! Quotas and alarms need a size that is cheap to read and that is the same on every member. The size
//! is therefore counted from the data, and not taken from the length of the file.

use crate::storage;

/// The size of an empty store, for the tables themselves.
const EMPTY_BYTES: i64 = 20 * 1024;

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Maximum of `in_use` since the last defragmentation.
    pub(crate) total: i64,
    /// Of all records, and of the leases, users and roles. A record counts until a checkpoint has removed
    /// it from the database.
    pub(crate) in_use: i64,
}

impl Size {
    pub(super) const EMPTY: Size = Size { total: EMPTY_BYTES, in_use: EMPTY_BYTES };

    /// A record whose encoded `mvccpb.KeyValue` has so many bytes.
    pub(super) fn add(&mut self, key_value_len: usize) {
        self.in_use += storage::footprint(key_value_len) as i64;
        self.total = self.total.max(self.in_use);
        debug_assert!(self.in_use > EMPTY_BYTES, "a record takes space");
    }

    /// Leases, users or roles took `before` bytes and now take `after`.
    pub(super) fn change(&mut self, before: u64, after: u64) {
        self.in_use += after as i64 - before as i64;
        assert!(self.in_use >= EMPTY_BYTES, "only bytes that were counted are removed");
        self.total = self.total.max(self.in_use);
    }

    pub(super) fn remove(&mut self, bytes: u64) {
        self.in_use -= bytes as i64;
        assert!(self.in_use >= EMPTY_BYTES, "only bytes that were counted are removed");
        assert!(self.total >= self.in_use, "the total is the maximum of the bytes in use");
    }
}
