//! The one clock.
//!
//! All code that reads the time reads it here. The clock is tokio's, which openraft and tokio's timers use
//! too: a test that pauses that clock pauses everything. Code that must not depend on a clock, which is all
//! modules before `chance` in `main.rs`, gets the time as an argument.

use std::time::{Duration, Instant, SystemTime};

/// The time now, for deadlines and for how long something took.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago `start` was.
pub(crate) fn since(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

/// Blocks this thread. Tasks use the timers of tokio.
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The time of day, as the time since 1970, for what people and other programs read. It may jump,
/// so no deadline depends on it.
pub(crate) fn wall() -> Duration {
    #[cfg(test)]
    if let Some(simulated) = SIMULATED_WALL.get() {
        return simulated;
    }
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
thread_local! {
    static SIMULATED_WALL: std::cell::Cell<Option<Duration>> = const { std::cell::Cell::new(None) };
}

/// Sets the time of day of this thread, which runs simulated members. tokio can pause its own clock, but not
/// the system's.
#[cfg(test)]
pub(crate) fn simulate_wall(time: Duration) {
    SIMULATED_WALL.set(Some(time));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_and_never_goes_back() {
        let start = now();
        assert!(now() >= start);
        assert_eq!(since(start + Duration::from_secs(3600)), Duration::ZERO, "the future is not ago");
        assert!(wall() > Duration::from_secs(1_700_000_000), "it is the time of day");
    }
}
