//! From etcd to retcd and back: snapshots, data directories, and what a killed etcd leaves.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    pin::Pin,
    process::Command,
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::future::join_all;

use crate::{
    client::Client,
    pb::etcdserverpb::*,
    server::{Launch, Server, serve, subject_is_retcd, subject_program},
    tools::{Release, patient},
};

const WRITES_AT_ONCE: usize = 16;

/// The etcds that data comes from and returns to.
fn releases() -> Vec<Release> {
    let mut releases = Release::of_etcdctl();
    releases.retain(|release| *release != Release::V34);
    releases
}

/// Runs a command. Returns its exit code and all of its output.
fn run(program: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    patient(command.args(words));
    let output = command.output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn succeed(program: &Path, words: &[&str]) -> String {
    let (code, said) = run(program, words);
    assert_eq!(code, Some(0), "{words:?}: {said}");
    said
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is text")
}

/// `retcd` with these words succeeds.
fn retcd(words: &[&str]) -> String {
    succeed(&subject_program(), words)
}

/// A history with everything in it: several revisions of keys, deletions, transactions that change several keys, leases,
/// users and roles, a compaction in the middle. The numbers are not random, but look so; a few writes are under way at a
/// time. `RETCD_HISTORY=200000` makes it as long as that.
pub(crate) async fn write_history(client: &Client, seed: u64) {
    let mut state = seed;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for id in 1..=5 {
        client.grant(100_000 + id, id * 7).await;
    }
    let mut compacted = 0;
    let operations = std::env::var("RETCD_HISTORY").map_or(400, |count| count.parse().expect("a number"));
    for first in (0..operations).step_by(WRITES_AT_ONCE) {
        let mut writes: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        for _ in first..operations.min(first + WRITES_AT_ONCE) {
            let key = format!("k{:02}", next(40));
            let value = "v".repeat(next(3000) as usize);
            writes.push(match next(10) {
                0 | 1 => Box::pin(async {
                    client.delete(key).await;
                }),
                2 => {
                    let put = |suffix: &str| RequestOp {
                        request: Some(request_op::Request::RequestPut(PutRequest {
                            key: format!("{key}-{suffix}").into(),
                            value: value.clone().into(),
                            ..PutRequest::default()
                        })),
                    };
                    let txn = TxnRequest { success: vec![put("a"), put("b")], ..TxnRequest::default() };
                    Box::pin(async { drop(client.txn(txn).await) })
                }
                3 => {
                    let lease = (1 + next(5) as i64) * 7;
                    let put =
                        PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() };
                    Box::pin(async {
                        client.try_put(put).await.expect("a lease of this history lives long");
                    })
                }
                _ => Box::pin(async {
                    client.put(key, value).await;
                }),
            });
        }
        join_all(writes).await;
        if compacted == 0 && first >= operations / 2 {
            compacted = client.status().await.header.expect("a header").revision;
            client.compact(compacted).await;
        }
    }
    assert!(compacted > 0);
    client.try_revoke(7).await.expect("it lives");
    let mut auth = client.auth();
    for role in ["readers", "root"] {
        auth.role_add(AuthRoleAddRequest { name: role.to_owned() }).await.expect("a new role");
    }
    let perm = crate::pb::authpb::Permission { perm_type: 0, key: "k".into(), range_end: "l".into() };
    let grant = AuthRoleGrantPermissionRequest { name: "readers".to_owned(), perm: Some(perm) };
    auth.role_grant_permission(grant).await.expect("a permission");
    for (user, role) in [("root", "root"), ("reader", "readers")] {
        let add = AuthUserAddRequest {
            name: user.to_owned(),
            password: format!("secret of {user}"),
            ..AuthUserAddRequest::default()
        };
        auth.user_add(add).await.expect("a new user");
        let grant = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        auth.user_grant_role(grant).await.expect("a role");
    }
}

/// Everything that a client can see of the data.
#[derive(Debug, PartialEq)]
pub(crate) struct Picture {
    pub(crate) revision: i64,
    pub(crate) hash: u32,
    compacted: i64,
    /// What there is at revisions that are not compacted: a digest of the answer to a range.
    at_revisions: Vec<(i64, i64, u64)>,
    /// Everything after the compaction.
    events: Vec<(i64, Bytes, i32, Bytes)>,
    leases: Vec<(i64, i64, Vec<Bytes>)>,
    users: Vec<(String, Vec<String>)>,
    roles: Vec<(String, usize)>,
    alarms: Vec<AlarmMember>,
}

fn digest(kvs: &[crate::pb::mvccpb::KeyValue]) -> u64 {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for kv in kvs {
        hash.update(format!("{kv:?}"));
    }
    u64::from_be_bytes(hash.finalize()[..8].try_into().expect("eight bytes"))
}

pub(crate) async fn picture(client: &Client) -> Picture {
    let hash = client.try_hash_kv(0).await.expect("a hash");
    let (revision, compacted) = (hash.header.expect("a header").revision, hash.compact_revision);
    let everything = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    let mut at_revisions = Vec::new();
    // Of a long history, some revisions in equal distances.
    let distance = 1 + (revision - compacted) / 2000;
    for at in (compacted.max(1)..=revision).rev().step_by(distance as usize) {
        let answer = client.range(RangeRequest { revision: at, ..everything.clone() }).await;
        at_revisions.push((at, answer.count, digest(&answer.kvs)));
    }
    let create = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: compacted.max(1) + 1,
        ..WatchCreateRequest::default()
    };
    let mut stream = client.watch(create).await;
    let mut events: Vec<(i64, Bytes, i32, Bytes)> = Vec::new();
    while events.last().is_none_or(|(at, ..)| *at < revision) {
        for event in stream.next().await.events {
            let kv = event.kv.expect("an event has a key");
            events.push((kv.mod_revision, kv.key, event.r#type, kv.value));
        }
    }
    let mut leases = Vec::new();
    let all = client.leases().lease_leases(LeaseLeasesRequest {}).await.expect("leases");
    for lease in all.into_inner().leases {
        let request = LeaseTimeToLiveRequest { id: lease.id, keys: true };
        let left = client.leases().lease_time_to_live(request).await.expect("a lease").into_inner();
        let mut keys = left.keys;
        keys.sort();
        leases.push((lease.id, left.granted_ttl, keys));
    }
    leases.sort();
    let mut auth = client.auth();
    let mut users = Vec::new();
    for user in auth.user_list(AuthUserListRequest {}).await.expect("users").into_inner().users {
        let request = AuthUserGetRequest { name: user.clone() };
        users.push((user, auth.user_get(request).await.expect("a user").into_inner().roles));
    }
    let mut roles = Vec::new();
    for role in auth.role_list(AuthRoleListRequest {}).await.expect("roles").into_inner().roles {
        let request = AuthRoleGetRequest { role: role.clone() };
        let permissions = auth.role_get(request).await.expect("a role").into_inner().perm.len();
        // What `root` may is not stored.
        roles.push((role.clone(), if role == "root" { 0 } else { permissions }));
    }
    let alarms = client.alarms().await;
    Picture { revision, hash: hash.hash, compacted, at_revisions, events, leases, users, roles, alarms }
}

/// A snapshot as `etcdctl snapshot save` writes it.
pub(crate) fn save(release: Release, server: &Server, file: &Path) {
    succeed(&release.etcdctl(), &["--endpoints", &server.endpoint(), "snapshot", "save", text(file)]);
}

/// Login works, so the hashes of passwords have travelled.
async fn log_in(client: &Client) {
    let mut auth = client.auth();
    auth.auth_enable(AuthEnableRequest {}).await.expect("there is a root");
    for user in ["root", "reader"] {
        let request = AuthenticateRequest { name: user.to_owned(), password: format!("secret of {user}") };
        auth.authenticate(request).await.expect("the password is right");
    }
    let wrong = AuthenticateRequest { name: "reader".to_owned(), password: "wrong".to_owned() };
    auth.authenticate(wrong).await.expect_err("the password is wrong");
}

/// etcd, a snapshot, retcd, a snapshot, etcd again: the same everywhere.
#[tokio::test]
async fn data_travels_from_etcd_to_retcd_and_back() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not import");
        return;
    }
    for release in releases() {
        let mut etcd = Launch::etcd(release).start();
        write_history(&etcd.client(), 7).await;
        let before = picture(&etcd.client()).await;
        let file = etcd.home().join("etcd.db");
        save(release, &etcd, &file);
        etcd.stop();

        for source in [file.clone(), etcd.data_dir()] {
            let mut server = Launch::subject().prepare();
            let said = retcd(&["import", text(&source), "--data-dir", text(&server.data_dir())]);
            assert!(said.contains(&format!("at revision {}", before.revision)), "{said}");
            assert!(said.contains(&format!("HashKV {}", before.hash)), "{said}");
            server.start();
            assert_eq!(picture(&server.client()).await, before, "{release:?}: {}", source.display());

            let back = server.home().join("retcd.db");
            save(release, &server, &back);
            let exported = server.home().join("exported.db");
            server.stop();
            retcd(&["export", "--data-dir", text(&server.data_dir()), text(&exported)]);
            for snapshot in [back, exported] {
                let status = succeed(&release.etcdutl(), &["snapshot", "status", text(&snapshot)]);
                assert!(status.contains(&format!("{}", before.revision)), "{status}");
                if release == Release::V37 {
                    // This command writes to the file.
                    let copy = snapshot.with_extension("copy");
                    fs::copy(&snapshot, &copy).expect("it can be copied");
                    let hash = succeed(&release.etcdutl(), &["hashkv", text(&copy)]);
                    assert!(hash.contains(&before.hash.to_string()), "{hash}");
                }
                let mut again = Launch::etcd(release).prepare();
                restore_with_etcdutl(release, &snapshot, &again);
                again.start();
                assert_eq!(picture(&again.client()).await, before, "{release:?}: etcd again");
                again.client().put("k", "v").await;
                again.client().compact(before.revision).await;
                log_in(&again.client()).await;
            }
        }
    }
}

fn restore_with_etcdutl(release: Release, snapshot: &Path, server: &Server) {
    let data_dir = server.data_dir();
    fs::remove_dir_all(&data_dir).ok();
    let cluster = format!("default={}", server.peer_url());
    succeed(
        &release.etcdutl(),
        &[
            "snapshot",
            "restore",
            text(snapshot),
            "--data-dir",
            text(&data_dir),
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            &server.peer_url(),
        ],
    );
}

/// What an etcd has acknowledged is imported, although the process was killed and its database lacks it.
#[tokio::test]
async fn a_killed_etcd_is_imported_with_every_acknowledged_write() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not import");
        return;
    }
    for release in releases() {
        let mut etcd = Launch::etcd(release).start();
        write_history(&etcd.client(), 11).await;
        let writers = (0..8).map(|writer| {
            let client = etcd.client();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let (key, value) = (format!("w{writer}-{number}"), format!("{number}"));
                    let put = PutRequest {
                        key: key.clone().into(),
                        value: value.clone().into(),
                        ..PutRequest::default()
                    };
                    if client.try_put(put).await.is_err() {
                        break;
                    }
                    acknowledged.push((key, value));
                }
                acknowledged
            })
        });
        let writers: Vec<_> = writers.collect();
        // Until there is something to lose.
        while etcd.client().range(prefix("w")).await.count < 500 {}
        etcd.kill();
        let mut server = Launch::subject().prepare();
        let said = retcd(&["import", text(&etcd.data_dir()), "--data-dir", text(&server.data_dir())]);
        assert!(said.contains("requests were replayed from the log"), "{said}");
        server.start();
        let client = server.client();
        let found = client.range(prefix("w")).await.kvs;
        let found: std::collections::BTreeMap<_, _> =
            found.into_iter().map(|kv| (kv.key, kv.value)).collect();
        for writer in writers {
            for (key, value) in writer.await.expect("a writer does not panic") {
                assert_eq!(
                    found.get(key.as_bytes()).map(|value| &value[..]),
                    Some(value.as_bytes()),
                    "{release:?} {key}"
                );
            }
        }
        // The same etcd, started again, says the same.
        etcd.start();
        let (ours, theirs) = (picture(&client).await, picture(&etcd.client()).await);
        assert_eq!(ours, theirs, "{release:?}");
    }
}

/// With `--keep-membership` clients and tools find the members with the ids that they had.
#[tokio::test]
async fn members_are_kept_where_that_is_asked_for() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not import");
        return;
    }
    for release in releases() {
        let mut etcd = Launch::etcd(release).flag("initial-cluster-token", "of-the-old-one").start();
        write_history(&etcd.client(), 19).await;
        let identity = async |server: &Server| {
            let list = MemberListRequest { linearizable: false };
            let members = server.client().cluster().member_list(list).await.expect("members").into_inner();
            let header = members.header.expect("a header");
            let ids: Vec<(u64, String)> =
                members.members.into_iter().map(|member| (member.id, member.name)).collect();
            (header.cluster_id, header.member_id, ids)
        };
        let (before, data) = (identity(&etcd).await, picture(&etcd.client()).await);
        etcd.stop();
        let import = |server: &Server, more: &[&str]| {
            let (source, target) = (etcd.data_dir(), server.data_dir());
            retcd(&[&["import", text(&source), "--data-dir", text(&target)], more].concat())
        };
        let mut server = Launch::subject().prepare();
        let said = import(&server, &["--keep-membership"]);
        assert!(said.contains(&format!("of cluster {:x}", before.0)), "{said}");
        server.start();
        assert_eq!(identity(&server).await, before, "{release:?}");
        assert_eq!(picture(&server.client()).await, data, "{release:?}");
        server.client().put("k", "v").await;
        server.restart();
        assert_eq!(identity(&server).await, before, "{release:?}: started again");

        let mut another = Launch::subject().prepare();
        import(&another, &[]);
        another.start();
        assert_ne!(identity(&another).await.0, before.0, "it is a new cluster otherwise");
        let file = etcd.home().join("file.db");
        fs::copy(etcd.database(), &file).expect("it can be copied");
        let target = etcd.home().join("no");
        let words = ["import", text(&file), "--data-dir", text(&target), "--keep-membership"];
        let (code, said) = run(&subject_program(), &words);
        assert!(code == Some(1) && said.contains("leave --keep-membership out"), "{said}");
    }
}

/// A member that was killed exports what it has acknowledged, and a snapshot of its next run has the same.
#[tokio::test]
async fn a_killed_member_exports_every_acknowledged_write() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not export");
        return;
    }
    let mut server = Launch::subject().start();
    let client = server.client();
    write_history(&client, 13).await;
    let before = server.home().join("before.db");
    save(Release::V35, &server, &before);
    // None of these waits for a checkpoint.
    for number in 0..200 {
        client.put(format!("late{number:03}"), "value").await;
    }
    let expected = picture(&client).await;
    server.kill();
    let exported = server.home().join("exported.db");
    let said = retcd(&["export", "--data-dir", text(&server.data_dir()), text(&exported)]);
    assert!(said.contains(&format!("at revision {}", expected.revision)), "{said}");
    server.start();
    let again = server.home().join("again.db");
    save(Release::V35, &server, &again);
    for (snapshot, has_all) in [(before, false), (exported, true), (again, true)] {
        let mut restored = Launch::subject().prepare();
        retcd(&["snapshot", "restore", text(&snapshot), "--data-dir", text(&restored.data_dir())]);
        restored.start();
        let found = picture(&restored.client()).await;
        assert_eq!(found == expected, has_all, "{}", snapshot.display());
    }
}

/// Whatever is flipped or cut off in a file of etcd: it is refused with the name of the file, or does no harm.
/// `RETCD_DAMAGES` says how many of each are tried.
#[tokio::test]
async fn damaged_files_of_etcd_are_refused_or_do_no_harm() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not import");
        return;
    }
    let count = std::env::var("RETCD_DAMAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(24);
    let mut etcd = Launch::reference().start();
    write_history(&etcd.client(), 17).await;
    let wal = fs::read_dir(etcd.wal_dir()).expect("a log").flatten().map(|entry| entry.path());
    let wal = wal.filter(|path| path.extension().is_some_and(|extension| extension == "wal"));
    let wal = wal.min().expect("a segment");
    // A segment ends with zeros that nobody reads.
    let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).expect("it has content") + 1;
    let before = used(&fs::read(&wal).expect("it is there"));
    // The database does not have the last of these when the process is killed: they are in the log alone.
    let client = etcd.client();
    join_all((0..64).map(|number| client.put(format!("late{number:02}"), vec![b'v'; 1000]))).await;
    etcd.kill();
    let target = etcd.home().join("target");
    let hash_in = |said: &str| {
        let line = said.lines().find(|line| line.contains("HashKV"));
        line.expect("an import says the hash").to_owned()
    };
    let said = retcd(&["import", text(&etcd.data_dir()), "--data-dir", text(&target)]);
    assert!(!said.contains(" 0 requests were replayed"), "{said}");
    let hash = hash_in(&said);
    fs::remove_dir_all(&target).expect("it was made");
    for path in [etcd.database(), wal.clone()] {
        let sound = fs::read(&path).expect("it is there");
        let used = used(&sound);
        for number in 0..count {
            // Spread over the file, or over what is in the log alone; every fourth is cut off there.
            let first = if path == wal && number % 2 == 0 { before } else { 0 };
            let at = first + (number * 7919 + (used - first) * number / count) % (used - first);
            let mut damaged = sound.clone();
            if number % 4 == 3 {
                damaged.truncate(at);
            } else {
                damaged[at] ^= 1 << (number % 8);
            }
            fs::write(&path, damaged).expect("it is writable");
            // A process that wants more memory than this ends.
            let limited = "ulimit -v 1572864 && exec \"$0\" \"$@\"";
            let output = Command::new("bash")
                .args([
                    "-c",
                    limited,
                    text(&subject_program()),
                    "import",
                    text(&etcd.data_dir()),
                    "--data-dir",
                    text(&target),
                ])
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let place = format!("{} at byte {at}, attempt {number}: {said}", path.display());
            match output.status.code() {
                Some(0) => {
                    // All of a log is covered by checksums, and of a database nothing is: a flipped bit of a value stays.
                    let is_known = path != wal || said.contains("was not written completely");
                    assert!(is_known || hash_in(&said) == hash, "it is imported as something else: {place}");
                    fs::remove_dir_all(&target).expect("it was made");
                }
                Some(1) => {
                    assert!(said.contains(text(&etcd.data_dir())), "the file is not named: {place}");
                    assert!(!target.exists() && !said.contains("panicked"), "{place}");
                }
                other => panic!("it ended with {other:?}: {place}"),
            }
        }
        fs::write(&path, sound).expect("it is writable");
    }
}

fn prefix(prefix: &'static str) -> RangeRequest {
    let range_end = crate::client::prefix_end(prefix.as_bytes());
    RangeRequest { key: prefix.into(), range_end, ..RangeRequest::default() }
}

/// Whoever has to log in to etcd has to log in to retcd, and the other way round.
#[tokio::test]
async fn authentication_stays_enabled_on_every_way() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not import");
        return;
    }
    for release in releases() {
        let ask = |server: &Server, user: &str, words: &[&str]| {
            let endpoint = server.endpoint();
            let mut all = vec!["--endpoints", &endpoint];
            let login = format!("{user}:secret of {user}");
            if !user.is_empty() {
                all.extend(["--user", &login]);
            }
            all.extend(words);
            run(&release.etcdctl(), &all)
        };
        let check = |server: &Server| {
            let (code, said) = ask(server, "root", &["get", "of-root"]);
            assert!(code == Some(0) && said.contains("value"), "{release:?}: {said}");
            let (code, said) = ask(server, "reader", &["get", "k01"]);
            assert_eq!(code, Some(0), "{release:?}: {said}");
            for (user, words) in [("", ["get", "k01"]), ("reader", ["get", "of-root"])] {
                let (code, said) = ask(server, user, &words);
                assert_ne!(code, Some(0), "{release:?}: {user} {words:?}: {said}");
            }
        };
        let mut etcd = Launch::etcd(release).start();
        write_history(&etcd.client(), 3).await;
        etcd.client().auth().auth_enable(AuthEnableRequest {}).await.expect("there is a root");
        assert_eq!(ask(&etcd, "root", &["put", "of-root", "value"]).0, Some(0));
        assert_ne!(ask(&etcd, "reader", &["put", "of-root", "another"]).0, Some(0));
        check(&etcd);
        etcd.kill();
        let mut server = Launch::subject().prepare();
        retcd(&["import", text(&etcd.data_dir()), "--data-dir", text(&server.data_dir())]);
        server.start();
        check(&server);
        let back = server.home().join("back.db");
        assert_eq!(ask(&server, "root", &["snapshot", "save", text(&back)]).0, Some(0));
        let mut again = Launch::etcd(release).prepare();
        restore_with_etcdutl(release, &back, &again);
        again.start();
        check(&again);
        let mut restored = Launch::subject().prepare();
        retcd(&["snapshot", "restore", text(&back), "--data-dir", text(&restored.data_dir())]);
        restored.start();
        check(&restored);
    }
}

/// The refusals of an import name the cause and the remedy, and leave nothing behind.
#[tokio::test]
async fn what_cannot_be_imported_is_refused() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not import");
        return;
    }
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it is writable");
    let place = |name: &str| home.path().join(name);
    let target = place("new");
    let refused = |source: &Path, cause: &str| {
        let (code, said) = run(&subject_program(), &["import", text(source), "--data-dir", text(&target)]);
        assert_eq!(code, Some(1), "{}: {said}", source.display());
        assert!(said.contains(cause), "{}: {said}", source.display());
        assert!(!target.exists(), "{}: nothing is left behind: {said}", source.display());
    };
    const VALUE: &[u8] = b"a value that is found in a file";
    let mut etcd = Launch::reference().start();
    etcd.client().put("k", VALUE).await;
    refused(&etcd.data_dir(), "is in use by another process; stop the etcd that uses it");
    etcd.stop();
    let (mut ours, client) = serve();
    client.put("k", "v").await;
    ours.stop();
    refused(&ours.data_dir(), "is a data directory of retcd already");
    fs::create_dir(place("empty")).expect("it is writable");
    refused(&place("empty"), "is not the data directory of an etcd: it has no member/snap/db");

    // A log elsewhere, and a log with a damaged record.
    let wal = etcd.data_dir().join("member/wal");
    fs::rename(&wal, place("wal")).expect("it can be moved");
    refused(&etcd.data_dir(), "has no log of etcd; say with --source-wal-dir where it is");
    let moved = place("wal");
    let words =
        ["import", text(&etcd.data_dir()), "--source-wal-dir", text(&moved), "--data-dir", text(&target)]
            .map(str::to_owned);
    retcd(&words.iter().map(String::as_str).collect::<Vec<_>>());
    fs::remove_dir_all(&target).expect("it is there");
    fs::rename(&moved, &wal).expect("it can be moved");
    let segment = fs::read_dir(&wal).expect("a log").map(|entry| entry.expect("a file").path());
    let segment = segment.filter(|path| path.extension().is_some_and(|extension| extension == "wal")).min();
    let segment = segment.expect("a file of the log");
    let good = fs::read(&segment).expect("it can be read");
    let mut bad = good.clone();
    let place = bad.windows(VALUE.len()).position(|bytes| bytes == VALUE).expect("the put is in the log");
    bad[place] ^= 1;
    fs::write(&segment, &bad).expect("it is writable");
    refused(&etcd.data_dir(), ".wal is damaged at byte");
    fs::write(&segment, &good).expect("it is writable");

    // The database.
    let database = etcd.data_dir().join("member/snap/db");
    let good = fs::read(&database).expect("it can be read");
    fs::write(&database, &good[..3 * 4096]).expect("it is writable");
    refused(&etcd.data_dir(), "cannot be restored: page 0 is damaged");
    fs::write(&database, [&[0; 8192][..], &good[8192..]].concat()).expect("it is writable");
    refused(&etcd.data_dir(), "neither of the two meta pages is valid");
}

/// etcd's documentation restores a cluster with these flags, and starts each member without them.
#[tokio::test]
async fn a_restore_says_which_cluster_the_member_founds() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let (server, client) = serve();
    for with_data in [false, true] {
        if with_data {
            client.put("k", "v").await;
        }
        let file = server.home().join(format!("{with_data}.db"));
        save(Release::V35, &server, &file);
        let mut restored = Launch::subject().prepare();
        let cluster = format!("m1={}", restored.peer_url());
        let said = retcd(&[
            "snapshot",
            "restore",
            text(&file),
            "--data-dir",
            text(&restored.data_dir()),
            "--name",
            "m1",
            "--initial-cluster",
            &cluster,
            "--initial-cluster-token",
            "other",
            "--initial-advertise-peer-urls",
            &restored.peer_url(),
            "--bump-revision",
            "1000",
            "--mark-compacted",
        ]);
        assert!(said.contains("start it with the same --name"), "{said}");
        restored.set_flag("name", "m1");
        restored.set_flag("initial-cluster", "m1=http://127.0.0.1:1");
        restored.set_flag("initial-advertise-peer-urls", "http://127.0.0.1:1");
        restored.start();
        let copy = restored.client();
        assert_eq!(copy.get("k").await.is_some(), with_data);
        let revision = if with_data { 1002 } else { 1001 };
        assert_eq!(copy.put("k", "again").await, revision + 1, "clients do not see a revision twice");
        let old = RangeRequest { key: "k".into(), revision: revision - 1, ..RangeRequest::default() };
        let refused = copy.try_range(old).await.expect_err("it is compacted");
        assert!(refused.message().contains("required revision has been compacted"), "{refused}");
        let members = copy.cluster().member_list(MemberListRequest::default()).await.expect("members");
        let members = members.into_inner();
        assert_eq!(members.members[0].peer_ur_ls, [restored.peer_url()], "those of the restore");
        restored.restart();
        assert!(restored.client().get("k").await.is_some());
    }
}

/// A copy of the database, as retcd saved it until snapshots had etcd's format.
#[tokio::test]
async fn snapshots_of_older_versions_are_restored() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let mut image = Vec::new();
    let packed = &include_bytes!("images/redb-copy.db.gz")[..];
    GzDecoder::new(packed).read_to_end(&mut image).expect("it was packed");
    let mut server = Launch::subject().prepare();
    let file: PathBuf = server.home().join("old.db");
    fs::write(&file, &image).expect("it is writable");
    retcd(&["snapshot", "restore", text(&file), "--data-dir", text(&server.data_dir())]);
    server.start();
    let client = server.client();
    let hash = client.try_hash_kv(0).await.expect("a hash");
    assert_eq!((hash.hash, hash.hash_revision, hash.compact_revision), (417_006_890, 6, 3));
    assert_eq!(client.get("c").await.map(|kv| kv.value), Some(Bytes::from("4")));

    image[70_000] ^= 1;
    fs::write(&file, &image).expect("it is writable");
    let (code, said) = run(
        &subject_program(),
        &["snapshot", "restore", text(&file), "--data-dir", text(&server.home().join("x"))],
    );
    assert!(code == Some(1) && said.contains("is damaged"), "{said}");
}
