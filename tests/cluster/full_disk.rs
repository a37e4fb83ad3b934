//! Members whose disk is full: the others are not stopped, and the lead goes to one of them.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::etcdserverpb::PutRequest,
    small_disk::SmallDisk,
};

fn put(number: usize, bytes: usize) -> PutRequest {
    PutRequest { key: format!("k{number:05}").into(), value: vec![b'x'; bytes].into(), ..Default::default() }
}

/// Writes through a member until it refuses what grows.
async fn write_until_refused(member: &Member, next: &mut usize) {
    loop {
        match member.kv().put(put(*next, 200_000)).await {
            Ok(_) => *next += 1,
            Err(refusal) if refusal.code() == Code::ResourceExhausted => {
                assert_eq!(refusal.message(), "etcdserver: mvcc: database space exceeded");
                return;
            }
            // The lead changed meanwhile.
            Err(other) => assert_eq!(other.code(), Code::Unavailable, "{other}"),
        }
        assert!(*next < 3000, "600 MB do not fit on the disk");
    }
}

/// Writes through a member until a put is accepted, and says how long that took.
async fn accepting(member: &Member, next: &mut usize) -> Duration {
    let start = Instant::now();
    while member.kv().put(put(*next, 10)).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "puts are refused for good");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    *next += 1;
    start.elapsed()
}

#[tokio::test]
async fn a_leader_with_a_full_disk_hands_over_and_stops_nobody() {
    let mut members = Plan::new(3).members();
    let disks: Vec<_> = members.iter().map_while(|member| SmallDisk::at(&member.data_dir())).collect();
    if disks.len() < members.len() {
        return;
    }
    members.iter_mut().for_each(Member::spawn);
    members.iter_mut().for_each(Member::wait_until_ready);
    let mut cluster = Cluster { members };
    let full = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|number| *number != full).collect();
    let mut next = 0;
    for _ in 0..20 {
        cluster.members[full].kv().put(put(next, 1000)).await.expect("there is space");
        next += 1;
    }
    disks[full].fill();
    write_until_refused(&cluster.members[full], &mut next).await;

    // The lead goes to a member that has space, and through that member writes go on.
    let leader = cluster.leader_among(&others).await;
    for _ in 0..20 {
        cluster.members[leader].kv().put(put(next, 1000)).await.expect("a quorum has space");
        next += 1;
    }
    assert_eq!(cluster.members[full].get("k00001").await.map(|value| value.len()), Some(1000));

    // After a start on the full disk too; and with space again it catches up and accepts writes.
    cluster.members[full].kill();
    disks[full].fill();
    cluster.members[full].start();
    cluster.members[leader].kv().put(put(next, 1000)).await.expect("a quorum has space");
    next += 1;
    disks[full].free();
    let took = accepting(&cluster.members[full], &mut next).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    cluster.assert_equal().await;
    for number in 0..next {
        assert!(cluster.members[full].get(&format!("k{number:05}")).await.is_some(), "put {number} is lost");
    }
    cluster.members.iter_mut().for_each(Member::kill);
}
