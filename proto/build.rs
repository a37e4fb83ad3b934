//! Generates Rust code from the files in `proto/`, without `protoc`.
//!
//! Two trees: the server's (`OUT_DIR`) and, for the black-box tests, the clients'
//! (`OUT_DIR/client`). `bytes` fields become `Bytes`, so that keys and values are shared and
//! not copied on their way from the socket to the log and the store.

// A build script gets all its settings from environment variables.
#![allow(clippy::disallowed_methods)]

mod schema;

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use protox::prost_reflect::prost::Message;

const CLIENT_API: [&str; 6] =
    ["kv.proto", "auth.proto", "rpc.proto", "lock.proto", "election.proto", "health.proto"];

/// `google.protobuf.FieldDescriptorProto.Type.TYPE_BYTES`.
const TYPE_BYTES: i32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    record_rust_version()?;
    record_git_commit();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let clients = out.join("client");
    fs::create_dir_all(&clients)?;

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(CLIENT_API)?;
    let api = compiler.file_descriptor_set();
    // For the tests that go through every call and every field.
    fs::write(out.join("api.descriptors"), compiler.encode_file_descriptor_set())?;
    let log = protox::compile(["log.proto", "raft.proto"], ["proto"])?;
    let peer = protox::compile(["peer.proto"], ["proto"])?;

    // The JSON gateway goes by tables, which its tests compare with the descriptors.
    fs::write(out.join("gateway.rs"), schema::generate(&api)?)?;
    fs::write(out.join("api.bin"), api.encode_to_vec())?;

    // Nested transactions are decoded level by level, so that the server can limit their depth. For prost they
    // are fields of bytes, which are the same on the wire.
    let mut served = api.clone();
    let messages = served.file.iter_mut().flat_map(|file| &mut file.message_type);
    for field in messages.flat_map(|message| &mut message.field) {
        if matches!(field.name.as_deref(), Some("request_txn" | "response_txn")) {
            (field.r#type, field.type_name) = (Some(TYPE_BYTES), None);
        }
    }
    let configure = || tonic_prost_build::configure().bytes(".").codec_path("crate::pb::codec::Codec");
    configure().build_client(false).compile_fds(served)?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(true)
        .build_server(false)
        .out_dir(&clients)
        .compile_fds(api)?;
    // A member is both to its peers.
    configure().compile_fds(peer)?;
    // The server is for the tests, which are collectors.
    let otlp = protox::compile(["otlp.proto"], ["proto"])?;
    configure().compile_fds(otlp)?;
    let profile = protox::compile(["profile.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(profile)?;
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

/// The commit for `--version` and the log, from the environment or from `.git`. It is read without `git`, which
/// may not be installed, or may refuse a repository of another user. If there is neither, no commit is
/// recorded. Cargo runs this again when one of two small files has changed: the name of the branch, and the
/// journal of the branch, to which every commit appends.
fn record_git_commit() {
    println!("cargo::rerun-if-env-changed=RETCD_GIT_SHA");
    let given = env::var("RETCD_GIT_SHA").ok().filter(|commit| !commit.is_empty());
    if let Some(commit) = given.or_else(|| git_commit(Path::new(".git"))) {
        println!("cargo::rustc-env=RETCD_GIT_SHA={}", commit.get(..SHORT_COMMIT).unwrap_or(&commit));
    }
}

/// Digits of a commit that git shows, of a repository of some age.
const SHORT_COMMIT: usize = 9;

fn git_commit(git: &Path) -> Option<String> {
    let read = |path: PathBuf| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    // In a worktree of its own `.git` is a file that says where the worktree's things are, and that
    // place says where those of the repository are.
    let own = match read(git.to_owned()) {
        Some(text) => PathBuf::from(text.strip_prefix("gitdir: ")?),
        None => git.to_owned(),
    };
    let shared = read(own.join("commondir")).map_or_else(|| own.clone(), |dir| own.join(dir));
    for path in [own.join("HEAD"), own.join("logs/HEAD")] {
        // One that is not there would have cargo look again at every build.
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let head = read(own.join("HEAD"))?;
    let Some(branch) = head.strip_prefix("ref: ") else { return Some(head) };
    read(shared.join(branch)).or_else(|| {
        let packed = read(shared.join("packed-refs"))?;
        let of_branch = packed.lines().filter_map(|line| line.split_once(' '));
        of_branch.filter(|(_, name)| *name == branch).map(|(commit, _)| commit.to_owned()).next()
    })
}
