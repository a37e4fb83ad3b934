//! A cluster of etcd whose members are imported, each with the id that it had.

use std::{collections::BTreeMap, process::Command};

use rustix::process::Signal;

use crate::{
    cluster::{Cluster, Member, Plan},
    pb::etcdserverpb::LeaseGrantRequest,
    tools::{Release, etcdctl},
};

/// The cluster's id, and those of its members.
async fn identity(cluster: &Cluster) -> (String, BTreeMap<String, u64>) {
    let member = &cluster.members[0];
    let members = member.members().await.into_iter().map(|member| (member.name, member.id)).collect();
    (member.cluster_id().await, members)
}

/// Nothing but what they store changes: clients and tools find the cluster and each member under the ids that they know.
#[tokio::test]
async fn three_imported_members_are_the_cluster_that_they_were() {
    let mut releases = Release::of_etcdctl();
    releases.retain(|release| *release != Release::V34);
    for release in releases {
        let mut cluster = Plan::release(release, 3).found();
        cluster.leader().await;
        for number in 0..60 {
            cluster.members[number % 3].put(&format!("k{number}"), "v").await;
        }
        let lease = LeaseGrantRequest { ttl: 6000, id: 7 };
        cluster.members[0].leases().lease_grant(lease).await.expect("a lease is granted");
        etcdctl(&cluster.endpoints(), &["user", "add", "ann:secret"]).expect("a user can be added");
        cluster.assert_equal().await;
        let before = identity(&cluster).await;
        assert_eq!(before.1.len(), 3);

        cluster.members.iter().for_each(|member| member.signal(Signal::TERM));
        for member in &mut cluster.members {
            member.wait_for_end();
            let old = member.become_retcd();
            let output = Command::new(env!("CARGO_BIN_EXE_retcd"))
                .args(["import", "--keep-membership", "--data-dir"])
                .args([&member.data_dir(), &old])
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{release:?} {}: {said}", member.name);
            let id = before.1[&member.name];
            assert!(said.contains(&format!("member {id:x} of cluster {}", before.0)), "{release:?}: {said}");
        }
        cluster.members.iter_mut().for_each(Member::spawn);
        cluster.members.iter_mut().for_each(Member::wait_until_ready);
        let leader = cluster.leader().await;
        assert_eq!(identity(&cluster).await, before, "{release:?}");
        for member in &cluster.members {
            assert_eq!(member.id().await, before.1[&member.name], "{release:?}: {}", member.name);
        }
        for number in 0..60 {
            let found = cluster.members[number % 3].get(&format!("k{number}")).await;
            assert_eq!(found.as_deref(), Some("v"), "{release:?}: k{number}");
        }
        assert_eq!(etcdctl(&cluster.endpoints(), &["user", "list"]).expect("users are listed"), "ann\n");
        assert_eq!(
            etcdctl(&cluster.endpoints(), &["lease", "list"]).expect("leases are listed"),
            "found 1 leases\n0000000000000007\n"
        );

        // It is a cluster: it writes without its leader, which catches up later.
        cluster.members[leader].kill();
        cluster.leader().await;
        cluster.members[(leader + 1) % 3].put("without", "the leader").await;
        cluster.members[leader].start();
        cluster.assert_equal().await;
        assert_eq!(cluster.members[leader].get("without").await.as_deref(), Some("the leader"));
    }
}
