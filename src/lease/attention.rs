//! Whether the leader has been awake for long enough to say that a lease has ended.
//!
//! A leader that was blocked by its disk, or whose process was stopped, finds deadlines passed while
//! the keep-alives for those leases still wait in its queues. It therefore handles the keep-alives
//! first: a lease expires only if the leader was awake for a grace period up to that moment.
//!
//! Before a deadline the leader reads its clock every [`LEASE_LOOK_INTERVAL`]. Reading it more than
//! [`LEASE_STALL`] late counts as a stall. A leader with too many stalls in a row expires leases
//! without the grace period.

use std::time::{Duration, Instant};

use crate::limits::{LEASE_LOOK_INTERVAL, LEASE_STALL, LEASE_STALLS_MAX};

#[derive(Debug)]
pub(crate) struct Attention {
    grace: Duration,
    awake_since: Instant,
    looked: Instant,
    next: Option<Instant>,
    /// Stalls since it was awake for long enough.
    stalls: u32,
}

impl Attention {
    pub(crate) fn new(grace: Duration, now: Instant) -> Attention {
        Attention { grace, awake_since: now, looked: now, next: None, stalls: 0 }
    }

    /// The leader reads its clock. Returns by how much the reading was late, if that is a stall.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Duration> {
        let late = self.next.map_or(Duration::ZERO, |next| now.saturating_duration_since(next));
        let unseen = now.saturating_duration_since(self.looked);
        self.looked = now;
        if unseen > LEASE_LOOK_INTERVAL + LEASE_STALL {
            self.awake_since = now;
        } else if now.saturating_duration_since(self.awake_since) >= self.grace {
            self.stalls = 0;
        }
        let is_stall = late > LEASE_STALL;
        self.stalls += u32::from(is_stall);
        is_stall.then_some(late)
    }

    /// Whether leases whose deadline has passed may expire now.
    pub(crate) fn is_sure(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.awake_since) >= self.grace || self.stalls > LEASE_STALLS_MAX
    }

    /// When to read the clock next, if the next lease expires at `deadline`.
    pub(crate) fn next_look(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        self.next = deadline.map(|deadline| {
            // One interval earlier, because a timer never fires early and often fires a little late.
            let ahead = self.grace + LEASE_LOOK_INTERVAL;
            if deadline.saturating_duration_since(now) > ahead {
                return deadline - ahead;
            }
            let sure = deadline.max(self.awake_since + self.grace);
            if sure > now { sure.min(now + LEASE_LOOK_INTERVAL) } else { now + LEASE_LOOK_INTERVAL }
        });
        assert!(self.next.is_none_or(|next| next > now), "the next look is in the future");
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    /// Reads the clock whenever that is planned, until `until`. Returns how often.
    fn look_until(attention: &mut Attention, now: &mut Instant, deadline: Instant, until: Instant) -> usize {
        let mut looks = 0;
        while let Some(next) = attention.next_look(*now, Some(deadline)).filter(|next| *next <= until) {
            *now = next;
            assert_eq!(attention.look(*now), None);
            looks += 1;
        }
        looks
    }

    #[test]
    fn who_was_awake_is_sure_at_the_deadline() {
        let start = Instant::now();
        let (mut attention, mut now) = (Attention::new(GRACE, start), start);
        let deadline = start + Duration::from_secs(60);
        let looks = look_until(&mut attention, &mut now, deadline, deadline);
        assert_eq!(now, deadline);
        assert!(attention.is_sure(now), "not a moment late");
        assert!(looks < 20, "{looks} looks: only the last second is watched");
        assert_eq!(attention.next_look(now, None), None, "without leases it sleeps");
    }

    #[test]
    fn who_slept_waits_for_those_who_waited() {
        let start = Instant::now();
        let (mut attention, mut now) = (Attention::new(GRACE, start), start);
        let deadline = start + Duration::from_secs(60);
        look_until(&mut attention, &mut now, deadline, deadline - Duration::from_millis(300));
        now += Duration::from_secs(10);
        assert!(attention.look(now).is_some_and(|late| late > Duration::from_secs(9)));
        assert!(!attention.is_sure(now));
        let sure = now + GRACE;
        look_until(&mut attention, &mut now, deadline, sure - Duration::from_millis(1));
        assert!(!attention.is_sure(now));
        look_until(&mut attention, &mut now, deadline, sure);
        assert!(attention.is_sure(now) && now == sure);
    }

    /// A stall before the grace period delays no lease, but the grace period begins after it.
    #[test]
    fn who_was_woken_early_from_a_long_sleep_has_to_stay_awake() {
        let start = Instant::now();
        let mut attention = Attention::new(GRACE, start);
        attention.next_look(start, Some(start + Duration::from_secs(60)));
        let now = start + Duration::from_secs(50);
        assert_eq!(attention.look(now), None, "it was not late");
        assert!(!attention.is_sure(now));
    }

    /// Otherwise leases would never expire on a member whose disk is always slow.
    #[test]
    fn who_cannot_stay_awake_stops_waiting() {
        let start = Instant::now();
        let (mut attention, mut now) = (Attention::new(GRACE, start), start);
        for stall in 0..=LEASE_STALLS_MAX {
            assert!(!attention.is_sure(now), "after {stall} stalls");
            attention.next_look(now, Some(start));
            now += LEASE_LOOK_INTERVAL + LEASE_STALL * 2;
            assert!(attention.look(now).is_some());
        }
        assert!(attention.is_sure(now));
        let rested = now + GRACE * 2;
        look_until(&mut attention, &mut now, start, rested);
        attention.next_look(now, Some(start));
        now += LEASE_STALL * 2;
        attention.look(now);
        assert!(!attention.is_sure(now), "it has rested meanwhile, and is patient again");
    }
}
