//! Leases when the leader changes.
//!
//! While a client renews its lease, through any member, the lease lives. When the client stops, the lease
//! expires. A former leader can change neither.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time;
use tokio_stream::{StreamExt, once};
use tonic::{Code, Status};

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::etcdserverpb::{watch_request::RequestUnion, *},
    tools::etcdctl,
};

async fn grant(member: &Member, ttl: i64) -> i64 {
    let granted = member.leases().lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
    granted.expect("a lease is granted").into_inner().id
}

async fn attach(member: &Member, key: &str, lease: i64) {
    let request =
        PutRequest { key: key.to_owned().into(), value: "v".into(), lease, ..PutRequest::default() };
    member.kv().put(request).await.expect("a put with a lease is accepted");
}

/// The TTL in the answer to a keep-alive; 0 if the lease does not exist.
async fn try_keep(member: &Member, id: i64) -> Result<i64, Status> {
    let mut leases = member.leases();
    let asked = leases.lease_keep_alive(once(LeaseKeepAliveRequest { id }));
    let mut answers = asked.await?.into_inner();
    answers.next().await.unwrap_or_else(|| Err(Status::cancelled("no answer"))).map(|answer| answer.ttl)
}

/// Like a client, this repeats the request while there is no leader.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(ask: impl Fn() -> F) -> T {
    let since = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(status) if status.code() == Code::Unavailable && since.elapsed() < PATIENCE => {}
            Err(status) => panic!("{status}"),
        }
    }
}

async fn keep(member: &Member, id: i64) -> i64 {
    patiently(|| try_keep(member, id)).await
}

async fn time_to_live(member: &Member, id: i64) -> LeaseTimeToLiveResponse {
    patiently(|| async {
        let mut leases = member.leases();
        let asked = leases.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await;
        asked.map(tonic::Response::into_inner)
    })
    .await
}

/// Waits until another member leads, and returns its number.
async fn leader_besides(cluster: &Cluster, old: usize) -> usize {
    let since = Instant::now();
    loop {
        for (number, member) in cluster.members.iter().enumerate().filter(|(number, _)| *number != old) {
            let status = member.try_status().await.expect("status needs no quorum");
            if status.header.expect("every answer has a header").member_id == status.leader {
                return number;
            }
        }
        assert!(since.elapsed() < PATIENCE, "nobody else leads");
        time::sleep(Duration::from_millis(20)).await;
    }
}

async fn move_leader(cluster: &Cluster, target: usize) {
    let id = format!("{:x}", cluster.members[target].id().await);
    etcdctl(&cluster.endpoints(), &["move-leader", &id]).expect("the leader is among them");
    assert_eq!(cluster.leader().await, target);
}

/// Waits until the key is deleted, as a watcher on `member` learns of it.
struct Deleted(tonic::Streaming<WatchResponse>);

impl Deleted {
    async fn watch(member: &Member, prefix: &str) -> Deleted {
        let mut range_end = prefix.as_bytes().to_vec();
        *range_end.last_mut().expect("a prefix") += 1;
        let create = WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: range_end.into(),
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = once(request).chain(tokio_stream::pending());
        let watching = member.watch().watch(requests).await.expect("a watch is opened");
        let mut stream = watching.into_inner();
        let created = stream.next().await.expect("it is answered").expect("and not refused");
        assert!(created.created);
        Deleted(stream)
    }

    /// When the last of `count` keys was deleted.
    async fn all(mut self, count: usize) -> Instant {
        let mut deleted = 0;
        while deleted < count {
            let answer = time::timeout(PATIENCE, self.0.next()).await.expect("the keys go");
            let answer = answer.expect("the stream goes on").expect("the watch goes on");
            deleted += answer.events.iter().filter(|event| event.r#type == 1).count();
        }
        Instant::now()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_ask_the_leader() {
    let cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    // etcd issue 13932: a follower gets a keep-alive for a lease whose grant it has not applied yet.
    for round in 0..30 {
        let id = grant(&cluster.members[round % 3], 60).await;
        assert_eq!(keep(&cluster.members[(round + 1) % 3], id).await, 60, "granted elsewhere a moment ago");
    }
    let id = grant(&cluster.members[leader], 60).await;
    attach(&cluster.members[leader], "k", id).await;
    for member in &cluster.members {
        let left = time_to_live(member, id).await;
        assert_eq!((left.granted_ttl, left.keys), (60, vec!["k".into()]), "on {}", member.name);
        assert!((58..=60).contains(&left.ttl), "{} on {}", left.ttl, member.name);
    }
    cluster.members[leader].leases().lease_revoke(LeaseRevokeRequest { id }).await.expect("it is there");
    for member in &cluster.members {
        assert_eq!(keep(member, id).await, 0, "on {}", member.name);
        assert_eq!(time_to_live(member, id).await.ttl, -1, "on {}", member.name);
    }
}

/// Each leader continues with the remaining TTLs of the one before it, so changes of leader do not keep a
/// lease alive that no client renews.
#[tokio::test(flavor = "multi_thread")]
async fn leadership_that_moves_does_not_renew_leases() {
    const TTL: i64 = 15;
    const ELECTION_TIMEOUT: u64 = 3;
    // Long enough that only this test moves the leadership.
    let cluster = Plan::new(3).flags(&["--election-timeout=3000"]).found();
    let leader = cluster.leader().await;
    let id = grant(&cluster.members[leader], TTL).await;
    let kept = grant(&cluster.members[leader], TTL).await;
    attach(&cluster.members[leader], "gone", id).await;
    let granted = Instant::now();
    for change in 1..5 {
        time::sleep(Duration::from_secs(2)).await;
        move_leader(&cluster, (leader + change) % 3).await;
        let left = time_to_live(&cluster.members[leader], id).await.ttl;
        let gone = granted.elapsed().as_secs();
        assert!(left as u64 + gone <= TTL as u64 + ELECTION_TIMEOUT + 1, "{left} s are left after {gone} s");
        // A renewed lease gets its whole TTL, whatever was noted before.
        assert_eq!(keep(&cluster.members[(leader + change + 1) % 3], kept).await, TTL);
        let left = time_to_live(&cluster.members[leader], kept).await.ttl;
        assert!(left >= TTL - 2, "{left} s are left of what was renewed just now");
    }
    assert!(cluster.members[leader].get("gone").await.is_some(), "not before its time");
    Deleted::watch(&cluster.members[leader], "gone").await.all(1).await;
    assert_eq!(keep(&cluster.members[leader], kept).await, TTL, "and only that one");
}

/// The next leader must not use the note of a lease that was renewed after it was noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_renewed_is_whole_after_a_crash() {
    let mut cluster = Cluster::found(3);
    let first = cluster.leader().await;
    let id = grant(&cluster.members[first], 60).await;
    time::sleep(Duration::from_secs(3)).await;
    let second = (first + 1) % 3;
    move_leader(&cluster, second).await;
    let left = time_to_live(&cluster.members[first], id).await.ttl;
    assert!(left <= 58, "{left} s are left: it was noted");
    assert_eq!(keep(&cluster.members[first], id).await, 60);
    cluster.members[second].kill();
    let third = leader_besides(&cluster, second).await;
    let left = time_to_live(&cluster.members[third], id).await.ttl;
    assert!(left >= 59, "{left} s are left of what was renewed");
}

/// etcd issues 15247 and 12528: a leader that was paused while another one led acted on its old state.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_ends_no_lease_that_others_kept() {
    const TTL: i64 = 4;
    let cluster = Cluster::found(3);
    let old = cluster.leader().await;
    let (kept, lost, revoked) = {
        let leader = &cluster.members[old];
        (grant(leader, TTL).await, grant(leader, TTL).await, grant(leader, 600).await)
    };
    attach(&cluster.members[old], "kept", kept).await;
    attach(&cluster.members[old], "lost", lost).await;
    let mut asleep = cluster.members[old].leases();
    asleep.lease_leases(LeaseLeasesRequest {}).await.expect("it is answered");
    cluster.members[old].signal(Signal::STOP);
    let new = leader_besides(&cluster, old).await;
    let deleted = Deleted::watch(&cluster.members[new], "lost").await;
    let revoke = LeaseRevokeRequest { id: revoked };
    cluster.members[new].leases().lease_revoke(revoke).await.expect("there is a quorum");
    let since = Instant::now();
    let mut deleted = tokio::spawn(deleted.all(1));
    loop {
        let through = &cluster.members[(old + 1 + since.elapsed().as_secs() as usize % 2) % 3];
        assert_eq!(keep(through, kept).await, TTL);
        // By now both leases have expired by the clock of the old leader.
        if deleted.is_finished() && since.elapsed() > Duration::from_secs(TTL as u64 * 2) {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "a lease that nobody keeps does not end");
        time::sleep(Duration::from_millis(300)).await;
    }
    (&mut deleted).await.expect("the watcher does not panic");
    let rev = cluster.members[new].put("mark", "v").await.header.expect("every answer has a header").revision;

    // The requests are sent on open connections while the member is paused, so that they arrive before any
    // message of the new leader.
    let questions: Vec<_> = [kept, lost, revoked]
        .map(|id| {
            let mut leases = asleep.clone();
            tokio::spawn(async move {
                let answers = leases.lease_keep_alive(once(LeaseKeepAliveRequest { id })).await?;
                let answer = answers.into_inner().next().await.expect("an answer")?;
                let request = LeaseTimeToLiveRequest { id, keys: false };
                Ok::<_, Status>((answer.ttl, leases.lease_time_to_live(request).await?.into_inner().ttl))
            })
        })
        .into_iter()
        .collect();
    time::sleep(Duration::from_millis(200)).await;
    cluster.members[old].signal(Signal::CONT);
    let mut answers = Vec::new();
    for question in questions {
        answers.push(question.await.expect("a question does not panic").expect("it is answered"));
    }
    assert_eq!((answers[1], answers[2]), ((0, -1), (0, -1)), "both are gone");
    assert!(answers[0].0 == TTL && answers[0].1 >= TTL - 2, "{:?} of a lease that lives", answers[0]);

    let awake = Instant::now();
    while awake.elapsed() < Duration::from_secs(3) {
        assert_eq!(keep(&cluster.members[old], kept).await, TTL, "through the old leader");
        time::sleep(Duration::from_millis(300)).await;
    }
    let mut kv = cluster.members[old].kv();
    let read = kv.range(RangeRequest { key: "kept".into(), ..RangeRequest::default() });
    let read = read.await.expect("a read is answered").into_inner();
    assert_eq!((read.kvs.len(), read.header.expect("a header").revision), (1, rev), "nothing was revoked");
    assert!(!cluster.members[old].log().contains("failed to revoke"), "it did not even try");
    cluster.assert_equal().await;
}

/// A leader that is paused and stays the leader finds the keep-alives of that time in its sockets.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_leader_that_slept_looks_who_waits_first() {
    const TTL: i64 = 3;
    let cluster = Cluster::found(1);
    let member = &cluster.members[0];
    let (kept, lost) = (grant(member, TTL).await, grant(member, TTL).await);
    attach(member, "kept", kept).await;
    attach(member, "lost", lost).await;
    let deleted = Deleted::watch(member, "lost").await;
    for round in 0..5 {
        assert_eq!(keep(member, kept).await, TTL, "before sleep {round}");
        member.signal(Signal::STOP);
        let mut leases = member.leases();
        let waiting = tokio::spawn(async move {
            let asked = leases.lease_keep_alive(once(LeaseKeepAliveRequest { id: kept })).await;
            asked.expect("a stream is opened").into_inner().next().await.expect("an answer")
        });
        time::sleep(Duration::from_secs(TTL as u64 + 1)).await;
        member.signal(Signal::CONT);
        let answer = waiting.await.expect("the question does not panic").expect("it is answered");
        assert_eq!(answer.ttl, TTL, "after sleep {round}");
    }
    deleted.all(1).await;
    assert!(member.get("kept").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_leader_says_so() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let id = grant(&cluster.members[leader], 600).await;
    for other in 1..3 {
        cluster.members[(leader + other) % 3].kill();
    }
    // Without a quorum the leader may answer neither that the lease lives nor that it does not exist.
    let refused = try_keep(&cluster.members[leader], id).await.expect_err("nobody confirms it");
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
    let request = LeaseTimeToLiveRequest { id, keys: false };
    let refused = cluster.members[leader].leases().lease_time_to_live(request).await;
    let refused = refused.expect_err("nobody confirms it");
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
}

/// etcd issues 9935, 10686 and 14019: a revoke that failed was never proposed again.
#[tokio::test(flavor = "multi_thread")]
async fn what_ended_without_a_quorum_goes_when_there_is_one() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    for number in 0..5 {
        let id = grant(&cluster.members[leader], 2).await;
        attach(&cluster.members[leader], &format!("k-{number}"), id).await;
    }
    for other in 1..3 {
        cluster.members[(leader + other) % 3].kill();
    }
    time::sleep(Duration::from_secs(5)).await;
    let there = cluster.members[leader].try_get("k-0", true).await.expect("a serializable read is answered");
    assert!(there.is_some(), "nothing ends without a quorum");
    let back = (leader + 1) % 3;
    cluster.members[back].start();
    let member = &cluster.members[back];
    let since = Instant::now();
    let all = || RangeRequest { key: "k-".into(), range_end: "k.".into(), ..RangeRequest::default() };
    while !member.kv().range(all()).await.expect("a read is answered").into_inner().kvs.is_empty() {
        assert!(since.elapsed() < PATIENCE, "leases do not end");
        time::sleep(Duration::from_millis(50)).await;
    }
}

/// If the leader is killed, a lease that no client renews expires under the next leader, and its keys are
/// deleted in one revision on every member.
#[tokio::test(flavor = "multi_thread")]
async fn leases_end_after_a_crash_of_the_leader() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let id = grant(&cluster.members[leader], 3).await;
    for key in ["k-0", "k-1"] {
        attach(&cluster.members[leader], key, id).await;
    }
    let attached = Instant::now();
    let watching = [(leader + 1) % 3, (leader + 2) % 3];
    let mut watches = Vec::new();
    for member in watching {
        watches.push(Deleted::watch(&cluster.members[member], "k-").await);
    }
    cluster.members[leader].kill();
    for watch in watches {
        let gone = watch.all(2).await;
        assert!(gone - attached > Duration::from_secs(3), "not before its time");
        println!("gone {:?} after the last renewal", gone - attached);
    }
    for member in watching {
        assert_eq!(time_to_live(&cluster.members[member], id).await.ttl, -1);
    }
}

/// If many leases expire together, they are revoked in batches, and writes continue meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_leases_end_together() {
    const COUNT: usize = 1000;
    let cluster = Plan::new(3).found();
    let leader = cluster.leader().await;
    let deleted = Deleted::watch(&cluster.members[(leader + 1) % 3], "k-").await;
    let mut tasks = Vec::new();
    for worker in 0..100 {
        let member = &cluster.members[worker % 3];
        let (mut leases, mut kv) = (member.leases(), member.kv());
        tasks.push(tokio::spawn(async move {
            for number in 0..COUNT / 100 {
                let request = LeaseGrantRequest { ttl: 20, id: 0 };
                let lease = leases.lease_grant(request).await.expect("a lease is granted").into_inner().id;
                let key = format!("k-{worker}-{number}");
                let put = PutRequest { key: key.into(), value: "v".into(), lease, ..PutRequest::default() };
                kv.put(put).await.expect("a put is accepted");
            }
        }));
    }
    let began = Instant::now();
    for task in tasks {
        task.await.expect("a worker does not panic");
    }
    let granted = Instant::now();
    let deleted = tokio::spawn(deleted.all(COUNT));
    let mut puts = Vec::new();
    while !deleted.is_finished() {
        let start = Instant::now();
        cluster.members[leader].put("other", "v").await;
        puts.push((start, start.elapsed()));
    }
    let gone = deleted.await.expect("the watcher does not panic");
    let during = |from: Instant, to: Instant| {
        let mut took: Vec<_> =
            puts.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, took)| *took).collect();
        took.sort();
        let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
        format!("{} puts, p50 {:?}, p99 {:?}, max {:?}", took.len(), at(50), at(99), took.last())
    };
    let first_end = began + Duration::from_secs(20);
    println!(
        "granted within {:?}, the last gone {:?} after the first end",
        granted - began,
        gone - first_end
    );
    println!("before: {}", during(granted, first_end));
    println!("during: {}", during(first_end, gone));
    cluster.assert_equal().await;
}
