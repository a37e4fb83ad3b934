//! Loads: many clients that do the same thing, each one operation at a time or at fixed moments.
//!
//! A few threads, half as many as there are cores, have the connections, and each client is a task on the thread of its
//! connection. The clients of all threads begin together. Connections are spread over all members of a cluster.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::{Barrier, Mutex},
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::try_join_all, stream::FuturesUnordered};
use tokio::{runtime, time};

use crate::{Failure, client::Connection};

/// What a client does.
pub(crate) trait Work: Sync {
    /// What a client remembers from one operation to the next.
    type Memory;

    fn begin(&self, client: usize) -> Self::Memory;

    /// One operation, whose answer is checked.
    fn operate(
        &self,
        connection: &Connection,
        memory: &mut Self::Memory,
    ) -> impl Future<Output = Result<(), Failure>>;
}

/// How many clients, on how many connections, for how long.
#[derive(Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    pub(crate) length: Duration,
}

/// What a load has shown.
pub(crate) struct Done {
    /// Of each operation, sorted.
    latencies: Vec<Duration>,
    took: Duration,
}

impl Done {
    pub(crate) fn new(mut latencies: Vec<Duration>, took: Duration) -> Done {
        latencies.sort_unstable();
        Done { latencies, took }
    }

    pub(crate) fn count(&self) -> usize {
        self.latencies.len()
    }

    pub(crate) fn per_sec(&self) -> f64 {
        self.count() as f64 / self.took.as_secs_f64()
    }

    /// In microseconds.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let place = (self.count().saturating_sub(1) as f64 * part) as usize;
        self.latencies.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// Each client makes its next operation when the one before is answered.
pub(crate) fn closed<W: Work>(addresses: &[SocketAddr], work: &W, crowd: Crowd) -> Result<Done, Failure> {
    let threads = (thread::available_parallelism()?.get() / 2).clamp(1, crowd.connections);
    let ready = Barrier::new(threads);
    let seen = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..threads {
            let (ready, seen) = (&ready, &seen);
            scope.spawn(move || {
                let part = on_a_thread(addresses, work, crowd, (number, threads), ready);
                seen.lock().expect("nobody panics with it").push(part);
            });
        }
    });
    let mut latencies = Vec::new();
    let mut took = Duration::ZERO;
    for part in seen.into_inner().expect("nobody panics with it") {
        let (of_part, of_thread) = part?;
        latencies.extend(of_part);
        took = took.max(of_thread);
    }
    Ok(Done::new(latencies, took))
}

/// Operations begin at a fixed rate for as long as it `goes_on`, whether or not those before them are answered, and are
/// counted from when they were due: so a pause is seen by everything that falls into it.
pub(crate) fn open<W: Work>(
    addresses: &[SocketAddr],
    work: &W,
    per_sec: u32,
    goes_on: impl Fn(Duration) -> bool,
) -> Result<Done, Failure> {
    const CONNECTIONS: usize = 8;
    let interval = Duration::from_secs(1) / per_sec;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connections = Vec::new();
        for number in 0..CONNECTIONS {
            connections.push(Connection::open(addresses[number % addresses.len()]).await?);
        }
        // Each operation takes the memory of a client that is idle, as a pool of clients would.
        let mut idle: Vec<W::Memory> = Vec::new();
        let mut latencies = Vec::new();
        let mut running = FuturesUnordered::new();
        let start = Instant::now();
        let (mut next, mut is_over) = (0, false);
        while !is_over || !running.is_empty() {
            tokio::select! { biased;
                Some(done) = running.next() => {
                    let (memory, latency) = done?;
                    idle.push(memory);
                    latencies.push(latency);
                }
                () = time::sleep_until((start + interval * next).into()), if !is_over => {
                    // A timer has milliseconds; what has become due meanwhile begins together.
                    while start + interval * next <= Instant::now() {
                        let due = start + interval * next;
                        let mut memory = idle.pop().unwrap_or_else(|| work.begin(running.len()));
                        let connection = &connections[next as usize % CONNECTIONS];
                        running.push(async move {
                            work.operate(connection, &mut memory).await?;
                            Ok::<_, Failure>((memory, due.elapsed()))
                        });
                        next += 1;
                    }
                    is_over = !goes_on(start.elapsed());
                }
            }
        }
        Ok(Done::new(latencies, start.elapsed()))
    })
}

type Part = Result<(Vec<Duration>, Duration), Failure>;

fn on_a_thread<W: Work>(
    addresses: &[SocketAddr],
    work: &W,
    crowd: Crowd,
    (thread, threads): (usize, usize),
    ready: &Barrier,
) -> Part {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connections = own_connections(addresses, crowd, thread, threads).await;
        // The others wait for this thread, also if it has failed.
        ready.wait();
        let connections = connections?;
        let start = Instant::now();
        let end = start + crowd.length;
        let clients = (0..crowd.clients).filter_map(|client| {
            let connection = connections[client % crowd.connections].clone()?;
            let mut memory = work.begin(client);
            Some(async move {
                let mut latencies = Vec::new();
                let mut now = Instant::now();
                // At least one, because the number is a divisor.
                while latencies.is_empty() || now < end {
                    work.operate(&connection, &mut memory).await?;
                    let done = Instant::now();
                    latencies.push(done - now);
                    now = done;
                }
                Ok::<_, Failure>(latencies)
            })
        });
        let latencies: Vec<Vec<Duration>> = try_join_all(clients).await?;
        Ok((latencies.concat(), start.elapsed()))
    })
}

/// The connections of a thread, at the places that they have among all.
async fn own_connections(
    addresses: &[SocketAddr],
    crowd: Crowd,
    thread: usize,
    threads: usize,
) -> Result<Vec<Option<Rc<Connection>>>, Failure> {
    let mut connections = Vec::new();
    for number in 0..crowd.connections {
        connections.push(match number % threads == thread {
            true => Some(Rc::new(Connection::open(addresses[number % addresses.len()]).await?)),
            false => None,
        });
    }
    Ok(connections)
}

/// As many operations as asked for, some at once. Returns what came of them, in no order.
pub(crate) async fn each<T>(
    count: usize,
    at_once: usize,
    operate: impl AsyncFn(usize) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let next = Cell::new(0);
    let workers = (0..at_once).map(|_| async {
        let mut done = Vec::new();
        loop {
            let number = next.get();
            if number >= count {
                return Ok::<_, Failure>(done);
            }
            next.set(number + 1);
            done.push(operate(number).await?);
        }
    });
    Ok(try_join_all(workers).await?.into_iter().flatten().collect())
}
