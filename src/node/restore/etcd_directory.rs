//! The data directory of an etcd that is stopped: its database, and the log behind it.
//!
//! etcd writes its database every 100 ms, and what it has acknowledged since is in its log only. So the
//! log is replayed, to its end: also entries that the member did not know to be committed, because it learns
//! that later than its clients do, and because every entry of a sole member is committed once it is in
//! the log. Of several members, the one whose log is the newest has every write that was acknowledged.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    LogEnd, RestoreError, RestoreStep,
    membership::Kept,
    snapshot_file::{REDB_MAGIC, open_file, take_in_file},
};
use crate::{
    bbolt::BboltFile,
    disk::{Directory, DiskFile},
    limits,
    migrate::{EtcdWal, IntakeError, ReplayError, Tail, TakenIn, WalError, consistent_index, replay},
    storage::{Database, io_error},
};

/// A directory that was opened, and cannot be used by an etcd meanwhile.
pub(super) struct EtcdDirectory {
    wal_dir: PathBuf,
    wal: EtcdWal,
    tail: Tail,
    database: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    /// The lock of `member/snap/db`.
    _lock: Arc<dyn DiskFile>,
}

impl EtcdDirectory {
    pub(super) fn open(source: &Path, wal_dir: Option<&Path>) -> Result<EtcdDirectory, RestoreError> {
        let member = source.join("member");
        let member = if member.is_dir() { member } else { source.to_owned() };
        let database = member.join("snap").join("db");
        if !database.is_file() {
            return Err(RestoreError::NotADataDirectory { directory: source.to_owned() });
        }
        let (lock, len) = open_file(&database)?;
        let mut head = [0; REDB_MAGIC.len()];
        if lock.read_at(&mut head, 0).is_ok() && head == REDB_MAGIC {
            return Err(RestoreError::OfRetcd { directory: source.to_owned() });
        }
        if !lock.try_lock().unwrap_or(true) {
            return Err(RestoreError::InUse { path: source.to_owned() });
        }
        let wal_dir = wal_dir.map_or_else(|| member.join("wal"), Path::to_owned);
        let no_log = || RestoreError::NoLog { wal_dir: wal_dir.clone() };
        let disk = Directory::open(&wal_dir).map_err(|_| no_log())?;
        let wal = EtcdWal::open(Arc::new(disk)).map_err(log_error)?.ok_or_else(no_log)?;
        let applied = applied(&lock, len, &database)?;
        let tail = wal.tail(applied).map_err(log_error);
        let of = |database: PathBuf, file: Arc<dyn DiskFile>, len, wal, tail| EtcdDirectory {
            wal_dir: wal_dir.clone(),
            wal,
            tail,
            database,
            file,
            len,
            _lock: lock.clone(),
        };
        // A member that was receiving a snapshot has it in a file of its own until it has applied it.
        let newest = wal.newest_snapshot().map_err(log_error)?.filter(|snapshot| snapshot.index > applied);
        if let Some(snapshot) = newest {
            let received = member.join("snap").join(format!("{:016x}.snap.db", snapshot.index));
            if received.is_file() {
                let (file, len) = open_file(&received)?;
                let tail = wal.tail(snapshot.index).map_err(log_error)?;
                return Ok(of(received, file, len, wal, tail));
            }
        }
        Ok(of(database, lock.clone(), len, wal, tail?))
    }

    /// Makes the database `db`. Returns also what is known of the cluster, if that is the newest.
    pub(super) fn fill(
        &self,
        snap_dir: &Path,
        report: &mut dyn FnMut(RestoreStep),
    ) -> Result<(TakenIn, LogEnd, Option<Kept>), RestoreError> {
        let taken = take_in_file(self.file.clone(), self.len, &self.database, snap_dir, report)?;
        let disk = Arc::new(Directory::open(snap_dir).map_err(io_error("open", snap_dir))?);
        let database = Arc::new(Database::open(disk, Path::new("db"), limits::DATABASE_CACHE_BYTES)?);
        let replayed = replay(&database, &self.wal, &self.tail, &mut |requests| {
            report(RestoreStep::Replaying { requests, entries: self.tail.len() });
        });
        let replayed = replayed.map_err(|error| match error {
            ReplayError::Storage(error) => RestoreError::Storage(error),
            ReplayError::Wal(error) => log_error(error),
            error @ ReplayError::Entry { .. } => {
                RestoreError::Unusable { file: self.wal_dir.clone(), detail: error.to_string() }
            }
        })?;
        let end = LogEnd {
            requests: replayed.requests,
            last: self.tail.last.map_or((taken.term, taken.consistent_index), |last| (last.term, last.index)),
            uncommitted: self.tail.uncommitted(),
            torn: self.tail.torn.clone(),
        };
        let ids = self.tail.ids.filter(|_| replayed.member_changes == 0);
        let kept = ids.and_then(|(cluster, member)| Kept::of(cluster, member, &taken.members));
        Ok((taken, end, kept))
    }
}

/// The last entry that the database has.
fn applied(file: &Arc<dyn DiskFile>, len: u64, path: &Path) -> Result<u64, RestoreError> {
    let read = BboltFile::open(file.clone(), len)
        .map_err(IntakeError::from)
        .and_then(|file| consistent_index(&file));
    read.map_err(|error| RestoreError::Unusable { file: path.to_owned(), detail: error.to_string() })
}

fn log_error(error: WalError) -> RestoreError {
    RestoreError::Log(error)
}
