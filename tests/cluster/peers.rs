//! Members whose peer URL changes, that have several peer URLs, or that cannot be reached.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    tools::etcdctl,
};

/// Kills each member but `kept` for a while, so that every write then needs `kept`.
async fn assert_needed(cluster: &mut Cluster, kept: usize) {
    for other in (0..cluster.members.len()).filter(|&other| other != kept) {
        cluster.members[other].kill();
        cluster.members[kept].put(&format!("without-{other}"), "v").await;
        cluster.members[other].start();
    }
    cluster.assert_equal().await;
}

/// The member missed more entries than the others keep in memory, and its address has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_moved_is_found_again() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let moved = (leader + 1) % 3;
    let id = format!("{:x}", cluster.members[moved].id().await);
    cluster.members[moved].kill();
    let value = "x".repeat(1024 * 1024);
    for number in 0..12 {
        cluster.members[leader].put(&format!("big-{number}"), &value).await;
    }
    // No other process uses its ports.
    let port = cluster.prepare("nobody").peer_port;
    drop(cluster.members.pop());
    cluster.members[moved].peer_port = port;
    cluster.members[moved].advertised_peer_port = port;
    let url = format!("--peer-urls={}", cluster.members[moved].peer_url());
    let endpoint = cluster.members[leader].endpoint();
    etcdctl(&endpoint, &["member", "update", &id, &url]).expect("its URL can be changed");
    cluster.members[moved].start();
    cluster.assert_equal().await;
    assert_needed(&mut cluster, moved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_url_of_a_member_will_do() {
    let mut cluster = Cluster::found(3);
    let target = (cluster.leader().await + 1) % 3;
    let id = format!("{:x}", cluster.members[target].id().await);
    let url = cluster.members[target].peer_url();
    // No process listens on the first of them.
    let urls = format!("--peer-urls=http://127.0.0.1:1,{url}");
    let endpoint = cluster.members[target].endpoint();
    etcdctl(&endpoint, &["member", "update", &id, &urls]).expect("it can have several");
    let listed = cluster.members[target].members().await;
    let listed = listed.iter().find(|member| format!("{:x}", member.id) == id).expect("it is listed");
    assert_eq!(listed.peer_ur_ls, ["http://127.0.0.1:1", &url]);
    // The member is ready only after the leader, which has to connect again, has reached it.
    cluster.members[target].kill();
    cluster.members[target].start();
    cluster.assert_equal().await;
    assert_needed(&mut cluster, target).await;
}

/// The member needs entries that were deleted, so it needs a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_too_goes_to_any_url_of_a_member() {
    let flags = ["--snapshot-catchup-entries=10", "--heartbeat-interval=300", "--election-timeout=3000"];
    let mut cluster = Plan::new(3).flags(&flags).found();
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let id = format!("{:x}", cluster.members[target].id().await);
    let urls = format!("--peer-urls=http://127.0.0.1:1,{}", cluster.members[target].peer_url());
    etcdctl(&cluster.members[leader].endpoint(), &["member", "update", &id, &urls])
        .expect("it can have several");
    cluster.members[target].kill();
    let value = "x".repeat(1024 * 1024);
    // Three segments of the log.
    for number in 0..200 {
        cluster.members[leader].put(&format!("big-{}", number % 4), &value).await;
    }
    // The entries that the member needs exist until a checkpoint deletes that part of the log.
    let first_segment = cluster.members[leader].data_dir().join("member/wal/00000001.wal");
    let since = Instant::now();
    while first_segment.exists() {
        assert!(since.elapsed() < PATIENCE, "the log is not released");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.members[target].start();
    cluster.assert_equal().await;
    assert!(cluster.members[target].log().contains("installed a snapshot from the leader"));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_reach_each_other_over_unix_sockets() {
    let mut cluster = Plan::new(3).on_unix_sockets().found();
    for number in 0..3 {
        cluster.members[number].put(&format!("by-{number}"), "v").await;
    }
    let leader = cluster.leader().await;
    // The killed member leaves its socket file behind.
    cluster.members[leader].kill();
    cluster.members[(leader + 1) % 3].put("without", "v").await;
    cluster.members[leader].start();
    assert_eq!(cluster.members[leader].get("without").await.as_deref(), Some("v"));

    // Another member joins, which is reached over TCP.
    let joining = cluster.prepare("m3");
    let url = format!("--peer-urls={}", joining.peer_url());
    etcdctl(&cluster.members[0].endpoint(), &["member", "add", "m3", &url]).expect("it is added");
    cluster.members[3].start();
    cluster.assert_equal().await;
    let id = format!("{:x}", cluster.members[3].id().await);
    etcdctl(&cluster.members[0].endpoint(), &["member", "remove", &id]).expect("it is removed");
}

/// `LocalHost` is a name of the loopback address that is resolved, unlike `localhost`.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_may_be_known_by_its_name_or_its_address() {
    const NAMED: &str = "http://LocalHost:";
    const ADDRESSED: &str = "http://127.0.0.1:";
    let mut members = Plan::new(3).members();
    for member in &mut members[..2] {
        let url = member.peer_url().replace(ADDRESSED, NAMED);
        member.flags.push(format!("--initial-advertise-peer-urls={url}"));
    }
    for member in &mut members {
        member.spawn();
    }
    for member in &mut members {
        member.wait_until_ready();
    }
    let mut cluster = Cluster { members };
    // The cluster knows addresses, and a member joins that has host names for all of them.
    let joining = cluster.prepare("m3");
    joining.initial_cluster = joining.initial_cluster.replace(ADDRESSED, NAMED);
    let url = format!("--peer-urls={}", joining.peer_url());
    etcdctl(&cluster.members[0].endpoint(), &["member", "add", "m3", &url]).expect("it is added");
    cluster.members[3].start();
    cluster.members[3].put("k", "v").await;
    cluster.assert_equal().await;
}

/// A paused member delays no other member, and costs no more than the messages that are queued for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stands_still_costs_little() {
    let cluster = Plan::new(3).found();
    let leader = cluster.leader().await;
    let (stopped, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[stopped].signal(Signal::STOP);
    let value = "x".repeat(1024 * 1024);
    // Less than a segment of the log, which is kept as a whole.
    for number in 0..50 {
        cluster.members[leader].put(&format!("big-{}", number % 4), &value).await;
    }
    let (led, followed) = (resident_mib(&cluster.members[leader]), resident_mib(&cluster.members[other]));
    assert!(led < followed + 30, "the leader uses {led} MiB, another member {followed} MiB");
    cluster.members[stopped].signal(Signal::CONT);
    cluster.assert_equal().await;
}

fn resident_mib(member: &Member) -> u64 {
    let id = member.process_id().expect("it runs");
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says so");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1024
}
