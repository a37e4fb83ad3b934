//! Command lines typed at our etcdutl and at etcdutl 3.7, on copies of the same files.
//!
//! What goes to stdout and the exit code are the same. What goes to stderr is compared where it is no log line and no usage.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    client::prefix_end,
    ctl::interface,
    migrate::{save, text, write_history},
    pb::etcdserverpb::DeleteRangeRequest,
    server::{Launch, Server, subject_is_retcd, subject_program},
    tools::{Release, Seen},
};

#[derive(Clone, Copy)]
enum Tool {
    Etcdutl,
    Ours,
}

/// Whether both tools are there.
fn is_comparable() -> bool {
    let is_there = subject_is_retcd() && Release::of_etcdctl().contains(&Release::V37);
    if !is_there {
        eprintln!("left out: there is no etcdutl 3.7 to compare with");
    }
    is_there
}

fn typed(tool: Tool, home: &Path, line: &str) -> Seen {
    let mut command = match tool {
        Tool::Etcdutl => Command::new(Release::V37.etcdutl()),
        Tool::Ours => {
            let mut command = Command::new(subject_program());
            command.arg0("etcdutl");
            command
        }
    };
    let words = line.split_whitespace().map(|word| word.trim_matches('\''));
    let output = command.args(words).current_dir(home).env_clear().output().expect("it runs");
    Seen::of(&output)
}

fn ours(home: &Path, line: &str) -> Seen {
    typed(Tool::Ours, home, line)
}

/// Errors, each once: etcdutl says some twice. Its log lines begin with the time, and the words of the usage are ours.
fn errors(stderr: &str) -> Vec<String> {
    let mut errors: Vec<String> =
        stderr.lines().filter(|line| line.starts_with("Error: ")).map(str::to_owned).collect();
    errors.dedup();
    errors
}

/// A file with a history of every kind, the data directory that it comes from, stopped, and a file of another kind.
async fn files(release: Release) -> (Server, PathBuf) {
    let mut etcd = Launch::etcd(release).start();
    write_history(&etcd.client(), 5).await;
    let home = etcd.home().join("files");
    fs::create_dir(&home).expect("it is writable");
    save(release, &etcd, &home.join("snap"));
    etcd.stop();
    fs::write(home.join("junk"), "junk").expect("it is writable");
    copy(&etcd.data_dir(), &home.join("data"));
    (etcd, home)
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(status.success());
}

#[tokio::test]
async fn files_of_etcd_are_shown_as_etcdutl_shows_them() {
    if !is_comparable() {
        return;
    }
    let mut compared = 0;
    for release in [Release::V35, Release::V37] {
        let (_etcd, home) = files(release).await;
        let [theirs, mine] = ["theirs", "mine"].map(|name| home.with_file_name(name));
        for (copy_of_it, original) in [(&theirs, &home), (&mine, &home)] {
            copy(original, copy_of_it);
        }
        let newest: i64 = {
            let status = ours(&mine, "snapshot status snap").stdout;
            status.split(", ").nth(1).and_then(|revision| revision.parse().ok()).expect("a revision")
        };
        let mut lines: Vec<String> = [
            "snapshot status",
            "snapshot status snap x",
            "snapshot status nofile",
            "snapshot status nofile -w xyz",
            "snapshot status snap -w protobuf",
            "snapshot status snap -w xyz",
            "snap stat snap",
            "snapshot status data/member/snap/db",
            "snapshot restore",
            "snapshot restore snap x",
            "snapshot restore snap --mark-compacted",
            "snapshot restore snap --bump-revision 5",
            "snapshot restore snap --bump-revision x",
            "snapshot restore nofile --data-dir new",
            "hashkv",
            "hashkv snap x",
            "hashkv nofile",
            "hashkv nofile -w xyz",
            "hashkv snap -w protobuf",
            "hashkv snap -w xyz",
            "hashkv snap --rev x",
            "hashkv snap --rev -1",
            "hashkv snap --rev 2",
            "hashkv snap --rev 100000",
            "hashkv snap --bogus",
            "hashkv data/member/snap/db",
            "defrag",
            "defrag --data-dir nodir",
            "migrate",
            "migrate --data-dir data",
            "migrate --data-dir data --target-version 3",
            "migrate --data-dir data --target-version x.y",
            "migrate --data-dir data --target-version 3.4",
            "migrate --data-dir nodir --target-version 3.7",
            "version",
            "version x",
            "completion",
            "completion x",
            "completion bash x",
            "bogus",
            "--bogus",
            "-v",
            "--timeout x version",
            "--timeout",
            "-w",
        ]
        .map(str::to_owned)
        .to_vec();
        for format in ["simple", "fields", "json", "table"] {
            lines.push(format!("snapshot status snap -w {format}"));
            lines.push(format!("--write-out={format} hashkv snap"));
        }
        // At many revisions, because what counts of the compacted ones depends on it.
        lines.extend((newest - 200..=newest).step_by(23).map(|rev| format!("hashkv snap --rev {rev}")));
        let different = lines.iter().filter_map(|line| {
            let (theirs, ours) = (typed(Tool::Etcdutl, &theirs, line), ours(&mine, line));
            let same = theirs.stdout == ours.stdout
                && theirs.code == ours.code
                && errors(&theirs.stderr) == errors(&ours.stderr);
            (!same).then(|| format!("{line}\n  etcdutl {theirs:?}\n  ours    {ours:?}"))
        });
        let different: Vec<String> = different.collect();
        assert!(different.is_empty(), "{release:?}: not the same:\n{}", different.join("\n"));
        compared += lines.len();
        // Ours only reads.
        assert_eq!(
            fs::read(mine.join("snap")).expect("it is there"),
            fs::read(home.join("snap")).expect("too")
        );
    }
    assert!(compared > 100, "only {compared} lines were compared");
}

#[test]
fn every_command_has_the_flags_of_etcdutl() {
    if !is_comparable() {
        return;
    }
    let mut waiting = vec![String::new()];
    let mut compared = 0;
    while let Some(path) = waiting.pop() {
        let help = format!("{path} --help");
        let [theirs, ours] =
            [Tool::Etcdutl, Tool::Ours].map(|tool| interface(&typed(tool, Path::new("/"), &help).stdout));
        assert_eq!(theirs, ours, "etcdutl (left) and ours (right): {help}");
        waiting.extend(ours.commands.iter().map(|name| format!("{path} {name}").trim().to_owned()));
        compared += 1;
    }
    assert_eq!(compared, 10);
}

/// What is shown of a stopped member is what etcdutl shows of the snapshot that it exports.
#[tokio::test]
async fn data_directories_of_retcd_are_shown_as_their_snapshots() {
    if !is_comparable() {
        return;
    }
    let mut server = Launch::subject().start();
    write_history(&server.client(), 9).await;
    let data_dir = server.data_dir();
    let in_use = ours(server.home(), &format!("hashkv {} --timeout 1ms", text(&data_dir)));
    assert_eq!(in_use.code, Some(1));
    assert!(in_use.stderr.contains("is in use by another process"), "{}", in_use.stderr);
    // What the log has beyond the database counts.
    server.kill();
    let database = data_dir.join("member/snap/db");
    let shown = |line: &str, path: &Path| {
        let seen = ours(server.home(), &format!("{line} {}", text(path)));
        assert_eq!(seen.code, Some(0), "{line}: {}", seen.stderr);
        seen.stdout
    };
    let (status, hash) = (shown("snapshot status -w json", &data_dir), shown("hashkv", &data_dir));
    assert_eq!(shown("snapshot status -w json", &database), status);
    let file = server.home().join("exported");
    let words = ["export", "--data-dir", text(&data_dir), text(&file)];
    assert!(Command::new(subject_program()).args(words).status().expect("it runs").success());
    let theirs = |line: &str| typed(Tool::Etcdutl, server.home(), line).stdout;
    assert_eq!(theirs("snapshot status -w json exported"), status);
    assert_eq!(shown("snapshot status -w json", &file), status);
    assert_eq!(theirs("hashkv exported"), hash);
}

#[tokio::test]
async fn the_database_of_a_stopped_member_is_defragmented() {
    if !subject_is_retcd() {
        return;
    }
    let mut server = Launch::subject().start();
    let client = server.client();
    // Larger values are not in the database.
    for number in 0..1000 {
        client.put(format!("k{number}"), vec![b'v'; 2000]).await;
    }
    let range_end = prefix_end(b"k");
    let all = DeleteRangeRequest { key: "k".into(), range_end, ..DeleteRangeRequest::default() };
    client.try_delete(all).await.expect("they are deleted");
    let revision = client.put("k", "last").await;
    client.compact(revision).await;
    let hash = client.try_hash_kv(0).await.expect("a hash").hash;
    server.stop();
    let (data_dir, database) = (server.data_dir(), server.database());
    let before = fs::metadata(&database).expect("it is there").len();
    let seen = ours(server.home(), &format!("defrag --data-dir {}", text(&data_dir)));
    assert_eq!((seen.code, seen.stdout.as_str()), (Some(0), ""), "{}", seen.stderr);
    let after = fs::metadata(&database).expect("it is there").len();
    assert!(after < before / 2, "{before} bytes became {after}");
    server.start();
    assert_eq!(server.client().try_hash_kv(0).await.expect("a hash").hash, hash);
}

#[tokio::test]
async fn what_utl_does_not_do_with_a_directory_of_etcd_is_said() {
    if !is_comparable() {
        return;
    }
    let (_etcd, home) = files(Release::V37).await;
    let before = fs::read(home.join("data/member/snap/db")).expect("it is there");
    for (line, code, said) in [
        ("defrag --data-dir data", 1, "which retcd does not change"),
        ("migrate --data-dir data --target-version 3.6", 1, "`retcd import data --data-dir NEW`"),
        ("hashkv data", 0, "only its database is read"),
        ("hashkv junk", 1, "is neither a snapshot, nor"),
        ("snapshot status junk", 1, "is neither a snapshot, nor"),
        ("hashkv .", 1, "has no member"),
    ] {
        let seen = ours(&home, line);
        assert_eq!(seen.code, Some(code), "{line}: {}", seen.stderr);
        assert!(seen.stderr.contains(said), "{line}: {}", seen.stderr);
    }
    assert_eq!(fs::read(home.join("data/member/snap/db")).expect("it is there"), before);
    let new = "--data-dir new --name m --initial-cluster m=http://127.0.0.1:1 --initial-advertise-peer-urls \
               http://127.0.0.1:1 --bump-revision 1000 --mark-compacted";
    let seen = ours(&home, &format!("snapshot restore snap {new}"));
    assert_eq!((seen.code, seen.stdout.as_str()), (Some(0), ""), "{}", seen.stderr);
    assert!(seen.stderr.contains("HashKV"), "{}", seen.stderr);
    let seen = ours(&home, "migrate --data-dir new --target-version 3.5");
    assert_eq!((seen.code, seen.stdout.as_str()), (Some(0), ""), "{}", seen.stderr);
    assert!(seen.stderr.contains("nothing is to be migrated"), "{}", seen.stderr);
}
