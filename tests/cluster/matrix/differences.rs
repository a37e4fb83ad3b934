//! What etcd 3.5.1 answers otherwise than etcd 3.7, with reasons.

use super::table::{Name, Table};

/// Why etcd 3.5.1 answers otherwise than 3.7. The first that applies explains it; one that explains nothing is an error.
struct Reason {
    applies: fn(&Name<'_>, newer: &str, older: &str) -> bool,
    why: &'static str,
}

const NOTHING: &str = "nothing: the call is not made";

const REASONS: &[Reason] = &[
    Reason {
        applies: |_, _, older| older == NOTHING,
        why: "calls that harm a cluster of 3.5.1, and end its process (see play::what_harms_etcd_35)",
    },
    Reason { applies: |name, _, _| name.call.starts_with("KV/RangeStream"), why: "new in 3.7" },
    Reason { applies: |name, _, _| name.call == "Health/List", why: "new in gRPC" },
    Reason {
        applies: |name, _, _| name.caller == "any-token",
        why: "3.5.1 refuses a token that it does not know also while authentication is disabled",
    },
    Reason {
        applies: |_, _, older| older.starts_with("Unknown: auth:"),
        why: "3.5.1 has no code for these errors of authentication",
    },
    Reason {
        applies: |_, newer, older| {
            newer.starts_with("OK, cancelled: rpc") && older.contains("code = PermissionDenied")
        },
        why: "3.5.1 cancels a watch as if it were always a lack of permission",
    },
    Reason {
        applies: |name, _, _| name.call.starts_with("Watch/Watch"),
        why: "GHSA-xg4h: an open end is taken for none before the check",
    },
    Reason {
        applies: |name, _, _| name.call.starts_with("Lease/"),
        why: "CVE-2026-33413 and CVE-2023-32082: leases are not checked",
    },
    Reason {
        applies: |name, _, _| name.circumstance.contains('/') && !name.call.contains("nested"),
        why: "#22386: nothing that goes through the log is checked while there is an alarm",
    },
    Reason {
        applies: |name, _, _| name.call.contains("nested"),
        why: "CVE-2026-33343: operations of nested transactions are not checked, and not counted against the quota",
    },
    Reason {
        applies: |name, _, _| name.call.starts_with("KV/Txn Put with"),
        why: "CVE-2026-44283: prev_kv and the lease of a put in a transaction are not checked",
    },
    Reason {
        applies: |name, _, _| {
            ["Maintenance/", "Cluster/", "KV/Compact"].iter().any(|begin| name.call.starts_with(begin))
        },
        why: "CVE-2026-33413: these calls are not checked, or after their arguments",
    },
    Reason { applies: |name, _, _| name.call == "Auth/AuthStatus", why: "open to everybody since 3.7" },
    Reason {
        applies: |name, _, _| name.call == super::calls::GRANT_OF_NO_RANGE,
        why: "3.5.1 grants permissions on ranges that do not exist",
    },
];

/// Where two releases differ and no reason explains it; and reasons that explain nothing.
pub(super) fn unexplained(newer: &Table, older: &Table) -> Vec<String> {
    let mut used = vec![false; REASONS.len()];
    let (newer, older) = (newer.named(), older.named());
    let mut lines = Vec::new();
    for (name, answer) in &newer {
        let before = *older.get(name).unwrap_or(&NOTHING);
        if before == *answer {
            continue;
        }
        match REASONS.iter().position(|reason| (reason.applies)(name, answer, before)) {
            Some(at) => used[at] = true,
            None => lines.push(format!("{name}: 3.7 {answer:?}, 3.5.1 {before:?}")),
        }
    }
    let unused = REASONS.iter().zip(used).filter(|(_, used)| !used);
    lines.extend(unused.map(|(reason, _)| format!("explains nothing: {}", reason.why)));
    lines
}
