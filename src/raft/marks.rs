//! What the database says of the log: how far its entries were applied, who the members were there, and
//! what the log begins behind.

use bytes::Bytes;

use super::{
    codec,
    typ::{LogId, Membership, SnapshotMeta, StoredMembership},
};
use crate::{
    storage::{Checkpoint, Reader, StorageError, Table},
    wal::LogPosition,
};

pub(super) const APPLIED_CELL: &[u8] = b"raft_applied";
pub(super) const MEMBERSHIP_CELL: &[u8] = b"raft_membership";
/// The last entry of the last snapshot that was installed: the log may begin behind it.
pub(super) const INSTALLED_CELL: &[u8] = b"raft_installed";

/// The digest of the base, eight bytes, big-endian. Members of versions that did not compare bases
/// do not have it.
pub(super) const BASE_CELL: &[u8] = b"base";

/// A change of the database: table, key, and the new bytes, or `None` to remove the cell.
pub(super) type Cell = (Table, Bytes, Option<Bytes>);

pub(super) fn log_id(reader: &Reader, cell: &[u8]) -> Result<Option<LogId>, StorageError> {
    match reader.cell(Table::Meta, cell)? {
        Some(bytes) => codec::decode_log_id(bytes).map(Some).ok_or_else(|| undecodable(reader, cell)),
        None => Ok(None),
    }
}

/// What the database holds.
pub(super) fn meta(reader: &Reader) -> Result<SnapshotMeta, StorageError> {
    let last_membership = match reader.cell(Table::Meta, MEMBERSHIP_CELL)? {
        Some(bytes) => codec::decode_membership(bytes).ok_or_else(|| undecodable(reader, MEMBERSHIP_CELL))?,
        None => StoredMembership::default(),
    };
    Ok(SnapshotMeta { last_log_id: log_id(reader, APPLIED_CELL)?, last_membership })
}

/// The state in the database is the one at `at`, as if it had come as a snapshot.
pub(super) fn applied_cells(at: LogPosition, membership: Membership) -> [Cell; 3] {
    let log_id = codec::log_id(at);
    let membership = codec::encode_membership(&StoredMembership::new(Some(log_id), membership));
    let cell = |name: &'static [u8], bytes: Bytes| (Table::Meta, Bytes::from_static(name), Some(bytes));
    [
        cell(APPLIED_CELL, codec::encode_log_id(&log_id)),
        cell(MEMBERSHIP_CELL, membership),
        cell(INSTALLED_CELL, codec::encode_log_id(&log_id)),
    ]
}

/// What takes the log's mark out of a database, so that it can begin another log.
pub(super) fn forget() -> Checkpoint {
    let cells = [APPLIED_CELL, MEMBERSHIP_CELL, INSTALLED_CELL, BASE_CELL];
    let cells = cells.into_iter().map(|cell| (Table::Meta, Bytes::from_static(cell), None)).collect();
    Checkpoint { cells, ..Checkpoint::default() }
}

fn undecodable(reader: &Reader, cell: &[u8]) -> StorageError {
    reader.corrupted(format!("cell {} cannot be decoded", cell.escape_ascii()))
}
