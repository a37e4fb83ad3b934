//! The largest requests: an accepted request reaches every member, and one that could not is refused.

use tokio_stream::StreamExt;
use tonic::Code;

use crate::{
    cluster::{Cluster, Member, Plan},
    pb::etcdserverpb::{
        DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp,
        TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse, kv_client::KvClient,
        lease_client::LeaseClient, request_op::Request, watch_request::RequestUnion,
    },
    tools::etcdctl,
};

/// More than a message between members can have.
const FLAGS: &[&str] = &[
    "--max-request-bytes=2147483647",
    "--snapshot-catchup-entries=1",
    // A long timeout, because a busy machine must not cause elections.
    "--heartbeat-interval=500",
    "--election-timeout=10000",
];

const LIMIT: usize = 64 * 1024 * 1024;

fn kv(member: &Member) -> KvClient<tonic::transport::Channel> {
    member.kv().max_decoding_message_size(usize::MAX)
}

fn put(key: &str, bytes: usize) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: vec![7; bytes].into(), ..PutRequest::default() }
}

async fn length(member: &Member, key: &str) -> usize {
    let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    let answer = kv(member).range(request).await.expect("a read is answered").into_inner();
    answer.kvs.first().map_or(0, |kv| kv.value.len())
}

/// A single member gets a large value, and then a second member joins.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_travels_to_every_member() {
    let mut cluster = Plan::new(1).flags(FLAGS).found();
    assert!(cluster.members[0].log().contains("--max-request-bytes 2147483647 is reduced to 67108864"));
    kv(&cluster.members[0]).put(put("large", LIMIT - 100)).await.expect("the largest request");
    let endpoint = cluster.members[0].endpoint();
    let new = cluster.prepare("m1");
    new.flags = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    let url = format!("--peer-urls={}", new.peer_url());
    etcdctl(&endpoint, &["member", "add", "m1", &url]).expect("a member can be added");
    new.start();
    let new = &cluster.members[1];
    assert_eq!(length(new, "large").await, LIMIT - 100);

    // From the new member to the leader and back.
    kv(new).put(put("larger", LIMIT - 100)).await.expect("the largest request");
    let refused = kv(new).put(put("too large", LIMIT)).await.expect_err("it is too large");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "etcdserver: request is too large");
    // The answer is as large as a request may be. One that is twice as large is refused.
    let ops = ["large"].map(|key| {
        Request::RequestRange(RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() })
    });
    let ops = ops.into_iter().chain([Request::RequestPut(put("small", 1))]);
    let success = ops.map(|request| RequestOp { request: Some(request) }).collect();
    let answer = kv(new).txn(TxnRequest { success, ..TxnRequest::default() }).await;
    assert_eq!(answer.expect("a transaction").into_inner().responses.len(), 2);

    cluster.members[0].put("after", "v").await;
    for member in &cluster.members {
        assert_eq!(member.get("after").await.as_deref(), Some("v"));
        assert_eq!(length(member, "larger").await, LIMIT - 100);
    }
    cluster.assert_equal().await;
}

/// More leases than fit into a message between members.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_has_as_many_keys_as_it_likes() {
    const KEYS: usize = 70;
    const KEY_BYTES: usize = 1024 * 1024;
    let cluster = Cluster::found(2);
    let leader = cluster.leader().await;
    let grant = LeaseGrantRequest { id: 7, ttl: 600 };
    cluster.members[leader].leases().lease_grant(grant).await.expect("a lease is granted");
    for number in 0..KEYS {
        let key = format!("{number:03}{}", "k".repeat(KEY_BYTES - 3));
        let put = PutRequest { key: key.into(), lease: 7, ..PutRequest::default() };
        cluster.members[leader].kv().put(put).await.expect("a put is accepted");
    }
    for member in &cluster.members {
        let mut leases: LeaseClient<_> = member.leases().max_decoding_message_size(usize::MAX);
        let request = LeaseTimeToLiveRequest { id: 7, keys: true };
        let answer = leases.lease_time_to_live(request).await.expect("a lease is described").into_inner();
        assert_eq!((answer.granted_ttl, answer.keys.len()), (600, KEYS));
    }
}

/// A deletion that takes longer than an election timeout. Nobody is elected meanwhile, and members answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_delete_keeps_the_term() {
    // More events than a watcher is sent through its queue.
    const KEYS: usize = 270_000;
    const KEYS_OF_TXN: usize = 10_000;
    let cluster = Plan::new(3).flags(&["--max-txn-ops=10000", "--max-request-bytes=10000000"]).found();
    let leader = &cluster.members[cluster.leader().await];
    for first in (0..KEYS).step_by(KEYS_OF_TXN) {
        let put = |number: usize| RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: format!("large/{number:06}").into(),
                ..PutRequest::default()
            })),
        };
        let success = (first..first + KEYS_OF_TXN).map(put).collect();
        let txn = TxnRequest { success, ..TxnRequest::default() };
        kv(leader).txn(txn).await.expect("keys are put");
    }
    let term = leader.try_status().await.expect("the leader answers").raft_term;
    let mut watched = watch_all(leader).await;

    let all = DeleteRangeRequest { key: "large/".into(), range_end: "large0".into(), prev_kv: false };
    let mut deleting = kv(leader);
    let deleting = tokio::spawn(async move { deleting.delete_range(all).await });
    let mut reads = 0;
    while !deleting.is_finished() {
        for member in &cluster.members {
            member.try_get("small", true).await.expect("a serializable read is answered");
        }
        reads += 1;
    }
    let deleted = deleting.await.expect("no panic").expect("the keys are deleted").into_inner();
    assert_eq!(deleted.deleted, KEYS as i64);
    assert!(reads > 10, "reads are answered meanwhile");

    let seen = watched.message().await.expect("no error").expect("an answer");
    assert_eq!(seen.events.len(), KEYS, "a watcher sees a whole revision");
    leader.put("small", "v").await;
    let next = watched.message().await.expect("no error").expect("an answer");
    assert_eq!(next.events.len(), 1);
    cluster.assert_equal().await;
    for member in &cluster.members {
        let status = member.try_status().await.expect("a member answers");
        assert_eq!(status.raft_term, term, "nobody was elected");
    }
}

/// A watcher of all keys, after the answer to its creation.
async fn watch_all(member: &Member) -> tonic::Streaming<WatchResponse> {
    let create = WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of requests stays open.
    let requests = tokio_stream::once(create).chain(tokio_stream::pending());
    let mut watch = member.watch().max_decoding_message_size(usize::MAX);
    let mut watched = watch.watch(requests).await.expect("a watch begins").into_inner();
    let created = watched.message().await.expect("no error").expect("an answer");
    assert!(created.created);
    watched
}

/// A membership change is an entry too.
#[tokio::test(flavor = "multi_thread")]
async fn urls_that_are_too_long_together_are_refused() {
    let cluster = Cluster::found(1);
    let urls = |bytes: usize| vec![format!("http://127.0.0.1:1/{}", "x".repeat(bytes))];
    let update = async |urls: Vec<String>| {
        let mut client =
            crate::pb::etcdserverpb::cluster_client::ClusterClient::new(cluster.members[0].channel());
        let id = cluster.members[0].id().await;
        client
            .member_update(crate::pb::etcdserverpb::MemberUpdateRequest { id, peer_ur_ls: urls })
            .await
            .map(drop)
            .map_err(|status| status.message().to_owned())
    };
    let refused = update(urls(1024 * 1024)).await;
    assert_eq!(refused, Err("etcdserver: request is too large".to_owned()));
    let refused = update(vec![String::new(); 150_000]).await;
    assert_eq!(refused, Err("etcdserver: request is too large".to_owned()));
    cluster.members[0].put("k", "v").await;
}

/// Without a quorum nothing leaves the queue of commands, and a member holds no more than its limit. The others
/// are refused at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_quorum_is_bounded_in_bytes() {
    const PUTS: usize = 20;
    const VALUE_BYTES: usize = 30 * 1024 * 1024;
    // 256 MiB may wait, and four batches, of one command each, are on their way to a leader.
    const HELD_MAX: usize = 256 / 30 + 4;
    let mut cluster = Plan::new(3).flags(&["--max-request-bytes=33554432"]).found();
    let leader = cluster.leader().await;
    for number in (0..3).filter(|number| *number != leader) {
        cluster.members[number].kill();
    }
    let leader = &cluster.members[leader];
    let puts: Vec<_> = (0..PUTS)
        .map(|number| {
            let mut kv = kv(leader);
            tokio::spawn(async move { kv.put(put(&number.to_string(), VALUE_BYTES)).await })
        })
        .collect();
    let mut refused = 0;
    for put in puts {
        let error = put.await.expect("no panic").expect_err("there is no quorum");
        match (error.code(), error.message()) {
            (Code::Unknown, "etcdserver: too many requests") => refused += 1,
            (Code::Unavailable | Code::DeadlineExceeded, _) => {}
            _ => panic!("{error:?}"),
        }
    }
    assert!(refused >= PUTS - HELD_MAX, "{refused} of {PUTS} were refused");
    let status = std::fs::read_to_string(format!("/proc/{}/status", leader.process_id().expect("it runs")));
    let status = status.expect("Linux has a page about each process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux counts it");
    println!("{refused} of {PUTS} refused, peak memory {}", peak.trim());
}
