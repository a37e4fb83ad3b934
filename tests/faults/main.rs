//! Faults: a cluster of real members under load, something that breaks, and the question whether
//! any client was told what a store may not say.
//!
//! Each test of `nemesis` is one run. What is asked, answered and seen in it goes into a history,
//! which is judged by those who know nothing of the cluster: by replaying it in the order of
//! revisions, by a second search that ignores revisions, and for what watchers were sent.

mod client;
#[path = "../support/cluster.rs"]
mod cluster;
mod history;
mod judge;
mod linearize;
mod load;
mod model;
mod nemesis;
#[path = "../support/pb.rs"]
mod pb;
mod planted;
mod proxy;
mod replay;
mod run;
mod shim;
mod simulated;
#[path = "../support/tools.rs"]
mod tools;
mod watcher;
mod watches;
mod wire;
