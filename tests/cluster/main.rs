//! Clusters of several members: three or more processes of the real binary, on loopback.
//!
//! Each test founds a cluster of its own. A test expects what holds for any order of events: every member has
//! all acknowledged writes, and linearizable reads are current.

mod bootstrap;
#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/cluster.rs"]
mod cluster;
mod console;
mod deadline;
mod disaster;
mod discovery;
mod divergence;
mod etcdctl;
mod failover;
mod full_disk;
mod guarded;
mod hostile;
mod imported;
mod large;
mod leases;
mod logins;
mod matrix;
mod membership;
#[path = "../support/name_server.rs"]
mod name_server;
#[path = "../support/pb.rs"]
mod pb;
mod peers;
#[path = "../support/raw.rs"]
mod raw;
mod replacement;
mod restored;
#[path = "../support/rows.rs"]
mod rows;
#[path = "../support/running.rs"]
mod running;
#[path = "../support/secure.rs"]
mod secure;
mod serving;
#[path = "../support/small_disk.rs"]
mod small_disk;
mod snapshots;
mod stopping;
mod tls;
#[path = "../support/tools.rs"]
mod tools;
mod trouble;
mod v2;
mod waiting;
