//! All members are replaced by new ones, one after the other, under load.
//!
//! ```text
//! m0 m1 m2  ->  m1 m2 n0  ->  m2 n0 n1  ->  n0 n1 n2
//! ```
//!
//! Clients have the members' current addresses, as an operator would keep them, and repeat a failed request
//! at another member, a few times at most. No request fails more often, no acknowledged write is lost, and a
//! watcher that continues at another member whenever its stream ends gets every revision once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{task::JoinHandle, time};
use tonic::{Status, transport::Channel};

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::etcdserverpb::{
        MemberAddRequest, MemberRemoveRequest, MoveLeaderRequest, PutRequest, RangeRequest,
        WatchCreateRequest, WatchRequest, cluster_client::ClusterClient, kv_client::KvClient,
        watch_client::WatchClient, watch_request::RequestUnion,
    },
};

const CLIENTS: usize = 4;
/// How often a client repeats a request before that is a failure.
const TRIES: usize = 6;
/// How long a client waits for one answer, which is longer than a member's request timeout.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts, as in clientv3.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// The current addresses of the members. All clients share one connection to each member.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<Vec<(String, Channel)>>>);

impl Addresses {
    fn set<'a>(&self, members: impl Iterator<Item = &'a Member>) {
        let mut addresses = self.0.lock().expect("nobody panics in here");
        let known: BTreeMap<String, Channel> = addresses.drain(..).collect();
        addresses.extend(members.map(|member| {
            let endpoint = member.endpoint();
            let channel = known.get(&endpoint).cloned().unwrap_or_else(|| member.channel());
            (endpoint, channel)
        }));
    }

    /// The member with this number, modulo the number of members.
    fn pick(&self, number: usize) -> Channel {
        let addresses = self.0.lock().expect("nobody panics in here");
        addresses[number % addresses.len()].1.clone()
    }
}

/// The answers that clients got, and the errors.
#[derive(Default)]
struct Journal {
    /// Key and value of each acknowledged write, by revision.
    acknowledged: BTreeMap<i64, (String, String)>,
    requests: u64,
    /// First attempts that failed, by their error.
    retried: BTreeMap<String, u64>,
    /// Requests that failed at every attempt.
    failed: Vec<String>,
}

/// Running clients: each writes a new key of its own, and reads it back through the next member.
struct Crowd {
    addresses: Addresses,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Journal>>,
    watcher: JoinHandle<BTreeMap<i64, (String, String)>>,
}

impl Crowd {
    fn start(cluster: &Cluster) -> Crowd {
        let addresses = Addresses::default();
        addresses.set(cluster.members.iter());
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..CLIENTS)
            .map(|number| {
                let client =
                    Client { number, at: number, addresses: addresses.clone(), journal: Journal::default() };
                tokio::spawn(client.work(stop.clone(), rounds.clone()))
            })
            .collect();
        let watcher = tokio::spawn(watch(addresses.clone()));
        Crowd { addresses, stop, rounds, clients, watcher }
    }

    /// Waits until all clients together have done `count` more rounds.
    async fn more(&self, count: u64) {
        let goal = self.rounds.load(Ordering::Relaxed) + count;
        let since = Instant::now();
        while self.rounds.load(Ordering::Relaxed) < goal {
            assert!(since.elapsed() < PATIENCE, "the clients do not go on");
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Checks the answers of the clients, the events of the watcher, and the data of the members.
    async fn finish(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        let mut journal = Journal::default();
        for client in self.clients {
            let theirs = client.await.expect("a client does not panic");
            journal.acknowledged.extend(theirs.acknowledged);
            journal.requests += theirs.requests;
            journal.failed.extend(theirs.failed);
            for (error, count) in theirs.retried {
                *journal.retried.entry(error).or_default() += count;
            }
        }
        eprintln!("{} requests, {} writes", journal.requests, journal.acknowledged.len());
        eprintln!("retried: {:#?}", journal.retried);
        assert_eq!(journal.failed, Vec::<String>::new());

        cluster.assert_equal().await;
        let last = cluster.members.iter().find(|member| member.process_id().is_some()).expect("some run");
        last.put(LAST, "").await;
        let seen = time::timeout(PATIENCE, self.watcher).await.expect("the watcher gets there");
        let seen = seen.expect("the watcher does not panic");
        for (rev, write) in &journal.acknowledged {
            assert_eq!(seen.get(rev), Some(write), "revision {rev}");
        }
        for (_, (key, value)) in journal.acknowledged {
            let held = last.try_get(&key, true).await.expect("a read is answered");
            assert_eq!(held, Some(value), "{key}");
        }
    }
}

/// The last write, which tells the watcher that the run is over.
const LAST: &str = "w-last";

struct Client {
    number: usize,
    /// The member that the client asks, which it keeps as long as that member answers.
    at: usize,
    addresses: Addresses,
    journal: Journal,
}

impl Client {
    async fn work(mut self, stop: Arc<AtomicBool>, rounds: Arc<AtomicU64>) -> Journal {
        for round in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (key, value) = (format!("w-{}-{round:06}", self.number), round.to_string());
            let put =
                PutRequest { key: key.clone().into(), value: value.clone().into(), ..PutRequest::default() };
            let written =
                self.request(&key, &put, |mut client, put| async move { client.put(put).await }).await;
            let Some(written) = written else { continue };
            let rev = written.header.expect("every answer has a header").revision;
            self.journal.acknowledged.insert(rev, (key.clone(), value.clone()));
            // A member that is asked now must have the key.
            self.at += 1;
            let get = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
            let read =
                self.request(&key, &get, |mut client, get| async move { client.range(get).await }).await;
            if let Some(read) = read {
                let held = read.kvs.first().map(|kv| kv.value.as_ref());
                assert_eq!(held, Some(value.as_bytes()), "{key} was acknowledged and is not there");
            }
            rounds.fetch_add(1, Ordering::Relaxed);
            time::sleep(Duration::from_millis(2)).await;
        }
        self.journal
    }

    async fn request<Q: Clone, A, F: Future<Output = Result<tonic::Response<A>, Status>>>(
        &mut self,
        key: &str,
        request: &Q,
        send: impl Fn(KvClient<Channel>, Q) -> F,
    ) -> Option<A> {
        self.journal.requests += 1;
        let mut errors = Vec::new();
        while errors.len() < TRIES {
            let client = KvClient::new(self.addresses.pick(self.at));
            let error = match time::timeout(TRY_TIMEOUT, send(client, request.clone())).await {
                Ok(Ok(answer)) => return Some(answer.into_inner()),
                Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
                Err(_) => "no answer".to_owned(),
            };
            if errors.is_empty() {
                *self.journal.retried.entry(error.clone()).or_default() += 1;
            }
            errors.push(error);
            self.at += 1;
            time::sleep(RETRY_PAUSE).await;
        }
        self.journal.failed.push(format!("{key}: {errors:?}"));
        None
    }
}

/// Watches all writes until the last one, at any member. Returns them by revision.
async fn watch(addresses: Addresses) -> BTreeMap<i64, (String, String)> {
    let mut seen: BTreeMap<i64, (String, String)> = BTreeMap::new();
    for number in 0.. {
        let next = seen.last_key_value().map_or(1, |(rev, _)| rev + 1);
        let create = WatchCreateRequest {
            key: "w-".into(),
            range_end: "w.".into(),
            start_revision: next,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The requests stay open: the stream ends when the member stops.
        let requests = futures_util::StreamExt::chain(
            futures_util::stream::iter([create]),
            futures_util::stream::pending(),
        );
        let Ok(stream) = WatchClient::new(addresses.pick(number)).watch(requests).await else {
            time::sleep(RETRY_PAUSE).await;
            continue;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(answer)) = stream.message().await {
            assert!(answer.compact_revision == 0, "nothing was compacted: {answer:?}");
            for event in answer.events {
                let kv = event.kv.expect("every event has a key");
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("tests write text");
                let (key, value) = (text(&kv.key), text(&kv.value));
                // Each write is one revision and there are no other writes, so there are no gaps.
                let last = seen.last_key_value().map(|(rev, _)| *rev);
                assert!(
                    last.is_none_or(|last| kv.mod_revision == last + 1),
                    "{last:?}, then {}",
                    kv.mod_revision
                );
                seen.insert(kv.mod_revision, (key.clone(), value));
                if key == LAST {
                    return seen;
                }
            }
        }
    }
    unreachable!("it goes on for ever")
}

/// How a member is taken out.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    RemovedWhileItRuns,
    KilledThenRemoved,
    TerminatedThenRemoved,
}

/// Sends the request to the members in turn, like an operator who gives all endpoints, until one executes it.
async fn ask<T>(
    cluster: &Cluster,
    what: &str,
    send: impl AsyncFn(ClusterClient<Channel>) -> Result<tonic::Response<T>, Status>,
) -> T {
    let since = Instant::now();
    loop {
        for member in cluster.members.iter().filter(|member| member.process_id().is_some()) {
            match send(ClusterClient::new(member.channel())).await {
                Ok(answer) => return answer.into_inner(),
                Err(refusal) => assert!(since.elapsed() < PATIENCE, "{what}: {refusal}"),
            }
        }
        time::sleep(RETRY_PAUSE).await;
    }
}

/// Adds a member and waits until it serves and votes.
async fn join(cluster: &mut Cluster, crowd: &Crowd, name: &str) {
    let url = cluster.prepare(name).peer_url();
    let added = ask(cluster, "a member is added", async |mut client| {
        let request = MemberAddRequest { peer_ur_ls: vec![url.clone()], is_learner: false };
        client.member_add(request).await
    });
    let id = added.await.member.expect("the answer says whom").id;
    cluster.members.last_mut().expect("just prepared").start();
    crowd.addresses.set(cluster.members.iter());
    let since = Instant::now();
    let says_so = |member: &Member| {
        let log = member.log();
        log.lines().any(|line| line.contains("is a voting member now") && line.contains(&format!("{id:x}")))
    };
    while !cluster.members.iter().any(says_so) {
        assert!(since.elapsed() < PATIENCE, "{name} gets no vote");
        time::sleep(Duration::from_millis(20)).await;
    }
    let joined = cluster.members.last().expect("it is the last").members().await;
    let joined = joined.iter().find(|member| member.id == id).expect("it is listed");
    assert_eq!((joined.name.as_str(), joined.is_learner), (name, false));
}

/// Removes a member from the cluster, and its address from the clients, some of which may be waiting for its
/// answer.
async fn leave(cluster: &mut Cluster, crowd: &Crowd, number: usize, leaving: Leaving) {
    let id = cluster.members[number].id().await;
    let mut old = cluster.members.remove(number);
    match leaving {
        Leaving::RemovedWhileItRuns => {
            remove(cluster, id).await;
            let (status, log) = old.wait_for_end();
            assert!(status.success(), "{status}");
            assert!(log.contains("the member has been permanently removed from the cluster"), "{log}");
        }
        Leaving::KilledThenRemoved => {
            old.kill();
            remove(cluster, id).await;
        }
        Leaving::TerminatedThenRemoved => {
            old.signal(Signal::TERM);
            let (status, _) = old.wait_for_end();
            assert!(status.success(), "{status}");
            remove(cluster, id).await;
        }
    }
    crowd.addresses.set(cluster.members.iter());
}

async fn remove(cluster: &Cluster, id: u64) {
    let removed = ask(cluster, "a member is removed", async |mut client| {
        match client.member_remove(MemberRemoveRequest { id }).await {
            // An earlier request to another member may have removed it without an answer.
            Err(status) if status.message() == "etcdserver: member not found" => {
                Ok(tonic::Response::new(Default::default()))
            }
            answer => answer,
        }
    });
    removed.await;
}

/// Makes a member the leader.
async fn lead(cluster: &Cluster, number: usize) {
    let target_id = cluster.members[number].id().await;
    let leader = cluster.leader().await;
    if leader != number {
        let moved = cluster.members[leader].maintenance().move_leader(MoveLeaderRequest { target_id }).await;
        moved.expect("leadership moves");
    }
    assert_eq!(cluster.leader().await, number);
}

/// Takes out the leader in each of these ways, because its loss affects clients most.
#[tokio::test(flavor = "multi_thread")]
async fn three_members_are_replaced_under_load() {
    let mut cluster = Cluster::found(3);
    let crowd = Crowd::start(&cluster);
    crowd.more(100).await;
    let ways = [Leaving::RemovedWhileItRuns, Leaving::KilledThenRemoved, Leaving::TerminatedThenRemoved];
    for (number, leaving) in ways.into_iter().enumerate() {
        join(&mut cluster, &crowd, &format!("n{number}")).await;
        crowd.more(50).await;
        // The oldest member is always the first.
        lead(&cluster, 0).await;
        leave(&mut cluster, &crowd, 0, leaving).await;
        crowd.more(100).await;
    }
    let names: Vec<&str> = cluster.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["n0", "n1", "n2"]);
    assert_eq!(cluster.members[0].members().await.len(), 3);
    crowd.finish(&cluster).await;
}

/// From five members to three, and back to five.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_five_shrinks_and_grows_under_load() {
    let mut cluster = Plan::new(5).found();
    let crowd = Crowd::start(&cluster);
    crowd.more(50).await;
    let leader = cluster.leader().await;
    leave(&mut cluster, &crowd, leader, Leaving::RemovedWhileItRuns).await;
    crowd.more(50).await;
    let follower = (cluster.leader().await + 1) % 4;
    leave(&mut cluster, &crowd, follower, Leaving::RemovedWhileItRuns).await;
    crowd.more(50).await;
    assert_eq!(cluster.members[0].members().await.len(), 3);
    for name in ["n0", "n1"] {
        join(&mut cluster, &crowd, name).await;
        crowd.more(50).await;
    }
    assert_eq!(cluster.members[0].members().await.len(), 5);
    crowd.finish(&cluster).await;
}

/// The leader gets the request for its own removal: it transfers leadership first, and answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_removes_itself() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let (id, term) = {
        let status = cluster.members[leader].try_status().await.expect("it runs");
        (status.leader, status.raft_term)
    };
    let mut own = ClusterClient::new(cluster.members[leader].channel());
    let removed =
        own.member_remove(MemberRemoveRequest { id }).await.expect("it is asked in time").into_inner();
    assert!(
        removed.members.len() == 2 && removed.members.iter().all(|member| member.id != id),
        "{removed:?}"
    );
    let mut old = cluster.members.remove(leader);
    // Its last clients get an error that makes them ask another member.
    let late = old.try_put("k", "v").await.expect_err("it is no member any more");
    assert_eq!((late.code(), late.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
    let (status, log) = old.wait_for_end();
    assert!(status.success(), "{status}");
    assert!(log.contains("leadership transfer finished"), "{log}");
    let next = cluster.leader().await;
    let status = cluster.members[next].try_status().await.expect("it runs");
    assert_eq!(status.raft_term, term + 1, "one election, not more");
    cluster.members[0].put("k", "w").await;
    assert_eq!(cluster.members[1].get("k").await.as_deref(), Some("w"));
}
