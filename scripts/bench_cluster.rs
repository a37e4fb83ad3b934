//! How long clients of a cluster have to wait when something happens to its members.
//!
//! `cargo bench --bench cluster -- catch-up` is described in `bench_catch_up.rs`.
//!
//! ```text
//! load ---------------|fault|---- silence ----|first answer|---- all agree again ---- next run
//! ```
//!
//! `cargo bench --bench cluster -- failover` founds members with default flags and repeatedly takes away the
//! leader: without warning (kill -9, SIGSTOP), and as an operator does (SIGTERM, move-leader). Clients are
//! connected before, with one connection to each member, and each has one request in progress. `--program
//! etcd` measures etcd instead.
//!
//! Without warning, it measures the time from the fault until a remaining member acknowledges a write that
//! was sent after the fault. For a planned transfer of leadership, it measures the longest time without an
//! acknowledged write, and the number of requests that failed: at the first attempt, and again at another
//! member. The latter has to be 0.

#![allow(clippy::disallowed_methods, reason = "a measurement lives by the clock")]

use std::{
    error::Error,
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{runtime, sync::mpsc, task::JoinHandle, time};
use tonic::{Status, transport::Channel};

use self::{
    arguments::Arguments,
    cluster::{Cluster, Plan},
    pb::etcdserverpb::{MoveLeaderRequest, PutRequest, RangeRequest, kv_client::KvClient},
};

#[path = "bench_arguments.rs"]
mod arguments;
#[path = "bench_catch_up.rs"]
mod catch_up;
#[path = "../tests/support/cluster.rs"]
mod cluster;
#[path = "../tests/support/pb.rs"]
mod pb;
#[path = "../tests/support/tools.rs"]
mod tools;

/// Answers that each client gets before the fault.
const WARM_UP: u64 = 20;
/// How long the load continues after a planned transfer of leadership.
const AFTERWARDS: Duration = Duration::from_millis(1500);
/// The time between two writes that test whether a remaining member works again.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);
/// If a remaining member acknowledges no write for this long, the run fails.
const PATIENCE: Duration = Duration::from_secs(60);

const USAGE: &str = "what is to be measured?
  failover [--runs N] [--members N] [--program PATH|etcd] [--only FAULT]
  catch-up [--gigabytes N] [--members N] [--program PATH|etcd]";

type Failure = Box<dyn Error>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    Terminate,
    Move,
}

const FAULTS: [(&str, Fault); 4] = [
    ("kill -9", Fault::Kill),
    ("SIGSTOP", Fault::Stop),
    ("SIGTERM", Fault::Terminate),
    ("move-leader", Fault::Move),
];

fn main() -> Result<(), Failure> {
    let Some(arguments) = Arguments::of_bench() else { return Ok(()) };
    let runs = arguments.number("--runs", 20)?;
    let mut plan = Plan::new(arguments.number("--members", 3)?);
    if let Some(program) = arguments.program()? {
        plan = plan.program(program);
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments.0.iter().map(String::as_str).find(|argument| !argument.starts_with("--")) {
        Some("failover") => runtime.block_on(failover(plan.found(), runs, arguments.value("--only"))),
        Some("catch-up") => runtime.block_on(catch_up::run(plan, arguments.number("--gigabytes", 1)?)),
        _ => Err(USAGE.into()),
    }
}

async fn failover(mut cluster: Cluster, runs: usize, only: Option<&str>) -> Result<(), Failure> {
    let clients: Vec<_> = cluster.members.iter().map(|member| member.kv()).collect();
    for (name, fault) in FAULTS {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let mut rows: Vec<Row> = Vec::new();
        for run in 1..=runs {
            writeln!(io::stderr(), "{name}: run {run} of {runs}")?;
            let disk = DiskProbe::start()?;
            let mut row = match fault {
                Fault::Kill | Fault::Stop => unplanned(&mut cluster, &clients, fault).await?,
                Fault::Terminate | Fault::Move => planned(&mut cluster, &clients, fault).await?,
            };
            row.push(("slowest sync of this disk meanwhile, ms", millis(disk.end()?)));
            rows.push(row);
            cluster.leader().await;
            cluster.assert_equal().await;
        }
        report(name, &rows)?;
    }
    Ok(())
}

/// The measurements of one run, by name.
type Row = Vec<(&'static str, f64)>;

/// Takes away the leader without warning.
async fn unplanned(
    cluster: &mut Cluster,
    clients: &[KvClient<Channel>],
    fault: Fault,
) -> Result<Row, Failure> {
    let leader = cluster.leader().await;
    let mut survivors = clients.to_vec();
    survivors.remove(leader);
    // No client asks another member, because the time that a member lets its own clients wait is measured.
    let load = Load::start(survivors.iter().map(|client| vec![client.clone()]).collect());
    load.warm_up().await?;

    let at = Instant::now();
    match fault {
        Fault::Kill => cluster.members[leader].kill(),
        _ => cluster.members[leader].signal(Signal::STOP),
    }
    let first = first_write(&survivors).await?;
    load.answered_after(Instant::now()).await?;
    let answers = load.end().await;

    match fault {
        Fault::Kill => cluster.members[leader].start(),
        _ => cluster.members[leader].signal(Signal::CONT),
    }
    let under_way = answers.iter().filter(|answer| answer.begun < at && answer.ended > at);
    let longest = under_way.map(|answer| answer.ended - at).max().unwrap_or_default();
    let failed = answers.iter().filter(|answer| answer.tries.last().is_some_and(Option::is_some)).count();
    Ok(vec![
        ("first write, ms", millis(first - at)),
        ("what was under way, ms", millis(longest)),
        ("failed without a retry", failed as f64),
    ])
}

/// The time at which one of these members first acknowledges a write that begins from now on.
async fn first_write(survivors: &[KvClient<Channel>]) -> Result<Instant, Failure> {
    let (tell, mut acknowledged) = mpsc::unbounded_channel();
    let ask = async {
        let mut number = 0_u64;
        loop {
            for client in survivors {
                let (client, tell) = (client.clone(), tell.clone());
                tokio::spawn(async move {
                    if request(client, Op::Put, "probe", number).await.is_ok() {
                        // Only the first of them is awaited.
                        let _ = tell.send(Instant::now());
                    }
                });
                number += 1;
            }
            time::sleep(PROBE_INTERVAL).await;
        }
    };
    tokio::select! { biased;
        at = acknowledged.recv() => Ok(at.expect("a sender is right here")),
        () = ask => unreachable!("it asks for ever"),
        () = time::sleep(PATIENCE) => Err("the survivors do not write".into()),
    }
}

/// Lets the leader transfer its leadership.
async fn planned(cluster: &mut Cluster, clients: &[KvClient<Channel>], fault: Fault) -> Result<Row, Failure> {
    let leader = cluster.leader().await;
    let next = (leader + 1) % clients.len();
    let target_id = cluster.members[next].id().await;
    // Each client begins with a member of its own and knows the other members.
    let turned = |number: usize| clients.iter().cycle().skip(number).take(clients.len()).cloned().collect();
    let load = Load::start((0..clients.len()).map(turned).collect());
    load.warm_up().await?;

    let at = Instant::now();
    if fault == Fault::Terminate {
        cluster.members[leader].signal(Signal::TERM);
        time::sleep(AFTERWARDS).await;
        // etcd ends by the signal, and retcd with exit code 0.
        cluster.members[leader].wait_for_end();
    } else {
        cluster.members[leader].maintenance().move_leader(MoveLeaderRequest { target_id }).await?;
        time::sleep(AFTERWARDS).await;
    }
    let took = at.elapsed();
    let answers = load.end().await;
    if fault == Fault::Terminate {
        cluster.members[leader].start();
    }

    let mut acknowledged: Vec<Instant> = answers
        .iter()
        .filter(|answer| answer.op == Op::Put && answer.is_good())
        .map(|answer| answer.ended)
        .collect();
    acknowledged.sort_unstable();
    let gaps = acknowledged.windows(2).filter(|pair| pair[1] > at && pair[0] < at + took);
    let (gap, from) = gaps.map(|pair| (pair[1] - pair[0], pair[0])).max().unwrap_or((took, at));
    let first: Vec<&String> = answers.iter().filter_map(|answer| answer.tries.first()?.as_ref()).collect();
    let of_others = answers
        .iter()
        .filter(|answer| answer.client != leader && answer.tries.first().is_some_and(Option::is_some))
        .count();
    for error in &first {
        writeln!(io::stderr(), "    failed at first: {error}")?;
    }
    let again: Vec<&String> = answers.iter().filter_map(|answer| answer.tries.get(1)?.as_ref()).collect();
    for error in &again {
        writeln!(io::stderr(), "    failed again: {error}")?;
    }
    Ok(vec![
        ("gap between writes, ms", millis(gap)),
        ("  and when it began, ms", millis(from.saturating_duration_since(at))),
        ("requests", answers.len() as f64),
        ("failed at first", first.len() as f64),
        ("  of these, not the old leader's clients'", of_others as f64),
        ("failed after one retry", again.len() as f64),
    ])
}

/// A probe that writes to the same disk now and then and measures the time. If that was long, the run shows
/// more about the machine than about the members.
struct DiskProbe {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<io::Result<Duration>>,
}

impl DiskProbe {
    fn start() -> Result<DiskProbe, Failure> {
        let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                let mut slowest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    file.write_all(&[0; 512])?;
                    file.sync_data()?;
                    slowest = slowest.max(begun.elapsed());
                    thread::sleep(Duration::from_millis(10));
                }
                Ok(slowest)
            }
        });
        Ok(DiskProbe { stop, thread })
    }

    fn end(self) -> Result<Duration, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().expect("the probe does not panic")?)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Put,
    Range,
}

/// The result of a request.
struct Answer {
    client: usize,
    op: Op,
    begun: Instant,
    ended: Instant,
    /// The error of each attempt; `None` for the one that succeeded.
    tries: Vec<Option<String>>,
}

impl Answer {
    fn is_good(&self) -> bool {
        self.tries.last().is_some_and(Option::is_none)
    }
}

/// Running clients, each of which has a writer and a reader with one request in progress.
struct Load {
    stop: Arc<AtomicBool>,
    /// The number of answers, for each task.
    answered: Vec<Arc<AtomicU64>>,
    tasks: Vec<JoinHandle<Vec<Answer>>>,
}

impl Load {
    /// One client for each of `routes`: the member with which it begins, and the members to which it moves
    /// when a request fails. It stays with a member that answers.
    fn start(routes: Vec<Vec<KvClient<Channel>>>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut answered, mut tasks) = (Vec::new(), Vec::new());
        for (number, route) in routes.into_iter().enumerate() {
            for op in [Op::Put, Op::Range] {
                let count = Arc::new(AtomicU64::new(0));
                answered.push(count.clone());
                tasks.push(tokio::spawn(work(number, op, route.clone(), stop.clone(), count)));
            }
        }
        Load { stop, answered, tasks }
    }

    async fn warm_up(&self) -> Result<(), Failure> {
        self.each_reaches(&vec![WARM_UP; self.answered.len()]).await
    }

    /// Waits until every client has got an answer to a request that it sent after `_now`.
    async fn answered_after(&self, _now: Instant) -> Result<(), Failure> {
        let goals: Vec<u64> = self.answered.iter().map(|count| count.load(Ordering::Relaxed) + 2).collect();
        self.each_reaches(&goals).await
    }

    async fn each_reaches(&self, goals: &[u64]) -> Result<(), Failure> {
        let since = Instant::now();
        while self.answered.iter().zip(goals).any(|(count, goal)| count.load(Ordering::Relaxed) < *goal) {
            if since.elapsed() > PATIENCE {
                return Err("a client is not answered".into());
            }
            time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn end(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for task in self.tasks {
            answers.extend(task.await.expect("a client does not panic"));
        }
        answers
    }
}

async fn work(
    client: usize,
    op: Op,
    route: Vec<KvClient<Channel>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut at = 0;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        let mut tries = Vec::new();
        // Another attempt, if there is another member to ask.
        for _ in 0..route.len().min(2) {
            let tried = request(route[at].clone(), op, &format!("client-{client}"), number).await;
            tries.push(
                tried.as_ref().err().map(|status| format!("{:?}: {}", status.code(), status.message())),
            );
            if tried.is_ok() {
                break;
            }
            at = (at + 1) % route.len();
        }
        answers.push(Answer { client, op, begun, ended: Instant::now(), tries });
        answered.fetch_add(1, Ordering::Relaxed);
        time::sleep(Duration::from_millis(1)).await;
    }
    answers
}

async fn request(mut client: KvClient<Channel>, op: Op, key: &str, number: u64) -> Result<(), Status> {
    let key = key.to_owned().into();
    match op {
        Op::Put => {
            let value = number.to_string().into();
            client.put(PutRequest { key, value, ..PutRequest::default() }).await?;
        }
        Op::Range => {
            client.range(RangeRequest { key, ..RangeRequest::default() }).await?;
        }
    }
    Ok(())
}

/// A line for each measurement: the median, the maximum, and all values.
fn report(fault: &str, rows: &[Row]) -> Result<(), Failure> {
    let mut out = io::stdout();
    writeln!(out, "\n{fault}, {} runs", rows.len())?;
    let names: Vec<&str> = rows.first().into_iter().flatten().map(|(name, _)| *name).collect();
    for (column, name) in names.into_iter().enumerate() {
        let mut values: Vec<f64> = rows.iter().map(|row| row[column].1).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (median, most) = (values[(values.len() - 1) / 2], values[values.len() - 1]);
        let all = values.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(" ");
        writeln!(out, "  {name:42} median {median:6.0}  max {most:6.0}   {all}")?;
    }
    Ok(())
}
