//! Faults: a cluster of real members under load, a fault, and a check of whether any client got an answer
//! that a correct store cannot give.
//!
//! Each test of `nemesis` is one run. All requests, answers and events of the run are recorded in a history.
//! Three checkers, which do not know the cluster, judge it: a replay in the order of revisions, a search that
//! ignores revisions, and a check of what watchers got.

mod client;
#[path = "../support/cluster.rs"]
mod cluster;
mod judge;
#[path = "../judges/mod.rs"]
mod judges;
mod load;
mod nemesis;
#[path = "../support/pb.rs"]
mod pb;
mod planted;
mod proxy;
mod run;
mod shim;
mod simulated;
#[path = "../support/tools.rs"]
mod tools;
mod watcher;

use judges::{history, linearize, model, replay, watches, wire};
