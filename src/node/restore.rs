//! Making a data directory out of a snapshot.
//!
//! A snapshot file is an image of the database and, behind it, the SHA-256 of the image, as
//! `etcdctl snapshot save` writes it. The image says which member it was taken from and how far
//! into which log it reached; a restored member is a new one with a log of its own, so that is
//! taken out. What stays is the data: keys with their revisions, leases (their time starts
//! again), alarms.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{StartError, boot, snapshot};
use crate::{
    limits,
    mvcc::Store,
    raft::Replica,
    storage::{Database, StorageError},
};

const DIGEST_LEN: u64 = 32;

/// What a restored directory holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restored {
    pub(crate) revision: i64,
    pub(crate) keys: usize,
}

/// Fills `data_dir`, which must not hold a member yet. If it fails, the directory is as it was or
/// holds only what the next attempt replaces.
pub(crate) fn restore(file: &Path, data_dir: &Path) -> Result<Restored, StartError> {
    let member_dir = data_dir.join("member");
    if member_dir.join("wal").exists() || snapshot::snap_dir(data_dir).join("db").exists() {
        return Err(StartError::Refused(format!(
            "{} holds a member already; choose an empty --data-dir, or move that one away first",
            data_dir.display()
        )));
    }
    let snap_dir = snapshot::snap_dir(data_dir);
    DirBuilder::new().recursive(true).mode(0o700).create(&snap_dir).map_err(io_error("create", &snap_dir))?;
    let path = snap_dir.join("db");
    let draft = snap_dir.join("db.restoring");
    copy_checked(file, &draft)?;
    {
        let database = Database::open(&draft, limits::DATABASE_CACHE_BYTES)?;
        let mut checkpoint = Replica::forget();
        checkpoint.cells.extend(boot::forget_member());
        database.commit(&checkpoint)?;
    }
    fs::rename(&draft, &path).map_err(io_error("rename", &draft))?;
    File::open(&snap_dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", &snap_dir))?;
    let store = Store::open(Arc::new(Database::open(&path, limits::DATABASE_CACHE_BYTES)?))?;
    Ok(Restored { revision: store.rev_current().0, keys: store.keys_live() })
}

/// Copies the image and compares its digest with the one that stands behind it.
fn copy_checked(file: &Path, target: &Path) -> Result<(), StartError> {
    let mut source = File::open(file).map_err(io_error("open", file))?;
    let len = source.metadata().map_err(io_error("stat", file))?.len();
    let not_a_snapshot = || {
        StartError::Refused(format!(
            "{} is not a snapshot as `etcdctl snapshot save` writes it: its length does not fit",
            file.display()
        ))
    };
    let image_len =
        len.checked_sub(DIGEST_LEN).filter(|len| *len > 0 && len % 512 == 0).ok_or_else(not_a_snapshot)?;
    let mut copy = File::create(target).map_err(io_error("create", target))?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 1024 * 1024];
    let mut image = (&mut source).take(image_len);
    loop {
        let read = image.read(&mut piece).map_err(io_error("read", file))?;
        if read == 0 {
            break;
        }
        digest.update(&piece[..read]);
        copy.write_all(&piece[..read]).map_err(io_error("write", target))?;
    }
    let mut expected = [0; DIGEST_LEN as usize];
    source.read_exact(&mut expected).map_err(io_error("read", file))?;
    if digest.finalize()[..] != expected {
        return Err(StartError::Refused(format!(
            "{} is damaged: its content does not match its checksum. Nothing was restored; take another snapshot",
            file.display()
        )));
    }
    copy.sync_all().map_err(io_error("sync", target))?;
    Ok(())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path: PathBuf = path.to_owned();
    move |source| StorageError::Io { action, path, source }
}
