//! The write-ahead log of an etcd that does not run.
//!
//! ```text
//! <sequence>-<first index>.wal      records, one after the other; zeros behind the last
//! record    length u64, little-endian (the highest byte: how much padding follows) | walpb.Record | padding
//! ```
//!
//! The CRC32C of a record covers the data of all records before it, also of those in earlier files: each file begins with
//! a record that has the CRC at the end of the one before. An entry replaces an earlier one with its index, and all
//! entries after that one. Only the end of the last file may be incomplete: what was being written when the
//! process was killed, or the power failed. Every other flaw is damage.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prost::{Message, encoding::decode_varint};
use thiserror::Error;

use super::{
    image::LogPlace,
    internal::{Entry, HardState, WalMetadata, WalRecord, WalSnapshot},
};
use crate::{
    disk::{Disk, DiskFile},
    limits,
    types::{ClusterId, MemberId},
};

const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const STATE: i64 = 3;
const CRC: i64 = 4;
const SNAPSHOT: i64 = 5;

const LENGTH_BYTES: u64 = 8;
/// A disk writes whole sectors.
const SECTOR_BYTES: u64 = 512;
/// Read at once.
const WINDOW_BYTES: usize = 256 * 1024;

#[derive(Debug, Error)]
pub(crate) enum WalError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is damaged at byte {offset}: {flaw}", path.display())]
    Damaged { path: PathBuf, offset: u64, flaw: WalFlaw },
    #[error("files of the log are missing before {}", path.display())]
    Missing { path: PathBuf },
    /// The database does not have what comes before the log.
    #[error("the log in {} begins with entry {first}, and the database ends with entry {after}", path.display())]
    Gap { path: PathBuf, first: u64, after: u64 },
    #[error(
        "the log in {} ends with entry {last}, and the database with entry {after}: files are missing, or were cut off",
        path.display()
    )]
    Short { path: PathBuf, last: u64, after: u64 },
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum WalFlaw {
    #[error("a record is longer than the rest of the file")]
    CutShort,
    #[error("a record of {0} bytes is longer than any that retcd reads")]
    TooLarge(u64),
    #[error("a record cannot be decoded")]
    Malformed,
    #[error("the checksum does not match")]
    Checksum,
    #[error("a record of the unknown kind {0}")]
    Kind(i64),
    #[error("entry {found} follows entry {last}")]
    Order { last: u64, found: u64 },
}

/// The files of a log.
pub(crate) struct EtcdWal {
    disk: Arc<dyn Disk>,
    segments: Vec<Segment>,
}

struct Segment {
    name: PathBuf,
    file: Box<dyn DiskFile>,
    len: u64,
}

/// What a log has beyond some entry.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    entries: Vec<Place>,
    /// The last entry that this member knew to be committed.
    pub(crate) commit: u64,
    /// The last entry of the log, if there is one beyond.
    pub(crate) last: Option<LogPlace>,
    snapshot: Option<LogPlace>,
    /// Whose log it is.
    pub(crate) ids: Option<(ClusterId, MemberId)>,
    /// Where the log ends with a record that was not written completely.
    pub(crate) torn: Option<(PathBuf, u64)>,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug)]
struct Place {
    index: u64,
    segment: usize,
    offset: u64,
    length: u64,
}

impl Tail {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries that this member did not know to be committed.
    pub(crate) fn uncommitted(&self) -> usize {
        self.entries.iter().filter(|place| place.index > self.commit).count()
    }
}

impl EtcdWal {
    /// `None` if the directory has no log of etcd.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Option<EtcdWal>, WalError> {
        let error = |path: &Path| {
            let path = disk.path().join(path);
            move |source| WalError::Io { path, source }
        };
        let mut names = disk.list().map_err(error(Path::new("")))?;
        names.retain(|name| sequence(name).is_some());
        names.sort();
        let mut segments: Vec<Segment> = Vec::new();
        for name in names {
            if let Some(before) = segments.last()
                && sequence(&before.name).map(|number| number + 1) != sequence(&name)
            {
                return Err(WalError::Missing { path: disk.path().join(name) });
            }
            let file = disk.open_to_read(&name).map_err(error(&name))?;
            let len = file.len().map_err(error(&name))?;
            segments.push(Segment { name, file, len });
        }
        Ok((!segments.is_empty()).then_some(EtcdWal { disk, segments }))
    }

    /// The last entry of the newest snapshot that the member has made or received.
    pub(crate) fn newest_snapshot(&self) -> Result<Option<LogPlace>, WalError> {
        Ok(self.tail(u64::MAX)?.snapshot)
    }

    /// Reads the whole log, and notes where the entries after entry `after` are.
    pub(crate) fn tail(&self, after: u64) -> Result<Tail, WalError> {
        let mut scan =
            Scan { wal: self, after, tail: Tail::default(), snapshots: Vec::new(), ends_with: 0, crc: 0 };
        for at in 0..self.segments.len() {
            scan.read(at)?;
        }
        scan.finish()
    }

    /// The entries of a tail, in order.
    pub(super) fn entries(&self, tail: &Tail) -> impl Iterator<Item = Result<Entry, WalError>> {
        tail.entries.iter().map(|place| self.entry(place))
    }

    fn entry(&self, place: &Place) -> Result<Entry, WalError> {
        let Place { segment, offset, length, .. } = *place;
        let mut frame = vec![0; usize::try_from(length).expect("a record that was read before")];
        let read = self.segments[segment].file.read_at(&mut frame, offset);
        read.map_err(|source| self.io_error(segment, source))?;
        // Padding is not part of the record.
        let (bytes, _) = lengths(&frame).unwrap_or_default();
        let end = usize::try_from(LENGTH_BYTES + bytes).unwrap_or(usize::MAX).min(frame.len());
        let record = WalRecord::decode(Bytes::from(frame).slice(LENGTH_BYTES as usize..end));
        let entry = record.and_then(|record| Entry::decode(record.data));
        entry.map_err(|_| self.damaged(segment, offset, WalFlaw::Malformed))
    }

    fn path(&self, segment: usize) -> PathBuf {
        self.disk.path().join(&self.segments[segment].name)
    }

    fn io_error(&self, segment: usize, source: io::Error) -> WalError {
        WalError::Io { path: self.path(segment), source }
    }

    fn damaged(&self, segment: usize, offset: u64, flaw: WalFlaw) -> WalError {
        WalError::Damaged { path: self.path(segment), offset, flaw }
    }
}

/// A log that is being read from its beginning.
struct Scan<'w> {
    wal: &'w EtcdWal,
    after: u64,
    tail: Tail,
    snapshots: Vec<LogPlace>,
    /// The last entry of the log so far, whether it is beyond `after` or not.
    ends_with: u64,
    /// Of the data of all records so far.
    crc: u32,
}

impl Scan<'_> {
    /// Reads one file to its end.
    fn read(&mut self, at: usize) -> Result<(), WalError> {
        let wal = self.wal;
        let segment = &wal.segments[at];
        let io_error = |source| wal.io_error(at, source);
        let mut frames = Frames::of(segment);
        loop {
            let offset = frames.offset;
            let (record, body) = match frames.next().map_err(io_error)? {
                Frame::End => return Ok(()),
                Frame::TooLong => {
                    // A file without space that was taken ahead may end in the middle of a record.
                    let may_be_torn = ends_in_data(segment).map_err(io_error)?;
                    return self.end(at, offset, WalFlaw::CutShort, may_be_torn);
                }
                Frame::TooLarge(bytes) => return Err(wal.damaged(at, offset, WalFlaw::TooLarge(bytes))),
                Frame::Record(record, body) => (record, body),
            };
            let crc = self.crc;
            match self.check(record) {
                Ok(record) => {
                    let place = Place { index: 0, segment: at, offset, length: frames.offset - offset };
                    self.note(record, place)?;
                }
                Err(flaw) => {
                    // Of a record that is whole, and only said to be longer, the length is damaged.
                    let may_be_torn =
                        is_torn(&body, offset + LENGTH_BYTES) && !begins_with_record(&body, crc);
                    return self.end(at, offset, flaw, may_be_torn);
                }
            }
        }
    }

    /// The log ends before a record that cannot be read, or is damaged.
    fn end(&mut self, at: usize, offset: u64, flaw: WalFlaw, may_be_torn: bool) -> Result<(), WalError> {
        let is_last = at + 1 == self.wal.segments.len();
        if !is_last || !may_be_torn {
            return Err(self.wal.damaged(at, offset, flaw));
        }
        self.tail.torn = Some((self.wal.path(at), offset));
        Ok(())
    }

    fn check(&mut self, record: Option<WalRecord>) -> Result<WalRecord, WalFlaw> {
        let record = record.ok_or(WalFlaw::Malformed)?;
        if record.kind == CRC {
            // Whatever comes before the first file was deleted.
            let is_next = self.crc == 0 || self.crc == record.crc;
            self.crc = record.crc;
            return if is_next { Ok(record) } else { Err(WalFlaw::Checksum) };
        }
        self.crc = crc32c::crc32c_append(self.crc, &record.data);
        if self.crc == record.crc { Ok(record) } else { Err(WalFlaw::Checksum) }
    }

    fn note(&mut self, record: WalRecord, place: Place) -> Result<(), WalError> {
        let (wal, Place { segment, offset, .. }) = (self.wal, place);
        let malformed = |_| wal.damaged(segment, offset, WalFlaw::Malformed);
        match record.kind {
            CRC => {}
            METADATA => {
                // Its checksum matches. Only --keep-membership needs to know whose log it is.
                let metadata = WalMetadata::decode(record.data).ok();
                let ids = |metadata: WalMetadata| (ClusterId(metadata.cluster), MemberId(metadata.member));
                self.tail.ids = metadata.map(ids);
            }
            STATE => self.tail.commit = HardState::decode(record.data).map_err(malformed)?.commit,
            SNAPSHOT => {
                let WalSnapshot { index, term } = WalSnapshot::decode(record.data).map_err(malformed)?;
                self.snapshots.push(LogPlace { term, index });
            }
            ENTRY => {
                let Entry { index, term, .. } = Entry::decode(record.data).map_err(malformed)?;
                self.note_entry(Place { index, ..place }, term)?;
            }
            other => return Err(self.wal.damaged(segment, offset, WalFlaw::Kind(other))),
        }
        Ok(())
    }

    /// An entry that replaces others takes them out.
    fn note_entry(&mut self, place: Place, term: u64) -> Result<(), WalError> {
        let (index, after) = (place.index, self.after);
        self.ends_with = index;
        if index <= after {
            return Ok(());
        }
        let entries = &mut self.tail.entries;
        let kept = usize::try_from(index - after - 1).unwrap_or(usize::MAX);
        if kept > entries.len() {
            return Err(match entries.last() {
                None => WalError::Gap { path: self.wal.disk.path().to_owned(), first: index, after },
                Some(last) => {
                    let flaw = WalFlaw::Order { last: last.index, found: index };
                    self.wal.damaged(place.segment, place.offset, flaw)
                }
            });
        }
        entries.truncate(kept);
        entries.push(place);
        self.tail.last = Some(LogPlace { term, index });
        Ok(())
    }

    fn finish(self) -> Result<Tail, WalError> {
        let Scan { wal, after, mut tail, snapshots, ends_with, .. } = self;
        // A log begins with a snapshot of nothing, or of the state that it begins behind.
        let begins_behind = snapshots.iter().map(|snapshot| snapshot.index).max().unwrap_or_default();
        let last = ends_with.max(begins_behind);
        if after != u64::MAX && last < after {
            return Err(WalError::Short { path: wal.disk.path().to_owned(), last, after });
        }
        let known = snapshots.into_iter().filter(|snapshot| snapshot.index <= tail.commit);
        tail.snapshot = known.max_by_key(|snapshot| snapshot.index);
        Ok(tail)
    }
}

/// Whether a file ends with something else than space that was taken ahead.
fn ends_in_data(segment: &Segment) -> io::Result<bool> {
    let length = segment.len.min(SECTOR_BYTES);
    let mut end = [0; SECTOR_BYTES as usize];
    let end = &mut end[..length as usize];
    segment.file.read_at(end, segment.len - length)?;
    Ok(end.iter().any(|byte| *byte != 0))
}

/// The number of a file of the log; `None` for a file that is none.
fn sequence(name: &Path) -> Option<u64> {
    let (sequence, index) = name.to_str()?.strip_suffix(".wal")?.split_once('-')?;
    let number = |hex: &str| u64::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 16);
    number(index).and(number(sequence))
}

/// The lengths of a record and of its padding.
fn lengths(frame: &[u8]) -> Option<(u64, u64)> {
    let length = u64::from_le_bytes(*frame.first_chunk()?);
    let padding = if length >> 63 == 1 { length >> 56 & 7 } else { 0 };
    Some((length & ((1 << 56) - 1), padding))
}

/// Whether a sector of a record was never written. `offset` is that of the record.
fn is_torn(record: &[u8], offset: u64) -> bool {
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES) as usize;
    let (head, rest) = record.split_at(first.min(record.len()));
    let mut sectors = [head].into_iter().chain(rest.chunks(SECTOR_BYTES as usize));
    sectors.any(|sector| !sector.is_empty() && sector.iter().all(|byte| *byte == 0))
}

/// Whether there is a whole record before the end of `record`.
fn begins_with_record(record: &[u8], crc: u32) -> bool {
    let mut rest = record;
    let mut field = |tag: u64| {
        let is_field = decode_varint(&mut rest).ok()? == tag;
        let value = decode_varint(&mut rest).ok()?;
        is_field.then_some(value)
    };
    let head = field(1 << 3).and(field(2 << 3)).zip(field(3 << 3 | 2));
    let Some((expected, length)) = head else { return false };
    let data = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    data.is_some_and(|data| u64::from(crc32c::crc32c_append(crc, data)) == expected)
}

/// The records of a file, one after the other.
struct Frames<'s> {
    segment: &'s Segment,
    offset: u64,
    /// What was read of the file, and from where.
    window: Bytes,
    window_offset: u64,
}

enum Frame {
    /// Nothing was written from here on.
    End,
    /// It does not end within the file.
    TooLong,
    TooLarge(u64),
    /// The record, if it can be decoded, and its bytes.
    Record(Option<WalRecord>, Bytes),
}

impl<'s> Frames<'s> {
    fn of(segment: &'s Segment) -> Frames<'s> {
        Frames { segment, offset: 0, window: Bytes::new(), window_offset: 0 }
    }

    fn next(&mut self) -> io::Result<Frame> {
        let left = self.segment.len - self.offset;
        if left < LENGTH_BYTES {
            return Ok(Frame::End);
        }
        let head = self.bytes(self.offset, LENGTH_BYTES as usize)?;
        let (length, padding) = lengths(&head).unwrap_or_default();
        if head.iter().all(|byte| *byte == 0) {
            return Ok(Frame::End);
        }
        if length + padding > left - LENGTH_BYTES {
            return Ok(Frame::TooLong);
        }
        if length > limits::ETCD_WAL_RECORD_BYTES_MAX {
            return Ok(Frame::TooLarge(length));
        }
        let body = self.bytes(self.offset + LENGTH_BYTES, (length + padding) as usize)?;
        self.offset += LENGTH_BYTES + length + padding;
        let record = body.slice(..length as usize);
        Ok(Frame::Record(WalRecord::decode(record.clone()).ok(), record))
    }

    /// Bytes that the file has.
    fn bytes(&mut self, offset: u64, length: usize) -> io::Result<Bytes> {
        let begin = offset.checked_sub(self.window_offset).and_then(|begin| usize::try_from(begin).ok());
        if let Some(begin) = begin
            && begin.checked_add(length).is_some_and(|end| end <= self.window.len())
        {
            return Ok(self.window.slice(begin..begin + length));
        }
        let left = usize::try_from(self.segment.len - offset).unwrap_or(usize::MAX);
        let mut window = vec![0; length.max(WINDOW_BYTES).min(left)];
        self.segment.file.read_at(&mut window, offset)?;
        (self.window, self.window_offset) = (window.into(), offset);
        Ok(self.window.slice(..length))
    }
}
