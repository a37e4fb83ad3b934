//! The paths of the etcd tools that the suites use and compare with.
//!
//! `scripts/etcds` installs them. etcd 3.7 has to be built with Go; if it is missing, the tests compare with
//! 3.5.1. Each test program prints which of the two it used.

// No test program uses all of this file.
#![allow(dead_code)]

use std::{
    env,
    ffi::OsStr,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// The releases of etcd that the suites distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Release {
    /// Only its `etcdctl`, from Debian.
    V34,
    V35,
    V37,
}

impl Release {
    /// The releases whose `etcdctl` is installed.
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

    /// The server of a release that is more than an `etcdctl`.
    pub(crate) fn etcd(self) -> PathBuf {
        self.tool("etcd")
    }

    pub(crate) fn etcdutl(self) -> PathBuf {
        self.tool("etcdutl")
    }

    fn tool(self, name: &str) -> PathBuf {
        match self {
            Release::V34 => panic!("of 3.4 there is etcdctl alone"),
            Release::V35 => present(etcd351_folder().join(name)),
            Release::V37 => present(etcd37_folder().expect("etcd 3.7 is at hand").join(name)),
        }
    }

    /// `RETCD_TEST_CTL` names one to use in the place of all, such as a link to retcd named `etcdctl`.
    pub(crate) fn etcdctl(self) -> PathBuf {
        if let Some(named) = env::var_os("RETCD_TEST_CTL") {
            return present(PathBuf::from(named));
        }
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

/// The real etcd with which answers are compared.
pub(crate) struct Reference {
    pub(crate) etcd: PathBuf,
    pub(crate) version: (u32, u32, u32),
}

impl Reference {
    /// Whether this etcd behaves as etcd does since this version. retcd behaves like the newest.
    pub(crate) fn has(&self, since: (u32, u32, u32)) -> bool {
        self.version >= since
    }
}

/// etcd 3.7 if it is installed, else 3.5.1. `RETCD_REFERENCE=3.5` always selects 3.5.1.
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

/// The same for benches, which install the tools first, because no script does it for them.
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

/// Printed directly and not captured by `cargo test`, so that it is in the output of every run.
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

/// etcd 3.4, the last that has the version 2 API. Without it, what compares with it is left out.
pub(crate) fn etcd34() -> Option<PathBuf> {
    let folder = env::var_os("RETCD_ETCD34_DIR").map_or_else(|| tools_folder().join("etcd34"), PathBuf::from);
    let etcd = folder.join("etcd");
    if !etcd.is_file() {
        static SAID: OnceLock<()> = OnceLock::new();
        SAID.get_or_init(|| say("etcd 3.4 is not at hand: comparisons of the version 2 API are left out"));
        return None;
    }
    Some(etcd)
}

fn tools_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools")
}

fn present(tool: PathBuf) -> PathBuf {
    assert!(tool.is_file(), "{} is missing: run scripts/etcds, which brings it", tool.display());
    tool
}

/// The output and the exit status of a command.
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

/// How long a login, and a command, of `etcdctl` may take where a test says nothing of it. By itself it gives up after two
/// and after five seconds, and a machine that is busy with other tests may need longer.
pub(crate) const ETCDCTL_PATIENCE: [(&str, &str); 2] =
    [("ETCDCTL_DIAL_TIMEOUT", "30s"), ("ETCDCTL_COMMAND_TIMEOUT", "60s")];

/// Gives an `etcdctl` [`ETCDCTL_PATIENCE`], unless its arguments say how much it has: a flag and its variable must not both be set.
/// `move-leader` takes a variable for such a flag when it reads it a second time.
pub(crate) fn patient(command: &mut Command) {
    let has_its_own = |word: &OsStr| word == "move-leader" || word.to_string_lossy().contains("-timeout");
    if !command.get_args().any(has_its_own) {
        command.envs(ETCDCTL_PATIENCE);
    }
}

/// The output of `etcdctl`, or its error message.
pub(crate) fn etcdctl(endpoints: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(Release::V35.etcdctl())
        .args(["--endpoints", endpoints, "--command-timeout=60s", "--dial-timeout=30s"])
        .args(arguments)
        .env_clear()
        .output()
        .expect("etcdctl can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("etcdctl prints text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}
