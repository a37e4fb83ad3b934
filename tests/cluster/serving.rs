//! Any member serves any request.

use std::{
    collections::BTreeSet,
    pin::pin,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::{StreamExt, once};

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
        LeaseTimeToLiveRequest, PutRequest, RequestOp, TxnRequest, request_op,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_member_wrote_all_read() {
    let cluster = Cluster::found(3);
    for (number, writer) in cluster.members.iter().enumerate() {
        let key = format!("key-{number}");
        let answer = writer.put(&key, "value").await;
        let header = answer.header.expect("every answer has a header");
        assert_eq!(header.member_id, writer.id().await, "the answer is of the member that was asked");
        // The member that answered has applied the write, so a serializable read there returns it.
        let own = writer.try_get(&key, true).await.expect("a serializable read is answered");
        assert_eq!(own.as_deref(), Some("value"));
        for reader in &cluster.members {
            assert_eq!(reader.get(&key).await.as_deref(), Some("value"), "{} on {}", key, reader.name);
        }
    }
    cluster.assert_equal().await;
}

/// A leader without answers from other members may have been replaced, and then its data are old. It must not
/// answer linearizable reads from these data.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_asks_a_quorum_before_it_answers_a_linearizable_read() {
    let cluster = Cluster::found(3);
    let number = cluster.leader().await;
    let leader = &cluster.members[number];
    leader.put("k", "v").await;
    let others: Vec<_> = cluster.members.iter().filter(|member| member.name != leader.name).collect();
    for other in &others {
        other.signal(Signal::STOP);
    }
    let mut read = pin!(leader.try_get("k", false));
    let answered = tokio::time::timeout(Duration::from_millis(500), &mut read).await;
    assert!(!matches!(answered, Ok(Ok(_))), "nobody can have said that it still leads: {answered:?}");
    let own = leader.try_get("k", true).await.expect("a serializable read is answered");
    assert_eq!(own.as_deref(), Some("v"), "it serves, all the same");
    // With one of them there is a quorum.
    others[0].signal(Signal::CONT);
    let late = match answered {
        Ok(refused) => refused,
        Err(_) => read.await,
    };
    if late.is_err() {
        assert_eq!(leader.get("k").await.as_deref(), Some("v"));
    } else {
        assert_eq!(late.ok().flatten().as_deref(), Some("v"));
    }
    others[1].signal(Signal::CONT);
    cluster.assert_equal().await;
}

/// The hashes are the same on every member, leader or not. The numbers are explained in the test of a single
/// member.
#[tokio::test(flavor = "multi_thread")]
async fn every_member_remembers_the_hash_that_a_compaction_found() {
    let cluster = Cluster::found(3);
    for value in ["1", "2", "3", "4"] {
        cluster.members[0].put("k", value).await;
    }
    let delete = DeleteRangeRequest { key: "k".into(), ..Default::default() };
    let deleted = cluster.members[0].kv().delete_range(delete).await.expect("it is deleted").into_inner();
    assert_eq!(deleted.header.expect("every answer has a header").revision, 6);
    for (number, member) in cluster.members.iter().enumerate() {
        let compact = CompactionRequest { revision: 6, physical: true };
        let compacted = member.kv().compact(compact).await;
        // The answer that there is nothing to compact comes after this member has applied the compaction.
        assert_eq!(compacted.is_ok(), number == 0, "{compacted:?}");
        let hash = member.maintenance().hash_kv(HashKvRequest { revision: 6 }).await;
        let hash = hash.expect("HashKV needs no quorum").into_inner();
        assert_eq!((hash.hash, hash.compact_revision, hash.hash_revision), (1_089_738_655, -1, 6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_know_each_other() {
    let cluster = Cluster::found(3);
    let mut lists = Vec::new();
    for member in &cluster.members {
        lists.push(member.members().await);
    }
    assert!(lists.iter().all(|list| *list == lists[0]), "{lists:?}");
    let names: BTreeSet<&str> = lists[0].iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["m0", "m1", "m2"]));
    assert!(lists[0].iter().all(|member| member.client_ur_ls.len() == 1 && !member.is_learner));
    assert!(lists[0].windows(2).all(|pair| pair[0].id < pair[1].id), "by id");
}

/// Only the leader knows the remaining TTL of a lease, but every member answers for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_kept_through_any_member() {
    let cluster = Cluster::found(3);
    let granted = cluster.members[0]
        .leases()
        .lease_grant(LeaseGrantRequest { ttl: 3, id: 0 })
        .await
        .expect("a lease is granted")
        .into_inner();
    let id = granted.id;
    let request = PutRequest { key: "k".into(), value: "v".into(), lease: id, ..PutRequest::default() };
    cluster.members[1].kv().put(request).await.expect("a put with a lease is accepted");
    for round in 0..6 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let member = &cluster.members[round % 3];
        let mut answers = member
            .leases()
            .lease_keep_alive(once(LeaseKeepAliveRequest { id }))
            .await
            .expect("a stream is opened")
            .into_inner();
        let answer = answers.next().await.expect("a request is answered").expect("and not refused");
        assert_eq!(answer.ttl, 3, "through {}", member.name);
    }
    assert!(cluster.members[2].get("k").await.is_some(), "the lease lives");
    let started = Instant::now();
    while cluster.members[2].get("k").await.is_some() {
        assert!(started.elapsed() < Duration::from_secs(20), "the lease outlives its time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for member in &cluster.members {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let left = member.leases().lease_time_to_live(request).await.expect("an answer").into_inner();
        assert_eq!(left.ttl, -1, "on {}", member.name);
    }
}

/// A value in `/metrics`, by its name and labels.
async fn metric(member: &Member, name: &str) -> Option<f64> {
    let text = metrics(member).await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|number| number.parse().expect("a metric is a number"))
}

pub(crate) async fn metrics(member: &Member) -> String {
    let mut stream = TcpStream::connect(member.endpoint()).await.expect("it serves");
    let request = "GET /metrics HTTP/1.0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

/// Waits until a metric has reached this value.
async fn metric_reaches(member: &Member, name: &str, least: f64) {
    let since = Instant::now();
    while metric(member, name).await.is_none_or(|value| value < least) {
        assert!(
            since.elapsed() < PATIENCE,
            "{name} does not reach {least}: {:?}",
            metric(member, name).await
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_count_what_goes_between_them() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let mut ids = Vec::new();
    for member in &cluster.members {
        ids.push(format!("{:x}", member.id().await));
    }
    for (number, member) in cluster.members.iter().enumerate() {
        member.put("k", "v").await;
        let is_leader = f64::from(u8::from(number == leader));
        assert_eq!(metric(member, "etcd_server_has_leader").await, Some(1.0));
        assert_eq!(metric(member, "etcd_server_is_leader").await, Some(is_leader));
        assert_eq!(metric(member, "etcd_server_leader_changes_seen_total").await, Some(1.0));
        let own = &ids[number];
        for remote in &ids {
            let known = format!("etcd_network_known_peers{{Local=\"{own}\",Remote=\"{remote}\"}}");
            assert_eq!(metric(member, &known).await, Some(1.0), "etcd counts the member itself too");
        }
        for other in ids.iter().filter(|id| *id != own) {
            metric_reaches(
                member,
                &format!("etcd_network_active_peers{{Local=\"{own}\",Remote=\"{other}\"}}"),
                1.0,
            )
            .await;
            let round_trips = format!("etcd_network_peer_round_trip_time_seconds_count{{To=\"{other}\"}}");
            metric_reaches(member, &round_trips, 1.0).await;
        }
        let other = if number == leader { &ids[(leader + 1) % 3] } else { &ids[leader] };
        metric_reaches(member, &format!("etcd_network_peer_sent_bytes_total{{To=\"{other}\"}}"), 1.0).await;
        metric_reaches(member, &format!("etcd_network_peer_received_bytes_total{{From=\"{other}\"}}"), 1.0)
            .await;
    }
    let gone = (leader + 1) % 3;
    cluster.members[gone].kill();
    let (left, gone) = (&cluster.members[(leader + 2) % 3], &ids[gone]);
    let own = &ids[(leader + 2) % 3];
    let lost = format!("etcd_network_disconnected_peers_total{{Local=\"{own}\",Remote=\"{gone}\"}}");
    metric_reaches(left, &lost, 1.0).await;
    let active = format!("etcd_network_active_peers{{Local=\"{own}\",Remote=\"{gone}\"}}");
    assert_eq!(metric(left, &active).await, Some(0.0), "though it only follows");
    let lines = left.log().lines().filter(|line| line.contains("peer became inactive")).count();
    metric_reaches(left, &format!("etcd_network_peer_sent_failures_total{{To=\"{gone}\"}}"), 3.0).await;
    let later = left.log().lines().filter(|line| line.contains("peer became inactive")).count();
    assert_eq!(later, lines, "one line, however often it is asked");
}

/// Three members have the metrics that dashboards find in three members of etcd.
#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_etcd_are_there() {
    // Metrics of parts of etcd that retcd does not have.
    const MISSING: &[&str] = &[
        "etcd_debugging_mvcc_range_total",
        "etcd_debugging_store_",
        "etcd_grpc_proxy_",
        "etcd_server_go_version",
        "go_",
    ];
    let (ours, etcd) = (Plan::new(3).found(), Plan::reference(3).found());
    let mut names = BTreeSet::new();
    for member in &etcd.members {
        for line in metrics(member).await.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            names.insert(line.to_owned());
        }
    }
    names.retain(|name| !MISSING.iter().any(|missing| name.starts_with(missing)));
    assert!(names.len() > 50, "{names:?}");
    for member in &ours.members {
        let text = metrics(member).await;
        let here: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let missing: Vec<_> = names.iter().filter(|name| !here.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

/// The log line about a slow write names the slowest stage.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_write_says_what_it_waited_for() {
    let flags = ["--warning-unary-request-duration=100ms", "--election-timeout=5000"];
    let cluster = Plan::new(3).flags(&flags).found();
    let leader = cluster.leader().await;
    cluster.members[leader].put("k", "v").await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    for other in others {
        cluster.members[other].signal(Signal::STOP);
    }
    let mut kv = cluster.members[leader].kv();
    let put = tokio::spawn(async move {
        kv.put(PutRequest { key: "k".into(), value: "slow".into(), ..PutRequest::default() }).await
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    for other in others {
        cluster.members[other].signal(Signal::CONT);
    }
    put.await.expect("the put does not panic").expect("it is accepted");
    let since = Instant::now();
    let line = loop {
        let log = cluster.members[leader].log();
        if let Some(line) = log.lines().find(|line| line.contains("write took too long")) {
            break line.to_owned();
        }
        assert!(since.elapsed() < PATIENCE, "{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(line.contains("\"stage\":\"quorum\""), "{line}");
    for stage in ["queue", "fsync", "quorum", "apply"] {
        assert!(line.contains(&format!("\"{stage}\":\"")), "{line}");
    }
}

/// Without a quorum a proposal waits. If its client gives up before the outcome is known, the proposal counts
/// as failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_its_client_gave_up_has_failed() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    for number in (0..3).filter(|number| *number != leader) {
        cluster.members[number].kill();
    }
    let left = &cluster.members[leader];
    const FAILED: &str = "etcd_server_proposals_failed_total";
    let before = metric(left, FAILED).await.expect("the counter is there from the start");
    let given_up = tokio::time::timeout(Duration::from_millis(300), left.try_put("k", "v")).await;
    assert!(given_up.is_err(), "nobody can answer a put without a quorum");
    metric_reaches(left, FAILED, before + 1.0).await;
}

/// The client of these tests cannot decode answers that are nested more than fifty levels deep, so only the
/// effect is checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deeply_nested_transaction_goes_through_a_follower_and_is_read_by_all() {
    let mut cluster = Cluster::found(3);
    let follower = (cluster.leader().await + 1) % 3;
    let success =
        |request| TxnRequest { success: vec![RequestOp { request: Some(request) }], ..TxnRequest::default() };
    let put = PutRequest { key: "deep".into(), value: "v".into(), ..PutRequest::default() };
    let innermost = success(request_op::Request::RequestPut(put));
    let txn = (1..128).fold(innermost, |inner, _| success(request_op::Request::RequestTxn(inner)));
    let _ = cluster.members[follower].kv().txn(txn).await;
    assert_eq!(cluster.members[follower].get("deep").await.as_deref(), Some("v"));
    cluster.assert_equal().await;
    for member in &mut cluster.members {
        member.kill();
    }
    for member in &mut cluster.members {
        member.spawn();
    }
    for member in &mut cluster.members {
        member.wait_until_ready();
    }
    cluster.assert_equal().await;
    assert_eq!(cluster.members[follower].get("deep").await.as_deref(), Some("v"));
}
