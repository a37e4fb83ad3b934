//! Several members: the real binary, three times and more, on loopback.
//!
//! Each test founds a cluster of its own. What it expects is what holds for any order of events:
//! what was acknowledged is there, on every member, and a read that must be current is.

mod cluster;
mod failover;
mod membership;
mod pb;
mod serving;
mod tools;
