//! The tree outlives kills, restarts, and a snapshot that is restored.

use std::{fs, process::Command};

use super::{subject, wire::Wire};
use crate::server::{Launch, Server, subject_is_retcd, subject_program};

const PASSWORD: &str = r#"{"user":"root","password":"p"}"#;

fn fill(server: &Server) {
    let mut wire = Wire::to(server);
    for number in 0..50 {
        wire.ask("PUT", &format!("/v2/keys/d/{number}"), Some("value=v&ttl=10000"));
    }
    wire.ask("DELETE", "/v2/keys/d/7", None);
    wire.ask("PUT", "/v2/keys/_hidden/x", Some("value=1"));
    assert_eq!(wire.ask_with("PUT", "/v2/auth/users/root", &[], PASSWORD).status, 201);
}

/// All that a client can see, with the index and the history.
fn seen(server: &Server) -> String {
    let mut wire = Wire::to(server);
    let mut out = String::new();
    for target in [
        "/v2/keys?recursive=true&sorted=true",
        "/v2/keys/_hidden?recursive=true",
        "/v2/keys/d/7?wait=true&waitIndex=12",
        "/v2/keys/d/49?wait=true&waitIndex=1",
        "/v2/auth/users",
    ] {
        out += &wire.ask("GET", target, None).normal(true);
        out += "\n";
    }
    out
}

#[test]
fn the_tree_survives_kills_and_restarts() {
    let mut server = subject();
    fill(&server);
    let before = seen(&server);
    assert!(before.contains("\"/d/49\"") && before.contains("\"root\""), "{before}");
    server.kill();
    server.start();
    assert_eq!(seen(&server), before);
    // This time a checkpoint has all of it.
    server.restart();
    assert_eq!(seen(&server), before);
}

#[tokio::test]
async fn the_tree_is_in_a_snapshot() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd restores with etcdutl, and leaves version 2 out");
        return;
    }
    let server = subject();
    fill(&server);
    let before = seen(&server);
    let image: Vec<u8> =
        server.client().snapshot().await.iter().flat_map(|part| part.blob.to_vec()).collect();
    let mut restored = Launch::subject().flag("enable-v2", true).prepare();
    let file = restored.home().join("image");
    fs::write(&file, image).expect("room");
    let status = Command::new(subject_program())
        .args(["snapshot", "restore"])
        .arg(&file)
        .arg("--data-dir")
        .arg(restored.data_dir())
        .output()
        .expect("it runs");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    restored.start();
    assert_eq!(seen(&restored), before);
}
