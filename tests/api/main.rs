//! The black-box suite: the real binary, spoken to through etcd's own protocol and tools.
//!
//! Each test starts a server of its own on free ports and a new directory. What a test expects
//! is what etcd does; with `RETCD_TEST_BIN=<an etcd>` the whole suite can be run against a real
//! one to prove it. Where later releases differ from the one at hand, the test asks the server's
//! release and says what it leaves out.

// What the core must not touch is what a test is made of.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod client;
mod concurrency;
mod crash;
mod deadline;
mod differential;
mod etcdctl;
mod examples;
mod http;
mod kv;
mod lease;
mod log;
mod maintenance;
mod metrics;
#[path = "../support/pb.rs"]
mod pb;
mod quota;
mod restore;
#[path = "../support/rows.rs"]
mod rows;
#[path = "../support/running.rs"]
mod running;
mod server;
mod sockets;
mod startup;
#[path = "../support/tools.rs"]
mod tools;
mod transport;
mod txn;
mod watch;
