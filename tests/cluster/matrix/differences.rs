//! What retcd answers on purpose otherwise than etcd 3.7, and what etcd 3.5.1 answered otherwise, with reasons.

use super::{
    calls::{AUTH_DISABLE, GRANT_OF_NO_RANGE},
    play::NAMELESS_TOKENS,
    table::{Name, Table},
};

/// Calls that retcd answers otherwise.
struct Difference {
    /// How the names of the calls begin.
    calls: &'static [&'static str],
    etcd: &'static str,
    ours: &'static str,
    why: &'static str,
}

const INVALID: &str = "Unknown: etcdserver: invalid auth token";
const DENIED: &str = "Unknown: etcdserver: permission denied";
const NO_USER: &str = "Unknown: etcdserver: user name is empty";
const OLD: &str = "Unknown: etcdserver: revision of auth store is old";
const NO_SPACE: &str = "Unknown: etcdserver: mvcc: database space exceeded";
const CORRUPT: &str = "Unknown: etcdserver: corrupt cluster";

const fn differs(
    calls: &'static [&'static str],
    etcd: &'static str,
    ours: &'static str,
    why: &'static str,
) -> Difference {
    Difference { calls, etcd, ours, why }
}

const OBSERVE: &[&str] = &["Election/Observe"];
const OBSERVE_WHY: &str = "etcd ends the stream as if all were well; ours says why it ends";
const WAITS: &[&str] = &["Lock/Lock", "Election/Campaign", "Election/Proclaim"];
const WAITS_WHY: &str = "ours asks for the permissions of all that the call is going to do before it begins";
const STALE_READS: &[&str] =
    &["Lease/LeaseTimeToLive", "KV/RangeStream", "KV/Range compacted", "KV/Txn of nothing"];
const STALE_READS_WHY: &str =
    "what was read is refused if the caller was not identified at the current revision";

const DIFFERENCES: &[Difference] = &[
    differs(OBSERVE, "OK, and no answer", INVALID, OBSERVE_WHY),
    differs(OBSERVE, "OK, and no answer", DENIED, OBSERVE_WHY),
    differs(OBSERVE, "OK, and no answer", NO_USER, OBSERVE_WHY),
    differs(OBSERVE, "OK, and no answer", OLD, OBSERVE_WHY),
    differs(WAITS, NO_SPACE, DENIED, WAITS_WHY),
    differs(WAITS, NO_SPACE, NO_USER, WAITS_WHY),
    differs(WAITS, NO_SPACE, OLD, WAITS_WHY),
    differs(WAITS, CORRUPT, DENIED, WAITS_WHY),
    differs(WAITS, CORRUPT, NO_USER, WAITS_WHY),
    differs(WAITS, CORRUPT, OLD, WAITS_WHY),
    differs(STALE_READS, "OK", "InvalidArgument: etcdserver: revision of auth store is old", STALE_READS_WHY),
    differs(
        STALE_READS,
        "InvalidArgument: etcdserver: revision of auth store is old",
        "OutOfRange: etcdserver: mvcc: required revision has been compacted",
        "of two refusals the other one: the revision is compacted, and the caller is of another revision",
    ),
    differs(
        &["KV/Txn of nothing"],
        "OK",
        "InvalidArgument: etcdserver: user name is empty",
        "who is nobody gets nothing, not even nothing",
    ),
    differs(
        &["Auth/UserGet without a name"],
        "FailedPrecondition: etcdserver: user name not found",
        "InvalidArgument: etcdserver: user name is empty",
        "etcd takes who has no name for the user without a name, who may ask for itself",
    ),
];

/// Why etcd 3.5.1 answers otherwise than 3.7. The first that applies explains it; one that explains nothing is an error.
struct Reason {
    applies: fn(&Name<'_>, newer: &str, older: &str) -> bool,
    why: &'static str,
}

const NOTHING: &str = "nothing: the call is not made";

const REASONS: &[Reason] = &[
    Reason {
        applies: |name, _, older| {
            let is_left = [AUTH_DISABLE, GRANT_OF_NO_RANGE].contains(&name.call)
                || NAMELESS_TOKENS.contains(&name.caller);
            older == NOTHING && is_left
        },
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
        applies: |name, _, _| name.call == GRANT_OF_NO_RANGE,
        why: "3.5.1 grants permissions on ranges that do not exist",
    },
];

/// Where retcd's answers are neither etcd's nor listed; and the differences that are listed and not seen.
pub(super) fn unexpected(expected: &Table, seen: &Table) -> Vec<String> {
    let mut found = vec![false; DIFFERENCES.len()];
    let seen = seen.named();
    let expected = expected.named();
    let mut lines = Vec::new();
    for (name, etcd) in &expected {
        let ours = *seen.get(name).unwrap_or(&"nothing: the call was not made");
        if ours == *etcd {
            continue;
        }
        let listed = DIFFERENCES.iter().position(|difference| {
            difference.calls.iter().any(|call| name.call.starts_with(call))
                && difference.etcd == *etcd
                && difference.ours == ours
        });
        match listed {
            Some(at) => found[at] = true,
            None => lines.push(format!("{name}: etcd {etcd:?}, ours {ours:?}")),
        }
    }
    lines.extend(
        seen.keys()
            .filter(|name| !expected.contains_key(name))
            .map(|name| format!("{name}: not in the table; record it anew")),
    );
    let unseen = DIFFERENCES.iter().zip(found).filter(|(_, found)| !found);
    lines.extend(unseen.map(|(difference, _)| format!("no longer a difference: {}", difference.why)));
    lines
}

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
