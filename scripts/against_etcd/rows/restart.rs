//! From the start of a process to its first linearizable read.

use std::time::{Duration, Instant};

use super::{Row, Turn, key, verify};
use crate::{
    Failure,
    client::RANGE,
    figures::{CPU_MILLIS, Figure, MILLIS, figure},
    pb::etcdserverpb::RangeRequest,
};

pub(crate) struct Restart {
    pub(crate) keys: usize,
    pub(crate) value_bytes: usize,
}

impl Row for Restart {
    fn name(&self) -> String {
        format!(
            "restart with {} keys of {} bytes, to the first linearizable read",
            self.keys, self.value_bytes
        )
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.fill(self.keys, self.value_bytes)?;
        let (took, cpu) = restart(turn, self.keys)?;
        Ok(vec![figure(MILLIS, took.as_secs_f64() * 1e3), figure(CPU_MILLIS, cpu.as_secs_f64() * 1e3)])
    }
}

/// Restarts a server that has so many keys. Returns how long it took until the first linearizable read, and the CPU time
/// of the server.
pub(super) fn restart(turn: &mut Turn<'_>, keys: usize) -> Result<(Duration, Duration), Failure> {
    let before = turn.revision()?;
    turn.server.stop()?;
    let start = Instant::now();
    turn.server.start_again()?;
    let connection = turn.connect()?;
    let took = start.elapsed();
    let cpu = turn.server.usage()?.cpu;
    let all = RangeRequest { key: key(0), range_end: key(keys), count_only: true, ..RangeRequest::default() };
    let count = turn.runtime.block_on(connection.call(&RANGE, &all))?.count;
    let after = turn.revision()?;
    verify(count == keys as i64 && after == before, || {
        format!(
            "after the restart there are {count} keys at revision {after}, and there were {keys} at {before}"
        )
    })?;
    Ok((took, cpu))
}
