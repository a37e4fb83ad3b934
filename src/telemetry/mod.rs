//! What operators see: the log, the metrics, and the notifications to the service manager.
//!
//! Log and metrics keep etcd's names and formats, so that its dashboards, alert rules and log queries work
//! unchanged. Updating a counter is cheap. Metrics that show the state of the node are not kept up to
//! date, but read from the node at each scrape ([`NodeState`]).

mod grpc;
mod history;
mod last_words;
mod log;
mod maker;
mod metrics;
mod peer;
mod process;
mod requests;
mod start;
mod supervisor;
mod terminal;
mod trace;
mod units;

pub(crate) use grpc::{GrpcKind, GrpcMethod};
pub(crate) use history::{Counts, History, Note, Reading, SAMPLE_INTERVAL, Sample};
pub(crate) use last_words::{fail, print, refuse};
pub(crate) use log::{LogFiles, init, list};
pub(crate) use metrics::{Metrics, NodeState};
pub(crate) use peer::{PeerMetrics, RoundTrips};
pub(crate) use requests::RequestKind;
pub(crate) use start::log_start;
pub(crate) use supervisor::{tell_alive, tell_ready, tell_status, tell_stopping, watchdog_interval};
pub(crate) use terminal::Terminal;
pub(crate) use trace::{Active, Attribute, EntryStages, Span, Tracer};
pub(crate) use units::{GoDuration, HumanBytes};
