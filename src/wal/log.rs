//! The chain of segments, and how it is read back.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    frame::{self, Found, FoundEntry, FrameBuffer, HardState, LogPosition, Record},
    places::Places,
    reader::WalReader,
    segment::{Blank, SEGMENT_LEN, Segment, cut_behind_seal, damaged, file_name, read_written},
};
use crate::{
    clock,
    disk::Disk,
    limits::Knob,
    storage::{StorageError, Values, io_error},
};

/// The log as it can be written to.
#[derive(Debug)]
pub(crate) struct Wal {
    disk: Arc<dyn Disk>,
    segment_len: u32,
    head: Segment,
    /// What the next segment is made of, if its space is reserved.
    next: Option<Blank>,
    /// Sealed segments, oldest first, each with the highest entry index that it holds.
    sealed: VecDeque<(u32, u64)>,
    /// Highest entry index written to the head.
    head_last_index: u64,
    /// Index of the last entry of the log, or up to which it was purged; `None` before there is any.
    last_index: Option<u64>,
    /// What a new segment has to begin with, so that the ones before it can go.
    hard_state: Option<HardState>,
    purged: Option<LogPosition>,
    places: Arc<Mutex<Places>>,
    /// Who needs values of segments that the log does not need any more.
    values: Option<Arc<Values>>,
}

/// What the log said when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) committed: Option<LogPosition>,
    /// Contiguous, in order.
    pub(crate) entries: Vec<FoundEntry>,
    /// Where a torn frame was cut off, if there was one.
    pub(crate) repaired: Option<(PathBuf, u32)>,
}

impl Wal {
    /// Opens the log on `disk`. Makes an empty one if there is none and it has not begun yet. A frame
    /// that was being written when the machine stopped is cut off; any other damage is refused. `values` keeps segments
    /// that the database refers to.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        has_begun: bool,
        values: Option<Arc<Values>>,
    ) -> Result<(Wal, Recovered), StorageError> {
        let segment_len = Knob::SegmentBytes.or(SEGMENT_LEN as usize) as u32;
        Wal::open_with_segments_of(segment_len, disk, has_begun, values)
    }

    fn open_with_segments_of(
        segment_len: u32,
        disk: Arc<dyn Disk>,
        has_begun: bool,
        values: Option<Arc<Values>>,
    ) -> Result<(Wal, Recovered), StorageError> {
        let mut recovered = Recovered::default();
        let mut places = Places::default();
        let mut sealed = VecDeque::new();
        let mut ends = Vec::new();
        let mut head = None;
        let sequences = sequences(&*disk)?;
        if has_begun && sequences.is_empty() {
            return Err(damaged(
                disk.path(),
                0,
                "the log files are gone, and with them writes that were answered",
            ));
        }
        for (place, &sequence) in sequences.iter().enumerate() {
            let path = disk.path().join(file_name(sequence));
            let is_last = place + 1 == sequences.len();
            if place > 0 && sequences[place - 1] + 1 != sequence {
                return Err(damaged(&path, 0, "the segment before it is missing"));
            }
            let (end, is_sealed) = replay(&*disk, sequence, is_last, &mut recovered, &mut places)?;
            let last_index = recovered.entries.last().map_or(0, |entry| entry.at.index);
            if is_sealed {
                sealed.push_back((sequence, last_index));
                ends.push((sequence, end));
            } else if is_last {
                head = Some((sequence, end, last_index));
            } else {
                return Err(damaged(&path, end, "it ends without a seal, though another segment follows"));
            }
        }
        let first_needed = recovered.purged.map_or(0, |purged| purged.index + 1);
        if recovered.entries.first().is_some_and(|first| first.at.index != first_needed) {
            return Err(damaged(disk.path(), 0, "the oldest entries are missing"));
        }
        let last_index = recovered.entries.last().map(|entry| entry.at.index);
        if let Some(last) = last_index {
            let count = recovered.entries.len() as u64;
            assert_eq!(last + 1 - first_needed, count, "the entries that were read are contiguous");
        }
        // Nothing is changed before all of it is known to be sound.
        for (sequence, end) in ends {
            cut_behind_seal(&*disk, sequence, end)?;
        }
        let (head, head_last_index) = match head {
            Some((sequence, end, last_index)) => {
                let segment = Segment::reopen(&*disk, sequence, end, segment_len)?;
                if recovered.repaired.is_some() {
                    segment.erase_tail()?;
                }
                (segment, last_index)
            }
            None => {
                let sequence = sequences.last().map_or(1, |last| last + 1);
                let mut first = first_frame(&recovered.hard_state, &recovered.purged);
                let blank = Blank::reserve(&*disk, sequence, segment_len)?;
                (Segment::create(&*disk, blank, &mut first)?, 0)
            }
        };
        let (hard_state, purged) = (recovered.hard_state, recovered.purged);
        let last_index = last_index.or(purged.map(|purged| purged.index));
        let places = Arc::new(Mutex::new(places));
        let wal = Wal {
            disk,
            segment_len,
            head,
            next: None,
            sealed,
            head_last_index,
            last_index,
            hard_state,
            purged,
            places,
            values,
        };
        wal.assert_chain();
        Ok((wal, recovered))
    }

    /// Writes one frame and makes it durable. `last_index` is the last entry of the log after this
    /// frame, if the frame changes that. The buffer is empty afterwards. Returns when the frame had
    /// been written and its sync began.
    ///
    /// After [`StorageError::NoSpace`] nothing was written, and the same frame can be written again when
    /// there is space. After another error the log must not be written to again: what is on the disk is
    /// unknown.
    pub(crate) fn append(
        &mut self,
        buffer: &mut FrameBuffer,
        last_index: Option<u64>,
    ) -> Result<Instant, StorageError> {
        if let (Some(lowest), Some(last)) = (buffer.reach().lowest(), self.last_index) {
            assert!(lowest <= last + 1, "entry {lowest} would leave a gap behind entry {last}");
        }
        if self.head.room() < buffer.len() as u64 {
            self.rotate(buffer.len())?;
        }
        let end_before = self.head.end();
        let start = self.head.write(buffer)?;
        assert_eq!(start, end_before, "a frame begins where the one before it ends");
        let written = clock::now();
        #[cfg(test)]
        let syncs = !crate::planted::is(crate::planted::Bug::AckBeforeSync);
        #[cfg(not(test))]
        let syncs = true;
        if syncs {
            self.head.sync()?;
        }
        self.places.lock().wrote(buffer.reach(), self.head.sequence, start, self.head.end());
        buffer.tell_places(self.head.sequence, start);
        buffer.clear();
        self.head_last_index = last_index.unwrap_or(self.head_last_index);
        self.last_index = last_index.or(self.last_index);
        Ok(written)
    }

    /// Notes the hard state that the last frame brought.
    pub(crate) fn set_hard_state(&mut self, state: HardState) {
        let term = self.hard_state.map_or(0, |before| before.term);
        assert!(state.term >= term, "the term fell from {term} to {}", state.term);
        self.hard_state = Some(state);
    }

    /// Notes that entries up to `upto` are not needed, and lets go of the segments that hold nothing
    /// else: they are deleted, unless the database refers to values in them. A frame that says so is on the disk already.
    pub(crate) fn purge(&mut self, upto: LogPosition) -> Result<(), StorageError> {
        assert!(self.last_index >= Some(upto.index), "entry {} is released before it is durable", upto.index);
        assert!(
            self.purged.is_none_or(|before| before.index <= upto.index),
            "the purge mark fell to {}",
            upto.index
        );
        self.purged = Some(upto);
        while let Some(&(sequence, last_index)) = self.sealed.front()
            && last_index <= upto.index
        {
            assert!(sequence < self.head.sequence, "the segment that is written to is not removed");
            let name = file_name(sequence);
            self.places.lock().removed(sequence);
            let is_kept = match &self.values {
                Some(values) => values.keep_segment(sequence)?,
                None => false,
            };
            if !is_kept {
                self.disk.remove(&name).map_err(io_error("remove", &self.disk.path().join(&name)))?;
            }
            // One by one: a power loss must not bring back an older segment without a newer one.
            self.disk.sync().map_err(io_error("sync", self.disk.path()))?;
            self.sealed.pop_front();
        }
        Ok(())
    }

    /// The last entry of each sealed segment that is still kept, oldest first.
    pub(crate) fn sealed(&self) -> impl ExactSizeIterator<Item = u64> {
        self.sealed.iter().map(|(_, last_index)| *last_index)
    }

    /// Reserves the space of the next segment ahead. False if the disk has no room for it.
    pub(crate) fn reserve_next(&mut self) -> Result<bool, StorageError> {
        match self.take_space(0) {
            Ok(()) => Ok(true),
            Err(StorageError::NoSpace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a frame can be written now, after its space was reserved if need be. For a simulated member, which must
    /// not block until it can.
    #[cfg(test)]
    pub(crate) fn has_space_for(&mut self, frame_len: usize) -> Result<bool, StorageError> {
        if self.head.room() >= frame_len as u64 {
            return Ok(true);
        }
        let first = first_frame(&self.hard_state, &self.purged);
        match self.take_space(Segment::len_for(first.len() + frame_len)) {
            Ok(()) => Ok(true),
            Err(StorageError::NoSpace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How long the longest frame is for which no space has to be reserved.
    pub(crate) fn room(&self) -> u64 {
        let behind = self.next.as_ref().map_or(0, |_| u64::from(self.segment_len) / 2);
        self.head.room().max(behind)
    }

    /// Starts a new segment that has room for a frame of `frame_len` bytes.
    fn rotate(&mut self, frame_len: usize) -> Result<(), StorageError> {
        let mut first = first_frame(&self.hard_state, &self.purged);
        // All that can fail for want of space comes first.
        self.take_space(Segment::len_for(first.len() + frame_len))?;
        let blank = self.next.take().expect("its space was taken");
        assert_eq!(blank.sequence(), self.head.sequence + 1, "the next segment follows the head");
        self.head.seal()?;
        self.sealed.push_back((self.head.sequence, self.head_last_index));
        self.head = Segment::create(&*self.disk, blank, &mut first)?;
        self.assert_chain();
        Ok(())
    }

    /// The next segment has at least `len` bytes, and no fewer than any other.
    fn take_space(&mut self, len: u32) -> Result<(), StorageError> {
        let len = len.max(self.segment_len);
        match &mut self.next {
            Some(blank) => blank.extend(&*self.disk, len),
            None => {
                self.next = Some(Blank::reserve(&*self.disk, self.head.sequence + 1, len)?);
                Ok(())
            }
        }
    }

    fn assert_chain(&self) {
        let sequences = || self.sealed.iter().map(|(sequence, _)| *sequence);
        let newest = sequences().next_back();
        assert!(newest.is_none_or(|newest| newest + 1 == self.head.sequence), "the head follows the newest");
        debug_assert!(
            sequences().zip(sequences().skip(1)).all(|(older, newer)| older + 1 == newer),
            "no segment of the chain is missing: {:?}",
            self.sealed
        );
    }

    /// Bytes that are read for entry `index`.
    #[cfg(test)]
    fn stretch(&self, index: u64) -> u32 {
        let stretch = self.places.lock().find(index).expect("it is there");
        stretch.end - stretch.start
    }

    /// Reads what is on the disk, while more is written.
    pub(crate) fn reader(&self) -> WalReader {
        WalReader::new(self.disk.clone(), self.places.clone())
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

/// The segments on the disk, in order. The file of a segment that did not get its name is left: it
/// becomes the next segment.
pub(super) fn sequences(disk: &dyn Disk) -> Result<Vec<u32>, StorageError> {
    let mut sequences = Vec::new();
    for name in disk.list().map_err(io_error("list", disk.path()))? {
        let path = disk.path().join(&name);
        if name.extension().is_none_or(|extension| extension != "wal") {
            continue;
        }
        let stem = name.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let sequence = u32::from_str_radix(stem, 16).map_err(|_| StorageError::Foreign {
            path,
            detail: "it is not a log segment of retcd; is this the data directory of another server?"
                .to_owned(),
        })?;
        sequences.push(sequence);
    }
    sequences.sort_unstable();
    Ok(sequences)
}

/// Applies the records of one segment to `recovered`. Returns where its frames end, and whether
/// it was sealed.
fn replay(
    disk: &dyn Disk,
    sequence: u32,
    is_last: bool,
    recovered: &mut Recovered,
    places: &mut Places,
) -> Result<(u32, bool), StorageError> {
    let path = &disk.path().join(file_name(sequence));
    let file = Bytes::from(read_written(disk, sequence)?);
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
                    let applied = recovered.apply(record, sequence, &file);
                    applied.map_err(|detail| damaged(path, offset as u32, detail))?;
                }
                assert!(next > offset, "each frame that is read brings the reader further");
                offset = next;
            }
            Found::End => break,
            Found::Torn if is_last && !frame::frame_follows(&file, sequence, offset + 8) => {
                recovered.repaired = Some((path.clone(), offset as u32));
                break;
            }
            Found::Torn | Found::Damaged => {
                return Err(damaged(path, offset as u32, "the bytes there are not what was written"));
            }
        }
    }
    Ok((offset as u32, is_sealed))
}

impl Recovered {
    /// The record is from `file`, which the segment is read into.
    fn apply(&mut self, record: Record, sequence: u32, file: &Bytes) -> Result<(), &'static str> {
        match record {
            Record::HardState(state) => self.hard_state = Some(state),
            Record::Entry { at, kind, payload } => {
                if self.entries.last().is_some_and(|last| last.at.index + 1 != at.index) {
                    return Err("an entry is missing before this one");
                }
                if self.entries.last().is_some_and(|last| last.at.term > at.term) {
                    return Err("the term of this entry is lower than the term of the entry before it");
                }
                let offset = frame::offset_in(file, &payload) as u32;
                self.entries.push(FoundEntry { at, kind, payload, sequence, offset });
            }
            Record::Truncate { last } => {
                let keep = last.map_or(0, |last| last.index);
                self.entries.retain(|entry| last.is_some() && entry.at.index <= keep);
            }
            Record::Purge { upto } => {
                self.purged = self.purged.max(Some(upto));
                self.entries.retain(|entry| entry.at.index > upto.index);
            }
            Record::Committed { at } => self.committed = Some(at),
            Record::Seal => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
