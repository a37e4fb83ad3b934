//! One frame, to the byte (little-endian throughout):
//!
//! ```text
//! 0   magic         u16   0x5752
//! 2   zero_sectors  u16   sectors of the payload that are meant to be all zero
//! 4   payload_len   u32
//! 8   position      u64   segment sequence << 32 | offset in the file
//! 16  payload_crc   u32   crc32c of the payload
//! 20  header_crc    u32   crc32c of the 20 bytes before
//! 24  payload             records, one after the other; zero-padded to a multiple of 8
//! ```
//!
//! A record is a kind byte and its fields; see [`Record`]. `position` makes a frame valid in one
//! place only. `zero_sectors` lets recovery tell a sector that never reached the disk (it reads
//! as zeros, for segments are preallocated) from one that was written as zeros.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};

use super::places::Reach;
use crate::types::{ValuePlace, Whereabouts};

pub(crate) const HEADER_LEN: usize = 24;
const MAGIC: u16 = 0x5752;
const HEADER_CRC_AT: usize = 20;
/// What a disk writes or does not write as a whole.
pub(crate) const SECTOR: usize = 512;
pub(super) const ALIGN: usize = 8;

const _: () = assert!(HEADER_CRC_AT + size_of::<u32>() == HEADER_LEN, "the header ends with its checksum");
const _: () = assert!(
    HEADER_LEN.is_multiple_of(ALIGN) && SECTOR.is_multiple_of(ALIGN),
    "no frame begins askew in a sector"
);
const _: () = assert!(HEADER_LEN <= SECTOR, "a header is in two sectors at most");

/// Where an entry stands in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogPosition {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// The vote of a member: its term, its candidate, and whether that candidate has become leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) term: u64,
    pub(crate) voted_for: u64,
    pub(crate) committed: bool,
}

/// What the bytes of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// Nothing: a new leader's first entry.
    Blank,
    /// An encoded batch of commands.
    Batch,
    /// An encoded membership.
    Membership,
    /// An encoded batch behind the sixteen bytes that say whose it is.
    TaggedBatch,
}

impl EntryKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            EntryKind::Blank => 0,
            EntryKind::Batch => 1,
            EntryKind::Membership => 2,
            EntryKind::TaggedBatch => 3,
        }
    }

    /// `None` if a later version knows what it is.
    pub(crate) fn from_code(code: u8) -> Option<EntryKind> {
        Some(match code {
            0 => EntryKind::Blank,
            1 => EntryKind::Batch,
            2 => EntryKind::Membership,
            3 => EntryKind::TaggedBatch,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    HardState(HardState),
    Entry {
        at: LogPosition,
        kind: EntryKind,
        payload: Bytes,
    },
    /// Entries after this one are void.
    Truncate {
        last: Option<LogPosition>,
    },
    /// Entries up to this one are gone.
    Purge {
        upto: LogPosition,
    },
    Committed {
        at: LogPosition,
    },
    /// The last record of a segment that has a successor.
    Seal,
}

const KIND_HARD_STATE: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_PURGE: u8 = 4;
const KIND_COMMITTED: u8 = 5;
const KIND_SEAL: u8 = 6;

/// An entry that was read back, and where its payload begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundEntry {
    pub(crate) at: LogPosition,
    pub(crate) kind: EntryKind,
    pub(crate) payload: Bytes,
    /// Of the segment.
    pub(crate) sequence: u32,
    /// In the file of the segment.
    pub(crate) offset: u32,
}

/// A frame under construction. Its allocation is kept from one frame to the next.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    reach: Reach,
    /// Values in it whose places somebody wants to know, and where they stand.
    values: Vec<(Range<usize>, Whereabouts)>,
}

impl FrameBuffer {
    pub(crate) fn new() -> FrameBuffer {
        FrameBuffer { bytes: vec![0; HEADER_LEN], reach: Reach::default(), values: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(HEADER_LEN);
        // Otherwise the buffer of one huge batch would keep its memory until the process ends.
        self.bytes.shrink_to(1024 * 1024);
        self.reach = Reach::default();
        self.values.clear();
    }

    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// The room that the frame takes in the file.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().next_multiple_of(ALIGN)
    }

    /// Adds the records of another frame, which is empty afterwards.
    pub(crate) fn absorb(&mut self, other: &mut FrameBuffer) {
        assert!(other.bytes.len() >= HEADER_LEN, "a frame begins with space for its header");
        let shift = self.bytes.len() - HEADER_LEN;
        let len = shift + other.bytes.len();
        let values = other.values.drain(..);
        self.values.extend(values.map(|(span, found)| (span.start + shift..span.end + shift, found)));
        self.bytes.extend_from_slice(&other.bytes[HEADER_LEN..]);
        assert_eq!(self.bytes.len(), len, "no record is lost when frames are joined");
        self.reach.absorb(other.reach);
        other.clear();
    }

    pub(crate) fn push(&mut self, record: &Record) {
        match record {
            Record::HardState(state) => {
                self.bytes.put_u8(KIND_HARD_STATE);
                self.bytes.put_u64_le(state.term);
                self.bytes.put_u64_le(state.voted_for);
                self.bytes.put_u8(u8::from(state.committed));
            }
            Record::Entry { at, kind, payload } => {
                self.push_entry(*at, *kind, |bytes| bytes.extend_from_slice(payload));
            }
            Record::Truncate { last } => {
                self.bytes.put_u8(KIND_TRUNCATE);
                self.bytes.put_u8(u8::from(last.is_some()));
                self.put_position(last.unwrap_or_default());
                self.reach.to(first_after(*last));
            }
            Record::Purge { upto } => {
                self.bytes.put_u8(KIND_PURGE);
                self.put_position(*upto);
            }
            Record::Committed { at } => {
                self.bytes.put_u8(KIND_COMMITTED);
                self.put_position(*at);
            }
            Record::Seal => self.bytes.put_u8(KIND_SEAL),
        }
    }

    /// Adds an entry whose payload `encode` appends in place. Returns where in the frame the
    /// payload begins.
    pub(crate) fn push_entry(
        &mut self,
        at: LogPosition,
        kind: EntryKind,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        self.reach.to(at.index);
        self.bytes.put_u8(KIND_ENTRY);
        self.put_position(at);
        self.bytes.put_u8(kind.code());
        let len_at = self.bytes.len();
        self.bytes.put_u32_le(0);
        encode(&mut self.bytes);
        let len =
            u32::try_from(self.bytes.len() - len_at - 4).expect("an entry is bounded by the request size");
        self.bytes[len_at..len_at + 4].copy_from_slice(&len.to_le_bytes());
        len_at + 4
    }

    /// What was added from a place in the frame on.
    pub(crate) fn added_from(&self, start: usize) -> &[u8] {
        &self.bytes[start..]
    }

    /// Once the frame is on the disk, `found` is told where the value is that stands there in the frame.
    pub(crate) fn tell_place(&mut self, value: Range<usize>, found: Whereabouts) {
        assert!(HEADER_LEN <= value.start && value.end <= self.bytes.len(), "the value is in the frame");
        self.values.push((value, found));
    }

    /// The frame is on the disk, at `offset` of a segment.
    pub(super) fn tell_places(&mut self, sequence: u32, offset: u32) {
        for (value, found) in self.values.drain(..) {
            let len = u32::try_from(value.len()).expect("a value is smaller than a frame");
            let place = ValuePlace { file: sequence, offset: offset + value.start as u32, len };
            found.found(place);
        }
    }

    fn put_position(&mut self, at: LogPosition) {
        self.bytes.put_u64_le(at.term);
        self.bytes.put_u64_le(at.index);
    }

    /// Fills in the header for a place in the log and gives the bytes to write.
    pub(crate) fn seal(&mut self, position: u64) -> &[u8] {
        assert_eq!(offset_of(position) % ALIGN, 0, "a frame begins where the one before it was padded to");
        let payload_len = self.bytes.len() - HEADER_LEN;
        self.bytes.resize(self.len(), 0);
        let payload = &self.bytes[HEADER_LEN..HEADER_LEN + payload_len];
        let payload_crc = crc32c::crc32c(payload);
        let zero_sectors = count_zero_sectors(&self.bytes, offset_of(position));
        let mut header = &mut self.bytes[..HEADER_LEN];
        header.put_u16_le(MAGIC);
        header.put_u16_le(zero_sectors);
        header.put_u32_le(u32::try_from(payload_len).expect("a frame is far below 4 GiB"));
        header.put_u64_le(position);
        header.put_u32_le(payload_crc);
        let header_crc = crc32c::crc32c(&self.bytes[..HEADER_CRC_AT]);
        self.bytes[HEADER_CRC_AT..HEADER_LEN].copy_from_slice(&header_crc.to_le_bytes());
        assert_eq!(self.bytes.len() % ALIGN, 0, "a frame is padded");
        debug_assert_eq!(
            parse_header(&self.bytes[..HEADER_LEN], sequence_of(position), offset_of(position)),
            Some((payload_len, payload_crc, zero_sectors)),
            "a header that is written can be read"
        );
        &self.bytes
    }
}

pub(crate) fn position(sequence: u32, offset: u32) -> u64 {
    u64::from(sequence) << 32 | u64::from(offset)
}

fn sequence_of(position: u64) -> u32 {
    (position >> 32) as u32
}

fn offset_of(position: u64) -> usize {
    (position & u64::from(u32::MAX)) as usize
}

/// Whole, sector-aligned (in the file) stretches of the frame behind its header that are zero.
pub(crate) fn count_zero_sectors(frame: &[u8], offset: usize) -> u16 {
    let first = (offset + HEADER_LEN).next_multiple_of(SECTOR) - offset;
    let Some(body) = frame.get(first..) else { return 0 };
    let zeros = body.chunks_exact(SECTOR).filter(|sector| sector.iter().all(|&byte| byte == 0)).count();
    u16::try_from(zeros).unwrap_or(u16::MAX)
}

/// What stands at one place of a segment.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// A frame whose payload lies at `payload` in the file, and where the next one begins.
    Frame {
        payload: Range<usize>,
        next: usize,
    },
    /// Nothing has been written from here on.
    End,
    /// A frame that never reached the disk as a whole.
    Torn,
    Damaged,
}

/// Judges `file[offset..]`.
pub(crate) fn look(file: &[u8], sequence: u32, offset: usize) -> Found {
    match look_at(&file[offset..], sequence, offset) {
        Found::Frame { payload, next } => {
            Found::Frame { payload: offset + payload.start..offset + payload.end, next: offset + next }
        }
        other => other,
    }
}

/// Judges what stands at `offset` in the file and begins with `rest`; what is found is to be found in
/// there.
pub(crate) fn look_at(rest: &[u8], sequence: u32, offset: usize) -> Found {
    let header = &rest[..rest.len().min(HEADER_LEN)];
    let Some((payload_len, payload_crc, zero_sectors)) = parse_header(header, sequence, offset) else {
        return match rest.iter().any(|&byte| byte != 0) {
            false => Found::End,
            true if header_is_missing(header, offset) => Found::Torn,
            true => Found::Damaged,
        };
    };
    let end = HEADER_LEN + payload_len;
    let padded = end.next_multiple_of(ALIGN);
    if let Some(payload) = rest.get(HEADER_LEN..end)
        && crc32c::crc32c(payload) == payload_crc
    {
        return Found::Frame { payload: HEADER_LEN..end, next: padded };
    }
    if rest.len() < end || unwritten(&rest[..padded.min(rest.len())], offset, zero_sectors) {
        Found::Torn
    } else {
        Found::Damaged
    }
}

/// Some stretch of the frame that lies in one sector still reads as it was preallocated.
fn unwritten(frame: &[u8], offset: usize, zero_sectors: u16) -> bool {
    if count_zero_sectors(frame, offset) > zero_sectors {
        return true;
    }
    // The last sector is shared with what comes behind: a long stretch of zeros where the
    // frame's tail should be means that it did not arrive.
    let tail = frame.len() - frame.len().min((offset + frame.len()) % SECTOR);
    let tail = &frame[tail.max(HEADER_LEN).min(frame.len())..];
    tail.len() >= 32 && tail.iter().all(|&byte| byte == 0)
}

/// A header that is zero up to a sector's end did not arrive; its sector holds nothing else new.
fn header_is_missing(header: &[u8], offset: usize) -> bool {
    if header.len() < HEADER_LEN {
        return true;
    }
    let in_first_sector = (SECTOR - offset % SECTOR).min(header.len());
    let (first, second) = header.split_at(in_first_sector);
    first.iter().all(|&byte| byte == 0) || (!second.is_empty() && second.iter().all(|&byte| byte == 0))
}

fn parse_header(mut header: &[u8], sequence: u32, offset: usize) -> Option<(usize, u32, u16)> {
    let bytes = header;
    if bytes.len() < HEADER_LEN || header.get_u16_le() != MAGIC {
        return None;
    }
    let zero_sectors = header.get_u16_le();
    let payload_len = header.get_u32_le() as usize;
    let at = header.get_u64_le();
    let payload_crc = header.get_u32_le();
    let header_crc = header.get_u32_le();
    let here = position(sequence, u32::try_from(offset).ok()?);
    (header_crc == crc32c::crc32c(&bytes[..HEADER_CRC_AT]) && at == here).then_some((
        payload_len,
        payload_crc,
        zero_sectors,
    ))
}

/// True if a frame that was written whole begins anywhere in `file[from..]`.
pub(crate) fn frame_follows(file: &[u8], sequence: u32, from: usize) -> bool {
    (from.next_multiple_of(ALIGN)..file.len().saturating_sub(HEADER_LEN))
        .step_by(ALIGN)
        .any(|offset| file[offset] != 0 && matches!(look(file, sequence, offset), Found::Frame { .. }))
}

/// What a frame with these records does to the log.
pub(crate) fn reach(records: &[Record]) -> Reach {
    let mut reach = Reach::default();
    for record in records {
        match record {
            Record::Entry { at, .. } => reach.to(at.index),
            Record::Truncate { last } => reach.to(first_after(*last)),
            Record::HardState(_) | Record::Purge { .. } | Record::Committed { .. } | Record::Seal => {}
        }
    }
    reach
}

fn first_after(last: Option<LogPosition>) -> u64 {
    last.map_or(0, |last| last.index + 1)
}

/// Where in `whole` its part begins.
pub(super) fn offset_in(whole: &Bytes, part: &Bytes) -> usize {
    if part.is_empty() {
        return 0;
    }
    let offset = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize);
    let offset = offset.filter(|offset| offset + part.len() <= whole.len());
    offset.expect("it is a slice of the whole")
}

/// The records of a frame's payload. `None` if they cannot be what this version wrote.
pub(crate) fn records(mut payload: Bytes) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while payload.has_remaining() {
        records.push(record(&mut payload)?);
    }
    Some(records)
}

fn record(payload: &mut Bytes) -> Option<Record> {
    Some(match payload.try_get_u8().ok()? {
        KIND_HARD_STATE => Record::HardState(HardState {
            term: payload.try_get_u64_le().ok()?,
            voted_for: payload.try_get_u64_le().ok()?,
            committed: payload.try_get_u8().ok()? == 1,
        }),
        KIND_ENTRY => {
            let at = get_position(payload)?;
            let kind = EntryKind::from_code(payload.try_get_u8().ok()?)?;
            let len = payload.try_get_u32_le().ok()? as usize;
            if len > payload.len() {
                return None;
            }
            Record::Entry { at, kind, payload: payload.split_to(len) }
        }
        KIND_TRUNCATE => {
            let some = payload.try_get_u8().ok()? == 1;
            let last = get_position(payload)?;
            Record::Truncate { last: some.then_some(last) }
        }
        KIND_PURGE => Record::Purge { upto: get_position(payload)? },
        KIND_COMMITTED => Record::Committed { at: get_position(payload)? },
        KIND_SEAL => Record::Seal,
        _ => return None,
    })
}

fn get_position(payload: &mut Bytes) -> Option<LogPosition> {
    let at = LogPosition { term: payload.try_get_u64_le().ok()?, index: payload.try_get_u64_le().ok()? };
    // There is always an entry after it.
    (at.index < u64::MAX).then_some(at)
}
