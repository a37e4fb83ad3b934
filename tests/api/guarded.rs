//! Sessions with `etcdctl --user`, with each release of the tool, on a real etcd and on the server under test side by
//! side: the whole `auth`, `user` and `role` trees, by who may and by who may not, and the other commands by users
//! with a part of the keys.

use crate::{
    etcdctl::{HEADER_FIELDS, Pair, json_without, run, table_without, with_each_release},
    rows,
    server::Server,
};

const ROOT: &str = "--user=root:canary-root";
const ANN: &str = "--user=ann:canary-pw";

/// `root`, and `ann` who may read and write below `a/` and read `b`.
fn guard(pair: &mut Pair) {
    for arguments in [
        &["auth", "enable"][..],
        &["user", "add", "root:canary-root"],
        &["auth", "enable"],
        &["user", "add", "ann:canary-pw"],
        &["role", "add", "below-a"],
        &["role", "grant-permission", "below-a", "readwrite", "--prefix", "a/"],
        &["role", "grant-permission", "below-a", "read", "b"],
        &["user", "grant-role", "ann", "below-a"],
        &["put", "a/1", "one"],
        &["put", "b", "two"],
        &["put", "c", "three"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        pair.same(arguments);
    }
}

/// The same command by everybody: by nobody, with a wrong password, by an unknown user, by ann, by root.
fn by_everybody(pair: &mut Pair, arguments: &[&str]) {
    for user in [None, Some("--user=ann:wrong"), Some("--user=bob:canary-pw"), Some(ANN), Some(ROOT)] {
        let arguments: Vec<&str> = user.into_iter().chain(arguments.iter().copied()).collect();
        pair.same(&arguments);
    }
}

#[test]
fn users_and_roles_are_managed_by_root_alone() {
    const BY_EVERYBODY: &[&[&str]] = &[
        &["user", "list"],
        &["user", "get", "ann"],
        &["user", "get", "ann", "--detail"],
        &["user", "get", "root"],
        &["user", "get", "nobody"],
        &["user", "add", "bob:canary-pw"],
        &["user", "grant-role", "bob", "below-a"],
        &["user", "grant-role", "bob", "nothing"],
        &["user", "revoke-role", "bob", "below-a"],
        &["user", "revoke-role", "bob", "below-a"],
        &["user", "delete", "bob"],
        &["user", "delete", "bob"],
        &["user", "delete", "root"],
        &["user", "revoke-role", "root", "root"],
        &["role", "list"],
        &["role", "get", "below-a"],
        &["role", "get", "root"],
        &["role", "get", "nothing"],
        &["role", "add", "more"],
        &["role", "grant-permission", "more", "write", "x", "y"],
        &["role", "grant-permission", "more", "read", "y", "x"],
        &["role", "get", "more"],
        &["role", "revoke-permission", "more", "x", "y"],
        &["role", "revoke-permission", "more", "x", "y"],
        &["role", "delete", "more"],
        &["role", "delete", "more"],
        &["auth", "enable"],
        // The release of 3.4 has no such command.
        &["auth", "status"],
    ];
    with_each_release(|pair| {
        guard(pair);
        for arguments in BY_EVERYBODY {
            by_everybody(pair, arguments);
        }
        pair.compare(&[ROOT, "user", "list", "-w", "json"], "", json_without(HEADER_FIELDS));
        pair.compare(&[ANN, "user", "get", "ann", "-w", "json"], "", json_without(HEADER_FIELDS));
        // The password in a flag of its own, from standard input, and changed.
        pair.same(&["--user=root", "--password=canary-root", "user", "list"]);
        pair.same(&["--user=root", "--password=wrong", "user", "list"]);
        pair.same_with_input(&[ROOT, "user", "passwd", "ann", "--interactive=false"], "another\n");
        pair.same_with_input(&[ANN, "user", "passwd", "ann", "--interactive=false"], "own\n");
        pair.same(&[ANN, "get", "a/1"]);
        pair.same(&["--user=ann:another", "get", "a/1"]);
        pair.same_with_input(&[ROOT, "user", "add", "cat", "--interactive=false"], "typed\n");
        pair.same(&["--user=cat:typed", "get", "a/1"]);
        pair.same(&[ROOT, "user", "add", "dan", "--no-password"]);
        pair.same(&["--user=dan:", "get", "a/1"]);
        pair.same(&["--user=dan:guessed", "get", "a/1"]);
        pair.same(&[ROOT, "user", "add", "eve", "--new-user-password=flag"]);
        pair.same(&["--user=eve:flag", "get", "a/1"]);
        pair.same(&[ROOT, "role", "delete", "below-a"]);
        pair.same(&["--user=ann:another", "get", "a/1"]);
        by_everybody(pair, &["auth", "disable"]);
        pair.same(&["get", "a/1"]);
        pair.same(&[ROOT, "get", "a/1"]);
    });
}

#[test]
fn keys_are_reached_as_far_as_roles_permit() {
    const BY_EVERYBODY: &[&[&str]] = &[
        &["get", "a/1"],
        &["get", "a/", "--prefix"],
        &["get", "a/", "--from-key"],
        &["get", "b"],
        &["get", "c"],
        &["get", "", "--prefix"],
        &["get", "a/1", "--consistency=s"],
        &["put", "a/2", "new", "--prev-kv"],
        &["put", "b", "new"],
        &["put", "c", "new"],
        &["del", "a/2", "--prev-kv"],
        &["del", "a/", "--prefix"],
        &["del", "b"],
        &["del", "a/", "c"],
        &["compaction", "2"],
        &["lease", "grant", "9000", "--", "none"],
        &["lease", "list"],
        &["lease", "timetolive", "999"],
        &["lease", "timetolive", "999", "--keys"],
        &["lease", "revoke", "999"],
        &["lease", "keep-alive", "--once", "999"],
    ];
    const TXNS: [&str; 5] = [
        "value(\"a/1\") = \"one\"\n\nput a/3 x\n\nget b\n\n",
        "value(\"b\") = \"two\"\n\nget a/1\n\nget a/1\n\n",
        "value(\"c\") = \"three\"\n\nget a/1\n\nget a/1\n\n",
        "value(\"a/1\") = \"one\"\n\nget a/1\n\nput c x\n\n",
        "value(\"a/1\") = \"one\"\n\nput b x\n\nget a/1\n\n",
    ];
    with_each_release(|pair| {
        guard(pair);
        for arguments in BY_EVERYBODY {
            by_everybody(pair, arguments);
        }
        for user in [ANN, ROOT] {
            for txn in TXNS {
                pair.same_with_input(&[user, "txn"], txn);
            }
        }
        pair.same_with_input(&["txn"], TXNS[0]);
        // A watch that is refused ends by itself.
        pair.same(&[ANN, "watch", "c"]);
        pair.same(&[ANN, "watch", "a/", "c"]);
        pair.same(&["watch", "a/1"]);
        pair.same(&[ANN, "lock", "a/lock", "echo", "held"]);
        pair.same(&[ANN, "lock", "c/lock", "echo", "held"]);
    });
}

#[test]
fn operators_need_the_role_root() {
    const BY_EVERYBODY: &[&[&str]] = &[
        &["member", "list"],
        &["member", "remove", "7"],
        &["member", "update", "7", "--peer-urls=http://127.0.0.1:1"],
        &["member", "add", "m", "--peer-urls=nonsense"],
        &["member", "promote", "7"],
        &["alarm", "list"],
        &["alarm", "disarm"],
        &["endpoint", "hashkv", "--rev=1"],
        &["move-leader", "7"],
        &["defrag"],
        &["endpoint", "health"],
    ];
    with_each_release(|pair| {
        guard(pair);
        for arguments in BY_EVERYBODY {
            by_everybody(pair, arguments);
        }
        for user in [ANN, ROOT] {
            let columns = rows::status_columns();
            pair.compare(&[user, "endpoint", "status", "-w", "table"], "", table_without(&columns));
        }
        let file = |server: &Server| server.home().join("saved").display().to_string();
        for (user, is_saved) in [(ANN, false), (ROOT, true)] {
            for server in [&pair.reference, &pair.subject] {
                let seen = run(pair.release, server, &[user, "snapshot", "save", &file(server)], "");
                assert_eq!(seen.code == Some(0), is_saved, "{user}: {seen:?}");
            }
        }
    });
}
