//! retcd: a drop-in replacement for etcd.

mod apply;
mod config;
mod limits;
mod mvcc;
mod pb;
mod storage;
mod types;

fn main() {}
