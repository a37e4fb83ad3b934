//! A cluster that has permanently lost its quorum, and continues with the data of one member.

use rustix::process::Signal;

use crate::{
    cluster::{Cluster, Member, Plan},
    pb::etcdserverpb::{LeaseGrantRequest, LeaseTimeToLiveRequest},
    tools::etcdctl,
};

const REMOVED: &str = "the member has been permanently removed from the cluster";

async fn ids(member: &Member) -> (u64, u64) {
    let status = member.try_status().await.expect("a member says how it is");
    let header = status.header.expect("every answer has a header");
    (header.cluster_id, header.member_id)
}

/// Adds a new member and starts it. The leader must have answers from all other members, or it refuses.
async fn add(cluster: &mut Cluster, name: &str) {
    let endpoints = cluster.endpoints();
    let url = format!("--peer-urls={}", cluster.prepare(name).peer_url());
    etcdctl(&endpoints, &["member", "add", name, &url]).expect("a member can be added");
    cluster.members.last_mut().expect("just added").start();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_of_three_goes_on_alone_and_gets_company() {
    let mut cluster = Cluster::found(3);
    let left = (cluster.leader().await + 1) % 3;
    for number in 0..50 {
        cluster.members[number % 3].put(&format!("k{number}"), &number.to_string()).await;
    }
    let lease = LeaseGrantRequest { ttl: 600, id: 77 };
    cluster.members[left].leases().lease_grant(lease).await.expect("a lease is granted");
    // The last acknowledged write, which this member acknowledged: it must not be lost.
    cluster.members[left].put("last", "word").await;
    let known = ids(&cluster.members[left]).await;
    let mut lost = Vec::new();
    for number in (0..3).rev() {
        cluster.members[number].kill();
        if number != left {
            lost.push(cluster.members.remove(number));
        }
    }

    cluster.members[0].flags = vec!["--force-new-cluster".to_owned()];
    cluster.members[0].start();
    let log = cluster.members[0].log();
    assert!(log.contains("forced a new cluster"), "{log}");
    let alone = &cluster.members[0];
    assert_eq!(ids(alone).await, known, "it keeps who it is");
    assert_eq!(alone.members().await.len(), 1);
    let complete = async |member: &Member| {
        for number in 0..50 {
            let value = member.get(&format!("k{number}")).await;
            assert_eq!(value, Some(number.to_string()), "k{number} on {}", member.name);
        }
        assert_eq!(member.get("last").await.as_deref(), Some("word"));
        let request = LeaseTimeToLiveRequest { id: 77, keys: false };
        let lease = member.leases().lease_time_to_live(request).await.expect("an answer").into_inner();
        assert_eq!(lease.granted_ttl, 600);
    };
    complete(alone).await;
    alone.put("after", "alone").await;

    // If the flag is still set at a restart, after a stop or a kill, nothing is lost and no member is
    // removed.
    cluster.members[0].kill();
    cluster.members[0].start();
    let log = cluster.members[0].log();
    assert!(log.contains("--force-new-cluster has no effect: this member is the only one already"), "{log}");
    cluster.members[0].signal(Signal::TERM);
    cluster.members[0].wait_for_end();
    cluster.members[0].flags.clear();
    cluster.members[0].start();
    complete(&cluster.members[0]).await;

    add(&mut cluster, "m3").await;
    add(&mut cluster, "m4").await;
    cluster.members[2].put("more", "company").await;
    cluster.assert_equal().await;
    for member in &cluster.members {
        complete(member).await;
        assert_eq!(member.get("after").await.as_deref(), Some("alone"));
        assert_eq!(member.members().await.len(), 3);
    }

    // A member that was removed as lost, but still exists, cannot return.
    let log = lost[0].start_refused();
    assert!(log.contains(REMOVED), "{log}");
    cluster.members[0].put("k", "v").await;
}

/// Entries in the member's log after the last one that it knows to be committed are kept, because a client
/// may have got an answer for them.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_log_is_kept() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    cluster.members[leader].put("committed", "v").await;
    cluster.assert_equal().await;
    for number in (0..3).filter(|number| *number != leader) {
        cluster.members[number].kill();
    }
    let request = cluster.members[leader].try_put("unconfirmed", "v").await.expect_err("there is no quorum");
    assert!(request.message().starts_with("etcdserver: request timed out"), "{request}");
    let alone = &mut cluster.members[leader];
    alone.kill();
    alone.flags = vec!["--force-new-cluster".to_owned()];
    alone.start();
    assert_eq!(alone.get("committed").await.as_deref(), Some("v"));
    assert_eq!(alone.get("unconfirmed").await.as_deref(), Some("v"));
}

/// With an empty directory the flag has no effect, as in etcd.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_ignores_the_flag() {
    for plan in [Plan::reference(1), Plan::new(1)] {
        let cluster = plan.flags(&["--force-new-cluster"]).found();
        cluster.members[0].put("k", "v").await;
        assert_eq!(cluster.members[0].members().await.len(), 1);
    }
}
