//! How the node answers the questions of the HTTP endpoints.

use std::sync::Arc;

use crate::{
    apply::AlarmKind,
    config::{Config, ETCD_CLUSTER_VERSION},
    mvcc::Range,
    node::{Credentials, Node},
    telemetry::{Metrics, NodeState},
    types::{Caller, KeyRange},
};

use super::{Probe, Versions};

impl Probe for Node {
    fn config(&self) -> &Config {
        Node::config(self)
    }

    fn metrics(&self) -> &Arc<Metrics> {
        Node::metrics(self)
    }

    fn has_leader(&self) -> bool {
        Node::has_leader(self)
    }

    fn is_learner(&self) -> bool {
        self.leadership().is_learner
    }

    fn is_auth_enabled(&self) -> bool {
        Node::is_auth_enabled(self)
    }

    fn alarms(&self) -> Vec<AlarmKind> {
        self.alarm_kinds()
    }

    fn full_disks(&self) -> Vec<String> {
        Node::full_disks(self)
    }

    async fn read(&self, serializable: bool) -> Result<(), String> {
        // The request comes from the member itself, not from a client.
        let session = self.session(Credentials::Known(Caller::Internal));
        if !serializable {
            session.read_barrier().await.map_err(|error| format!("etcdserver: {error}"))?;
        }
        let nothing = Range { limit: 1, ..Range::of(KeyRange::Point("a".into())) };
        session.range(&nothing).await.map_err(|error| error.to_string())?;
        Ok(())
    }

    fn versions(&self) -> Versions {
        let version = Some(ETCD_CLUSTER_VERSION.to_owned());
        Versions { cluster: version.clone().filter(|_| self.has_leader()), storage: version }
    }

    fn state(&self) -> NodeState {
        Node::state(self)
    }
}
