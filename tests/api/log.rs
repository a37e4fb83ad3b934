//! The log has etcd's messages for which tools look, with the fields that they read.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::Path,
    process::Command,
};

use serde_json::Value;

use crate::{
    client::Client,
    pb::etcdserverpb::{
        AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, alarm_request::AlarmAction,
    },
    server::{Ended, Launch, serve_with, subject_is_retcd, subject_program},
};

/// The lines of a log, by message. Some lines of etcd are not JSON.
fn by_message(ended: &Ended) -> BTreeMap<String, Value> {
    let lines = ended.log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|line| (line["msg"].as_str().expect("a message").to_owned(), line)).collect()
}

/// Waits until the compacted records are removed from the disk.
async fn compact(client: &Client, revision: i64) {
    let request = CompactionRequest { revision, physical: true };
    client.kv().compact(request).await.expect("history can be compacted");
}

async fn defragment(client: &Client) {
    client.maintenance().defragment(DefragmentRequest {}).await.expect("it can be defragmented");
}

/// A server that has served most kinds of requests about which etcd logs a line.
async fn after_a_session(launch: Launch) -> BTreeMap<String, Value> {
    let mut server = launch.start();
    let client = server.client();
    client.put("k", "1").await;
    let rev = client.put("k", "2").await;
    compact(&client, rev).await;
    defragment(&client).await;
    by_message(&server.stop())
}

/// Every message that both servers log has the same fields in both. retcd's may have further fields, and may
/// lack fields for things that retcd does not have.
#[tokio::test]
async fn lines_that_etcd_has_too_have_its_fields() {
    let ours = after_a_session(Launch::subject()).await;
    let theirs = after_a_session(Launch::reference()).await;
    let fields = |line: &Value| -> BTreeSet<String> {
        line.as_object().expect("an object").keys().filter(|key| *key != "stacktrace").cloned().collect()
    };
    // Fields that etcd has and retcd does not, and fields that 3.7 has and 3.5 does not.
    let not_ours = ["number-of-keys-compacted", "hash", "request-path"];
    let newer = [
        "traffic",
        "current-db-size",
        "current-db-size-bytes",
        "current-db-size-in-use",
        "current-db-size-in-use-bytes",
    ];
    let mut compared = BTreeSet::new();
    for (message, line) in &ours {
        let Some(theirs) = theirs.get(message) else { continue };
        compared.insert(message.as_str());
        let (ours, theirs) = (fields(line), fields(theirs));
        if message == "starting an etcd server" {
            // retcd does not have many of the fields that etcd has there; those that it has have etcd's
            // names.
            assert!(ours.intersection(&theirs).count() > 20, "{line}");
            continue;
        }
        let mut more = ours.difference(&theirs).filter(|field| !newer.contains(&field.as_str()));
        assert_eq!(more.next(), None, "of ours {line}, theirs has {theirs:?}");
        let mut less = theirs.difference(&ours).filter(|field| !not_ours.contains(&field.as_str()));
        assert_eq!(less.next(), None, "{line} lacks it");
    }
    for message in [
        "starting an etcd server",
        "published local member to cluster through raft",
        "enabled capabilities for version",
        "ready to serve client requests",
        "finished scheduled compaction",
        "defragmenting",
        "finished defragmenting directory",
        "received signal; shutting down",
        "skipped leadership transfer for single voting member cluster",
        "closing etcd server",
        "closed etcd server",
    ] {
        assert!(compared.contains(message), "{message:?} was not compared, only {compared:?}");
    }
}

#[test]
fn the_first_line_says_what_was_started() {
    if !subject_is_retcd() {
        return;
    }
    let mut server = Launch::subject()
        .flag("data-dir", "relative/data")
        .flag("heartbeat-interval", "150")
        .environment("ETCD_QUOTA_BACKEND_BYTES", "123456789")
        .start();
    let home = server.home().to_owned();
    let (client, peer) = (server.client_port, server.peer_port);
    let lines = server.stop().log;
    let line: Value = serde_json::from_str(&lines[0]).expect("a line is JSON");
    assert_eq!(line["msg"], "starting an etcd server", "{line}");
    assert_eq!(line["data-dir"], home.join("relative/data").display().to_string(), "{line}");
    assert_eq!(line["name"], "default", "{line}");
    assert_eq!(line["heartbeat-interval"], "150ms", "{line}");
    assert_eq!(line["election-timeout"], "1s", "{line}");
    assert_eq!(
        line["advertise-client-urls"],
        serde_json::json!([format!("http://127.0.0.1:{client}")]),
        "{line}"
    );
    assert_eq!(line["listen-client-urls"], line["advertise-client-urls"], "{line}");
    assert_eq!(line["listen-peer-urls"], serde_json::json!([format!("http://127.0.0.1:{peer}")]), "{line}");
    assert_eq!(line["member-initialized"], false, "{line}");
    for field in ["etcd-version", "retcd-version", "git-sha", "rust-version", "os", "arch"] {
        assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {line}");
    }
    let set: Vec<&str> = line["set"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for setting in [
        "data-dir=relative/data (flag)",
        "heartbeat-interval=150 (flag)",
        "quota-backend-bytes=123456789 (environment)",
    ] {
        assert!(set.contains(&setting), "{setting}: {line}");
    }
}

/// The commit, in a build from a checkout of the repository. Other builds may set it in a variable.
#[test]
fn the_version_names_the_commit() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !subject_is_retcd() || !repository.join(".git").exists() || env::var_os("RETCD_GIT_SHA").is_some() {
        return;
    }
    let git = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(repository).output();
    let Ok(commit) = git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()) else {
        return;
    };
    let output = Command::new(subject_program()).arg("--version").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| line.strip_prefix("Git SHA: ")).expect("a line for it");
    assert!(said.len() >= 7 && (commit.is_empty() || commit.starts_with(said)), "{said} is not {commit}");
}

/// The log lines of a defragmentation have the sizes that `endpoint status` shows.
#[tokio::test]
async fn a_defragmentation_reports_the_sizes_of_the_status() {
    if !subject_is_retcd() {
        return;
    }
    let (mut server, client) = serve_with(Launch::subject());
    for number in 0..50 {
        client.put("k", format!("{number}").repeat(1000)).await;
    }
    let rev = client.put("k", "small").await;
    compact(&client, rev).await;
    let before = client.status().await;
    defragment(&client).await;
    let after = client.status().await;
    let lines = by_message(&server.stop());
    for (message, status) in [("defragmenting", &before), ("finished defragmenting directory", &after)] {
        let line = &lines[message];
        assert_eq!(line["current-db-size-bytes"], status.db_size, "{line}");
        assert_eq!(line["current-db-size-in-use-bytes"], status.db_size_in_use, "{line}");
    }
    assert!(after.db_size < before.db_size);
    assert_eq!(
        lines["finished defragmenting directory"]["current-db-size-bytes-diff"],
        after.db_size - before.db_size
    );
}

#[tokio::test]
async fn alarms_are_told_when_they_come_and_when_they_go() {
    if !subject_is_retcd() {
        return;
    }
    let (mut server, client) = serve_with(Launch::subject());
    for action in
        [AlarmAction::Activate, AlarmAction::Activate, AlarmAction::Deactivate, AlarmAction::Deactivate]
    {
        let member_id = 7;
        let request = AlarmRequest { action: action.into(), member_id, alarm: AlarmType::Nospace.into() };
        client.maintenance().alarm(request).await.expect("an alarm can be changed");
    }
    client.put("k", "v").await;
    let ended = server.stop();
    let count = |words: &str| ended.log.iter().filter(|line| line.contains(words)).count();
    assert_eq!(count("alarm raised"), 1, "{:#?}", ended.log);
    assert_eq!(count("alarm disarmed"), 1, "{:#?}", ended.log);
    assert_eq!(count("no alarm is active any more"), 1, "{:#?}", ended.log);
    let line = &by_message(&ended)["alarm disarmed"];
    assert_eq!((line["alarm"].as_str(), line["member-id"].as_str()), (Some("NOSPACE"), Some("7")), "{line}");
}

#[tokio::test]
async fn a_slow_request_names_its_client() {
    let (mut server, client) = serve_with(Launch::subject().flag("warning-unary-request-duration", "1ns"));
    client.put("k", "v").await;
    let ended = server.stop();
    let lines = ended.log.iter().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    let line = lines.filter(|line| line["msg"] == "request stats").find(|line| line["request count"] == 1);
    let line = line.expect("a line about the put");
    let remote = line["remote"].as_str().expect("a text");
    assert!(remote.parse::<std::net::SocketAddr>().is_ok_and(|at| at.ip().is_loopback()), "{line}");
}
