//! The rows of the table. Each is measured on a server of its own, with an empty directory.
//!
//! A new row is a type that implements [`Row`], in the file of its kind, and a line in [`all`].

mod beside;
mod compaction;
mod connections;
mod gateway;
mod grown;
mod keep_alive;
mod memory;
mod mix;
mod put;
mod range;
mod restart;
mod txn;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;

use self::beside::Upkeep;
use crate::{
    Failure,
    client::{Connection, PUT, RANGE},
    figures::{CPU, Figure, P50, P99, PER_SEC, WRITTEN, figure},
    load::{self, Crowd, Done, Work},
    pb::etcdserverpb::PutRequest,
    server::{Server, any_key},
};

pub(crate) const VALUE_BYTES: usize = 256;
/// As large as objects of Kubernetes are.
const LARGE_VALUE_BYTES: usize = 10 << 10;
/// Keys that a load touches.
const KEYS: usize = 10_000;
/// Puts under way while keys are filled in.
const FILL_AT_ONCE: usize = 64;

pub(crate) trait Row {
    fn name(&self) -> String;

    /// Measures a server that has just been started, and verifies that it did what it was asked for.
    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure>;

    /// How many members the server has.
    fn members(&self) -> usize {
        1
    }

    /// Whether the floor can answer it.
    fn has_floor(&self) -> bool {
        false
    }

    /// Where it is in a plot.
    fn point(&self) -> Option<Point> {
        None
    }
}

/// A place on the axis of a plot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) plot: &'static str,
    pub(crate) clients: usize,
}

/// All rows, in the order of the table.
pub(crate) fn all() -> Vec<Box<dyn Row>> {
    let mut rows: Vec<Box<dyn Row>> = Vec::new();
    for clients in [1, 4, 16, 64, 256, 512] {
        rows.push(Box::new(put::Closed { clients, members: 1, value_bytes: VALUE_BYTES }));
    }
    rows.push(Box::new(put::Closed { clients: 16, members: 1, value_bytes: LARGE_VALUE_BYTES }));
    rows.push(Box::new(put::Paced { per_sec: 5000 }));
    for clients in [1, 4, 16, 64, 256, 512] {
        rows.push(Box::new(range::OneKey { clients, is_serializable: false, members: 1 }));
    }
    rows.push(Box::new(range::OneKey { clients: 64, is_serializable: true, members: 1 }));
    rows.push(Box::new(range::Prefix { keys: 100, clients: 32 }));
    rows.push(Box::new(range::Prefix { keys: 1000, clients: 8 }));
    rows.push(Box::new(txn::Cas { keys: 64, clients: 64 }));
    rows.push(Box::new(txn::Bulk { puts: 100, clients: 8 }));
    rows.push(Box::new(mix::Kubernetes { clients: 64, members: 1 }));
    rows.push(Box::new(keep_alive::KeepAlive { leases: 1000 }));
    rows.push(Box::new(watch::FanOut { watchers: 1000 }));
    rows.push(Box::new(watch::CatchUp { watchers: 20, revisions: 20_000 }));
    for op in [gateway::Op::Put, gateway::Op::Range] {
        rows.push(Box::new(gateway::Gateway { op, clients: 32 }));
    }
    for clients in [1, 64] {
        rows.push(Box::new(put::Closed { clients, members: 3, value_bytes: VALUE_BYTES }));
    }
    rows.push(Box::new(range::OneKey { clients: 64, is_serializable: false, members: 3 }));
    rows.push(Box::new(mix::Kubernetes { clients: 64, members: 3 }));
    rows.push(Box::new(connections::New { at_once: 16 }));
    rows.push(Box::new(connections::Idle { count: 500 }));
    rows.push(Box::new(memory::Idle));
    rows.push(Box::new(memory::Filled { keys: 50_000 }));
    rows.push(Box::new(restart::Restart { keys: 50_000, value_bytes: VALUE_BYTES }));
    rows.push(Box::new(restart::Restart { keys: 20_000, value_bytes: LARGE_VALUE_BYTES }));
    rows.push(Box::new(compaction::Compaction { revisions: 25_000 }));
    rows.push(Box::new(compaction::Defragment { revisions: 100_000 }));
    for upkeep in [Upkeep::Compaction, Upkeep::Defragmentation, Upkeep::Snapshot] {
        rows.push(Box::new(beside::Beside { upkeep, revisions: 100_000 }));
    }
    rows
}

/// Rows of which each has twice as much of something as the one before: what one costs must not grow with it.
pub(crate) fn doublings() -> Vec<Box<dyn Row>> {
    let mut rows: Vec<Box<dyn Row>> = Vec::new();
    for keys in [500_000, 1_000_000, 2_000_000] {
        rows.push(Box::new(grown::Grown { keys, value_bytes: VALUE_BYTES }));
    }
    for watchers in [500, 1000, 2000] {
        rows.push(Box::new(watch::FanOut { watchers }));
    }
    for count in [500, 1000, 2000] {
        rows.push(Box::new(connections::Idle { count }));
    }
    rows
}

/// Rows that take minutes and gigabytes.
pub(crate) fn large() -> Vec<Box<dyn Row>> {
    let mut rows: Vec<Box<dyn Row>> =
        vec![Box::new(grown::Grown { keys: 1_000_000, value_bytes: LARGE_VALUE_BYTES })];
    for upkeep in [Upkeep::Compaction, Upkeep::Defragmentation, Upkeep::Snapshot] {
        rows.push(Box::new(beside::Beside { upkeep, revisions: 1_000_000 }));
    }
    rows
}

/// A server and what it is measured with.
pub(crate) struct Turn<'a> {
    pub(crate) server: Server<'a>,
    pub(crate) runtime: &'a Runtime,
    /// How long a load takes.
    pub(crate) length: Duration,
}

/// What a load does to the revision.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// Each operation makes one.
    Each,
    None,
    /// The row looks itself.
    Some,
}

impl Turn<'_> {
    fn connect(&mut self) -> Result<Connection, Failure> {
        self.runtime.block_on(self.server.connect())
    }

    /// Gives so many keys a value, which also warms up client and server.
    fn fill(&mut self, keys: usize, value_bytes: usize) -> Result<(), Failure> {
        if self.server.is_floor() {
            return Ok(());
        }
        let connection = self.connect()?;
        let before = self.revision()?;
        self.runtime.block_on(load::each(keys, FILL_AT_ONCE, async |number| {
            connection.call(&PUT, &put(key(number), value_bytes)).await.map(drop)
        }))?;
        self.verify_writes(before, keys)
    }

    fn revision(&mut self) -> Result<i64, Failure> {
        self.runtime.block_on(async {
            let connection = self.server.connect().await?;
            revision(&connection).await
        })
    }

    /// So that lost writes are noticed, and writes that nobody has asked for.
    fn verify_writes(&mut self, before: i64, writes: usize) -> Result<(), Failure> {
        let after = self.revision()?;
        if !self.server.is_floor() && after - before != writes as i64 {
            return Err(format!("{writes} writes took the revision from {before} to {after}").into());
        }
        Ok(())
    }

    /// The figures that every load has.
    fn load<W: Work>(
        &mut self,
        work: &W,
        (clients, connections): (usize, usize),
        writes: Writes,
    ) -> Result<Vec<Figure>, Failure> {
        let crowd = Crowd { clients, connections, length: self.length };
        self.loaded(writes, |turn| load::closed(&turn.server.addresses(), work, crowd))
    }

    fn loaded(
        &mut self,
        writes: Writes,
        run: impl FnOnce(&mut Self) -> Result<Done, Failure>,
    ) -> Result<Vec<Figure>, Failure> {
        let revision = self.revision()?;
        let before = self.server.usage()?;
        let done = run(self)?;
        let after = self.server.usage()?;
        match writes {
            Writes::Each => self.verify_writes(revision, done.count())?,
            Writes::None => self.verify_writes(revision, 0)?,
            Writes::Some => {}
        }
        let each = done.count() as f64;
        let mut figures = vec![
            figure(PER_SEC, done.per_sec()),
            figure(P50, done.percentile(0.5)),
            figure(P99, done.percentile(0.99)),
            figure(CPU, (after.cpu - before.cpu).as_secs_f64() * 1e6 / each),
        ];
        if writes == Writes::Each && !self.server.is_floor() {
            let written = after.written_bytes - before.written_bytes;
            figures.push(figure(WRITTEN, written as f64 / each));
        }
        Ok(figures)
    }
}

async fn revision(connection: &Connection) -> Result<i64, Failure> {
    let answer = connection.call(&RANGE, &any_key()).await?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

fn key(number: usize) -> Bytes {
    format!("/bench/{number:025}").into()
}

fn put(key: Bytes, value_bytes: usize) -> PutRequest {
    PutRequest { key, value: vec![b'v'; value_bytes].into(), ..PutRequest::default() }
}

/// As many connections as suit so many clients.
fn connections_for(clients: usize) -> usize {
    clients.div_ceil(8).clamp(1, 64)
}

/// As a row names them.
fn clients(count: usize) -> String {
    if count == 1 { "1 client".to_owned() } else { format!("{count} clients") }
}

/// How a row names the members of its server.
fn on(members: usize) -> &'static str {
    if members == 3 { ", three members" } else { "" }
}

/// Wrong answers are failures, as refusals are.
fn verify(is_right: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if is_right { Ok(()) } else { Err(what().into()) }
}
