//! Any member serves any request.

use std::{collections::BTreeSet, time::Duration};

use tokio_stream::{StreamExt, once};

use crate::{
    cluster::Cluster,
    pb::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, PutRequest},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_member_wrote_all_read() {
    let cluster = Cluster::found(3);
    for (number, writer) in cluster.members.iter().enumerate() {
        let key = format!("key-{number}");
        let answer = writer.put(&key, "value").await;
        let header = answer.header.expect("every answer has a header");
        assert_eq!(header.member_id, writer.id().await, "the answer is of the member that was asked");
        // The member that answered has applied it, so it needs no quorum to read it back.
        let own = writer.try_get(&key, true).await.expect("a serializable read is answered");
        assert_eq!(own.as_deref(), Some("value"));
        for reader in &cluster.members {
            assert_eq!(reader.get(&key).await.as_deref(), Some("value"), "{} on {}", key, reader.name);
        }
    }
    cluster.assert_equal().await;
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

/// Only the leader knows when a lease ends; everybody answers for it.
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
    let started = std::time::Instant::now();
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
