//! The black-box suite: the real binary, tested through etcd's protocol and tools.
//!
//! Each test starts a server of its own on free ports and a new directory. A test expects what etcd does;
//! with `RETCD_TEST_BIN=<an etcd>` the whole suite runs against a real etcd. Where releases of etcd differ,
//! the test asks for the server's release, and prints what it leaves out.

// Tests may use clocks, threads and sockets, which the core modules must not.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod advisories;
mod backup;
#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/canary.rs"]
mod canary;
#[path = "../support/certificates.rs"]
mod certificates;
mod check;
mod client;
mod clientv3;
mod concurrency;
mod configuration;
mod console;
mod crash;
mod ctl;
mod deadline;
mod differential;
mod etcdctl;
mod examples;
mod follow;
mod full_disk;
mod fuzz;
mod gateway;
mod guarded;
mod http;
mod jwt;
mod kv;
mod large_values;
mod lease;
mod log;
mod log_files;
mod login;
mod login_storm;
mod long_answer;
mod maintenance;
mod memory;
#[path = "../support/memory_group.rs"]
mod memory_group;
mod metrics;
mod migrate;
mod migrating;
#[path = "../support/pb.rs"]
mod pb;
mod profiles;
mod quota;
#[path = "../support/raw.rs"]
mod raw;
mod restore;
mod rough;
#[path = "../support/rows.rs"]
mod rows;
#[path = "../support/running.rs"]
mod running;
mod secrets;
mod server;
#[path = "../support/small_disk.rs"]
mod small_disk;
mod sockets;
mod startup;
mod tls;
#[path = "../support/tools.rs"]
mod tools;
mod traces;
mod transport;
mod txn;
mod utl;
mod v2;
mod watch;
