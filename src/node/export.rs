//! A snapshot of a member that is stopped.
//!
//! What the member's log has beyond its database is applied first, as a start would do it. So the directory must not be
//! in use, and is up to date afterwards.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{StartError, boot, snapshot, unfit};
use crate::{
    config::ExportCommand,
    disk::Directory,
    limits,
    migrate::{Image, LogPlace},
    raft::{Replica, base, catch_up, open_log},
    storage::{Database, StorageError, io_error},
    telemetry::Metrics,
    types::Rev,
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Exported {
    pub(crate) revision: Rev,
    pub(crate) keys: usize,
    pub(crate) bytes: u64,
}

/// Nothing was exported.
#[derive(Debug, Error)]
pub(crate) enum ExportError {
    #[error("{} has no member: there is no member/snap/db. Name the --data-dir of a member of retcd", data_dir.display())]
    NoMember { data_dir: PathBuf },
    #[error("cannot write {}: {source}; name a file in a directory with enough free space", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Start(#[from] StartError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Writes the file. `report` is told how many of its bytes are written.
pub(crate) fn export(
    command: &ExportCommand,
    report: &mut dyn FnMut(u64, u64),
) -> Result<Exported, ExportError> {
    let config = &command.config;
    let snap_dir = snapshot::snap_dir(&config.data_dir);
    unfit::refuse_etcd(&config.data_dir)?;
    if !snap_dir.join("db").is_file() {
        return Err(ExportError::NoMember { data_dir: config.data_dir.clone() });
    }
    let member_dir = config.data_dir.join("member");
    let _lock = boot::lock(&member_dir, &config.data_dir)?;
    let disk = Arc::new(Directory::open(&snap_dir).map_err(io_error("open", &snap_dir))?);
    let database = Arc::new(Database::open(disk, Path::new("db"), limits::DATABASE_CACHE_BYTES)?);
    let mut replica = Replica::open(database.clone())?;
    // A member that was restored and never started has no log.
    if boot::log_has_begun(&database)? {
        let wal_dir = config.wal_dir.clone().unwrap_or_else(|| member_dir.join("wal"));
        let wal = Directory::open(&wal_dir).map_err(io_error("open", &wal_dir))?;
        let metrics = Arc::new(Metrics::new(config));
        let log = open_log(Arc::new(wal), true, &replica, 0, metrics)?;
        catch_up(&database, &mut replica, &log)?;
    }
    let store = &replica.state.mvcc;
    let (revision, keys) = (store.rev_current(), store.keys_live());
    drop(replica);

    let reader = database.reader()?;
    let place = base::applied(&reader)?.map(|place| LogPlace { term: place.term, index: place.index });
    let image = Image::lay_out(reader, place, &|| true)?.expect("the image is wanted");
    let file = NewFile::begin(&command.file)?;
    let bytes = file.write(&image, report)?;
    Ok(Exported { revision, keys, bytes })
}

/// A file that gets its name when it is complete.
struct NewFile {
    path: PathBuf,
    part: PathBuf,
    file: File,
}

impl NewFile {
    fn begin(path: &Path) -> Result<NewFile, ExportError> {
        let part = path.with_added_extension("part");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = file.map_err(|source| ExportError::File { path: part.clone(), source })?;
        Ok(NewFile { path: path.to_owned(), part, file })
    }

    /// Writes the pages of an image, and the SHA-256 of all of them.
    fn write(mut self, image: &Image, report: &mut dyn FnMut(u64, u64)) -> Result<u64, ExportError> {
        let mut digest = Sha256::new();
        let (mut written, total) = (0, image.file_bytes());
        let mut pages = image.pages()?;
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| ExportError::File { path, source }
        };
        while let Some(piece) = pages.next(limits::IMAGE_READ_BYTES)? {
            digest.update(&piece);
            self.file.write_all(&piece).map_err(file_error(&self.part))?;
            written += piece.len() as u64;
            report(written, total);
        }
        assert_eq!(written, total, "a file is as long as it was laid out");
        self.file.write_all(&digest.finalize()).map_err(file_error(&self.part))?;
        self.file.sync_all().map_err(file_error(&self.part))?;
        fs::rename(&self.part, &self.path).map_err(file_error(&self.path))?;
        self.part = PathBuf::new();
        Ok(written)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.part != Path::new("") {
            let _ = fs::remove_file(&self.part);
        }
    }
}
