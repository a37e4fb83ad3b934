//! Frames that make the server work and ask for nothing, and how many of them a connection may send.
//!
//! Pings are judged as etcd's transport (gRPC for Go) judges them: a ping that comes too soon after the last one is a
//! strike, an answer of the server clears the strikes, and the third strike ends the connection.
//!
//! All other frames without effect draw on a budget: settings, priorities, empty data, resets and window
//! updates beyond those that a client needs, and frames of kinds that nobody knows. Requests, answers and time fill
//! the budget up again, so that only a client that does nothing else empties it.

use std::time::{Duration, Instant};

use crate::limits;

/// Strikes that a connection survives.
const STRIKES_MAX: u32 = 2;

/// The shortest time between two pings while no call is open, unless pings are permitted then: in gRPC for Go a
/// client sends none.
const IDLE_PINGS_MIN: Duration = Duration::from_secs(2 * 60 * 60);

/// How often a client may ping.
#[derive(Clone, Copy, Debug)]
pub(super) struct PingPolicy {
    /// The shortest time between two pings.
    pub(super) interval_min: Duration,
    /// Whether a client may ping as often while it has no call open.
    pub(super) without_calls: bool,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error("the client sent too many pings")]
    Pings,
    #[error("the client sent too many frames without effect")]
    Frames,
}

impl Excess {
    /// What the GOAWAY frame says. Clients of gRPC ping less often once they were sent the first text.
    pub(super) fn debug_data(self) -> &'static [u8] {
        match self {
            Excess::Pings => b"too_many_pings",
            Excess::Frames => b"too_many_frames",
        }
    }
}

/// What one connection has sent so far.
#[derive(Debug)]
pub(super) struct Flood {
    policy: PingPolicy,
    last_ping: Option<Instant>,
    strikes: u32,
    /// The server has sent an answer since the last ping.
    is_answered: bool,
    /// Frames without effect that may still come.
    budget: u32,
    /// When time was last paid into the budget.
    filled: Instant,
}

impl Flood {
    /// A connection that may begin with `budget` frames without effect.
    pub(super) fn new(policy: PingPolicy, budget: u32, now: Instant) -> Flood {
        assert!(budget <= limits::HTTP2_VOID_FRAMES, "no connection may send more");
        Flood { policy, last_ping: None, strikes: 0, is_answered: false, budget, filled: now }
    }

    /// Judges a ping.
    pub(super) fn ping(&mut self, has_calls: bool, now: Instant) -> Result<(), Excess> {
        let last = self.last_ping.replace(now);
        if std::mem::take(&mut self.is_answered) {
            self.strikes = 0;
            return Ok(());
        }
        let interval_min = match has_calls || self.policy.without_calls {
            true => self.policy.interval_min,
            false => IDLE_PINGS_MIN,
        };
        if last.is_some_and(|last| now.saturating_duration_since(last) < interval_min) {
            self.strikes += 1;
        }
        if self.strikes > STRIKES_MAX { Err(Excess::Pings) } else { Ok(()) }
    }

    /// The server has sent so many frames of answers.
    pub(super) fn answered(&mut self, frames: u32) {
        self.is_answered = true;
        // A client may widen two windows for each, that of the stream and that of the connection.
        self.fill(frames.saturating_mul(2));
    }

    /// A request has begun. Its client may reset it and widen both windows for it.
    pub(super) fn requested(&mut self) {
        self.fill(3);
    }

    /// Takes a frame without effect out of the budget.
    pub(super) fn void_frame(&mut self, now: impl FnOnce() -> Instant) -> Result<(), Excess> {
        if self.budget == 0 {
            let now = now();
            let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.filled, now));
            let refill = elapsed.as_millis() * u128::from(limits::HTTP2_VOID_FRAMES_PER_SEC) / 1000;
            self.fill(u32::try_from(refill).unwrap_or(u32::MAX));
        }
        self.budget = self.budget.checked_sub(1).ok_or(Excess::Frames)?;
        Ok(())
    }

    fn fill(&mut self, frames: u32) {
        self.budget = self.budget.saturating_add(frames).min(limits::HTTP2_VOID_FRAMES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: PingPolicy = PingPolicy { interval_min: Duration::from_secs(5), without_calls: false };

    fn pings(flood: &mut Flood, has_calls: bool, start: Instant, apart: Duration) -> usize {
        let judged = (0..10).map_while(|number| flood.ping(has_calls, start + apart * number).ok());
        judged.count()
    }

    #[test]
    fn the_third_ping_that_comes_too_soon_is_the_last() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let survived = |policy, has_calls, apart| {
            pings(&mut Flood::new(policy, limits::HTTP2_VOID_FRAMES, start), has_calls, start, apart)
        };
        assert_eq!(survived(POLICY, true, second), 3);
        assert_eq!(survived(POLICY, true, 5 * second), 10, "as often as allowed");
        assert_eq!(survived(POLICY, false, 5 * second), 3, "no call is open");
        assert_eq!(survived(PingPolicy { without_calls: true, ..POLICY }, false, 5 * second), 10);
    }

    #[test]
    fn an_answer_clears_the_strikes() {
        let now = Instant::now();
        let mut flood = Flood::new(POLICY, limits::HTTP2_VOID_FRAMES, now);
        for _ in 0..100 {
            for _ in 0..3 {
                flood.ping(true, now).expect("the client was answered");
            }
            flood.answered(1);
        }
        flood.ping(true, now).expect("the client was answered");
        assert_eq!(pings(&mut flood, true, now, Duration::ZERO), 2);
    }

    #[test]
    fn frames_without_effect_are_paid_for_by_others_and_by_time() {
        let now = Instant::now();
        let mut flood = Flood::new(POLICY, limits::HTTP2_VOID_FRAMES, now);
        let drain = |flood: &mut Flood, now| (0..).take_while(|_| flood.void_frame(|| now).is_ok()).count();
        let all = limits::HTTP2_VOID_FRAMES as usize;
        assert_eq!(drain(&mut flood, now), all);
        flood.requested();
        flood.answered(2);
        assert_eq!(drain(&mut flood, now), 7);
        let second = now + Duration::from_secs(1);
        assert_eq!(drain(&mut flood, second), limits::HTTP2_VOID_FRAMES_PER_SEC as usize);
        assert_eq!(drain(&mut flood, second + Duration::from_secs(3600)), all, "no more is saved up");
    }
}
