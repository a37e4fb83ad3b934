//! Generates Rust from the wire contract, without `protoc` on the machine.
//!
//! Two trees: the server's (`OUT_DIR`) and, for the black-box tests, the clients'
//! (`OUT_DIR/client`). `bytes` fields become `Bytes`, so that keys and values are shared and
//! not copied on their way from the socket to the log and the store.

// A build script is told everything by its environment.
#![allow(clippy::disallowed_methods)]

use std::{env, error::Error, fs, path::PathBuf, process::Command};

const CLIENT_API: [&str; 6] =
    ["kv.proto", "auth.proto", "rpc.proto", "lock.proto", "election.proto", "health.proto"];

/// `google.protobuf.FieldDescriptorProto.Type.TYPE_BYTES`.
const TYPE_BYTES: i32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    record_rust_version()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let clients = out.join("client");
    fs::create_dir_all(&clients)?;

    let api = protox::compile(CLIENT_API, ["proto"])?;
    let log = protox::compile(["log.proto", "raft.proto"], ["proto"])?;
    let peer = protox::compile(["peer.proto"], ["proto"])?;

    // Nested transactions are read level by level, so that their depth is ours to limit: to prost
    // they are bytes, which look the same on the wire.
    let mut served = api.clone();
    let messages = served.file.iter_mut().flat_map(|file| &mut file.message_type);
    for field in messages.flat_map(|message| &mut message.field) {
        if matches!(field.name.as_deref(), Some("request_txn" | "response_txn")) {
            (field.r#type, field.type_name) = (Some(TYPE_BYTES), None);
        }
    }
    tonic_prost_build::configure().bytes(".").build_client(false).compile_fds(served)?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(true)
        .build_server(false)
        .out_dir(&clients)
        .compile_fds(api)?;
    // A member is both to its peers.
    tonic_prost_build::configure().bytes(".").compile_fds(peer)?;
    // The log encoding refers to messages of the API: reuse the types generated above.
    prost_build::Config::new()
        .bytes(["."])
        .extern_path(".etcdserverpb", "crate::pb::etcdserverpb")
        .extern_path(".mvccpb", "crate::pb::mvccpb")
        .extern_path(".authpb", "crate::pb::authpb")
        .compile_fds(log)?;
    Ok(())
}

/// For `--version`.
fn record_rust_version() -> Result<(), Box<dyn Error>> {
    let rustc = Command::new(env::var("RUSTC")?).arg("--version").output()?;
    let version = String::from_utf8(rustc.stdout)?;
    let version = version.split_whitespace().nth(1).unwrap_or("unknown");
    println!("cargo::rustc-env=RETCD_RUST_VERSION={version}");
    Ok(())
}
