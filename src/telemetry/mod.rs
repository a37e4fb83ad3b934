//! What operators see: the log and the metrics.
//!
//! Both keep etcd's names and shapes, so that its dashboards, alert rules and log queries work
//! unchanged. Handles are plain and cheap to bump; what merely mirrors the node's state is not
//! kept up to date but asked for when somebody looks ([`NodeState`]).

mod grpc;
mod log;
mod metrics;
mod process;

pub(crate) use grpc::{GrpcKind, GrpcMethod};
pub(crate) use log::{init_log, init_log_to_stderr};
pub(crate) use metrics::{Metrics, NodeState};
