//! retcd: a drop-in replacement for etcd.
//!
//! Modules in reading order. Above the line nothing knows a clock, chance, a task or a socket:
//! time is an argument, and what happens there happens the same way on every member.

mod apply;
mod lease;
mod limits;
mod mvcc;
mod pb;
mod storage;
mod types;
mod watch;
// ---- the line ------------------------------------------------------------------------------
mod node;
mod raft;
mod rpc;
// mod http;
// mod serve;
mod config;
mod telemetry;

fn main() {}
