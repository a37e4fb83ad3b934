//! The data directory: whose it is, what is in it, and whether it can be used.
//!
//! ```text
//! <data-dir>/member/lock          held while a process uses the directory
//! <data-dir>/member/snap/db       the database (redb)
//! <data-dir>/member/wal/*.wal     the log; elsewhere with --wal-dir
//! ```
//!
//! A directory that belongs to real etcd, to a newer retcd or to a running process is refused,
//! and nothing in it is touched.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::FlockOperation;

use super::{StartError, snapshot};
use crate::{
    config::{self, Config},
    limits,
    storage::{Checkpoint, Database, StorageError, Table},
    types::{ClusterId, MemberId},
};

const IDENTITY_CELL: &[u8] = b"identity";
const LOG_BEGUN_CELL: &[u8] = b"log_begun";

/// What takes out of a database whose it is.
pub(super) fn forget_member() -> [(Table, Bytes, Option<Bytes>); 2] {
    [IDENTITY_CELL, LOG_BEGUN_CELL].map(|cell| (Table::Meta, cell.into(), None))
}

/// Whether this member has ever had a log. If so, writes that were answered may be in it and
/// nowhere else: a directory without it must not be served.
pub(super) fn log_has_begun(database: &Database) -> Result<bool, StorageError> {
    Ok(database.reader()?.cell(Table::Meta, LOG_BEGUN_CELL)?.is_some())
}

/// To be called once there is a log on the disk, before anything is written to it.
pub(super) fn note_log_begun(database: &Database) -> Result<(), StorageError> {
    let cells = vec![(Table::Meta, LOG_BEGUN_CELL.into(), Some(Bytes::new()))];
    database.commit(&Checkpoint { cells, ..Checkpoint::default() })?;
    Ok(())
}

/// An opened data directory.
pub(crate) struct DataDir {
    pub(crate) database: Arc<Database>,
    pub(crate) wal_dir: PathBuf,
    pub(crate) identity: Identity,
    /// Released when the process ends.
    pub(crate) _lock: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) member: MemberId,
}

pub(crate) fn open(config: &Config) -> Result<DataDir, StartError> {
    let member_dir = config.data_dir.join("member");
    refuse_etcd(&member_dir)?;
    let snap_dir = snapshot::snap_dir(&config.data_dir);
    let wal_dir = config.wal_dir.clone().unwrap_or_else(|| member_dir.join("wal"));
    for dir in [&snap_dir, &wal_dir] {
        create_dir(dir)?;
    }
    let lock = lock(&member_dir.join("lock"), &config.data_dir)?;
    snapshot::remove_leftovers(&snap_dir);
    let database = Arc::new(Database::open(&snap_dir.join("db"), limits::DATABASE_CACHE_BYTES)?);
    let identity = identity(&database, config)?;
    Ok(DataDir { database, wal_dir, identity, _lock: lock })
}

/// A directory of real etcd has the same names in it: a bbolt file, and its own log segments.
fn refuse_etcd(member_dir: &Path) -> Result<(), StartError> {
    let is_etcd_segment =
        |name: &str| name.ends_with(".wal") && name.len() == "0000000000000000-0000000000000000.wal".len();
    let segments = fs::read_dir(member_dir.join("wal")).into_iter().flatten().flatten();
    for entry in segments {
        if is_etcd_segment(&entry.file_name().to_string_lossy()) {
            return Err(StartError::Refused(format!(
                "{} is a data directory of etcd, which retcd cannot open in place. Start with an empty --data-dir \
                 and copy the keys over with `etcdctl make-mirror`; nothing was changed",
                member_dir.display()
            )));
        }
    }
    Ok(())
}

fn create_dir(dir: &Path) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => {
                "give this user the right to write there, or choose another --data-dir"
            }
            ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another --data-dir",
            _ => "choose another --data-dir",
        };
        StartError::Refused(format!("cannot create the data directory {}: {error}; {remedy}", dir.display()))
    })
}

fn lock(path: &Path, data_dir: &Path) -> Result<File, StartError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| StorageError::Io { action: "open", path: path.to_owned(), source })?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        StartError::Refused(format!(
            "the data directory {} is in use by another process; stop it, or choose another --data-dir",
            data_dir.display()
        ))
    })?;
    Ok(file)
}

/// Who this member is: as its directory says, or, on the first start, as etcd would compute it.
fn identity(database: &Database, config: &Config) -> Result<Identity, StartError> {
    let reader = database.reader()?;
    if let Some(bytes) = reader.cell(Table::Meta, IDENTITY_CELL)? {
        let ids: [u8; 16] = bytes
            .as_ref()
            .try_into()
            .map_err(|_| reader.corrupted("the identity cell is not 16 bytes".to_owned()))?;
        let (cluster, member) = ids.split_at(8);
        let id = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("half of 16 bytes"));
        return Ok(Identity { cluster: ClusterId(id(cluster)), member: MemberId(id(member)) });
    }
    drop(reader);
    config.verify_bootstrap().map_err(|error| StartError::Refused(error.to_string()))?;
    let member = config::member_id(&config.initial_advertise_peer_urls, &config.initial_cluster_token);
    let cluster = config::cluster_id(&[member]);
    let cell = [cluster.0.to_be_bytes(), member.0.to_be_bytes()].concat();
    database.commit(&Checkpoint {
        cells: vec![(Table::Meta, IDENTITY_CELL.into(), Some(cell.into()))],
        ..Checkpoint::default()
    })?;
    Ok(Identity { cluster, member })
}
