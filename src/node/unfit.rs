//! Data directories that a member does not start on: one of etcd, and one whose restore was interrupted.
//!
//! Both could be taken for an empty directory, and what is in them would be overwritten. So they are
//! looked for before anything is made or changed.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use super::StartError;

/// Where `retcd snapshot restore` makes the directory of a member, until it is complete.
pub(super) const UNFINISHED: &str = "member.restoring";

/// What a database of etcd has at byte 16, in the header of its first page.
pub(super) const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
pub(super) const BBOLT_MAGIC_AT: usize = 16;

/// Refuses a data directory in which a restore was interrupted, because it would be taken for an empty
/// one.
pub(super) fn refuse_unfinished(data_dir: &Path) -> Result<(), StartError> {
    let unfinished = data_dir.join(UNFINISHED);
    if !unfinished.exists() {
        return Ok(());
    }
    Err(StartError::Refused(format!(
        "an earlier restore of a snapshot into {} was interrupted. Run `retcd snapshot restore` again, or remove {} \
         to start without the data",
        data_dir.display(),
        unfinished.display()
    )))
}

/// A directory of real etcd has the same names in it: a bbolt file, and its own log segments.
pub(super) fn refuse_etcd(member_dir: &Path) -> Result<(), StartError> {
    let is_etcd_segment =
        |name: &str| name.ends_with(".wal") && name.len() == "0000000000000000-0000000000000000.wal".len();
    let mut segments = fs::read_dir(member_dir.join("wal")).into_iter().flatten().flatten();
    let is_of_etcd = segments.any(|entry| is_etcd_segment(&entry.file_name().to_string_lossy()))
        // The log may be elsewhere.
        || is_database_of_etcd(&member_dir.join("snap").join("db"));
    if !is_of_etcd {
        return Ok(());
    }
    Err(StartError::Refused(format!(
        "{} is a data directory of etcd, which retcd cannot open in place. Start with an empty --data-dir and copy the \
         keys over with `etcdctl make-mirror`; nothing was changed",
        member_dir.display()
    )))
}

/// Whether there is a database of etcd. What cannot be read is for whoever opens it to say.
pub(super) fn is_database_of_etcd(path: &Path) -> bool {
    let mut head = [0; BBOLT_MAGIC_AT + BBOLT_MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.ends_with(&BBOLT_MAGIC)
}
