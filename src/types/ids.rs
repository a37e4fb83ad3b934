//! Identifiers. On the wire they are plain integers; people see them in lower hex.

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
    /// A lease. Any non-zero value is legal, negative ones included; `NONE` is "no lease".
    LeaseId(i64)
);
id!(
    /// A member of the cluster: the first eight bytes of a SHA-1, as etcd computes it.
    MemberId(u64)
);
id!(
    /// The cluster, computed from its initial members and fixed from then on.
    ClusterId(u64)
);

/// A digest of the state that a log begins with. Members whose logs began with different states stay
/// different permanently, even if their logs are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base(pub(crate) u64);

impl Base {
    /// The log began with the first thing that was ever written.
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
