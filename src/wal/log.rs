//! The chain of segments, and how it is read back.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    frame::{self, EntryKind, Found, FrameBuffer, HardState, LogPosition, Record},
    places::Places,
    reader::WalReader,
    segment::{Segment, cut_behind_seal, file_name, io_error, read_written},
};
use crate::{
    clock,
    storage::{Directory, StorageError},
};

/// The log as it can be written to.
#[derive(Debug)]
pub(crate) struct Wal {
    dir: Directory,
    head: Segment,
    /// Sealed segments, oldest first, each with the highest entry index that it holds.
    sealed: VecDeque<(u32, u64)>,
    /// Highest entry index written to the head.
    head_last_index: u64,
    /// What a new segment has to begin with, so that the ones before it can go.
    hard_state: Option<HardState>,
    purged: Option<LogPosition>,
    places: Arc<Mutex<Places>>,
}

/// What the log said when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) committed: Option<LogPosition>,
    /// Contiguous, in order.
    pub(crate) entries: Vec<(LogPosition, EntryKind, Bytes)>,
    /// Where a torn frame was cut off, if there was one.
    pub(crate) repaired: Option<(PathBuf, u32)>,
}

impl Wal {
    /// Opens the log in `dir`, making an empty one if there is none and it has not begun yet. A frame that was being
    /// written when the machine stopped is cut off; any other damage is refused.
    pub(crate) fn open(dir: &Path, has_begun: bool) -> Result<(Wal, Recovered), StorageError> {
        let mut recovered = Recovered::default();
        let mut places = Places::default();
        let mut sealed = VecDeque::new();
        let mut ends = Vec::new();
        let mut head = None;
        let sequences = sequences(dir)?;
        if has_begun && sequences.is_empty() {
            return Err(damaged(dir, 0, "the log files are gone, and with them writes that were answered"));
        }
        for (place, &sequence) in sequences.iter().enumerate() {
            let path = dir.join(file_name(sequence));
            let is_last = place + 1 == sequences.len();
            if place > 0 && sequences[place - 1] + 1 != sequence {
                return Err(damaged(&path, 0, "the segment before it is missing"));
            }
            let (end, is_sealed) = replay(&path, sequence, is_last, &mut recovered, &mut places)?;
            let last_index = recovered.entries.last().map_or(0, |(at, ..)| at.index);
            if is_sealed {
                sealed.push_back((sequence, last_index));
                ends.push((path, end));
            } else if is_last {
                head = Some((Segment::reopen(path.clone(), sequence, end)?, last_index));
            } else {
                return Err(damaged(&path, end, "it ends without a seal, though another segment follows"));
            }
        }
        let first_needed = recovered.purged.map_or(0, |purged| purged.index + 1);
        if recovered.entries.first().is_some_and(|(first, ..)| first.index != first_needed) {
            return Err(damaged(dir, 0, "the oldest entries are missing"));
        }
        // Nothing is changed before all of it is known to be sound.
        let dir = Directory::open(dir)?;
        for (path, end) in ends {
            cut_behind_seal(&path, end)?;
        }
        let (head, head_last_index) = match head {
            Some((segment, last_index)) => {
                if recovered.repaired.is_some() {
                    segment.erase_tail()?;
                }
                (segment, last_index)
            }
            None => {
                let sequence = sequences.last().map_or(1, |last| last + 1);
                (
                    Segment::create(
                        &dir,
                        sequence,
                        &mut first_frame(&recovered.hard_state, &recovered.purged),
                    )?,
                    0,
                )
            }
        };
        let (hard_state, purged) = (recovered.hard_state, recovered.purged);
        let places = Arc::new(Mutex::new(places));
        let wal = Wal { dir, head, sealed, head_last_index, hard_state, purged, places };
        Ok((wal, recovered))
    }

    /// Writes one frame and makes it durable. `last_index` is the highest entry in it, if any.
    /// The buffer is empty afterwards. Returns when the frame had been written and its sync began.
    ///
    /// After an error the log must not be written to again: what is on the disk is unknown.
    pub(crate) fn append(
        &mut self,
        buffer: &mut FrameBuffer,
        last_index: Option<u64>,
    ) -> Result<Instant, StorageError> {
        if !self.head.has_room_for(buffer.len()) {
            self.rotate()?;
        }
        let start = self.head.write(buffer)?;
        let written = clock::now();
        self.head.sync()?;
        self.places.lock().wrote(buffer.reach(), self.head.sequence, start, self.head.end());
        buffer.clear();
        self.head_last_index = last_index.unwrap_or(self.head_last_index);
        Ok(written)
    }

    pub(crate) fn set_hard_state(&mut self, state: HardState) {
        self.hard_state = Some(state);
    }

    /// Notes that entries up to `upto` are not needed, and deletes the segments that hold nothing
    /// else.
    pub(crate) fn purge(&mut self, upto: LogPosition) -> Result<(), StorageError> {
        self.purged = Some(upto);
        while let Some(&(sequence, last_index)) = self.sealed.front()
            && last_index <= upto.index
        {
            let path = self.dir.path().join(file_name(sequence));
            self.places.lock().removed(sequence);
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            // One by one: a power loss must not bring back an older segment without a newer one.
            self.dir.sync()?;
            self.sealed.pop_front();
        }
        Ok(())
    }

    /// The last entry of each sealed segment that is still kept, oldest first.
    pub(crate) fn sealed(&self) -> impl ExactSizeIterator<Item = u64> {
        self.sealed.iter().map(|(_, last_index)| *last_index)
    }

    /// Starts a new segment.
    fn rotate(&mut self) -> Result<(), StorageError> {
        self.head.seal()?;
        self.sealed.push_back((self.head.sequence, self.head_last_index));
        let mut first = first_frame(&self.hard_state, &self.purged);
        self.head = Segment::create(&self.dir, self.head.sequence + 1, &mut first)?;
        Ok(())
    }

    /// Bytes that are read for entry `index`.
    #[cfg(test)]
    fn stretch(&self, index: u64) -> u32 {
        let stretch = self.places.lock().find(index).expect("it is there");
        stretch.end - stretch.start
    }

    /// Reads what is on the disk, while more is written.
    pub(crate) fn reader(&self) -> WalReader {
        WalReader::new(self.dir.path().to_owned(), self.places.clone())
    }
}

fn first_frame(hard_state: &Option<HardState>, purged: &Option<LogPosition>) -> FrameBuffer {
    let mut buffer = FrameBuffer::new();
    if let Some(state) = hard_state {
        buffer.push(&Record::HardState(*state));
    }
    if let Some(upto) = purged {
        buffer.push(&Record::Purge { upto: *upto });
    }
    buffer
}

/// The segments in `dir`, in order. Drafts of segments that were never finished are removed.
fn sequences(dir: &Path) -> Result<Vec<u32>, StorageError> {
    let mut sequences = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("new") => fs::remove_file(&path).map_err(io_error("remove", &path))?,
            Some("wal") => {
                let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                let sequence = u32::from_str_radix(stem, 16).map_err(|_| StorageError::Foreign {
                    path: path.clone(),
                    detail: "it is not a log segment of retcd; is this the data directory of another server?"
                        .to_owned(),
                })?;
                sequences.push(sequence);
            }
            _ => {}
        }
    }
    sequences.sort_unstable();
    Ok(sequences)
}

/// Applies the records of one segment to `recovered`. Returns where its frames end, and whether
/// it was sealed.
fn replay(
    path: &Path,
    sequence: u32,
    is_last: bool,
    recovered: &mut Recovered,
    places: &mut Places,
) -> Result<(u32, bool), StorageError> {
    let file = Bytes::from(read_written(path)?);
    let mut offset = 0;
    let mut is_sealed = false;
    if matches!(frame::look(&file, sequence, 0), Found::End | Found::Torn) {
        // A segment gets its name when its first frame is on the disk, and that may hold a vote.
        return Err(damaged(path, 0, "the segment has a name and not the frame that it began with"));
    }
    while offset < file.len() && !is_sealed {
        match frame::look(&file, sequence, offset) {
            Found::Frame { payload, next } => {
                let records = frame::records(file.slice(payload)).ok_or_else(|| {
                    damaged(path, offset as u32, "a record is of a kind that this version does not know")
                })?;
                places.wrote(frame::reach(&records), sequence, offset as u32, next as u32);
                for record in records {
                    is_sealed |= record == Record::Seal;
                    recovered.apply(record).map_err(|detail| damaged(path, offset as u32, detail))?;
                }
                offset = next;
            }
            Found::End => break,
            Found::Torn if is_last && !frame::frame_follows(&file, sequence, offset + 8) => {
                recovered.repaired = Some((path.to_owned(), offset as u32));
                break;
            }
            Found::Torn | Found::Damaged => {
                return Err(damaged(path, offset as u32, "the bytes there are not what was written"));
            }
        }
    }
    Ok((offset as u32, is_sealed))
}

pub(super) fn damaged(path: &Path, offset: u32, detail: &str) -> StorageError {
    StorageError::Corrupted {
        path: path.to_owned(),
        detail: format!(
            "at byte {offset}: {detail}. Nothing was changed. Restore this member from a backup, or remove it \
             from the cluster and add it again with an empty data directory"
        ),
    }
}

impl Recovered {
    fn apply(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::HardState(state) => self.hard_state = Some(state),
            Record::Entry { at, kind, payload } => {
                if self.entries.last().is_some_and(|(last, ..)| last.index + 1 != at.index) {
                    return Err("an entry is missing before this one");
                }
                self.entries.push((at, kind, payload));
            }
            Record::Truncate { last } => {
                let keep = last.map_or(0, |last| last.index);
                self.entries.retain(|(at, ..)| last.is_some() && at.index <= keep);
            }
            Record::Purge { upto } => {
                self.purged = self.purged.max(Some(upto));
                self.entries.retain(|(at, ..)| at.index > upto.index);
            }
            Record::Committed { at } => self.committed = Some(at),
            Record::Seal => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
