//! Compares retcd and etcd on this machine: the same loads, from the same client.
//!
//! ```text
//! round 1: etcd, retcd    round 2: etcd, retcd    ...
//! ```
//!
//! A turn starts one server with an empty directory, loads it over loopback and stops it. Turns alternate, so
//! that a machine that becomes busier affects both servers, and the medians of the rounds are printed. Every
//! answer is checked, and so is the revision at the end, so that lost writes are noticed.
//!
//! The ratios of one run are more reliable than its figures, and the server's CPU time is more reliable than
//! its throughput, because the client uses the same cores, for the same time for each operation.

#![allow(clippy::disallowed_methods, reason = "a load generator lives by the clock")]

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tempfile::TempDir;
use tokio::{runtime, time};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use self::pb::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};

/// The client code that `proto/build.rs` generated.
#[allow(clippy::all, dead_code, unreachable_pub, unused_qualifications, reason = "generated")]
mod pb {
    pub(crate) mod mvccpb {
        include!(concat!(env!("OUT_DIR"), "/client/mvccpb.rs"));
    }
    pub(crate) mod authpb {
        include!(concat!(env!("OUT_DIR"), "/client/authpb.rs"));
    }
    pub(crate) mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/client/etcdserverpb.rs"));
    }
}

#[path = "../tests/support/tools.rs"]
mod tools;

const CONNECTIONS: usize = 8;
const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 256;
const START_TIMEOUT: Duration = Duration::from_secs(30);
const WORKLOADS: [Workload; 3] = [
    Workload { name: "put, 1 client", op: Op::Put, clients: 1 },
    Workload { name: "put, 64 clients", op: Op::Put, clients: 64 },
    Workload { name: "linearizable range of one key, 64 clients", op: Op::Range, clients: 64 },
];

type Failure = Box<dyn Error>;

struct Workload {
    name: &'static str,
    op: Op,
    clients: usize,
}

#[derive(Clone, Copy)]
enum Op {
    Put,
    Range,
}

struct Contender {
    name: String,
    binary: PathBuf,
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` runs this program too, where it must do nothing.
        return Ok(());
    }
    let length = Duration::from_secs(number(&args, "--seconds", 5)?);
    let rounds = number(&args, "--rounds", 3)?;
    let etcd = tools::brought_reference()?;
    let (major, minor, patch) = etcd.version;
    let retcd = env::var("RETCD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_retcd").to_owned());
    let contenders = [
        Contender { name: format!("etcd {major}.{minor}.{patch}"), binary: etcd.etcd.clone() },
        Contender { name: "retcd".to_owned(), binary: retcd.into() },
    ];

    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut turns = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        for (contender, turns) in contenders.iter().zip(&mut turns) {
            writeln!(io::stderr(), "round {round} of {rounds}: {}", contender.name)?;
            turns.push(runtime.block_on(turn(contender, length))?);
        }
    }
    io::stdout().write_all(report(&contenders, &turns).as_bytes())?;
    Ok(())
}

fn number(args: &[String], name: &str, default: u64) -> Result<u64, Failure> {
    let Some(at) = args.iter().position(|arg| arg == name) else { return Ok(default) };
    let number = args.get(at + 1).and_then(|value| value.parse().ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("{name} needs a number above 0").into())
}

/// One server with an empty directory, under each workload in turn.
async fn turn(contender: &Contender, length: Duration) -> Result<Vec<Figures>, Failure> {
    let mut server = Server::start(contender)?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(KvClient::new(server.connect().await?));
    }
    fill(&clients).await?;
    let mut figures = Vec::new();
    for workload in &WORKLOADS {
        figures.push(measure(&server, &clients, workload, length).await?);
    }
    Ok(figures)
}

/// Gives every key a value, which also warms up client and server.
async fn fill(clients: &[KvClient<Channel>]) -> Result<(), Status> {
    let fillers = (0..64).map(|first| {
        let mut client = clients[first % clients.len()].clone();
        async move {
            for number in (first..KEYS).step_by(64) {
                run(&mut client, Op::Put, number).await?;
            }
            Ok::<_, Status>(())
        }
    });
    try_join_all(fillers).await?;
    Ok(())
}

async fn measure(
    server: &Server,
    clients: &[KvClient<Channel>],
    workload: &Workload,
    length: Duration,
) -> Result<Figures, Failure> {
    let rev_before = revision(&clients[0]).await?;
    let before = server.usage()?;
    let start = Instant::now();
    let tasks = (0..workload.clients).map(|number| {
        let client = clients[number % clients.len()].clone();
        tokio::spawn(repeat(client, workload.op, number, workload.clients, start + length))
    });
    let mut latencies = Vec::new();
    for task in try_join_all(tasks.collect::<Vec<_>>()).await? {
        latencies.extend(task?);
    }
    let took = start.elapsed();
    let after = server.usage()?;

    let ops = latencies.len() as f64;
    let writes = match workload.op {
        Op::Put => latencies.len() as i64,
        Op::Range => 0,
    };
    let rev_after = revision(&clients[0]).await?;
    if rev_after != rev_before + writes {
        return Err(format!("{writes} writes took the revision from {rev_before} to {rev_after}").into());
    }
    latencies.sort_unstable();
    let percentile = |part: f64| latencies[((ops - 1.0) * part) as usize].as_secs_f64() * 1e6;
    Ok([
        ops / took.as_secs_f64(),
        percentile(0.5),
        percentile(0.99),
        (after.cpu - before.cpu).as_secs_f64() * 1e6 / ops,
        (after.written_bytes - before.written_bytes) as f64 / ops,
        after.resident_bytes as f64 / f64::from(1 << 20),
    ])
}

/// The measurements of a workload; see [`COLUMNS`].
type Figures = [f64; 6];

const COLUMNS: [&str; 6] = ["ops/s", "p50 us", "p99 us", "CPU us/op", "disk B/op", "RSS MiB"];

/// One client, which makes one operation at a time until `end`. Returns the duration of each.
async fn repeat(
    mut client: KvClient<Channel>,
    op: Op,
    first: usize,
    stride: usize,
    end: Instant,
) -> Result<Vec<Duration>, Status> {
    let mut latencies = Vec::new();
    let mut number = first;
    let mut now = Instant::now();
    // At least one, because the number is a divisor.
    while latencies.is_empty() || now < end {
        run(&mut client, op, number % KEYS).await?;
        let done = Instant::now();
        latencies.push(done - now);
        now = done;
        number += stride;
    }
    Ok(latencies)
}

async fn run(client: &mut KvClient<Channel>, op: Op, number: usize) -> Result<(), Status> {
    let key = format!("/bench/{number:025}").into_bytes().into();
    match op {
        Op::Put => {
            let value = vec![b'v'; VALUE_BYTES].into();
            client.put(PutRequest { key, value, ..PutRequest::default() }).await?;
        }
        Op::Range => {
            let answer = client.range(RangeRequest { key, ..RangeRequest::default() }).await?.into_inner();
            if answer.kvs.len() != 1 || answer.kvs[0].value.len() != VALUE_BYTES {
                return Err(Status::data_loss(format!("key {number} is not what was put there")));
            }
        }
    }
    Ok(())
}

async fn revision(client: &KvClient<Channel>) -> Result<i64, Status> {
    let request = RangeRequest { key: vec![0].into(), ..RangeRequest::default() };
    let answer = client.clone().range(request).await?.into_inner();
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// A server process with a directory of its own. Both are removed when this is dropped.
struct Server {
    process: Child,
    url: String,
    folder: TempDir,
}

/// The CPU time, the memory and the written bytes of a process.
struct Usage {
    cpu: Duration,
    resident_bytes: u64,
    written_bytes: u64,
}

impl Server {
    fn start(contender: &Contender) -> Result<Server, Failure> {
        // Below the build directory, because /tmp may be in memory.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
        let [client, peer] = [free_port()?, free_port()?].map(|port| format!("http://127.0.0.1:{port}"));
        let process = Command::new(&contender.binary)
            .args(["--name", "bench", "--log-level", "warn"])
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg(format!("--initial-cluster=bench={peer}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("log"))?)
            .spawn()
            .map_err(|error| format!("{}: {error}", contender.binary.display()))?;
        Ok(Server { process, url: client, folder })
    }

    /// A connection, as soon as the server accepts one and answers on it.
    async fn connect(&mut self) -> Result<Channel, Failure> {
        let endpoint = Endpoint::from_shared(self.url.clone())?.tcp_nodelay(true);
        let end = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(channel) = endpoint.connect().await
                && revision(&KvClient::new(channel.clone())).await.is_ok()
            {
                return Ok(channel);
            }
            if self.process.try_wait()?.is_some() || Instant::now() > end {
                let log = fs::read_to_string(self.folder.path().join("log"))?;
                return Err(format!("the server does not serve; it said:\n{log}").into());
            }
            // There is no event that tells when a process listens.
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn usage(&self) -> Result<Usage, Failure> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.process.id()));
        // utime and stime are fields 14 and 15; they are counted after the name, which may contain any
        // characters.
        let stat = read("stat")?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let ticks = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        let cpu = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        let written_bytes = field(&read("io")?, "write_bytes:")?;
        let resident_bytes = field(&read("status")?, "VmRSS:")? * 1024;
        Ok(Usage { cpu, resident_bytes, written_bytes })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn field(text: &str, name: &str) -> Result<u64, Failure> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let number = rest.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok());
    number.ok_or_else(|| format!("/proc does not say {name}").into())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn report(contenders: &[Contender; 2], turns: &[Vec<Vec<Figures>>; 2]) -> String {
    let mut out = String::new();
    for (number, workload) in WORKLOADS.iter().enumerate() {
        let [etcd, retcd] = [&turns[0], &turns[1]].map(|turns| median_of(turns, number));
        let ratio = std::array::from_fn(|column| retcd[column] / etcd[column]);
        line(&mut out, &format!("\n{}\n{:12}", workload.name, ""), COLUMNS.map(str::to_owned));
        line(&mut out, &format!("{:12}", contenders[0].name), etcd.map(|figure| format!("{figure:.0}")));
        line(&mut out, &format!("{:12}", contenders[1].name), retcd.map(|figure| format!("{figure:.0}")));
        line(&mut out, &format!("{:12}", "ratio"), ratio.map(|ratio: f64| format!("{ratio:.2}")));
    }
    out
}

fn median_of(turns: &[Vec<Figures>], workload: usize) -> Figures {
    std::array::from_fn(|column| {
        let mut figures: Vec<f64> = turns.iter().map(|turn| turn[workload][column]).collect();
        figures.sort_unstable_by(f64::total_cmp);
        figures[figures.len() / 2]
    })
}

fn line(out: &mut String, title: &str, columns: [String; 6]) {
    out.push_str(title);
    for column in columns {
        write!(out, "{column:>11}").expect("a String takes everything");
    }
    out.push('\n');
}
