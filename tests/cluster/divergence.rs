//! A member whose history is not that of the others: found at its start, at an interval, or at a compaction.

use std::time::{Duration, Instant};

use redb::{ReadableDatabase, ReadableTable};
use rustix::process::Signal;
use tokio::time;

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::etcdserverpb::{AlarmRequest, CompactionRequest},
};

const RECORDS: redb::TableDefinition<'_, &[u8; 16], &[u8]> = redb::TableDefinition::new("rev");

/// Stops a member and changes the value of a key in its database. The record has a checksum that fits, so only a
/// comparison with the others can tell.
fn change_history(member: &mut Member, key: &str) {
    member.signal(Signal::TERM);
    member.wait_for_end();
    let database = redb::Database::open(member.data_dir().join("member/snap/db")).expect("a database");
    let found = {
        let reading = database.begin_read().expect("it can be read");
        let records = reading.open_table(RECORDS).expect("there are records");
        let mut records = records.iter().expect("they can be read").map(|record| record.expect("a record"));
        let found =
            records.find(|(_, value)| value.value().windows(key.len()).any(|part| part == key.as_bytes()));
        let (revision, value) = found.expect("the key is in the database");
        (*revision.value(), value.value().to_vec())
    };
    let (revision, mut stored) = found;
    *stored.last_mut().expect("it is not empty") ^= 1;
    let crc32c = crc32c::crc32c_append(crc32c::crc32c(&revision), &stored[4..]);
    stored[..4].copy_from_slice(&crc32c.to_le_bytes());
    let writing = database.begin_write().expect("it can be written");
    writing.open_table(RECORDS).expect("a table").insert(&revision, &*stored).expect("a record");
    writing.commit().expect("it can be written");
}

/// The members whose data are said to be corrupt, once there is one.
async fn corrupt_members(member: &Member) -> Vec<u64> {
    let since = Instant::now();
    loop {
        let answer = member.maintenance().alarm(AlarmRequest::default()).await.expect("alarms are listed");
        let named: Vec<u64> = answer.into_inner().alarms.iter().map(|alarm| alarm.member_id).collect();
        if !named.is_empty() {
            return named;
        }
        assert!(since.elapsed() < PATIENCE, "no alarm was raised");
        time::sleep(Duration::from_millis(50)).await;
    }
}

/// A cluster with a follower that has another value for a key, the number of its leader, and that of the follower.
async fn diverged(flags: &[&str]) -> (Cluster, usize, usize) {
    let mut cluster = Plan::new(3).flags(flags).found();
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    cluster.members[leader].put("changed", "value").await;
    cluster.members[leader].put("other", "value").await;
    cluster.assert_equal().await;
    change_history(&mut cluster.members[follower], "changed");
    (cluster, leader, follower)
}

/// The gate is on by default.
#[tokio::test(flavor = "multi_thread")]
async fn hashes_of_compactions_name_the_member_in_the_minority() {
    let (mut cluster, leader, follower) = diverged(&["--compact-hash-check-time=300ms"]).await;
    cluster.members[follower].start();
    let revision = cluster.members[leader].put("last", "value").await.header.expect("a header").revision;
    let compaction = CompactionRequest { revision, physical: true };
    cluster.members[leader].kv().compact(compaction).await.expect("it can be compacted");
    let id = cluster.members[follower].id().await;
    assert_eq!(corrupt_members(&cluster.members[leader]).await, [id]);
    let logs: Vec<String> = cluster.members.iter().map(Member::log).collect();
    assert!(logs.iter().any(|log| log.contains("Detected compaction hash mismatch")), "{logs:?}");
    let refused = cluster.members[leader].try_put("more", "value").await.expect_err("writes are refused");
    assert_eq!(refused.message(), "etcdserver: corrupt cluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_compares_the_newest_history_at_an_interval() {
    let (mut cluster, leader, follower) = diverged(&["--corrupt-check-time=300ms"]).await;
    cluster.members[leader].wait_for_line("enabled corruption checking");
    cluster.members[leader].wait_for_line("finished peer corruption check");
    cluster.members[follower].start();
    let id = cluster.members[follower].id().await;
    assert_eq!(corrupt_members(&cluster.members[leader]).await, [id]);
    let logs: Vec<String> = cluster.members.iter().map(Member::log).collect();
    assert!(logs.iter().any(|log| log.contains("same compact revision then hashes must match")), "{logs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_another_history_does_not_start() {
    let (mut cluster, leader, follower) = diverged(&["--feature-gates=InitialCorruptCheck=true"]).await;
    let log = cluster.members[follower].start_refused();
    for words in [
        "starting initial corruption check",
        "found different hash values from remote peer",
        "checkInitialHashKV failed",
        "found data inconsistency with peers",
    ] {
        assert!(log.contains(words), "{words}:\n{log}");
    }
    // A member like the others starts.
    let other = (leader + 2) % 3;
    cluster.members[other].signal(Signal::TERM);
    cluster.members[other].wait_for_end();
    cluster.members[other].start();
    assert!(cluster.members[other].log().contains("initial corruption checking passed; no corruption"));
}
