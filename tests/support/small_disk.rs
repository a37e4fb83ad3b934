//! A small file system in memory for a data directory, which a test can fill. Only root may mount one.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Room for what the log and the database take of a segment's worth of data, with a segment and a reserve ahead:
/// when the disk is filled right after the start, a segment is filled before anything is refused.
const OPTIONS: &str = "size=420m";

/// Unmounted when this is dropped.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None`, with a message, where this user cannot mount a file system.
    pub(crate) fn at(path: &Path) -> Option<SmallDisk> {
        fs::create_dir_all(path).expect("the directory for tests is writable");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", OPTIONS, "none"]).arg(path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk { path: path.to_owned() });
        }
        eprintln!("left out: this user cannot mount a small file system");
        None
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Leaves no free space.
    pub(crate) fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).expect("a file");
        for size in [1 << 20, 4096] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).expect("the disk was filled before");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
