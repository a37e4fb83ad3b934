//! Programs in Go that use etcd's own client, `clientv3`, on a real etcd and on the server under test. What they print
//! must be the same.
//!
//! They are built with the Go that is installed, once for each state of their source, from etcd's published modules. If
//! there is no Go, or the modules cannot be had, the test says so and leaves the programs out.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use crate::server::{Launch, Server};

const CLIENT: &str = "go.etcd.io/etcd/client/v3@v3.7.3";
const AUTH: &str = include_str!("clientv3/auth.go");

/// How long Go may take, in seconds. It has to compile gRPC the first time.
const BUILD_PATIENCE: &str = "240";

#[test]
fn clientv3_logs_in_and_logs_in_again() {
    let Some(program) = built("auth", AUTH) else { return };
    let lines = |launch: Launch| {
        let server = launch.flag("auth-token-ttl", 1).flag("bcrypt-cost", 4).start();
        printed(&program, &server)
    };
    let (reference, subject) = (lines(Launch::reference()), lines(Launch::subject()));
    assert!(reference.lines().count() > 80, "the program goes to its end: {reference}");
    assert_eq!(reference, subject, "etcd (left) and ours (right)");
}

fn printed(program: &Path, server: &Server) -> String {
    let output = Command::new(program).arg(server.endpoint()).output().expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

/// The program, built now or before.
fn built(name: &str, source: &str) -> Option<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (CLIENT, source).hash(&mut hasher);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/clientv3");
    let program = folder.join(format!("{name}-{:x}", hasher.finish()));
    if program.is_file() {
        return Some(program);
    }
    fs::create_dir_all(&folder).expect("the build's directory is writable");
    let work = tempfile::tempdir_in(&folder).expect("the build's directory is writable");
    fs::write(work.path().join("main.go"), source).expect("it is writable");
    fs::write(work.path().join("go.mod"), "module retcd/clientv3\n\ngo 1.26\n").expect("it is writable");
    let made = go(work.path(), &["get", CLIENT])
        .and_then(|()| go(work.path(), &["mod", "tidy"]))
        .and_then(|()| go(work.path(), &["build", "-trimpath", "-o", "program", "."]));
    match made {
        Ok(()) => {
            // One step, because another test run may do the same.
            fs::rename(work.path().join("program"), &program).expect("it is the same file system");
            Some(program)
        }
        Err(reason) => {
            // Printed directly and not captured, so that it is in the output of every run.
            writeln!(io::stderr(), "clientv3 is not at hand, and its programs are left out: {reason}").ok();
            None
        }
    }
}

fn go(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    // What somebody set for Go modules of his own must not steer this build.
    let made = Command::new("timeout")
        .args([BUILD_PATIENCE, "go"])
        .args(arguments)
        .current_dir(folder)
        .env("GOFLAGS", "")
        .env("GOWORK", "off")
        .env("CGO_ENABLED", "0")
        .output();
    match made {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(said.lines().last().unwrap_or("go failed").to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}
