//! Reading entries back while the log is written to: for a peer that is behind.
//!
//! A reader never waits for the disk that is written to, and reads no more than the stretch that
//! an entry stands in: to read a log from its beginning to its end costs as much as the log is
//! long, and at any time no more memory than was asked for, and a stretch.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    frame::{self, Found, FoundEntry, Record},
    places::{Places, Stretch},
    segment::{damaged, file_name},
};
use crate::{
    disk::{Disk, DiskFile},
    storage::{StorageError, io_error},
};

/// A stretch, and the file that it is in.
type OpenStretch = (Stretch, Box<dyn DiskFile>);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct WalReader {
    disk: Arc<dyn Disk>,
    places: Arc<Mutex<Places>>,
}

impl WalReader {
    pub(super) fn new(disk: Arc<dyn Disk>, places: Arc<Mutex<Places>>) -> WalReader {
        WalReader { disk, places }
    }

    /// The directory of the log.
    pub(crate) fn dir(&self) -> &Path {
        self.disk.path()
    }

    /// The entries from `from` on that are on the disk, before `until`: as many as have no more than
    /// `bytes` together, and one in any case. None if the log does not have `from`.
    pub(crate) fn read(&self, from: u64, until: u64, bytes: usize) -> Result<Vec<FoundEntry>, StorageError> {
        let mut entries: Vec<FoundEntry> = Vec::new();
        let mut next = from;
        let mut read = 0;
        while next < until {
            let Some((stretch, file)) = self.find(next)? else { break };
            let found = self.entries_in(stretch, &*file)?;
            let before = next;
            for entry in found.into_iter().filter(|entry| (from..until).contains(&entry.at.index)) {
                if entry.at.index != next {
                    continue;
                }
                if !entries.is_empty() && entry.payload.len() > bytes.saturating_sub(read) {
                    return Ok(entries);
                }
                read += entry.payload.len();
                entries.push(entry);
                next += 1;
                debug_assert_eq!(next - from, entries.len() as u64, "the entries are contiguous");
            }
            if next == before {
                break;
            }
        }
        Ok(entries)
    }

    /// The file is open when this returns: it may be given back meanwhile, and is read all the same.
    fn find(&self, index: u64) -> Result<Option<OpenStretch>, StorageError> {
        let places = self.places.lock();
        let Some(stretch) = places.find(index) else { return Ok(None) };
        let name = file_name(stretch.sequence);
        let file = self.disk.open_to_read(&name);
        let file = file.map_err(io_error("open", &self.disk.path().join(&name)))?;
        Ok(Some((stretch, file)))
    }

    /// The entries of a stretch that the log still has.
    fn entries_in(&self, stretch: Stretch, file: &dyn DiskFile) -> Result<Vec<FoundEntry>, StorageError> {
        let path = self.disk.path().join(file_name(stretch.sequence));
        assert!(stretch.start < stretch.end, "a stretch holds the frame of its first entry");
        let mut bytes = vec![0; (stretch.end - stretch.start) as usize];
        file.read_at(&mut bytes, u64::from(stretch.start)).map_err(io_error("read", &path))?;
        let bytes = Bytes::from(bytes);
        let mut entries: Vec<FoundEntry> = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let place = stretch.start as usize + at;
            let Found::Frame { payload, next } = frame::look_at(&bytes[at..], stretch.sequence, place) else {
                return Err(damaged(&path, place as u32, "the bytes there are not what was written"));
            };
            let records = frame::records(bytes.slice(at..).slice(payload));
            let unknown = "a record is of a kind that this version does not know";
            for record in records.ok_or_else(|| damaged(&path, place as u32, unknown))? {
                match record {
                    Record::Entry { at, kind, payload } => {
                        let offset = stretch.start + frame::offset_in(&bytes, &payload) as u32;
                        let sequence = stretch.sequence;
                        entries.push(FoundEntry { at, kind, payload, sequence, offset });
                    }
                    Record::Truncate { last } => {
                        entries.retain(|entry| last.is_some_and(|last| entry.at.index <= last.index));
                    }
                    Record::HardState(_) | Record::Purge { .. } | Record::Committed { .. } | Record::Seal => {
                    }
                }
            }
            assert!(next > 0, "each frame brings the reader further");
            at += next;
        }
        entries.retain(|entry| stretch.until.is_none_or(|until| entry.at.index < until));
        Ok(entries)
    }
}
