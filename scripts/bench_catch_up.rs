//! How much clients are slowed down while a member that was away for long catches up.
//!
//! ```text
//! kill one -- fill -- rest -- | paced puts: before | start it | paced puts: during | equal?
//! ```
//!
//! Puts are sent at a fixed rate, whether or not earlier ones were answered, so that a pause counts for all
//! puts that fall into it. A window is a few seconds. The median of the windows' p99 is compared, over all
//! windows and over those in which a probe that writes a little to the same disk found no stall, because a
//! disk that others use has stalls of its own. Each result has the bytes that the leader read from the disk:
//! if the kernel has dropped its pages, the leader reads the state that it sends from the disk.

use std::{
    fs,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::{task::JoinSet, time};
use tonic::transport::Channel;

use super::{
    DiskProbe, Failure,
    cluster::{Member, Plan},
    millis,
    pb::etcdserverpb::{PutRequest, kv_client::KvClient},
};

const VALUE_BYTES: usize = 1024;
const FILL_CLIENTS: usize = 64;
const CONNECTIONS: usize = 8;
/// The time for the disk to write what the fill left.
const REST: Duration = Duration::from_secs(10);
const PUTS_PER_SEC: u32 = 500;
const PACED_KEYS: u64 = 2000;
const WINDOW: Duration = Duration::from_secs(4);
const WINDOWS_BEFORE: usize = 10;
/// A member that is behind by at most this number of puts, a tenth of a second at this rate, has caught up.
const NEARLY: u64 = 50;
/// If a sync of a few bytes takes this long, the disk is busy with something else.
const STANDSTILL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30 * 60);

pub(super) async fn run(plan: Plan, gigabytes: usize) -> Result<(), Failure> {
    let mut cluster = plan.flags(&["--quota-backend-bytes=8000000000"]).found();
    let leader = cluster.leader().await;
    let late = (leader + 1) % cluster.members.len();
    cluster.members[late].kill();

    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(cluster.members[leader].kv());
    }
    let puts = gigabytes * (1 << 30) / VALUE_BYTES;
    writeln!(io::stderr(), "filling {gigabytes} GiB, while a member is away")?;
    fill(&clients, puts).await?;
    time::sleep(REST).await;

    let mut out = io::stdout();
    writeln!(
        out,
        "put, {PUTS_PER_SEC} a second; {puts} values of {VALUE_BYTES} bytes in windows of {WINDOW:?}"
    )?;
    let mut before = Vec::new();
    let peak_before = peak_bytes(&cluster.members[leader])?;
    for _ in 0..WINDOWS_BEFORE {
        before.push(window("before", &clients, &cluster.members[leader]).await?);
    }
    forget_peak(&cluster.members[leader])?;
    cluster.members[late].spawn();
    let since = Instant::now();
    let mut during = Vec::new();
    let took = {
        let mut caught_up = std::pin::pin!(caught_up(&cluster.members[leader], &cluster.members[late]));
        loop {
            let load = window("during", &clients, &cluster.members[leader]);
            let mut load = std::pin::pin!(load);
            tokio::select! { biased;
                done = &mut caught_up => {
                    done?;
                    let took = since.elapsed();
                    during.push(load.await?);
                    break took;
                }
                window = &mut load => during.push(window?),
            }
        }
    };
    writeln!(out, "caught up after {:.1} s", took.as_secs_f64())?;
    for (name, member, before) in [
        ("leader", &cluster.members[leader], Some(peak_before)),
        ("late member", &cluster.members[late], None),
    ] {
        let before = before.map_or(String::new(), |bytes| format!(", {} MB before", bytes / 1_000_000));
        writeln!(out, "most memory of the {name}: {} MB{before}", peak_bytes(member)? / 1_000_000)?;
    }
    for (which, is_meant) in [
        ("all windows", (|_| true) as fn(&Window) -> bool),
        ("those without a standstill of the disk", |window| window.slowest_sync < STANDSTILL),
    ] {
        let p99s = [&before, &during].map(|windows| median(windows.iter().filter(|window| is_meant(window))));
        let [Some((count_before, before)), Some((count_during, during))] = p99s else { continue };
        writeln!(
            out,
            "put p99, median of {which}: {:.2} ms before ({count_before}), {:.2} ms during ({count_during}): {:.2}x",
            millis(before),
            millis(during),
            during.as_secs_f64() / before.as_secs_f64()
        )?;
    }
    cluster.members[late].wait_until_ready();
    cluster.assert_equal().await;
    Ok(())
}

async fn fill(clients: &[KvClient<Channel>], puts: usize) -> Result<(), Failure> {
    let requests = stream::iter(0..puts).map(|number| {
        let mut client = clients[number % clients.len()].clone();
        let (key, value) = (format!("fill/{number:08}"), vec![b'x'; VALUE_BYTES]);
        async move {
            client.put(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }).await
        }
    });
    let mut answers = requests.buffer_unordered(FILL_CLIENTS);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

/// The measurements of a window of load.
struct Window {
    p99: Duration,
    /// The slowest sync of the probe on the same disk.
    slowest_sync: Duration,
}

async fn window(name: &str, clients: &[KvClient<Channel>], leader: &Member) -> Result<Window, Failure> {
    let disk = DiskProbe::start()?;
    let read_before = io_counter(leader, "read_bytes")?;
    let start = Instant::now();
    let mut puts = JoinSet::new();
    for number in 0_u64.. {
        let due = start + Duration::from_secs(1) * u32::try_from(number)? / PUTS_PER_SEC;
        if due >= start + WINDOW {
            break;
        }
        time::sleep_until(due.into()).await;
        let mut client = clients[number as usize % clients.len()].clone();
        let key = format!("paced/{}", number % PACED_KEYS).into();
        let sent = Instant::now();
        puts.spawn(async move {
            let value = vec![b'x'; VALUE_BYTES].into();
            client.put(PutRequest { key, value, ..PutRequest::default() }).await.map(|_| sent.elapsed())
        });
    }
    let mut latencies = Vec::new();
    while let Some(put) = puts.join_next().await {
        latencies.push(put??);
    }
    latencies.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| latencies[(latencies.len() - 1) * percent / 100]);
    let slowest_sync = disk.end()?;
    writeln!(
        io::stdout(),
        "  {name:8} p50 {:6.2} ms  p99 {:7.2} ms  most {:7.2} ms  leader read {:4} MB  slowest sync {:6.2} ms",
        millis(p50),
        millis(p99),
        millis(latencies[latencies.len() - 1]),
        (io_counter(leader, "read_bytes")? - read_before) / 1_000_000,
        millis(slowest_sync)
    )?;
    Ok(Window { p99, slowest_sync })
}

/// Resolves when the late member has applied nearly everything that the leader has.
async fn caught_up(leader: &Member, late: &Member) -> Result<(), Failure> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        time::sleep(Duration::from_millis(100)).await;
        let (Ok(leader), Ok(late)) = (leader.try_status().await, late.try_status().await) else { continue };
        if late.leader != 0 && late.raft_applied_index + NEARLY >= leader.raft_applied_index {
            return Ok(());
        }
    }
    Err("the late member does not catch up".into())
}

/// The number of windows, and the median of their p99; `None` if there are none.
fn median<'a>(windows: impl Iterator<Item = &'a Window>) -> Option<(usize, Duration)> {
    let mut p99s: Vec<Duration> = windows.map(|window| window.p99).collect();
    p99s.sort_unstable();
    Some((p99s.len(), *p99s.get(p99s.len() / 2)?))
}

fn peak_bytes(member: &Member) -> Result<u64, Failure> {
    let kilobytes = proc_number(member, "status", "VmHWM:")?;
    Ok(kilobytes * 1024)
}

fn forget_peak(member: &Member) -> Result<(), Failure> {
    Ok(fs::write(proc_path(member, "clear_refs"), "5")?)
}

fn io_counter(member: &Member, name: &str) -> Result<u64, Failure> {
    proc_number(member, "io", &format!("{name}:"))
}

fn proc_number(member: &Member, file: &str, name: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string(proc_path(member, file))?;
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    Ok(number.ok_or_else(|| format!("/proc/PID/{file} has no {name}"))?.parse()?)
}

fn proc_path(member: &Member, file: &str) -> String {
    format!("/proc/{}/{file}", member.process_id().expect("a measured member runs"))
}
