//! Renewals of leases.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;

use super::{Row, Turn, verify};
use crate::{
    Failure,
    client::{Connection, GRANT, KEEP_ALIVE},
    figures::{CPU, Figure, P50, P99, PER_SEC, figure},
    load::{self, Done},
    pb::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest},
};

const TTL_SECS: i64 = 600;
const STREAMS: usize = 8;
/// Renewals under way on each stream.
const AT_ONCE: usize = 16;

/// Streams on which leases are renewed in turn, each on a connection of its own.
pub(crate) struct KeepAlive {
    pub(crate) leases: usize,
}

impl Row for KeepAlive {
    fn name(&self) -> String {
        format!("lease keep-alive, {} leases, {STREAMS} streams", self.leases)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let connection = turn.connect()?;
        let leases = turn.runtime.block_on(load::each(self.leases, AT_ONCE, async |_| {
            let request = LeaseGrantRequest { ttl: TTL_SECS, ..LeaseGrantRequest::default() };
            Ok(connection.call(&GRANT, &request).await?.id)
        }))?;
        let before = turn.server.usage()?;
        let latencies = Mutex::new(Vec::new());
        let start = Instant::now();
        let (address, end) = (turn.server.addresses()[0], start + turn.length);
        turn.runtime.block_on(async {
            let streams = leases.chunks(self.leases.div_ceil(STREAMS)).map(async |part| {
                let of_stream = renew(&Connection::open(address).await?, part, end).await?;
                latencies.lock().expect("nobody panics with it").extend(of_stream);
                Ok::<_, Failure>(())
            });
            try_join_all(streams).await
        })?;
        let done = Done::new(latencies.into_inner().expect("nobody panics with it"), start.elapsed());
        let cpu = turn.server.usage()?.cpu - before.cpu;
        Ok(vec![
            figure(PER_SEC, done.per_sec()),
            figure(P50, done.percentile(0.5)),
            figure(P99, done.percentile(0.99)),
            figure(CPU, cpu.as_secs_f64() * 1e6 / done.count() as f64),
        ])
    }

    fn has_floor(&self) -> bool {
        true
    }
}

async fn renew(connection: &Connection, leases: &[i64], end: Instant) -> Result<Vec<Duration>, Failure> {
    let (mut sender, mut receiver) = connection.stream(&KEEP_ALIVE).await?;
    let mut latencies = Vec::new();
    let mut under_way = std::collections::VecDeque::new();
    for &id in leases.iter().cycle() {
        if under_way.len() == AT_ONCE {
            let (expected, since): (i64, Instant) = under_way.pop_front().ok_or("some are under way")?;
            let answer = receiver.next().await?;
            // Answers come in the order of the requests.
            verify(answer.id == expected && answer.ttl > 0, || {
                format!(
                    "lease {expected} was renewed, and the answer is about {} with TTL {}",
                    answer.id, answer.ttl
                )
            })?;
            latencies.push(since.elapsed());
            if Instant::now() > end {
                break;
            }
        }
        sender.send(&LeaseKeepAliveRequest { id })?;
        under_way.push_back((id, Instant::now()));
    }
    Ok(latencies)
}
