//! The errors that clients get from a cluster in trouble. Many calls are made to a real etcd and to retcd in
//! the same trouble, and must get the same code and text, except for differences that are listed where they
//! are expected.
//!
//! All calls of a trouble are made at the same time, because most of them wait for the server's request
//! timeout.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::time;
use tokio_stream::{Stream, StreamExt, once, pending};
use tonic::{Request, Status, Streaming, transport::Channel};

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::{
        etcdserverpb::{
            auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
            lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient, *,
        },
        v3electionpb::{LeaderRequest, election_client::ElectionClient},
        v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient},
    },
    tools::etcdctl,
};

/// The result of each call.
type Answers = BTreeMap<&'static str, String>;
type Question = (&'static str, Pin<Box<dyn Future<Output = String> + Send>>);

fn told<T>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(_) => "answered".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// The first message of a stream, or its error.
async fn first<T>(stream: Result<tonic::Response<Streaming<T>>, Status>) -> String {
    match stream {
        Ok(stream) => match stream.into_inner().next().await {
            Some(message) => told(message),
            None => "ended".to_owned(),
        },
        Err(status) => told::<()>(Err(status)),
    }
}

fn requiring_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("a word is a value"));
    request
}

fn watch_all() -> impl Stream<Item = WatchRequest> {
    let create = WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() };
    let create = watch_request::RequestUnion::CreateRequest(create);
    // The stream of requests stays open.
    once(WatchRequest { request_union: Some(create) }).chain(pending())
}

fn read(serializable: bool) -> RangeRequest {
    RangeRequest { key: "k".into(), serializable, ..RangeRequest::default() }
}

fn write() -> PutRequest {
    PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() }
}

fn txn(op: request_op::Request) -> TxnRequest {
    TxnRequest { success: vec![RequestOp { request: Some(op) }], ..TxnRequest::default() }
}

/// Every kind of call, to one member. The lease exists.
fn questions(channel: &Channel, lease: i64) -> Vec<Question> {
    let mut questions: Vec<Question> = Vec::new();
    macro_rules! ask {
        ($name:literal, $client:ident, $method:ident, $request:expr) => {{
            let mut client = $client::new(channel.clone());
            questions.push(($name, Box::pin(async move { told(client.$method($request).await) })));
        }};
    }
    macro_rules! stream {
        ($name:literal, $client:ident, $method:ident, $request:expr) => {{
            let mut client = $client::new(channel.clone());
            questions.push(($name, Box::pin(async move { first(client.$method($request).await).await })));
        }};
    }
    ask!("put", KvClient, put, write());
    ask!("put that requires a leader", KvClient, put, requiring_leader(write()));
    ask!("read", KvClient, range, read(false));
    ask!("read that requires a leader", KvClient, range, requiring_leader(read(false)));
    ask!("serializable read", KvClient, range, read(true));
    ask!("serializable read that requires a leader", KvClient, range, requiring_leader(read(true)));
    ask!("delete", KvClient, delete_range, DeleteRangeRequest { key: "x".into(), ..Default::default() });
    ask!("txn", KvClient, txn, txn(request_op::Request::RequestPut(write())));
    ask!("txn that reads", KvClient, txn, txn(request_op::Request::RequestRange(read(false))));
    ask!("serializable txn", KvClient, txn, txn(request_op::Request::RequestRange(read(true))));
    ask!("compact", KvClient, compact, CompactionRequest { revision: 1, physical: false });
    ask!("grant", LeaseClient, lease_grant, LeaseGrantRequest { ttl: 60, id: 0 });
    ask!("revoke", LeaseClient, lease_revoke, LeaseRevokeRequest { id: 1234 });
    ask!("leases", LeaseClient, lease_leases, LeaseLeasesRequest {});
    ask!("time to live", LeaseClient, lease_time_to_live, LeaseTimeToLiveRequest { id: lease, keys: true });
    let keep_alive = move || once(LeaseKeepAliveRequest { id: lease }).chain(pending());
    stream!("keep-alive", LeaseClient, lease_keep_alive, keep_alive());
    stream!(
        "keep-alive that requires a leader",
        LeaseClient,
        lease_keep_alive,
        requiring_leader(keep_alive())
    );
    stream!("watch", WatchClient, watch, watch_all());
    stream!("watch that requires a leader", WatchClient, watch, requiring_leader(watch_all()));
    ask!("members", ClusterClient, member_list, MemberListRequest { linearizable: true });
    ask!("members as known here", ClusterClient, member_list, MemberListRequest { linearizable: false });
    let add = |port: u16, is_learner| MemberAddRequest {
        peer_ur_ls: vec![format!("http://127.0.0.1:{port}")],
        is_learner,
    };
    let (voter, learner) = (add(1, false), add(2, true));
    ask!("member add", ClusterClient, member_add, voter);
    ask!("member add of a learner", ClusterClient, member_add, learner);
    ask!("member remove", ClusterClient, member_remove, MemberRemoveRequest { id: 1234 });
    let update = MemberUpdateRequest { id: 1234, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] };
    ask!("member update", ClusterClient, member_update, update);
    ask!("member promote", ClusterClient, member_promote, MemberPromoteRequest { id: 1234 });
    ask!("status", MaintenanceClient, status, StatusRequest {});
    ask!("hash", MaintenanceClient, hash, HashRequest {});
    ask!("hash of the keys", MaintenanceClient, hash_kv, HashKvRequest { revision: 0 });
    ask!("alarms", MaintenanceClient, alarm, AlarmRequest::default());
    ask!("move leader", MaintenanceClient, move_leader, MoveLeaderRequest { target_id: 1234 });
    ask!("defragment", MaintenanceClient, defragment, DefragmentRequest {});
    stream!("snapshot", MaintenanceClient, snapshot, SnapshotRequest {});
    ask!("user list", AuthClient, user_list, AuthUserListRequest {});
    let user = AuthUserAddRequest { name: "ann".to_owned(), password: "x".to_owned(), ..Default::default() };
    ask!("user add", AuthClient, user_add, user);
    ask!("role get", AuthClient, role_get, AuthRoleGetRequest { role: "none".to_owned() });
    ask!("auth status", AuthClient, auth_status, AuthStatusRequest {});
    ask!("lock", LockClient, lock, LockRequest { name: "l".into(), lease });
    ask!("unlock", LockClient, unlock, UnlockRequest { key: "l/1".into() });
    ask!("leader of an election", ElectionClient, leader, LeaderRequest { name: "e".into() });
    questions
}

async fn ask(questions: Vec<Question>) -> Answers {
    let asked = questions.into_iter().map(|(name, question)| {
        tokio::spawn(async move {
            let answer = time::timeout(Duration::from_secs(15), question).await;
            (name, answer.unwrap_or_else(|_| "silence".to_owned()))
        })
    });
    let mut answers = Answers::new();
    for task in asked.collect::<Vec<_>>() {
        let (name, answer) = task.await.expect("a question does not panic");
        answers.insert(name, answer);
    }
    answers
}

/// Brings a cluster into a trouble. Returns the member that is asked then.
trait Trouble: AsyncFn(&mut Cluster) -> usize {}
impl<T: AsyncFn(&mut Cluster) -> usize> Trouble for T {}

async fn asked_in(plan: Plan, trouble: &impl Trouble) -> Answers {
    let mut cluster = plan.found();
    let leader = cluster.leader().await;
    let lease = cluster.members[leader].leases().lease_grant(LeaseGrantRequest { ttl: 600, id: 0 }).await;
    let lease = lease.expect("a lease is granted").into_inner().id;
    cluster.members[leader].put("k", "v").await;
    cluster.assert_equal().await;
    let asked = trouble(&mut cluster).await;
    let answers = ask(questions(&cluster.members[asked].channel(), lease)).await;
    for member in &cluster.members {
        if member.process_id().is_some() {
            member.signal(Signal::CONT);
        }
    }
    answers
}

/// Answers that may differ: the calls (all calls if none is named), etcd's answer, and retcd's.
type Difference = (&'static [&'static str], &'static str, &'static str);

/// Compares all answers.
async fn same_answers(trouble: impl Trouble, differences: &[Difference]) {
    let (reference, subject) =
        tokio::join!(asked_in(Plan::reference(3), &trouble), asked_in(Plan::new(3), &trouble));
    let mut wrong = Vec::new();
    for (name, theirs) in &reference {
        let ours = &subject[name];
        let is_known = differences.iter().any(|(calls, their, our)| {
            (calls.is_empty() || calls.contains(name))
                && (theirs, ours) == (&(*their).to_owned(), &(*our).to_owned())
        });
        if theirs != ours && !is_known {
            wrong.push(format!("{name}:\n    etcd: {theirs}\n    ours: {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const TIMED_OUT: &str = "Unavailable: etcdserver: request timed out";
const UNHEALTHY: &str = "Unavailable: etcdserver: unhealthy cluster";
const LEADER_FAILED: &str =
    "Unavailable: etcdserver: request timed out, possibly due to previous leader failure";

const EXPIRED: &str = "DeadlineExceeded: context deadline exceeded";
const RECIPE_TIMED_OUT: &str = "Unknown: etcdserver: request timed out";

/// A proposal without a leader waits until its timeout, and gets that error. Before 3.6 etcd returns it
/// without the code.
const NO_LEADER_TO_PROPOSE_TO: Difference = (&[], "Unknown: context deadline exceeded", EXPIRED);
/// etcd sends these requests through the log, and retcd reads; so they get the error of a read.
const READ_AND_NOT_PROPOSED: [Difference; 4] = [
    (ASKED, EXPIRED, TIMED_OUT),
    (ASKED, "Unknown: context deadline exceeded", TIMED_OUT),
    (&["lock", "unlock"], EXPIRED, RECIPE_TIMED_OUT),
    (&["lock", "unlock"], "Unknown: context deadline exceeded", RECIPE_TIMED_OUT),
];
const ASKED: &[&str] = &["alarms", "auth status", "role get", "user list"];
/// A member that lost its leader right after the call arrived cannot know that the proposal failed. Either of the two may.
const LED_AT_FIRST: [Difference; 3] = [
    (&[], "Unknown: context deadline exceeded", TIMED_OUT),
    (&[], EXPIRED, TIMED_OUT),
    (&[], TIMED_OUT, EXPIRED),
];
/// etcd has no timeout for these calls.
const CHANGES: &[&str] = &["member remove", "member update", "member promote"];
const CHANGES_END: [Difference; 2] = [(CHANGES, "silence", EXPIRED), (CHANGES, "silence", TIMED_OUT)];

/// Waits until the member reports that there is no leader.
async fn until_leaderless(member: &Member) {
    let since = Instant::now();
    while member.try_status().await.expect("status needs no leader").leader != 0 {
        assert!(since.elapsed() < PATIENCE, "there is a leader still");
        time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_is_left() {
    let trouble = async |cluster: &mut Cluster| {
        let leader = cluster.leader().await;
        let left = (leader + 1) % 3;
        for number in (0..3).filter(|number| *number != left) {
            cluster.members[number].kill();
        }
        until_leaderless(&cluster.members[left]).await;
        left
    };
    let differences = [&[NO_LEADER_TO_PROPOSE_TO][..], &READ_AND_NOT_PROPOSED, &CHANGES_END].concat();
    same_answers(trouble, &differences).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_cut_off() {
    let trouble = async |cluster: &mut Cluster| {
        let leader = cluster.leader().await;
        for number in (0..3).filter(|number| *number != leader) {
            cluster.members[number].signal(Signal::STOP);
        }
        leader
    };
    // An isolated leader of etcd renews leases, and reports their TTLs, until it notices that it is isolated.
    // retcd asks the other members first, so that a lease which was revoked elsewhere is not reported as
    // alive.
    const NO_LEADER: &str = "Unavailable: etcdserver: no leader";
    let leases: Difference =
        (&["keep-alive", "keep-alive that requires a leader", "time to live"], "answered", NO_LEADER);
    // A leader without a quorum gets this request: 3.5.1 has no timeout for it, and 3.7 answers from its old
    // state. retcd asks the other members.
    const NOT_FOUND: &str = "NotFound: etcdserver: member not found";
    let silence: Difference = (&["member promote"], "silence", NO_LEADER);
    let not_found: Difference = (&["member promote"], NOT_FOUND, NO_LEADER);
    // The leader may have stepped down before the call arrives.
    let differences = [
        &[leases, silence, not_found, NO_LEADER_TO_PROPOSE_TO],
        &CHANGES_END[..],
        &READ_AND_NOT_PROPOSED,
        &LED_AT_FIRST,
    ]
    .concat();
    same_answers(trouble, &differences).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_sleeps() {
    let trouble = async |cluster: &mut Cluster| {
        let leader = cluster.leader().await;
        cluster.members[leader].signal(Signal::STOP);
        (leader + 1) % 3
    };
    // During an election a member of retcd keeps its requests, sends them to the next leader, and answers
    // late. etcd drops what it sent to the old leader.
    const NOT_FOUND: &str = "NotFound: etcdserver: member not found";
    const ADDS: &[&str] = &["member add", "member add of a learner"];
    const NO_LEASE: &str = "NotFound: etcdserver: requested lease not found";
    const NO_ROLE: &str = "FailedPrecondition: etcdserver: role name not found";
    const RECIPE_LEADER_FAILED: &str =
        "Unknown: etcdserver: request timed out, possibly due to previous leader failure";
    let differences: [Difference; 14] = [
        // The answer depends on whether this member becomes the next leader.
        (&[], LEADER_FAILED, "answered"),
        (&[], TIMED_OUT, "answered"),
        (&["revoke"], LEADER_FAILED, NO_LEASE),
        (&["revoke"], TIMED_OUT, NO_LEASE),
        (&["role get"], LEADER_FAILED, NO_ROLE),
        (&["role get"], TIMED_OUT, NO_ROLE),
        (&["lock", "unlock"], RECIPE_LEADER_FAILED, "answered"),
        (&["lock", "unlock"], RECIPE_TIMED_OUT, "answered"),
        (CHANGES, "silence", NOT_FOUND),
        (CHANGES, TIMED_OUT, NOT_FOUND),
        // etcd 3.5.1 adds no member while one is away. retcd still has a quorum with one more. With an added
        // member that does not run, a second one would cost the quorum.
        (ADDS, UNHEALTHY, "answered"),
        // After the first seconds of a cluster, 3.5.1 asks the leader, and waits.
        (ADDS, "silence", "answered"),
        (ADDS, "silence", UNHEALTHY),
        (&[], "Unavailable: etcdserver: leader changed", "answered"),
    ];
    same_answers(trouble, &differences).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_asked() {
    let trouble = async |cluster: &mut Cluster| {
        let endpoint = cluster.members[0].endpoint();
        let url = format!("--peer-urls={}", cluster.prepare("m3").peer_url());
        let since = Instant::now();
        // Members of etcd 3.5.1 must have been connected for a while before one can be added.
        while let Err(refusal) = etcdctl(&endpoint, &["member", "add", "m3", "--learner", &url]) {
            assert!(refusal.contains("unhealthy cluster") && since.elapsed() < PATIENCE, "{refusal}");
            time::sleep(Duration::from_millis(100)).await;
        }
        cluster.members[3].start();
        3
    };
    // Later releases of etcd have another code, which retcd has too.
    let code: Difference = (
        &[],
        "Unavailable: etcdserver: rpc not supported for learner",
        "FailedPrecondition: etcdserver: rpc not supported for learner",
    );
    same_answers(trouble, &[code]).await;
}

/// Streams that were opened while there was a leader, and require one, end when there is none for a while;
/// other streams do not.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_require_a_leader_end_without_one() {
    for plan in [Plan::reference(3), Plan::new(3)] {
        let mut cluster = plan.found();
        let left = (cluster.leader().await + 1) % 3;
        let member = &cluster.members[left];
        let mut watches = WatchClient::new(member.channel());
        let mut watch = watches.watch(requiring_leader(watch_all())).await.expect("opened").into_inner();
        watch.message().await.expect("the watcher is created");
        let mut calm = watches.watch(watch_all()).await.expect("opened").into_inner();
        calm.message().await.expect("the watcher is created");
        let mut leases = member.leases();
        let lease = leases.lease_grant(LeaseGrantRequest { ttl: 600, id: 0 }).await.expect("granted");
        let request = LeaseKeepAliveRequest { id: lease.into_inner().id };
        let requests = requiring_leader(once(request).chain(pending()));
        let mut kept = leases.lease_keep_alive(requests).await.expect("opened").into_inner();
        kept.message().await.expect("the lease is renewed");

        let members = cluster.members.iter_mut().enumerate();
        members.filter(|(number, _)| *number != left).for_each(|(_, member)| member.kill());
        let no_leader = "Unavailable: etcdserver: no leader";
        let end = |ended: Result<Option<()>, Status>| told(ended);
        let ended = time::timeout(PATIENCE, watch.message()).await.expect("the watch ends");
        assert_eq!(end(ended.map(|_| None)), no_leader);
        let ended = time::timeout(PATIENCE, kept.message()).await.expect("the keep-alive ends");
        assert_eq!(end(ended.map(|_| None)), no_leader);
        let silent = time::timeout(Duration::from_millis(500), calm.message()).await;
        assert!(silent.is_err(), "{silent:?}");
    }
}
