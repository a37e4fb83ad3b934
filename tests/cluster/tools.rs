//! etcd's own tool, for what an operator types.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The `etcdctl` of release 3.5.1.
fn etcdctl_path() -> PathBuf {
    let folder = env::var_os("RETCD_ETCD351_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/etcd351"), PathBuf::from);
    let tool = folder.join("etcdctl");
    assert!(tool.is_file(), "{} is missing: run scripts/test, which installs it", tool.display());
    tool
}

/// What etcdctl prints, or what it complains of.
pub(crate) fn etcdctl(endpoints: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(etcdctl_path())
        .args(["--endpoints", endpoints, "--command-timeout=20s", "--dial-timeout=10s"])
        .args(arguments)
        .env_clear()
        .output()
        .expect("etcdctl can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("etcdctl prints text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}
