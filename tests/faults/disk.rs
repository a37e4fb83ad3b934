//! Disks that can be made slow while a member runs on them.
//!
//! A library that is put before the C library in the member's process makes each fsync and
//! fdatasync wait first, for as long as a file says at that moment, and counts those that waited.

use std::{fs, path::Path, process::Command, time::Duration};

use tempfile::TempDir;

use crate::cluster::Member;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/slow_disk.c");

pub(crate) struct Disk {
    /// Holds the library and the two files that this process and the member talk through.
    home: TempDir,
}

impl Disk {
    /// Puts one under a member that does not run yet. It is as fast as it is.
    pub(crate) fn under(member: &mut Member) -> Disk {
        let home = tempfile::Builder::new()
            .prefix("disk-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the build's directory for tests is writable");
        let library = home.path().join("slow_disk.so");
        let compiled = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", SOURCE, "-o"])
            .arg(&library)
            .status()
            .expect("there is a C compiler");
        assert!(compiled.success(), "{SOURCE} does not compile");
        let disk = Disk { home };
        for (name, path) in [
            ("LD_PRELOAD", library.as_path()),
            ("SLOW_DISK", &disk.delay()),
            ("SLOW_DISK_DONE", &disk.done()),
        ] {
            member.environment.push((name.to_owned(), path.display().to_string()));
        }
        disk
    }

    /// From now on each sync takes so much longer.
    pub(crate) fn slow_down(&self, by: Duration) {
        fs::write(self.delay(), by.as_millis().to_string()).expect("our own directory is writable");
    }

    pub(crate) fn recover(&self) {
        self.slow_down(Duration::ZERO);
    }

    /// How many syncs have waited.
    pub(crate) fn delayed(&self) -> u64 {
        fs::metadata(self.done()).map_or(0, |done| done.len())
    }

    fn delay(&self) -> Box<Path> {
        self.home.path().join("delay").into()
    }

    fn done(&self) -> Box<Path> {
        self.home.path().join("done").into()
    }
}
