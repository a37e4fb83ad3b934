//! A member that does not run, opened to be looked at as a start would find it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{StartError, boot, snapshot, unfit};
use crate::{
    config::Config,
    disk::{Directory, Disk, DiskFile, FileSystem},
    limits,
    raft::{Replica, catch_up, open_log},
    storage::{Database, StorageError, Values, io_error},
    telemetry::Metrics,
};

/// Its directories. No other process can use them while this lives.
pub(super) struct StoppedMember {
    pub(super) snap_dir: PathBuf,
    pub(super) wal_dir: PathBuf,
    _lock: Box<dyn DiskFile>,
}

impl StoppedMember {
    /// `None` where there is no member.
    pub(super) fn find(config: &Config) -> Result<Option<StoppedMember>, StartError> {
        unfit::refuse_etcd(&FileSystem, &config.data_dir)?;
        let (snap_dir, member_dir) = (snapshot::snap_dir(&config.data_dir), config.data_dir.join("member"));
        if !snap_dir.join("db").is_file() {
            return Ok(None);
        }
        let lock = boot::lock(&FileSystem, &member_dir, &config.data_dir)?;
        let wal_dir = config.wal_dir.clone().unwrap_or_else(|| member_dir.join("wal"));
        Ok(Some(StoppedMember { snap_dir, wal_dir, _lock: lock }))
    }

    /// Opens the database on the disk that `over` makes of its directory, and applies what the log has beyond it.
    pub(super) fn open(
        &self,
        config: &Config,
        over: impl Fn(Directory) -> Arc<dyn Disk>,
    ) -> Result<(Arc<Database>, Replica), StorageError> {
        let disk = |dir: &Path| Directory::open(dir).map(&over).map_err(io_error("open", dir));
        let snap = disk(&self.snap_dir)?;
        let database = Arc::new(self.database(snap, disk)?);
        let mut replica = Replica::open(database.clone())?;
        // A member that was restored and never started has no log.
        if boot::log_has_begun(&database)? {
            let metrics = Arc::new(Metrics::new(config));
            let values = database.values().cloned();
            let log = open_log(disk(&self.wal_dir)?, true, &replica, 0, values, metrics)?;
            catch_up(&database, &mut replica, &log)?;
        }
        Ok((database, replica))
    }

    /// Opens the database on the disk `snap`, with the large values that it leaves to the log. `disk` opens a directory.
    pub(super) fn database(
        &self,
        snap: Arc<dyn Disk>,
        disk: impl Fn(&Path) -> Result<Arc<dyn Disk>, StorageError>,
    ) -> Result<Database, StorageError> {
        let has_log = self.wal_dir.exists();
        let values = has_log.then(|| Values::open(disk(&self.wal_dir)?).map(Arc::new)).transpose()?;
        Database::open_with(snap, Path::new("db"), limits::DATABASE_CACHE_BYTES, values)
    }
}
