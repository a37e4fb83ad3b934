//! Making a data directory out of a snapshot.
//!
//! A snapshot file is an image of the database and, behind it, the SHA-256 of the image, as
//! `etcdctl snapshot save` writes it. The image says which member it was taken from and how far
//! into which log it reached; a restored member is a new one with a log of its own, so that is
//! taken out. What stays is the data: keys with their revisions, leases (their time starts
//! again), users and roles, alarms.
//!
//! ```text
//! <data-dir>/member.restoring/snap/db    the copy, until it is complete and known to be good
//! <data-dir>/member/snap/db              from then on, by one rename of the directory
//! ```
//!
//! Whatever fails before the rename leaves the data directory as it was found. A crash leaves the
//! directory of the first line, which the next attempt replaces and which no member starts beside.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{
    boot,
    unfit::{BBOLT_MAGIC, BBOLT_MAGIC_AT, UNFINISHED},
};
use crate::{
    disk::Directory,
    limits,
    raft::{Replica, base},
    storage::{Database, StorageError, io_error},
    types::Base,
};

const DIGEST_LEN: u64 = 32;
/// An image is a whole number of these.
const BLOCK_LEN: u64 = 512;
const PIECE_BYTES: usize = 1024 * 1024;

/// How a file begins that redb wrote.
const REDB_MAGIC: &[u8] = b"redb";

/// What a restored directory holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restored {
    pub(crate) revision: i64,
    pub(crate) keys: usize,
    /// The same for every directory that the snapshot is restored to.
    pub(crate) base: Base,
}

/// Nothing was restored, and the data directory is as it was.
#[derive(Debug, Error)]
pub(crate) enum RestoreError {
    #[error("cannot {action} {}: {source}; {remedy}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error, remedy: &'static str },
    #[error(
        "{} is not a file; name the file that `etcdctl snapshot save` wrote, not a directory or a pipe",
        file.display()
    )]
    NotAFile { file: PathBuf },
    #[error(
        "{} is a database of etcd, which retcd cannot restore. Restore it with `etcdutl snapshot restore`, start etcd \
         on that, and copy the keys over with `etcdctl make-mirror`",
        file.display()
    )]
    OfEtcd { file: PathBuf },
    #[error("{} is not a snapshot of retcd; name a file that `etcdctl snapshot save` wrote", file.display())]
    Foreign { file: PathBuf },
    #[error(
        "{} does not end with a checksum, as a snapshot does: it was cut short, or it is a copy of a database in use. \
         Take a snapshot with `etcdctl snapshot save`",
        file.display()
    )]
    CutShort { file: PathBuf },
    #[error(
        "{} is damaged: its content does not match the checksum at its end. Take another snapshot, or another copy of \
         this one",
        file.display()
    )]
    Damaged { file: PathBuf },
    #[error("{} cannot be restored: {detail}", file.display())]
    Unusable { file: PathBuf, detail: String },
    #[error("{} is not a directory; choose another --data-dir", data_dir.display())]
    TargetNotADirectory { data_dir: PathBuf },
    #[error(
        "{} already contains a member; choose an empty --data-dir, or move that directory away first",
        data_dir.display()
    )]
    TargetHoldsMember { data_dir: PathBuf },
    #[error(
        "the data directory {} is not empty: it holds {}; choose an empty --data-dir",
        data_dir.display(),
        entry.display()
    )]
    TargetNotEmpty { data_dir: PathBuf, entry: PathBuf },
    #[error(
        "another process is restoring a snapshot into {}; wait until it has finished, or choose another --data-dir",
        data_dir.display()
    )]
    TargetInUse { data_dir: PathBuf },
    #[error("{0}; nothing was restored. Check that the disk of --data-dir works and has free space")]
    Storage(#[from] StorageError),
}

/// Fills `data_dir`, which has to be empty or not there yet.
pub(crate) fn restore(file: &Path, data_dir: &Path) -> Result<Restored, RestoreError> {
    let image = Image::open(file)?;
    let site = Site::begin(data_dir)?;
    let snap_dir = site.snap_dir();
    image.copy_checked(&snap_dir.join("db"))?;
    let restored = make_member(&snap_dir).map_err(|error| match error {
        // It is the copy that was looked at; the user knows the original.
        StorageError::Foreign { detail, .. } | StorageError::Corrupted { detail, .. } => {
            RestoreError::Unusable { file: file.to_owned(), detail }
        }
        error => error.into(),
    })?;
    site.finish()?;
    Ok(restored)
}

/// Takes the member's identity out of the database, and reads all of it, as a start does.
fn make_member(snap_dir: &Path) -> Result<Restored, StorageError> {
    let disk = Arc::new(Directory::open(snap_dir).map_err(io_error("open", snap_dir))?);
    let database = Arc::new(Database::open(disk, Path::new("db"), limits::DATABASE_CACHE_BYTES)?);
    let mut checkpoint = Replica::forget();
    checkpoint.cells.extend(boot::forget_member());
    database.commit(&checkpoint)?;
    assert!(boot::stored_identity(&database)?.is_none(), "a restored member has no identity yet");
    assert!(!boot::log_has_begun(&database)?, "a restored member has no log yet");
    let base = base::of_contents(&database.reader()?)?;
    let replica = Replica::open(database)?;
    let store = &replica.state.mvcc;
    Ok(Restored { revision: store.rev_current().0, keys: store.keys_live(), base })
}

/// A file that may be a snapshot.
struct Image {
    path: PathBuf,
    file: File,
    image_len: u64,
    /// Whether it begins as a database of ours.
    is_redb: bool,
}

impl Image {
    fn open(path: &Path) -> Result<Image, RestoreError> {
        const REMEDY: &str = "name a file that `etcdctl snapshot save` wrote and that this user may read";
        let io_error =
            |action| move |source| RestoreError::Io { action, path: path.to_owned(), source, remedy: REMEDY };
        let file = || path.to_owned();
        // Opening a pipe would wait for whoever writes to it.
        let metadata = fs::metadata(path).map_err(io_error("read"))?;
        if !metadata.is_file() {
            return Err(RestoreError::NotAFile { file: file() });
        }
        let mut opened = File::open(path).map_err(io_error("read"))?;
        let mut head = Vec::new();
        let head_len = (BBOLT_MAGIC_AT + BBOLT_MAGIC.len()) as u64;
        Read::by_ref(&mut opened).take(head_len).read_to_end(&mut head).map_err(io_error("read"))?;
        opened.rewind().map_err(io_error("read"))?;
        if head.get(BBOLT_MAGIC_AT..) == Some(&BBOLT_MAGIC) {
            return Err(RestoreError::OfEtcd { file: file() });
        }
        let is_redb = head.starts_with(REDB_MAGIC);
        let image_len = metadata.len().checked_sub(DIGEST_LEN);
        match image_len.filter(|len| *len > 0 && len % BLOCK_LEN == 0) {
            Some(image_len) => Ok(Image { path: file(), file: opened, image_len, is_redb }),
            None if is_redb => Err(RestoreError::CutShort { file: file() }),
            None => Err(RestoreError::Foreign { file: file() }),
        }
    }

    /// Copies the image and compares its digest with the one that stands behind it.
    fn copy_checked(mut self, target: &Path) -> Result<(), RestoreError> {
        let file = self.path;
        let read_error = |source| RestoreError::Io {
            action: "read",
            path: file.clone(),
            source,
            remedy: "nothing was restored; take another copy of the snapshot",
        };
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
        let mut copy = created.map_err(target_error("create", target))?;
        let mut digest = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        let mut image = Read::by_ref(&mut self.file).take(self.image_len);
        loop {
            let read = image.read(&mut piece).map_err(read_error)?;
            if read == 0 {
                break;
            }
            digest.update(&piece[..read]);
            copy.write_all(&piece[..read]).map_err(target_error("write", target))?;
        }
        let mut expected = [0; DIGEST_LEN as usize];
        self.file.read_exact(&mut expected).map_err(read_error)?;
        if digest.finalize()[..] != expected {
            return Err(RestoreError::Damaged { file });
        }
        if !self.is_redb {
            return Err(RestoreError::Foreign { file });
        }
        copy.sync_all().map_err(target_error("sync", target))
    }
}

/// A data directory in which a member's directory is made. Without [`Site::finish`] everything that
/// was made goes again.
struct Site {
    data_dir: PathBuf,
    /// Directories that were not there before, outermost first.
    created: Vec<PathBuf>,
    is_finished: bool,
    /// Nobody else restores into the directory meanwhile.
    _lock: File,
}

impl Site {
    fn begin(data_dir: &Path) -> Result<Site, RestoreError> {
        refuse_occupied(data_dir)?;
        let created: Vec<PathBuf> = missing_directories(data_dir);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
        let locked = made.map_err(target_error("create", data_dir)).and_then(|()| lock(data_dir));
        let lock = match locked {
            Ok(lock) => lock,
            Err(error) => {
                remove_empty(&created);
                return Err(error);
            }
        };
        let site = Site { data_dir: data_dir.to_owned(), created, is_finished: false, _lock: lock };
        // Somebody may have finished between the first look and the lock.
        refuse_occupied(data_dir)?;
        let unfinished = site.unfinished();
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(target_error("remove", &unfinished)(error));
            }
            _ => {}
        }
        let snap_dir = site.snap_dir();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&snap_dir);
        made.map_err(target_error("create", &snap_dir))?;
        Ok(site)
    }

    fn unfinished(&self) -> PathBuf {
        self.data_dir.join(UNFINISHED)
    }

    /// Where the database is to be.
    fn snap_dir(&self) -> PathBuf {
        self.unfinished().join("snap")
    }

    /// Puts what was made in its place, durable.
    fn finish(mut self) -> Result<(), RestoreError> {
        let unfinished = self.unfinished();
        sync_directory(&self.snap_dir())?;
        sync_directory(&unfinished)?;
        let member_dir = self.data_dir.join("member");
        fs::rename(&unfinished, &member_dir).map_err(target_error("rename", &unfinished))?;
        self.is_finished = true;
        sync_directory(&self.data_dir)?;
        for directory in &self.created {
            let parent = directory.parent().filter(|parent| *parent != Path::new(""));
            sync_directory(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed is replaced by the next attempt.
            let _ = fs::remove_dir_all(self.unfinished());
            remove_empty(&self.created);
        }
    }
}

fn refuse_occupied(data_dir: &Path) -> Result<(), RestoreError> {
    let owned = || data_dir.to_owned();
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(RestoreError::TargetNotADirectory { data_dir: owned() });
        }
        Err(error) => return Err(target_error("list", data_dir)(error)),
    };
    for entry in entries {
        let name = entry.map_err(target_error("list", data_dir))?.file_name();
        if name == "member" {
            return Err(RestoreError::TargetHoldsMember { data_dir: owned() });
        }
        if name != UNFINISHED {
            return Err(RestoreError::TargetNotEmpty { data_dir: owned(), entry: name.into() });
        }
    }
    Ok(())
}

/// `path` and those above it that are not there, outermost first.
fn missing_directories(path: &Path) -> Vec<PathBuf> {
    let ancestors = path.ancestors().filter(|path| *path != Path::new(""));
    let mut missing: Vec<PathBuf> = ancestors.take_while(|path| !path.exists()).map(Path::to_owned).collect();
    missing.reverse();
    missing
}

fn remove_empty(directories: &[PathBuf]) {
    for directory in directories.iter().rev() {
        // Somebody may have put something into it meanwhile; that stays.
        let _ = fs::remove_dir(directory);
    }
}

fn lock(data_dir: &Path) -> Result<File, RestoreError> {
    let directory = File::open(data_dir).map_err(target_error("open", data_dir))?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(_) => Err(RestoreError::TargetInUse { data_dir: data_dir.to_owned() }),
    }
}

fn sync_directory(path: &Path) -> Result<(), RestoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(target_error("sync", path))
}

fn target_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| {
        let remedy = match source.kind() {
            ErrorKind::PermissionDenied => {
                "give this user write permission for that directory, or choose another --data-dir"
            }
            ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another --data-dir",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                "the disk needs free space for a file as large as the snapshot; free some, or choose another --data-dir"
            }
            _ => "nothing was restored; choose another --data-dir",
        };
        RestoreError::Io { action, path, source, remedy }
    }
}
