//! What operators see: the log and the metrics, and what their service manager is told.
//!
//! Both keep etcd's names and shapes, so that its dashboards, alert rules and log queries work
//! unchanged. Handles are plain and cheap to bump; what merely mirrors the node's state is not
//! kept up to date but asked for when somebody looks ([`NodeState`]).

mod grpc;
mod last_words;
mod log;
mod maker;
mod metrics;
mod peer;
mod process;
mod requests;
mod supervisor;
mod units;

pub(crate) use grpc::{GrpcKind, GrpcMethod};
pub(crate) use last_words::{fail, print, refuse};
pub(crate) use log::{init, list};
pub(crate) use metrics::{Metrics, NodeState};
pub(crate) use peer::PeerMetrics;
pub(crate) use requests::RequestKind;
pub(crate) use supervisor::{tell_ready, tell_status, tell_stopping};
pub(crate) use units::{GoDuration, HumanBytes};
