//! Clients that write and read, and record their requests and answers.
//!
//! Six of them always use the same member, two use all members in turn. All use the same few keys, so that
//! they affect each other. Every value is written once, so a value identifies its write. A client has one
//! request in progress. After a write without an answer it first reads until it gets an answer, and only then
//! writes again, because unknown outcomes multiply the work of the checkers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    client::{Client, REQUEST_TIMEOUT},
    cluster::{Cluster, PATIENCE},
    history::{Compaction, History, Operation, Restart, Stored, Watched},
    pb::etcdserverpb::{CompactionRequest, RangeRequest, ResponseHeader, kv_client::KvClient},
    watcher::{self, Watcher},
    wire,
};

pub(crate) const MEMBERS: usize = 3;

/// One client for each pair of a member and a kind of client, and two that use all members in turn.
const CLIENTS: usize = 8;
const PINNED: usize = 6;

/// Reads that wait for a paused or stopped member.
const QUESTIONS: usize = 24;

/// Bounds on the requests a second of all clients together. Not more, so that the checkers and a machine with
/// two cores keep up. Not less in some second before the fault and in some second after it, because otherwise
/// the run shows nothing. A debug build on two idle cores nearly reaches the maximum, so the minimum allows
/// for a busy machine, but not for a cluster that is stuck.
const CEILING: u32 = 1000;
const FLOOR: u64 = 100;

/// Minimum number of answered requests in a run.
const ANSWERS_MIN: u64 = 1000;

/// At this interval, history is compacted up to the revision of one interval ago. A watcher that is behind
/// because of a usual fault still finds its history; one that is behind because of a long pause does not.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(7);

/// The time between two checks of a condition.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
    watchers: Vec<JoinHandle<Vec<Watched>>>,
    compactor: JoinHandle<Vec<Compaction>>,
    restarts: Vec<Restart>,
}

pub(crate) struct Shared {
    began: Instant,
    is_over: AtomicBool,
    /// The client endpoint of each member.
    endpoints: Mutex<Vec<String>>,
    next_value: AtomicU64,
    /// The number of answered requests of each client.
    answered: [AtomicU64; CLIENTS],
    acknowledged: AtomicU64,
    /// The newest revision in any answer.
    term: AtomicU64,
    revision: AtomicI64,
    /// For each watcher, its member and its last revision.
    watching: Mutex<BTreeMap<usize, (usize, Option<i64>)>>,
    /// The revision that watchers must reach before they end, once it is known.
    pub(crate) last_revision: watch::Sender<Option<i64>>,
}

impl Load {
    pub(crate) fn start(endpoints: Vec<String>) -> Load {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            is_over: AtomicBool::new(false),
            endpoints: Mutex::new(endpoints),
            next_value: AtomicU64::new(1),
            answered: Default::default(),
            acknowledged: AtomicU64::new(0),
            term: AtomicU64::new(0),
            revision: AtomicI64::new(0),
            watching: Mutex::default(),
            last_revision: watch::Sender::new(None),
        });
        let clients = (0..CLIENTS).map(|number| Client::new(number, number < PINNED, shared.clone()));
        let interval = Duration::from_secs(1) * CLIENTS as u32 / CEILING;
        let clients = clients.map(|client| tokio::spawn(client.run(interval))).collect();
        let watchers = watcher::all(&shared).into_iter().map(|watcher| tokio::spawn(Watcher::run(watcher)));
        let watchers = watchers.collect();
        let compactor = tokio::spawn(compact(shared.clone()));
        Load { shared, clients, watchers, compactor, restarts: Vec::new() }
    }

    /// To be called before a killed member is started again.
    pub(crate) fn restarts(&mut self, member: usize) {
        self.restarts.push(Restart { at: self.shared.began.elapsed(), member });
    }

    /// Clients that are connected to a member and send requests only when they are told to.
    pub(crate) async fn connect(&self, member: usize) -> Vec<Client> {
        let numbers = self.clients.len()..self.clients.len() + QUESTIONS;
        let mut clients: Vec<_> =
            numbers.map(|number| Client::new(number, true, self.shared.clone())).collect();
        for client in &mut clients {
            client.read_at(member).await;
        }
        clients
    }

    /// Lets each of these clients make a linearizable read, without waiting for the answers.
    pub(crate) fn question(&mut self, clients: Vec<Client>, member: usize) {
        self.clients.extend(clients.into_iter().map(|mut client| {
            tokio::spawn(async move {
                client.read_at(member).await;
                client.into_operations()
            })
        }));
    }

    /// Changes the endpoint of a member.
    pub(crate) fn redirect(&self, member: usize, endpoint: String) {
        self.shared.endpoints.lock().expect("nobody panics with it")[member] = endpoint;
    }

    /// The newest term in any answer.
    pub(crate) fn term(&self) -> u64 {
        self.shared.term.load(Relaxed)
    }

    /// Waits until this number of further writes is acknowledged.
    pub(crate) async fn more_writes(&self, count: u64) {
        let goal = self.shared.acknowledged.load(Relaxed) + count;
        self.wait_until("writes go on", || self.shared.acknowledged.load(Relaxed) >= goal).await;
    }

    /// Waits until every client has got an answer to a request that it sends from now on.
    pub(crate) async fn reach_everybody(&self) {
        // The next answer may belong to an older request.
        let goal = self.shared.answered.each_ref().map(|answered| answered.load(Relaxed) + 2);
        let answered =
            || self.shared.answered.iter().zip(&goal).all(|(now, goal)| now.load(Relaxed) >= *goal);
        self.wait_until("every client is answered", answered).await;
    }

    /// Waits until there are enough answered requests.
    pub(crate) async fn reach_enough(&self) {
        self.wait_until("there is enough to judge by", || self.shared.answers() >= ANSWERS_MIN).await;
    }

    /// Waits for a second with enough answers.
    pub(crate) async fn reach_floor(&self, when: &str) {
        let since = Instant::now();
        loop {
            let before = self.shared.answers();
            time::sleep(Duration::from_secs(1)).await;
            let answered = self.shared.answers() - before;
            if answered >= FLOOR {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{answered} requests a second {when}, floor {FLOOR}");
        }
    }

    /// Ends the load. Returns when every watcher has got all events.
    pub(crate) async fn finish(self, cluster: &Cluster) -> History {
        let Load { shared, clients, watchers, compactor, restarts } = self;
        shared.is_over.store(true, Relaxed);
        let mut operations = Vec::new();
        for client in clients {
            operations.extend(client.await.expect("a client does not panic"));
        }
        let compactions = compactor.await.expect("the compactor does not panic");
        let (final_state, final_revision) = final_state(cluster).await;
        shared.last_revision.send_replace(Some(final_revision));
        let mut watched = Vec::new();
        for watcher in watchers {
            let Ok(seen) = time::timeout(PATIENCE, watcher).await else {
                let watching = shared.watching.lock().expect("nobody panics with it");
                panic!("a watcher does not come to {final_revision}, see (member, revision): {watching:?}");
            };
            watched.extend(seen.expect("a watcher does not panic"));
        }
        History { operations, watched, compactions, restarts, final_state, final_revision }
    }

    async fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
            time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    pub(crate) fn endpoint(&self, member: usize) -> String {
        self.endpoints.lock().expect("nobody panics with it")[member].clone()
    }

    /// To be called when a watcher has reached a revision.
    pub(crate) fn sees(&self, watcher: usize, member: usize, seen: Option<i64>) {
        self.watching.lock().expect("nobody panics with it").insert(watcher, (member, seen));
    }

    fn answers(&self) -> u64 {
        self.answered.iter().map(|answered| answered.load(Relaxed)).sum()
    }

    pub(crate) fn new_value(&self) -> u64 {
        self.next_value.fetch_add(1, Relaxed)
    }

    /// To be called when a client got an answer.
    pub(crate) fn told(&self, client: usize, is_write: bool, header: &ResponseHeader) {
        if let Some(answered) = self.answered.get(client) {
            answered.fetch_add(1, Relaxed);
        }
        self.acknowledged.fetch_add(is_write.into(), Relaxed);
        self.term.fetch_max(header.raft_term, Relaxed);
        self.revision.fetch_max(header.revision, Relaxed);
    }
}

pub(crate) fn connect(endpoint: &str) -> Channel {
    Endpoint::from_shared(format!("http://{endpoint}"))
        .expect("a loopback address is a URL")
        .connect_timeout(Duration::from_secs(1))
        .connect_lazy()
}

/// Compacts history at intervals, through the members in turn, until the load is over.
async fn compact(shared: Arc<Shared>) -> Vec<Compaction> {
    let mut compactions = Vec::new();
    let mut revision = 0;
    for member in (0..MEMBERS).cycle() {
        let since = Instant::now();
        while since.elapsed() < COMPACTION_INTERVAL {
            if shared.is_over() {
                return compactions;
            }
            time::sleep(RETRY_PAUSE).await;
        }
        if revision > 0 {
            compactions.push(Compaction { called: shared.now(), revision });
            let mut client = KvClient::new(connect(&shared.endpoint(member)));
            let request = CompactionRequest { revision, physical: false };
            // The outcome does not matter.
            let _ = time::timeout(REQUEST_TIMEOUT, client.compact(request)).await;
        }
        revision = shared.revision.load(Relaxed);
    }
    compactions
}

/// The final keys and their revision, once they are the same on all members and do not change any more. A
/// write whose client has given up may still be executed, so one check is not enough.
async fn final_state(cluster: &Cluster) -> (Vec<Stored>, i64) {
    let since = Instant::now();
    let mut before = None;
    loop {
        let mut now = Vec::new();
        for member in &cluster.members {
            let request = RangeRequest {
                key: wire::start_of("").into(),
                range_end: wire::end_of("").into(),
                ..RangeRequest::default()
            };
            let state = member.kv().range(request).await.expect("a read is answered").into_inner();
            let revision = state.header.expect("every answer has a header").revision;
            now.push((wire::all(state.kvs), revision));
        }
        if now.windows(2).all(|pair| pair[0] == pair[1]) && before.replace(now.clone()) == Some(now.clone()) {
            return now.remove(0);
        }
        assert!(since.elapsed() < PATIENCE, "there is no end to what happens, or members differ: {now:?}");
        time::sleep(RETRY_PAUSE * 5).await;
    }
}
