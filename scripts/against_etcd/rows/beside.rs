//! What writers notice of upkeep that is done beside them.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime;

use super::{Row, Turn, VALUE_BYTES, compaction::overwrite, put::Puts, verify};
use crate::{
    Failure,
    client::{COMPACT, Connection, DEFRAGMENT, SNAPSHOT},
    figures::{Figure, LONGEST_DURING, MILLIS, P99_BEFORE, P99_DURING, figure},
    load,
    pb::etcdserverpb::{CompactionRequest, DefragmentRequest, SnapshotRequest},
};

const PER_SEC: u32 = 1000;

#[derive(Clone, Copy)]
pub(crate) enum Upkeep {
    Compaction,
    Defragmentation,
    Snapshot,
}

/// Puts at a fixed rate, alone and then for as long as the upkeep takes.
pub(crate) struct Beside {
    pub(crate) upkeep: Upkeep,
    pub(crate) revisions: usize,
}

impl Row for Beside {
    fn name(&self) -> String {
        let upkeep = match self.upkeep {
            Upkeep::Compaction => "a compaction",
            Upkeep::Defragmentation => "a defragmentation",
            Upkeep::Snapshot => "a snapshot",
        };
        format!("put, {PER_SEC} a second, during {upkeep} of {} revisions", self.revisions)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let revision = overwrite(turn, self.revisions)?;
        let (addresses, length) = (turn.server.addresses(), turn.length);
        let puts = Puts::of(VALUE_BYTES);
        let alone = load::open(&addresses, &puts, PER_SEC, |elapsed| elapsed < length)?;
        let is_done = AtomicBool::new(false);
        let (during, took) = thread::scope(|scope| {
            let upkeep = scope.spawn(|| {
                let took = self.upkeep.run(addresses[0], revision);
                is_done.store(true, Ordering::Relaxed);
                took
            });
            let goes_on = |_| !is_done.load(Ordering::Relaxed);
            let during = load::open(&addresses, &puts, PER_SEC, goes_on);
            let took = upkeep.join().map_err(|_| "the upkeep has panicked")?;
            Ok::<_, Failure>((during?, took?))
        })?;
        turn.verify_writes(revision, alone.count() + during.count())?;
        Ok(vec![
            figure(P99_BEFORE, alone.percentile(0.99)),
            figure(P99_DURING, during.percentile(0.99)),
            figure(LONGEST_DURING, during.percentile(1.0)),
            figure(MILLIS, took.as_secs_f64() * 1e3),
        ])
    }
}

impl Upkeep {
    /// Returns how long it took.
    fn run(self, address: SocketAddr, revision: i64) -> Result<Duration, Failure> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let connection = Connection::open(address).await?;
            let start = Instant::now();
            match self {
                Upkeep::Compaction => {
                    let request = CompactionRequest { revision, physical: true };
                    connection.call(&COMPACT, &request).await?;
                }
                Upkeep::Defragmentation => {
                    connection.call(&DEFRAGMENT, &DefragmentRequest {}).await?;
                }
                Upkeep::Snapshot => {
                    let (mut sender, mut receiver) = connection.stream(&SNAPSHOT).await?;
                    sender.send(&SnapshotRequest {})?;
                    sender.end()?;
                    let mut remaining = None;
                    while let Some(piece) = receiver.next_or_end().await? {
                        remaining = Some(piece.remaining_bytes);
                    }
                    verify(remaining == Some(0), || {
                        format!("of a snapshot {remaining:?} bytes are missing")
                    })?;
                }
            }
            Ok(start.elapsed())
        })
    }
}
