//! Backups that the server makes by itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    http,
    server::{Launch, PATIENCE, Server, serve_with, subject_is_retcd, subject_program},
    small_disk::SmallDisk,
};

/// The files of a directory, oldest backup first.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn backups(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|path| path.extension().is_some_and(|end| end == "db")).collect()
}

/// Waits until a condition holds that the server brings about.
fn wait_until(server: &Server, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come:\n{}", server.log().join("\n"));
        thread::sleep(Duration::from_millis(20));
    }
}

fn metric(server: &Server, name: &str) -> f64 {
    let metrics = http::get(server.client_port, "/metrics").body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect("the metric is there").parse().expect("it is a number")
}

fn launch(dir: &Path) -> Launch {
    Launch::subject().flag("backup-dir", dir.display()).flag("backup-interval", "1s")
}

#[tokio::test]
async fn backups_are_made_verified_rotated_and_restored() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd makes no backups by itself");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("not/there/yet");
    let (server, client) = serve_with(launch(&dir).flag("backup-retain", "2"));
    let revision = client.put("k", "v").await;
    let has = |dir: &Path, revision: i64| {
        backups(dir).into_iter().find(|path| path.to_string_lossy().ends_with(&format!("-r{revision}.db")))
    };
    wait_until(&server, "a backup", || has(&dir, revision).is_some());
    // An old one, and a file that is none of the server's.
    fs::write(dir.join("mine.db"), "precious").expect("a test may write");
    let first = has(&dir, revision).expect("it was there");
    let second = client.put("k", "w").await;
    wait_until(&server, "a newer backup", || has(&dir, second).is_some());
    wait_until(&server, "the end of the first", || !first.exists());
    wait_until(&server, "room", || backups(&dir).len() <= 3);
    assert!(dir.join("mine.db").exists(), "the server removes its own files only");

    assert!(metric(&server, "retcd_backup_last_success_timestamp_seconds") > 1.7e9);
    assert!(metric(&server, "retcd_backup_last_size_bytes") > 4096.0);
    assert!(metric(&server, "retcd_backup_successes_total") >= 2.0);
    assert_eq!(metric(&server, "retcd_backup_failures_total"), 0.0);
    let said = server.log().iter().any(|line| line.contains("made a backup and read it again"));
    assert!(said, "{:#?}", server.log());

    let kept = home.path().join("kept.db");
    fs::copy(has(&dir, second).expect("the newest is kept"), &kept).expect("it can be copied");
    let mut restored = Launch::subject().prepare();
    let mut restore = Command::new(subject_program());
    restore.args(["snapshot", "restore"]).arg(&kept).arg("--data-dir").arg(restored.data_dir());
    let output = restore.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    restored.start();
    assert_eq!(restored.client().get("k").await.expect("the key").value, "w");
}

#[tokio::test]
async fn a_restart_does_not_make_a_backup_before_it_is_due() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd makes no backups by itself");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("backups");
    let (mut server, client) = serve_with(launch(&dir));
    client.put("k", "v").await;
    wait_until(&server, "a backup", || !backups(&dir).is_empty());
    server.stop();
    let before = backups(&dir);
    server.set_flag("backup-interval", "1h");
    server.start();
    // It has looked at the directory when the metric tells what is there.
    wait_until(&server, "a look", || metric(&server, "retcd_backup_last_success_timestamp_seconds") > 0.0);
    assert_eq!(metric(&server, "retcd_backup_successes_total"), 0.0);
    assert_eq!(backups(&dir), before);
}

#[tokio::test]
async fn a_backup_without_space_costs_no_earlier_one_and_is_made_up_for() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd makes no backups by itself");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("small");
    let Some(disk) = SmallDisk::at(&dir) else { return };
    let (server, client) = serve_with(launch(&dir).flag("backup-retain", "1"));
    client.put("k", "v").await;
    wait_until(&server, "a backup", || !backups(&dir).is_empty());
    disk.fill();
    wait_until(&server, "a failure", || metric(&server, "retcd_backup_failures_total") >= 1.0);
    let line = server.log().into_iter().find(|line| line.contains("a backup has failed"));
    let line = line.expect("the log tells of it");
    assert!(line.contains("no space in") && line.contains(&dir.display().to_string()), "{line}");
    let kept = backups(&dir);
    assert_eq!(kept.len(), 1, "the one before is kept");
    assert!(!files(&dir).iter().any(|path| path.extension().is_some_and(|end| end == "part")));
    let revision = client.put("k", "the member itself goes on").await;
    disk.free();
    wait_until(&server, "a backup", || {
        backups(&dir).iter().any(|path| path.to_string_lossy().ends_with(&format!("-r{revision}.db")))
    });
}
