//! A library between a member and the C library. With it the real binary dials from an address that
//! identifies the member, and its disk can be slowed down.
//!
//! The proxy does not accept a member without this library, so no run passes without it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::cluster::Member;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");

/// The addresses of members begin after the usual loopback address.
const FIRST_ADDRESS: u8 = 2;

pub(crate) struct Shims {
    /// The directory of the library, and of the files through which members and this process communicate.
    home: TempDir,
}

/// The address from which a member dials.
pub(crate) fn address_of(member: usize) -> IpAddr {
    let last = u8::try_from(member).expect("members are few") + FIRST_ADDRESS;
    Ipv4Addr::new(127, 0, 0, last).into()
}

pub(crate) fn member_at(address: IpAddr) -> Option<usize> {
    let IpAddr::V4(address) = address else { return None };
    let [127, 0, 0, last] = address.octets() else { return None };
    last.checked_sub(FIRST_ADDRESS).map(usize::from)
}

impl Shims {
    pub(crate) fn compile() -> Shims {
        let home = tempfile::Builder::new()
            .prefix("shim-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the build's directory for tests is writable");
        let shims = Shims { home };
        let compiled = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", SOURCE, "-o"])
            .arg(shims.library())
            .status()
            .expect("there is a C compiler");
        assert!(compiled.success(), "{SOURCE} does not compile");
        shims
    }

    /// To be called before the member is started.
    pub(crate) fn put_under(&self, number: usize, member: &mut Member) {
        let variables = [
            ("LD_PRELOAD", self.library().display().to_string()),
            ("SHIM_ADDRESS", address_of(number).to_string()),
            ("SHIM_DELAY", self.delay(number).display().to_string()),
            ("SHIM_DELAYED", self.delayed_file(number).display().to_string()),
        ];
        member.environment.extend(variables.map(|(name, value)| (name.to_owned(), value)));
    }

    /// Delays each further sync of a member by this time.
    pub(crate) fn slow_down(&self, member: usize, by: Duration) {
        fs::write(self.delay(member), by.as_millis().to_string()).expect("our own directory is writable");
    }

    /// The number of delayed syncs of a member.
    pub(crate) fn delayed(&self, member: usize) -> u64 {
        fs::metadata(self.delayed_file(member)).map_or(0, |delayed| delayed.len())
    }

    fn library(&self) -> PathBuf {
        self.path("shim.so")
    }

    fn delay(&self, member: usize) -> PathBuf {
        self.path(&format!("{member}.delay"))
    }

    fn delayed_file(&self, member: usize) -> PathBuf {
        self.path(&format!("{member}.delayed"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(Path::new(name))
    }
}
