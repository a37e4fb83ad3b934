//! A profile of the CPU: which functions the threads were in, a hundred times a second of CPU time.
//!
//! The samples are taken by the crate pprof, in a handler of SIGPROF. Nothing runs and nothing is allocated until a
//! profile is asked for, and one is made at a time.

use std::time::Duration;

use pprof::ProfilerGuardBuilder;
use tokio::sync::oneshot;

use super::encode::{Encoder, Shape};
use crate::{clock, threads};

/// Samples in a second of CPU time, as Go takes them.
const FREQUENCY: i32 = 100;
const PERIOD_NANOS: i64 = 1_000_000_000 / FREQUENCY as i64;

/// How often the thread looks whether somebody still waits for the profile.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Libraries whose functions are not walked through: a signal may find them with their locks taken.
const LEFT_OUT: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Samples for so long, and returns the compressed profile. It ends early if the caller gives up.
pub(super) async fn profile(time: Duration) -> Result<Vec<u8>, String> {
    let (tell, profile) = oneshot::channel();
    let work = move || {
        let made = make(time, &|| tell.is_closed());
        // Whoever asked may be gone.
        let _ = tell.send(made);
    };
    // A thread of its own, so that it neither takes one of the blocking pool for minutes nor is part of a reactor.
    threads::try_spawn("retcd-profile", work).map_err(|error| error.to_string())?;
    profile.await.unwrap_or_else(|_| Err("the thread that makes the profile has ended".to_owned()))
}

fn make(time: Duration, is_given_up: &dyn Fn() -> bool) -> Result<Vec<u8>, String> {
    let start = clock::now();
    let began = clock::wall();
    let guard = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&LEFT_OUT).build();
    let guard = guard.map_err(|error| match error {
        pprof::Error::Running => "cpu profiling already in use".to_owned(),
        other => other.to_string(),
    })?;
    while clock::since(start) < time {
        if is_given_up() {
            return Err("nobody waits for the profile any more".to_owned());
        }
        clock::pause(LOOK_INTERVAL.min(time.saturating_sub(clock::since(start))));
    }
    let took = clock::since(start);
    let report = guard.report().build().map_err(|error| error.to_string())?;
    drop(guard);
    let mut encoder = Encoder::new();
    for (stack, count) in &report.data {
        let locations = stack.frames.iter().map(|symbols| encoder.location(symbols)).collect();
        let count = *count as i64;
        encoder.sample(locations, vec![count, count * PERIOD_NANOS], Some(&stack.thread_name));
    }
    let shape = Shape {
        values: &[("samples", "count"), ("cpu", "nanoseconds")],
        shown: None,
        period: (("cpu", "nanoseconds"), PERIOD_NANOS),
        began,
        took,
    };
    encoder.finish(&shape).map_err(|error| error.to_string())
}
