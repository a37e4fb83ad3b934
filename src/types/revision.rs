//! Revisions.
//!
//! [`Rev`] is the revision that clients see: every request that changes something raises it by one.
//! [`Revision`] identifies one change within it. As in etcd, an empty store is at revision 1, so the first
//! write gets revision 2.

use std::fmt;

/// The main revision, as clients see it in `header.revision` and `mod_revision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rev(pub(crate) i64);

impl Rev {
    /// The revision of an empty store.
    pub(crate) const INITIAL: Rev = Rev(1);
    /// "Nothing has been compacted yet", as etcd reports it.
    pub(crate) const NEVER_COMPACTED: Rev = Rev(-1);

    pub(crate) fn next(self) -> Rev {
        Rev(self.0 + 1)
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One change: the `sub`-th (from 0) of main revision `main`. It is the storage key of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Revision {
    pub(crate) main: Rev,
    pub(crate) sub: i64,
}

impl Revision {
    pub(crate) fn new(main: i64, sub: i64) -> Revision {
        Revision { main: Rev(main), sub }
    }

    /// The first change that could come after everything of `rev`.
    pub(crate) fn after(rev: Rev) -> Revision {
        Revision { main: rev.next(), sub: 0 }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}
