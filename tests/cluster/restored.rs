//! Clusters that begin with a backup: `snapshot restore`, and then members that are added and removed.
//!
//! The log of such a cluster does not contain the restored data. A member that joins must therefore be sent
//! that data, and members that began with different data must not work together.

use std::{fs, path::Path, process::Command, time::Duration, time::Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time;

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::etcdserverpb::{
        LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, SnapshotRequest,
    },
    tools::etcdctl,
};

/// The text with which two members refuse to work together.
const MISMATCH: &str = "restored data mismatch";

/// How many keys [`Backup::of_keys`] writes.
const KEYS: usize = 5;

const LEASE: i64 = 77;

/// A file from `snapshot save`.
struct Backup {
    home: TempDir,
}

impl Backup {
    /// The snapshot of a member with five keys, one of them attached to a lease, and a user.
    async fn of_keys(prefix: &str) -> Backup {
        let source = Cluster::found(1);
        let member = &source.members[0];
        let lease = LeaseGrantRequest { ttl: 6000, id: LEASE };
        member.leases().lease_grant(lease).await.expect("a lease is granted");
        for number in 0..KEYS {
            let request = PutRequest {
                key: format!("{prefix}{number}").into(),
                value: "v".into(),
                lease: if number == 0 { LEASE } else { 0 },
                ..PutRequest::default()
            };
            member.kv().put(request).await.expect("a put is accepted");
        }
        etcdctl(&member.endpoint(), &["user", "add", "ann:secret"]).expect("a user can be added");
        Backup::of(member).await
    }

    async fn of(member: &Member) -> Backup {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it is writable");
        let parts = member.maintenance().snapshot(SnapshotRequest {}).await.expect("a snapshot is taken");
        let mut parts = parts.into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await.expect("the stream goes on") {
            bytes.extend_from_slice(&part.blob);
        }
        fs::write(home.path().join("backup.db"), bytes).expect("it is writable");
        Backup { home }
    }

    fn restore_to(&self, data_dir: &Path) {
        self.restore_with(data_dir, &[]);
    }

    fn restore_with(&self, data_dir: &Path, flags: &[String]) {
        let output = Command::new(env!("CARGO_BIN_EXE_retcd"))
            .args(["snapshot", "restore"])
            .arg(self.home.path().join("backup.db"))
            .arg("--data-dir")
            .arg(data_dir)
            .args(flags)
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Members of a new cluster, each restored from the backup and not started yet.
    fn members(&self, size: usize) -> Vec<Member> {
        let members = Plan::new(size).members();
        members.iter().for_each(|member| self.restore_to(&member.data_dir()));
        members
    }
}

/// Starts founding members together.
fn found(mut members: Vec<Member>) -> Cluster {
    members.iter_mut().for_each(Member::spawn);
    members.iter_mut().for_each(Member::wait_until_ready);
    Cluster { members }
}

async fn keys(member: &Member, prefix: &str) -> Vec<String> {
    let mut range_end = prefix.as_bytes().to_vec();
    *range_end.last_mut().expect("prefixes are not empty") += 1;
    let request = RangeRequest {
        key: prefix.to_owned().into(),
        range_end: range_end.into(),
        ..RangeRequest::default()
    };
    let found = member.kv().range(request).await.expect("a read is answered").into_inner().kvs;
    found.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// Checks that a member has all data of the backup.
async fn assert_restored(member: &Member, prefix: &str) {
    let expected: Vec<String> = (0..KEYS).map(|number| format!("{prefix}{number}")).collect();
    assert_eq!(keys(member, prefix).await, expected, "on {}", member.name);
    let request = LeaseTimeToLiveRequest { id: LEASE, keys: true };
    let lease = member.leases().lease_time_to_live(request).await.expect("an answer").into_inner();
    assert_eq!((lease.granted_ttl, lease.keys.len()), (6000, 1), "on {}", member.name);
    assert_eq!(etcdctl(&member.endpoint(), &["user", "list"]).expect("users are listed"), "ann\n");
}

async fn add(cluster: &mut Cluster, name: &str, flags: &[&str]) {
    let endpoints = cluster.endpoints();
    let url = format!("--peer-urls={}", cluster.prepare(name).peer_url());
    let arguments = [&["member", "add", name, &url], flags].concat();
    etcdctl(&endpoints, &arguments).expect("a member can be added");
    cluster.members.last_mut().expect("just added").start();
}

async fn remove(cluster: &mut Cluster, number: usize) {
    let mut gone = cluster.members.remove(number);
    let id = format!("{:x}", gone.id().await);
    etcdctl(&cluster.members[0].endpoint(), &["member", "remove", &id]).expect("a member can be removed");
    gone.wait_for_end();
}

async fn until_log_says(member: &Member, text: &str) {
    let since = Instant::now();
    while !member.log().contains(text) {
        assert!(since.elapsed() < PATIENCE, "the log of {} does not say: {text}", member.name);
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// The two digests in a refusal.
fn named(log: &str) -> Vec<String> {
    let (_, said) = log.split_once(MISMATCH).expect("it says that the data differ");
    let said = said.replace("no data", "restored data none");
    let names = said.split("restored data ").skip(1).take(2);
    names.map(|name| name.split([' ', ',', '.', ';']).next().unwrap_or_default().to_owned()).collect()
}

/// etcd's documentation has the cluster in the flags of `snapshot restore`, and starts the members without them.
#[tokio::test]
async fn a_cluster_is_restored_with_the_flags_that_etcds_documentation_shows() {
    let backup = Backup::of_keys("k").await;
    let mut members = Plan::new(3).members();
    for member in &mut members {
        let flags = [
            format!("--name={}", member.name),
            format!("--initial-cluster={}", member.initial_cluster),
            "--initial-cluster-token=restored".to_owned(),
            format!("--initial-advertise-peer-urls={}", member.peer_url()),
        ];
        backup.restore_with(&member.data_dir(), &flags);
        member.initial_cluster = format!("{}=http://127.0.0.1:1", member.name);
    }
    let cluster = found(members);
    for member in &cluster.members {
        assert_restored(member, "k").await;
    }
    let put = PutRequest { key: "l".into(), value: "v".into(), ..PutRequest::default() };
    cluster.members[0].kv().put(put).await.expect("a put is accepted");
    assert_eq!(keys(&cluster.members[2], "l").await, ["l"]);
    assert_eq!(cluster.members[1].members().await.len(), 3);
}

/// As in etcd, whose restored members begin with a snapshot, members that join get all data: also after a
/// restart of the restored member, as a learner, after a defragmentation and a compaction, and after the
/// restored member was removed.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_join_a_restored_one_get_its_data() {
    let backup = Backup::of_keys("k").await;
    let mut cluster = found(backup.members(1));
    assert_restored(&cluster.members[0], "k").await;
    let header = cluster.members[0].put("after", "v").await.header.expect("every answer has a header");
    assert_eq!(header.revision, 2 + KEYS as i64, "revisions go on where the backup was");
    cluster.members[0].kill();
    cluster.members[0].start();

    add(&mut cluster, "joined", &[]).await;
    assert_restored(&cluster.members[1], "k").await;
    cluster.assert_equal().await;

    let endpoint = cluster.members[0].endpoint();
    etcdctl(&endpoint, &["compact", "3"]).expect("it can be compacted");
    etcdctl(&endpoint, &["defrag"]).expect("it can be defragmented");
    cluster.members[0].signal(Signal::TERM);
    cluster.members[0].wait_for_end();
    cluster.members[0].start();
    add(&mut cluster, "learner", &["--learner"]).await;
    let id = format!("{:x}", cluster.members[2].id().await);
    let since = Instant::now();
    while let Err(error) = etcdctl(&cluster.members[0].endpoint(), &["member", "promote", &id]) {
        assert!(error.contains("in sync") && since.elapsed() < PATIENCE, "{error}");
    }
    assert_restored(&cluster.members[2], "k").await;
    cluster.assert_equal().await;

    // The restored member is removed, and the members that got its data continue.
    remove(&mut cluster, 0).await;
    add(&mut cluster, "replacement", &[]).await;
    for member in &cluster.members {
        assert_restored(member, "k").await;
        assert_eq!(member.get("after").await.as_deref(), Some("v"));
        assert_eq!(member.members().await.len(), 3);
    }
    cluster.assert_equal().await;

    // Their data can be saved and restored again.
    let again = Backup::of(&cluster.members[2]).await;
    let mut cluster = found(again.members(1));
    add(&mut cluster, "joined", &[]).await;
    assert_restored(&cluster.members[1], "k").await;
    assert_eq!(cluster.members[1].members().await.len(), 2, "of the old members nothing is left");
    cluster.assert_equal().await;
}

/// As etcd's documentation restores a cluster: each member from the same file.
#[tokio::test(flavor = "multi_thread")]
async fn three_members_that_were_restored_from_one_backup_found_a_cluster() {
    let backup = Backup::of_keys("k").await;
    let mut cluster = found(backup.members(3));
    for member in &cluster.members {
        assert_restored(member, "k").await;
    }
    cluster.members[1].put("after", "v").await;
    cluster.assert_equal().await;

    // A member that lost its data is replaced.
    let lost = (cluster.leader().await + 1) % 3;
    let id = format!("{:x}", cluster.members[lost].id().await);
    cluster.members[lost].kill();
    cluster.members.remove(lost);
    etcdctl(&cluster.members[0].endpoint(), &["member", "remove", &id]).expect("it can be removed");
    add(&mut cluster, "replacement", &[]).await;
    assert_restored(&cluster.members[2], "k").await;
    cluster.assert_equal().await;

    // One member continues alone, and others are added.
    cluster.members[2].kill();
    cluster.members[1].kill();
    cluster.members.truncate(1);
    cluster.members[0].kill();
    cluster.members[0].flags = vec!["--force-new-cluster".to_owned()];
    cluster.members[0].start();
    cluster.members[0].flags.clear();
    add(&mut cluster, "company", &[]).await;
    assert_restored(&cluster.members[1], "k").await;
    assert_eq!(cluster.members[1].get("after").await.as_deref(), Some("v"));
    cluster.assert_equal().await;
}

/// At the first start of one of three members, the log is still empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_member_goes_on_alone_when_it_is_told_to_at_its_first_start() {
    let backup = Backup::of_keys("k").await;
    let mut members = backup.members(3);
    members.truncate(1);
    members[0].flags = vec!["--force-new-cluster".to_owned()];
    let mut cluster = found(members);
    cluster.members[0].flags.clear();
    add(&mut cluster, "company", &[]).await;
    assert_restored(&cluster.members[1], "k").await;
    assert_eq!(cluster.members[1].members().await.len(), 2);
    cluster.assert_equal().await;
}

/// Whenever a restored member is killed during its first start, the next start finds its data, and a log that
/// begins after them.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_member_that_is_killed_during_its_first_start_loses_nothing() {
    let backup = Backup::of_keys("k").await;
    let mut cluster = Cluster { members: Vec::new() };
    for life in 0..9 {
        let mut members = backup.members(1);
        members[0].spawn();
        // There is no event to wait for, so the kills are spread over the duration of a start.
        time::sleep(Duration::from_millis(life * life * 2)).await;
        members[0].kill();
        cluster = found(members);
        assert_restored(&cluster.members[0], "k").await;
    }
    add(&mut cluster, "joined", &[]).await;
    assert_restored(&cluster.members[1], "k").await;
    cluster.assert_equal().await;
}

/// A founder that finds others with different data at its start is refused before it has changed anything;
/// with the right data it is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_founder_with_other_data_than_those_who_run_is_refused() {
    let (right, wrong) = (Backup::of_keys("k").await, Backup::of_keys("other-").await);
    let mut members = Plan::new(3).members();
    right.restore_to(&members[0].data_dir());
    right.restore_to(&members[1].data_dir());
    wrong.restore_to(&members[2].data_dir());
    members[0].spawn();
    members[1].spawn();
    members[0].wait_until_ready();
    members[1].wait_until_ready();

    let log = members[2].start_refused();
    let [theirs, ours] = &named(&log)[..] else { panic!("it names both: {log}") };
    assert_ne!(theirs, ours);
    assert!(log.contains(members[2].data_dir().to_str().expect("a name of ours")), "{log}");
    assert!(log.contains("retcd snapshot restore"), "{log}");

    // An empty directory is refused too.
    fs::remove_dir_all(members[2].data_dir()).expect("it can be emptied");
    let log = members[2].start_refused();
    assert_eq!(named(&log), [theirs.as_str(), "none"], "{log}");

    fs::remove_dir_all(members[2].data_dir()).expect("it can be emptied");
    right.restore_to(&members[2].data_dir());
    members[2].start();
    let cluster = Cluster { members };
    assert_restored(&cluster.members[2], "k").await;
    cluster.assert_equal().await;
}

/// The reverse case: a founder with an empty directory waits for the others, and these were restored. If all
/// start together, the side with a quorum continues, and each side logs why it refuses the other.
#[tokio::test(flavor = "multi_thread")]
async fn founders_with_different_data_never_work_together() {
    let backup = Backup::of_keys("k").await;
    let mut members = Plan::new(3).members();
    backup.restore_to(&members[0].data_dir());
    members[2].spawn();
    let since = Instant::now();
    // The member answers its peers before the first election.
    while !members[2].log().contains("peer became inactive") {
        assert!(since.elapsed() < PATIENCE, "the empty member does not look for the others");
        time::sleep(Duration::from_millis(20)).await;
    }
    let log = members[0].start_refused();
    let names = named(&log);
    assert!(names.contains(&"none".to_owned()) && names[0] != names[1], "{log}");
    members[2].kill();

    // Both sides have founded with their data before they contact each other.
    members[0].spawn();
    until_log_says(&members[0], "peer became inactive").await;
    members[0].kill();
    members[0].spawn();
    members[2].spawn();
    for number in [0, 2] {
        until_log_says(&members[number], "refused a request of a peer").await;
        let log = members[number].log();
        let mut named = named(&log);
        named.sort_unstable();
        assert!(named.contains(&"none".to_owned()) && named[0] != named[1], "{log}");
    }
    // Members that have not been part of a cluster have published no name.
    until_log_says(&members[0], "\"m2 (").await;
    backup.restore_to(&members[1].data_dir());
    members[2].kill();
    members[1].spawn();
    members[0].wait_until_ready();
    members[1].wait_until_ready();
    members[2].spawn();
    until_log_says(&members[2], MISMATCH).await;
    members[2].kill();
    members.truncate(2);
    let cluster = Cluster { members };
    for member in &cluster.members {
        assert_restored(member, "k").await;
    }
    cluster.assert_equal().await;
}

/// A member of the old cluster has the same cluster id and member id, because the flags are the same. Its log
/// is longer than that of the restored members, and must not replace their data.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_not_restored_with_the_others_stays_outside() {
    let mut old = Cluster::found(3);
    for number in 0..KEYS {
        old.members[0].put(&format!("k{number}"), "v").await;
    }
    let backup = Backup::of(&old.members[0]).await;
    old.members[0].put("mistake", "v").await;
    old.assert_equal().await;
    old.members.iter_mut().for_each(Member::kill);
    for member in &old.members[..2] {
        fs::remove_dir_all(member.data_dir()).expect("it can be emptied");
        backup.restore_to(&member.data_dir());
    }
    // All members are founders, and have founded with their data before they contact the others.
    old.members[0].spawn();
    until_log_says(&old.members[0], "peer became inactive").await;
    old.members[2].spawn();
    until_log_says(&old.members[2], MISMATCH).await;
    until_log_says(&old.members[0], MISMATCH).await;
    for number in [0, 2] {
        let named = named(&old.members[number].log());
        assert!(named.contains(&"none".to_owned()) && named[0] != named[1], "{named:?}");
    }
    // A founder asks the others once and uses the first answer. It does not matter here which one that is.
    old.members[2].signal(Signal::STOP);
    old.members[1].spawn();
    old.members[0].wait_until_ready();
    old.members[1].wait_until_ready();
    old.members[2].signal(Signal::CONT);
    old.members[0].put("after", "v").await;
    old.members[2].kill();
    old.members.truncate(2);
    let expected: Vec<String> = (0..KEYS).map(|number| format!("k{number}")).collect();
    for member in &old.members {
        assert_eq!(keys(member, "k").await, expected);
        assert_eq!(member.get("mistake").await, None);
    }
    old.assert_equal().await;
}

/// A member that joins gets its data from the cluster, so a restored directory is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_directory_does_not_join_a_cluster() {
    let backup = Backup::of_keys("k").await;
    let mut cluster = Cluster::found(1);
    cluster.members[0].put("theirs", "v").await;
    let endpoint = cluster.members[0].endpoint();
    let joining = cluster.prepare("joining");
    let url = format!("--peer-urls={}", joining.peer_url());
    backup.restore_to(&joining.data_dir());
    etcdctl(&endpoint, &["member", "add", "joining", &url]).expect("a member can be added");
    let log = cluster.members[1].start_refused();
    assert!(log.contains("gets its data from there"), "{log}");
    assert!(log.contains("--initial-cluster-state=new"), "{log}");

    fs::remove_dir_all(cluster.members[1].data_dir()).expect("it can be emptied");
    cluster.members[1].start();
    assert_eq!(cluster.members[1].get("theirs").await.as_deref(), Some("v"));
    cluster.assert_equal().await;
}
