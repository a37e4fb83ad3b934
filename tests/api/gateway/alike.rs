//! The same requests to retcd and to real etcds: statuses, codes, texts and answers must be equal.
//!
//! With etcd 3.7 all of them are compared. etcd 3.5 has another gateway, so of its answers those are left out which
//! 3.6 has changed: [`CHANGES`] lists them, and each of the list must have been met.
//! `RETCD_GATEWAY_SEED` repeats a run.

use std::{
    collections::BTreeSet,
    env,
    time::{SystemTime, UNIX_EPOCH},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    http::request,
    server::{Launch, Server},
    tools::Release,
};

const RANDOM_REQUESTS: usize = 400;
/// The comparison means something while so many requests are answered in the same way.
const ALIKE_MIN: usize = 600;

/// One request, and how it is sent.
#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    path: String,
    body: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Answered {
    status: u16,
    body: Value,
}

/// A difference between the gateways of etcd 3.5 and 3.6. `retcd` answers like the newer one.
struct Change {
    what: &'static str,
    is_met: fn(&Request, &Answered, &Answered) -> bool,
}

const CHANGES: [Change; 6] = [
    Change {
        what: "an unknown path and a wrong method were refused as plain text, and a wrong method as 405",
        is_met: |_, old, new| old.body.is_string() && matches!(new.status, 404 | 501),
    },
    Change {
        what: "HashKV had no path",
        is_met: |sent, old, _| sent.path == "/v3/maintenance/hashkv" && old.status == 404,
    },
    Change {
        what: "a value that is no message was refused in the words of encoding/json",
        is_met: |_, old, new| old.status == 400 && is_about_json(old) && is_about_values(new),
    },
    Change {
        what: "a field twice, two of a oneof, null for a message, or half of a surrogate pair were accepted",
        is_met: |_, old, new| !is_about_json(old) && new.status == 400 && is_about_values(new),
    },
    Change {
        what: "an unknown name of an enum was refused",
        is_met: |_, old, new| text(old).starts_with("unknown value ") && !is_about_json(new),
    },
    Change {
        what: "whole numbers in another form, such as 1e1 and 2.0, and base64 for URLs or without its end were refused",
        is_met: |_, old, new| old.status == 400 && is_about_json(old) && !is_about_json(new),
    },
];

/// Whether the JSON of a request was refused, in the words of either gateway, and not what it asks for.
fn is_about_json(answered: &Answered) -> bool {
    let words = ["json: ", "invalid character ", "illegal base64 ", "unknown value ", "unexpected EOF"];
    is_about_values(answered) || words.iter().any(|words| text(answered).contains(words))
}

fn is_about_values(answered: &Answered) -> bool {
    text(answered).starts_with("proto: ")
}

fn text(answered: &Answered) -> &str {
    answered.body["message"].as_str().unwrap_or_default()
}

fn send(server: &Server, sent: &Request) -> Answered {
    let answer = request(server.client_port, sent.method, &sent.path, &sent.body);
    let mut body = serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body));
    normalize(&mut body);
    Answered { status: answer.status, body }
}

/// Leaves out what names a cluster, and what is not a part of the API's contract.
fn normalize(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in ["cluster_id", "member_id", "raft_term", "error"] {
                members.remove(name);
            }
            if let Some(Value::String(message)) = members.get_mut("message") {
                // Go's library has one of two spaces there, by chance.
                *message = message.replace("proto:\u{a0}", "proto: ");
            }
            members.values_mut().for_each(normalize);
        }
        Value::Array(elements) => elements.iter_mut().for_each(normalize),
        _ => {}
    }
}

/// Every path, and whether a call without any field in it is answered at once and the same way everywhere.
const PATHS: [(&str, bool); 51] = [
    ("kv/range", true),
    ("kv/put", true),
    ("kv/deleterange", true),
    ("kv/txn", true),
    ("kv/compaction", true),
    ("watch", false),
    ("lease/grant", false),
    ("lease/revoke", true),
    ("kv/lease/revoke", true),
    ("lease/keepalive", false),
    ("lease/timetolive", true),
    ("kv/lease/timetolive", true),
    ("lease/leases", true),
    ("kv/lease/leases", true),
    ("cluster/member/add", false),
    ("cluster/member/remove", true),
    ("cluster/member/update", false),
    ("cluster/member/list", false),
    ("cluster/member/promote", true),
    ("maintenance/alarm", true),
    ("maintenance/status", false),
    ("maintenance/defragment", true),
    ("maintenance/hash", false),
    ("maintenance/hashkv", false),
    ("maintenance/snapshot", false),
    ("maintenance/transfer-leadership", true),
    ("maintenance/downgrade", false),
    ("auth/enable", false),
    ("auth/disable", true),
    ("auth/status", true),
    ("auth/authenticate", true),
    ("auth/user/add", true),
    ("auth/user/get", true),
    ("auth/user/list", true),
    ("auth/user/delete", true),
    ("auth/user/changepw", true),
    ("auth/user/grant", true),
    ("auth/user/revoke", true),
    ("auth/role/add", true),
    ("auth/role/get", true),
    ("auth/role/list", true),
    ("auth/role/delete", true),
    ("auth/role/grant", true),
    ("auth/role/revoke", true),
    ("lock/lock", false),
    ("lock/unlock", false),
    ("election/campaign", false),
    ("election/proclaim", false),
    ("election/leader", true),
    ("election/observe", false),
    ("election/resign", true),
];

const STREAMS: [&str; 4] = ["watch", "lease/keepalive", "maintenance/snapshot", "election/observe"];

/// Bodies that no method accepts, and after them bodies without a field that any method knows.
const BROKEN: [&str; 14] = [
    "{",
    "x",
    "[1]",
    "12",
    "\"a\"",
    "true",
    "null",
    "{\"a\" 1}",
    "{\"a\":1,}",
    "{\"a\":01}",
    "{'a':1}",
    "{\"a\":\"\\x\"}",
    "{\"a\":\"\\ud800 and more\"}",
    "\u{e9}",
];
const EMPTY: [&str; 6] =
    ["", "  \n", "{}", "{} and more", "{\"unknown\":[{\"a\":[]},null,1.5e-3]}", "{\"[x]\":{}}{}"];

fn of_all_paths() -> Vec<Request> {
    let mut requests = Vec::new();
    let mut push = |method, path: &str, body: &str| {
        requests.push(Request { method, path: format!("/v3/{path}"), body: body.to_owned() });
    };
    for (path, answers_alike) in PATHS {
        push("GET", path, "");
        push("PUT", path, "{}");
        push("POST", &format!("{path}/"), "{}");
        push("POST", &format!("{path}x"), "{}");
        if STREAMS[..2].contains(&path) {
            continue;
        }
        // In 3.5 these are messages without fields, and some calls with such a message do not end.
        let is_taken_by_old = |body: &str| body == "null" || body.contains("ud800");
        for body in BROKEN.iter().filter(|body| answers_alike || !is_taken_by_old(body)) {
            push("POST", path, body);
        }
        for body in EMPTY.iter().filter(|_| answers_alike) {
            push("POST", path, body);
        }
    }
    requests
}

/// What users of each part of the API do.
fn by_hand() -> Vec<Request> {
    let calls = [
        ("kv/put", json!({ "key": "Zm9v", "value": "YmFy" })),
        ("kv/put", json!({ "key": "Zm9v", "value": "YmF6", "prevKv": true })),
        ("kv/put", json!({ "key": "Zm9v", "ignore_value": true, "value": "YQ==" })),
        ("kv/put", json!({ "key": "bm8=", "ignore_value": true })),
        ("kv/put", json!({ "key": "Zm9v", "lease": "77" })),
        ("kv/range", json!({ "key": "AA==", "range_end": "AA==", "sort_order": "DESCEND", "sortTarget": 3 })),
        ("kv/range", json!({ "key": "Zm9v", "revision": "2" })),
        ("kv/range", json!({ "key": "Zm9v", "revision": 200 })),
        ("kv/range", json!({ "key": "AA==", "range_end": "AA==", "count_only": true, "limit": -1 })),
        ("lease/grant", json!({ "TTL": 600, "ID": "77" })),
        ("lease/grant", json!({ "TTL": 600, "ID": "77" })),
        ("lease/grant", json!({ "TTL": "9000000001" })),
        ("kv/put", json!({ "key": "Zm9v", "lease": 77 })),
        ("lease/timetolive", json!({ "ID": "78", "keys": true })),
        ("lease/leases", json!({})),
        ("kv/lease/revoke", json!({ "ID": "77" })),
        ("lease/revoke", json!({ "ID": 77 })),
        (
            "kv/txn",
            json!({ "compare": [{ "key": "Zm9v", "version": 0, "target": "VERSION" }],
            "success": [{ "requestPut": { "key": "Zm9v", "value": "MQ==" } }],
            "failure": [{ "request_range": { "key": "Zm9v" } }] }),
        ),
        (
            "kv/txn",
            json!({ "success": [{ "request_put": { "key": "YQ==" } }, { "request_put": { "key": "YQ==" } }] }),
        ),
        ("kv/txn", json!({ "success": [{}] })),
        ("kv/txn", json!({ "compare": [{ "key": "Zm9v", "target": "LEASE", "lease": "0", "result": 3 }] })),
        ("kv/compaction", json!({ "revision": "3", "physical": true })),
        ("kv/compaction", json!({ "revision": "3" })),
        ("kv/range", json!({ "key": "Zm9v", "revision": "2" })),
        ("auth/user/add", json!({ "name": "u", "password": "p" })),
        ("auth/user/add", json!({ "name": "u", "password": "p" })),
        ("auth/user/add", json!({ "name": "nopass", "options": { "no_password": true } })),
        ("auth/user/list", json!({})),
        ("auth/role/add", json!({ "name": "r" })),
        (
            "auth/role/grant",
            json!({ "name": "r",
            "perm": { "permType": "READWRITE", "key": "YQ==", "range_end": "Yg==" } }),
        ),
        ("auth/role/grant", json!({ "name": "r", "perm": { "permType": 1, "key": "eA==" } })),
        ("auth/role/get", json!({ "role": "r" })),
        ("auth/role/revoke", json!({ "role": "r", "key": "eA==" })),
        ("auth/role/revoke", json!({ "role": "r", "key": "eA==" })),
        ("auth/user/grant", json!({ "user": "u", "role": "r" })),
        ("auth/user/grant", json!({ "user": "u", "role": "nope" })),
        ("auth/user/get", json!({ "name": "u" })),
        ("auth/user/changepw", json!({ "name": "u", "password": "q" })),
        ("auth/user/revoke", json!({ "name": "u", "role": "r" })),
        ("auth/user/delete", json!({ "name": "u" })),
        ("auth/user/delete", json!({ "name": "u" })),
        ("auth/role/delete", json!({ "role": "r" })),
        ("auth/role/list", json!({})),
        ("auth/authenticate", json!({ "name": "u", "password": "p" })),
        ("maintenance/alarm", json!({ "action": "GET", "alarm": "NOSPACE" })),
        ("maintenance/transfer-leadership", json!({ "targetID": 123 })),
        ("cluster/member/remove", json!({ "ID": "5" })),
        ("cluster/member/promote", json!({ "ID": "5" })),
        ("lock/unlock", json!({ "key": "bm9uZQ==" })),
        ("election/proclaim", json!({ "value": "eA==" })),
        ("election/leader", json!({ "name": "bm9ib2R5" })),
    ];
    let post = |(path, body): (&str, Value)| Request {
        method: "POST",
        path: format!("/v3/{path}"),
        body: body.to_string(),
    };
    calls.into_iter().map(post).collect()
}

/// A member of an object, with one of the values that clients send for it, right or wrong.
struct Member {
    names: [&'static str; 2],
    right: &'static [&'static str],
    wrong: &'static [&'static str],
}

const fn member(
    names: [&'static str; 2],
    right: &'static [&'static str],
    wrong: &'static [&'static str],
) -> Member {
    Member { names, right, wrong }
}

const BYTES: &[&str] = &[
    r#""YQ==""#,
    r#""Yg==""#,
    r#""YWI=""#,
    r#""YWI""#,
    r#""Y-_=""#,
    r#""\/w==""#,
    r#""""#,
    "null",
    r#""Y\u0051==""#,
];
const NOT_BYTES: &[&str] =
    &[r#""Y""#, r#""!""#, "1", "{}", "[]", "true", r#""YQ=""#, r#""Y+_=""#, r#""Y Q=""#];
const INTS: &[&str] = &["0", "1", r#""2""#, "3", r#""-1""#, "2.0", "1e1", r#""1e1""#, "null"];
const NOT_INTS: &[&str] =
    &[r#""""#, r#""x""#, "1.5", "{}", "[1]", "true", r#"" 1""#, "9223372036854775808", r#""1.5""#];
const BOOLS: &[&str] = &["true", "false", "null"];
const NOT_BOOLS: &[&str] = &["0", r#""true""#, "{}", "[]"];
const ORDERS: &[&str] = &["0", "1", r#""DESCEND""#, r#""ASCEND""#, r#""SIDEWAYS""#, "null"];
const NOT_ENUMS: &[&str] = &["1.5", "{}", "true", "[]"];

const RANGE: &[Member] = &[
    member(["key", "key"], BYTES, NOT_BYTES),
    member(["range_end", "rangeEnd"], BYTES, NOT_BYTES),
    member(["limit", "limit"], INTS, NOT_INTS),
    member(["sort_order", "sortOrder"], ORDERS, NOT_ENUMS),
    member(["sort_target", "sortTarget"], &["0", "1", r#""MOD""#, r#""VALUE""#], NOT_ENUMS),
    member(["serializable", "serializable"], BOOLS, NOT_BOOLS),
    member(["keys_only", "keysOnly"], BOOLS, NOT_BOOLS),
    member(["count_only", "countOnly"], BOOLS, NOT_BOOLS),
    member(["min_mod_revision", "minModRevision"], INTS, NOT_INTS),
    member(["max_create_revision", "maxCreateRevision"], INTS, NOT_INTS),
];
const PUT: &[Member] = &[
    member(["key", "key"], BYTES, NOT_BYTES),
    member(["value", "value"], BYTES, NOT_BYTES),
    member(["prev_kv", "prevKv"], BOOLS, NOT_BOOLS),
    member(["ignore_value", "ignoreValue"], BOOLS, NOT_BOOLS),
];
const DELETE: &[Member] = &[
    member(["key", "key"], BYTES, NOT_BYTES),
    member(["range_end", "rangeEnd"], BYTES, NOT_BYTES),
    member(["prev_kv", "prevKv"], BOOLS, NOT_BOOLS),
];
const COMPARE: &[Member] = &[
    member(["key", "key"], BYTES, NOT_BYTES),
    member(["result", "result"], &["0", r#""GREATER""#, r#""LESS""#, "3"], NOT_ENUMS),
    member(["target", "target"], &[r#""VERSION""#, r#""MOD""#, r#""VALUE""#, "1"], NOT_ENUMS),
    member(["version", "version"], INTS, NOT_INTS),
    member(["mod_revision", "modRevision"], INTS, NOT_INTS),
    member(["value", "value"], BYTES, NOT_BYTES),
];

fn random_object(random: &mut StdRng, members: &[Member]) -> String {
    let mut text = Vec::new();
    let is_wrong = random.random_bool(0.15);
    for member in members {
        if !random.random_bool(if members.len() > 4 { 0.35 } else { 0.7 }) {
            continue;
        }
        let values = if is_wrong && random.random_bool(0.4) { member.wrong } else { member.right };
        let name = member.names[random.random_range(0..2)];
        text.push(format!("\"{name}\":{}", values[random.random_range(0..values.len())]));
        if random.random_bool(0.02) {
            let twice = text[text.len() - 1].clone();
            text.push(twice);
        }
    }
    let separator = [",", " , ", ",\n\t"][random.random_range(0..3)];
    format!("{{{}}}", text.join(separator))
}

fn random_txn(random: &mut StdRng, depth: usize) -> String {
    let compares: Vec<String> =
        (0..random.random_range(0..3)).map(|_| random_object(random, COMPARE)).collect();
    let mut operations = || {
        let operations: Vec<String> = (0..random.random_range(0..3))
            .map(|_| match random.random_range(0..4) {
                0 => format!("{{\"request_range\":{}}}", random_object(random, RANGE)),
                1 => format!("{{\"requestPut\":{}}}", random_object(random, PUT)),
                2 => format!("{{\"request_delete_range\":{}}}", random_object(random, DELETE)),
                _ if depth > 0 => format!("{{\"requestTxn\":{}}}", random_txn(random, depth - 1)),
                _ => "{\"request_range\":{\"key\":\"YQ==\"}}".to_owned(),
            })
            .collect();
        operations.join(",")
    };
    let (success, failure) = (operations(), operations());
    format!("{{\"compare\":[{}],\"success\":[{success}],\"failure\":[{failure}]}}", compares.join(","))
}

fn random(seed: u64) -> Vec<Request> {
    let mut random = StdRng::seed_from_u64(seed);
    let requests = (0..RANDOM_REQUESTS).map(|_| {
        let (path, body) = match random.random_range(0..4) {
            0 => ("/v3/kv/range", random_object(&mut random, RANGE)),
            1 => ("/v3/kv/put", random_object(&mut random, PUT)),
            2 => ("/v3/kv/deleterange", random_object(&mut random, DELETE)),
            _ => ("/v3/kv/txn", random_txn(&mut random, 2)),
        };
        Request { method: "POST", path: path.to_owned(), body }
    });
    requests.collect()
}

fn changes_members(sent: &Request) -> bool {
    sent.path.starts_with("/v3/cluster/member/")
}

/// A write, which etcd answers once everything before it in its log is done with. etcd's raft drops a change of
/// members that comes before it knows that the last one was applied, and the call for it waits in vain: a promotion
/// directly after a removal did so in 3.5 for 30 seconds.
fn barrier() -> Request {
    Request { method: "POST", path: "/v3/kv/put".to_owned(), body: r#"{"key":"YmFycmllcg=="}"#.to_owned() }
}

/// Makes the keys and the revisions of both equal again, after only one of them has done something.
fn reconcile(etcd: &Server, subject: &Server) {
    let run = |server: &Server, path: &str, body: &str| {
        let sent = Request { method: "POST", path: format!("/v3/kv/{path}"), body: body.to_owned() };
        let answered = send(server, &sent);
        let revision =
            answered.body["header"]["revision"].as_str().and_then(|revision| revision.parse().ok());
        revision.unwrap_or_else(|| panic!("no revision in {answered:?}"))
    };
    let put = |server: &Server| run(server, "put", r#"{"key":"YQ=="}"#);
    let mut revisions: [u64; 2] = [put(etcd), put(subject)];
    while revisions[0] != revisions[1] {
        let behind = usize::from(revisions[1] < revisions[0]);
        revisions[behind] = put([etcd, subject][behind]);
    }
    for server in [etcd, subject] {
        run(server, "deleterange", r#"{"key":"AA==","range_end":"AA=="}"#);
    }
}

/// All requests, and what etcd of this release answers to them.
fn compare(release: Release) {
    if !Release::of_etcdctl().contains(&release) {
        return;
    }
    let seed = match env::var("RETCD_GATEWAY_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs(),
    };
    eprintln!("RETCD_GATEWAY_SEED={seed}");
    let quick = |launch: Launch| launch.flag("bcrypt-cost", 4).start();
    let (etcd, subject) = (quick(Launch::etcd(release)), quick(Launch::subject()));
    let mut met = BTreeSet::new();
    let mut different = Vec::new();
    let (mut count, mut alike) = (0, 0);
    for sent in by_hand().into_iter().chain(of_all_paths()).chain(random(seed)) {
        let (theirs, ours) = (send(&etcd, &sent), send(&subject, &sent));
        if changes_members(&sent) {
            let barrier = barrier();
            assert_eq!(send(&etcd, &barrier).status, send(&subject, &barrier).status, "after {sent:?}");
        }
        count += 1;
        let change = CHANGES.iter().position(|change| (change.is_met)(&sent, &theirs, &ours));
        match change {
            _ if theirs == ours => alike += 1,
            Some(change) if release == Release::V35 => {
                met.insert(change);
                if (theirs.status == 200) != (ours.status == 200) {
                    reconcile(&etcd, &subject);
                }
            }
            _ => different.push(format!("{sent:?}\n  etcd: {theirs:?}\n  ours: {ours:?}")),
        }
    }
    assert!(
        different.is_empty(),
        "{} of {count} differ:\n{}",
        different.len(),
        different[..different.len().min(20)].join("\n")
    );
    eprintln!("{alike} of {count} requests were answered alike");
    assert!(alike >= ALIKE_MIN, "{alike} of {count} is too little to compare by");
    if release == Release::V35 {
        let unmet = CHANGES.iter().enumerate().filter(|(place, _)| !met.contains(place));
        let unmet: Vec<&str> = unmet.map(|(_, change)| change.what).collect();
        assert_eq!(unmet, [""; 0], "a change that was not met");
    }
}

#[tokio::test]
async fn etcd_3_7_gives_the_same_answers() {
    compare(Release::V37);
}

#[tokio::test]
async fn etcd_3_5_gives_the_same_answers_but_for_what_3_6_has_changed() {
    compare(Release::V35);
}
