//! A member that waits for others logs for which and why, and when the wait is over.

use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    cluster::{Cluster, Member, Plan},
    tools::etcdctl,
};

const QUORUM: &str = "waiting for other members";
const JOINING: &str = "waiting to be contacted by the leader";
const OVER: &str = "the wait is over";

fn said(member: &Member, words: &str) -> Value {
    said_behind(member, 0, words)
}

fn said_behind(member: &Member, known: usize, words: &str) -> Value {
    serde_json::from_str(&member.wait_for_line_behind(known, words)).expect("a line of the log is JSON")
}

fn lines(member: &Member) -> usize {
    member.log().lines().count()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("of texts")).collect()
}

/// Checks that a line is a warning, has the numbers of members, and refers to the manual.
#[track_caller]
fn assert_counts(line: &Value, answering: u64, members: u64) {
    assert_eq!(line["level"], "warn", "{line}");
    assert_eq!(
        (line["answering"].as_u64(), line["members"].as_u64()),
        (Some(answering), Some(members)),
        "{line}"
    );
    let manual = include_str!("../../docs/operations.md");
    let (page, section) = line["see"].as_str().and_then(|see| see.split_once(", ")).expect("a place");
    assert_eq!(page, "docs/operations.md");
    assert!(manual.contains(&format!("\n## {}\n", section.trim_matches('"'))), "{section}");
}

/// One founder alone, with one member that does not run, one that does not answer, and one whose host name
/// does not exist.
#[test]
fn a_founder_says_who_is_not_there_and_why() {
    let mut members = Plan::new(4).members();
    let _silent = TcpListener::bind(("127.0.0.1", members[2].peer_port)).expect("the port is free");
    // This is longer than a label of a host name can be, so no name server has to be asked.
    let nowhere = format!("m3=http://{}:{}", "x".repeat(64), members[3].peer_port);
    let known = format!("m3={}", members[3].peer_url());
    let member = &mut members[0];
    member.initial_cluster = member.initial_cluster.replace(&known, &nowhere);
    member.spawn();
    let line = said(member, QUORUM);
    assert_counts(&line, 1, 4);
    assert_eq!(line["needed"], 3, "{line}");
    let missing = texts(&line["waiting-for"]);
    assert_eq!(missing.len(), 3, "{line}");
    for (name, reason) in
        [("m1 (", "connection refused"), ("m2 (", "no answer within 1s"), ("m3 (", "lookup")]
    {
        assert!(
            missing.iter().any(|text| text.starts_with(name) && text.contains(reason)),
            "{reason}: {line}"
        );
    }
}

#[test]
fn founders_say_when_the_wait_is_over() {
    let mut members = Plan::new(3).members();
    members[0].spawn();
    assert_counts(&said(&members[0], QUORUM), 1, 3);
    members[1].spawn();
    let over = said(&members[0], OVER);
    assert_eq!(over["level"], "info", "{over}");
    assert!(over["leader"].is_string() && over["waited"].is_string(), "{over}");
    members[0].wait_until_ready();
}

/// Each member founded its cluster while the other was away, so neither was refused at its start.
#[test]
fn founders_of_different_clusters_say_so() {
    let mut members = Plan::new(3).members();
    members[1].flags.push("--initial-cluster-token=other".to_owned());
    members[0].spawn();
    said(&members[0], QUORUM);
    members[0].kill();
    members[1].spawn();
    said(&members[1], QUORUM);
    members[0].spawn();
    let line = said(&members[0], QUORUM);
    assert_counts(&line, 1, 3);
    let missing = texts(&line["waiting-for"]);
    assert!(missing.iter().any(|text| text.contains("cluster ID mismatch")), "{line}");
}

/// A majority is lost. The remaining member logs that, and when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_quorum_is_told() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[other].kill();
    cluster.members[leader].put("k", "v").await;
    // The loss of one of three members causes no wait; earlier lines are from the start.
    let known = lines(&cluster.members[leader]);
    cluster.members[third].signal(Signal::STOP);
    let line = said_behind(&cluster.members[leader], known, QUORUM);
    assert_counts(&line, 1, 3);
    let missing = texts(&line["waiting-for"]);
    assert!(missing.iter().any(|text| text.contains("connection refused")), "{line}");
    assert!(missing.iter().any(|text| text.contains("no answer within 1s")), "{line}");
    cluster.members[third].signal(Signal::CONT);
    said_behind(&cluster.members[leader], known, OVER);
    cluster.members[leader].put("k", "w").await;
}

/// A new leader is elected quickly, so there is no warning.
#[tokio::test(flavor = "multi_thread")]
async fn an_election_is_no_wait() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let known: Vec<usize> = cluster.members.iter().map(lines).collect();
    cluster.members[leader].signal(Signal::TERM);
    cluster.members[leader].wait_for_end();
    let next = cluster.leader().await;
    cluster.members[next].put("k", "v").await;
    let log = cluster.members[next].log();
    assert!(!log.lines().skip(known[next]).any(|line| line.contains("waiting")), "{log}");
}

/// A member is added with one address and started with another, so the leader does not reach it.
#[test]
fn a_member_that_advertises_another_address_than_the_cluster_has_says_so() {
    let mut cluster = Plan::new(1).found();
    let endpoint = cluster.members[0].endpoint();
    let new = cluster.prepare("m1");
    let known = new.peer_url();
    etcdctl(&endpoint, &["member", "add", "m1", &format!("--peer-urls={known}")]).expect("it can be added");
    let elsewhere = std::mem::replace(&mut new.advertised_peer_port, 1);
    new.peer_port = new.client_port + 1;
    new.spawn();
    let line = said(new, JOINING);
    assert_counts(&line, 1, 1);
    let obstacles = texts(&line["obstacles"]);
    let [reach, address] = obstacles[..] else { panic!("{line}") };
    assert!(address.contains(&known) && address.contains("http://127.0.0.1:1"), "{line}");
    assert!(address.contains("etcdctl member update"), "{line}");
    assert!(reach.contains("connection refused") && reach.contains("--listen-peer-urls"), "{line}");
    // The leader reaches it as soon as it listens on the right address.
    new.signal(Signal::TERM);
    new.wait_for_end();
    (new.advertised_peer_port, new.peer_port) = (elsewhere, elsewhere);
    new.start();
}
