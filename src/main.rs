//! retcd: a drop-in replacement for etcd.

mod apply;
mod config;
mod http;
mod limits;
mod mvcc;
mod pb;
mod storage;
mod telemetry;
mod types;

fn main() {}
