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
