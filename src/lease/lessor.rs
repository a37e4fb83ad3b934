//! The leases and the keys attached to them, as the log determines them.
//!
//! A key is attached to at most one lease, which its newest put names. The lessor has the other direction,
//! from a lease to its keys. The cell of a lease contains its TTL and the last note of the remaining TTL.
//! The keys are not stored with the lease, but collected from the store when it is opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use crate::{limits::LEASE_TTL_SECS_MAX, types::LeaseId};

#[derive(Debug, Default)]
pub(crate) struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The granted TTL.
    pub(crate) ttl_secs: i64,
    /// The remaining TTL in the last note in the log; 0 if there is none.
    pub(crate) remaining_millis: i64,
    pub(crate) keys: BTreeSet<Bytes>,
}

impl Lease {
    pub(crate) fn ttl(&self) -> Duration {
        seconds(self.ttl_secs)
    }

    /// The time from which a new leader counts down.
    pub(crate) fn remaining(&self) -> Duration {
        match u64::try_from(self.remaining_millis) {
            Ok(millis) if self.has_checkpoint() => Duration::from_millis(millis),
            Ok(_) | Err(_) => self.ttl(),
        }
    }

    pub(crate) fn has_checkpoint(&self) -> bool {
        self.remaining_millis > 0
    }
}

fn seconds(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap_or(0))
}

impl Lessor {
    pub(crate) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// All leases, by id.
    pub(crate) fn leases(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(&id, lease)| (id, lease))
    }

    /// Returns false and does nothing if the lease exists already.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl_secs: i64) -> bool {
        assert!(id.is_some(), "a lease needs an id");
        if self.leases.contains_key(&id) {
            return false;
        }
        self.leases.insert(id, Lease { ttl_secs, ..Lease::default() });
        true
    }

    /// Removes the lease and returns it. The caller deletes the lease's keys.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Option<Lease> {
        self.leases.remove(&id)
    }

    /// Returns false and does nothing if there is no such lease.
    pub(crate) fn checkpoint(&mut self, id: LeaseId, remaining_millis: i64) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) => lease.remaining_millis = remaining_millis,
            None => return false,
        }
        true
    }

    /// Attaches a key that is attached to no lease.
    pub(crate) fn attach(&mut self, key: &[u8], id: LeaseId) {
        assert!(id.is_some(), "a key is attached to a lease that has an id");
        // A copy, because the caller's key is a slice of a larger buffer and would keep that buffer in
        // memory.
        let is_new = self.lease_mut(id).keys.insert(Bytes::copy_from_slice(key));
        assert!(is_new, "a key is attached to lease {id} once");
    }

    /// Detaches a key from its lease.
    pub(crate) fn detach(&mut self, key: &[u8], id: LeaseId) {
        let was_there = self.lease_mut(id).keys.remove(key);
        assert!(was_there, "a key that is detached from lease {id} was attached to it");
    }

    fn lease_mut(&mut self, id: LeaseId) -> &mut Lease {
        self.leases.get_mut(&id).expect("keys are attached to leases that exist")
    }
}

/// The stored form: the key is the id in eight bytes; the cell is the TTL in seconds and the noted remaining
/// TTL in milliseconds, eight bytes each; all big-endian.
impl Lessor {
    pub(crate) fn cell_key(id: LeaseId) -> Bytes {
        Bytes::copy_from_slice(&id.0.to_be_bytes())
    }

    /// `None` for a lease that does not exist: its cell is to be removed.
    pub(crate) fn cell(&self, id: LeaseId) -> Option<Bytes> {
        let lease = self.leases.get(&id)?;
        Some(Bytes::from([lease.ttl_secs.to_be_bytes(), lease.remaining_millis.to_be_bytes()].concat()))
    }

    /// Adds a stored lease, without its keys. `None` if this is not what [`Lessor::cell`] writes.
    pub(crate) fn restore(&mut self, key: &[u8], cell: &[u8]) -> Option<LeaseId> {
        let id = LeaseId(i64::from_be_bytes(key.try_into().ok()?));
        let (ttl_secs, remaining_millis) = cell.split_first_chunk::<8>()?;
        let ttl_secs = i64::from_be_bytes(*ttl_secs);
        let remaining_millis = i64::from_be_bytes(remaining_millis.try_into().ok()?);
        if !id.is_some() || ttl_secs > LEASE_TTL_SECS_MAX {
            return None;
        }
        self.leases.insert(id, Lease { ttl_secs, remaining_millis, keys: BTreeSet::new() });
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: LeaseId = LeaseId(0xa);

    #[test]
    fn a_lease_is_granted_once() {
        let mut lessor = Lessor::default();
        assert!(lessor.grant(A, 10));
        assert!(!lessor.grant(A, 20));
        assert_eq!(lessor.get(A).map(|lease| lease.ttl_secs), Some(10));
        assert_eq!((lessor.revoke(A).is_some(), lessor.revoke(A)), (true, None));
    }

    #[test]
    fn what_remains_is_the_checkpoint_if_there_is_one() {
        let mut lessor = Lessor::default();
        lessor.grant(A, 600);
        for (checkpoint, remaining) in [(0, 600_000), (7, 7), (0, 600_000)] {
            lessor.checkpoint(A, checkpoint);
            let lease = lessor.get(A).expect("it is there");
            assert_eq!(lease.remaining(), Duration::from_millis(remaining));
            assert_eq!(lease.ttl(), Duration::from_secs(600));
        }
    }

    #[test]
    fn the_stored_form_comes_back() {
        let mut lessor = Lessor::default();
        for id in [A, LeaseId(i64::MIN), LeaseId(-1)] {
            lessor.grant(id, 300);
            lessor.checkpoint(id, 7);
            let cell = lessor.cell(id).expect("it is there");
            let mut restored = Lessor::default();
            assert_eq!(restored.restore(&Lessor::cell_key(id), &cell), Some(id));
            assert_eq!(restored.get(id), lessor.get(id));
        }
        assert_eq!(lessor.cell(LeaseId(1)), None);
        assert_eq!(lessor.restore(b"1234567", &[0; 16]), None);
        assert_eq!(lessor.restore(b"12345678", &[0; 15]), None);
        assert_eq!(lessor.restore(b"12345678", &[0; 17]), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Grant(i64, i64),
        Revoke(i64),
        Checkpoint(i64, i64),
        Attach(u8, i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (id, key, secs) = (-1i64..4, 0u8..6, 0i64..9);
        let some_id = id.clone().prop_filter("a lease needs an id", |&id| id != 0);
        prop_oneof![
            2 => (some_id.clone(), secs.clone()).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
            1 => some_id.clone().prop_map(Step::Revoke),
            1 => (some_id, secs).prop_map(|(id, left)| Step::Checkpoint(id, left)),
            8 => (key, id).prop_map(|(key, id)| Step::Attach(key, id)),
        ]
    }

    proptest! {
        /// Compares the lessor with two lists: of the leases, and of the lease of each key.
        #[test]
        fn as_two_lists_would(steps in prop::collection::vec(step(), 1..80)) {
            let mut lessor = Lessor::default();
            let mut leases: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
            let mut lease_of = [0i64; 6];
            for step in steps {
                match step {
                    Step::Grant(id, ttl) => {
                        let fresh = !leases.contains_key(&id);
                        leases.entry(id).or_insert((ttl, 0));
                        prop_assert_eq!(lessor.grant(LeaseId(id), ttl), fresh);
                    }
                    Step::Revoke(id) => {
                        lease_of.iter_mut().filter(|lease_of| **lease_of == id).for_each(|lease_of| *lease_of = 0);
                        let revoked = lessor.revoke(LeaseId(id));
                        prop_assert_eq!(revoked.is_some(), leases.remove(&id).is_some());
                    }
                    Step::Checkpoint(id, left) => {
                        let known = leases.get_mut(&id).map(|lease| lease.1 = left).is_some();
                        prop_assert_eq!(lessor.checkpoint(LeaseId(id), left), known);
                    }
                    Step::Attach(key, id) => {
                        let before = lease_of[usize::from(key)];
                        if before != id && (id == 0 || leases.contains_key(&id)) {
                            if before != 0 {
                                lessor.detach(&[key], LeaseId(before));
                            }
                            if id != 0 {
                                lessor.attach(&[key], LeaseId(id));
                            }
                            lease_of[usize::from(key)] = id;
                        }
                    }
                }
                let expected: Vec<_> = leases.iter().map(|(&id, &(ttl_secs, remaining_millis))| {
                    let keys = (0u8..).zip(&lease_of).filter(|(_, lease_of)| **lease_of == id);
                    let keys = keys.map(|(key, _)| Bytes::from(vec![key])).collect();
                    (LeaseId(id), Lease { ttl_secs, remaining_millis, keys })
                }).collect();
                let actual: Vec<_> = lessor.leases().map(|(id, lease)| (id, lease.clone())).collect();
                prop_assert_eq!(actual, expected);
            }
        }
    }
}
