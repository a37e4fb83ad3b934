//! `retcd follow`: the keys of a running etcd move to a running retcd, and the two are compared by a client of each.

use std::{
    io::Write,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
};

use std::io::{BufRead, BufReader};

use bytes::Bytes;
use rustix::process::{Pid, Signal};

use crate::{
    client::{Client, prefix_end},
    migrate::write_history,
    pb::etcdserverpb::*,
    server::{Launch, PATIENCE, Server, subject_is_retcd, subject_program},
    tools::Release,
};

/// A `retcd follow` that runs.
struct Follow {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Follow {
    fn start(source: &Server, destination: &Server, flags: &[&str]) -> Follow {
        let mut child = Command::new(subject_program())
            .args(["follow", "--from", &source.endpoint(), "--to", &destination.endpoint()])
            .args(flags)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let (found, lines) = mpsc::channel();
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let others = found.clone();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| found.send(line))
        });
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| others.send(line))
        });
        let stdin = child.stdin.take();
        Follow { child, stdin, lines }
    }

    /// Waits for a line with these words, and returns all lines up to it.
    fn until(&self, words: &str) -> String {
        let mut said = String::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("there is no line with {words:?} in\n{said}"));
            said += &format!("{line}\n");
            if line.contains(words) {
                return said;
            }
        }
    }

    fn cut_over(&mut self) {
        self.stdin.as_mut().expect("it is open").write_all(b"cutover\n").expect("it reads");
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().cast_signed()).expect("a child's id is positive");
        rustix::process::kill_process(id, signal).expect("it runs");
    }

    /// Waits for its end. Returns the exit code, and the lines that were not read.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().expect("it ends").code();
        (code, self.lines.iter().map(|line| format!("{line}\n")).collect())
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn sources() -> Vec<Release> {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not follow");
        return Vec::new();
    }
    let mut releases = Release::of_etcdctl();
    releases.retain(|release| *release != Release::V34);
    releases
}

/// Every key with its value and its lease.
async fn keys(client: &Client) -> Vec<(Bytes, Bytes, i64)> {
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    client.range(all).await.kvs.into_iter().map(|kv| (kv.key, kv.value, kv.lease)).collect()
}

async fn put_with_lease(client: &Client, key: &str, lease: i64) {
    let put =
        PutRequest { key: key.to_owned().into(), value: "leased".into(), lease, ..PutRequest::default() };
    client.try_put(put).await.expect("the lease is there");
}

async fn delete_prefix(client: &Client, prefix: &'static str) {
    let range_end = prefix_end(prefix.as_bytes());
    let request = DeleteRangeRequest { key: prefix.into(), range_end, ..DeleteRangeRequest::default() };
    client.try_delete(request).await.expect("they are deleted");
}

/// Writes for as long as the receiver is there. Each write was acknowledged.
fn write_on(client: Client, mut stop: tokio::sync::oneshot::Receiver<()>) -> tokio::task::JoinHandle<u64> {
    tokio::spawn(async move {
        for number in 0.. {
            if stop.try_recv().is_ok() {
                return number;
            }
            client.put(format!("w{:03}", number % 200), format!("{number}")).await;
            if number % 7 == 0 {
                client.delete(format!("w{:03}", (number * 3) % 200)).await;
            }
        }
        unreachable!("it is stopped")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_etcd_moves_with_all_of_its_keys() {
    for release in sources() {
        let source = Launch::etcd(release).start();
        let destination = Launch::subject().start();
        let client = source.client();
        write_history(&client, 21).await;
        // More than a page of them, and values for which pages have to be short.
        for number in 0..300 {
            client.put(format!("large{number:04}"), vec![b'v'; 50_000]).await;
        }
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let writing = write_on(source.client(), stopped);
        let mut follow = Follow::start(&source, &destination, &[]);
        follow.until("leases");
        // What happens while it is followed: a new lease, one that ends, and a deletion of many keys.
        client.grant(900, 77).await;
        put_with_lease(&client, "new-lease", 77).await;
        client.try_revoke(14).await.expect("it lives");
        delete_prefix(&client, "large00").await;
        stop.send(()).expect("it writes");
        assert!(writing.await.expect("it does not panic") > 0);
        follow.until("caught up");
        follow.cut_over();
        follow.until("cutting over");
        let (code, said) = follow.end();
        assert_eq!(code, Some(0), "{release:?}: {said}");
        assert!(said.contains("verified"), "{said}");
        assert!(said.contains("not copied: 2 roles and 2 users."), "{said}");

        let after = destination.client();
        assert_eq!(keys(&after).await, keys(&client).await, "{release:?}");
        let leases = async |client: &Client| {
            let all = client.leases().lease_leases(LeaseLeasesRequest {}).await.expect("leases").into_inner();
            let mut found = Vec::new();
            for lease in all.leases {
                let mut left = client.time_to_live(lease.id).await;
                left.keys.sort();
                found.push((lease.id, left.granted_ttl, left.keys));
            }
            found.sort();
            found
        };
        assert_eq!(leases(&after).await, leases(&client).await, "{release:?}");
        assert_eq!(after.time_to_live(14).await.ttl, -1);
    }
}

/// After an interruption only what differs is written, and what the source has lost is removed.
#[tokio::test]
async fn it_goes_on_where_it_was_interrupted() {
    for release in sources() {
        let source = Launch::etcd(release).start();
        let destination = Launch::subject().start();
        let client = source.client();
        for number in 0..200 {
            client.put(format!("k{number:03}"), "value").await;
        }
        let follow = Follow::start(&source, &destination, &[]);
        follow.until("caught up");
        follow.signal(Signal::TERM);
        assert_eq!(follow.end().0, None, "the signal has ended it");
        client.put("k001", "another value").await;
        client.put("new", "value").await;
        client.delete("k002").await;

        let again = Follow::start(&source, &destination, &[]);
        let said = again.until("--reconcile");
        assert!(said.contains("has 200 keys already"), "{said}");
        assert_eq!(again.end().0, Some(1));

        let again = Follow::start(&source, &destination, &["--reconcile", "--cutover-at-lag", "0"]);
        let said = again.until("verified");
        assert!(said.contains("201 keys compared, 3 written or removed"), "{release:?}: {said}");
        assert_eq!(again.end().0, Some(0));
        assert_eq!(keys(&destination.client()).await, keys(&client).await);
    }
}

/// The source is stopped and started, and has compacted what was to be followed; the destination is killed.
#[tokio::test]
async fn neither_a_restart_nor_a_compaction_ends_it() {
    for release in sources() {
        let mut source = Launch::etcd(release).start();
        let mut destination = Launch::subject().start();
        source.client().put("before", "value").await;
        source.client().put("removed", "value").await;
        let follow = Follow::start(&source, &destination, &[]);
        follow.until("caught up");
        // It is held meanwhile, so that the compaction is certain to be ahead of it.
        follow.signal(Signal::STOP);
        source.kill();
        source.start();
        let client = source.client();
        client.delete("removed").await;
        for number in 0..50 {
            client.put(format!("k{number}"), "value").await;
        }
        let revision = client.put("last", "value").await;
        client.compact(revision).await;
        destination.kill();
        follow.signal(Signal::CONT);
        destination.start();
        follow.until("all keys are compared again");
        follow.until("caught up");
        follow.signal(Signal::USR1);
        follow.until("verified");
        assert_eq!(follow.end().0, Some(0));
        assert_eq!(keys(&destination.client()).await, keys(&client).await, "{release:?}");
    }
}

/// The lease lives at the source, because its client renews it there; it ends at both when it ends there.
#[tokio::test]
async fn leases_end_where_the_source_ends_them() {
    let Some(release) = sources().into_iter().next_back() else { return };
    let source = Launch::etcd(release).start();
    let destination = Launch::subject().start();
    let client = source.client();
    const TTL_SECS: i64 = 3;
    client.grant(TTL_SECS, 5).await;
    put_with_lease(&client, "session", 5).await;
    let follow = Follow::start(&source, &destination, &[]);
    follow.until("caught up");
    let after = destination.client();
    let begin = std::time::Instant::now();
    // Three times as long as it would live.
    while begin.elapsed().as_secs() < 9 {
        client.keep_alive_once(5).await;
        assert!(after.get("session").await.is_some(), "it lives at the destination too");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    while after.get("session").await.is_some() || after.time_to_live(5).await.ttl >= 0 {
        assert!(begin.elapsed() < PATIENCE, "it ends at the source, and so at the destination");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drop(follow);
}

/// Scripts tell by the exit code what has become of a cutover.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_wrong_with_a_cutover_is_in_the_exit_code() {
    let Some(release) = sources().into_iter().next() else { return };
    let source = Launch::etcd(release).start();
    let destination = Launch::subject().start();
    source.client().put("k", "value").await;

    // Somebody else writes to the destination.
    let mut follow = Follow::start(&source, &destination, &[]);
    follow.until("caught up");
    destination.client().put("other", "value").await;
    follow.cut_over();
    let mut said = follow.until("the clusters differ");
    // What is on stdout may be read later than what is on stderr.
    let (code, rest) = follow.end();
    said += &rest;
    assert!(said.contains("old cluster: 1 keys") && said.contains("new cluster: 2 keys"), "{said}");
    assert_eq!(code, Some(3));

    // Clients go on writing to the source.
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let writing = write_on(source.client(), stopped);
    let follow = Follow::start(&source, &destination, &["--reconcile", "--cutover-at-lag", "1000000"]);
    follow.until("was still written to after the cutover");
    assert_eq!(follow.end().0, Some(4));
    stop.send(()).expect("it writes");
    writing.await.expect("it does not panic");

    // The command line is wrong, or nobody may ask.
    for (flags, code) in [
        (&["more"][..], 128),
        (&["--to", &source.endpoint()], 128),
        (&["--from-cert", "nofile"], 128),
        (&["--bogus"], 1),
    ] {
        assert_eq!(Follow::start(&source, &destination, flags).end().0, Some(code), "{flags:?}");
    }
}

/// Roles come with their permissions, and users with their roles. Then a password is set, and it is as it was.
#[tokio::test]
async fn users_move_with_everything_but_their_passwords() {
    for release in sources() {
        let source = Launch::etcd(release).flag("bcrypt-cost", 4).start();
        let destination = Launch::subject().flag("bcrypt-cost", 4).start();
        write_history(&source.client(), 23).await;
        source.client().auth().auth_enable(AuthEnableRequest {}).await.expect("there is a root");
        // What an earlier run has left, which is not so at the source any more.
        let mut auth = destination.client().auth();
        auth.role_add(AuthRoleAddRequest { name: "readers".to_owned() }).await.expect("a role");
        let perm = crate::pb::authpb::Permission { perm_type: 2, key: "old".into(), range_end: Bytes::new() };
        let grant = AuthRoleGrantPermissionRequest { name: "readers".to_owned(), perm: Some(perm) };
        auth.role_grant_permission(grant).await.expect("a permission");

        let flags = ["--from-user", "root:secret of root", "--users", "--cutover-at-lag", "0"];
        let follow = Follow::start(&source, &destination, &flags);
        follow.until("verified");
        let (code, said) = follow.end();
        assert_eq!(code, Some(0), "{release:?}: {said}");
        let ctl = format!("retcd ctl --endpoints {}", destination.endpoint());
        for words in ["user passwd root", "user passwd reader", "auth enable"] {
            assert!(said.contains(&format!("\n  {ctl} {words}\n")), "{words}: {said}");
        }
        // The commands do what they say.
        let endpoint = destination.endpoint();
        let ctl = |words: &[&str], input: &str| {
            let mut child = Command::new(subject_program())
                .args(["ctl", "--endpoints", &endpoint])
                .args(words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it starts");
            child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
            let output = child.wait_with_output().expect("it ends");
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        for name in ["root", "reader"] {
            let said = ctl(&["user", "passwd", name, "--interactive=false"], &format!("new-of-{name}\n"));
            assert!(said.contains("Password updated"), "{said}");
        }
        assert!(ctl(&["auth", "enable"], "").contains("Authentication Enabled"));
        let denied = "etcdserver: permission denied";
        let reader = "--user=reader:new-of-reader";
        assert!(!ctl(&[reader, "get", "k01"], "").contains(denied), "{release:?}");
        for words in [&["get", "old"][..], &["get", "other"], &["put", "k01", "value"]] {
            let said = ctl(&[&[reader], words].concat(), "");
            assert!(said.contains(denied), "{release:?} {words:?}: {said}");
        }
    }
}

/// Both clusters may have users.
#[tokio::test]
async fn it_logs_in_to_both() {
    let Some(release) = sources().into_iter().next_back() else { return };
    let guarded = async |launch: Launch| {
        let server = launch.flag("bcrypt-cost", 4).start();
        let mut auth = server.client().auth();
        auth.role_add(AuthRoleAddRequest { name: "root".to_owned() }).await.expect("a role");
        let add = AuthUserAddRequest {
            name: "root".to_owned(),
            password: "secret".to_owned(),
            ..Default::default()
        };
        auth.user_add(add).await.expect("a user");
        let grant = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
        auth.user_grant_role(grant).await.expect("a grant");
        server
    };
    let source = guarded(Launch::etcd(release)).await;
    source.client().put("k", "value").await;
    let destination = guarded(Launch::subject()).await;
    for server in [&source, &destination] {
        server.client().auth().auth_enable(AuthEnableRequest {}).await.expect("there is a root");
    }
    let logins = ["--from-user", "root:secret", "--to-user", "root", "--to-password", "secret"];
    let follow = Follow::start(&source, &destination, &[&logins[..], &["--cutover-at-lag", "0"]].concat());
    follow.until("verified");
    assert_eq!(follow.end().0, Some(0));
    let wrong =
        Follow::start(&source, &destination, &["--from-user", "root:wrong", "--to-user", "root:secret"]);
    assert_eq!(wrong.end().0, Some(2));
    let nobody = Follow::start(&source, &destination, &["--to-user", "root:secret"]);
    assert_eq!(nobody.end().0, Some(1));
}
