//! Members whose flags do not match the cluster are refused with etcd's text, followed by the remedy.

use std::{
    fs,
    time::{Duration, Instant},
};

use tokio::time;

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    tools::etcdctl,
};

/// A member of etcd and one of retcd, each started with such flags.
fn refused(prepare: impl Fn(&mut Vec<Member>), words: &str, remedy: &str) {
    for plan in [Plan::reference(2), Plan::new(2)] {
        let is_reference = plan.is_reference();
        let mut members = plan.members();
        prepare(&mut members);
        let words = filled(words, &members);
        let log = members[0].start_refused().replace("\\\"", "\"");
        assert!(log.contains(&words), "etcd: {is_reference}, {words:?} is not in:\n{log}");
        assert!(is_reference || log.contains(remedy), "{remedy:?} is not in:\n{log}");
    }
}

/// `{0}` and `{1}` are the peer URLs.
fn filled(text: &str, members: &[Member]) -> String {
    text.replace("{0}", &members[0].peer_url()).replace("{1}", &members[1].peer_url())
}

fn with_cluster(text: &'static str) -> impl Fn(&mut Vec<Member>) {
    move |members| members[0].initial_cluster = filled(text, members)
}

fn joining(text: &'static str) -> impl Fn(&mut Vec<Member>) {
    move |members| {
        with_cluster(text)(members);
        members[0].state = "existing";
    }
}

#[test]
fn flags_that_do_not_fit_together_are_refused() {
    const NOT_THERE: &str = "couldn't find local name \"m0\" in the initial cluster configuration";
    const NO_ANSWER: &str = "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs";
    refused(
        with_cluster("a={0},b={1}"),
        NOT_THERE,
        "--name must be one of the names in --initial-cluster: a,b",
    );
    refused(
        with_cluster("m0={1}"),
        "--initial-cluster has m0={1} but missing from --initial-advertise-peer-urls={0}",
        "both must name the same URLs for this member",
    );
    refused(
        with_cluster("m0={0},m0={1}"),
        "--initial-cluster has m0={1} but missing from --initial-advertise-peer-urls={0}",
        "both must name the same URLs for this member",
    );
    refused(with_cluster("m0={0},b={0}"), "initial cluster b={0},m0={0} has duplicate url", "");
    refused(joining("a={0},b={1}"), NOT_THERE, "--name must be one of the names in --initial-cluster: a,b");
    refused(joining("m0={0},b={0}"), "initial cluster b={0},m0={0} has duplicate url", "");
    refused(joining("m0={0}"), NO_ANSWER, "--initial-cluster must name the running members too");
    refused(joining("m0={0},m1={1}"), NO_ANSWER, "one of them must answer");
}

/// A member that was not added, or whose flags contradict the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_the_cluster_does_not_know_is_refused() {
    for (plan, is_reference) in [(Plan::reference(1), true), (Plan::new(1), false)] {
        let mut cluster = plan.found();
        let endpoint = cluster.members[0].endpoint();
        let log = cluster.prepare("m1").start_refused();
        assert!(
            log.contains("error validating peerURLs") && log.contains("member count is unequal"),
            "{log}"
        );
        let added = etcdctl(&endpoint, &["member", "add", "m1", "--peer-urls=http://127.0.0.1:1"]);
        added.expect("a member can be added");
        let log = cluster.members[1].start_refused();
        assert!(log.contains("error validating peerURLs"), "{log}");
        if !is_reference {
            // The text of later releases of etcd.
            assert!(log.contains("unmatched member while checking PeerURLs"), "{log}");
            assert!(
                log.contains("--initial-cluster must name the members as `member list` shows them"),
                "{log}"
            );
        }
    }
}

/// A member is started as a founder although the cluster exists. All other members refuse its requests, so it
/// logs the reason and waits, as etcd does; the existing cluster is not affected.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_cluster_beside_the_first_waits_and_says_so() {
    let mut cluster = Plan::new(1).found();
    let theirs = cluster.members[0].cluster_id().await;
    let new = cluster.prepare("m1");
    new.state = "new";
    new.spawn();
    new.wait_for_line("waiting for other members");
    let log = new.log();
    assert!(log.contains("cluster ID mismatch") && log.contains(&theirs), "{log}");
    assert!(log.contains("--initial-cluster-state=existing"), "{log}");
    assert!(log.contains("--initial-cluster-token"), "{log}");
    cluster.members[0].put("k", "v").await;
    assert_eq!(cluster.members[0].members().await.len(), 1);
}

/// All members of a cluster are restarted one by one with a new token: the first one waits while the old ones
/// run, and a majority of new ones serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_replaced_in_place_under_a_new_token() {
    let mut cluster = Cluster::found(3);
    cluster.leader().await;
    cluster.members[1].put("k", "old").await;
    let replace = |member: &mut Member| {
        member.kill();
        fs::remove_dir_all(member.data_dir()).expect("the old data goes");
        member.flags.push("--initial-cluster-token=another".to_owned());
        member.spawn();
    };
    replace(&mut cluster.members[0]);
    cluster.members[0].wait_for_line("waiting for other members");
    assert_eq!(cluster.members[1].get("k").await.as_deref(), Some("old"), "the old cluster is as it was");
    replace(&mut cluster.members[1]);
    for number in [0, 1] {
        cluster.members[number].wait_until_ready();
    }
    assert_eq!(cluster.members[0].get("k").await, None, "this is another cluster");
    cluster.members[0].put("k", "new").await;
    replace(&mut cluster.members[2]);
    cluster.members[2].wait_until_ready();
    assert_eq!(cluster.members[2].get("k").await.as_deref(), Some("new"));
    cluster.assert_equal().await;
}

/// Founders with different tokens found different clusters. Each logs why it does not accept the other, and
/// the messages name both clusters.
#[tokio::test(flavor = "multi_thread")]
async fn members_with_another_token_are_told_apart() {
    let mut members = Plan::new(2).members();
    members[1].flags.push("--initial-cluster-token=other".to_owned());
    for member in &mut members {
        member.spawn();
    }
    let ids = |log: &str| -> Option<[String; 2]> {
        let (_, said) = log.split_once("cluster ID mismatch: the ")?;
        let mut words = said.split(|sign: char| !sign.is_ascii_alphanumeric());
        let mut id = || words.find(|word| word.len() > 10 && u64::from_str_radix(word, 16).is_ok());
        Some([id()?.to_owned(), id()?.to_owned()])
    };
    let since = Instant::now();
    let [one, other] = loop {
        if let Some(ids) = members.iter().find_map(|member| ids(&member.log())) {
            break ids;
        }
        assert!(since.elapsed() < PATIENCE, "nobody says that these are two clusters");
        time::sleep(Duration::from_millis(20)).await;
    };
    assert_ne!(one, other);
}
