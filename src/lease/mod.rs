//! Leases: who holds which keys, and until when.
//!
//! The two halves do not know each other. [`Lessor`] is replicated: it is what the log says, and knows no
//! time. [`Expiry`] belongs to the leader alone: deadlines by its own clock, gone with its
//! leadership. A deadline decides when a revoke is *proposed*; a lease ends by the revoke in the
//! log and by nothing else. What a leader knows of deadlines reaches the next one as a checkpoint
//! in the log, and only as that.

mod attention;
mod expiry;
mod lessor;

pub(crate) use attention::Attention;
pub(crate) use expiry::{Expiry, Renewal};
#[cfg(test)]
pub(crate) use lessor::Lease;
pub(crate) use lessor::Lessor;
