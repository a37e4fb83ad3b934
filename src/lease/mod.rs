//! Leases, the keys that are attached to them, and their deadlines.
//!
//! [`Lessor`] and [`Expiry`] do not know each other. [`Lessor`] is replicated: it has the leases as the log
//! determines them, and knows no time. [`Expiry`] has the deadlines, by the leader's clock; only the leader
//! has one, and it is lost with the leadership. A deadline decides when a revoke is *proposed*; a lease
//! ends when a revoke in the log is applied, and in no other way. The next leader learns the remaining TTLs
//! from *notes* in the log, which etcd calls lease checkpoints.

mod attention;
mod expiry;
mod lessor;

pub(crate) use attention::Attention;
pub(crate) use expiry::{Expiry, Renewal};
pub(crate) use lessor::{Lease, Lessor};
