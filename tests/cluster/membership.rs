//! Members that are added and removed.

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener as AsyncListener, TcpStream},
    sync::mpsc,
};

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest, LeaseLeasesRequest},
    tools::etcdctl,
};

fn id_in(text: &str) -> String {
    // "Member 8211f1d0f64f3269 added to cluster ..."
    text.split_whitespace().nth(1).expect("etcdctl names the member").to_owned()
}

/// A member that lost its data also lost its votes, so it returns under a new id.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_is_replaced() {
    let mut cluster = Cluster::found(3);
    for number in 0..20 {
        cluster.members[0].put(&format!("k{number}"), "v").await;
    }
    let old = format!("{:x}", cluster.members[2].id().await);
    cluster.members[2].kill();
    fs::remove_dir_all(cluster.members[2].data_dir()).expect("it is there");
    let log = cluster.members[2].start_refused();
    assert!(log.contains("has already been bootstrapped"), "{log}");

    let gone = cluster.members.pop().expect("there are three");
    etcdctl(&cluster.endpoints(), &["member", "remove", &old]).expect("a dead member can be removed");
    drop(gone);
    let new = cluster.prepare("m3");
    let url = format!("--peer-urls={}", new.peer_url());
    let endpoint = cluster.members[0].endpoint();
    let added = etcdctl(&endpoint, &["member", "add", "m3", &url]).expect("a member can be added");
    assert!(added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""), "{added}");
    let list = etcdctl(&endpoint, &["member", "list"]).expect("members are listed");
    assert!(list.contains(&format!("{}, unstarted, , ", id_in(&added))), "{list}");
    // One of the three is not started yet, and does not cost the quorum.
    cluster.members[1].put("meanwhile", "v").await;
    cluster.members[2].start();
    cluster.assert_equal().await;
    assert_eq!(cluster.members[2].get("k7").await.as_deref(), Some("v"));

    // The new member votes, so one of the others can be killed.
    wait_for_voter(&cluster, 2).await;
    cluster.members[0].kill();
    cluster.members[2].put("after", "v").await;
}

/// Waits until the log of `number` says that it votes, which is not visible from outside.
async fn wait_for_voter(cluster: &Cluster, number: usize) {
    let since = Instant::now();
    let id = format!("{:x}", cluster.members[number].id().await);
    while !cluster.members.iter().any(|member| {
        member.log().lines().any(|line| line.contains("is a voting member now") && line.contains(&id))
    }) {
        assert!(since.elapsed() < PATIENCE, "{id} gets no vote");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A member is added, and removed before the leader could reach it. It does not know the members of the
/// cluster, so it asks none of them for a vote and does not learn of its removal that way.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_removed_before_it_was_reached_ends() {
    let mut cluster = Cluster::found(2);
    let endpoint = cluster.endpoints();
    let joining = cluster.prepare("late");
    let url = format!("--peer-urls={}", joining.peer_url());
    let added = etcdctl(&endpoint, &["member", "add", "late", &url]).expect("a member can be added");
    let id = id_in(&added);
    // It listens on another address than the one that the leader knows.
    joining.peer_port = joining.client_port + 1;
    joining.spawn();
    joining.wait_for_line("waiting to be contacted by the leader");
    etcdctl(&endpoint, &["member", "remove", &id]).expect("it can be removed");
    let (_, log) = cluster.members[2].wait_for_end();
    assert!(log.contains("the member has been permanently removed from the cluster"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_ends_and_cannot_come_back() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let id = format!("{:x}", cluster.members[target].id().await);
    let endpoint = cluster.members[leader].endpoint();
    // The member is told of its removal: with this election timeout, the test would not wait for it to learn
    // of that by an election.
    cluster.members[target].kill();
    cluster.members[target].flags.push("--election-timeout=50000".to_owned());
    cluster.members[target].start();
    etcdctl(&endpoint, &["member", "remove", &id]).expect("a member can be removed");
    let (_, log) = cluster.members[target].wait_for_end();
    assert!(log.contains("the member has been permanently removed from the cluster"), "{log}");
    let log = {
        let member = &mut cluster.members[target];
        member.start_refused()
    };
    assert!(log.contains("the member has been permanently removed from the cluster"), "{log}");
    let refused = etcdctl(&endpoint, &["member", "remove", &id]).expect_err("it is gone");
    assert!(refused.contains("etcdserver: member not found"), "{refused}");
    cluster.members[leader].put("k", "v").await;
}

/// A leader is removed by its successor, which knows nothing of a member that has not answered it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_hears_of_the_others_before_it_judges_their_health() {
    let cluster = Plan::new(3).flags(&["--election-timeout=5000"]).found();
    let leader = cluster.leader().await;
    let (asked, slow) = (&cluster.members[(leader + 1) % 3], &cluster.members[(leader + 2) % 3]);
    let id = format!("{:x}", cluster.members[leader].id().await);
    let successor = format!("{:x}", asked.id().await);
    slow.signal(Signal::STOP);
    let endpoint = asked.endpoint();
    let removal = std::thread::spawn(move || etcdctl(&endpoint, &["member", "remove", &id]));
    asked.wait_for_line(&format!(r#""msg":"a leader was elected","leader":"{successor}""#));
    // It commits something with the old leader, and could have refused the removal by then.
    asked.put("k", "v").await;
    slow.signal(Signal::CONT);
    removal.join().expect("no panic").expect("the slow member is healthy");
    cluster.members[leader].wait_for_line("the member has been permanently removed from the cluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_promoted_when_it_is_in_sync() {
    let mut cluster = Cluster::found(1);
    for number in 0..50 {
        cluster.members[0].put(&format!("k{number}"), "v").await;
    }
    let endpoint = cluster.members[0].endpoint();
    let url = format!("--peer-urls={}", cluster.prepare("m1").peer_url());
    let added =
        etcdctl(&endpoint, &["member", "add", "m1", "--learner", &url]).expect("a learner can be added");
    let id = id_in(&added);
    let early = etcdctl(&endpoint, &["member", "promote", &id]).expect_err("it has nothing of the log yet");
    assert!(early.contains("can only promote a learner member which is in sync with leader"), "{early}");
    let more = etcdctl(&endpoint, &["member", "add", "m2", "--learner", "--peer-urls=http://127.0.0.1:1"]);
    let more = more.expect_err("one learner at a time");
    assert!(more.contains("too many learner members in cluster"), "{more}");
    cluster.members[1].start();
    let status = cluster.members[1].try_status().await.expect("a learner says how it is");
    assert!(status.is_learner);
    let learner = &cluster.members[1];
    for refused in [learner.try_put("k", "v").await.err(), learner.try_get("k", false).await.err()] {
        assert_eq!(refused.expect("a refusal").message(), "etcdserver: rpc not supported for learner");
    }
    let since = Instant::now();
    while learner.try_get("k3", true).await.expect("its own state can be read").is_none() {
        assert!(since.elapsed() < PATIENCE, "the learner learns nothing");
    }
    let since = Instant::now();
    while let Err(refusal) = etcdctl(&endpoint, &["member", "promote", &id]) {
        assert!(refusal.contains("in sync with leader") && since.elapsed() < PATIENCE, "{refusal}");
    }
    let again = etcdctl(&endpoint, &["member", "promote", &id]).expect_err("it is no learner any more");
    assert!(again.contains("can only promote a learner member"), "{again}");
    assert_eq!(cluster.members[1].get("k3").await.as_deref(), Some("v"));
    cluster.assert_equal().await;
}

/// A member that needs entries which the log no longer has gets the whole state, and is then like the others:
/// deleted keys are gone, leases are there, and watchers get the events that they missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_far_behind_gets_a_snapshot() {
    let mut cluster = Plan::new(3).flags(&["--snapshot-catchup-entries=10"]).found();
    let leader = cluster.leader().await;
    let late = (leader + 1) % 3;
    cluster.members[late].put("before", "v").await;
    let lease = cluster.members[leader].leases().lease_grant(LeaseGrantRequest { ttl: 600, id: 77 }).await;
    lease.expect("a lease is granted");
    cluster.members[late].kill();
    // More than one segment of the log, so that one is deleted.
    let value = "x".repeat(1024 * 1024);
    for number in 0..66 {
        cluster.members[leader].put(&format!("big-{:02}", number % 20), &value).await;
    }
    let request = DeleteRangeRequest { key: "before".into(), ..DeleteRangeRequest::default() };
    cluster.members[leader].kv().delete_range(request).await.expect("a delete is accepted");
    let oldest = cluster.members[leader].data_dir().join("member/wal/00000001.wal");
    let since = Instant::now();
    while oldest.exists() {
        assert!(since.elapsed() < PATIENCE, "the log is never let go of");
        // Segments are deleted only while entries are written.
        cluster.members[leader].put("meanwhile", "v").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.members[late].start();
    cluster.assert_equal().await;
    let log = cluster.members[late].log();
    assert!(log.contains("installed a snapshot from the leader"), "{log}");
    let member = &cluster.members[late];
    assert_eq!(member.try_get("before", true).await.expect("a read is answered"), None);
    let leases = member.leases().lease_leases(LeaseLeasesRequest {}).await.expect("leases are listed");
    assert_eq!(leases.into_inner().leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [77]);
    // The member continues from there, also after a kill.
    cluster.members[leader].put("after", "v").await;
    assert_eq!(cluster.members[late].get("after").await.as_deref(), Some("v"));
    cluster.members[late].kill();
    cluster.members[late].start();
    assert_eq!(cluster.members[late].get("after").await.as_deref(), Some("v"));
    cluster.assert_equal().await;
}

/// Adding a URL on which no member listens does not affect a cluster of one member.
#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_member_costs_no_quorum() {
    let cluster = Cluster::found(1);
    let endpoint = cluster.members[0].endpoint();
    let added = etcdctl(&endpoint, &["member", "add", "typo", "--peer-urls=http://127.0.0.1:1"]);
    let id = id_in(&added.expect("a member can be added"));
    cluster.members[0].put("k", "v").await;
    let url = "--peer-urls=http://127.0.0.1:2";
    etcdctl(&endpoint, &["member", "update", &id, url]).expect("it can be corrected");
    etcdctl(&endpoint, &["member", "remove", &id]).expect("and removed");
    cluster.members[0].put("k", "w").await;
    assert_eq!(cluster.members[0].members().await.len(), 1);
}

/// Connections to the new member's peer port are accepted, and nothing on them is answered, as behind a firewall.
/// The new member knows from the others who they are, and they reach it through the connections that it makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_though_nothing_reaches_its_peer_port() {
    let mut cluster = Cluster::found(3);
    cluster.members[0].put("before", "v").await;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = silent.local_addr().expect("it is bound").port();
    let peer_url = format!("http://127.0.0.1:{port}");
    etcdctl(&cluster.endpoints(), &["member", "add", "m3", &format!("--peer-urls={peer_url}")])
        .expect("the members are healthy");
    let number = cluster.members.len();
    let joining = cluster.prepare("m3");
    joining.advertised_peer_port = port;
    let others = joining.initial_cluster.rsplit_once(',').expect("there are others").0.to_owned();
    joining.initial_cluster = format!("{others},m3={peer_url}");
    cluster.members[number].start();
    assert!(cluster.members[number].get("before").await.is_some());
    cluster.members[number].put("after", "v").await;
    cluster.assert_equal().await;
    drop(silent);
}

/// Forwards connections to `port`, and tells of each through which bytes came back and which the caller has closed.
async fn forward(listener: AsyncListener, port: u16, answered: mpsc::UnboundedSender<()>) {
    loop {
        let (mut caller, _) = listener.accept().await.expect("the listener is open");
        let answered = answered.clone();
        tokio::spawn(async move {
            let Ok(mut callee) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            if let Ok((_, back)) = copy_bidirectional(&mut caller, &mut callee).await
                && back > 0
            {
                // Nobody listens any more when the test is over.
                let _ = answered.send(());
            }
        });
    }
}

/// Three members of which nobody runs yet. Peers reach the last one through a forwarder that tells of each of its answers.
async fn last_of_three_is_watched() -> (Vec<Member>, mpsc::UnboundedReceiver<()>) {
    let mut members = Plan::new(3).members();
    let listener = AsyncListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let own = members[2].peer_port;
    members[2].advertised_peer_port = port;
    for member in &mut members {
        member.initial_cluster = member.initial_cluster.replace(&format!(":{own}"), &format!(":{port}"));
    }
    let (answered, answers) = mpsc::unbounded_channel();
    tokio::spawn(forward(listener, own, answered));
    (members, answers)
}

/// A member that is behind has not heard yet that another was added. If it is the first to answer the new member, the
/// new one hears what the others say before it believes that it is not in the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_though_a_member_that_is_behind_answers_first() {
    let (mut members, mut answers) = last_of_three_is_watched().await;
    members.iter_mut().for_each(|member| member.spawn());
    members.iter_mut().for_each(|member| member.wait_until_ready());
    let mut cluster = Cluster { members };
    cluster.members[2].kill();
    let new = cluster.prepare("m3");
    let url = format!("--peer-urls={}", new.peer_url());
    etcdctl(&cluster.members[0].endpoint(), &["member", "add", "m3", &url]).expect("a member can be added");
    for number in [0, 1] {
        cluster.members[number].signal(Signal::STOP);
    }
    cluster.members[2].spawn();
    cluster.members[2].wait_for_line("serving peer traffic");
    while answers.try_recv().is_ok() {}
    cluster.members[3].spawn();
    answers.recv().await.expect("the forwarder runs");
    for number in [0, 1] {
        cluster.members[number].signal(Signal::CONT);
    }
    for number in [2, 3] {
        cluster.members[number].wait_until_ready();
    }
    cluster.members[3].put("all", "here").await;
    cluster.assert_equal().await;
}

/// A member that is behind has not heard yet that another one has started. If that one loses its data, and its votes with
/// it, the answer of the member that is behind does not let it come back under its old id.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_stays_out_though_a_member_that_is_behind_answers_first() {
    let (mut members, mut answers) = last_of_three_is_watched().await;
    for number in [0, 2] {
        members[number].spawn();
    }
    for number in [0, 2] {
        members[number].wait_until_ready();
    }
    members[2].kill();
    members[1].start();
    members[1].kill();
    fs::remove_dir_all(members[1].data_dir()).expect("it is there");
    members[0].signal(Signal::STOP);
    members[2].spawn();
    members[2].wait_for_line("serving peer traffic");
    while answers.try_recv().is_ok() {}
    members[1].spawn();
    answers.recv().await.expect("the forwarder runs");
    members[0].signal(Signal::CONT);
    let (status, log) = members[1].wait_for_end();
    assert!(!status.success() && log.contains("has already been bootstrapped"), "{log}");
}
