//! When the leader has to propose the revoke of a lease, and when to note its remaining TTL in the log.
//!
//! There is one timer for each lease. When a timer fires, the caller proposes the lease's revoke, and the
//! timer is set again a little later, in case the proposal fails. Only [`Expiry::forget`], which is called
//! when the revoke was applied, removes the timer.
//!
//! A lease never ends early. It can be renewed until [`Expiry::expired`] returns it; after that its revoke
//! may be in the log. Members that do not lead have no deadlines.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    limits::{LEASE_CHECKPOINT_INTERVAL, LEASE_EXPIRIES_PER_SEC, LEASE_REVOKE_RETRY},
    types::LeaseId,
};

#[derive(Debug, Default)]
pub(crate) struct Expiry {
    /// The term in which this member leads.
    term: Option<u64>,
    leases: BTreeMap<LeaseId, Timer>,
    /// Every lease once, by its `fires_at`.
    queue: BTreeSet<(Instant, LeaseId)>,
    /// The leases whose remaining TTL is to be noted, each once, by its `noted_at`.
    notes: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// The end of the TTL that was promised to the client; notes contain the time until then. The
    /// extension by a new leader is not included, because the TTL would otherwise grow with every change of
    /// leader.
    promised: Instant,
    /// The lease is not revoked before this time.
    deadline: Instant,
    /// The deadline, or, once the lease's revoke has been proposed, the time to propose it again.
    fires_at: Instant,
    /// When the remaining TTL is to be noted.
    noted_at: Option<Instant>,
    /// A note of this lease may be in the log and not applied yet.
    is_being_noted: bool,
}

impl Timer {
    fn is_revoking(&self) -> bool {
        self.fires_at > self.deadline
    }
}

/// The result of a keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    Renewed {
        /// A note with a shorter remaining TTL may be in the log and not applied yet.
        is_being_noted: bool,
    },
    /// The lease is being revoked.
    Ended,
    /// There is no deadline for such a lease.
    Unknown,
}

impl Expiry {
    /// To be called when this member begins to lead in `term`. `leases` are all leases with their remaining
    /// TTLs. Each gets `extend` in addition, for the time without a leader, when no client could renew it.
    ///
    /// If more than [`LEASE_EXPIRIES_PER_SEC`] leases would expire in the same second, they are spread over
    /// the seconds after it, so that their revokes do not delay writes.
    pub(crate) fn promote(
        &mut self,
        term: u64,
        now: Instant,
        extend: Duration,
        leases: impl IntoIterator<Item = (LeaseId, Duration)>,
    ) {
        self.demote();
        self.term = Some(term);
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
            self.set(id, now, now + remaining - extend, now + remaining + delay);
        }
    }

    /// To be called when this member stops leading.
    pub(crate) fn demote(&mut self) {
        *self = Expiry::default();
    }

    /// The term for which the deadlines hold.
    pub(crate) fn term(&self) -> Option<u64> {
        self.term
    }

    /// To be called when a grant was applied.
    pub(crate) fn granted(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        if self.term.is_some() {
            self.set(id, now, now + ttl, now + ttl);
        }
    }

    /// Sets a new deadline for a lease that its client keeps alive.
    pub(crate) fn renew(&mut self, id: LeaseId, ttl: Duration, now: Instant) -> Renewal {
        match self.leases.get(&id).copied() {
            None => Renewal::Unknown,
            Some(timer) if timer.is_revoking() => Renewal::Ended,
            Some(Timer { is_being_noted, .. }) => {
                self.set(id, now, now + ttl, now + ttl);
                self.leases.get_mut(&id).expect("it was set").is_being_noted = is_being_noted;
                Renewal::Renewed { is_being_noted }
            }
        }
    }

    /// To be called when a revoke was applied.
    pub(crate) fn forget(&mut self, id: LeaseId) {
        if let Some(timer) = self.leases.remove(&id) {
            self.unlist(id, timer);
        }
        assert_eq!(self.queue.len(), self.leases.len(), "every lease is queued once");
    }

    /// Up to `max` leases to be revoked now, the longest overdue first. Each is returned again after
    /// [`LEASE_REVOKE_RETRY`], until [`Expiry::forget`] is called for it.
    pub(crate) fn expired(&mut self, now: Instant, max: usize) -> Vec<LeaseId> {
        let due: Vec<(Instant, LeaseId)> =
            self.queue.iter().take_while(|(fires_at, _)| *fires_at <= now).take(max).copied().collect();
        for entry @ (_, id) in &due {
            let fires_at = now + LEASE_REVOKE_RETRY;
            let timer = self.leases.get_mut(id).expect("every queued id is a lease");
            assert!(timer.deadline <= now, "a lease is not revoked before its deadline");
            timer.fires_at = fires_at;
            assert!(self.queue.remove(entry), "lease {id} is queued");
            assert!(self.queue.insert((fires_at, *id)), "lease {id} is queued once");
        }
        assert_eq!(self.queue.len(), self.leases.len(), "every lease is queued once");
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Up to `max` leases to be noted now, with their remaining TTLs. A lease that is not renewed is noted
    /// every [`LEASE_CHECKPOINT_INTERVAL`], as long as more than that is left.
    pub(crate) fn due_notes(&mut self, now: Instant, max: usize) -> Vec<(LeaseId, Duration)> {
        let due = self.notes.iter().take_while(|(at, _)| *at <= now).take(max).map(|(_, id)| *id).collect();
        self.note(due, now)
    }

    /// Up to `max` leases to be noted before another member leads, those that expire next first.
    pub(crate) fn all_notes(&mut self, now: Instant, max: usize) -> Vec<(LeaseId, Duration)> {
        let lives = |id: &LeaseId| self.leases.get(id).is_some_and(|timer| !timer.is_revoking());
        let next = self.queue.iter().map(|(_, id)| *id).filter(lives).take(max).collect();
        self.note(next, now)
    }

    /// To be called when the note of these leases was applied, or has failed.
    pub(crate) fn noted(&mut self, leases: &[(LeaseId, Duration)]) {
        for (id, _) in leases {
            if let Some(timer) = self.leases.get_mut(id) {
                timer.is_being_noted = false;
            }
        }
    }

    fn note(&mut self, leases: Vec<LeaseId>, now: Instant) -> Vec<(LeaseId, Duration)> {
        let mut notes = Vec::with_capacity(leases.len());
        for id in leases {
            let timer = self.leases.get_mut(&id).expect("every listed id is a lease");
            if let Some(at) = timer.noted_at.take() {
                assert!(
                    self.notes.remove(&(at, id)),
                    "lease {id} is listed for a note at the time in its timer"
                );
            }
            timer.is_being_noted = true;
            timer.noted_at = next_note(timer.promised, now);
            self.notes.extend(timer.noted_at.map(|at| (at, id)));
            notes.push((id, timer.promised.saturating_duration_since(now)));
        }
        notes
    }

    /// When to call [`Expiry::expired`] next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(fires_at, _)| *fires_at)
    }

    /// When to call [`Expiry::due_notes`] next.
    pub(crate) fn next_note(&self) -> Option<Instant> {
        self.notes.first().map(|(at, _)| *at)
    }

    /// The remaining TTL of a lease: zero while it is being revoked, `None` if there is no such lease.
    pub(crate) fn remaining(&self, id: LeaseId, now: Instant) -> Option<Duration> {
        self.leases.get(&id).map(|timer| timer.deadline.saturating_duration_since(now))
    }

    fn set(&mut self, id: LeaseId, now: Instant, promised: Instant, deadline: Instant) {
        assert!(promised <= deadline, "lease {id} lives at least as long as was promised");
        let noted_at = next_note(promised, now);
        let timer = Timer { promised, deadline, fires_at: deadline, noted_at, is_being_noted: false };
        if let Some(before) = self.leases.insert(id, timer) {
            self.unlist(id, before);
        }
        assert!(self.queue.insert((deadline, id)), "lease {id} is queued once");
        self.notes.extend(noted_at.map(|at| (at, id)));
        assert_eq!(self.queue.len(), self.leases.len(), "every lease is queued once");
        assert!(self.notes.len() <= self.leases.len(), "a lease is listed for a note at most once");
    }

    fn unlist(&mut self, id: LeaseId, timer: Timer) {
        assert!(self.queue.remove(&(timer.fires_at, id)), "lease {id} is queued at the time in its timer");
        if let Some(at) = timer.noted_at {
            assert!(self.notes.remove(&(at, id)), "lease {id} is listed for a note at the time in its timer");
        }
    }
}

/// A lease that expires before its next note would be due gets none.
fn next_note(promised: Instant, now: Instant) -> Option<Instant> {
    let at = now + LEASE_CHECKPOINT_INTERVAL;
    (promised > at).then_some(at)
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
        expiry.promote(1, now, Duration::ZERO, []);
        expiry
    }

    const RENEWED: Renewal = Renewal::Renewed { is_being_noted: false };

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
        assert_eq!(expiry.renew(A, secs(10), start + secs(9)), RENEWED);
        assert_eq!(expiry.expired(start + secs(18), 9), []);
        assert_eq!(expiry.expired(start + secs(19), 9), [A]);
    }

    /// etcd issue 20615: a renewal must not succeed while the revoke is in the log.
    #[test]
    fn a_lease_that_was_handed_out_cannot_be_renewed() {
        let start = Instant::now();
        let mut expiry = leading(start);
        expiry.granted(A, secs(10), start);
        assert_eq!(expiry.renew(A, secs(10), start + secs(12)), RENEWED, "late, and nobody has decided yet");
        assert_eq!(expiry.expired(start + secs(21), 9), []);
        assert_eq!(expiry.expired(start + secs(22), 9), [A]);
        assert_eq!(expiry.renew(A, secs(10), start + secs(22)), Renewal::Ended);
        assert_eq!(expiry.expired(start + secs(25), 9), [A]);
        assert_eq!(expiry.renew(A, secs(10), start + secs(30)), Renewal::Ended, "not between two attempts");
        expiry.forget(A);
        assert_eq!(expiry.renew(A, secs(10), start + secs(11)), Renewal::Unknown, "revoked");
        assert_eq!(expiry.renew(B, secs(10), start), Renewal::Unknown, "never granted");
    }

    /// etcd issues 9935, 10686 and 14019: a lease was removed from the heap, its revoke failed, and it was
    /// never proposed again.
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
        expiry.promote(2, now, secs(1), [(B, secs(20))]);
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
        assert_eq!(expiry.renew(A, secs(10), start), Renewal::Unknown);
        assert_eq!((expiry.next_deadline(), expiry.expired(start + secs(99), 9)), (None, vec![]));
        assert_eq!((expiry.term(), expiry.next_note()), (None, None));
    }

    #[test]
    fn a_crowd_is_spread_and_nobody_is_early() {
        let start = Instant::now();
        let crowd = 3 * LEASE_EXPIRIES_PER_SEC + 1;
        let leases = (1..).map(LeaseId).zip(std::iter::repeat_n(secs(10), crowd));
        let mut expiry = Expiry::default();
        expiry.promote(1, start, secs(1), leases.chain([(LeaseId(-1), secs(12)), (LeaseId(-2), secs(60))]));
        let ends = |from: u64| {
            let range = start + secs(from)..start + secs(from + 1);
            expiry.queue.iter().filter(|(fires_at, _)| range.contains(fires_at)).count()
        };
        assert_eq!((0..11).map(ends).sum::<usize>(), 0);
        assert_eq!((11..14).map(ends).collect::<Vec<_>>(), [LEASE_EXPIRIES_PER_SEC; 3]);
        assert_eq!((14..61).map(ends).sum::<usize>(), 2);
        assert_eq!(expiry.remaining(LeaseId(-2), start), Some(secs(61)), "not in the crowd, not delayed");
    }

    #[test]
    fn a_lease_that_nobody_renews_is_checkpointed_now_and_then() {
        let start = Instant::now();
        let (interval, mut expiry) = (LEASE_CHECKPOINT_INTERVAL, leading(start));
        expiry.granted(A, interval * 5 / 2, start);
        expiry.granted(B, interval, start);
        assert_eq!(expiry.next_note(), Some(start + interval), "of the one that outlives it");
        assert_eq!(expiry.due_notes(start + interval - secs(1), 9), []);
        assert_eq!(expiry.due_notes(start + interval, 0), [], "what is beyond the batch stays due");
        assert_eq!(expiry.due_notes(start + interval, 9), [(A, interval * 3 / 2)]);
        assert_eq!(expiry.due_notes(start + interval * 2, 9), [(A, interval / 2)]);
        assert_eq!(expiry.next_note(), None, "it ends before the next one");
        assert_eq!(
            expiry.renew(A, interval * 5 / 2, start + interval * 2),
            Renewal::Renewed { is_being_noted: true }
        );
        assert_eq!(expiry.next_note(), Some(start + interval * 3), "it starts over");
        expiry.noted(&[(A, interval)]);
        assert_eq!(expiry.renew(A, interval * 5 / 2, start + interval * 2), RENEWED);
        expiry.forget(A);
        assert_eq!(expiry.next_note(), None);
    }

    /// Otherwise each change of leader would extend a lease that no client renews.
    #[test]
    fn a_lease_is_extended_once_however_many_leaders_there_were() {
        let mut now = Instant::now();
        let ends = now + secs(60);
        let mut left = secs(60);
        for term in 1..6 {
            let mut expiry = Expiry::default();
            expiry.promote(term, now, secs(1), [(A, left)]);
            assert_eq!(expiry.remaining(A, now), Some(left + secs(1)));
            now += secs(10);
            assert_eq!(expiry.all_notes(now, 0), []);
            let notes = expiry.all_notes(now, 9);
            left = notes[0].1;
            assert_eq!(notes, [(A, ends - now)]);
        }
        let mut expiry = leading(now);
        expiry.granted(A, secs(10), now);
        expiry.granted(B, secs(5), now);
        assert_eq!(expiry.all_notes(now, 1), [(B, secs(5))], "the next to end first");
        assert_eq!(expiry.expired(now + secs(5), 9), [B]);
        assert_eq!(expiry.all_notes(now + secs(5), 9), [(A, secs(5))], "what is being revoked stays so");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Granted(i64, u64),
        Renew(i64, u64),
        Forget(i64),
        Wait(u64),
        Expired(usize),
        DueNotes(usize),
        AllNotes(usize),
        Noted(i64),
        Promote(Vec<(i64, u64)>),
        Demote,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Some leases are longer than one or two intervals of notes, most are not.
        let long = LEASE_CHECKPOINT_INTERVAL.as_secs();
        let (id, ttl) =
            (1i64..5, prop_oneof![3 => 1u64..9, 1 => long - 2..long + 9, 1 => 2 * long..3 * long]);
        prop_oneof![
            4 => (id.clone(), ttl.clone()).prop_map(|(id, ttl)| Step::Granted(id, ttl)),
            4 => (id.clone(), ttl.clone()).prop_map(|(id, ttl)| Step::Renew(id, ttl)),
            2 => id.clone().prop_map(Step::Forget),
            6 => prop_oneof![4 => 0u64..4, 1 => long - 9..long + 2].prop_map(Step::Wait),
            6 => (0usize..4).prop_map(Step::Expired),
            4 => (0usize..4).prop_map(Step::DueNotes),
            1 => (0usize..4).prop_map(Step::AllNotes),
            2 => id.clone().prop_map(Step::Noted),
            1 => prop::collection::vec((id, ttl), 0..4).prop_map(Step::Promote),
            1 => Just(Step::Demote),
        ]
    }

    /// A lease of the model, which is a list without any index.
    #[derive(Clone, Debug)]
    struct Entry {
        id: LeaseId,
        promised: Instant,
        deadline: Instant,
        fires_at: Instant,
        noted_at: Option<Instant>,
        is_being_noted: bool,
    }

    impl Entry {
        fn new(id: LeaseId, now: Instant, ttl: Duration, extend: Duration) -> Entry {
            let (promised, deadline) = (now + ttl, now + ttl + extend);
            let noted_at = (ttl > LEASE_CHECKPOINT_INTERVAL).then_some(now + LEASE_CHECKPOINT_INTERVAL);
            Entry { id, promised, deadline, fires_at: deadline, noted_at, is_being_noted: false }
        }

        fn note(&mut self, now: Instant) -> (LeaseId, Duration) {
            let left = self.promised.saturating_duration_since(now);
            self.noted_at = (left > LEASE_CHECKPOINT_INTERVAL).then_some(now + LEASE_CHECKPOINT_INTERVAL);
            self.is_being_noted = true;
            (self.id, left)
        }
    }

    proptest! {
        #[test]
        fn as_a_list_would(steps in prop::collection::vec(step(), 1..60)) {
            let mut now = Instant::now();
            let mut expiry = Expiry::default();
            let mut term = None;
            let mut list: Vec<Entry> = Vec::new();
            for step in steps {
                match step {
                    Step::Granted(id, ttl) => {
                        expiry.granted(LeaseId(id), secs(ttl), now);
                        if term.is_some() {
                            list.retain(|entry| entry.id != LeaseId(id));
                            list.push(Entry::new(LeaseId(id), now, secs(ttl), Duration::ZERO));
                        }
                    }
                    Step::Renew(id, ttl) => {
                        let expected = match list.iter_mut().find(|entry| entry.id == LeaseId(id)) {
                            None => Renewal::Unknown,
                            Some(entry) if entry.fires_at != entry.deadline => Renewal::Ended,
                            Some(entry) => {
                                let is_being_noted = entry.is_being_noted;
                                *entry = Entry::new(LeaseId(id), now, secs(ttl), Duration::ZERO);
                                entry.is_being_noted = is_being_noted;
                                Renewal::Renewed { is_being_noted }
                            }
                        };
                        prop_assert_eq!(expiry.renew(LeaseId(id), secs(ttl), now), expected);
                    }
                    Step::Forget(id) => {
                        expiry.forget(LeaseId(id));
                        list.retain(|entry| entry.id != LeaseId(id));
                    }
                    Step::Wait(wait) => now += secs(wait),
                    Step::Expired(max) => {
                        list.sort_by_key(|entry| (entry.fires_at, entry.id));
                        let mut due = Vec::new();
                        for entry in list.iter_mut().filter(|entry| entry.fires_at <= now).take(max) {
                            entry.fires_at = now + LEASE_REVOKE_RETRY;
                            due.push(entry.id);
                        }
                        prop_assert_eq!(expiry.expired(now, max), due);
                    }
                    Step::DueNotes(max) => {
                        list.sort_by_key(|entry| (entry.noted_at, entry.id));
                        let due = list.iter_mut().filter(|entry| entry.noted_at.is_some_and(|at| at <= now));
                        let due: Vec<_> = due.take(max).map(|entry| entry.note(now)).collect();
                        prop_assert_eq!(expiry.due_notes(now, max), due);
                    }
                    Step::AllNotes(max) => {
                        list.sort_by_key(|entry| (entry.fires_at, entry.id));
                        let live = list.iter_mut().filter(|entry| entry.fires_at == entry.deadline);
                        let live: Vec<_> = live.take(max).map(|entry| entry.note(now)).collect();
                        prop_assert_eq!(expiry.all_notes(now, max), live);
                    }
                    Step::Noted(id) => {
                        expiry.noted(&[(LeaseId(id), Duration::ZERO)]);
                        for entry in list.iter_mut().filter(|entry| entry.id == LeaseId(id)) {
                            entry.is_being_noted = false;
                        }
                    }
                    Step::Promote(leases) => {
                        let leases: BTreeMap<LeaseId, Duration> =
                            leases.into_iter().map(|(id, ttl)| (LeaseId(id), secs(ttl))).collect();
                        term = Some(term.unwrap_or(0) + 1);
                        expiry.promote(term.unwrap_or(0), now, secs(1), leases.clone());
                        list = leases.into_iter().map(|(id, left)| Entry::new(id, now, left, secs(1))).collect();
                    }
                    Step::Demote => {
                        expiry.demote();
                        term = None;
                        list.clear();
                    }
                }
                prop_assert_eq!(expiry.term(), term);
                prop_assert_eq!(expiry.next_deadline(), list.iter().map(|entry| entry.fires_at).min());
                prop_assert_eq!(expiry.next_note(), list.iter().filter_map(|entry| entry.noted_at).min());
                for id in (1..5).map(LeaseId) {
                    let entry = list.iter().find(|entry| entry.id == id);
                    let remaining = entry.map(|entry| entry.deadline.saturating_duration_since(now));
                    prop_assert_eq!(expiry.remaining(id, now), remaining);
                }
            }
        }
    }
}
