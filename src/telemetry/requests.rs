//! How long requests take, by their kind.
//!
//! etcd has two families of histograms with one series for each kind of request: how long a whole request took
//! (`etcd_server_request_duration_seconds`), and how long applying it took (`etcd_server_apply_duration_seconds`).
//! Like etcd's, a series appears with its first observation.

use std::{sync::OnceLock, time::Duration};

use prometheus::{Histogram, HistogramVec};

/// The kinds of requests that etcd distinguishes, under etcd's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterMemberAttrSet,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
    AuthEnable,
    AuthDisable,
    Authenticate,
    V2,
}

/// The number of kinds: one more than the last.
const KINDS: usize = RequestKind::V2 as usize + 1;

impl RequestKind {
    fn name(self) -> &'static str {
        match self {
            RequestKind::Range => "Range",
            RequestKind::ReadonlyTxn => "ReadonlyTxn",
            RequestKind::Put => "Put",
            RequestKind::DeleteRange => "DeleteRange",
            RequestKind::Txn => "Txn",
            RequestKind::Compaction => "Compaction",
            RequestKind::LeaseGrant => "LeaseGrant",
            RequestKind::LeaseRevoke => "LeaseRevoke",
            RequestKind::LeaseCheckpoint => "LeaseCheckpoint",
            RequestKind::Alarm => "Alarm",
            RequestKind::ClusterMemberAttrSet => "ClusterMemberAttrSet",
            RequestKind::AuthUserAdd => "AuthUserAdd",
            RequestKind::AuthUserDelete => "AuthUserDelete",
            RequestKind::AuthUserChangePassword => "AuthUserChangePassword",
            RequestKind::AuthUserGrantRole => "AuthUserGrantRole",
            RequestKind::AuthUserRevokeRole => "AuthUserRevokeRole",
            RequestKind::AuthRoleAdd => "AuthRoleAdd",
            RequestKind::AuthRoleDelete => "AuthRoleDelete",
            RequestKind::AuthRoleGrantPermission => "AuthRoleGrantPermission",
            RequestKind::AuthRoleRevokePermission => "AuthRoleRevokePermission",
            RequestKind::AuthEnable => "AuthEnable",
            RequestKind::AuthDisable => "AuthDisable",
            RequestKind::Authenticate => "Authenticate",
            RequestKind::V2 => "V2",
        }
    }
}

/// A family with a series for each kind and each result. The series are looked up once: a lookup by label costs
/// more than an observation.
pub(super) struct DurationsByKind {
    family: HistogramVec,
    /// The values of the labels, in the family's order.
    labels: fn(kind: &'static str, success: &'static str) -> Vec<&'static str>,
    series: [[OnceLock<Histogram>; 2]; KINDS],
}

impl DurationsByKind {
    pub(super) fn new(
        family: HistogramVec,
        labels: fn(kind: &'static str, success: &'static str) -> Vec<&'static str>,
    ) -> DurationsByKind {
        let series = std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new()));
        DurationsByKind { family, labels, series }
    }

    pub(super) fn observe(&self, kind: RequestKind, success: bool, took: Duration) {
        let series = self.series[kind as usize][usize::from(success)].get_or_init(|| {
            let success = if success { "true" } else { "false" };
            self.family.with_label_values(&(self.labels)(kind.name(), success))
        });
        series.observe(took.as_secs_f64());
    }
}
