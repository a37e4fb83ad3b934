//! Deadlines of calls that wait for a leader.

use std::time::Instant;

use tokio::time::{Duration, sleep};
use tonic::{Code, Request, Status};

use crate::{
    cluster::{Cluster, PATIENCE},
    pb::etcdserverpb::*,
};

/// A request with this `grpc-timeout` for the server only. The client library of the test obeys the first
/// value of the header; the server takes the last.
fn within<T>(timeout: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for timeout in ["1H", timeout] {
        let timeout = timeout.parse().expect("a header takes it");
        request.metadata_mut().append("grpc-timeout", timeout);
    }
    request
}

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

fn passed<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.expect_err("the deadline has passed");
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "context deadline exceeded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_waits_for_a_leader_waits_until_its_deadline_and_is_not_done_after_it() {
    let mut cluster = Cluster::found(3);
    cluster.leader().await;
    let [first, second, last] = &mut cluster.members[..] else { panic!("three members") };
    let lease = last.leases().lease_grant(LeaseGrantRequest { ttl: 600, id: 0 }).await;
    let lease = lease.expect("a lease is granted").into_inner().id;
    first.kill();
    second.kill();
    let since = Instant::now();
    while last.try_status().await.expect("it answers").leader != 0 {
        assert!(since.elapsed() < PATIENCE, "it does not notice that the others are gone");
        sleep(Duration::from_millis(20)).await;
    }

    // More puts than there may be batches in progress, so that the expired put shares the queue with some.
    let patient = (0..8).map(|number| {
        let mut kv = last.kv();
        let key = format!("patient-{number}");
        tokio::spawn(async move {
            // The server's request timeout is shorter than the time that a member may take to start.
            while let Err(status) = kv.put(put(&key)).await {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
            }
        })
    });
    let patient: Vec<_> = patient.collect();
    let (mut kv, mut kv_read, mut leases) = (last.kv(), last.kv(), last.leases());
    let (mut cluster_client, timeout) = (cluster_client::ClusterClient::new(last.channel()), "300m");
    let time_to_live = LeaseTimeToLiveRequest { id: lease, keys: true };
    let read = RangeRequest { key: "k".into(), ..Default::default() };
    let (put, read, time_to_live, members) = tokio::join!(
        kv.put(within(timeout, put("late"))),
        kv_read.range(within(timeout, read)),
        leases.lease_time_to_live(within(timeout, time_to_live)),
        cluster_client.member_list(within(timeout, MemberListRequest { linearizable: true })),
    );
    passed(put);
    passed(read);
    passed(time_to_live);
    passed(members);

    first.spawn();
    second.spawn();
    first.wait_until_ready();
    second.wait_until_ready();
    for patient in patient {
        patient.await.expect("the patient put is made");
    }
    assert_eq!(last.get("late").await, None, "an expired put was executed");
}
