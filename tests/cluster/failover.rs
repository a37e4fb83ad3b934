//! Members that are stopped or killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{cluster::Cluster, tools::etcdctl};

/// Writes numbered keys through every member in turn until it is stopped. Acknowledged writes are counted;
/// others are repeated through the next member.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Writer {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = cluster.members.iter().map(|member| member.kv()).collect();
        let task = tokio::spawn({
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            async move {
                for mut client in std::iter::repeat(clients).flatten() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let number = acknowledged.load(Ordering::Relaxed);
                    let request = crate::pb::etcdserverpb::PutRequest {
                        key: format!("n-{number:06}").into(),
                        value: number.to_string().into(),
                        ..Default::default()
                    };
                    let put = tokio::time::timeout(Duration::from_secs(3), client.put(request)).await;
                    if let Ok(Ok(_)) = put {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    } else {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
        Writer { stop, acknowledged, task }
    }

    async fn reach(&self, count: u64) {
        let since = Instant::now();
        while self.acknowledged.load(Ordering::Relaxed) < count {
            assert!(since.elapsed() < crate::cluster::PATIENCE, "writes do not go on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn more(&self, count: u64) {
        self.reach(self.acknowledged.load(Ordering::Relaxed) + count).await;
    }

    async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer does not panic");
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// Checks that every running member has all acknowledged writes.
async fn assert_nothing_lost(cluster: &Cluster, acknowledged: u64) {
    cluster.assert_equal().await;
    for member in &cluster.members {
        for number in 0..acknowledged {
            let key = format!("n-{number:06}");
            let value = member.try_get(&key, number > 0).await.expect("a read is answered");
            assert_eq!(value, Some(number.to_string()), "{key} on {}", member.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_cost_no_acknowledged_write() {
    let mut cluster = Cluster::found(3);
    let writer = Writer::start(&cluster);
    writer.reach(50).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        writer.more(50).await;
        cluster.members[leader].start();
        writer.more(20).await;
    }
    let acknowledged = writer.finish().await;
    assert_nothing_lost(&cluster, acknowledged).await;
}

/// All members at once, as when the power fails.
#[tokio::test(flavor = "multi_thread")]
async fn all_members_killed_cost_no_acknowledged_write() {
    let mut cluster = Cluster::found(3);
    let writer = Writer::start(&cluster);
    writer.reach(100).await;
    for member in &mut cluster.members {
        member.kill();
    }
    let acknowledged = writer.finish().await;
    // A single member has no quorum and does not become ready, so they are started together.
    std::thread::scope(|scope| {
        for member in &mut cluster.members {
            scope.spawn(move || member.start());
        }
    });
    assert_nothing_lost(&cluster, acknowledged).await;
}

/// All members are stopped at the same time, as by Ctrl-C in a terminal, so the leader's possible successors
/// stop with it.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_told_to_end_together_end_well() {
    let mut cluster = Cluster::found(3);
    cluster.members[0].put("k", "v").await;
    for member in &cluster.members {
        member.signal(Signal::INT);
    }
    for member in &mut cluster.members {
        let (status, log) = member.wait_for_end();
        assert!(status.success(), "{} ended with {status}: {log}", member.name);
    }
    for member in &mut cluster.members {
        member.spawn();
    }
    for member in &mut cluster.members {
        member.wait_until_ready();
    }
    assert_eq!(cluster.members[1].get("k").await.as_deref(), Some("v"));
}

/// A leader that is stopped transfers leadership first, so that no member waits for an election timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_hands_over() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let term = cluster.members[leader].try_status().await.expect("it runs").raft_term;
    cluster.members[leader].signal(Signal::TERM);
    let (status, log) = cluster.members[leader].wait_for_end();
    assert!(status.success(), "{status}");
    assert!(log.contains("leadership transfer finished"), "{log}");
    let next = cluster.leader().await;
    let status = cluster.members[next].try_status().await.expect("it runs");
    assert_eq!(status.raft_term, term + 1, "one election, not more");
    cluster.members[next].put("k", "v").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_where_it_is_sent() {
    let cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let id = format!("{:x}", cluster.members[target].id().await);
    let moved = etcdctl(&cluster.endpoints(), &["move-leader", &id]).expect("the leader is among them");
    assert!(moved.starts_with("Leadership transferred"), "{moved}");
    assert_eq!(cluster.leader().await, target);
    let refused = etcdctl(&cluster.members[leader].endpoint(), &["move-leader", &id]);
    assert!(refused.is_err(), "only the leader can move itself");
    cluster.members[leader].put("k", "v").await;
    cluster.assert_equal().await;
}

/// A leader that was paused for a while no longer leads, and must not answer as if it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_answers_with_what_is_current() {
    let cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    cluster.members[leader].put("k", "old").await;
    cluster.members[leader].signal(Signal::STOP);
    let other = &cluster.members[(leader + 1) % 3];
    other.put("k", "new").await;
    // The request is sent while the member is paused, so that it arrives before any message of the new
    // leader.
    let asleep = cluster.members[leader].kv();
    let question = tokio::spawn(async move {
        let request = crate::pb::etcdserverpb::RangeRequest { key: "k".into(), ..Default::default() };
        let mut asleep = asleep;
        asleep.range(request).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.members[leader].signal(Signal::CONT);
    let answer = question.await.expect("the question does not panic").expect("it is answered").into_inner();
    assert_eq!(answer.kvs[0].value.as_ref(), b"new");
    cluster.assert_equal().await;
}

/// Without a quorum there are no writes and no linearizable reads, but serializable reads.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_serves_only_what_needs_no_quorum() {
    let mut cluster = Cluster::found(3);
    cluster.members[0].put("k", "v").await;
    cluster.assert_equal().await;
    cluster.members[1].kill();
    cluster.members[2].kill();
    let alone = &cluster.members[0];
    let own = alone.try_get("k", true).await.expect("a serializable read is answered");
    assert_eq!(own.as_deref(), Some("v"));
    let read = alone.try_get("k", false).await.expect_err("nobody confirms a read");
    assert_eq!(read.message(), "etcdserver: request timed out");
    let status = alone.try_status().await.expect("status needs no quorum");
    assert_eq!((status.leader, status.errors), (0, vec!["etcdserver: no leader".to_owned()]));
    cluster.members[1].start();
    let alone = &cluster.members[0];
    alone.put("k", "w").await;
    assert_eq!(alone.get("k").await.as_deref(), Some("w"));
}
