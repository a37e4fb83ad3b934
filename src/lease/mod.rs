//! Leases: who holds which keys, and until when.
//!
//! The two halves never meet. [`Lessor`] is replicated: it is what the log says, and knows no
//! time. [`Expiry`] belongs to the leader alone: deadlines by its own clock, gone with its
//! leadership. A deadline decides when a revoke is *proposed*; a lease ends by the revoke in the
//! log and by nothing else.

mod expiry;
mod lessor;

pub(crate) use expiry::Expiry;
#[cfg(test)]
pub(crate) use lessor::Lease;
pub(crate) use lessor::Lessor;
