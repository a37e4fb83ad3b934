//! Where the tools of a stock etcd lie that the suites speak through and compare with.
//!
//! `scripts/etcds` brings them. etcd 3.7 has to be built, with Go; where it is not at hand, everything
//! that is compared with etcd is compared with 3.5.1, and each test program says which of the two it was.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// A release of etcd, to the extent that the suites tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Release {
    /// Only the etcdctl of it, as Debian ships it.
    V34,
    V35,
    V37,
}

impl Release {
    /// Those whose etcdctl is at hand.
    pub(crate) fn of_etcdctl() -> Vec<Release> {
        let mut releases = vec![Release::V34, Release::V35];
        if etcd37_folder().is_some() {
            releases.push(Release::V37);
        } else {
            static SAID: OnceLock<()> = OnceLock::new();
            SAID.get_or_init(|| say("etcdctl 3.7 is not at hand: its sessions are left out"));
        }
        releases
    }

    pub(crate) fn etcdctl(self) -> PathBuf {
        match self {
            Release::V34 => {
                let named = env::var_os("RETCD_ETCDCTL34");
                present(named.map_or_else(|| PathBuf::from("/usr/bin/etcdctl"), PathBuf::from))
            }
            Release::V35 => present(etcd351_folder().join("etcdctl")),
            Release::V37 => present(etcd37_folder().expect("etcd 3.7 is at hand").join("etcdctl")),
        }
    }
}

/// The real etcd that answers are compared with.
pub(crate) struct Reference {
    pub(crate) etcd: PathBuf,
    pub(crate) version: (u32, u32, u32),
}

impl Reference {
    /// Whether it behaves as etcd has done since that version. What is asked for is where releases of
    /// etcd differ from one another; retcd behaves as the newest.
    pub(crate) fn has(&self, since: (u32, u32, u32)) -> bool {
        self.version >= since
    }
}

/// etcd 3.7 where it is at hand, else 3.5.1. `RETCD_REFERENCE=3.5` takes 3.5.1 in any case.
pub(crate) fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let folder = match env::var("RETCD_REFERENCE").as_deref() {
            Err(_) | Ok("") => etcd37_folder().unwrap_or_else(etcd351_folder),
            Ok("3.7") => {
                etcd37_folder().expect("RETCD_REFERENCE=3.7, and there is no etcd 3.7: run scripts/etcds")
            }
            Ok("3.5") => etcd351_folder(),
            Ok(other) => panic!("RETCD_REFERENCE is 3.7 or 3.5, and not {other}"),
        };
        let etcd = present(folder.join("etcd"));
        let version = version_of(&etcd);
        say(&format!("compared with etcd {}.{}.{} ({})", version.0, version.1, version.2, etcd.display()));
        Reference { etcd, version }
    })
}

/// The same, brought first, for benches: no script that has done it starts them.
pub(crate) fn brought_reference() -> Result<&'static Reference, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/etcds");
    match Command::new(&script).args(["etcd351", "etcd37"]).status() {
        Ok(status) if status.success() => Ok(reference()),
        Ok(status) => Err(format!("{}: {status}", script.display())),
        Err(error) => Err(format!("{}: {error}", script.display())),
    }
}

fn version_of(etcd: &Path) -> (u32, u32, u32) {
    let output = Command::new(etcd).arg("--version").output().expect("etcd can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().and_then(|line| line.strip_prefix("etcd Version: "));
    let mut numbers = first.unwrap_or_default().split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => (major, minor, patch),
        _ => panic!("{} --version says no version: {text}", etcd.display()),
    }
}

/// Past what cargo test captures: whoever reads the output of a run has to see it.
fn say(line: &str) {
    writeln!(io::stderr(), "{line}").ok();
}

fn etcd351_folder() -> PathBuf {
    env::var_os("RETCD_ETCD351_DIR").map_or_else(|| tools_folder().join("etcd351"), PathBuf::from)
}

fn etcd37_folder() -> Option<PathBuf> {
    match env::var_os("RETCD_ETCD37_DIR") {
        Some(named) => Some(PathBuf::from(named)),
        None => Some(tools_folder().join("etcd37")).filter(|folder| folder.is_dir()),
    }
}

fn tools_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools")
}

fn present(tool: PathBuf) -> PathBuf {
    assert!(tool.is_file(), "{} is missing: run scripts/etcds, which brings it", tool.display());
    tool
}

/// What a command left behind.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Seen {
    pub(crate) fn of(output: &Output) -> Seen {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Seen { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// What etcdctl prints, or what it complains of.
pub(crate) fn etcdctl(endpoints: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(Release::V35.etcdctl())
        .args(["--endpoints", endpoints, "--command-timeout=20s", "--dial-timeout=10s"])
        .args(arguments)
        .env_clear()
        .output()
        .expect("etcdctl can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("etcdctl prints text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}
