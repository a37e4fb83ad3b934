//! A file that `etcdctl snapshot save` wrote: of retcd or of etcd, which is the same format, or of an older retcd.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{RestoreError, RestoreStep, site::target_error};
use crate::{
    bbolt::{BboltFile, is_bbolt},
    disk::{Directory, Disk, DiskFile},
    migrate::{IntakeError, TakenIn, take_in},
    storage::{Draft, io_error},
};

const DIGEST_LEN: u64 = 32;
/// What a checksum follows is a whole number of these.
const BLOCK_LEN: u64 = 512;
const PIECE_BYTES: usize = 1024 * 1024;
const HEAD_BYTES: u64 = 64;

/// How a file begins that redb wrote.
pub(super) const REDB_MAGIC: &[u8] = b"redb";

/// A file that may be a snapshot.
pub(super) struct SnapshotFile {
    path: PathBuf,
    file: File,
    /// Without the checksum behind it.
    data_len: u64,
    format: Format,
    has_digest: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Bbolt,
    /// Of a retcd whose snapshots were copies of its database.
    Redb,
    Unknown,
}

impl SnapshotFile {
    /// With `skip_hash_check` the file may also be one without a checksum: a copy of a database.
    pub(super) fn open(path: &Path, skip_hash_check: bool) -> Result<SnapshotFile, RestoreError> {
        const REMEDY: &str = "name a file that `etcdctl snapshot save` wrote and that this user may read";
        let io_error =
            |action| move |source| RestoreError::Io { action, path: path.to_owned(), source, remedy: REMEDY };
        let owned = || path.to_owned();
        // Opening a pipe would wait for whoever writes to it.
        let metadata = fs::metadata(path).map_err(io_error("read"))?;
        if !metadata.is_file() {
            return Err(RestoreError::NotAFile { file: owned() });
        }
        let mut file = File::open(path).map_err(io_error("read"))?;
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(HEAD_BYTES).read_to_end(&mut head).map_err(io_error("read"))?;
        file.rewind().map_err(io_error("read"))?;
        let format = match head {
            head if is_bbolt(&head) => Format::Bbolt,
            head if head.starts_with(REDB_MAGIC) => Format::Redb,
            _ => Format::Unknown,
        };
        let data_len = metadata.len().checked_sub(DIGEST_LEN);
        let data_len = data_len.filter(|len| *len > 0 && len.is_multiple_of(BLOCK_LEN));
        match (data_len, format) {
            (Some(data_len), _) => {
                Ok(SnapshotFile { path: owned(), file, data_len, format, has_digest: true })
            }
            (None, Format::Unknown) => Err(RestoreError::Foreign { file: owned() }),
            (None, _) if skip_hash_check => {
                let data_len = metadata.len();
                Ok(SnapshotFile { path: owned(), file, data_len, format, has_digest: false })
            }
            (None, _) => Err(RestoreError::CutShort { file: owned() }),
        }
    }

    /// Makes the database `db` of what is in the file. The checksum is compared unless it `is_skipped`.
    pub(super) fn fill(
        mut self,
        snap_dir: &Path,
        is_skipped: bool,
        report: &mut dyn FnMut(RestoreStep),
    ) -> Result<Option<TakenIn>, RestoreError> {
        let compares = self.has_digest && !is_skipped;
        if self.format != Format::Bbolt {
            self.copy(&snap_dir.join("db"), compares)?;
            return Ok(None);
        }
        if compares {
            self.read_checked(|_| Ok(()))?;
        }
        let (file, _) = open_file(&self.path)?;
        // Somebody may be writing to a copy of a database, or to the database itself.
        if !file.try_lock().unwrap_or(true) {
            return Err(RestoreError::InUse { path: self.path });
        }
        take_in_file(file, self.data_len, &self.path, snap_dir, report).map(Some)
    }

    fn copy(&mut self, target: &Path, compares: bool) -> Result<(), RestoreError> {
        if self.format == Format::Unknown {
            self.read_checked(|_| Ok(()))?;
            return Err(RestoreError::Foreign { file: self.path.clone() });
        }
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
        let mut copy = created.map_err(target_error("create", target))?;
        let write = |piece: &[u8]| copy.write_all(piece).map_err(target_error("write", target));
        if compares {
            self.read_checked(write)?
        } else {
            self.read(write).map(drop)?
        }
        copy.sync_all().map_err(target_error("sync", target))
    }

    /// Reads the data, and compares its digest with the one that stands behind it.
    fn read_checked(
        &mut self,
        each: impl FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let digest = self.read(each)?;
        let mut expected = [0; DIGEST_LEN as usize];
        let file = self.path.clone();
        self.file.read_exact(&mut expected).map_err(|source| read_error(&file, source))?;
        if digest.finalize()[..] == expected { Ok(()) } else { Err(RestoreError::Damaged { file }) }
    }

    fn read(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<Sha256, RestoreError> {
        let mut digest = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        let mut data = Read::by_ref(&mut self.file).take(self.data_len);
        loop {
            let read = data.read(&mut piece).map_err(|source| read_error(&self.path, source))?;
            if read == 0 {
                return Ok(digest);
            }
            digest.update(&piece[..read]);
            each(&piece[..read])?;
        }
    }
}

fn read_error(path: &Path, source: std::io::Error) -> RestoreError {
    let remedy = "nothing was restored; take another copy of the snapshot";
    RestoreError::Io { action: "read", path: path.to_owned(), source, remedy }
}

/// Opens any file, with its length.
pub(super) fn open_file(path: &Path) -> Result<(Arc<dyn DiskFile>, u64), RestoreError> {
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let name = Path::new(path.file_name().unwrap_or_default());
    let opened = Directory::open(parent).and_then(|directory| directory.open_to_read(name));
    let opened = opened.and_then(|file| Ok((file.len()?, file)));
    let (len, file) = opened.map_err(|source| read_error(path, source))?;
    Ok((file.into(), len))
}

/// Makes the database `db` of a database of etcd, which `path` names in errors.
pub(super) fn take_in_file(
    file: Arc<dyn DiskFile>,
    len: u64,
    path: &Path,
    snap_dir: &Path,
    report: &mut dyn FnMut(RestoreStep),
) -> Result<TakenIn, RestoreError> {
    let unusable = |error: IntakeError| match error {
        IntakeError::Storage(error) => RestoreError::Storage(error),
        error @ (IntakeError::Bbolt(_) | IntakeError::NotOfEtcd | IntakeError::Unreadable { .. }) => {
            RestoreError::Unusable { file: path.to_owned(), detail: error.to_string() }
        }
    };
    let source = BboltFile::open(file, len).map_err(|error| unusable(error.into()))?;
    let disk: Arc<dyn Disk> = Arc::new(Directory::open(snap_dir).map_err(io_error("open", snap_dir))?);
    let mut draft = Draft::begin(&disk, Path::new("db"))?;
    let taken = take_in(&source, &mut draft, &mut |progress| report(RestoreStep::Reading(progress)));
    let taken = taken.map_err(unusable)?;
    draft.finish()?;
    Ok(taken)
}
