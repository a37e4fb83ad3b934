//! What a quiet client notices of a noisy one.
//!
//! ```text
//! start -- fill -- | quiet alone | quiet beside the noise | stop -- next noise
//! ```
//!
//! `cargo bench --bench neighbours` gives every kind of noise a new server that holds 100,000 keys of
//! 1 KiB. The quiet client has a connection and a thread of its own. It sends a put and a get at a
//! fixed rate, whether or not those before them were answered, and counts from the moment at which
//! each was due, so that a pause is seen by all that fall into it. It also watches what it puts. What is
//! printed of each kind: the percentiles of its puts, of its gets and of the time from a put to its event, alone and
//! beside the noise, how many of its requests failed, what the noise got done, the most memory that the server held, and
//! how often as long the 99th percentiles are beside the noise as alone.
//!
//! Of the login storms the quiet client is logged in, and two more lines are printed: how long a login with a wrong
//! password takes for a known and for an unknown user, and how many logins with the right one there are in a second. Of
//! `live-deaf-watch` the one who writes what nobody reads is measured first without those who do not read it, so that
//! the memory of each silent stream can be told. The server of `forty-readers` may take 512 MiB, and ends if it takes more.
//!
//! `--program etcd` measures etcd instead, `--program PATH` another build. `--members 3` sends both to
//! the leader of three. `--only KIND,KIND` measures some kinds. Trust the ratios of one run more than its figures: client
//! and server share the machine.

#![allow(clippy::disallowed_methods, reason = "a measurement lives by the clock")]

use std::{
    error::Error,
    fs,
    io::{self, Write as _},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tokio::{
    runtime,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use self::{
    arguments::Arguments,
    cluster::{Cluster, Member, Plan},
    memory_group::MemoryGroup,
    pb::etcdserverpb::{
        AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest,
        DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp,
        SnapshotRequest, TxnRequest, WatchCreateRequest, WatchRequest, auth_client::AuthClient,
        kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
        range_request::SortOrder, range_request::SortTarget, request_op, watch_client::WatchClient,
        watch_request,
    },
};

#[path = "bench_arguments.rs"]
mod arguments;
#[path = "../tests/support/cluster.rs"]
mod cluster;
#[path = "../tests/support/memory_group.rs"]
mod memory_group;
#[path = "../tests/support/pb.rs"]
mod pb;
#[path = "../tests/support/raw.rs"]
mod raw;
#[path = "../tests/support/tools.rs"]
mod tools;

const KEYS: usize = 100_000;
const VALUE_BYTES: usize = 1024;
/// Puts of one transaction while the server is filled: etcd's default for `--max-txn-ops`.
const FILL_OPS: usize = 100;
const FILL_CLIENTS: usize = 64;
/// For what the fill left to be written.
const REST: Duration = Duration::from_secs(3);
/// Of the quiet client, each of puts and of gets.
const QUIET_PER_SEC: u32 = 100;
/// A request of the quiet client that takes longer counts as failed.
const QUIET_TIMEOUT: Duration = Duration::from_secs(30);
/// More than what an answer with all keys takes.
const ANSWER_BYTES: usize = 1 << 30;

const BIG_TXN_RANGES: usize = 20;
const BIG_RANGE_CLIENTS: usize = 2;
const BIG_DELETE_KEYS: usize = 200_000;
const SNAPSHOT_CLIENTS: usize = 4;
const DEAF_WATCHERS: usize = 50;
const LIVE_EVENT_BYTES: usize = 16 * 1024;
const LEASE_CLIENTS: usize = 64;
const SILENT_CONNECTIONS: usize = 1000;
const MIB_PUT_CLIENTS: usize = 4;
const LOGIN_CLIENTS: [usize; 2] = [32, 200];
/// They watch the keys that are deleted, and read all of it.
const DELETE_WATCHERS: usize = 4;
const GROUP_READERS: usize = 40;
const GROUP_BYTES: usize = 512 << 20;
/// Logins with a wrong password of each of two users, one after the other.
const TIMED_LOGINS: usize = 200;
/// Logins with the right password, by several clients.
const RIGHT_LOGINS: usize = 2000;
const RIGHT_LOGIN_CLIENTS: usize = 16;
const PINGING_CLIENTS: usize = 4;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Noise {
    BigTxn,
    BigTxnWithPut,
    BigRange,
    BigDelete,
    BigDeleteWatched,
    Snapshot,
    DeafWatch,
    LiveWrites,
    LiveDeafWatch,
    LeaseStorm,
    Connections,
    MibPuts,
    LoginStorm { clients: usize },
    PeerPings,
    FortyReaders,
}

const NOISES: [(&str, Noise); 15] = [
    ("big-txn", Noise::BigTxn),
    ("big-txn-with-put", Noise::BigTxnWithPut),
    ("big-range", Noise::BigRange),
    ("big-delete", Noise::BigDelete),
    ("big-delete-watched", Noise::BigDeleteWatched),
    ("snapshot", Noise::Snapshot),
    ("deaf-watch", Noise::DeafWatch),
    ("live-deaf-watch", Noise::LiveDeafWatch),
    ("lease-storm", Noise::LeaseStorm),
    ("connections", Noise::Connections),
    ("mib-puts", Noise::MibPuts),
    ("login-storm-32", Noise::LoginStorm { clients: LOGIN_CLIENTS[0] }),
    ("login-storm-200", Noise::LoginStorm { clients: LOGIN_CLIENTS[1] }),
    ("peer-pings", Noise::PeerPings),
    ("forty-readers", Noise::FortyReaders),
];

fn main() -> Result<(), Failure> {
    let Some(arguments) = Arguments::of_bench() else { return Ok(()) };
    let length = Duration::from_secs(arguments.number("--seconds", 10)? as u64);
    let members = arguments.number("--members", 1)?;
    let only = arguments.value("--only");
    let only: Vec<&str> = only.map(|only| only.split(',').collect()).unwrap_or_default();
    if let Some(unknown) = only.iter().find(|only| NOISES.iter().all(|(name, _)| name != *only)) {
        let names: Vec<_> = NOISES.iter().map(|(name, _)| *name).collect();
        return Err(format!("no such noise: {unknown}; there are {}", names.join(", ")).into());
    }
    let program = arguments.program()?;
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    writeln!(
        io::stdout(),
        "{:<20}{:>27}{:>27}{:>27}{:>7}{:>10}{:>9}   p99 / alone",
        "noise",
        "put ms: p50 p99 max",
        "get ms: p50 p99 max",
        "event ms: p50 p99 max",
        "failed",
        "done",
        "peak MiB"
    )?;
    for (name, noise) in NOISES.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
        let mut plan = Plan::new(members).flags(&["--quota-backend-bytes=8000000000"]);
        if let Some(program) = &program {
            plan = plan.program(program.clone());
        }
        // Removed after the members have ended.
        let group = if *noise == Noise::FortyReaders { MemoryGroup::new(GROUP_BYTES) } else { None };
        runtime.block_on(measure(name, *noise, plan.found(), group.as_ref(), length))?;
    }
    Ok(())
}

/// One kind of noise, on a cluster of its own.
async fn measure(
    name: &str,
    noise: Noise,
    cluster: Cluster,
    group: Option<&MemoryGroup>,
    length: Duration,
) -> Result<(), Failure> {
    let leader = &cluster.members[cluster.leader().await];
    if let Some(group) = group {
        group.enter(leader.process_id().ok_or("the member has ended")?);
    }
    // A revision is sent whole, so what a stream holds shows where revisions are small.
    let ops = if noise == Noise::DeafWatch { 1 } else { FILL_OPS };
    fill(leader, "key", KEYS, VALUE_BYTES, ops).await?;
    time::sleep(REST).await;
    let endpoint = format!("http://{}", leader.endpoint());
    let is_login_storm = matches!(noise, Noise::LoginStorm { .. });
    let token = if is_login_storm { Some(guard(leader).await?) } else { None };

    let alone = quiet(endpoint.clone(), token.clone(), length).await?;
    row(&format!("({name}: alone)"), &alone, 0, leader, None)?;
    let mut before_bytes = resident_bytes(leader);
    if noise == Noise::LiveDeafWatch {
        let done = Arc::new(AtomicU64::new(0));
        let makers = make(Noise::LiveWrites, leader, &done).await?;
        let beside = quiet(endpoint.clone(), token.clone(), length).await?;
        row("(nobody watches)", &beside, done.load(Ordering::Relaxed), leader, Some(&alone))?;
        drop(makers);
        before_bytes = resident_bytes(leader);
    }
    // As many before them have had the history read, so that the caches do not count as memory of those that are measured.
    let first = if noise == Noise::DeafWatch {
        let done = Arc::new(AtomicU64::new(0));
        let makers = make(noise, leader, &done).await?;
        time::sleep(REST).await;
        before_bytes = resident_bytes(leader);
        Some(makers)
    } else {
        None
    };

    let done = Arc::new(AtomicU64::new(0));
    let makers = make(noise, leader, &done).await?;
    let beside = quiet(endpoint, token, length).await?;
    row(name, &beside, done.load(Ordering::Relaxed), leader, Some(&alone))?;
    if matches!(noise, Noise::DeafWatch | Noise::LiveDeafWatch)
        && let (Some(before), Some(now)) = (before_bytes, resident_bytes(leader))
    {
        let each = now.saturating_sub(before) / DEAF_WATCHERS as u64;
        writeln!(
            io::stdout(),
            "each stream that is not read takes {} KiB of the server's memory",
            each >> 10
        )?;
    }
    drop((makers, first));
    if is_login_storm {
        time::sleep(REST).await;
        time_logins(leader).await?;
    }
    Ok(())
}

/// A line about what the quiet client saw, and how much longer that is than what it saw alone.
fn row(name: &str, seen: &Seen, done: u64, member: &Member, alone: Option<&Seen>) -> io::Result<()> {
    let cell = |latencies: &[Duration]| {
        let millis = |part| percentile(latencies, part).as_secs_f64() * 1e3;
        format!("{:>9.2}{:>9.2}{:>9.2}", millis(0.5), millis(0.99), millis(1.0))
    };
    let ratio = |now: &[Duration], alone: &[Duration]| {
        percentile(now, 0.99).as_secs_f64() / percentile(alone, 0.99).as_secs_f64()
    };
    let ratios = alone.map_or(String::new(), |alone| {
        format!(
            "   put {:.1} get {:.1} event {:.1}",
            ratio(&seen.puts, &alone.puts),
            ratio(&seen.gets, &alone.gets),
            ratio(&seen.events, &alone.events)
        )
    });
    let peak = status_bytes(member, "VmHWM:").map_or("ended".to_owned(), |peak| (peak >> 20).to_string());
    writeln!(
        io::stdout(),
        "{name:<20}{}{}{}{:>7}{done:>10}{peak:>9}{ratios}",
        cell(&seen.puts),
        cell(&seen.gets),
        cell(&seen.events),
        seen.failed,
    )
}

/// Of latencies that are sorted.
fn percentile(latencies: &[Duration], part: f64) -> Duration {
    let place = (latencies.len().saturating_sub(1) as f64 * part) as usize;
    latencies.get(place).copied().unwrap_or_default()
}

/// What the quiet client saw, each sorted. A request that failed counts with the time it took.
#[derive(Default)]
struct Seen {
    puts: Vec<Duration>,
    gets: Vec<Duration>,
    /// From when a put was due to its event.
    events: Vec<Duration>,
    failed: usize,
}

/// The quiet client: puts and gets at a fixed rate, on a thread of its own.
async fn quiet(endpoint: String, token: Option<Token>, length: Duration) -> Result<Seen, Failure> {
    let (tell, mut told) = mpsc::channel(1);
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tell.blocking_send(runtime.block_on(pace(&endpoint, token, length))).ok();
    });
    told.recv().await.ok_or("the quiet client has panicked")?
}

async fn pace(endpoint: &str, token: Option<Token>, length: Duration) -> Result<Seen, Failure> {
    let channel = Endpoint::from_shared(endpoint.to_owned())?.connect().await?;
    let client = KvClient::new(channel.clone());
    let interval = Duration::from_secs(1) / QUIET_PER_SEC;
    let (events, watching) = watch_quiet(channel, token.clone()).await?;
    let start = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0..(length.as_micros() / interval.as_micros()) as u32 {
        let due = start + interval * number;
        time::sleep_until(due.into()).await;
        for is_put in [true, false] {
            let (mut client, token) = (client.clone(), token.clone());
            requests.spawn(async move {
                let request = quiet_request(&mut client, token, is_put, number);
                let is_ok = matches!(time::timeout(QUIET_TIMEOUT, request).await, Ok(Ok(())));
                (is_put, is_ok, due.elapsed())
            });
        }
    }
    let mut seen = Seen::default();
    while let Some(ended) = requests.join_next().await {
        let (is_put, is_ok, took) = ended?;
        seen.failed += usize::from(!is_ok);
        if is_put { seen.puts.push(took) } else { seen.gets.push(took) }
    }
    // An event that has not come yet will not be counted as one that is late.
    let arrived = events.lock().expect("nobody panics with it").clone();
    watching.abort();
    seen.events =
        arrived.iter().map(|(number, at)| at.saturating_duration_since(start + interval * *number)).collect();
    for latencies in [&mut seen.puts, &mut seen.gets, &mut seen.events] {
        latencies.sort_unstable();
    }
    Ok(seen)
}

/// When the events of the quiet client's puts arrive, each with the number of its put.
type Arrivals = Arc<Mutex<Vec<(u32, Instant)>>>;

async fn watch_quiet(channel: Channel, token: Option<Token>) -> Result<(Arrivals, JoinHandle<()>), Failure> {
    let (requests, received) = mpsc::channel(1);
    let create = WatchCreateRequest {
        key: b"quiet/".to_vec().into(),
        range_end: b"quiet0".to_vec().into(),
        ..WatchCreateRequest::default()
    };
    let create = watch_request::RequestUnion::CreateRequest(create);
    requests.send(WatchRequest { request_union: Some(create) }).await?;
    let call = with_token(ReceiverStream::new(received), token);
    let mut responses = WatchClient::new(channel).watch(call).await?.into_inner();
    responses.message().await?.ok_or("the watch has ended")?;
    let arrivals = Arrivals::default();
    let noted = Arc::clone(&arrivals);
    let watching = tokio::spawn(async move {
        while let Ok(Some(response)) = responses.message().await {
            let now = Instant::now();
            let values = response.events.iter().filter_map(|event| Some(&event.kv.as_ref()?.value));
            let numbers = values.filter_map(|value| Some(u32::from_be_bytes(*value.first_chunk()?)));
            noted.lock().expect("nobody panics with it").extend(numbers.map(|number| (number, now)));
        }
        drop(requests);
    });
    Ok((arrivals, watching))
}

async fn quiet_request(
    client: &mut KvClient<Channel>,
    token: Option<Token>,
    is_put: bool,
    number: u32,
) -> Result<(), Status> {
    let key = format!("quiet/{:04}", number % 1000).into_bytes();
    if is_put {
        let mut value = number.to_be_bytes().to_vec();
        value.resize(256, b'q');
        let put = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        client.put(with_token(put, token)).await?;
    } else {
        client.range(with_token(RangeRequest { key: key.into(), ..RangeRequest::default() }, token)).await?;
    }
    Ok(())
}

type Token = MetadataValue<Ascii>;

fn with_token<T>(message: T, token: Option<Token>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

/// Enables authentication. Returns a token of root.
async fn guard(member: &Member) -> Result<Token, Failure> {
    let mut auth = AuthClient::new(member.channel());
    let add = AuthUserAddRequest {
        name: "root".to_owned(),
        password: "right".to_owned(),
        ..AuthUserAddRequest::default()
    };
    auth.user_add(add).await?;
    auth.user_grant_role(AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() })
        .await?;
    auth.auth_enable(AuthEnableRequest {}).await?;
    Ok(auth.authenticate(login("root", "right")).await?.into_inner().token.parse()?)
}

fn login(name: &str, password: &str) -> AuthenticateRequest {
    AuthenticateRequest { name: name.to_owned(), password: password.to_owned() }
}

/// Whether the time of a refusal tells which users there are, and how fast users get in.
async fn time_logins(member: &Member) -> Result<(), Failure> {
    let mut auth = AuthClient::new(member.channel());
    let mut took = [("root", Vec::new()), ("nobody", Vec::new())];
    for _ in 0..TIMED_LOGINS {
        // In turns, so that what else goes on meets both.
        for (name, took) in &mut took {
            let start = Instant::now();
            if auth.authenticate(login(name, "wrong")).await.is_ok() {
                return Err("a wrong password was taken".into());
            }
            took.push(start.elapsed());
        }
    }
    let [known, unknown] = took.map(|(_, mut took)| {
        took.sort_unstable();
        took[took.len() / 2].as_secs_f64() * 1e3
    });
    writeln!(
        io::stdout(),
        "a wrong password takes {known:.2} ms for a known user and {unknown:.2} ms for an unknown one ({:.3})",
        unknown / known
    )?;
    let start = Instant::now();
    let clients = (0..RIGHT_LOGIN_CLIENTS).map(|_| {
        let mut auth = AuthClient::new(member.channel());
        async move {
            for _ in 0..RIGHT_LOGINS / RIGHT_LOGIN_CLIENTS {
                auth.authenticate(login("root", "right")).await?;
            }
            Ok::<_, Status>(())
        }
    });
    try_join_all(clients).await?;
    let per_second = RIGHT_LOGINS as f64 / start.elapsed().as_secs_f64();
    writeln!(io::stdout(), "{RIGHT_LOGINS} logins with the right password: {per_second:.0} a second")?;
    Ok(())
}

/// Writes `count` keys below `prefix`, `ops` of them in a transaction.
async fn fill(
    member: &Member,
    prefix: &str,
    count: usize,
    value_bytes: usize,
    ops: usize,
) -> Result<(), Status> {
    let put = |number: usize| {
        // Values in another order than keys.
        let mut value = format!("{:08}", number.wrapping_mul(2_654_435_761) % 100_000_000).into_bytes();
        value.resize(value_bytes.max(value.len()), b'v');
        let key = format!("{prefix}/{number:08}").into_bytes();
        let put = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        RequestOp { request: Some(request_op::Request::RequestPut(put)) }
    };
    let transactions = count.div_ceil(ops);
    let fillers = (0..FILL_CLIENTS).map(|first| {
        let mut client = member.kv();
        async move {
            for transaction in (first..transactions).step_by(FILL_CLIENTS) {
                let numbers = transaction * ops..count.min((transaction + 1) * ops);
                let success = numbers.map(put).collect();
                client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
            }
            Ok::<_, Status>(())
        }
    });
    try_join_all(fillers).await?;
    Ok(())
}

/// The noise ends with this value.
struct Makers {
    tasks: Vec<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl Drop for Makers {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts the noise. `done` counts what came of it, a failure included.
async fn make(noise: Noise, member: &Member, done: &Arc<AtomicU64>) -> Result<Makers, Failure> {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    match noise {
        Noise::BigTxn | Noise::BigTxnWithPut => {
            let request = big_txn(noise == Noise::BigTxnWithPut);
            let client = large_kv(member);
            tasks.push(repeat(done, move || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.txn(request).await.map(drop) }
            }));
        }
        Noise::BigRange => {
            for _ in 0..BIG_RANGE_CLIENTS {
                let client = large_kv(member);
                tasks.push(repeat(done, move || {
                    let mut client = client.clone();
                    async move { client.range(all_keys()).await.map(drop) }
                }));
            }
        }
        Noise::BigDelete | Noise::BigDeleteWatched => {
            fill(member, "doomed", BIG_DELETE_KEYS, 8, FILL_OPS).await?;
            if noise == Noise::BigDeleteWatched {
                for _ in 0..DELETE_WATCHERS {
                    tasks.push(watch_doomed(member, done));
                }
            }
            let mut client = member.kv();
            let done = Arc::clone(done);
            // Once: to fill again would be another noise.
            tasks.push(tokio::spawn(async move {
                time::sleep(Duration::from_secs(1)).await;
                let request = DeleteRangeRequest {
                    key: b"doomed/".to_vec().into(),
                    range_end: b"doomed0".to_vec().into(),
                    prev_kv: false,
                };
                client.delete_range(request).await.ok();
                done.fetch_add(1, Ordering::Relaxed);
            }));
        }
        Noise::Snapshot => {
            for _ in 0..SNAPSHOT_CLIENTS {
                let mut client = MaintenanceClient::new(member.channel());
                let done = Arc::clone(done);
                tasks.push(tokio::spawn(async move {
                    // The answer's stream is held, and nothing of it is read.
                    let unread = client.snapshot(SnapshotRequest {}).await;
                    done.fetch_add(1, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                    drop(unread);
                }));
            }
        }
        Noise::DeafWatch => {
            let all = || WatchCreateRequest {
                key: vec![0].into(),
                range_end: vec![0].into(),
                start_revision: 1,
                ..WatchCreateRequest::default()
            };
            for _ in 0..DEAF_WATCHERS {
                tasks.push(deaf_watch(member, all(), done));
            }
        }
        Noise::LiveWrites | Noise::LiveDeafWatch => {
            let key = |number: usize| format!("deaf/{:02}", number % DEAF_WATCHERS).into_bytes();
            if noise == Noise::LiveDeafWatch {
                for number in 0..DEAF_WATCHERS {
                    let create =
                        WatchCreateRequest { key: key(number).into(), ..WatchCreateRequest::default() };
                    tasks.push(deaf_watch(member, create, done));
                }
            }
            let mut client = member.kv();
            tasks.push(tokio::spawn(async move {
                for number in 0.. {
                    let value = vec![b'w'; LIVE_EVENT_BYTES].into();
                    let put = PutRequest { key: key(number).into(), value, ..PutRequest::default() };
                    client.put(put).await.ok();
                }
            }));
        }
        Noise::LeaseStorm => {
            for _ in 0..LEASE_CLIENTS {
                let client = LeaseClient::new(member.channel());
                tasks.push(repeat(done, move || {
                    let mut client = client.clone();
                    async move {
                        let granted = client.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await?;
                        let id = granted.into_inner().id;
                        client.lease_revoke(LeaseRevokeRequest { id }).await.map(drop)
                    }
                }));
            }
        }
        Noise::Connections => {
            let (address, done, is_over) = (member.endpoint(), Arc::clone(done), Arc::clone(&is_over));
            thread::spawn(move || flood(&address, &done, &is_over));
        }
        Noise::MibPuts => {
            for number in 0..MIB_PUT_CLIENTS {
                let client = member.kv();
                tasks.push(repeat(done, move || {
                    let mut client = client.clone();
                    let key = format!("large/{number}").into_bytes();
                    let value = vec![b'l'; 1 << 20];
                    async move {
                        let put =
                            PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
                        client.put(put).await.map(drop)
                    }
                }));
            }
        }
        Noise::LoginStorm { clients } => {
            for number in 0..clients {
                let client = AuthClient::new(member.channel());
                let name = if number % 2 == 0 { "root" } else { "nobody" };
                let done = Arc::clone(done);
                // A refusal is what this noise is made of.
                tasks.push(tokio::spawn(async move {
                    let mut client = client;
                    loop {
                        client.authenticate(login(name, "wrong")).await.ok();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
        }
        Noise::FortyReaders => {
            for number in 0..GROUP_READERS {
                let client = large_kv(member);
                let request = match number % 4 {
                    0 => RangeRequest { sort_target: SortTarget::Mod.into(), ..sorted() },
                    1 => RangeRequest { sort_target: SortTarget::Value.into(), ..sorted() },
                    _ => all_keys(),
                };
                tasks.push(repeat(done, move || {
                    let (mut client, request) = (client.clone(), request.clone());
                    async move { client.range(request).await.map(drop) }
                }));
            }
        }
        Noise::PeerPings => {
            for number in 0..PINGING_CLIENTS {
                let stays = number % 2 == 0;
                let (port, done, is_over) = (member.peer_port, Arc::clone(done), Arc::clone(&is_over));
                thread::spawn(move || ping(port, stays, &done, &is_over));
            }
        }
    }
    Ok(Makers { tasks, is_over })
}

/// One request after the other, for as long as the task lives.
fn repeat<F>(done: &Arc<AtomicU64>, request: impl Fn() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = Result<(), Status>> + Send,
{
    let done = Arc::clone(done);
    tokio::spawn(async move {
        loop {
            if request().await.is_err() {
                // A refusal must not turn the noise into another one.
                time::sleep(Duration::from_millis(10)).await;
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    })
}

fn all_keys() -> RangeRequest {
    RangeRequest {
        key: b"key/".to_vec().into(),
        range_end: b"key0".to_vec().into(),
        ..RangeRequest::default()
    }
}

fn sorted() -> RangeRequest {
    RangeRequest { sort_order: SortOrder::Descend.into(), ..all_keys() }
}

/// A request of 3 KB that asks for the smallest value among all, many times.
fn big_txn(with_put: bool) -> TxnRequest {
    let range = RangeRequest {
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Value.into(),
        limit: 1,
        ..all_keys()
    };
    let range = RequestOp { request: Some(request_op::Request::RequestRange(range)) };
    let mut success = vec![range; BIG_TXN_RANGES];
    if with_put {
        let put = PutRequest { key: b"of-the-txn".to_vec().into(), ..PutRequest::default() };
        success.push(RequestOp { request: Some(request_op::Request::RequestPut(put)) });
    }
    TxnRequest { success, ..TxnRequest::default() }
}

fn large_kv(member: &Member) -> KvClient<Channel> {
    member.kv().max_decoding_message_size(ANSWER_BYTES)
}

/// A watch stream that reads the events of the large deletion, with what the keys held before.
fn watch_doomed(member: &Member, done: &Arc<AtomicU64>) -> JoinHandle<()> {
    let mut client = WatchClient::new(member.channel()).max_decoding_message_size(ANSWER_BYTES);
    let done = Arc::clone(done);
    tokio::spawn(async move {
        let (requests, received) = mpsc::channel(1);
        let create = WatchCreateRequest {
            key: b"doomed/".to_vec().into(),
            range_end: b"doomed0".to_vec().into(),
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
        requests.send(create).await.ok();
        let Ok(responses) = client.watch(ReceiverStream::new(received)).await else { return };
        let mut responses = responses.into_inner();
        while let Ok(Some(response)) = responses.message().await {
            done.fetch_add(response.events.len() as u64, Ordering::Relaxed);
        }
        drop(requests);
    })
}

/// A watch stream of which nothing is read.
fn deaf_watch(member: &Member, create: WatchCreateRequest, done: &Arc<AtomicU64>) -> JoinHandle<()> {
    let mut client = WatchClient::new(member.channel());
    let done = Arc::clone(done);
    tokio::spawn(async move {
        let (requests, received) = mpsc::channel(1);
        let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
        requests.send(create).await.ok();
        let unread = client.watch(ReceiverStream::new(received)).await;
        done.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<()>().await;
        drop((requests, unread));
    })
}

/// Connections that say nothing. One that the server closes is opened again.
fn flood(address: &str, done: &AtomicU64, is_over: &AtomicBool) {
    let mut open: Vec<TcpStream> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        open.retain(|stream| stream.set_nonblocking(true).is_ok() && !matches!(stream.peek(&mut [0]), Ok(0)));
        while open.len() < SILENT_CONNECTIONS && !is_over.load(Ordering::Relaxed) {
            match TcpStream::connect(address) {
                Ok(stream) => open.push(stream),
                Err(_) => break,
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Pings at the peer port, as fast as they can be sent. A client that `stays` opens its connection again when the
/// server has closed it, and the others do so after a few pings.
fn ping(port: u16, stays: bool, done: &AtomicU64, is_over: &AtomicBool) {
    let pings = raw::frame(raw::PING, 0, 0, &[0; 8]).repeat(64);
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        done.fetch_add(1, Ordering::Relaxed);
        // So that a server that neither reads nor closes does not end the noise.
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let mut sent = stream.write_all(&raw::greeting());
        while sent.is_ok() && !is_over.load(Ordering::Relaxed) {
            sent = stream.write_all(&pings);
            if !stays {
                break;
            }
        }
    }
}

/// The memory of the member's process.
fn resident_bytes(member: &Member) -> Option<u64> {
    status_bytes(member, "VmRSS:")
}

/// What the system says of the member's process; `None` once it has ended.
fn status_bytes(member: &Member, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", member.process_id()?)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
