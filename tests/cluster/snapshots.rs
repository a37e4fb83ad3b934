//! Members that need entries which the log no longer has, and get the whole state instead.
//!
//! The log is deleted one file at a time, so each test writes more than one file while a member is away.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::{
        etcdserverpb::{
            AlarmMember, AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest,
            LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, WatchCreateRequest,
            WatchRequest, WatchResponse, alarm_request::AlarmAction, watch_client::WatchClient,
            watch_request::RequestUnion,
        },
        mvccpb::event::EventType,
    },
    tools::etcdctl,
};

/// A long election timeout, because a busy machine must not cause elections; and little of the log is kept.
pub(crate) const FLAGS: &[&str] =
    &["--snapshot-catchup-entries=10", "--heartbeat-interval=300", "--election-timeout=3000"];

pub(crate) const INSTALLED: &str = "installed a snapshot from the leader";

/// The events of one watcher.
struct Tape {
    _requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// Revision, kind and key of an event.
type Line = (i64, EventType, String);

impl Tape {
    /// Watches all keys below `w/` on this member, from the next revision or from a given one.
    async fn of(member: &Member, start_revision: i64) -> Tape {
        let channel = Endpoint::from_shared(format!("http://{}", member.endpoint()));
        let channel = channel.expect("a loopback address is a URL").connect_lazy();
        let (requests, outgoing) = mpsc::channel(1);
        let create = WatchCreateRequest {
            key: "w/".into(),
            range_end: "w0".into(),
            start_revision,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.expect("the other end is below");
        let responses = WatchClient::new(channel).watch(ReceiverStream::new(outgoing)).await;
        let mut tape =
            Tape { _requests: requests, responses: responses.expect("a watch is accepted").into_inner() };
        assert!(tape.next().await.created);
        tape
    }

    async fn next(&mut self) -> WatchResponse {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        next.expect("a watcher is told soon").expect("a watch goes on").expect("a watch does not end")
    }

    /// Reads up to an event of `revision`, which must be the last one so far.
    async fn until(&mut self, revision: i64) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        while lines.last().is_none_or(|last| last.0 < revision) {
            let response = self.next().await;
            assert!(!response.canceled, "cancelled after {:?}: {response:?}", lines.last());
            lines.extend(response.events.into_iter().map(|event| {
                let kind = event.r#type();
                let kv = event.kv.expect("an event has a key");
                (kv.mod_revision, kind, String::from_utf8(kv.key.to_vec()).expect("tests write text"))
            }));
        }
        lines
    }

    /// The compacted revision with which the watcher was cancelled.
    async fn cancelled(&mut self) -> i64 {
        let response = self.next().await;
        assert!(response.canceled && response.events.is_empty(), "not cancelled: {response:?}");
        response.compact_revision
    }
}

/// The events that watchers of `w/` must get, in order.
#[derive(Default)]
struct Script(Vec<Line>);

impl Script {
    async fn put(&mut self, member: &Member, key: &str, lease: i64) {
        let key = format!("w/{key}");
        let request = PutRequest { key: key.clone().into(), lease, ..PutRequest::default() };
        let answer = member.kv().put(request).await.expect("a put is accepted").into_inner();
        self.0.push((answer.header.expect("every answer has a header").revision, EventType::Put, key));
    }

    async fn delete(&mut self, member: &Member, key: &str) {
        let key = format!("w/{key}");
        let request = DeleteRangeRequest { key: key.clone().into(), ..DeleteRangeRequest::default() };
        let answer = member.kv().delete_range(request).await.expect("a delete is accepted").into_inner();
        self.0.push((answer.header.expect("every answer has a header").revision, EventType::Delete, key));
    }

    async fn revoke(&mut self, member: &Member, id: i64, key: &str) {
        let answer = member.leases().lease_revoke(LeaseRevokeRequest { id }).await;
        let header = answer.expect("a revoke is accepted").into_inner().header;
        let revision = header.expect("every answer has a header").revision;
        self.0.push((revision, EventType::Delete, format!("w/{key}")));
    }

    fn last(&self) -> i64 {
        self.0.last().expect("something was written").0
    }

    fn since(&self, revision: i64) -> &[Line] {
        &self.0[self.0.partition_point(|line| line.0 < revision)..]
    }
}

async fn grant(member: &Member, id: i64) {
    let granted = member.leases().lease_grant(LeaseGrantRequest { ttl: 6000, id }).await;
    granted.expect("a lease is granted");
}

async fn leases(member: &Member) -> Vec<i64> {
    let leases = member.leases().lease_leases(LeaseLeasesRequest {}).await.expect("leases are listed");
    let mut ids: Vec<i64> = leases.into_inner().leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    ids
}

async fn keys_of_lease(member: &Member, id: i64) -> Vec<String> {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let answer = member.leases().lease_time_to_live(request).await.expect("the leader knows the lease");
    let keys = answer.into_inner().keys.into_iter();
    let mut keys: Vec<String> =
        keys.map(|key| String::from_utf8(key.to_vec()).expect("tests write text")).collect();
    keys.sort_unstable();
    keys
}

async fn alarm(member: &Member, action: AlarmAction) -> Vec<AlarmMember> {
    let request = AlarmRequest { action: action.into(), member_id: member.id().await, alarm: 1 };
    member.maintenance().alarm(request).await.expect("alarms are set and listed").into_inner().alarms
}

async fn move_leader(cluster: &Cluster, to: usize) {
    let leader = cluster.leader().await;
    let id = format!("{:x}", cluster.members[to].id().await);
    etcdctl(&cluster.members[leader].endpoint(), &["move-leader", &id]).expect("leadership can be moved");
    assert_eq!(cluster.leader().await, to);
}

pub(crate) async fn write_megabytes(member: &Member, megabytes: usize) {
    let value = "x".repeat(1024 * 1024);
    for number in 0..megabytes {
        member.put(&format!("big-{:02}", number % 20), &value).await;
    }
}

/// Fills the buffers to a paused member, so that it gets all later writes only from the snapshot.
pub(crate) const ON_ITS_WAY_MEGABYTES: usize = 12;

/// Writes until the first file of the log is deleted on all of `members`, so that an absent member needs a
/// snapshot, whichever of them leads.
pub(crate) async fn outgrow_the_log(members: &[&Member]) {
    let member = members[0];
    let oldest = |member: &&Member| member.data_dir().join("member/wal/00000001.wal");
    write_megabytes(member, 66).await;
    let since = Instant::now();
    while members.iter().map(oldest).any(|file| file.exists()) {
        assert!(since.elapsed() < PATIENCE, "the log is never let go of");
        // Files are deleted only while entries are written.
        member.put("meanwhile", "v").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn until_log_says(member: &Member, text: &str) {
    let since = Instant::now();
    while !member.log().contains(text) {
        assert!(since.elapsed() < PATIENCE, "the log does not say: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a member has applied all writes of the others.
async fn until_known(member: &Member, key: &str) {
    let since = Instant::now();
    while member.try_get(key, true).await.expect("a read is answered").is_none() {
        assert!(since.elapsed() < PATIENCE, "{key} does not arrive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn images(member: &Member) -> Vec<String> {
    let entries = fs::read_dir(member.data_dir().join("member/snap")).expect("the directory is there");
    let names = entries.map(|entry| entry.expect("it can be listed").file_name());
    names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with("image")).collect()
}

/// etcd issue 15271: after a snapshot, watchers on the member that installed it got old events again. Right
/// after an installation, all data of the member must be those of the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_installs_a_snapshot_is_like_the_others_and_its_watchers_miss_nothing() {
    let cluster = Plan::new(3).flags(FLAGS).found();
    let leader = cluster.leader().await;
    let late = (leader + 1) % 3;
    let (source, target) = (&cluster.members[leader], &cluster.members[late]);
    let mut script = Script::default();
    grant(source, 5).await;
    grant(source, 77).await;
    for number in 0..10 {
        script.put(source, &format!("before-{number}"), 0).await;
    }
    script.put(source, "of-5", 5).await;
    script.put(source, "of-77", 77).await;
    until_known(target, "w/of-77").await;
    let known = script.last();
    let early = script.0[3].0;
    let mut from_now = Tape::of(target, 0).await;
    let mut from_early = Tape::of(target, early).await;
    assert_eq!(from_early.until(known).await, script.since(early));
    let mut unread = Tape::of(target, early).await;
    let mut from_future = Tape::of(target, known + ON_ITS_WAY_MEGABYTES as i64 + 5).await;

    target.signal(Signal::STOP);
    write_megabytes(source, ON_ITS_WAY_MEGABYTES).await;
    for number in 0..10 {
        script.put(source, &format!("missed-{number}"), 0).await;
        script.delete(source, &format!("before-{number}")).await;
    }
    script.revoke(source, 5, "of-5").await;
    grant(source, 78).await;
    script.put(source, "also-of-77", 77).await;
    script.put(source, "of-78", 78).await;
    etcdctl(&source.endpoint(), &["user", "add", "ann:secret"]).expect("a user can be added");
    etcdctl(&source.endpoint(), &["role", "add", "guest"]).expect("a role can be added");
    outgrow_the_log(&[source]).await;
    script.put(source, "last-missed", 0).await;
    target.signal(Signal::CONT);
    until_log_says(target, INSTALLED).await;

    let last = script.last();
    assert_eq!(from_now.until(last).await, script.since(known + 1));
    assert_eq!(from_early.until(last).await, script.since(known + 1));
    assert_eq!(unread.until(last).await, script.since(early));
    assert_eq!(from_future.until(last).await, script.since(known + ON_ITS_WAY_MEGABYTES as i64 + 5));
    assert_eq!(Tape::of(target, early).await.until(last).await, script.since(early));
    cluster.assert_equal().await;
    assert_eq!(leases(target).await, [77, 78]);
    assert_eq!(target.members().await, source.members().await);
    assert!(images(target).is_empty(), "{:?}", images(target));

    // As the leader it answers from its own state what other members would otherwise have answered for it.
    move_leader(&cluster, late).await;
    assert_eq!(keys_of_lease(target, 77).await, ["w/also-of-77", "w/of-77"]);
    assert_eq!(keys_of_lease(target, 78).await, ["w/of-78"]);
    let endpoint = target.endpoint();
    assert_eq!(etcdctl(&endpoint, &["user", "list"]).expect("users are listed"), "ann\n");
    assert_eq!(etcdctl(&endpoint, &["role", "list"]).expect("roles are listed"), "guest\n");
    let raised = alarm(target, AlarmAction::Activate).await;
    assert_eq!(alarm(source, AlarmAction::Get).await, raised);
    alarm(target, AlarmAction::Deactivate).await;
    script.put(source, "afterwards", 78).await;
    script.revoke(target, 77, "also-of-77").await;
    for tape in [&mut from_now, &mut from_early, &mut unread, &mut from_future] {
        let told = tape.until(script.last()).await;
        assert_eq!(told[0], *script.since(last + 1).first().expect("it was written"));
        let keys: Vec<&str> = told.iter().map(|line| line.2.as_str()).collect();
        assert_eq!(keys, ["w/afterwards", "w/also-of-77", "w/of-77"]);
    }
    cluster.assert_equal().await;
}

/// Megabytes: more than the leader sends unanswered to a member and the sockets buffer.
const FILL: usize = 16;

/// Watchers whose history was compacted are cancelled with the compacted revision.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_compacted_cancels_the_watchers_that_stood_before_it() {
    let cluster = Plan::new(3).flags(FLAGS).found();
    let leader = cluster.leader().await;
    let late = (leader + 1) % 3;
    let (source, target) = (&cluster.members[leader], &cluster.members[late]);
    let mut script = Script::default();
    for number in 0..5 {
        script.put(source, &format!("before-{number}"), 0).await;
    }
    until_known(target, "w/before-4").await;
    let known = script.last();
    let mut from_now = Tape::of(target, 0).await;
    let mut from_early = Tape::of(target, script.0[1].0).await;
    from_early.until(known).await;
    let compact = known + FILL as i64 + 7;
    let mut from_compact = Tape::of(target, compact).await;

    target.signal(Signal::STOP);
    write_megabytes(source, ON_ITS_WAY_MEGABYTES).await;
    // Messages that were sent to a paused member arrive when it continues. This write is the last of them.
    let filling = "x".repeat(1024 * 1024);
    for _ in 0..FILL {
        source.put("filling", &filling).await;
    }
    for number in 0..10 {
        script.put(source, &format!("missed-{}", number % 2), 0).await;
    }
    let request = CompactionRequest { revision: compact, physical: true };
    source.kv().compact(request).await.expect("a compaction is accepted");
    // The NOSPACE alarm is raised while the member is away; nothing is written until it is cleared.
    let raised = alarm(source, AlarmAction::Activate).await;
    alarm(source, AlarmAction::Deactivate).await;
    outgrow_the_log(&[source]).await;
    alarm(source, AlarmAction::Activate).await;
    target.signal(Signal::CONT);
    until_log_says(target, INSTALLED).await;

    assert_eq!(from_now.cancelled().await, compact);
    assert_eq!(from_early.cancelled().await, compact);
    assert_eq!(from_compact.until(script.last()).await, script.since(compact));
    assert_eq!(Tape::of(target, compact).await.until(script.last()).await, script.since(compact));
    assert_eq!(Tape::of(target, compact - 1).await.cancelled().await, compact);
    cluster.assert_equal().await;
    assert_eq!(alarm(target, AlarmAction::Get).await, raised);
    alarm(source, AlarmAction::Deactivate).await;
    script.put(target, "afterwards", 0).await;
    assert_eq!(from_compact.until(script.last()).await, script.since(script.last()));
    cluster.assert_equal().await;
}

/// Whenever the receiving member is killed, it has the old state or the new one, and a log that belongs to
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_while_it_receives_a_snapshot_gets_there_in_the_end() {
    let mut cluster = Plan::new(3).flags(FLAGS).found();
    let leader = cluster.leader().await;
    let late = (leader + 1) % 3;
    cluster.members[leader].put("before", "v").await;
    until_known(&cluster.members[late], "before").await;
    cluster.members[late].kill();
    outgrow_the_log(&[&cluster.members[leader]]).await;
    let mut lives = 0;
    // Each run is about twice as long as the one before, until one is long enough.
    while {
        cluster.members[late].start();
        let member = &cluster.members[late];
        let since = Instant::now();
        while !member.log().contains("receiving a snapshot") && !member.log().contains(INSTALLED) {
            // It was killed after the swap, and restarted with the new state.
            let has_all = member.try_get("meanwhile", true).await.ok().flatten().is_some();
            if has_all || since.elapsed() > PATIENCE {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis((60 << lives) + u64::from(rand_byte()) % 60)).await;
        !member.log().contains(INSTALLED) && member.try_get("meanwhile", true).await.ok().flatten().is_none()
    } {
        assert_eq!(
            cluster.members[late].try_get("before", true).await.expect("the old state is served").as_deref(),
            Some("v")
        );
        cluster.members[late].kill();
        lives += 1;
        cluster.members[leader].put(&format!("life-{lives}"), "v").await;
    }
    assert!(lives > 0, "it was never killed");
    cluster.assert_equal().await;
    // Another kill right after the installation.
    cluster.members[late].kill();
    cluster.members[late].start();
    assert!(images(&cluster.members[late]).is_empty());
    cluster.members[late].put("after", "v").await;
    cluster.assert_equal().await;
}

/// Random in every run; nothing else depends on it.
fn rand_byte() -> u8 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").subsec_micros() as u8
}

/// Two members receive a snapshot at the same time, and the sender is killed in the middle: the next leader
/// begins again.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_get_their_snapshots_though_the_leader_dies() {
    let mut cluster = Plan::new(5).flags(FLAGS).found();
    let leader = cluster.leader().await;
    let late = [(leader + 1) % 5, (leader + 2) % 5];
    for number in late {
        cluster.members[number].kill();
    }
    let running = [0, 3, 4].map(|step| &cluster.members[(leader + step) % 5]);
    outgrow_the_log(&running).await;
    for number in late {
        cluster.members[number].start();
    }
    for number in late {
        until_log_says(&cluster.members[number], "receiving a snapshot").await;
    }
    cluster.members[leader].kill();
    let leader_next = cluster.leader().await;
    cluster.members[leader_next].put("under-the-next", "v").await;
    cluster.assert_equal().await;
    cluster.members[leader].start();
    cluster.assert_equal().await;
    for number in late {
        assert!(cluster.members[number].log().contains(INSTALLED));
        assert!(images(&cluster.members[number]).is_empty());
    }
}
