//! retcd: a drop-in replacement for etcd.
//!
//! Modules in reading order. Above the line nothing knows a clock, chance, a task or a socket:
//! time is an argument, and what happens there happens the same way on every member.

mod types;
mod pb;
mod limits;
mod storage;
mod mvcc;
mod lease;
mod watch;
mod apply;
// ---- the line ------------------------------------------------------------------------------
mod raft;
mod node;
// mod rpc;
// mod http;
// mod serve;
mod config;
mod telemetry;

fn main() {}
