//! Identifiers. They are integers on the wire, and are printed in lower-case hex.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(pub(crate) $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    };
}

id!(
    /// A lease. Any value but 0 is legal, also negative ones; `NONE` means "no lease".
    LeaseId(i64)
);
id!(
    /// A member of the cluster: the first eight bytes of a SHA-1, as etcd computes it.
    MemberId(u64)
);
id!(
    /// The cluster. The id is computed from the initial members, and never changes.
    ClusterId(u64)
);

/// A digest of the state that a log begins with. Members whose logs began with different states stay
/// different permanently, even if their logs are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base(pub(crate) u64);

impl Base {
    /// The log begins with the first write ever made.
    pub(crate) const EMPTY: Base = Base(0);
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Base::EMPTY {
            return f.write_str("no data");
        }
        write!(f, "restored data {:016x}", self.0)
    }
}

impl LeaseId {
    pub(crate) const NONE: LeaseId = LeaseId(0);

    pub(crate) fn is_some(self) -> bool {
        self != LeaseId::NONE
    }
}
