//! retcd: a drop-in replacement for etcd.

mod apply;
mod limits;
mod mvcc;
mod pb;
mod storage;
mod types;
mod watch;

fn main() {}
