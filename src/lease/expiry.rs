//! When the leader has to ask for the end of a lease.
//!
//! A clock on the wall of the leader's office: one alarm per lease. When an alarm rings, the
//! lease is handed out to be revoked, and its alarm is set a little later once more, in case the
//! revoke does not get through. Only [`Expiry::forget`] (the revoke was applied) takes it down.
//!
//! A lease never ends early. Once its deadline has passed it cannot be renewed: its revoke may
//! already be on its way through the log. Members that do not lead hold no deadlines at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    limits::{LEASE_EXPIRIES_PER_SEC, LEASE_REVOKE_RETRY},
    types::LeaseId,
};

#[derive(Debug, Default)]
pub(crate) struct Expiry {
    leading: bool,
    leases: BTreeMap<LeaseId, Alarm>,
    /// Every lease once, under its `rings`.
    queue: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Clone, Copy, Debug)]
struct Alarm {
    deadline: Instant,
    /// The deadline, or, if that has passed and the lease was handed out, the next attempt.
    rings: Instant,
}

impl Expiry {
    /// This member leads from now on. `leases` comes with what remains of each; all get `extend`
    /// on top, for the time in which nobody could renew them.
    ///
    /// Leases that would end in the same second by the thousand are spread over the seconds after
    /// it, so that their revokes do not crowd out the writes.
    pub(crate) fn promote(
        &mut self,
        now: Instant,
        extend: Duration,
        leases: impl IntoIterator<Item = (LeaseId, Duration)>,
    ) {
        self.demote();
        self.leading = true;
        let mut remaining: Vec<(Duration, LeaseId)> =
            leases.into_iter().map(|(id, remaining)| (remaining + extend, id)).collect();
        remaining.sort_unstable();

        let (mut second, mut expiries) = (0, 0);
        for (remaining, id) in remaining {
            if remaining.as_secs() > second {
                (second, expiries) = (remaining.as_secs(), 0);
            } else if expiries == LEASE_EXPIRIES_PER_SEC {
                (second, expiries) = (second + 1, 0);
            }
            expiries += 1;
            let delay = Duration::from_secs(second - remaining.as_secs());
            self.set(id, now + remaining + delay);
        }
    }

    /// This member leads no more.
    pub(crate) fn demote(&mut self) {
        *self = Expiry::default();
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.leading
    }

    /// A grant was applied.
    pub(crate) fn granted(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        if self.leading {
            self.set(id, now + ttl);
        }
    }

    /// A client keeps its lease. False if it is too late, or there is no such lease here.
    pub(crate) fn renew(&mut self, id: LeaseId, ttl: Duration, now: Instant) -> bool {
        match self.leases.get(&id) {
            Some(alarm) if now < alarm.deadline => self.set(id, now + ttl),
            Some(_) | None => return false,
        }
        true
    }

    /// A revoke was applied.
    pub(crate) fn forget(&mut self, id: LeaseId) {
        if let Some(alarm) = self.leases.remove(&id) {
            self.queue.remove(&(alarm.rings, id));
        }
    }

    /// Up to `max` leases to be revoked now, the longest overdue first. Each is handed out again
    /// after [`LEASE_REVOKE_RETRY`], until it is forgotten.
    pub(crate) fn expired(&mut self, now: Instant, max: usize) -> Vec<LeaseId> {
        let due: Vec<(Instant, LeaseId)> =
            self.queue.iter().take_while(|(rings, _)| *rings <= now).take(max).copied().collect();
        for entry @ (_, id) in &due {
            let rings = now + LEASE_REVOKE_RETRY;
            self.queue.remove(entry);
            self.queue.insert((rings, *id));
            self.leases.get_mut(id).expect("what is queued is a lease").rings = rings;
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// When to call [`Expiry::expired`] next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(rings, _)| *rings)
    }

    /// What is left of a lease: nothing if it waits for its revoke, `None` if it is not here.
    pub(crate) fn remaining(&self, id: LeaseId, now: Instant) -> Option<Duration> {
        self.leases.get(&id).map(|alarm| alarm.deadline.saturating_duration_since(now))
    }

    fn set(&mut self, id: LeaseId, deadline: Instant) {
        let alarm = Alarm { deadline, rings: deadline };
        if let Some(before) = self.leases.insert(id, alarm) {
            self.queue.remove(&(before.rings, id));
        }
        self.queue.insert((deadline, id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: LeaseId = LeaseId(0xa);
    const B: LeaseId = LeaseId(0xb);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn leading(now: Instant) -> Expiry {
        let mut expiry = Expiry::default();
        expiry.promote(now, Duration::ZERO, []);
        expiry
    }

    #[test]
    fn a_lease_ends_at_its_deadline_and_not_before() {
        let start = Instant::now();
        let mut expiry = leading(start);
        expiry.granted(B, secs(20), start);
        expiry.granted(A, secs(10), start);
        assert_eq!(expiry.next_deadline(), Some(start + secs(10)));
        assert_eq!(expiry.expired(start + secs(10) - Duration::from_nanos(1), 9), []);
        assert_eq!(expiry.expired(start + secs(10), 9), [A]);
        assert_eq!(expiry.remaining(A, start + secs(11)), Some(Duration::ZERO));
        assert_eq!(expiry.remaining(B, start + secs(11)), Some(secs(9)));
        assert_eq!(expiry.remaining(LeaseId(1), start), None);
    }

    #[test]
    fn a_renewed_lease_starts_over() {
        let start = Instant::now();
        let mut expiry = leading(start);
        expiry.granted(A, secs(10), start);
        assert!(expiry.renew(A, secs(10), start + secs(9)));
        assert_eq!(expiry.expired(start + secs(18), 9), []);
        assert_eq!(expiry.expired(start + secs(19), 9), [A]);
    }

    /// etcd 20615: a renewal must not succeed while the revoke is on its way.
    #[test]
    fn an_expired_lease_cannot_be_renewed() {
        let start = Instant::now();
        let mut expiry = leading(start);
        expiry.granted(A, secs(10), start);
        assert!(!expiry.renew(A, secs(10), start + secs(10)), "expired, not handed out yet");
        assert_eq!(expiry.expired(start + secs(10), 9), [A]);
        assert!(!expiry.renew(A, secs(10), start + secs(11)), "handed out");
        expiry.forget(A);
        assert!(!expiry.renew(A, secs(10), start + secs(11)), "revoked");
        assert!(!expiry.renew(B, secs(10), start), "never granted");
    }

    /// etcd 9935, 10686, 14019: a lease was taken off the heap, its revoke failed, and nobody
    /// asked again.
    #[test]
    fn a_revoke_that_did_not_get_through_is_asked_for_again() {
        let start = Instant::now();
        let mut expiry = leading(start);
        expiry.granted(A, secs(10), start);
        let mut now = start + secs(10);
        for _ in 0..5 {
            assert_eq!(expiry.expired(now, 9), [A]);
            assert_eq!(expiry.expired(now, 9), [], "not in a busy loop");
            let next = expiry.next_deadline().expect("never lost");
            assert_eq!(next, now + LEASE_REVOKE_RETRY);
            now = next;
        }
        expiry.forget(A);
        assert_eq!(expiry.next_deadline(), None);
        assert_eq!(expiry.expired(now + secs(100), 9), []);
    }

    #[test]
    fn what_is_beyond_the_batch_is_due_at_once() {
        let start = Instant::now();
        let mut expiry = leading(start);
        expiry.granted(B, secs(10), start);
        expiry.granted(A, secs(10), start);
        let now = start + secs(10);
        assert_eq!(expiry.expired(now, 1), [A]);
        assert!(expiry.next_deadline().is_some_and(|next| next <= now));
        assert_eq!(expiry.expired(now, 1), [B]);
    }

    #[test]
    fn a_new_leader_gives_everyone_the_time_of_the_election() {
        let start = Instant::now();
        let mut expiry = leading(start);
        expiry.granted(A, secs(10), start);
        let now = start + secs(5);
        expiry.promote(now, secs(1), [(B, secs(20))]);
        assert_eq!(expiry.remaining(A, now), None, "what it knew from an earlier term is gone");
        assert_eq!(expiry.remaining(B, now), Some(secs(21)));
    }

    #[test]
    fn whoever_does_not_lead_holds_no_deadlines() {
        let start = Instant::now();
        let mut expiry = leading(start);
        expiry.granted(A, secs(10), start);
        expiry.demote();
        expiry.granted(B, secs(10), start);
        assert!(!expiry.renew(A, secs(10), start));
        assert_eq!((expiry.next_deadline(), expiry.expired(start + secs(99), 9)), (None, vec![]));
        assert!(!expiry.is_leading());
    }

    #[test]
    fn a_crowd_is_spread_and_nobody_is_early() {
        let start = Instant::now();
        let crowd = 3 * LEASE_EXPIRIES_PER_SEC + 1;
        let leases = (1..).map(LeaseId).zip(std::iter::repeat_n(secs(10), crowd));
        let mut expiry = Expiry::default();
        expiry.promote(start, secs(1), leases.chain([(LeaseId(-1), secs(12)), (LeaseId(-2), secs(60))]));
        let ends = |from: u64| {
            let range = start + secs(from)..start + secs(from + 1);
            expiry.queue.iter().filter(|(rings, _)| range.contains(rings)).count()
        };
        assert_eq!((0..11).map(ends).sum::<usize>(), 0);
        assert_eq!((11..14).map(ends).collect::<Vec<_>>(), [LEASE_EXPIRIES_PER_SEC; 3]);
        assert_eq!((14..61).map(ends).sum::<usize>(), 2);
        assert_eq!(expiry.remaining(LeaseId(-2), start), Some(secs(61)), "not in the crowd, not delayed");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Granted(i64, u64),
        Renew(i64, u64),
        Forget(i64),
        Wait(u64),
        Expired(usize),
        Promote(Vec<(i64, u64)>),
        Demote,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (id, ttl) = (1i64..5, 1u64..9);
        prop_oneof![
            4 => (id.clone(), ttl.clone()).prop_map(|(id, ttl)| Step::Granted(id, ttl)),
            4 => (id.clone(), ttl.clone()).prop_map(|(id, ttl)| Step::Renew(id, ttl)),
            2 => id.clone().prop_map(Step::Forget),
            6 => (0u64..4).prop_map(Step::Wait),
            6 => (0usize..4).prop_map(Step::Expired),
            1 => prop::collection::vec((id, ttl), 0..4).prop_map(Step::Promote),
            1 => Just(Step::Demote),
        ]
    }

    /// A list of (id, deadline, rings), searched from end to end.
    type Naive = Option<Vec<(LeaseId, Instant, Instant)>>;

    fn set(naive: &mut Naive, id: LeaseId, deadline: Instant) {
        if let Some(list) = naive {
            list.retain(|entry| entry.0 != id);
            list.push((id, deadline, deadline));
        }
    }

    proptest! {
        #[test]
        fn as_a_list_would(steps in prop::collection::vec(step(), 1..60)) {
            let mut now = Instant::now();
            let mut expiry = Expiry::default();
            let mut naive: Naive = None;
            for step in steps {
                match step {
                    Step::Granted(id, ttl) => {
                        expiry.granted(LeaseId(id), secs(ttl), now);
                        set(&mut naive, LeaseId(id), now + secs(ttl));
                    }
                    Step::Renew(id, ttl) => {
                        let alive = naive.iter().flatten().any(|entry| entry.0 == LeaseId(id) && now < entry.1);
                        if alive {
                            set(&mut naive, LeaseId(id), now + secs(ttl));
                        }
                        prop_assert_eq!(expiry.renew(LeaseId(id), secs(ttl), now), alive);
                    }
                    Step::Forget(id) => {
                        expiry.forget(LeaseId(id));
                        naive.iter_mut().for_each(|list| list.retain(|entry| entry.0 != LeaseId(id)));
                    }
                    Step::Wait(wait) => now += secs(wait),
                    Step::Expired(max) => {
                        let mut due = Vec::new();
                        if let Some(list) = &mut naive {
                            list.sort_by_key(|entry| (entry.2, entry.0));
                            for entry in list.iter_mut().filter(|entry| entry.2 <= now).take(max) {
                                entry.2 = now + LEASE_REVOKE_RETRY;
                                due.push(entry.0);
                            }
                        }
                        prop_assert_eq!(expiry.expired(now, max), due);
                    }
                    Step::Promote(leases) => {
                        let leases: BTreeMap<LeaseId, Duration> =
                            leases.into_iter().map(|(id, ttl)| (LeaseId(id), secs(ttl))).collect();
                        expiry.promote(now, secs(1), leases.clone());
                        naive = Some(Vec::new());
                        for (id, ttl) in leases {
                            set(&mut naive, id, now + ttl + secs(1));
                        }
                    }
                    Step::Demote => {
                        expiry.demote();
                        naive = None;
                    }
                }
                prop_assert_eq!(expiry.next_deadline(), naive.iter().flatten().map(|entry| entry.2).min());
                for id in (1..5).map(LeaseId) {
                    let entry = naive.iter().flatten().find(|entry| entry.0 == id);
                    let remaining = entry.map(|entry| entry.1.saturating_duration_since(now));
                    prop_assert_eq!(expiry.remaining(id, now), remaining);
                }
            }
        }
    }
}
