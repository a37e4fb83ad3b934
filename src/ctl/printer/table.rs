//! `table`: boxes for people; and the rows of them, which `simple` shows too.

use std::io::Write;

use super::{Health, Printer, Shown, Style, unsupported};
use crate::{
    cli::{Failure, draw},
    pb::etcdserverpb as pb,
    telemetry::HumanBytes,
};

pub(super) struct Table;

impl Printer for Table {
    fn print(&self, shown: &Shown<'_>, _: Style, out: &mut dyn Write) -> Result<(), Failure> {
        match *shown {
            Shown::MemberList(response) => draw(&MEMBERS, &members(response), out)?,
            Shown::Health(list) => draw(&HEALTHS, &healths(list), out)?,
            Shown::Status(list) => draw(&STATUSES, &statuses(list), out)?,
            Shown::HashKv(list) => draw(&HASHES, &hashes(list), out)?,
            _ => return Err(unsupported("table")),
        }
        Ok(())
    }
}

const MEMBERS: [&str; 6] = ["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"];
const HEALTHS: [&str; 4] = ["ENDPOINT", "HEALTH", "TOOK", "ERROR"];
const STATUSES: [&str; 16] = [
    "ENDPOINT",
    "ID",
    "VERSION",
    "STORAGE VERSION",
    "DB SIZE",
    "IN USE",
    "PERCENTAGE NOT IN USE",
    "QUOTA",
    "IS LEADER",
    "IS LEARNER",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "ERRORS",
    "DOWNGRADE TARGET VERSION",
    "DOWNGRADE ENABLED",
];
const HASHES: [&str; 3] = ["ENDPOINT", "HASH", "HASH REVISION"];

pub(super) fn members(response: &pb::MemberListResponse) -> Vec<Vec<String>> {
    let row = |member: &pb::Member| {
        vec![
            format!("{:x}", member.id),
            if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    response.members.iter().map(row).collect()
}

fn healths(list: &[Health]) -> Vec<Vec<String>> {
    let row = |health: &Health| {
        let Health { endpoint, is_healthy, took, error } = health;
        vec![endpoint.clone(), is_healthy.to_string(), took.clone(), error.clone()]
    };
    list.iter().map(row).collect()
}

pub(super) fn statuses(list: &[(String, pb::StatusResponse)]) -> Vec<Vec<String>> {
    list.iter().map(|(endpoint, status)| status_row(endpoint, status)).collect()
}

fn status_row(endpoint: &str, status: &pb::StatusResponse) -> Vec<String> {
    let member_id = status.header.map_or(0, |header| header.member_id);
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    // Of an empty database nothing is in use, nor is anything not in use.
    let in_use = status.db_size_in_use.saturating_mul(100).checked_div(status.db_size).unwrap_or(100);
    vec![
        endpoint.to_owned(),
        format!("{member_id:x}"),
        status.version.clone(),
        status.storage_version.clone(),
        HumanBytes(status.db_size).to_string(),
        HumanBytes(status.db_size_in_use).to_string(),
        format!("{}%", 100 - in_use),
        HumanBytes(status.db_size_quota).to_string(),
        (status.leader == member_id).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

pub(super) fn hashes(list: &[(String, pb::HashKvResponse)]) -> Vec<Vec<String>> {
    let row = |(endpoint, response): &(String, pb::HashKvResponse)| {
        vec![endpoint.clone(), response.hash.to_string(), response.hash_revision.to_string()]
    };
    list.iter().map(row).collect()
}
