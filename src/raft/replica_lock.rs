//! The lock of the replica, whose owners do not read the database meanwhile.

use std::ops::{Deref, DerefMut};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::replica::Replica;
use crate::storage::Apart;

pub(crate) struct ReplicaLock(RwLock<Replica>);

pub(crate) struct ReplicaReadGuard<'a> {
    replica: RwLockReadGuard<'a, Replica>,
    _apart: Apart,
}

pub(crate) struct ReplicaWriteGuard<'a> {
    replica: RwLockWriteGuard<'a, Replica>,
    _apart: Apart,
}

impl ReplicaLock {
    pub(crate) fn new(replica: Replica) -> ReplicaLock {
        ReplicaLock(RwLock::new(replica))
    }

    pub(crate) fn read(&self) -> ReplicaReadGuard<'_> {
        ReplicaReadGuard { replica: self.0.read(), _apart: Apart::new() }
    }

    pub(crate) fn write(&self) -> ReplicaWriteGuard<'_> {
        ReplicaWriteGuard { replica: self.0.write(), _apart: Apart::new() }
    }
}

impl ReplicaWriteGuard<'_> {
    /// Releases the lock to somebody who waits for it, though the calling thread wants it again soon.
    pub(super) fn unlock_fair(self) {
        RwLockWriteGuard::unlock_fair(self.replica);
    }
}

impl Deref for ReplicaReadGuard<'_> {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

impl Deref for ReplicaWriteGuard<'_> {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

impl DerefMut for ReplicaWriteGuard<'_> {
    fn deref_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }
}
