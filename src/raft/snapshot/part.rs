//! The state in parts, as it travels: records in the order of their revisions, then the cells of
//! every table.
//!
//! A part is small enough to be a message. The last one says that it is: a stream that ends
//! without it broke off.

use std::iter::Peekable;

use bytes::Bytes;
use prost::Message;

use crate::{
    pb::retcd::raft as pb,
    raft::message::Unreadable,
    storage::{self, Checkpoint, Reader, Record, StorageError, Stretches, Table},
    types::Revision,
};

/// A stretch of the state.
#[derive(Debug)]
pub(super) struct Part {
    /// What is to be stored.
    pub(super) content: Checkpoint,
    pub(super) is_last: bool,
}

impl Part {
    pub(super) fn encode(&self) -> Bytes {
        let Checkpoint { records, cells, .. } = &self.content;
        let records = records.iter().map(|(revision, record)| pb::SnapshotRecord {
            main: revision.main.0,
            sub: revision.sub,
            is_tombstone: record.is_tombstone(),
            key_value: record.bytes().clone(),
        });
        let cells = cells.iter().map(|(table, key, bytes)| pb::SnapshotCell {
            table: table.name().to_owned(),
            key: key.clone(),
            bytes: bytes.clone().unwrap_or_default(),
        });
        let part =
            pb::SnapshotPart { records: records.collect(), cells: cells.collect(), is_last: self.is_last };
        part.encode_to_vec().into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Part, Unreadable> {
        let part = pb::SnapshotPart::decode(bytes).map_err(|_| Unreadable)?;
        let records = part.records.into_iter().map(|record| {
            let pb::SnapshotRecord { main, sub, is_tombstone, key_value } = record;
            let revision = Revision::new(main, sub);
            Some((revision, Record::decode(is_tombstone, key_value)?))
                .filter(|_| storage::is_of_a_change(revision))
        });
        let cells = part.cells.into_iter().map(|cell| {
            let pb::SnapshotCell { table, key, bytes } = cell;
            Some((Table::named(&table)?, key, Some(bytes)))
        });
        let records = records.collect::<Option<_>>().ok_or(Unreadable)?;
        let cells = cells.collect::<Option<_>>().ok_or(Unreadable)?;
        Ok(Part { content: Checkpoint { records, cells, ..Checkpoint::default() }, is_last: part.is_last })
    }
}

/// All that a reader sees. Checksums are checked on the way, so that damage is found here and not
/// passed on.
pub(super) struct Parts {
    stretches: Peekable<Stretches>,
}

impl Parts {
    pub(super) fn of(reader: Reader) -> Result<Parts, StorageError> {
        Ok(Parts { stretches: reader.into_stretches()?.peekable() })
    }
}

impl Iterator for Parts {
    type Item = Result<Part, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stretch = self.stretches.next()?;
        Some(stretch.map(|content| Part { content, is_last: self.stretches.peek().is_none() }))
    }
}
