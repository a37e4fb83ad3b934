//! Whether this member is healthy: `/health` as one result, `/livez` and `/readyz` check by check.
//!
//! This file does not depend on HTTP. A check that is excluded is not run. `/health` tests for alarms,
//! then for a full disk, for a leader, then a read, and returns the first reason that it finds.

use std::fmt::Write;

use crate::apply::AlarmKind;

use super::Probe;

/// The result of `/health`; the error is the reason that the member is not healthy.
pub(super) async fn health<P: Probe>(node: &P, exclude: &[&str], serializable: bool) -> Result<(), String> {
    if let Some(alarm) = node.alarms().into_iter().map(alarm_name).find(|alarm| !exclude.contains(alarm)) {
        return Err(format!("ALARM {alarm}"));
    }
    // Whoever passes over the quota passes over the disk too.
    if let Some(path) = node.full_disks().first().filter(|_| !exclude.contains(&"NOSPACE")) {
        return Err(format!("DISK FULL {path}"));
    }
    if !serializable && !node.has_leader() {
        return Err("RAFT NO LEADER".to_owned());
    }
    node.read(serializable).await.map_err(|error| format!("RANGE ERROR:{error}"))
}

fn alarm_name(alarm: AlarmKind) -> &'static str {
    match alarm {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

/// Liveness (does the process respond?) or readiness (should it be sent requests?).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Livez,
    Readyz,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Endpoint {
    pub(super) fn name(self) -> &'static str {
        match self {
            Endpoint::Livez => "livez",
            Endpoint::Readyz => "readyz",
        }
    }

    pub(super) fn checks(self) -> &'static [Check] {
        match self {
            Endpoint::Livez => &[Check::SerializableRead],
            Endpoint::Readyz => {
                &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner]
            }
        }
    }
}

impl Check {
    pub(super) fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run<P: Probe>(self, node: &P) -> Result<(), String> {
        match self {
            Check::DataCorruption if node.alarms().contains(&AlarmKind::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Check::DataCorruption => Ok(()),
            Check::SerializableRead => node.read(true).await,
            Check::LinearizableRead => node.read(false).await,
            Check::NonLearner if node.is_learner() => Err("not supported for learner".to_owned()),
            Check::NonLearner => Ok(()),
        }
    }
}

/// The result of some checks, with one line for each.
pub(super) struct Report {
    pub(super) well: bool,
    pub(super) lines: String,
}

pub(super) async fn run_checks<P: Probe>(node: &P, endpoint: Endpoint, checks: &[Check]) -> Report {
    let mut report = Report { well: true, lines: String::new() };
    for check in checks {
        let name = check.name();
        let result = check.run(node).await;
        node.metrics().checked(endpoint.name(), name, result.is_ok());
        match result {
            Ok(()) => writeln!(report.lines, "[+]{name} ok"),
            Err(error) => {
                report.well = false;
                writeln!(report.lines, "[-]{name} failed: {error}")
            }
        }
        .expect("a String takes everything");
    }
    report
}
