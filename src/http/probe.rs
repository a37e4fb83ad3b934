//! What the endpoints ask the node.

use std::sync::Arc;

use crate::{
    apply::AlarmKind,
    config::Config,
    telemetry::{Metrics, NodeState},
};

/// The node, as its health checks and metrics see it. Cloning is cheap.
pub(crate) trait Probe: Clone + Send + Sync + 'static {
    fn config(&self) -> &Config;

    fn metrics(&self) -> &Arc<Metrics>;

    fn has_leader(&self) -> bool;

    fn is_learner(&self) -> bool;

    /// Alarms that are raised, anywhere in the cluster.
    fn alarms(&self) -> Vec<AlarmKind>;

    /// Reads one key or none, as the whole cluster knows it or (`serializable`) as this member
    /// does. It ends by itself, at the latest when a client's request would. The error is in the
    /// words that a client would see.
    fn read(&self, serializable: bool) -> impl Future<Output = Result<(), String>> + Send;

    fn versions(&self) -> Versions;

    /// For a scrape: everything at once, at this moment.
    fn state(&self) -> NodeState;
}

/// Versions that are not known yet are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) cluster: Option<String>,
    pub(crate) storage: Option<String>,
}
