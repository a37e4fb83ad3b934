//! `retcd check`: what is on the disk of a stopped member, and what is wrong with it.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::server::{Launch, Server, serve, subject_is_retcd, subject_program};

fn check(data_dir: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(subject_program());
    command.arg("check").arg("--data-dir").arg(data_dir);
    let output = command.output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// A member that was stopped after some writes, with the hash that it told.
async fn stopped() -> (Server, u32) {
    let (mut server, client) = serve();
    for number in 0..200 {
        client.put(format!("k{}", number % 50), vec![b'v'; 2000]).await;
    }
    client.compact(100).await;
    let hash = client.try_hash_kv(0).await.expect("a hash").hash;
    server.stop();
    (server, hash)
}

fn tree(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        match path.is_dir() {
            true => found.extend(tree(&path)),
            false => found.push((path.clone(), fs::read(&path).expect("it can be read"))),
        }
    }
    found.sort();
    found
}

fn overwrite(path: &Path, offset: u64) {
    let file = fs::File::options().write(true).open(path).expect("it can be written");
    file.write_all_at(b"not what was written", offset).expect("it can be written");
}

/// A segment of the log that has been written to, and a place in the middle of what was written.
fn middle_of_log(server: &Server) -> (PathBuf, u64) {
    let segments = tree(&server.wal_dir());
    let (path, bytes) =
        segments.into_iter().find(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)).expect("one");
    let written = bytes.iter().rposition(|byte| *byte != 0).expect("it was written to");
    (path, written as u64 / 2)
}

#[tokio::test]
async fn sound_files_are_called_so_and_are_not_changed() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd has no such command");
        return;
    }
    let (mut server, hash) = stopped().await;
    let before = tree(&server.data_dir());
    let (code, said) = check(&server.data_dir());
    assert_eq!(code, Some(0), "{said}");
    for words in [&format!("HashKV {hash}"), "50 keys", "compacted at revision 100", "sound: "] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("DAMAGED"), "{said}");
    assert!(tree(&server.data_dir()) == before, "not a byte was changed");

    // What a crash leaves is repaired in memory alone.
    server.start();
    server.client().put("k", "v").await;
    server.kill();
    let before = tree(&server.data_dir());
    let (code, said) = check(&server.data_dir());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("51 keys"), "{said}");
    assert!(tree(&server.data_dir()) == before, "not a byte was changed");
}

#[tokio::test]
async fn damage_is_named_place_by_place() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd has no such command");
        return;
    }
    let (server, _) = stopped().await;
    let (segment, offset) = middle_of_log(&server);
    overwrite(&segment, offset);
    let database = server.database();
    // Pages that are not used any more have values too, so all of them are damaged.
    let stored = fs::read(&database).expect("it can be read");
    let is_value = |chunk: &[u8]| chunk.iter().all(|byte| *byte == b'v');
    let places: Vec<usize> =
        (0..stored.len() - 512).step_by(512).filter(|at| is_value(&stored[*at..][..512])).collect();
    assert!(!places.is_empty(), "values are stored");
    places.iter().for_each(|place| overwrite(&database, *place as u64));

    let (code, said) = check(&server.data_dir());
    assert_eq!(code, Some(1), "{said}");
    for words in [
        &segment.display().to_string(),
        "DAMAGED at byte",
        &database.display().to_string(),
        "places are damaged; ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.contains("does not match"), "the cell is named: {said}");
}

#[tokio::test]
async fn what_is_no_stopped_member_is_refused() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd has no such command");
        return;
    }
    let (running, _client) = serve();
    let (code, said) = check(&running.data_dir());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is in use by another process"), "{said}");

    let empty = Launch::subject().prepare();
    let (code, said) = check(&empty.data_dir());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has no member"), "{said}");
}
