//! What the files of a member that is stopped hold, and its database rewritten, for `retcd utl`.
//!
//! The member is opened as a start would open it, so what its log has beyond its database counts, and is in
//! the database afterwards.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use super::{StartError, disk_thread::read_ahead, hash::history, stopped::StoppedMember};
use crate::{
    config::Config,
    disk::{Directory, Disk},
    migrate::{FileStatus, Image, LogPlace},
    mvcc::{KvHash, RevError},
    raft::{Replica, base},
    storage::{Database, StorageError, io_error},
};

/// A stopped member, opened. No other process can use its directory while this lives.
pub(crate) struct Contents {
    database: Arc<Database>,
    replica: Replica,
    member: StoppedMember,
}

#[derive(Debug, Error)]
pub(crate) enum ContentsError {
    #[error("{} has no member: there is no member/snap/db. Name the --data-dir of a member of retcd", data_dir.display())]
    NoMember { data_dir: PathBuf },
    #[error("{0}")]
    Start(#[from] StartError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl ContentsError {
    /// Whether another process uses the directory, which may end.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self, ContentsError::Start(StartError::InUse { .. }))
    }
}

impl Contents {
    pub(crate) fn open(config: &Config) -> Result<Contents, ContentsError> {
        let member = StoppedMember::find(config)?
            .ok_or_else(|| ContentsError::NoMember { data_dir: config.data_dir.clone() })?;
        let (database, replica) = member.open(config, |directory| Arc::new(directory))?;
        Ok(Contents { database, replica, member })
    }

    /// Of the snapshot that `retcd export` would write.
    pub(crate) fn status(&self) -> Result<FileStatus, ContentsError> {
        let reader = self.database.reader()?;
        let place = base::applied(&reader)?.map(|place| LogPlace { term: place.term, index: place.index });
        let image = Image::lay_out(reader, place, &|| true)?.expect("the image is wanted");
        Ok(image.status()?)
    }

    /// The hash of the history up to a revision; 0 is the newest.
    pub(crate) fn hash_kv(&self, rev: i64) -> Result<Result<KvHash, RevError>, ContentsError> {
        Ok(history(&self.replica.state.mvcc, rev)?)
    }

    /// Writes the database anew, without the holes that removals left. Returns its lengths before and after.
    pub(crate) fn defragment(&self) -> Result<(u64, u64), ContentsError> {
        let before = self.database_bytes()?;
        self.database.defragment(read_ahead)?;
        Ok((before, self.database_bytes()?))
    }

    fn database_bytes(&self) -> Result<u64, StorageError> {
        let directory = &self.member.snap_dir;
        let file = Directory::open(directory).and_then(|disk| disk.open_to_read(Path::new("db")));
        file.and_then(|file| file.len()).map_err(io_error("read", &directory.join("db")))
    }
}
