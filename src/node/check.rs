//! Whether the files of a member that is stopped are what was written.
//!
//! Every frame of the log and every cell of the database is read against its checksum, and redb's pages against redb's. If
//! all are sound, the member is opened as a start would open it. No file is changed: what a start would repair is
//! repaired in memory.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use super::{StartError, hash::newest_history, stopped::StoppedMember};
use crate::{
    config::CheckCommand,
    disk::{Directory, Disk, Overlay},
    mvcc::KvHash,
    raft::{SegmentFindings, inspect_log},
    storage::{REMEDY, StorageError, TableFindings, io_error, pages_are_sound},
    telemetry::HumanBytes,
    types::Rev,
};

/// What is being read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CheckStep {
    Log { segment: usize, segments: usize },
    Pages,
    Records { read: u64, total: u64 },
    Opening,
}

/// Nothing was checked.
#[derive(Debug, Error)]
pub(crate) enum CheckError {
    #[error("{} has no member: there is no member/snap/db. Name the --data-dir of a member of retcd", data_dir.display())]
    NoMember { data_dir: PathBuf },
    #[error("{0}")]
    Start(#[from] StartError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct CheckReport {
    segments: Vec<SegmentFindings>,
    tables: Vec<TableFindings>,
    /// What concerns no single place.
    damaged: Vec<StorageError>,
    /// What a start would find; `None` if it was not tried, or failed.
    state: Option<CheckedState>,
}

#[derive(Debug)]
struct CheckedState {
    revision: Rev,
    compacted: Rev,
    keys: usize,
    hash: KvHash,
}

pub(crate) fn check(
    command: &CheckCommand,
    report: &mut dyn FnMut(CheckStep),
) -> Result<CheckReport, CheckError> {
    let config = &command.config;
    let member = StoppedMember::find(config)?
        .ok_or_else(|| CheckError::NoMember { data_dir: config.data_dir.clone() })?;
    let mut found = CheckReport::default();
    // A member that was restored and never started has no log.
    if member.wal_dir.exists() {
        let wal = Directory::open(&member.wal_dir).map_err(io_error("open", &member.wal_dir))?;
        let mut step = |segment, segments| report(CheckStep::Log { segment, segments });
        found.segments = inspect_log(&wal, &mut step)?;
    }
    report(CheckStep::Pages);
    found.inspect_database(&member, report)?;
    if found.places() == 0 {
        report(CheckStep::Opening);
        match member.open(config, over) {
            Ok((_database, replica)) => {
                let store = &replica.state.mvcc;
                found.state = Some(CheckedState {
                    revision: store.rev_current(),
                    compacted: store.rev_compacted(),
                    keys: store.keys_live(),
                    hash: newest_history(store)?,
                });
            }
            Err(error) => found.damaged.push(error),
        }
    }
    Ok(found)
}

fn over(directory: Directory) -> Arc<dyn Disk> {
    Arc::new(Overlay::of(Box::new(directory)))
}

impl CheckReport {
    fn inspect_database(
        &mut self,
        member: &StoppedMember,
        report: &mut dyn FnMut(CheckStep),
    ) -> Result<(), StorageError> {
        let name = Path::new("db");
        let disk = || Directory::open(&member.snap_dir).map(over).map_err(io_error("open", &member.snap_dir));
        match pages_are_sound(&*disk()?, name) {
            Ok(true) => {}
            Ok(false) | Err(StorageError::Corrupted { .. }) => {
                let path = member.snap_dir.join(name);
                let detail = "redb's own checksums of its pages do not match".to_owned();
                self.damaged.push(StorageError::Corrupted { path, detail });
            }
            // Of another format, of another program, or used by one.
            Err(error @ StorageError::Foreign { .. }) => return Err(error),
            Err(error) => self.damaged.push(error),
        }
        // Which cells are concerned is known to our checksums.
        let database =
            member.database(disk()?, |dir| Directory::open(dir).map(over).map_err(io_error("open", dir)));
        let mut step = |read, total| report(CheckStep::Records { read, total });
        match database.and_then(|database| database.inspect(&mut step)) {
            Ok(tables) => self.tables = tables,
            Err(error @ StorageError::Foreign { .. }) => return Err(error),
            Err(error) => self.damaged.push(error),
        }
        Ok(())
    }

    /// How many places are damaged.
    pub(crate) fn places(&self) -> usize {
        let in_log = self.segments.iter().map(|segment| segment.damaged.len());
        let in_tables = self.tables.iter().map(|table| table.damaged.len());
        in_log.chain(in_tables).sum::<usize>() + self.damaged.len()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for SegmentFindings { path, bytes, frames, entries, damaged, torn } in &self.segments {
            let path = path.display();
            write!(f, "{path}: {frames} frames, {}", HumanBytes(*bytes as i64))?;
            match entries {
                Some((low, high)) => writeln!(f, ", entries {low} to {high}")?,
                None => writeln!(f, ", no entries")?,
            }
            for offset in damaged {
                writeln!(f, "  DAMAGED at byte {offset}: the bytes there are not what was written")?;
            }
            if let Some(offset) = torn {
                writeln!(
                    f,
                    "  from byte {offset} on a write was interrupted, as by a power failure; a start cuts it off"
                )?;
            }
        }
        for TableFindings { name, cells, damaged } in &self.tables {
            writeln!(f, "table {name}: {cells} cells")?;
            for damage in damaged {
                writeln!(f, "  DAMAGED: {damage}")?;
            }
        }
        for damage in &self.damaged {
            writeln!(f, "DAMAGED: {damage}")?;
        }
        if let Some(CheckedState { revision, compacted, keys, hash }) = &self.state {
            write!(f, "revision {revision}, {keys} keys, ")?;
            match compacted.0 {
                ..=0 => write!(f, "not compacted")?,
                rev => write!(f, "compacted at revision {rev}")?,
            }
            writeln!(f, ", HashKV {}", hash.hash)?;
        }
        match self.places() {
            0 => writeln!(f, "sound: all checksums match, and a start finds all data"),
            1 => writeln!(f, "1 place is damaged; {REMEDY}"),
            places => writeln!(f, "{places} places are damaged; {REMEDY}"),
        }
    }
}
