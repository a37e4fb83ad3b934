//! The hash of a history, computed over the same bytes as in etcd.

use crate::{
    storage::{Record, StoredRecord},
    types::{Rev, Revision},
};

/// A hash, and the history that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvHash {
    pub(crate) hash: u32,
    pub(crate) rev_compacted: Rev,
    pub(crate) rev_hashed: Rev,
    /// The newest revision when the walk began, for the header of the answer.
    pub(crate) rev_current: Rev,
}

/// The hash before the first record.
pub(crate) fn of_nothing() -> u32 {
    crc32c::crc32c(b"key")
}

/// Adds a record to the hash of a history that is compacted up to `compacted`. A tombstone of exactly
/// that revision is left out, because some releases of etcd keep it and others remove it.
pub(crate) fn add(hash: u32, compacted: Rev, revision: Revision, record: &Record) -> u32 {
    if record.is_tombstone() && revision.main == compacted {
        return hash;
    }
    let hash = crc32c::crc32c_append(hash, &etcd_key(revision, record.is_tombstone()));
    crc32c::crc32c_append(hash, record.bytes())
}

/// As [`add`], for a record whose value may lie apart. That is not read.
pub(crate) fn add_stored(hash: u32, compacted: Rev, revision: Revision, record: &StoredRecord) -> u32 {
    if record.is_tombstone() && revision.main == compacted {
        return hash;
    }
    record.add_to_crc32c(crc32c::crc32c_append(hash, &etcd_key(revision, record.is_tombstone())))
}

/// The key under which etcd stores a record.
pub(crate) fn etcd_key(revision: Revision, tombstone: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&revision.main.0.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&revision.sub.to_be_bytes());
    if tombstone {
        key.push(b't');
    }
    key
}
