//! Clients that write and read, and remember what they asked and what they were told.
//!
//! Six of them keep to a member, two go round. All want the same few keys, so that they meet;
//! every value is written once, so that whoever reads it knows where it is from. A client has one
//! request under way. When nobody knows what came of a write, it reads until it is answered
//! before it writes again: what is not known bounds how much there is to judge.

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

/// One for each pair of a member and a kind of client, and a pair that goes round.
const CLIENTS: usize = 8;
const PINNED: usize = 6;

/// Reads that wait for a member to stand up again.
const QUESTIONS: usize = 24;

/// Requests a second of all clients together: no more, so that the checkers and a machine of two
/// cores keep up; and no less in some second before and in some second after the fault, or the run
/// shows nothing. An unoptimised build on two idle cores comes close to the ceiling, so the floor
/// leaves room for neighbours and none for a cluster that is stuck.
const CEILING: u32 = 1000;
const FLOOR: u64 = 100;

/// Requests with an answer that a run has to be judged by.
const ANSWERS_MIN: u64 = 1000;

/// History is forgotten up to where it was this long ago, each time that this has passed: a watcher
/// that is behind by a usual fault still finds what it missed, the one behind a long pause does not.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(7);

/// Between two looks at whether something is so.
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
    /// Of each member, where clients reach it.
    endpoints: Mutex<Vec<String>>,
    next_value: AtomicU64,
    /// Requests answered, of each client.
    answered: [AtomicU64; CLIENTS],
    acknowledged: AtomicU64,
    /// The newest that any answer told of.
    term: AtomicU64,
    revision: AtomicI64,
    /// Of each watcher, the member that it asks and how far it has come.
    watching: Mutex<BTreeMap<usize, (usize, Option<i64>)>>,
    /// What watchers have to have seen before they may go, once that is known.
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

    /// A member is about to be started that was killed before.
    pub(crate) fn restarts(&mut self, member: usize) {
        self.restarts.push(Restart { at: self.shared.began.elapsed(), member });
    }

    /// Clients that are connected to a member, and ask nothing by themselves.
    pub(crate) async fn connect(&self, member: usize) -> Vec<Client> {
        let numbers = self.clients.len()..self.clients.len() + QUESTIONS;
        let mut clients: Vec<_> =
            numbers.map(|number| Client::new(number, true, self.shared.clone())).collect();
        for client in &mut clients {
            client.read_at(member).await;
        }
        clients
    }

    /// Has each of those clients ask what is current. The answers come when they come.
    pub(crate) fn question(&mut self, clients: Vec<Client>, member: usize) {
        self.clients.extend(clients.into_iter().map(|mut client| {
            tokio::spawn(async move {
                client.read_at(member).await;
                client.into_operations()
            })
        }));
    }

    /// From now on a member is reached elsewhere.
    pub(crate) fn redirect(&self, member: usize, endpoint: String) {
        self.shared.endpoints.lock().expect("nobody panics with it")[member] = endpoint;
    }

    /// The newest term that a client was told of.
    pub(crate) fn term(&self) -> u64 {
        self.shared.term.load(Relaxed)
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) async fn more_writes(&self, count: u64) {
        let goal = self.shared.acknowledged.load(Relaxed) + count;
        self.wait_until("writes go on", || self.shared.acknowledged.load(Relaxed) >= goal).await;
    }

    /// Waits until every client has had an answer to what it asked from now on.
    pub(crate) async fn reach_everybody(&self) {
        // The next answer may be to an older question.
        let goal = self.shared.answered.each_ref().map(|answered| answered.load(Relaxed) + 2);
        let answered =
            || self.shared.answered.iter().zip(&goal).all(|(now, goal)| now.load(Relaxed) >= *goal);
        self.wait_until("every client is answered", answered).await;
    }

    /// Waits until there is enough to judge by.
    pub(crate) async fn reach_enough(&self) {
        self.wait_until("there is enough to judge by", || self.shared.answers() >= ANSWERS_MIN).await;
    }

    /// Waits for a second in which enough was answered.
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

    /// Ends the load. Returns when every watcher has seen what there is.
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

    /// A watcher has come so far.
    pub(crate) fn sees(&self, watcher: usize, member: usize, seen: Option<i64>) {
        self.watching.lock().expect("nobody panics with it").insert(watcher, (member, seen));
    }

    fn answers(&self) -> u64 {
        self.answered.iter().map(|answered| answered.load(Relaxed)).sum()
    }

    pub(crate) fn new_value(&self) -> u64 {
        self.next_value.fetch_add(1, Relaxed)
    }

    /// A client was answered.
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

/// Has history forgotten, through one member after the other, until the load is over.
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
            // Whatever comes of it.
            let _ = time::timeout(REQUEST_TIMEOUT, client.compact(request)).await;
        }
        revision = shared.revision.load(Relaxed);
    }
    compactions
}

/// What there is once nothing happens any more, with its revision, on all members. A write whose
/// client has given up may still be on its way, so one look is not enough.
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
