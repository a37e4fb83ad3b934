//! All of a database, a stretch at a time.

use std::sync::Arc;

use super::{
    Checkpoint, StorageError, Table,
    checkpoint::Measured,
    reader::{Cells, Reader, Records, StoredRecords},
};
use crate::{
    limits::{self, Knob},
    types::Revision,
};

/// See [`Reader::into_stretches`]. A stretch has about [`limits::STRETCH_BYTES`]; a single larger
/// record is one of its own.
pub(crate) type Stretches = StretchesOf<Records>;

/// As [`Stretches`], without the values that lie apart.
pub(crate) type StoredStretches = StretchesOf<StoredRecords>;

pub(crate) struct StretchesOf<I> {
    reader: Arc<Reader>,
    records: I,
    tables: Tables,
    cells: Option<(Table, Cells)>,
    /// Cells so far; `None` if not all of them are read.
    counted: Option<u64>,
    ahead: Ahead,
}

type Tables = std::array::IntoIter<Table, { Table::ALL.len() }>;

fn no_tables() -> Tables {
    let mut tables = Table::ALL.into_iter();
    tables.by_ref().for_each(drop);
    tables
}

impl Reader {
    /// All there is: records in the order of their revisions, then the cells of every table.
    pub(crate) fn into_stretches(self) -> Result<Stretches, StorageError> {
        let records = self.records(Revision::default())?;
        Stretches::of(Arc::new(self), records, Table::ALL.into_iter())
    }

    /// As [`Reader::into_stretches`], without the values that lie apart.
    pub(super) fn into_stored_stretches(self) -> Result<StoredStretches, StorageError> {
        let records = self.stored_records(Revision::default())?;
        StoredStretches::of(Arc::new(self), records, Table::ALL.into_iter())
    }

    /// All records, in the order of their revisions. Readers may share a snapshot of the database.
    pub(crate) fn stretches_of_records(self: &Arc<Reader>) -> Result<Stretches, StorageError> {
        Stretches::of(Arc::clone(self), self.records(Revision::default())?, no_tables())
    }

    /// The records from `from` on, without the values that lie apart, and nothing else: what was written last, which is
    /// in memory.
    pub(super) fn into_stored_stretches_of_records(
        self,
        from: Revision,
    ) -> Result<StoredStretches, StorageError> {
        let records = self.stored_records(from)?;
        let ahead = Ahead { file_bytes: 0, records: 0, passed: 0, asked: 0 };
        Ok(StretchesOf {
            reader: Arc::new(self),
            records,
            tables: no_tables(),
            cells: None,
            counted: None,
            ahead,
        })
    }
}

impl<I, R> StretchesOf<I>
where
    I: Iterator<Item = Result<(Revision, R), StorageError>>,
    R: Measured,
{
    fn of(reader: Arc<Reader>, records: I, tables: Tables) -> Result<StretchesOf<I>, StorageError> {
        let ahead =
            Ahead { file_bytes: reader.file_bytes()?, records: reader.record_count()?, passed: 0, asked: 0 };
        let counted = (tables.len() == Table::ALL.len()).then_some(0);
        Ok(StretchesOf { reader, records, tables, cells: None, counted, ahead })
    }

    /// Empty at the end.
    fn stretch(&mut self) -> Result<Checkpoint<R>, StorageError> {
        self.ahead.ask(&self.reader);
        let mut content = Checkpoint::default();
        let mut bytes = 0;
        while bytes < Knob::StretchBytes.or(limits::STRETCH_BYTES) {
            if let Some(item) = self.records.next() {
                let (revision, record) = item?;
                bytes += record.len();
                content.records.push((revision, record));
            } else if let Some((table, cells)) = &mut self.cells
                && let Some(cell) = cells.next()
            {
                let (key, cell) = cell?;
                self.counted = self.counted.map(|counted| counted + 1);
                bytes += key.len() + cell.len();
                content.cells.push((*table, key, Some(cell)));
            } else if let Some(table) = self.tables.next() {
                self.cells = Some((table, self.reader.cells(table)?));
            } else {
                // Whatever is made of the stretches would lack what damage has hidden.
                if let Some(counted) = self.counted.take() {
                    self.reader.compare_cells(counted)?;
                }
                break;
            }
        }
        self.ahead.passed += content.records.len() as u64;
        Ok(content)
    }
}

impl<I, R> Iterator for StretchesOf<I>
where
    I: Iterator<Item = Result<(Revision, R), StorageError>>,
    R: Measured,
{
    type Item = Result<Checkpoint<R>, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stretch = self.stretch();
        let is_end = |content: &Checkpoint<R>| content.records.is_empty() && content.cells.is_empty();
        (!stretch.as_ref().is_ok_and(is_end)).then_some(stretch)
    }
}

/// What of the file is to be in memory before it is read.
///
/// Records are written in the order of their revisions, and lie in the file much in that order. So
/// whoever has passed a part of them is about as far in the file. Where the file is not in memory,
/// a read for each page would be slow, and what a kernel reads ahead on its own can be so much at
/// once that a log on the same disk waits for it.
struct Ahead {
    file_bytes: u64,
    records: u64,
    /// How many of them.
    passed: u64,
    /// Up to which byte of the file the kernel was asked.
    asked: u64,
}

impl Ahead {
    fn ask(&mut self, reader: &Reader) {
        let reached = u128::from(self.file_bytes) * u128::from(self.passed) / u128::from(self.records.max(1));
        let reached = u64::try_from(reached).unwrap_or(self.file_bytes);
        let until = (reached + limits::PREFETCH_BYTES).min(self.file_bytes);
        reader.prefetch(self.asked..until);
        assert!(until <= self.file_bytes, "what is read ahead is in the file");
        self.asked = self.asked.max(until);
    }
}
