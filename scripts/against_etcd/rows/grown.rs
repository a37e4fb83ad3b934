//! So many keys: how they are loaded, what they take, and what upkeep of them costs.

use std::time::{Duration, Instant};

use super::{
    FILL_AT_ONCE, Row, Turn, VALUE_BYTES, Writes, compaction::timed, key, memory::resident_mib, put,
};
use crate::{
    Failure,
    client::{DEFRAGMENT, PUT},
    figures::{
        DEFRAGMENT_CPU_MILLIS, DEFRAGMENT_MILLIS, Figure, MEMORY, RESTART_CPU_MILLIS, RESTART_MILLIS, figure,
    },
    load::{self, Done},
    pb::etcdserverpb::DefragmentRequest,
};

const CONNECTIONS: usize = 8;

pub(crate) struct Grown {
    pub(crate) keys: usize,
    pub(crate) value_bytes: usize,
}

impl Row for Grown {
    fn name(&self) -> String {
        format!("load of {} keys of {} bytes, 64 clients", self.keys, self.value_bytes)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let mut figures = turn.loaded(Writes::Each, |turn| self.load(turn))?;
        figures.push(figure(MEMORY, resident_mib(turn)?));
        let (took, cpu) = super::restart::restart(turn, self.keys)?;
        figures.push(figure(RESTART_MILLIS, took.as_secs_f64() * 1e3));
        figures.push(figure(RESTART_CPU_MILLIS, cpu.as_secs_f64() * 1e3));
        // Gigabytes are written once more, which takes minutes and shows no more.
        if self.value_bytes == VALUE_BYTES {
            let connection = turn.connect()?;
            let (took, cpu) = timed(turn, |turn| {
                turn.runtime.block_on(connection.call(&DEFRAGMENT, &DefragmentRequest {})).map(drop)
            })?;
            figures.push(figure(DEFRAGMENT_MILLIS, took.as_secs_f64() * 1e3));
            figures.push(figure(DEFRAGMENT_CPU_MILLIS, cpu.as_secs_f64() * 1e3));
        }
        Ok(figures)
    }
}

impl Grown {
    fn load(&self, turn: &mut Turn<'_>) -> Result<Done, Failure> {
        let connections = (0..CONNECTIONS).map(|_| turn.connect()).collect::<Result<Vec<_>, Failure>>()?;
        let start = Instant::now();
        let latencies: Vec<Duration> =
            turn.runtime.block_on(load::each(self.keys, FILL_AT_ONCE, async |number| {
                let called = Instant::now();
                let connection = &connections[number % CONNECTIONS];
                connection.call(&PUT, &put(key(number), self.value_bytes)).await?;
                Ok(called.elapsed())
            }))?;
        Ok(Done::new(latencies, start.elapsed()))
    }
}
