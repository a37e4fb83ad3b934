//! `check`: whether a cluster is as fast as it has to be, and how much memory its data needs.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, join_all},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{self, Instant};

use crate::{
    chance::Chance,
    cli::{Command, Exit, Failure, Flag, Group, Invocation, go::quote, output},
    ctl::{
        client::{
            COMPACT, Client, ClientError, DEFRAGMENT, DELETE_RANGE, Deadline, PUT, RANGE, resident_memory,
        },
        ranges::prefix_end,
        session::Session,
    },
    pb::etcdserverpb::{
        CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader,
    },
    signals::Signals,
    telemetry::Terminal,
};

const AUTO_COMPACT: Flag = Flag::switch("auto-compact", "compact the history afterwards");
const AUTO_DEFRAG: Flag = Flag::switch("auto-defrag", "defragment the databases afterwards");

pub(in crate::ctl) const CHECK: Command = Command::new("check", "<subcommand>", "Checks of a cluster's abilities")
    .of(Group::Utility)
    .below(&[
        Command::new("datascale", "[options]", "Checks how much memory a server needs for data")
            .long(
                "Checks how much memory a server needs for data: that at the first of the endpoints, which is asked before keys are \
                 written and after.\n",
            )
            .flags(&[
                Flag::text("load", "how much is written: s(mall), m(edium), l(arge) or xl(arge)").or("s"),
                Flag::text("prefix", "the prefix of the keys").or("/etcdctl-check-datascale/"),
                AUTO_COMPACT,
                AUTO_DEFRAG,
            ])
            .runs(datascale),
        Command::new("perf", "[options]", "Checks how fast a cluster is")
            .flags(&[
                Flag::text(
                    "load",
                    "how many clients write how much: s(mall), m(edium), l(arge) or xl(arge)",
                )
                .or("s")
                .one_of(&["small", "medium", "large", "xLarge"]),
                Flag::text("prefix", "the prefix of the keys").or("/etcdctl-check-perf/"),
                AUTO_COMPACT,
                AUTO_DEFRAG,
            ])
            .runs(perf),
    ]);

#[derive(Clone, Copy)]
enum Load {
    Small,
    Medium,
    Large,
    ExtraLarge,
}

impl Load {
    fn of(session: &Session) -> Result<Load, Failure> {
        match session.values.text("load") {
            "s" | "small" => Ok(Load::Small),
            "m" | "medium" => Ok(Load::Medium),
            "l" | "large" => Ok(Load::Large),
            "xl" | "xLarge" => Ok(Load::ExtraLarge),
            other => Err(Exit::BadFeature.because(format_args!("unknown load option {other}"))),
        }
    }

    fn clients(self) -> usize {
        match self {
            Load::Small => 50,
            Load::Medium => 200,
            Load::Large => 500,
            Load::ExtraLarge => 1000,
        }
    }

    /// What `perf` demands.
    fn writes_per_sec(self) -> u32 {
        match self {
            Load::Small => 150,
            Load::Medium => 1000,
            Load::Large => 8000,
            Load::ExtraLarge => 15_000,
        }
    }

    /// What `datascale` writes.
    fn keys(self) -> u64 {
        match self {
            Load::Small => 10_000,
            Load::Medium => 100_000,
            Load::Large => 1_000_000,
            Load::ExtraLarge => 3_000_000,
        }
    }
}

/// How long `perf` writes.
const PERF_SECS: u32 = 60;
/// How long what comes afterwards may take.
const CLEANUP_TIME: Duration = Duration::from_secs(30);

fn perf<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        const KEY_BYTES: usize = 256;
        const VALUE_BYTES: usize = 1024;
        let session = call.session()?;
        let load = Load::of(&session)?;
        let clients = clients(&session, load).await?;
        let prefix = session.values.text("prefix");
        must_be_empty(&session, &clients[0], prefix, &format!("'etcdctl del --prefix {prefix}'")).await?;
        let mut signals = Signals::listen().map_err(|error| Exit::Error.because(error))?;
        let (rate, end) = (load.writes_per_sec(), Instant::now() + Duration::from_secs(PERF_SECS.into()));
        let mut writing = Writing::new(prefix, KEY_BYTES, VALUE_BYTES);
        writing.pace = Some(Pace { begin: Instant::now(), rate, end });
        let done = {
            let work = join_all(clients.iter().map(|client| writing.write_all(client)));
            tokio::select! { biased;
                _ = signals.next() => false,
                _ = work => true,
                () = show_seconds(end) => unreachable!("it is shown until it is dropped"),
            }
        };
        let stats = writing.stats();
        clean_up(&session, &clients[0], prefix, !done).await?;
        if !done {
            return Err(Failure::silent(Exit::Error));
        }
        if report(&stats, rate)? { Ok(()) } else { Err(Failure::silent(Exit::Error)) }
    }
    .boxed_local()
}

/// Whether the cluster is fast enough.
fn report(stats: &Stats, rate: u32) -> Result<bool, Failure> {
    const THROUGHPUT_MIN: f64 = 0.9;
    const SLOWEST_MAX_SECS: f64 = 0.5;
    const DEVIATION_MAX_SECS: f64 = 0.1;
    let mut passed = stats.errors.is_empty();
    show_errors(stats)?;
    // Rounded up, as etcdctl shows it.
    let throughput = stats.per_sec as u64 + 1;
    if stats.per_sec / f64::from(rate) <= THROUGHPUT_MIN {
        output::line(format_args!("FAIL: Throughput too low: {throughput} writes/s"))?;
        passed = false;
    } else {
        output::line(format_args!("PASS: Throughput is {throughput} writes/s"))?;
    }
    if stats.slowest > SLOWEST_MAX_SECS {
        output::line(format_args!("Slowest request took too long: {:.6}s", stats.slowest))?;
        passed = false;
    } else {
        output::line(format_args!("PASS: Slowest request took {:.6}s", stats.slowest))?;
    }
    if stats.deviation > DEVIATION_MAX_SECS {
        output::line(format_args!("Stddev too high: {:.6}s", stats.deviation))?;
        passed = false;
    } else {
        output::line(format_args!("PASS: Stddev is {:.6}s", stats.deviation))?;
    }
    output::line(format_args!("{}", if passed { "PASS" } else { "FAIL" }))?;
    Ok(passed)
}

fn show_errors(stats: &Stats) -> Result<(), Failure> {
    if !stats.errors.is_empty() {
        output::line(format_args!("FAIL: too many errors"))?;
    }
    for (error, count) in &stats.errors {
        output::line(format_args!("FAIL: ERROR({error}) -> {count}"))?;
    }
    Ok(())
}

fn datascale<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        const KEY_BYTES: usize = 512;
        const VALUE_BYTES: usize = 512;
        let session = call.session()?;
        let load = Load::of(&session)?;
        let clients = clients(&session, load).await?;
        let prefix = session.values.text("prefix");
        must_be_empty(&session, &clients[0], prefix, &format!("etcdctl del --prefix {prefix}")).await?;
        let before = memory(&session, "before").await?;
        output::line(format_args!(
            "Start data scale check for work load [{} key-value pairs, {} bytes per key-value, {} concurrent clients].",
            load.keys(),
            KEY_BYTES + VALUE_BYTES,
            load.clients()
        ))?;
        let mut writing = Writing::new(prefix, KEY_BYTES, VALUE_BYTES);
        writing.total = load.keys();
        {
            let work = join_all(clients.iter().map(|client| writing.write_all(client)));
            tokio::select! { biased;
                _ = work => {}
                () = show_count(&writing) => unreachable!("it is shown until it is dropped"),
            }
        }
        let stats = writing.stats();
        let after = memory(&session, "after").await?;
        clean_up(&session, &clients[0], prefix, false).await?;
        show_errors(&stats)?;
        if !stats.errors.is_empty() {
            return Err(Failure::silent(Exit::Error));
        }
        let mebibytes = (after - before) / 1_048_576.0;
        output::line(format_args!("PASS: Approximate system memory used : {mebibytes:.2} MB."))
    }
    .boxed_local()
}

async fn memory(session: &Session, when: &str) -> Result<f64, Failure> {
    let resident = match resident_memory(&session.dial).await {
        Ok(resident) => resident,
        Err(error) => {
            output::line(format_args!("{error}"))?;
            0.0
        }
    };
    if resident == 0.0 {
        output::line(format_args!(
            "FAIL: Could not read process_resident_memory_bytes {when} the put operations."
        ))?;
        return Err(Failure::silent(Exit::Error));
    }
    Ok(resident)
}

async fn clients(session: &Session, load: Load) -> Result<Vec<Client>, Failure> {
    raise_file_limit();
    let mut clients = Vec::new();
    for _ in 0..load.clients() {
        clients.push(session.client(&session.dial).await?);
    }
    Ok(clients)
}

/// Each client has a connection. If the limit cannot be raised, those that are too many do not get one.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// What is removed afterwards must have been written by the check. `remedy` is a command line, as etcdctl shows it.
async fn must_be_empty(
    session: &Session,
    client: &Client,
    prefix: &str,
    remedy: &str,
) -> Result<(), Failure> {
    let request = RangeRequest {
        key: prefix.as_bytes().to_vec().into(),
        range_end: prefix_end(prefix.as_bytes()).into(),
        limit: 1,
        ..RangeRequest::default()
    };
    let found = client.call(&RANGE, &request, session.deadline()).await?;
    if found.kvs.is_empty() {
        return Ok(());
    }
    let quoted = quote(prefix.as_bytes());
    Err(Exit::InvalidInput.because(format_args!("prefix {quoted} has keys. Delete with {remedy} first")))
}

/// Removes what was written. It is not a failure of the check if that cannot be done.
async fn clean_up(
    session: &Session,
    client: &Client,
    prefix: &str,
    is_interrupted: bool,
) -> Result<(), Failure> {
    let request = DeleteRangeRequest {
        key: prefix.as_bytes().to_vec().into(),
        range_end: prefix_end(prefix.as_bytes()).into(),
        prev_kv: false,
    };
    let removed = match client.call(&DELETE_RANGE, &request, Deadline::within(CLEANUP_TIME)).await {
        Ok(removed) => removed,
        Err(error) => {
            return output::line(format_args!("FAIL: Cleanup failed during key deletion: ERROR({error})"));
        }
    };
    if session.values.switch("auto-compact") && !is_interrupted {
        compact(client, removed.header).await?;
    }
    if session.values.switch("auto-defrag") && !is_interrupted {
        for endpoint in &session.dial.endpoints {
            let quoted = quote(endpoint.as_bytes());
            output::line(format_args!("Defragmenting {quoted}"))?;
            let client = session.client(&session.dial.only(endpoint)).await?;
            client.call(&DEFRAGMENT, &DefragmentRequest {}, Deadline::within(CLEANUP_TIME)).await?;
            output::line(format_args!("Defragmented {quoted}"))?;
        }
    }
    Ok(())
}

async fn compact(client: &Client, header: Option<ResponseHeader>) -> Result<(), Failure> {
    let revision = header.map_or(0, |header| header.revision);
    output::line(format_args!("Compacting with revision {revision}"))?;
    let request = CompactionRequest { revision, physical: true };
    client.call(&COMPACT, &request, Deadline::within(CLEANUP_TIME)).await?;
    output::line(format_args!("Compacted with revision {revision}"))
}

/// Writes with several clients, and how long each write took.
struct Writing {
    prefix: Vec<u8>,
    key_bytes: usize,
    value: Vec<u8>,
    chance: Chance,
    /// `None`: as fast as they can.
    pace: Option<Pace>,
    /// The number of writes, where the pace does not end it.
    total: u64,
    begin: Instant,
    begun: Cell<u64>,
    ended: Cell<u64>,
    seconds: RefCell<Vec<f64>>,
    errors: RefCell<BTreeMap<String, u64>>,
}

/// So many writes a second, until the end.
#[derive(Clone, Copy)]
struct Pace {
    begin: Instant,
    rate: u32,
    end: Instant,
}

struct Stats {
    per_sec: f64,
    slowest: f64,
    deviation: f64,
    errors: BTreeMap<String, u64>,
}

impl Writing {
    fn new(prefix: &str, key_bytes: usize, value_bytes: usize) -> Writing {
        Writing {
            prefix: prefix.as_bytes().to_vec(),
            key_bytes,
            value: vec![0; value_bytes],
            chance: Chance::from_system(),
            pace: None,
            total: u64::MAX,
            begin: Instant::now(),
            begun: Cell::new(0),
            ended: Cell::new(0),
            seconds: RefCell::default(),
            errors: RefCell::default(),
        }
    }

    /// The writes of one client, until there is nothing more to write.
    async fn write_all(&self, client: &Client) {
        loop {
            let number = self.begun.get();
            self.begun.set(number + 1);
            if number >= self.total || !self.is_due(number).await {
                return;
            }
            let request = PutRequest {
                key: self.key().into(),
                value: self.value.clone().into(),
                ..PutRequest::default()
            };
            let begin = Instant::now();
            let written = client.call(&PUT, &request, Deadline::never()).await;
            self.note(begin.elapsed(), written.err());
        }
    }

    /// Waits until a write is to be made. False: it would be too late.
    async fn is_due(&self, number: u64) -> bool {
        let Some(Pace { begin, rate, end }) = self.pace else { return true };
        let due = begin + Duration::from_secs_f64(number as f64 / f64::from(rate));
        if due < end {
            time::sleep_until(due).await;
        }
        due < end && Instant::now() < end
    }

    fn key(&self) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend_from_slice(&self.chance.number().to_be_bytes());
        key.resize(self.prefix.len() + self.key_bytes, 0);
        key
    }

    fn note(&self, took: Duration, error: Option<ClientError>) {
        self.ended.set(self.ended.get() + 1);
        match error {
            None => self.seconds.borrow_mut().push(took.as_secs_f64()),
            Some(error) => *self.errors.borrow_mut().entry(error.to_string()).or_default() += 1,
        }
    }

    fn stats(&self) -> Stats {
        let seconds = self.seconds.borrow();
        let count = seconds.len() as f64;
        let mean = seconds.iter().sum::<f64>() / count;
        let variance = seconds.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / count;
        Stats {
            per_sec: count / self.begin.elapsed().as_secs_f64(),
            slowest: seconds.iter().copied().fold(0.0, f64::max),
            deviation: variance.sqrt(),
            errors: self.errors.borrow().clone(),
        }
    }
}

/// Shows how much of the time is over.
async fn show_seconds(end: Instant) {
    show(|| {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        (u64::from(PERF_SECS).saturating_sub(left), PERF_SECS.into())
    })
    .await;
}

async fn show_count(writing: &Writing) {
    show(|| (writing.ended.get(), writing.total)).await;
}

/// A bar on a terminal, which is taken away when this is dropped.
async fn show(state: impl Fn() -> (u64, u64)) {
    const WIDTH: u64 = 50;
    struct Bar(Terminal);
    impl Drop for Bar {
        fn drop(&mut self) {
            self.0.clear();
        }
    }
    let mut bar = Bar(Terminal::default());
    let mut ticks = time::interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        let (done, total) = state();
        let filled = (done * WIDTH / total.max(1)).min(WIDTH) as usize;
        let rest = WIDTH as usize - filled;
        bar.0.show(|| format!("[{}{}] {done} / {total}", "=".repeat(filled), " ".repeat(rest)));
    }
}
