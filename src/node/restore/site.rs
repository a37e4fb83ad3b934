//! Where a data directory is made.
//!
//! Whatever fails before [`Site::finish`] leaves the data directory as it was found. A crash leaves the
//! unfinished directory, which the next attempt replaces and which no member starts beside.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

use super::RestoreError;
use crate::node::unfit::UNFINISHED;

/// A data directory in which a member's directory is made. Without [`Site::finish`] everything that
/// was made goes again.
pub(super) struct Site {
    data_dir: PathBuf,
    /// Directories that were not there before, outermost first.
    created: Vec<PathBuf>,
    is_finished: bool,
    /// Nobody else restores into the directory meanwhile.
    _lock: File,
}

impl Site {
    /// The log of the member will be in `wal_dir`, which must have nothing in it.
    pub(super) fn begin(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Site, RestoreError> {
        refuse_occupied(data_dir)?;
        if let Some(wal_dir) = wal_dir
            && fs::read_dir(wal_dir).is_ok_and(|mut entries| entries.next().is_some())
        {
            return Err(RestoreError::WalDirNotEmpty { wal_dir: wal_dir.to_owned() });
        }
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
    pub(super) fn snap_dir(&self) -> PathBuf {
        self.unfinished().join("snap")
    }

    /// Puts what was made in its place, durable.
    pub(super) fn finish(mut self) -> Result<(), RestoreError> {
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

pub(super) fn sync_directory(path: &Path) -> Result<(), RestoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(target_error("sync", path))
}

pub(super) fn target_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
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
