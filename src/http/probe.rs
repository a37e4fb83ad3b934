//! The questions that the HTTP endpoints ask the node.

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

    /// Whether clients have to say who they are.
    fn is_auth_enabled(&self) -> bool;

    /// Alarms that are raised, anywhere in the cluster.
    fn alarms(&self) -> Vec<AlarmKind>;

    /// The directories of this member whose disk is full.
    fn full_disks(&self) -> Vec<String>;

    /// Reads at most one key: from this member alone if `serializable` is set, else after a quorum has
    /// confirmed the leader. The read times out when a client's request would. The error is the text
    /// that a client would get.
    fn read(&self, serializable: bool) -> impl Future<Output = Result<(), String>> + Send;

    fn versions(&self) -> Versions;

    /// The state that a scrape of the metrics reports, all taken at the same moment.
    fn state(&self) -> NodeState;
}

/// The versions of the cluster; a version that is not known yet is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) cluster: Option<String>,
    pub(crate) storage: Option<String>,
}
