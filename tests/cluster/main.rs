//! Several members: the real binary, three times and more, on loopback.
//!
//! Each test founds a cluster of its own. What it expects is what holds for any order of events:
//! what was acknowledged is there, on every member, and a read that must be current is.

mod bootstrap;
#[path = "../support/cluster.rs"]
mod cluster;
mod deadline;
mod disaster;
mod etcdctl;
mod failover;
mod large;
mod leases;
mod membership;
#[path = "../support/pb.rs"]
mod pb;
mod peers;
mod replacement;
mod restored;
#[path = "../support/rows.rs"]
mod rows;
#[path = "../support/running.rs"]
mod running;
mod serving;
mod snapshots;
mod stopping;
#[path = "../support/tools.rs"]
mod tools;
mod trouble;
mod waiting;
