//! A simulator: whole clusters in one thread, with everything outside of them from one seed.
//!
//! ```text
//! seed --> plan: knobs, load, faults --> world: hosts, network, clients --> history, trace --> judges
//!                                          |
//!                        a host: a disk in memory, a clock, a runtime with one member of production
//! ```
//!
//! The members are those of production, with openraft, the log, redb and the gRPC services. What is simulated is the
//! world: time, tasks and threads (`threads.rs`, `clock.rs`), chance, the network (`Connector`), and the disks
//! (`Disks`). A run first breaks things, then heals them: in the end there must be one leader, all members must
//! hold the same, and everything that a client saw must be what a correct store answers.

mod candidates;
mod clients;
mod dice;
mod errands;
mod flips;
mod host;
#[path = "../../tests/judges/mod.rs"]
mod judges;
mod leaders;
mod logins;
mod network;
mod panics;
mod past;
#[path = "../../tests/support/pb.rs"]
mod pb;
mod plan;
mod replicas;
mod report;
mod run;
mod tenants;
mod tests;
mod trace;
mod users;
mod watchers;
mod wires;
mod world;
