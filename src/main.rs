//! retcd: a drop-in replacement for etcd.

mod apply;
mod lease;
mod limits;
mod mvcc;
mod pb;
mod storage;
mod types;

fn main() {}
