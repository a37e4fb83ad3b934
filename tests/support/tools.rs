//! Where the tools of a stock etcd lie that the suite speaks through and compares with.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// `etcd`, `etcdctl` or `etcdutl` of release 3.5.1.
pub(crate) fn etcd351(tool: &str) -> PathBuf {
    let folder = env::var_os("RETCD_ETCD351_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/etcd351"), PathBuf::from);
    present(folder.join(tool))
}

/// The `etcdctl` of release 3.4, as Debian ships it.
pub(crate) fn etcdctl34() -> PathBuf {
    present(env::var_os("RETCD_ETCDCTL34").map_or_else(|| PathBuf::from("/usr/bin/etcdctl"), PathBuf::from))
}

fn present(tool: PathBuf) -> PathBuf {
    assert!(tool.is_file(), "{} is missing: run scripts/test, which installs it", tool.display());
    tool
}

/// A release of etcdctl.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Release {
    V34,
    V35,
}

impl Release {
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Release::V34 => etcdctl34(),
            Release::V35 => etcd351("etcdctl"),
        }
    }
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
    let output = Command::new(etcd351("etcdctl"))
        .args(["--endpoints", endpoints, "--command-timeout=20s", "--dial-timeout=10s"])
        .args(arguments)
        .env_clear()
        .output()
        .expect("etcdctl can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("etcdctl prints text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}
