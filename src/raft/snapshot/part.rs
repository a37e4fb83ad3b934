//! The state in parts, as it travels: records in the order of their revisions, then the cells of
//! every table.
//!
//! A part is small enough to be a message. The last one says that it is: a stream that ends
//! without it broke off.

use bytes::Bytes;
use prost::Message;

use crate::{
    limits,
    pb::retcd::raft as pb,
    raft::message::Unreadable,
    storage::{Cells, Checkpoint, Reader, Record, Records, StorageError, Table},
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
            if main < 0 || sub < 0 {
                return None;
            }
            Some((Revision::new(main, sub), Record::decode(is_tombstone, key_value)?))
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
    reader: Box<Reader>,
    records: Records,
    tables: std::array::IntoIter<Table, { Table::ALL.len() }>,
    cells: Option<(Table, Cells)>,
    is_done: bool,
}

impl Parts {
    pub(super) fn of(reader: Box<Reader>) -> Result<Parts, StorageError> {
        let records = reader.records(Revision::default())?;
        let tables = Table::ALL.into_iter();
        Ok(Parts { reader, records, tables, cells: None, is_done: false })
    }

    fn part(&mut self) -> Result<Part, StorageError> {
        let mut content = Checkpoint::default();
        let mut bytes = 0;
        let mut is_last = false;
        while bytes < limits::SNAPSHOT_PIECE_BYTES && !is_last {
            if let Some(item) = self.records.next() {
                let (revision, record) = item?;
                bytes += record.bytes().len();
                content.records.push((revision, record));
            } else if let Some((table, cells)) = &mut self.cells
                && let Some(cell) = cells.next()
            {
                let (key, cell) = cell?;
                bytes += key.len() + cell.len();
                content.cells.push((*table, key, Some(cell)));
            } else if let Some(table) = self.tables.next() {
                self.cells = Some((table, self.reader.cells(table)?));
            } else {
                is_last = true;
            }
        }
        Ok(Part { content, is_last })
    }
}

impl Iterator for Parts {
    type Item = Result<Part, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let part = self.part();
        self.is_done = part.as_ref().map_or(true, |part| part.is_last);
        Some(part)
    }
}
