//! Why a request got no answer in time.
//!
//! The outcome of such a request is unknown. The error names what this member saw while the request
//! waited: that there was no leader, that this member took over from a leader that failed, or that it
//! could not reach the leader.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time;

use super::ProposeError;
use crate::{clock, raft::Leadership, sync::watch};

/// How long a request may take, and what is remembered of trouble on the way to the leader.
pub(super) struct Patience {
    /// How long a request may take.
    pub(super) limit: Duration,
    /// Set when this member is about to end and no request is worth waiting for.
    giving_up: watch::Receiver<bool>,
    election_timeout: Duration,
    leadership: watch::Receiver<Leadership>,
    /// When a leader was last asked for something and could not be reached.
    connection_lost: Mutex<Option<Instant>>,
}

impl Patience {
    pub(super) fn new(
        limit: Duration,
        giving_up: watch::Receiver<bool>,
        election_timeout: Duration,
        leadership: watch::Receiver<Leadership>,
    ) -> Patience {
        Patience { limit, giving_up, election_timeout, leadership, connection_lost: Mutex::default() }
    }

    /// The result of `request`, unless its time is over or this member is about to end before that.
    pub(super) async fn bound<T>(&self, request: impl Future<Output = T>) -> Result<T, Expired> {
        let mut giving_up = self.giving_up.clone();
        tokio::select! { biased;
            result = request => Ok(result),
            // The sender lives as long as the core thread, and so do those who wait here.
            _ = giving_up.wait_for(|giving_up| *giving_up) => Err(Expired::MemberEnds),
            () = time::sleep(self.limit) => Err(Expired::TimeIsOver),
        }
    }

    pub(super) fn connection_lost(&self) {
        *self.connection_lost.lock() = Some(clock::now());
    }

    /// What a request is told that began at `start` and is over its time.
    pub(super) fn timeout(&self, start: Instant) -> ProposeError {
        reason(start, &self.leadership.borrow(), *self.connection_lost.lock(), self.election_timeout)
    }
}

/// Why a request is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The client is told, so that it can ask another member.
    MemberEnds,
    TimeIsOver,
}

fn reason(
    start: Instant,
    leadership: &Leadership,
    connection_lost: Option<Instant>,
    election_timeout: Duration,
) -> ProposeError {
    let was_leaderless = leadership
        .elected_at
        .is_some_and(|elected| start < elected && elected < start + 2 * election_timeout);
    let is_follower = leadership.leader.is_some() && !leadership.is_leader;
    // The moment at which it became leaderless is a moment with a leader too.
    let is_leaderless_throughout = leadership.leaderless_since.is_some_and(|since| since < start);
    if is_leaderless_throughout {
        ProposeError::Leaderless
    } else if was_leaderless {
        ProposeError::TimeoutLeaderLost
    } else if is_follower && connection_lost.is_some_and(|lost| lost > start) {
        ProposeError::TimeoutConnectionLost
    } else {
        ProposeError::Timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_blamed_on_what_was_seen_meanwhile() {
        let election = Duration::from_secs(1);
        let start = Instant::now() + Duration::from_secs(100);
        let after = |millis| Some(start + Duration::from_millis(millis));
        let before = |millis| Some(start - Duration::from_millis(millis));
        let leaderless = |leaderless_since| Leadership { leaderless_since, ..Leadership::default() };
        let follower = Leadership { leader: Some(7), ..Leadership::default() };
        let leader = Leadership { leader: Some(7), is_leader: true, ..Leadership::default() };
        let elected = |elected_at| Leadership { elected_at, ..leader };
        for (leadership, lost, expected) in [
            (leaderless(None), None, ProposeError::Timeout),
            (leaderless(None), after(1), ProposeError::Timeout),
            (leaderless(before(1)), None, ProposeError::Leaderless),
            (leaderless(before(1)), after(1), ProposeError::Leaderless),
            (leaderless(Some(start)), None, ProposeError::Timeout),
            (leaderless(after(1)), None, ProposeError::Timeout),
            // It led before, and lost its term a moment before the request came.
            (Leadership { elected_at: before(9), ..leaderless(before(1)) }, None, ProposeError::Leaderless),
            (follower, None, ProposeError::Timeout),
            (follower, after(1), ProposeError::TimeoutConnectionLost),
            (follower, Some(start), ProposeError::Timeout),
            (leader, after(1), ProposeError::Timeout),
            (elected(after(1999)), None, ProposeError::TimeoutLeaderLost),
            (elected(after(2000)), None, ProposeError::Timeout),
            (elected(Some(start)), None, ProposeError::Timeout),
        ] {
            assert_eq!(reason(start, &leadership, lost, election), expected, "{leadership:?}, {lost:?}");
        }
    }
}
