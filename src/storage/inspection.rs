//! Reading all of a database to say what is in it and what is wrong with it, place by place.

use std::{path::Path, sync::Arc};

use redb::TableHandle;

use super::{
    Database, StorageError, Table,
    backend::FileBackend,
    error::{io_error, not_opened},
    inside::Inside,
    tables::RECORDS,
};
use crate::{disk::Disk, limits, types::Revision};

/// What one table holds.
#[derive(Debug)]
pub(crate) struct TableFindings {
    pub(crate) name: &'static str,
    pub(crate) cells: u64,
    /// What is not what was written. The rest of a table is not read behind a page that cannot be.
    pub(crate) damaged: Vec<StorageError>,
}

/// Whether redb finds all pages of the file `name` as it wrote them. It looks for its own checksums, which no
/// read does.
pub(crate) fn pages_are_sound(disk: &dyn Disk, name: &Path) -> Result<bool, StorageError> {
    let path: Arc<Path> = disk.path().join(name).into();
    let _inside = Inside::of(&path);
    let file = disk.open(name).map_err(io_error("open", &path))?;
    let opened = redb::Builder::new()
        .set_cache_size(limits::DATABASE_CACHE_BYTES)
        .create_with_backend(FileBackend::new(file.into()));
    let mut redb = opened.map_err(|error| not_opened(error, &path))?;
    redb.check_integrity().map_err(|error| not_opened(error, &path))
}

impl Database {
    /// Reads every record and every cell against its checksum. `report` is told how many records were read of how many.
    pub(crate) fn inspect(
        &self,
        report: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<TableFindings>, StorageError> {
        let reader = self.reader()?;
        let expected = reader.record_count()?;
        let mut records = TableFindings { name: RECORDS.name(), cells: 0, damaged: Vec::new() };
        let mut stored = reader.records(Revision::default())?;
        while let Some(item) = stored.next_with_place() {
            match item {
                Ok((_, Ok(_))) => {}
                Ok((_, Err(damage))) if damage.is_damage() => records.damaged.push(damage),
                Ok((_, Err(error))) => return Err(error),
                Err(damage) => {
                    records.damaged.push(damage);
                    break;
                }
            }
            records.cells += 1;
            if records.cells.is_multiple_of(10_000) {
                report(records.cells, expected);
            }
        }
        if records.cells != expected {
            let found = records.cells;
            let detail = format!("it has {found} records, and {expected} were written");
            records.damaged.push(self.corrupted(detail));
        }
        let mut findings = vec![records];
        for table in Table::ALL {
            let mut cells = TableFindings { name: table.name(), cells: 0, damaged: Vec::new() };
            for cell in reader.cells(table)? {
                cells.cells += 1;
                match cell {
                    Ok(_) => {}
                    Err(damage @ StorageError::Corrupted { .. }) => cells.damaged.push(damage),
                    // It is not known where the next one is.
                    Err(damage) => {
                        cells.damaged.push(damage);
                        break;
                    }
                }
            }
            findings.push(cells);
        }
        let cells = &mut findings[1..];
        let checked = match cells.iter().all(|table| table.damaged.is_empty()) {
            true => reader.check_cells(),
            false => reader.compare_cells(cells.iter().map(|table| table.cells).sum()),
        };
        match checked {
            Ok(()) => {}
            Err(damage @ StorageError::Corrupted { .. }) => cells[0].damaged.push(damage),
            Err(error) => return Err(error),
        }
        Ok(findings)
    }
}
