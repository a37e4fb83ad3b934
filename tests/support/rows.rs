//! The tables and comma-separated lines of `etcdctl`, without the cells of some columns. Releases draw tables
//! differently, and have different columns.

use crate::tools::{Release, reference};

/// The columns of `endpoint status` that differ between any two servers, also of the same release.
const OF_EACH_SERVER: [&str; 7] = [
    "VERSION",
    "DB SIZE",
    "IN USE",
    "PERCENTAGE NOT IN USE",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
];

/// The same in JSON, and in lines of one field each.
const FIELDS_OF_EACH_SERVER: [&str; 13] = [
    "raft_term",
    "version",
    "dbSize",
    "dbSizeInUse",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "RaftTerm",
    "Version",
    "DBSize",
    "DBSizeInUse",
    "RaftIndex",
    "RaftAppliedIndex",
];

/// Printed since 3.6.
const OF_LATER_SERVERS: [&str; 2] = ["STORAGE VERSION", "QUOTA"];
const FIELDS_OF_LATER_SERVERS: [&str; 5] =
    ["storageVersion", "dbSizeQuota", "downgradeInfo", "StorageVersion", "DBSizeQuota"];

/// Columns of a status in which two servers that behave alike may differ.
pub(crate) fn status_columns() -> Vec<&'static str> {
    let later = if reference().has((3, 6, 0)) { &[][..] } else { &OF_LATER_SERVERS };
    [&OF_EACH_SERVER, later].concat()
}

/// The same in JSON, and in lines of one field each.
pub(crate) fn status_fields() -> Vec<&'static str> {
    let later = if reference().has((3, 6, 0)) { &[][..] } else { &FIELDS_OF_LATER_SERVERS };
    [&FIELDS_OF_EACH_SERVER, later].concat()
}

/// The rows of a table, without its lines, and with the cells below these headings masked.
pub(crate) fn table_without(text: &str, headings: &[&str]) -> String {
    const BORDERS: [char; 4] = ['+', '\u{250c}', '\u{251c}', '\u{2514}'];
    const UPRIGHT: char = '\u{2502}';
    let mut rows = text
        .lines()
        .filter(|line| !line.starts_with(BORDERS))
        .map(|line| cells(line.trim_matches(['|', UPRIGHT]), &['|', UPRIGHT]));
    let Some(heading) = rows.next() else { return String::new() };
    let blotted: Vec<bool> = heading.iter().map(|cell| headings.contains(cell)).collect();
    let mut out = heading.join("|") + "\n";
    out.extend(rows.map(|row| blot(row, &blotted)));
    out
}

/// The lines of `endpoint status`, with the cells of these columns masked.
pub(crate) fn status_without(text: &str, release: Release, headings: &[&str]) -> String {
    const BEFORE_36: [&str; 10] = [
        "ENDPOINT",
        "ID",
        "VERSION",
        "DB SIZE",
        "IS LEADER",
        "IS LEARNER",
        "RAFT TERM",
        "RAFT INDEX",
        "RAFT APPLIED INDEX",
        "ERRORS",
    ];
    const SINCE_36: [&str; 16] = [
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
    let columns = match release {
        Release::V34 | Release::V35 => &BEFORE_36[..],
        Release::V37 => &SINCE_36,
    };
    let blotted: Vec<bool> = columns.iter().map(|column| headings.contains(column)).collect();
    text.lines().map(|line| blot(cells(line, &[',']), &blotted)).collect()
}

fn cells<'a>(row: &'a str, separators: &[char]) -> Vec<&'a str> {
    row.split(separators).map(str::trim).collect()
}

fn blot(row: Vec<&str>, blotted: &[bool]) -> String {
    assert_eq!(row.len(), blotted.len(), "every row has every column: {row:?}");
    let shown = row.iter().zip(blotted).map(|(cell, blotted)| if *blotted { "BLOT" } else { cell });
    shown.collect::<Vec<_>>().join("|") + "\n"
}
