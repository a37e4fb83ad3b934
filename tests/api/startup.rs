//! How a server starts, and how it fails to: with one clear line and the right exit code.

use std::{fs, net::TcpListener, os::unix::ffi::OsStrExt, process::Command};

use crate::{
    http,
    pb::etcdserverpb::PutRequest,
    server::{Ended, Launch, serve_with, subject_is_retcd, subject_program},
};

/// Checks the exit code of a refusal, and a text in its output, in upper or lower case.
#[track_caller]
fn says(ended: &Ended, code: i32, words: &str) {
    assert_eq!(ended.status.code(), Some(code), "{:#?}", ended.log);
    let found = ended.log.iter().any(|line| line.to_lowercase().contains(words));
    assert!(found, "no line says {words:?}: {:#?}", ended.log);
}

fn refused(launch: Launch) -> Ended {
    launch.prepare().start_refused()
}

#[test]
fn version_is_printed_for_tools_to_parse() {
    let output = Command::new(subject_program()).arg("--version").output().expect("it runs");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let version = lines.next().and_then(|line| line.strip_prefix("etcd Version: ")).expect("the first line");
    assert_eq!(version.split('.').count(), 3, "{version}");
    assert!(lines.any(|line| line.starts_with("Git SHA: ")), "{text}");
}

#[test]
fn help_is_printed() {
    let output = Command::new(subject_program()).arg("--help").output().expect("it runs");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for flag in ["--data-dir", "--listen-client-urls", "--quota-backend-bytes"] {
        assert!(text.contains(flag), "no {flag}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    // A single member does not open its peer port.
    let ports = if subject_is_retcd() { &["client"][..] } else { &["client", "peer"] };
    for busy in ports {
        let mut server = Launch::subject().prepare();
        let port = if *busy == "client" { server.client_port } else { server.peer_port };
        let _occupied = TcpListener::bind(("127.0.0.1", port)).expect("the port was free");
        says(&server.start_refused(), 1, "address already in use");
    }
}

#[test]
fn a_directory_that_cannot_be_is_refused() {
    let server = Launch::subject().prepare();
    let file = server.home().join("file");
    fs::write(&file, "not a directory").expect("a test may write");
    for path in [file.join("data"), file.clone()] {
        let ended = refused(Launch::subject().flag("data-dir", path.display()));
        assert_eq!(ended.status.code(), Some(1), "{:#?}", ended.log);
        assert!(ended.log.iter().any(|line| line.contains(&file.display().to_string())), "{:#?}", ended.log);
    }
}

#[test]
fn wrong_flags_end_with_two() {
    for argument in
        ["--no-such-flag", "--quota-backend-bytes=many", "--heartbeat-interval=soon", "--pre-vote=perhaps"]
    {
        let ended = refused(Launch::subject().argument(argument));
        assert_eq!(ended.status.code(), Some(2), "{argument}: {:#?}", ended.log);
        assert!(!ended.log.is_empty());
    }
}

/// The name and the URLs of the member are more than a request may have, and are published nevertheless.
#[tokio::test]
async fn a_small_limit_of_requests_is_for_clients_alone() {
    if !subject_is_retcd() {
        return;
    }
    // etcd starts with this flag, but never succeeds in publishing its name.
    says(&refused(Launch::subject().flag("max-request-bytes", 30)), 1, "--max-request-bytes 30");
    let name = "n".repeat(300);
    let mut server = Launch::subject().flag("name", &name).flag("max-request-bytes", 128).prepare();
    server.set_flag("initial-cluster", format!("{name}=http://127.0.0.1:{}", server.peer_port));
    server.start();
    let client = server.client();
    client.put("k", "v").await;
    let refused =
        client.try_put(PutRequest { key: "k".into(), value: vec![0; 200].into(), ..PutRequest::default() });
    assert_eq!(refused.await.expect_err("it is too large").message(), "etcdserver: request is too large");
    let failures = server.log().iter().filter(|line| line.contains("failed to publish")).count();
    assert_eq!(failures, 0);
}

#[test]
fn the_environment_need_not_be_text() {
    let output = Command::new(subject_program())
        .arg("--version")
        .env("FOO", std::ffi::OsStr::from_bytes(b"\xff"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn flags_that_contradict_end_with_one() {
    let cases = [
        (vec!["--auto-compaction-mode=sometimes"], "auto-compaction-mode"),
        (vec!["--election-timeout=100", "--heartbeat-interval=100"], "election"),
        (vec!["--election-timeout=60000"], "election"),
        (vec!["stray"], "stray"),
        (vec!["--initial-cluster=other=http://127.0.0.1:1"], "default"),
    ];
    for (arguments, words) in cases {
        let mut launch = Launch::subject();
        for argument in &arguments {
            launch = launch.argument(argument);
        }
        says(&refused(launch), 1, words);
    }
    let only_listening = Launch::subject().bare().flag("listen-client-urls", "http://127.0.0.1:1");
    says(&refused(only_listening), 1, "advertise-client-urls");
    let named = Launch::subject().bare().flag("listen-peer-urls", "http://example.invalid:1");
    says(&refused(named), 1, "expected ip in url for binding");
}

#[tokio::test]
async fn flags_come_from_the_environment_too() {
    let launch = Launch::subject().environment("ETCD_QUOTA_BACKEND_BYTES", "123456789");
    let (server, _client) = serve_with(launch);
    assert_eq!(http::metric(&server, "etcd_server_quota_backend_bytes"), Some(123_456_789.0));
    let both = Launch::subject().flag("name", "default").environment("ETCD_NAME", "other");
    says(&refused(both), 1, "conflicting environment variable");
}

#[tokio::test]
async fn a_configuration_file_takes_the_place_of_flags() {
    let server = Launch::subject().prepare();
    let (client, peer) = (
        format!("http://127.0.0.1:{}", server.client_port),
        format!("http://127.0.0.1:{}", server.peer_port),
    );
    let file = server.home().join("etcd.yaml");
    let text = format!(
        "name: from-file\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
         listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: from-file={peer}\n\
         quota-backend-bytes: 987654321\n",
        server.data_dir().display()
    );
    fs::write(&file, text).expect("a test may write");
    let mut configured = Launch::subject().bare().flag("config-file", file.display()).prepare();
    configured.client_port = server.client_port;
    configured.start();
    let client = configured.client();
    assert_eq!(client.put("k", "v").await, 2);
    assert_eq!(http::metric(&configured, "etcd_server_quota_backend_bytes"), Some(987_654_321.0));
}

#[test]
fn a_foreign_directory_is_left_alone() {
    if !subject_is_retcd() {
        return;
    }
    let mut etcd = Launch::reference().start();
    etcd.stop();
    let database = etcd.database();
    let before = fs::read(&database).expect("etcd left a database");
    let ended = refused(Launch::subject().flag("data-dir", etcd.data_dir().display()));
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.log.iter().any(|line| line.contains(&etcd.data_dir().display().to_string())),
        "{:#?}",
        ended.log
    );
    assert_eq!(fs::read(&database).expect("it is still there"), before, "not a byte was changed");
    etcd.start();
}

#[test]
fn a_directory_of_a_newer_version_is_left_alone() {
    if !subject_is_retcd() {
        return;
    }
    let mut server = Launch::subject().start();
    server.stop();
    {
        // Each cell begins with the checksum of its key and what follows.
        let (key, version) = (b"format_version".as_slice(), 999_u64.to_be_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &version);
        let cell = [&checksum.to_le_bytes()[..], &version].concat();
        let database = redb::Database::open(server.database()).expect("the database can be opened");
        let change = database.begin_write().expect("it can be written");
        {
            let definition = redb::TableDefinition::<&[u8], &[u8]>::new("meta");
            let mut table = change.open_table(definition).expect("it has this table");
            let before = table.insert(key, cell.as_slice()).expect("it can be written");
            assert_eq!(before.expect("it had a format").value().len(), cell.len());
        }
        change.commit().expect("it can be written");
    }
    let ended = server.start_refused();
    assert_eq!(ended.status.code(), Some(1));
    let line = ended.log.iter().find(|line| line.contains("format 999")).expect("a line names the format");
    assert!(line.contains(&server.database().display().to_string()), "{line}");
}

#[test]
fn every_line_of_the_log_is_an_object_of_json() {
    let mut server = Launch::subject().flag("log-level", "debug").start();
    for line in server.stop().log {
        let value: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["level", "ts", "msg"] {
            assert!(value[field].as_str().is_some_and(|text| !text.is_empty()), "{line}");
        }
        assert_ne!(value["level"], "error", "{line}");
    }
}
