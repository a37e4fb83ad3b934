//! Data directories that a member does not start on: one of etcd, and one whose restore was interrupted.
//!
//! Both could be taken for an empty directory, and what is in them would be overwritten. So they are
//! looked for before anything is made or changed.

use std::path::Path;

use super::StartError;
use crate::{bbolt::is_bbolt, disk::Disks};

/// Where `retcd snapshot restore` makes the directory of a member, until it is complete.
pub(super) const UNFINISHED: &str = "member.restoring";

/// Refuses a data directory in which a restore was interrupted, because it would be taken for an empty
/// one.
pub(super) fn refuse_unfinished(disks: &dyn Disks, data_dir: &Path) -> Result<(), StartError> {
    let unfinished = data_dir.join(UNFINISHED);
    if !disks.holds(&unfinished) {
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
pub(super) fn refuse_etcd(disks: &dyn Disks, data_dir: &Path) -> Result<(), StartError> {
    let member_dir = data_dir.join("member");
    let is_etcd_segment =
        |name: &str| name.ends_with(".wal") && name.len() == "0000000000000000-0000000000000000.wal".len();
    let names = disks.open(&member_dir.join("wal")).and_then(|wal| wal.list()).unwrap_or_default();
    let is_of_etcd = names.iter().any(|name| is_etcd_segment(&name.to_string_lossy()))
        // The log may be elsewhere.
        || is_database_of_etcd(disks, &member_dir.join("snap"));
    if !is_of_etcd {
        return Ok(());
    }
    Err(StartError::Refused(format!(
        "{} is a data directory of etcd, which retcd cannot open in place. Stop etcd and run `retcd import {} --data-dir \
         NEW`, then start retcd with --data-dir NEW; nothing was changed",
        member_dir.display(),
        data_dir.display()
    )))
}

/// Whether the database in this directory is one of etcd. A file that cannot be read is not: opening
/// it will fail, and say why.
fn is_database_of_etcd(disks: &dyn Disks, snap_dir: &Path) -> bool {
    let mut head = [0; 64];
    let file = disks.open(snap_dir).and_then(|snap| snap.open_to_read(Path::new("db")));
    file.is_ok_and(|file| file.read_at(&mut head, 0).is_ok()) && is_bbolt(&head)
}
