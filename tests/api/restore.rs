//! Restoring snapshots.

use std::{
    fs::{self, File, Permissions},
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    client::Client,
    server::{Launch, serve, serve_with, subject_is_retcd, subject_program},
};

/// Runs `snapshot restore`. Returns its output and its exit code.
fn restore(file: &Path, data_dir: &Path) -> (Option<i32>, String) {
    said(restore_command(file, data_dir))
}

fn restore_command(file: &Path, data_dir: &Path) -> Command {
    let mut command = Command::new(subject_program());
    command.args(["snapshot", "restore"]).arg(file).arg("--data-dir").arg(data_dir);
    command
}

fn said(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// A snapshot as `etcdctl snapshot save` writes it.
async fn snapshot_of(client: &Client) -> Vec<u8> {
    client.snapshot().await.iter().flat_map(|part| part.blob.to_vec()).collect()
}

/// Everything below a directory: the names, and the content of files.
fn tree(directory: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.push((path, None));
        } else {
            found.push((path.clone(), fs::read(&path).ok()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_snapshot_restores_what_it_was_taken_of() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let (server, client) = serve();
    let lease = client.grant(1000, 77).await;
    for number in 0..50 {
        client.put(format!("k{number}"), format!("v{number}")).await;
    }
    client.delete("k7").await;
    let hash = client.try_hash_kv(0).await.expect("a hash");
    let file = server.home().join("snapshot.db");
    fs::write(&file, snapshot_of(&client).await).expect("a test may write");

    let mut restored = Launch::subject().prepare();
    let (code, said) = restore(&file, &restored.data_dir());
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = restore(&file, &restored.data_dir());
    assert_eq!(code, Some(1), "a directory in use is left alone: {said}");

    restored.start();
    let copy = restored.client();
    let same = copy.try_hash_kv(0).await.expect("a hash");
    assert_eq!((same.hash, same.hash_revision), (hash.hash, hash.hash_revision));
    assert_eq!(copy.time_to_live(lease).await.granted_ttl, 1000);
    let next = copy.put("k7", "again").await;
    assert_eq!(next, hash.hash_revision + 1, "revisions go on where the snapshot was");
    restored.restart();
    assert!(restored.client().get("k7").await.is_some());
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_wherever_the_damage_is() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let (server, client) = serve();
    client.put("k", "v").await;
    let good = snapshot_of(&client).await;
    let file = server.home().join("snapshot.db");
    let target = server.home().join("restored");
    for place in (0..good.len()).step_by(good.len() / 7) {
        let mut bad = good.clone();
        bad[place] ^= 0x20;
        fs::write(&file, &bad).expect("a test may write");
        let (code, said) = restore(&file, &target);
        assert_eq!(code, Some(1), "byte {place}: {said}");
        assert!(said.contains("snapshot.db is damaged"), "{said}");
        assert!(!target.exists(), "byte {place}: nothing is left behind");
    }
    fs::write(&file, &good[..good.len() - 100]).expect("a test may write");
    assert_eq!(restore(&file, &target).0, Some(1), "a file cut short");
    fs::write(&file, &good).expect("a test may write");
    assert_eq!(restore(&file, &target).0, Some(0), "and the good one is still good");
}

/// Each refusal has the cause and the remedy, and leaves the directory exactly as it was.
#[tokio::test]
async fn what_cannot_be_restored_is_refused_and_leaves_nothing_behind() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let (_server, client) = serve();
    client.put("k", "v").await;
    let good = snapshot_of(&client).await;
    let (_etcd, etcd) = serve_with(Launch::reference());
    etcd.put("k", "v").await;
    let of_etcd = snapshot_of(&etcd).await;

    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it is writable");
    let place = |name: &str| home.path().join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(place(name), bytes).expect("it is writable");
    write("good.db", &good);
    write("etcd.db", &of_etcd);
    write("etcd-cut-short.db", &of_etcd[..of_etcd.len() - 1000]);
    write("cut-short.db", &good[..good.len() - 1000]);
    write("cut-short-evenly.db", &good[..good.len() - 1024]);
    write("without-checksum.db", &good[..good.len() - 32]);
    write("empty.db", b"");
    write("text.db", b"certainly not a snapshot");
    write("even-text.db", &[b'x'; 1024 + 32]);
    fs::create_dir(place("directory.db")).expect("it is writable");
    let _socket = UnixListener::bind(place("socket.db")).expect("it is writable");
    // A complete file of another kind.
    let foreign = [&[b'x'; 512][..], &sha256(&[b'x'; 512])].concat();
    write("foreign.db", &foreign);
    fs::create_dir_all(place("in-use/member/wal")).expect("it is writable");
    write("in-use/member/wal/00000001.wal", b"of somebody");
    fs::create_dir(place("not-empty")).expect("it is writable");
    write("not-empty/letter", b"of somebody");
    write("file", b"of somebody");
    fs::create_dir(place("empty")).expect("it is writable");

    let cases = [
        ("good.db", "in-use", "already contains a member; choose an empty --data-dir, or move that"),
        ("good.db", "not-empty", "is not empty: it holds letter; choose an empty --data-dir"),
        ("good.db", "file", "file is not a directory; choose another --data-dir"),
        ("good.db", "file/below", "file/below is not a directory; choose another --data-dir"),
        ("etcd-cut-short.db", "new", "etcd-cut-short.db does not end with a checksum"),
        ("etcd-cut-short.db", "empty", "if it is a copy of a database that nobody used meanwhile"),
        ("cut-short.db", "new", "does not end with a checksum, as a snapshot does: it was cut short"),
        ("without-checksum.db", "new", "Take a snapshot with `etcdctl snapshot save`"),
        ("cut-short-evenly.db", "new/deep/down", "cut-short-evenly.db is damaged"),
        ("cut-short-evenly.db", "empty", "Take another snapshot, or another copy of this one"),
        ("empty.db", "new", "is not a snapshot; name a file that `etcdctl snapshot save` wrote"),
        ("text.db", "new", "text.db is not a snapshot"),
        ("even-text.db", "new", "even-text.db is damaged"),
        ("foreign.db", "new/deep/down", "foreign.db is not a snapshot; name a file"),
        ("foreign.db", "empty", "foreign.db is not a snapshot"),
        (
            "directory.db",
            "new",
            "directory.db is not a file; name the file that `etcdctl snapshot save` wrote",
        ),
        ("socket.db", "new", "socket.db is not a file"),
        ("missing.db", "new", "missing.db: No such file or directory"),
    ];
    let before = tree(home.path());
    for (file, target, text) in cases {
        let (code, said) = restore(&place(file), &place(target));
        assert_eq!(code, Some(1), "{file} into {target}: {said}");
        assert!(said.contains(text), "{file} into {target}: {said}");
        assert!(tree(home.path()) == before, "{file} into {target} has changed something: {said}");
    }
    assert_eq!(restore(&place("good.db"), &place("empty")).0, Some(0));
    assert_eq!(restore(&place("etcd.db"), &place("new/deep/down")).0, Some(0), "one of etcd is as good");

    // A copy of a database has no checksum, and whoever skips it says that it need not have one.
    let skip = |file: &str, target: &str| {
        let mut command = restore_command(&place(file), &place(target));
        command.arg("--skip-hash-check");
        said(command)
    };
    let (code, said) = skip("without-checksum.db", "unchecked");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = skip("text.db", "unchecked-text");
    assert!(code == Some(1) && said.contains("is not a snapshot"), "{said}");
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

/// A user without the permission to read the file, or to create the directory; and a full disk, at each step.
#[tokio::test]
async fn a_restore_that_the_system_forbids_says_so_and_leaves_nothing_behind() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let (_server, client) = serve();
    client.put("k", "v").await;
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it is writable");
    let place = |name: &str| home.path().join(name);
    let permit = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
    fs::write(place("good.db"), snapshot_of(&client).await).expect("it is writable");
    fs::copy(place("good.db"), place("secret.db")).expect("it is writable");
    fs::create_dir(place("guarded")).expect("it is writable");
    permit(home.path(), 0o755);
    permit(&place("good.db"), 0o644);
    permit(&place("secret.db"), 0);
    permit(&place("guarded"), 0o555);
    let before = tree(home.path());
    let cases = [
        ("secret.db", "guarded/new", "that this user may read"),
        (
            "good.db",
            "guarded/new",
            "give this user write permission for that directory, or choose another --data-dir",
        ),
        (
            "good.db",
            "guarded",
            "give this user write permission for that directory, or choose another --data-dir",
        ),
    ];
    for (file, target, text) in cases {
        let mut command = restore_command(&place(file), &place(target));
        if rustix::process::geteuid().is_root() {
            // Permissions do not apply to root.
            command.uid(65534).gid(65534);
        }
        let (code, said) = said(command);
        assert_eq!(code, Some(1), "{file} into {target}: {said}");
        assert!(said.contains("Permission denied") && said.contains(text), "{file} into {target}: {said}");
        assert!(tree(home.path()) == before, "{file} into {target} has changed something: {said}");
    }

    let blocks = fs::metadata(place("good.db")).expect("it is there").len() / 512;
    for limit in [0, 1, blocks / 2, blocks - 1] {
        let program = restore_command(&place("good.db"), &place("new"));
        let words = program.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let mut command = Command::new("sh");
        // A limit on the length of files stands for a full disk, which a test cannot have.
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec {} {words}", subject_program().display());
        command.args(["-c", &script]);
        let (code, said) = said(command);
        assert_eq!(code, Some(1), "{limit} of {blocks} blocks: {said}");
        assert!(said.contains("free space"), "{limit} of {blocks} blocks: {said}");
        assert!(tree(home.path()) == before, "{limit} of {blocks} blocks: {said}");
    }
    assert_eq!(restore(&place("good.db"), &place("new")).0, Some(0));
}

/// A file of etcd was copied to the place of the database.
#[tokio::test]
async fn a_database_of_etcd_is_told_from_a_damaged_one_and_left_alone() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let (_etcd, etcd) = serve_with(Launch::reference());
    etcd.put("k", "v").await;
    let mut server = Launch::subject().prepare();
    fs::create_dir_all(server.data_dir().join("member/snap")).expect("it is writable");
    fs::write(server.database(), snapshot_of(&etcd).await).expect("it is writable");
    let before = tree(&server.data_dir());
    let log = server.start_refused().log.join("\n");
    assert!(log.contains("is a data directory of etcd, which retcd cannot open in place"), "{log}");
    assert!(log.contains(&format!("retcd import {} --data-dir", server.data_dir().display())), "{log}");
    assert!(tree(&server.data_dir()) == before, "nothing was changed");
}

/// Otherwise a member that starts after an interrupted restore would serve an empty store.
#[tokio::test]
async fn a_restore_that_was_cut_short_is_not_taken_for_an_empty_directory() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let (server, client) = serve();
    client.put("k", "v").await;
    let file = server.home().join("snapshot.db");
    fs::write(&file, snapshot_of(&client).await).expect("it is writable");
    let mut restored = Launch::subject().prepare();
    let unfinished = restored.data_dir().join("member.restoring/snap");
    fs::create_dir_all(&unfinished).expect("it is writable");
    fs::write(unfinished.join("db"), "half a copy").expect("it is writable");
    let log = restored.start_refused().log.join("\n");
    assert!(log.contains("Run `retcd snapshot restore` again"), "{log}");

    let other = File::open(restored.data_dir()).expect("it is there");
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).expect("nobody has it");
    let (code, said) = restore(&file, &restored.data_dir());
    assert!(code == Some(1) && said.contains("another process is restoring a snapshot into"), "{said}");
    assert!(unfinished.join("db").exists(), "what the other process makes is left alone");
    drop(other);
    assert_eq!(restore(&file, &restored.data_dir()).0, Some(0));
    restored.start();
    assert!(restored.client().get("k").await.is_some());
}

/// The log of a previous member does not belong to the restored database, and a log without a database is
/// refused too.
#[tokio::test]
async fn a_log_directory_of_another_member_is_refused() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl");
        return;
    }
    let wal = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it is writable");
    let mut server = Launch::subject().flag("wal-dir", wal.path().display()).start();
    let client = server.client();
    client.put("k", "v").await;
    let file = server.home().join("snapshot.db");
    fs::write(&file, snapshot_of(&client).await).expect("it is writable");
    client.put("later", "v").await;
    server.stop();
    fs::rename(server.data_dir(), server.home().join("old")).expect("it can be moved");
    let before = tree(wal.path());
    for is_restored in [false, true] {
        if is_restored {
            fs::remove_dir_all(server.data_dir()).expect("it can be emptied");
            assert_eq!(restore(&file, &server.data_dir()).0, Some(0));
        }
        let log = server.start_refused().log.join("\n");
        assert!(log.contains("it contains the log of another member"), "{log}");
        assert!(log.contains("choose an empty --wal-dir"), "{log}");
        assert!(tree(wal.path()) == before, "the log is left alone");
    }
    for (path, _) in before {
        fs::remove_file(path).expect("it can be moved away");
    }
    server.start();
    let client = server.client();
    assert!(client.get("k").await.is_some());
    assert!(client.get("later").await.is_none(), "what came after the snapshot is not in it");
}
