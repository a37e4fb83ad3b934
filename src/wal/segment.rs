//! One file of the log.
//!
//! A segment is preallocated, so that a write changes no metadata and `fdatasync` costs one
//! write; what has not been written reads as zeros. Its name is its sequence number. The file gets
//! that name only after its first frame is on the disk. Before that the file is a [`Blank`]: its space
//! is reserved while the segment before it is written to, so that a full disk is known early.

use std::path::{Path, PathBuf};

use super::frame::{self, FrameBuffer, HEADER_LEN, SECTOR};
use crate::{
    disk::{self, Disk, DiskFile},
    storage::{StorageError, io_error},
};

/// Bytes of a segment. A frame never spans two.
pub(crate) const SEGMENT_LEN: u32 = 64 * 1024 * 1024;
/// Kept free at the end for the seal.
const SEAL_ROOM: u32 = 64;

const _: () = assert!(SEAL_ROOM as usize >= (HEADER_LEN + 1).next_multiple_of(8), "a seal fits");
const _: () = assert!((SEGMENT_LEN as usize).is_multiple_of(SECTOR), "a segment is whole sectors");
const _: () = assert!(SEGMENT_LEN > SEAL_ROOM, "a segment has room for more than its seal");

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    /// For messages.
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Where the next frame goes.
    end: u32,
    /// Bytes reserved.
    len: u32,
    is_sealed: bool,
}

/// A file whose space is reserved, and which is not a part of the log yet.
#[derive(Debug)]
pub(crate) struct Blank {
    sequence: u32,
    file: Box<dyn DiskFile>,
    len: u32,
}

impl Blank {
    /// Reserves `len` bytes for the segment `sequence`. The log is unchanged, also after an error.
    pub(crate) fn reserve(disk: &dyn Disk, sequence: u32, len: u32) -> Result<Blank, StorageError> {
        assert!(sequence > 0, "segments are counted from 1");
        let draft = draft_name(sequence);
        let path = disk.path().join(&draft);
        let file = match disk.create(&draft) {
            Err(error) if disk::is_full(&error) => return Err(no_space(&path)),
            file => file.map_err(io_error("create", &path))?,
        };
        match file.reserve(u64::from(len)) {
            Err(error) if disk::is_full(&error) => {
                // A part of the space may have been taken.
                let _ = disk.remove(&draft);
                Err(no_space(&path))
            }
            reserved => {
                reserved.map_err(io_error("reserve space for", &path))?;
                Ok(Blank { sequence, file, len })
            }
        }
    }

    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Has at least `len` bytes afterwards.
    pub(crate) fn extend(&mut self, disk: &dyn Disk, len: u32) -> Result<(), StorageError> {
        if len > self.len {
            let path = disk.path().join(draft_name(self.sequence));
            match self.file.reserve(u64::from(len)) {
                Err(error) if disk::is_full(&error) => return Err(no_space(&path)),
                reserved => reserved.map_err(io_error("reserve space for", &path))?,
            }
            self.len = len;
        }
        Ok(())
    }
}

fn draft_name(sequence: u32) -> PathBuf {
    file_name(sequence).with_extension("new")
}

fn no_space(path: &Path) -> StorageError {
    StorageError::NoSpace { what: "a segment of the log", path: path.to_owned() }
}

pub(crate) fn file_name(sequence: u32) -> PathBuf {
    format!("{sequence:08x}.wal").into()
}

/// Says that a file of the log is not what was written.
pub(crate) fn damaged(path: &Path, offset: u32, detail: &str) -> StorageError {
    StorageError::Corrupted {
        path: path.to_owned(),
        detail: format!(
            "at byte {offset}: {detail}. Nothing was changed. Restore this member from a backup, or remove it \
             from the cluster and add it again with an empty data directory"
        ),
    }
}

impl Segment {
    /// A new segment that begins with `first`, durable under its name when this returns.
    pub(crate) fn create(
        disk: &dyn Disk,
        Blank { sequence, file, len }: Blank,
        first: &mut FrameBuffer,
    ) -> Result<Segment, StorageError> {
        let (name, draft) = (file_name(sequence), draft_name(sequence));
        let (path, draft_path) = (disk.path().join(&name), disk.path().join(&draft));
        let mut segment = Segment { sequence, path, file, end: 0, len, is_sealed: false };
        segment.write(first)?;
        assert!(segment.end <= len, "the first frame fits the space that was reserved");
        assert!(segment.end > 0, "a segment has a frame before it has its name");
        segment.file.sync_all().map_err(io_error("sync", &draft_path))?;
        disk.rename(&draft, &name).map_err(io_error("rename", &draft_path))?;
        disk.sync().map_err(io_error("sync", disk.path()))?;
        Ok(segment)
    }

    /// An existing segment whose frames end at `end`, and that is not sealed.
    pub(crate) fn reopen(
        disk: &dyn Disk,
        sequence: u32,
        end: u32,
        len: u32,
    ) -> Result<Segment, StorageError> {
        assert!(end >= HEADER_LEN as u32, "a segment that has its name has its first frame");
        let name = file_name(sequence);
        let path = disk.path().join(&name);
        let file = disk.open(&name).map_err(io_error("open", &path))?;
        Ok(Segment { sequence, path, file, end, len, is_sealed: false })
    }

    /// How long the longest frame is that may be written to it.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.len).saturating_sub(u64::from(self.end) + u64::from(SEAL_ROOM))
    }

    /// How long a segment is that has room for frames of so many bytes.
    pub(crate) fn len_for(frames_len: usize) -> u32 {
        u32::try_from(frames_len)
            .ok()
            .and_then(|len| len.checked_add(SEAL_ROOM))
            .expect("frames are below 4 GiB")
    }

    /// Writes a frame; it is durable only after [`Segment::sync`]. Returns its offset.
    pub(crate) fn write(&mut self, buffer: &mut FrameBuffer) -> Result<u32, StorageError> {
        assert!(!self.is_sealed, "segment {} is written to behind its seal", self.sequence);
        let offset = self.end;
        let bytes = buffer.seal(frame::position(self.sequence, offset));
        let len = u32::try_from(bytes.len()).expect("a frame is far below 4 GiB");
        let end = offset.checked_add(len).expect("the end of a frame fits its position");
        self.file.write_at(bytes, u64::from(offset)).map_err(io_error("write", &self.path))?;
        self.end = end;
        Ok(offset)
    }

    /// Where the next frame goes.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(io_error("sync", &self.path))
    }

    /// Makes everything from the segment's end on read as zeros again.
    pub(crate) fn erase_tail(&self) -> Result<(), StorageError> {
        assert!(!self.is_sealed, "a sealed segment has no tail");
        self.file.set_len(u64::from(self.end)).map_err(io_error("truncate", &self.path))?;
        self.file.reserve(u64::from(self.len)).map_err(io_error("reserve space for", &self.path))?;
        self.file.sync_all().map_err(io_error("sync", &self.path))
    }

    /// Ends the segment: nothing is written to it from now on, and the space that it did not use is
    /// given back. If a crash comes before that, the next start gives the space back; until then
    /// readers stop where the frames end.
    pub(crate) fn seal(&mut self) -> Result<(), StorageError> {
        let mut buffer = FrameBuffer::new();
        buffer.push(&super::Record::Seal);
        assert!(buffer.len() <= SEAL_ROOM as usize, "the seal fits the space that is kept for it");
        self.write(&mut buffer)?;
        self.sync()?;
        self.is_sealed = true;
        self.file.set_len(u64::from(self.end)).map_err(io_error("truncate", &self.path))
    }
}

/// Gives back what a sealed segment whose frames end at `end` did not use, if a crash came between
/// the seal and that.
pub(crate) fn cut_behind_seal(disk: &dyn Disk, sequence: u32, end: u32) -> Result<(), StorageError> {
    assert!(end > 0, "a sealed segment has at least its seal");
    let name = file_name(sequence);
    let path = disk.path().join(&name);
    let file = disk.open(&name).map_err(io_error("open", &path))?;
    let len = file.len().map_err(io_error("stat", &path))?;
    if len > u64::from(end) {
        file.set_len(u64::from(end)).map_err(io_error("truncate", &path))?;
    }
    Ok(())
}

/// What has ever been written to a segment: everything up to its last stretch of data. The rest
/// is reserved, reads as zeros, and need not be read to know that.
pub(crate) fn read_written(disk: &dyn Disk, sequence: u32) -> Result<Vec<u8>, StorageError> {
    let name = file_name(sequence);
    let path = disk.path().join(&name);
    let file = disk.open_to_read(&name).map_err(io_error("open", &path))?;
    let written = file.data_len().map_err(io_error("stat", &path))?;
    let mut bytes = vec![0; written as usize];
    file.read_at(&mut bytes, 0).map_err(io_error("read", &path))?;
    Ok(bytes)
}
