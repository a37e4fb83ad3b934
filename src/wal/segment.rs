//! One file of the log.
//!
//! A segment is preallocated, so that a write changes no metadata and `fdatasync` costs one
//! write; what has not been written reads as zeros. Its name is its sequence number. It appears
//! under that name only once its first frame is on the disk.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, SeekFrom},
    io::Errno,
};

use super::frame::{self, FrameBuffer};
use crate::storage::{Directory, StorageError};

/// Bytes of a segment. A frame never spans two.
pub(crate) const SEGMENT_LEN: u32 = 64 * 1024 * 1024;
/// Kept free at the end for the seal.
const SEAL_ROOM: u32 = 64;

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) path: PathBuf,
    file: File,
    end: u32,
}

pub(crate) fn file_name(sequence: u32) -> String {
    format!("{sequence:08x}.wal")
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { action, path, source }
}

impl Segment {
    /// A new segment that begins with `first`, durable under its name when this returns.
    pub(crate) fn create(
        dir: &Directory,
        sequence: u32,
        first: &mut FrameBuffer,
    ) -> Result<Segment, StorageError> {
        let path = dir.path().join(file_name(sequence));
        let draft = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .map_err(io_error("create", &draft))?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, u64::from(SEGMENT_LEN))
            .map_err(|error| io_error("reserve space for", &draft)(error.into()))?;
        let mut segment = Segment { sequence, path: path.clone(), file, end: 0 };
        segment.write(first)?;
        segment.file.sync_all().map_err(io_error("sync", &draft))?;
        fs::rename(&draft, &path).map_err(io_error("rename", &draft))?;
        dir.sync()?;
        Ok(segment)
    }

    /// An existing segment whose frames end at `end`.
    pub(crate) fn reopen(path: PathBuf, sequence: u32, end: u32) -> Result<Segment, StorageError> {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error("open", &path))?;
        Ok(Segment { sequence, path, file, end })
    }

    pub(crate) fn has_room_for(&self, frame_len: usize) -> bool {
        u64::from(self.end) + frame_len as u64 + u64::from(SEAL_ROOM) <= u64::from(SEGMENT_LEN)
    }

    /// Writes a frame; it is durable only after [`Segment::sync`]. Returns its offset.
    pub(crate) fn write(&mut self, buffer: &mut FrameBuffer) -> Result<u32, StorageError> {
        let offset = self.end;
        let bytes = buffer.seal(frame::position(self.sequence, offset));
        let len = u32::try_from(bytes.len()).expect("a frame fits a segment");
        self.file.write_all_at(bytes, u64::from(offset)).map_err(io_error("write", &self.path))?;
        self.end = offset + len;
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
        self.file.set_len(u64::from(self.end)).map_err(io_error("truncate", &self.path))?;
        rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, u64::from(SEGMENT_LEN))
            .map_err(|error| io_error("reserve space for", &self.path)(error.into()))?;
        self.file.sync_all().map_err(io_error("sync", &self.path))
    }

    /// Closes the segment for good and gives back the space that it did not use. A crash in between
    /// leaves that to the next start: whoever reads the segment stops where its frames end.
    pub(crate) fn seal(&mut self) -> Result<(), StorageError> {
        let mut buffer = FrameBuffer::new();
        buffer.push(&super::Record::Seal);
        self.write(&mut buffer)?;
        self.sync()?;
        self.file.set_len(u64::from(self.end)).map_err(io_error("truncate", &self.path))
    }
}

/// Gives back what a sealed segment whose frames end at `end` did not use, if a crash came between
/// the seal and that.
pub(crate) fn cut_behind_seal(path: &Path, end: u32) -> Result<(), StorageError> {
    let len = fs::metadata(path).map_err(io_error("stat", path))?.len();
    if len > u64::from(end) {
        let file = OpenOptions::new().write(true).open(path).map_err(io_error("open", path))?;
        file.set_len(u64::from(end)).map_err(io_error("truncate", path))?;
    }
    Ok(())
}

/// What has ever been written to a segment: everything up to its last stretch of data. The rest
/// is reserved, reads as zeros, and need not be read to know that.
pub(crate) fn read_written(path: &Path) -> Result<Vec<u8>, StorageError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let len = file.metadata().map_err(io_error("stat", path))?.len();
    let mut written = 0;
    let mut at = 0;
    while at < len {
        match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => {
                at = rustix::fs::seek(&file, SeekFrom::Hole(data))
                    .map_err(|e| io_error("seek in", path)(e.into()))?;
                written = at;
            }
            Err(Errno::NXIO) => break,
            // A file system that cannot tell: read everything.
            Err(_) => {
                written = len;
                break;
            }
        }
    }
    let mut bytes = vec![0; written as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io_error("read", path))?;
    Ok(bytes)
}
