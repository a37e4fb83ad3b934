//! Several members: the real binary, three times and more, on loopback.
//!
//! Each test founds a cluster of its own. What it expects is what holds for any order of events:
//! what was acknowledged is there, on every member, and a read that must be current is.

#[path = "../support/cluster.rs"]
mod cluster;
mod failover;
mod membership;
#[path = "../support/pb.rs"]
mod pb;
mod peers;
mod serving;
#[path = "../support/tools.rs"]
mod tools;
