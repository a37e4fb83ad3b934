//! `ETCDCTL_API=2 etcdctl` prints what it prints against etcd 3.4.

use std::{process::Command, time::Duration};

use super::{pair, wire::Wire};
use crate::{
    running::Running,
    server::Server,
    tools::{Release, Seen},
};

fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(Release::V34.etcdctl());
    command.env_clear().env("ETCDCTL_API", "2").env("PATH", "/usr/bin:/bin");
    command.arg("--endpoints").arg(format!("http://{}", server.endpoint())).args(arguments);
    command
}

fn etcdctl(server: &Server, arguments: &[&str]) -> Seen {
    Seen::of(&command(server, arguments).output().expect("etcdctl can be started"))
}

/// Without what differs between two servers: ids and ports.
fn normal(seen: &Seen, server: &Server) -> String {
    let text = format!("{:?}\n{}{}", seen.code, seen.stdout, seen.stderr);
    let text = text
        .replace(&server.client_port.to_string(), "CLIENT")
        .replace(&server.peer_port.to_string(), "PEER");
    let words = text.split_inclusive([' ', '\n', ':']);
    let is_id = |word: &str| {
        let word = word.trim_end_matches([' ', '\n', ':']);
        word.len() >= 13 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    words.map(|word| if is_id(word) { "ID " } else { word }).collect()
}

#[test]
fn etcdctl_of_version_2_prints_the_same() {
    let Some(servers) = pair() else { return };
    for arguments in [
        &["cluster-health"][..],
        &["member", "list"],
        &["ls"],
        &["mk", "/a", "1"],
        &["mk", "/a", "2"],
        &["get", "/a"],
        &["get", "/nothing"],
        &["-o", "extended", "get", "/a"],
        &["-o", "json", "get", "/a"],
        &["set", "/a", "3"],
        &["set", "/a", "4", "--swap-with-value", "3"],
        &["set", "/a", "5", "--swap-with-value", "3"],
        &["set", "/a", "5", "--swap-with-index", "5"],
        &["set", "/t", "5", "--ttl", "1000"],
        &["update", "/a", "6"],
        &["update", "/none", "6"],
        &["mk", "--in-order", "/queue", "job"],
        &["mkdir", "/d"],
        &["mkdir", "/d"],
        &["setdir", "/d2"],
        &["updatedir", "/d2", "--ttl", "1000"],
        &["set", "/d/x/y", "7"],
        &["set", "/d", "7"],
        &["ls", "/d"],
        &["ls", "--recursive", "-p", "/"],
        &["ls", "--sort", "/"],
        &["get", "--quorum", "/d/x/y"],
        &["rmdir", "/d"],
        &["rm", "/d"],
        &["rm", "--recursive", "/d"],
        &["rm", "/a", "--with-value", "1"],
        &["rm", "/a"],
        &["rmdir", "/d2"],
        &["watch", "--after-index", "4", "/a"],
        &["user", "list"],
        &["role", "list"],
        &["user", "add", "u:p"],
        &["user", "add", "root:p"],
        &["user", "list"],
        &["role", "add", "r"],
        &["role", "grant", "r", "--path", "/a/*", "--readwrite"],
        &["role", "get", "r"],
        &["role", "revoke", "r", "--path", "/a/*", "--write"],
        &["role", "get", "r"],
        &["user", "grant", "u", "--roles", "r"],
        &["user", "get", "u"],
        &["user", "revoke", "u", "--roles", "r"],
        &["auth", "enable"],
        &["set", "/g", "1"],
        &["user", "list"],
        &["-u", "root:p", "user", "list"],
        &["-u", "root:p", "role", "get", "guest"],
        &["-u", "u:p", "get", "/g"],
        &["-u", "root:p", "user", "remove", "u"],
        &["-u", "root:p", "role", "remove", "r"],
        &["-u", "root:p", "auth", "disable"],
        &["member", "add", "new", "http://127.0.0.1:1"],
    ] {
        let mut said = servers.each_ref().map(|server| normal(&etcdctl(server, arguments), server));
        // etcd lists nodes and members in any order.
        if arguments[0] == "ls" || arguments.starts_with(&["member", "add"]) {
            for said in &mut said {
                let mut items: Vec<&str> = said.split(['\n', '"', ',']).collect();
                items.sort_unstable();
                *said = items.join("\n");
            }
        }
        let [ours, theirs] = said;
        assert_eq!(ours, theirs, "{arguments:?}");
    }
}

#[test]
fn etcdctl_watches_and_executes() {
    let Some(servers) = pair() else { return };
    let said = servers.each_ref().map(|server| {
        let watch = ["watch", "--recursive", "--forever", "/w"];
        let watch = Running::start(command(server, &watch), "");
        let script = "echo $ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
        let executed = ["exec-watch", "--recursive", "/w", "--", "sh", "-c", script];
        let executed = Running::start(command(server, &executed), "");
        let mut wire = Wire::to(server);
        while !wire.ask("GET", "/v2/stats/store", None).body.contains("\"watchers\":2") {
            std::thread::sleep(Duration::from_millis(20));
        }
        for (method, target) in [
            ("PUT", "/v2/keys/w/a?value=1"),
            ("PUT", "/v2/keys/other?value=1"),
            ("PUT", "/v2/keys/w/b?value=2"),
            ("DELETE", "/v2/keys/w/a"),
        ] {
            wire.ask(method, target, None);
        }
        // exec-watch does not wait for a command before it runs the next.
        let mut executed = executed.lines(3);
        executed.sort_unstable();
        [watch.lines(4), executed]
    });
    assert_eq!(said[0], said[1]);
}
