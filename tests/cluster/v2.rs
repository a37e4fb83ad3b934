//! The version 2 API on several members.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    cluster::{Member, Plan},
    snapshots::{FLAGS, INSTALLED, ON_ITS_WAY_MEGABYTES, outgrow_the_log, until_log_says, write_megabytes},
};

fn curl(member: &Member, path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-s", "-m", "60"]).arg(format!("http://{}/v2{path}", member.endpoint())).args(arguments);
    command.stdout(Stdio::piped());
    command
}

fn said(member: &Member, path: &str, arguments: &[&str]) -> String {
    output_of(curl(member, path, arguments).spawn().expect("curl is installed"))
}

fn output_of(child: Child) -> String {
    let output = child.wait_with_output().expect("curl ends");
    String::from_utf8(output.stdout).expect("text")
}

fn all(member: &Member) -> String {
    let tree = said(member, "/keys?recursive=true&sorted=true", &[]);
    let past = said(member, "/keys/d/1?wait=true&waitIndex=4", &[]);
    // What is left of a TTL changes between two questions.
    let lasting: Vec<&str> =
        tree.split("\"ttl\":").map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit())).collect();
    format!("{}{past}{}", lasting.concat(), said(member, "/auth/users", &[]))
}

/// Any member serves any request, and a change that a member has answered is on the others after a barrier.
#[tokio::test(flavor = "multi_thread")]
async fn any_member_serves_the_tree() {
    let mut flags = FLAGS.to_vec();
    flags.push("--enable-v2=true");
    let mut cluster = Plan::new(3).flags(&flags).found();
    let leader = cluster.leader().await;
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for (number, member) in cluster.members.iter().enumerate() {
        let made = said(member, &format!("/keys/m/{number}"), &["-XPUT", "-d", "value=1"]);
        assert!(made.starts_with(r#"{"action":"set""#), "{made}");
    }
    for member in &cluster.members {
        let listed = said(member, "/keys/m?quorum=true", &[]);
        assert_eq!(listed.matches("\"value\":\"1\"").count(), 3, "{listed}");
    }
    let followed = said(&cluster.members[leader], "/stats/leader", &[]);
    assert_eq!(followed.matches("\"latency\"").count(), 2, "{followed}");
    let refused = said(&cluster.members[followers[0]], "/stats/leader", &[]);
    assert_eq!(refused, r#"{"message":"not current leader"}"#);
    let members = said(&cluster.members[leader], "/members", &[]);
    assert_eq!(members.matches("\"peerURLs\"").count(), 3, "{members}");

    // The next leader goes on with the TTLs. The follower is asked for what comes after the change, of which it
    // may still hear, and hears of it before the leader is killed.
    let set = said(&cluster.members[leader], "/keys/t", &["-XPUT", "-d", "value=1", "-d", "ttl=3"]);
    let changed = set.split("\"modifiedIndex\":").nth(1).and_then(|rest| rest.split(',').next());
    let changed: u64 = changed.and_then(|index| index.parse().ok()).expect("the index of the change");
    said(&cluster.members[followers[0]], "/keys/t?quorum=true", &[]);
    cluster.members[leader].kill();
    let after = format!("/keys/t?wait=true&waitIndex={}", changed + 1);
    let expired = said(&cluster.members[followers[0]], &after, &[]);
    assert!(expired.starts_with(r#"{"action":"expire","node":{"key":"/t","#), "{expired}");
}

/// A snapshot between members has the tree, its history and its users, and a watcher on the member that
/// installs it misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_installs_a_snapshot_has_the_tree() {
    let mut flags = FLAGS.to_vec();
    flags.push("--enable-v2=true");
    let cluster = Plan::new(3).flags(&flags).found();
    let leader = cluster.leader().await;
    let late = (leader + 1) % 3;
    let (source, target) = (&cluster.members[leader], &cluster.members[late]);
    for number in 0..20 {
        said(source, &format!("/keys/d/{number}"), &["-XPUT", "-d", "value=1", "-d", "ttl=10000"]);
    }
    said(target, "/keys/d?quorum=true", &[]);
    let mut wait = curl(target, "/keys/w?wait=true", &[]).spawn().expect("curl is installed");
    while !said(target, "/stats/store", &[]).contains("\"watchers\":1") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    target.signal(Signal::STOP);
    write_megabytes(source, ON_ITS_WAY_MEGABYTES).await;
    said(source, "/keys/w", &["-XPUT", "-d", "value=while it was away"]);
    said(source, "/keys/d/7", &["-XDELETE"]);
    said(source, "/auth/users/u", &["-XPUT", "-d", r#"{"user":"u","password":"p"}"#]);
    outgrow_the_log(&[source, &cluster.members[(leader + 2) % 3]]).await;
    assert!(wait.try_wait().expect("a child").is_none(), "the watcher still waits");
    target.signal(Signal::CONT);
    until_log_says(target, INSTALLED).await;
    let seen = output_of(wait);
    assert!(seen.contains("while it was away"), "{seen}");
    assert_eq!(all(target), all(source));
}
