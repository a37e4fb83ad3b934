//! A snapshot as a file: the pages of an image, and the SHA-256 of all of them behind.
//!
//! The file has another name while it is written, and gets its own when it is complete and on the disk. So a file with
//! that name is whole, and whatever had the name before is not lost to a full disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use crate::disk::{Disk, DiskFile};

/// Bytes of the SHA-256 behind the pages.
pub(super) const DIGEST_BYTES: u64 = 32;

/// A file that is being written. It is removed when this is dropped before it was published.
pub(super) struct ImageFile {
    disk: Arc<dyn Disk>,
    /// Its name meanwhile.
    part: PathBuf,
    file: Box<dyn DiskFile>,
    digest: Sha256,
    written: u64,
    is_published: bool,
}

impl ImageFile {
    /// Takes the space of a file of `image_bytes` and its checksum, so that a disk without it is noticed at once.
    pub(super) fn begin(disk: Arc<dyn Disk>, part: PathBuf, image_bytes: u64) -> io::Result<ImageFile> {
        let file = disk.create(&part)?;
        let begun = ImageFile { disk, part, file, digest: Sha256::new(), written: 0, is_published: false };
        begun.file.reserve(image_bytes + DIGEST_BYTES)?;
        Ok(begun)
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.digest.update(piece);
        self.put(piece)
    }

    fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        let end = self.written + piece.len() as u64;
        self.file.write_at(piece, self.written)?;
        // A little at a time: a sync of all of it at the end would hold up the log on the same disk.
        self.file.start_writing(self.written..end);
        self.written = end;
        Ok(())
    }

    /// Writes the checksum. The file is complete and on the disk after this.
    pub(super) fn complete(&mut self) -> io::Result<()> {
        let digest = std::mem::take(&mut self.digest).finalize();
        self.put(&digest)?;
        self.file.set_len(self.written)?;
        self.file.sync_all()
    }

    /// Gives the file its name.
    pub(super) fn publish(mut self, name: &Path) -> io::Result<()> {
        self.disk.rename(&self.part, name)?;
        self.is_published = true;
        self.disk.sync()
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = self.disk.remove(&self.part);
        }
    }
}
