//! Compaction of a history, and the defragmentation that gives its space back.

use std::time::{Duration, Instant};

use super::{KEYS, Row, Turn, VALUE_BYTES, key, verify};
use crate::{
    Failure,
    client::{COMPACT, DEFRAGMENT, HASH_KV, RANGE},
    figures::{CPU_MILLIS, Figure, MILLIS, figure},
    pb::etcdserverpb::{CompactionRequest, DefragmentRequest, HashKvRequest, RangeRequest},
};

/// All revisions but the newest of each key are removed, and it is waited until they are.
pub(crate) struct Compaction {
    pub(crate) revisions: usize,
}

impl Row for Compaction {
    fn name(&self) -> String {
        format!("compaction of {} revisions of {KEYS} keys", self.revisions)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let revision = overwrite(turn, self.revisions)?;
        let connection = turn.connect()?;
        let request = CompactionRequest { revision, physical: true };
        let took = timed(turn, |turn| turn.runtime.block_on(connection.call(&COMPACT, &request)).map(drop))?;
        turn.runtime.block_on(async {
            let old = RangeRequest { key: key(0), revision: revision - 1, ..RangeRequest::default() };
            let refused = connection.call(&RANGE, &old).await.is_err();
            let all = RangeRequest { key: key(0), range_end: key(KEYS), ..RangeRequest::default() };
            let count = connection.call(&RANGE, &all).await?.kvs.len();
            let compacted = connection.call(&HASH_KV, &HashKvRequest::default()).await?.compact_revision;
            verify(refused && count == KEYS && compacted == revision, || {
                format!(
                    "after the compaction of {revision}, {compacted} is compacted, and {count} keys are there"
                )
            })
        })?;
        Ok(figures(took))
    }
}

/// The database is written anew, after most of what was in it has been compacted.
pub(crate) struct Defragment {
    pub(crate) revisions: usize,
}

impl Row for Defragment {
    fn name(&self) -> String {
        format!("defragmentation after the compaction of {} revisions", self.revisions)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let revision = overwrite(turn, self.revisions)?;
        let connection = turn.connect()?;
        let request = CompactionRequest { revision, physical: true };
        let before = turn.runtime.block_on(async {
            connection.call(&COMPACT, &request).await?;
            connection.call(&HASH_KV, &HashKvRequest::default()).await
        })?;
        let took = timed(turn, |turn| {
            turn.runtime.block_on(connection.call(&DEFRAGMENT, &DefragmentRequest {})).map(drop)
        })?;
        let after = turn.runtime.block_on(connection.call(&HASH_KV, &HashKvRequest::default()))?;
        verify(after.hash == before.hash, || "the defragmentation has changed the data".to_owned())?;
        Ok(figures(took))
    }
}

/// Writes so many revisions of the same keys. Returns the last one.
pub(super) fn overwrite(turn: &mut Turn<'_>, revisions: usize) -> Result<i64, Failure> {
    let mut left = revisions;
    while left > 0 {
        let keys = left.min(KEYS);
        turn.fill(keys, VALUE_BYTES)?;
        left -= keys;
    }
    turn.revision()
}

/// How long it takes, and how much CPU time of the server.
pub(super) fn timed(
    turn: &mut Turn<'_>,
    work: impl FnOnce(&mut Turn<'_>) -> Result<(), Failure>,
) -> Result<(Duration, Duration), Failure> {
    let before = turn.server.usage()?;
    let start = Instant::now();
    work(turn)?;
    let took = start.elapsed();
    let cpu = turn.server.usage()?.cpu - before.cpu;
    Ok((took, cpu))
}

fn figures((took, cpu): (Duration, Duration)) -> Vec<Figure> {
    vec![figure(MILLIS, took.as_secs_f64() * 1e3), figure(CPU_MILLIS, cpu.as_secs_f64() * 1e3)]
}
