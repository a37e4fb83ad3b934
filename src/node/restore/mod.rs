//! Making a data directory, of a snapshot or of the data directory of an etcd.
//!
//! ```text
//! <data-dir>/member.restoring/snap/db    the database, until it is complete and known to be good
//! <data-dir>/member/snap/db              from then on, by one rename of the directory
//! ```
//!
//! A snapshot says which member it was taken from and how far into which log it reached; the member that is made
//! is a new one with a log of its own, so that is left out. What stays is the data: keys with their revisions,
//! leases (their time starts again), users and roles, alarms. Which cluster the member belongs to follows from
//! the flags of the command, or, if these do not say it, from those of the first start.

mod etcd_directory;
mod membership;
mod site;
mod snapshot_file;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use thiserror::Error;

use self::{etcd_directory::EtcdDirectory, membership::Kept, site::Site, snapshot_file::SnapshotFile};
use super::{StartError, boot, hash::newest_history};
use crate::{
    config::RestoreCommand,
    disk::Directory,
    limits,
    migrate::{Progress, TakenIn, WalError},
    raft::{Replica, base},
    storage::{Database, StorageError, Table, io_error, meta},
    types::{Base, ClusterId, MemberId, Rev},
};

/// What a new directory holds.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) revision: Rev,
    pub(crate) compacted: Rev,
    pub(crate) keys: usize,
    pub(crate) leases: usize,
    pub(crate) users: usize,
    pub(crate) roles: usize,
    pub(crate) alarms: usize,
    /// The hash of the history, as etcd computes it.
    pub(crate) hash: u32,
    /// The same for every directory that the snapshot is restored to.
    pub(crate) base: Base,
    /// If the command said which.
    pub(crate) member: Option<(ClusterId, MemberId)>,
    /// What a file of etcd said beside that; `None` for a snapshot of an older retcd.
    pub(crate) taken: Option<TakenIn>,
    /// Of an imported directory.
    pub(crate) log_end: Option<LogEnd>,
}

/// The end of a log that was replayed.
#[derive(Clone, Debug)]
pub(crate) struct LogEnd {
    pub(crate) requests: u64,
    /// Term and index.
    pub(crate) last: (u64, u64),
    /// Entries that the member did not know to be committed.
    pub(crate) uncommitted: usize,
    /// Where a record is that was not written completely.
    pub(crate) torn: Option<(PathBuf, u64)>,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RestoreStep {
    Reading(Progress),
    Replaying { requests: u64, entries: usize },
    Checking,
}

impl fmt::Display for RestoreStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            RestoreStep::Reading(Progress { records, bytes, bytes_total }) => {
                write!(f, "read {records} revisions, {} of at most {} MiB", bytes >> 20, bytes_total >> 20)
            }
            RestoreStep::Replaying { requests, entries } => {
                write!(f, "replayed {requests} requests; the log has {entries} entries")
            }
            RestoreStep::Checking => f.write_str("checking the new database"),
        }
    }
}

impl Restored {
    /// What an operator is told of a new data directory.
    pub(crate) fn summary(&self, command: &RestoreCommand) -> String {
        let Restored { revision, compacted, keys, leases, users, roles, alarms, hash, base, .. } = self;
        let data_dir = command.config.data_dir.display();
        let mut text = format!("restored {keys} keys at revision {revision} into {data_dir} ({base})\n");
        let compacted = match compacted.0 {
            ..=0 => "not compacted".to_owned(),
            rev => format!("compacted at revision {rev}"),
        };
        text += &format!("  {compacted}; {leases} leases, {users} users, {roles} roles, {alarms} alarms\n");
        text += &format!("  HashKV {hash}, as `etcdctl endpoint hashkv --rev {revision}` shows it\n");
        if let Some(taken) = &self.taken {
            let version = taken.cluster_version.as_deref().unwrap_or("unknown");
            let members = taken.members.iter().map(|member| &*member.name).collect::<Vec<_>>().join(", ");
            if !members.is_empty() {
                text += &format!("  from a cluster of version {version} with the members {members}\n");
            }
            if taken.bumps > 0 {
                text += "  it was restored with --bump-revision before: etcd's HashKV covers that, and retcd's does not\n";
            }
        }
        if let Some(LogEnd { requests, last: (term, index), uncommitted, torn }) = &self.log_end {
            text += &format!(
                "  {requests} requests were replayed from the log, which ends with entry {index} of term {term}\n"
            );
            if *uncommitted > 0 {
                text += &format!(
                    "  {uncommitted} of the entries were not known to be committed. Of a cluster, import the member whose log \
                     ends with the highest term, and of these the highest entry\n"
                );
            }
            if let Some((path, offset)) = torn {
                let path = path.display();
                text += &format!(
                    "  {path} ends at byte {offset} with a record that was not written completely\n"
                );
            }
        }
        if let Some((cluster, member)) = self.member {
            text += &format!("  member {member} of cluster {cluster}: start it with the same --name\n");
        }
        text
    }
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
    #[error("{} is not a snapshot; name a file that `etcdctl snapshot save` wrote", file.display())]
    Foreign { file: PathBuf },
    #[error(
        "{} does not end with a checksum, as a snapshot does: it was cut short, or it is a copy of a database in use. \
         Take a snapshot with `etcdctl snapshot save`; or, if it is a copy of a database that nobody used \
         meanwhile, add --skip-hash-check",
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
    #[error("{} is in use by another process; stop the etcd that uses it", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{} is not the data directory of an etcd: it has no member/snap/db. Name that directory, or a file that \
         `etcdctl snapshot save` wrote",
        directory.display()
    )]
    NotADataDirectory { directory: PathBuf },
    #[error(
        "{} is a data directory of retcd already: start retcd with it, or copy it while its member is stopped",
        directory.display()
    )]
    OfRetcd { directory: PathBuf },
    #[error(
        "{} has no log of etcd; say with --source-wal-dir where it is. If it is lost, restore the database without it: \
         `retcd snapshot restore --skip-hash-check` with the file member/snap/db",
        wal_dir.display()
    )]
    NoLog { wal_dir: PathBuf },
    #[error(
        "{0}. Nothing was imported; start etcd with the directory to repair it, or import a snapshot of another member"
    )]
    Log(WalError),
    #[error("the directory {} of --wal-dir is not empty; choose another one", wal_dir.display())]
    WalDirNotEmpty { wal_dir: PathBuf },
    #[error(
        "{} is no data directory, and only one says which member of which cluster it is of: leave --keep-membership out",
        file.display()
    )]
    NoMembership { file: PathBuf },
    #[error(
        "the members of the cluster cannot be kept: the database of {} lacks the newest changes of members, or this member was \
         removed. Start etcd with it once more, stop it and try again; or leave --keep-membership out",
        directory.display()
    )]
    OldMembership { directory: PathBuf },
    #[error("{0}")]
    Cluster(StartError),
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

/// Restores a snapshot into a directory that has to be empty or not there yet.
pub(crate) fn restore(
    command: &RestoreCommand,
    report: &mut dyn FnMut(RestoreStep),
) -> Result<Restored, RestoreError> {
    let file = &command.source;
    let snapshot = SnapshotFile::open(file, command.skip_hash_check)?;
    let site = begin(command)?;
    let taken = snapshot.fill(&site.snap_dir(), command.skip_hash_check, report)?;
    let restored = make_member(command, None, &site, report)?;
    site.finish()?;
    Ok(Restored { taken, ..restored })
}

/// Does the same with the data directory of an etcd, or with a snapshot.
pub(crate) fn import(
    command: &RestoreCommand,
    report: &mut dyn FnMut(RestoreStep),
) -> Result<Restored, RestoreError> {
    if !command.source.is_dir() {
        return match command.keep_membership {
            true => Err(RestoreError::NoMembership { file: command.source.clone() }),
            false => restore(command, report),
        };
    }
    let directory = EtcdDirectory::open(&command.source, command.source_wal_dir.as_deref())?;
    let site = begin(command)?;
    let (taken, log_end, kept) = directory.fill(&site.snap_dir(), report)?;
    let kept = match command.keep_membership {
        true => Some(kept.ok_or_else(|| RestoreError::OldMembership { directory: command.source.clone() })?),
        false => None,
    };
    let restored = make_member(command, kept.as_ref(), &site, report)?;
    site.finish()?;
    Ok(Restored { taken: Some(taken), log_end: Some(log_end), ..restored })
}

fn begin(command: &RestoreCommand) -> Result<Site, RestoreError> {
    if command.founds {
        boot::verify_founder(&command.config).map_err(RestoreError::Cluster)?;
    }
    Site::begin(&command.config.data_dir, command.config.wal_dir.as_deref())
}

/// Takes the identity of the old member out of the database, and reads all of it, as a start does.
fn make_member(
    command: &RestoreCommand,
    kept: Option<&Kept>,
    site: &Site,
    report: &mut dyn FnMut(RestoreStep),
) -> Result<Restored, RestoreError> {
    report(RestoreStep::Checking);
    found_member(command, kept, &site.snap_dir()).map_err(|error| match error {
        // It is the copy that was looked at; the user knows the original.
        StorageError::Foreign { detail, .. } | StorageError::Corrupted { detail, .. } => {
            RestoreError::Unusable { file: command.source.clone(), detail }
        }
        error => error.into(),
    })
}

fn found_member(
    command: &RestoreCommand,
    kept: Option<&Kept>,
    snap_dir: &Path,
) -> Result<Restored, StorageError> {
    let disk = Arc::new(Directory::open(snap_dir).map_err(io_error("open", snap_dir))?);
    let database = Arc::new(Database::open(disk, Path::new("db"), limits::DATABASE_CACHE_BYTES)?);
    let mut checkpoint = Replica::forget();
    checkpoint.cells.extend(boot::forget_member());
    checkpoint.cells.extend(bumped(&database, command.bump_revision)?);
    database.commit(&checkpoint)?;
    assert!(boot::stored_identity(&database)?.is_none(), "a restored member has no identity yet");
    assert!(!boot::log_has_begun(&database)?, "a restored member has no log yet");
    let base = base::of_contents(&database.reader()?)?;
    let state = Replica::open(database.clone())?.state;
    let hash = newest_history(&state.mvcc)?.hash;
    let identity = match kept {
        Some(Kept { cluster, member, peers }) => {
            Some(boot::keep_restored((*cluster, *member), peers, &database, base)?)
        }
        None if command.founds => Some(boot::found_restored(&command.config, &database, base)?),
        None => None,
    };
    let member = identity.map(|identity| (identity.cluster, identity.member));
    Ok(Restored {
        revision: state.mvcc.rev_current(),
        compacted: state.mvcc.rev_compacted(),
        keys: state.mvcc.keys_live(),
        leases: state.lessor.leases().count(),
        users: state.auth.users().count(),
        roles: state.auth.roles().count(),
        alarms: state.alarms.active().count(),
        hash,
        base,
        member,
        taken: None,
        log_end: None,
    })
}

/// Raises the newest revision by `bump`, and compacts everything before.
fn bumped(database: &Database, bump: i64) -> Result<Vec<(Table, Bytes, Option<Bytes>)>, StorageError> {
    if bump == 0 {
        return Ok(Vec::new());
    }
    let reader = database.reader()?;
    let current = match reader.cell(Table::Meta, meta::REV_CURRENT)? {
        Some(cell) => cell.as_ref().try_into().map(i64::from_be_bytes).ok(),
        None => Some(Rev::INITIAL.0),
    };
    let raised = current.and_then(|current| current.checked_add(bump));
    let raised = raised.ok_or_else(|| reader.corrupted("its newest revision cannot be read".to_owned()))?;
    let cell = |key: &'static [u8]| {
        (Table::Meta, Bytes::from_static(key), Some(Bytes::copy_from_slice(&raised.to_be_bytes())))
    };
    Ok(vec![cell(meta::REV_CURRENT), cell(meta::REV_COMPACT_SCHEDULED)])
}
