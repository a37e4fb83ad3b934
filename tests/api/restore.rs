//! A snapshot is worth something because it can be restored.

use std::{fs, process::Command};

use crate::server::{Launch, serve, subject_is_retcd, subject_program};

/// Runs `snapshot restore` and gives what it said, with its exit code.
fn restore(file: &std::path::Path, data_dir: &std::path::Path) -> (Option<i32>, String) {
    let output = Command::new(subject_program())
        .args(["snapshot", "restore"])
        .arg(file)
        .arg("--data-dir")
        .arg(data_dir)
        .output()
        .expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
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
    let parts = client.snapshot().await;
    let file = server.home().join("snapshot.db");
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.blob.to_vec()).collect();
    fs::write(&file, &bytes).expect("a test may write");

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
    let good: Vec<u8> = client.snapshot().await.iter().flat_map(|part| part.blob.to_vec()).collect();
    let file = server.home().join("snapshot.db");
    let target = server.home().join("restored");
    for place in (0..good.len()).step_by(good.len() / 7) {
        let mut bad = good.clone();
        bad[place] ^= 0x20;
        fs::write(&file, &bad).expect("a test may write");
        let (code, said) = restore(&file, &target);
        assert_eq!(code, Some(1), "byte {place}: {said}");
        assert!(said.contains("snapshot.db is damaged"), "{said}");
    }
    fs::write(&file, &good[..good.len() - 100]).expect("a test may write");
    assert_eq!(restore(&file, &target).0, Some(1), "a file cut short");
    fs::write(&file, &good).expect("a test may write");
    assert_eq!(restore(&file, &target).0, Some(0), "and the good one is still good");
}
