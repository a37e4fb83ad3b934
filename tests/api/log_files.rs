//! The log in files: rotated, opened again, on a full disk; and in the journal.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use rustix::process::Signal;

use crate::{
    server::{Launch, PATIENCE, Server, may_mount, subject_is_retcd},
    small_disk::SmallDisk,
};

/// A server that logs to stderr and to a file.
fn with_file(launch: Launch, file: &str) -> (Server, PathBuf) {
    let mut server = launch.prepare();
    let path = server.home().join(file);
    server.set_flag("log-outputs", format!("stderr,{}", path.display()));
    (server, path)
}

fn grow(path: &Path, bytes: usize) {
    let line = [b"x".repeat(1023), vec![b'\n']].concat();
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("a test may write");
    for _ in 0..bytes / line.len() {
        file.write_all(&line).expect("a test may write");
    }
}

/// The names beside `path` that satisfy `wanted`, once there are `count` of them.
fn wait_for_names(path: &Path, count: usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let since = Instant::now();
    loop {
        let entries = fs::read_dir(path.parent().expect("a directory")).expect("readable");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| wanted(name)).collect();
        names.sort();
        if names.len() == count {
            return names;
        }
        assert!(since.elapsed() < PATIENCE, "not {count} but {names:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn wait_for_text(path: &Path, words: &str) {
    let since = Instant::now();
    while !fs::read_to_string(path).is_ok_and(|text| text.contains(words)) {
        assert!(since.elapsed() < PATIENCE, "{} has no {words:?}", path.display());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_line_is_in_each_of_several_outputs() {
    let (mut server, path) = with_file(Launch::subject(), "etcd.log");
    server.start();
    let ended = server.stop();
    let file = fs::read_to_string(&path).expect("the log");
    let in_file =
        |message: &str| file.contains(message) && ended.log.iter().any(|line| line.contains(message));
    for message in ["starting an etcd server", "ready to serve client requests", "closed etcd server"] {
        assert!(in_file(message), "{message}: {file}");
    }
    assert!(file.ends_with('\n') && file.lines().all(|line| line.starts_with('{')), "{file}");
}

#[test]
fn a_file_that_is_large_enough_is_put_aside_and_a_few_are_kept() {
    let json = r#"{"maxsize": 1, "maxbackups": 2, "compress": true}"#;
    let launch = Launch::subject().argument("--enable-log-rotation").flag("log-rotation-config-json", json);
    let (mut server, path) = with_file(launch, "etcd.log");
    for _ in 0..4 {
        grow(&path, 1 << 20);
        server.start();
        server.stop();
        // Compressing may be under way when a server ends. The next one finishes it.
        wait_for_text(&path, "closed etcd server");
    }
    server.start();
    let is_aside = |name: &str| name.starts_with("etcd-2") && name.ends_with(".log.gz");
    let names = wait_for_names(&path, 2, is_aside);
    wait_for_names(&path, 0, |name| name.starts_with("etcd-2") && !is_aside(name));
    server.stop();
    for name in names {
        let mut text = String::new();
        let file = fs::File::open(path.with_file_name(&name)).expect("it is there");
        GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
        assert!(text.len() >= 1 << 20 && text.contains("xxxx"), "{name}: {} bytes", text.len());
    }
    let newest = fs::read_to_string(&path).expect("the log");
    assert!(newest.len() < 1 << 20 && newest.contains("ready to serve client requests"));
}

#[test]
fn wrong_settings_of_rotation_are_refused_in_etcds_words() {
    let cases = [
        (vec![], "--log-outputs requires a single file path when --log-rotate-config-json is defined"),
        (
            vec!["--log-outputs=/tmp/a,/tmp/b"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            vec!["--log-outputs=/tmp/a", "--log-rotation-config-json={x"],
            "improperly formatted log rotation config: ",
        ),
        (
            vec!["--log-outputs=/tmp/a", r#"--log-rotation-config-json={"maxsize": true}"#],
            "invalid log rotation config: ",
        ),
        (vec!["--log-outputs=default,stderr"], r#"multi logoutput for \"default\" is not supported yet"#),
    ];
    for (arguments, words) in cases {
        let mut launch = Launch::subject().argument("--enable-log-rotation");
        for argument in &arguments {
            launch = launch.argument(argument);
        }
        let ended = launch.prepare().start_refused();
        assert_eq!(ended.status.code(), Some(1), "{:#?}", ended.log);
        assert!(ended.log.iter().any(|line| line.contains(words)), "{arguments:?}: {:#?}", ended.log);
    }
}

#[test]
fn a_file_that_was_renamed_is_opened_again_at_a_hangup() {
    if !subject_is_retcd() {
        eprintln!("left out: SIGHUP ends etcd");
        return;
    }
    let (mut server, path) = with_file(Launch::subject(), "etcd.log");
    server.start();
    let old = path.with_file_name("etcd.log.1");
    wait_for_text(&path, "ready to serve client requests");
    fs::rename(&path, &old).expect("renamed");
    server.signal(Signal::HUP);
    wait_for_text(&path, "opened the log file again");
    server.stop();
    let new = fs::read_to_string(&path).expect("the new one");
    let old = fs::read_to_string(old).expect("the old one");
    assert!(new.contains("closed etcd server") && !new.contains("ready to serve client requests"), "{new}");
    assert!(old.contains("ready to serve client requests") && !old.contains("closed etcd server"), "{old}");
}

#[test]
fn without_a_file_a_hangup_ends_the_server_as_it_ends_etcd() {
    let mut server = Launch::subject().start();
    server.signal(Signal::HUP);
    let ended = server.wait_for_end();
    assert!(!ended.status.success(), "{}", ended.status);
}

#[tokio::test]
async fn a_log_on_a_full_disk_loses_lines_and_stops_nobody() {
    let mut server = Launch::subject().prepare();
    let place = server.home().join("logs");
    let Some(disk) = SmallDisk::at(&place) else { return };
    let path = place.join("etcd.log");
    let outputs = format!("stderr,{}", path.display());
    server.set_flag("log-outputs", outputs);
    server.start();
    wait_for_text(&path, "ready to serve client requests");
    disk.fill();
    let client = server.client();
    for number in 0..200 {
        let revision = client.put("k", number.to_string()).await;
        // Each compaction is a few lines of the log.
        client.compact(revision).await;
    }
    if !subject_is_retcd() {
        return;
    }
    server.wait_for_line("cannot write the log; lines are lost");
    disk.free();
    let revision = client.put("k", "last").await;
    client.compact(revision).await;
    let line = server.wait_for_line("the log can be written again; it lacks lines");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert!(line["lines"].as_u64().is_some_and(|lines| lines > 0), "{line}");
    server.stop();
    let text = fs::read_to_string(&path).expect("the log");
    assert!(text.contains("closed etcd server"), "{text}");
    for line in text.lines().filter(|line| line.starts_with('{') && line.ends_with('}')) {
        serde_json::from_str::<serde_json::Value>(line).expect("a whole line is JSON");
    }
}

#[test]
fn the_journal_gets_each_line_with_its_priority() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let journal = UnixDatagram::bind(dir.path().join("socket")).expect("the path is free");
    journal.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
    // A `/run` of its own, so that no journal of this machine is written to.
    let mounts = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind {} /run/systemd/journal",
        dir.path().display()
    );
    let outputs = if subject_is_retcd() { "systemd/journal,stderr" } else { "systemd/journal" };
    let mut server = Launch::subject().mounts(&mounts).flag("log-outputs", outputs).prepare();
    if !subject_is_retcd() || !may_mount() {
        eprintln!("left out: this user cannot mount, or etcd has no other output to tell when it is ready");
        return;
    }
    server.start();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let len = journal.recv(&mut buffer).expect("a line comes");
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        if text.contains("ready to serve client requests") {
            assert!(text.starts_with("MESSAGE={\"level\":\"info\""), "{text}");
            for field in ["\nPRIORITY=6\n", "\nSYSLOG_IDENTIFIER=retcd\n", "\nPACKAGE="] {
                assert!(text.contains(field), "{text}");
            }
            break;
        }
    }
}

#[test]
fn a_journal_that_is_not_there_is_named() {
    if !may_mount() {
        eprintln!("left out: this user cannot mount");
        return;
    }
    let launch = Launch::subject().mounts("mount -t tmpfs none /run").flag("log-outputs", "systemd/journal");
    let ended = launch.prepare().start_refused();
    assert_eq!(ended.status.code(), Some(1), "{:#?}", ended.log);
    let words = "can't find journal (dial unixgram /run/systemd/journal/socket: ";
    assert!(ended.log.iter().any(|line| line.contains(words)), "{:#?}", ended.log);
}
