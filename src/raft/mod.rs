//! Consensus: openraft, and the log and the state machine that it drives.
//!
//! openraft's generics stay in this room. What leaves it is a handle to propose with and to watch
//! leadership (`Consensus`), the replicated state under its lock (`Replica`), and the log.

mod codec;
mod consensus;
mod lease_clock;
mod log_store;
mod network;
mod state_machine;
mod typ;
mod wal;

pub(crate) use consensus::{Consensus, ConsensusError, Leadership, NotProposed, Timing};
pub(crate) use lease_clock::LeaseClock;
pub(crate) use log_store::LogStore;
pub(crate) use state_machine::{RaftStateMachine, Replica};
