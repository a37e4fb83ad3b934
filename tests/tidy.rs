//! The rules of the source tree as a test: which module may import which, and what every file must have.
//!
//! The layers are data here, and every path that begins with `crate::` is checked against them, whether it is
//! imported or written out. Comments and literals are blanked first, because mentioning a name there is not
//! using it. Tests at the end show that each check can fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A room is a module with rules: which of our modules it may use, and which libraries it must never use.
struct Room {
    name: &'static str,
    may: &'static [&'static str],
    never: &'static [&'static str],
}

const fn room(name: &'static str, may: &'static [&'static str], never: &'static [&'static str]) -> Room {
    Room { name, may, never }
}

/// From the bottom up: a room only uses rooms that come before it in this table. Only the main file may use
/// everything.
const ROOMS: &[Room] = &[
    room("types", &[], OUTSIDE),
    room("limits", &[], OUTSIDE),
    room("planted", &[], OUTSIDE),
    room("turn", &[], OUTSIDE),
    room("sync", &[], &["openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing"]),
    room("clock", &[], &["openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing"]),
    room("threads", &[], &["openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing"]),
    room("chance", &[], &["tokio", "openraft", "tonic", "prost", "redb", "axum", "hyper", "tracing"]),
    room("disk", &[], &["tokio", "openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing"]),
    // The format of etcd's database file. It knows nothing of what is in it.
    room(
        "bbolt",
        &["limits", "disk"],
        &["tokio", "openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing"],
    ),
    // The settings of the process, and its messages to the operator.
    room("config", &["types", "limits"], &["tokio", "openraft", "tonic", "prost", "redb", "axum", "tracing"]),
    room(
        "telemetry",
        &["types", "limits", "clock", "chance", "threads", "config"],
        &["tokio", "openraft", "tonic", "prost", "redb", "axum"],
    ),
    room("pb", &[], &["tokio", "openraft", "redb", "axum", "hyper"]),
    room(
        "storage",
        &["types", "limits", "disk"],
        &["tokio", "openraft", "tonic", "prost", "axum", "hyper", "rand", "tracing"],
    ),
    // Knows the term and the index of entries, and nothing else of Raft.
    room(
        "wal",
        &["types", "limits", "clock", "disk", "storage"],
        &["tokio", "openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing"],
    ),
    room("mvcc", CORE, OUTSIDE),
    room("lease", CORE, OUTSIDE),
    room("auth", CORE, OUTSIDE),
    // The tree of version 2. Its hub has bounded senders, on which it only calls `try_send`.
    room(
        "v2",
        &["types", "limits", "sync", "storage"],
        &["openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing"],
    ),
    // Has bounded senders, on which it only calls `try_send`.
    room("watch", CORE, &["openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing"]),
    room("apply", &["types", "limits", "storage", "mvcc", "lease", "auth", "v2", "watch"], OUTSIDE),
    // Knows the files of etcd and ours, and nothing of a running member.
    room(
        "migrate",
        &["types", "limits", "disk", "bbolt", "storage", "mvcc", "lease", "auth", "apply"],
        OUTSIDE,
    ),
    // Decides whose certificates are accepted; does not know what connections are for.
    room(
        "tls",
        &["types", "limits", "clock", "threads", "config"],
        &["openraft", "tonic", "prost", "redb", "axum", "hyper", "rand"],
    ),
    room(
        "sockets",
        &["types", "limits", "clock", "threads", "tls", "config"],
        &["openraft", "tonic", "prost", "redb", "axum", "hyper", "rand"],
    ),
    // A crate that replaces a dependency's crate, and uses nothing of ours.
    room("base2histogram", &[], OUTSIDE),
    // Does not know consensus: messages are bytes.
    room(
        "link",
        &["types", "limits", "pb", "sync", "clock", "tls", "sockets", "telemetry"],
        &["openraft", "redb", "axum", "rand", "prost"],
    ),
    room(
        "raft",
        &[
            "link",
            "types",
            "limits",
            "storage",
            "wal",
            "mvcc",
            "lease",
            "auth",
            "v2",
            "watch",
            "apply",
            "sockets",
            "clock",
            "chance",
            "turn",
            "sync",
            "threads",
            "disk",
            "config",
            "telemetry",
        ],
        &["tonic", "prost", "axum", "hyper", "redb"],
    ),
    room(
        "node",
        &[
            "types",
            "limits",
            "storage",
            "mvcc",
            "lease",
            "auth",
            "v2",
            "watch",
            "apply",
            "bbolt",
            "migrate",
            "link",
            "raft",
            "tls",
            "sockets",
            "clock",
            "chance",
            "turn",
            "sync",
            "threads",
            "disk",
            "config",
            "telemetry",
        ],
        &["openraft", "tonic", "prost", "axum", "hyper", "redb"],
    ),
    room(
        "rpc",
        &[
            "types",
            "limits",
            "pb",
            "mvcc",
            "lease",
            "auth",
            "v2",
            "watch",
            "apply",
            "node",
            "sockets",
            "clock",
            "chance",
            "config",
            "telemetry",
        ],
        &["openraft", "redb"],
    ),
    room(
        "http",
        &[
            "types",
            "limits",
            "mvcc",
            "lease",
            "auth",
            "v2",
            "watch",
            "apply",
            "node",
            "tls",
            "sockets",
            "clock",
            "config",
            "telemetry",
        ],
        &["openraft", "redb", "prost"],
    ),
    // Knows the wire by tables, and calls the services as any client does.
    room("gateway", &["limits", "http", "config"], &["openraft", "redb"]),
    room("console", &["node", "rpc", "telemetry"], &["openraft", "redb", "prost"]),
    // Looks at the process, and knows nothing of what the process is.
    room("profile", &["limits", "clock", "threads", "pb"], &["openraft", "redb", "tonic", "hyper"]),
    room(
        "serve",
        &[
            "limits",
            "threads",
            "node",
            "rpc",
            "http",
            "gateway",
            "console",
            "profile",
            "sockets",
            "config",
            "telemetry",
        ],
        &["openraft", "redb", "prost"],
    ),
    // Sends what `telemetry` has recorded to a collector.
    room("otlp", &["limits", "config", "pb", "telemetry"], &["openraft", "redb", "axum", "hyper"]),
    // Asks name servers; knows nothing of members.
    room("dns", &["threads"], &["openraft", "redb", "prost", "tonic", "hyper", "axum", "tracing"]),
    room("signals", &[], &["openraft", "redb", "prost", "tonic", "hyper"]),
    // What the tools on the command line share. It does not know what a tool does.
    room(
        "cli",
        &[],
        &["openraft", "redb", "axum", "rand", "tracing", "parking_lot", "tonic", "prost", "hyper", "tokio"],
    ),
    // The client on the command line: knows the wire, and nothing of a server. Of `config` it uses the names of
    // TLS's settings, of `telemetry` how Go writes durations and sizes. What a member does as a client before it is one
    // (`registry.rs`) is logged.
    room(
        "ctl",
        &["limits", "pb", "chance", "dns", "tls", "config", "telemetry", "signals", "cli"],
        &["openraft", "redb", "axum", "rand", "parking_lot"],
    ),
    // Who founds a new cluster: asks as a client does, before there is a member.
    room(
        "discovery",
        &["threads", "config", "dns", "ctl", "telemetry"],
        &["openraft", "redb", "prost", "tonic", "hyper", "axum"],
    ),
    // The tool for files: of `node` it uses what can be done while no member runs.
    room(
        "utl",
        &["clock", "disk", "bbolt", "config", "telemetry", "mvcc", "migrate", "node", "cli"],
        &["openraft", "redb", "axum", "rand", "tracing", "parking_lot", "tonic", "prost", "hyper", "tokio"],
    ),
    // The world that a simulator puts members into; no build of the server has it.
    room(
        "sim",
        &[
            "limits",
            "storage",
            "wal",
            "planted",
            "sync",
            "clock",
            "threads",
            "chance",
            "disk",
            "config",
            "telemetry",
            "link",
            "node",
            "rpc",
        ],
        &["openraft", "redb"],
    ),
];

/// Rooms that any other may use: only `#[cfg(test)]` leads there, so no build of the server has them.
const TESTS_ONLY: &[&str] = &["planted"];

/// Keys, leases, users and watchers do not use each other; `apply` combines them.
const CORE: &[&str] = &["types", "limits", "storage"];

/// The core modules use no tasks, clocks, random numbers, messages of the API or log lines.
const OUTSIDE: &[&str] =
    &["tokio", "openraft", "tonic", "prost", "redb", "axum", "hyper", "rand", "tracing", "parking_lot"];

/// The files that know protobuf although their room does not: the encodings of the log and of messages
/// between members.
const PROTOBUF: &[&str] = &[
    "src/apply/codec.rs",
    // Where in that encoding the large values stand.
    "src/apply/values_apart.rs",
    "src/raft/codec.rs",
    "src/raft/message.rs",
    // etcd's own encodings.
    "src/migrate/schema.rs",
    "src/migrate/internal.rs",
    "src/migrate/etcd_wal.rs",
];

/// The things outside that a simulator has to replace, and how they are written in code.
const OUTSIDES: &[(&str, &[&str])] = &[
    ("clock", &["Instant::now", "SystemTime::now", ".elapsed("]),
    ("chance", &["rand::", "RandomState", "HashMap", "HashSet"]),
    ("threads", &["thread::Builder", "thread::spawn", "thread::scope", "thread::sleep", "spawn_blocking"]),
    ("files", &["fs::"]),
    ("sockets", &["net::"]),
];

/// A file in `rpc` or below it that touches the outside, and why it may.
struct Seam {
    path: &'static str,
    touches: &'static [&'static str],
    why: &'static str,
}

const fn seam(path: &'static str, touches: &'static [&'static str], why: &'static str) -> Seam {
    Seam { path, touches, why }
}

/// All such files. The first part are the seams that a simulator replaces. The second part should become
/// empty, or has code that a simulator does not run.
const SEAMS: &[Seam] = &[
    seam("src/clock.rs", &["clock", "threads"], "the one clock"),
    seam("src/chance.rs", &["chance"], "the one source of chance"),
    seam("src/threads.rs", &["threads"], "where threads are started"),
    seam("src/config/file.rs", &["files"], "the file of --config-file, read at the start"),
    seam("src/config/url.rs", &["sockets"], "addresses are parsed with std's types; no socket is opened"),
    seam("src/telemetry/log/line.rs", &["clock"], "the time of a line"),
    seam(
        "src/telemetry/log/rotated.rs",
        &["files"],
        "the file that lines go to, and those that were put aside",
    ),
    seam(
        "src/telemetry/log/journal.rs",
        &["files", "sockets"],
        "the socket of the journal; a long line is a file in memory",
    ),
    seam("src/telemetry/process.rs", &["files"], "what the system says of this process"),
    seam("src/telemetry/supervisor.rs", &["sockets"], "the socket of the service manager"),
    seam(
        "src/auth/jwt/key.rs",
        &["chance"],
        "names the type of the source that signatures draw from; the source is an argument",
    ),
    seam("src/raft/runtime.rs", &["chance"], "has openraft draw from our source of chance"),
    seam("src/tls/acceptor.rs", &["sockets"], "the address that a refused connection came from"),
    seam("src/tls/certificate.rs", &["sockets"], "addresses in certificates; no socket is opened"),
    seam(
        "src/tls/files.rs",
        &["files"],
        "certificates, keys and lists, which are read again when they change",
    ),
    seam("src/tls/san.rs", &["sockets"], "addresses are compared with names; no socket is opened"),
    seam(
        "src/raft/signed_tokens.rs",
        &["chance", "files"],
        "the source of what signatures draw, and the files of keys, which an operator names",
    ),
    seam("src/rpc/health.rs", &["chance"], "names the type of a message with a map; it has one entry"),
    seam("src/rpc/slow.rs", &["sockets"], "the address of a client, for a line; no socket is opened"),
    seam("src/sockets/dialer.rs", &["sockets"], "outgoing connections"),
    seam("src/sockets/io.rs", &["sockets"], "what is read from and written to"),
    seam("src/sockets/listener.rs", &["sockets", "files"], "incoming connections; a Unix socket is a file"),
    seam("src/sockets/resolve.rs", &["sockets"], "the addresses of host names, at the start only"),
    seam(
        "src/disk/directory.rs",
        &["files"],
        "the files of a directory: all that the log and the database touch",
    ),
    seam(
        "src/node/passwords/origin.rs",
        &["sockets"],
        "the addresses that logins come from; no socket is opened",
    ),
    seam(
        "src/node/restore/snapshot_file.rs",
        &["files"],
        "reads a file that an operator names; no member runs meanwhile",
    ),
    seam("src/node/restore/site.rs", &["files"], "makes and renames directories; no member runs meanwhile"),
];

/// Files of one room that import each other in a circle, and why that is right.
struct Ring {
    /// Sorted.
    files: &'static [&'static str],
    why: &'static str,
}

const fn ring(files: &'static [&'static str], why: &'static str) -> Ring {
    Ring { files, why }
}

/// All of them.
const RINGS: &[Ring] = &[
    ring(
        &["src/apply/auth.rs", "src/apply/lease.rs", "src/apply/state.rs", "src/apply/v2.rs"],
        "the state machine and what one kind of command does to it",
    ),
    ring(&["src/http/hpack.rs", "src/http/request.rs"], "header fields are judged while they are decoded"),
    ring(
        &["src/cli/command.rs", "src/cli/help.rs", "src/cli/invocation.rs"],
        "a command has the function that runs it, which is given the command line, whose usage it may have to show",
    ),
];

/// The files that write `Caller::Internal`, and why they may. A request of `Internal` is permitted what no
/// client is, so code that serves a client must pass on the client's own caller.
const INTERNAL: &[(&str, &str)] = &[
    ("src/apply/codec.rs", "encodes and decodes the caller that a request has"),
    ("src/apply/arbitrary.rs", "random requests for tests"),
    ("src/migrate/internal.rs", "requests in the log of an etcd that were permitted before they were logged"),
    ("src/node/write.rs", "what a member proposes by itself: alarms, leases that ended, its own name"),
    ("src/node/compactor.rs", "compaction by --auto-compaction-retention"),
    ("src/http/node.rs", "the reads of health checks"),
    ("src/apply/admission.rs", "judges callers: some commands are only for members"),
    ("src/auth/judge.rs", "judges callers: a member may do everything"),
    ("src/node/session.rs", "judges callers: what a member reads does not depend on users"),
];

/// Macros and attributes that are only for unfinished work.
const UNFINISHED: &[(&str, &str)] = &[
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
    ("dbg!", "remove it"),
    ("allow(dead_code", "remove what is dead"),
    ("allow(unused", "remove what is unused"),
    ("#[ignore]", "say why, as in #[ignore = \"why\"]"),
];

/// Macros that print to a terminal, which the server does not do.
const SPOKEN: &[(&str, &str)] = &[
    ("println!", "log it, or write to io::stdout()"),
    ("print!", "log it, or write to io::stdout()"),
    ("eprintln!", "log it, or write to io::stderr()"),
];

/// Marks for unfinished work, split so that they are not found in this file.
const MARKS: [&str; 2] = [concat!("FIX", "ME"), concat!("XX", "X")];

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut problems = Vec::new();
    let mut sources = Vec::new();
    for folder in ["src", "tests", "proto"] {
        for path in files(&root.join(folder), "rs") {
            let text = fs::read_to_string(&path).expect("readable");
            sources.push(Source::new(&relative(root, &path), &text));
        }
    }
    assert!(sources.iter().any(|source| source.path == "src/main.rs"), "the server's sources are there");
    for source in &sources {
        problems.extend(check_layers(source));
        problems.extend(check_wakes(source));
        problems.extend(check_header(source));
        problems.extend(check_ascii(source));
        problems.extend(check_words(source));
    }
    problems.extend(check_internal(&sources, INTERNAL));
    problems.extend(check_orphans(&sources));
    problems.extend(check_outside(&sources, SEAMS));
    problems.extend(check_order(ROOMS));
    problems.extend(check_rings(&sources, RINGS));
    let pages = files(&root.join("docs"), "md").into_iter().chain([root.join("README.md")]);
    for path in pages {
        let text = fs::read_to_string(&path).expect("readable");
        problems.extend(check_title(&relative(root, &path), &text));
    }
    assert!(problems.is_empty(), "not tidy:\n{}", problems.join("\n"));
}

struct Source {
    /// The path from the project's root, with forward slashes.
    path: String,
    text: String,
    /// The text without the content of comments and literals, with the same lines.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The room the file is in: `src/mvcc/index.rs` and `src/mvcc.rs` are in `mvcc`.
    fn room(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        Some(path.split('/').next()?.trim_end_matches(".rs"))
    }

    /// Whether a simulation runs it: see `src/sim`.
    fn is_simulated(&self) -> bool {
        let end = ROOMS.iter().position(|room| room.name == "rpc").expect("a room");
        self.room().is_some_and(|own| ROOMS[..=end].iter().any(|room| room.name == own))
    }

    /// The code of the server, without its tests, for which the rules do not hold.
    fn without_tests(&self) -> Option<&str> {
        let is_test = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        (!is_test).then(|| self.code.split("#[cfg(test)]\nmod tests {").next().unwrap_or(&self.code))
    }
}

fn check_layers(source: &Source) -> Vec<String> {
    let Some(name) = source.room().filter(|name| *name != "main") else { return Vec::new() };
    let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
        return vec![format!("{}: the room {name:?} is not in the table of layers", source.path)];
    };
    let Some(code) = source.without_tests() else { return Vec::new() };
    let exempt: &[&str] = if PROTOBUF.contains(&source.path.as_str()) { &["pb", "prost"] } else { &[] };
    let ours = used_of_ours(code).into_iter().filter(|used| {
        let used = used.as_str();
        used != name && !room.may.contains(&used) && !exempt.contains(&used) && !TESTS_ONLY.contains(&used)
    });
    let theirs = room.never.iter().filter(|used| !exempt.contains(used) && uses_crate(code, used));
    ours.chain(theirs.map(|used| (*used).to_owned()))
        .map(|used| format!("{}: {name} must not use {used}", source.path))
        .collect()
}

/// The first names after `crate::`, also in groups such as `crate::{a::B, c}`.
fn used_of_ours(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        if ends_in_name(&code[..at]) {
            continue;
        }
        let rest = code[at + found.len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(first_name(rest));
            continue;
        };
        let mut depth = 0;
        let mut at_name = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_name = true,
                c if at_name && !c.is_whitespace() => {
                    used.insert(first_name(&group[at..]));
                    at_name = false;
                }
                _ => {}
            }
        }
    }
    used
}

/// Whether a path begins with this crate's name.
fn uses_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (code[..at].trim_end(), code[at + name.len()..].trim_start());
        let is_first = !ends_in_name(&code[..at]) && !before.ends_with("::");
        // A name without a path: `use tokio;` and `use tokio as t;`.
        let is_imported = before.ends_with("use") && (after.starts_with(';') || after.starts_with("as "));
        is_first && (after.starts_with("::") || is_imported)
    })
}

fn first_name(code: &str) -> String {
    code.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn ends_in_name(code: &str) -> bool {
    code.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// In the rooms that a simulation runs, only the seams touch the outside, and each seam does.
fn check_outside(sources: &[Source], seams: &[Seam]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_simulated()) {
        let Some(code) = source.without_tests() else { continue };
        let seam = seams.iter().find(|seam| seam.path == source.path);
        for (outside, written) in OUTSIDES {
            let found = written.iter().find(|written| mentions(code, written));
            let is_seam = seam.is_some_and(|seam| seam.touches.contains(outside));
            match found {
                Some(found) if !is_seam => problems.push(format!(
                    "{}: touches the outside ({outside}: {found}): use the seam for it",
                    source.path
                )),
                None if is_seam => {
                    problems.push(format!("{}: a seam for {outside} that it does not need", source.path));
                }
                _ => {}
            }
        }
    }
    let is_there = |seam: &&Seam| !sources.iter().any(|source| source.path == seam.path);
    problems.extend(seams.iter().filter(is_there).map(|seam| format!("{}: a seam that is gone", seam.path)));
    let unknown = |seam: &&Seam| {
        seam.why.is_empty() || seam.touches.iter().any(|known| OUTSIDES.iter().all(|(name, _)| name != known))
    };
    problems.extend(seams.iter().filter(unknown).map(|seam| format!("{}: a seam without reason", seam.path)));
    problems
}

/// In the rooms that a simulation runs, who is woken first follows from what happened before.
fn check_wakes(source: &Source) -> Vec<String> {
    let Some(code) = source.without_tests().filter(|_| source.is_simulated()) else { return Vec::new() };
    let mut problems = Vec::new();
    let is_watch = |used: &Use| used.parts.starts_with(&["tokio", "sync", "watch"].map(str::to_owned));
    if source.room() != Some("sync") && uses_of(code).iter().any(is_watch) {
        problems.push(format!(
            "{}: tokio's watch wakes its receivers in an order of chance: use crate::sync",
            source.path
        ));
    }
    let is_biased =
        |branches: &str| branches.trim_start().trim_start_matches('{').trim_start().starts_with("biased;");
    if code.split("select!").skip(1).any(|branches| !is_biased(branches)) {
        problems
            .push(format!("{}: a select! that is not biased begins with a branch of chance", source.path));
    }
    problems
}

/// Whether the code has these words, and not only as the end of a longer name.
fn mentions(code: &str, words: &str) -> bool {
    let is_name = words.starts_with(|c: char| c.is_alphabetic());
    code.match_indices(words).any(|(at, _)| !(is_name && ends_in_name(&code[..at])))
}

/// Only the listed files make requests of the member itself, and each of them does.
fn check_internal(sources: &[Source], listed: &[(&str, &str)]) -> Vec<String> {
    // An import of the variants would hide the name.
    const WRITTEN: [&str; 3] = ["Caller::Internal", "Caller::{", "Caller::*"];
    let names_it = |source: &&Source| {
        let code = source.without_tests().filter(|_| source.path.starts_with("src/"));
        code.is_some_and(|code| WRITTEN.iter().any(|written| mentions(code, written)))
    };
    let found: Vec<&str> = sources.iter().filter(names_it).map(|source| source.path.as_str()).collect();
    let strangers = found.iter().filter(|path| listed.iter().all(|(known, _)| known != *path));
    let mut problems: Vec<String> = strangers
        .map(|path| format!("{path}: asks as `Caller::Internal`: pass on the caller of the request"))
        .collect();
    for (path, why) in listed {
        if !found.contains(path) || why.is_empty() {
            problems.push(format!(
                "{path}: listed as one that asks as `Caller::Internal`, without need or reason"
            ));
        }
    }
    problems
}

/// No room uses a room of a higher layer.
fn check_order(rooms: &[Room]) -> Vec<String> {
    let place = |name: &str| rooms.iter().position(|room| room.name == name);
    let mut problems = Vec::new();
    for (at, room) in rooms.iter().enumerate() {
        for used in room.may {
            match place(used) {
                None => problems.push(format!("{}: may use {used}, which is no room", room.name)),
                Some(other) if other >= at => {
                    problems.push(format!("{}: may use {used}, which is not below it", room.name));
                }
                Some(_) => {}
            }
        }
    }
    problems
}

/// Within a room files do not import each other in a circle, except for the listed ones, and each of those
/// does.
fn check_rings(sources: &[Source], rings: &[Ring]) -> Vec<String> {
    let found = rings_of(&Tree::new(sources));
    let mut problems = Vec::new();
    for files in &found {
        if !rings.iter().any(|ring| ring.files == files) {
            problems.push(format!("{}: import each other in a circle", files.join(", ")));
        }
    }
    for ring in rings {
        let name = ring.files.join(", ");
        if !found.iter().any(|files| ring.files == files) {
            problems.push(format!("{name}: listed as a ring, and is none: remove it from the list"));
        }
        if ring.why.is_empty() {
            problems.push(format!("{name}: a ring without a reason"));
        }
    }
    problems
}

/// Sets of files that all reach each other by their imports, each sorted.
fn rings_of(tree: &Tree<'_>) -> BTreeSet<Vec<String>> {
    let used: BTreeMap<&str, BTreeSet<&str>> =
        tree.files.iter().map(|file| (file.path, tree.used_by(file))).collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        used.keys().map(|from| (*from, reachable(&used, from))).collect();
    let ring_of = |from: &str| -> Vec<String> {
        let others = reached[from].iter().filter(|to| reached[**to].contains(from));
        others.map(|path| (*path).to_owned()).collect()
    };
    used.keys().map(|from| ring_of(from)).filter(|ring| ring.len() > 1).collect()
}

/// The files that can be reached from a file in one or more steps.
fn reachable<'a>(used: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![from];
    while let Some(file) = waiting.pop() {
        waiting.extend(used[file].iter().filter(|next| reached.insert(**next)));
    }
    reached
}

/// The server's files as modules, without tests.
struct Tree<'a> {
    files: Vec<Module<'a>>,
}

struct Module<'a> {
    path: &'a str,
    /// The parts of its path from the root; none for the main file.
    name: Vec<&'a str>,
    /// The file is a facade: others do not depend on it, but on the files whose names it exports.
    is_facade: bool,
    /// The paths that it imports or names in full.
    uses: Vec<Use>,
}

/// A path that a file mentions, with groups resolved.
#[derive(Debug, PartialEq)]
struct Use {
    parts: Vec<String>,
    /// Its name in the file, which is the last part unless there is an `as`.
    alias: String,
}

impl<'a> Tree<'a> {
    fn new(sources: &'a [Source]) -> Tree<'a> {
        let module = |source: &'a Source| {
            let code = source.without_tests()?;
            let path = source.path.strip_prefix("src/")?.strip_suffix(".rs")?;
            let mut name: Vec<&str> = path.split('/').collect();
            let is_facade = matches!(name.last(), Some(&"mod" | &"main"));
            if is_facade {
                name.pop();
            }
            Some(Module { path: &source.path, name, is_facade, uses: uses_of(code) })
        };
        let mut files: Vec<Module<'_>> = sources.iter().filter_map(module).collect();
        let folders: Vec<Vec<&str>> = files.iter().map(|file| file.name.clone()).collect();
        for file in &mut files {
            file.is_facade |=
                folders.iter().any(|other| other.split_last().is_some_and(|(_, f)| f == file.name));
        }
        Tree { files }
    }

    /// The other files of the same room that a file depends on.
    fn used_by(&self, file: &Module<'a>) -> BTreeSet<&'a str> {
        let found = file.uses.iter().filter_map(|used| self.resolve(file, &used.parts, 8));
        let of_room = found.filter(|other| other.name.first() == file.name.first() && !other.is_facade);
        of_room.map(|other| other.path).filter(|path| *path != file.path).collect()
    }

    /// The file to which a path leads from `file`, through at most `hops` facades that export it.
    fn resolve(&self, file: &Module<'a>, parts: &[String], hops: usize) -> Option<&Module<'a>> {
        let mut name = file.name.clone();
        let mut rest = parts;
        match rest.first()?.as_str() {
            "crate" => name.clear(),
            "self" => {}
            "super" => _ = name.pop(),
            // A path of a facade may begin with a file below it.
            _ => return self.descend(name, rest, hops).filter(|found| found.name != file.name),
        }
        rest = &rest[1..];
        while let Some((_, behind)) = rest.split_first().filter(|(first, _)| *first == "super") {
            name.pop();
            rest = behind;
        }
        self.descend(name, rest, hops)
    }

    fn descend(&self, mut name: Vec<&'a str>, parts: &[String], hops: usize) -> Option<&Module<'a>> {
        let mut at = self.files.iter().find(|file| file.name == name)?;
        for (position, part) in parts.iter().enumerate() {
            let is_below = |file: &&Module<'_>| {
                file.name.split_last().is_some_and(|(last, folder)| *last == part && folder == name)
            };
            if let Some(below) = self.files.iter().find(is_below) {
                at = below;
                name.clone_from(&below.name);
                continue;
            }
            // The facade exports what it imports under that name.
            let handed_on = at.uses.iter().find(|used| at.is_facade && used.alias == *part);
            return match handed_on.filter(|_| hops > 0) {
                Some(used) => {
                    let onward: Vec<String> =
                        used.parts.iter().chain(&parts[position + 1..]).cloned().collect();
                    self.resolve(at, &onward, hops - 1)
                }
                None => Some(at),
            };
        }
        Some(at)
    }
}

/// All paths of the crate that code mentions: those that begin with `crate`, `super` or `self`, and those
/// that `use` imports.
fn uses_of(code: &str) -> Vec<Use> {
    let mut uses = Vec::new();
    for root in ["crate", "super", "self", "use"] {
        for (at, _) in code.match_indices(root) {
            let behind = &code[at + root.len()..];
            let is_inside = ends_in_name(&code[..at]) || code[..at].trim_end().ends_with("::");
            if is_inside {
                continue;
            }
            if root == "use" {
                let is_import = behind.starts_with(char::is_whitespace);
                let first = first_name(behind.trim_start());
                if is_import && !["crate", "super", "self"].contains(&first.as_str()) {
                    parse_use(behind, &[], &mut uses);
                }
            } else if behind.trim_start().starts_with("::") {
                parse_use(&code[at..], &[], &mut uses);
            }
        }
    }
    uses
}

/// Parses one path, or one group of paths, after `prefix`. Returns the rest of the code.
fn parse_use<'c>(code: &'c str, prefix: &[String], uses: &mut Vec<Use>) -> &'c str {
    let mut parts = prefix.to_vec();
    let mut rest = code.trim_start();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            let mut inside = group.trim_start();
            while !inside.is_empty() && !inside.starts_with('}') {
                let before = inside.len();
                inside = parse_use(inside, &parts, uses).trim_start().trim_start_matches(',').trim_start();
                // Anything that is not a path of names is skipped.
                if inside.len() == before {
                    inside = &inside[inside.chars().next().map_or(0, char::len_utf8)..];
                }
            }
            return inside.strip_prefix('}').unwrap_or(inside);
        }
        let name = first_name(rest);
        if name.is_empty() {
            break;
        }
        rest = rest[name.len()..].trim_start();
        // `a::{self, b}` is `a`.
        if name != "self" || parts.is_empty() {
            parts.push(name);
        }
        match rest.strip_prefix("::") {
            Some(behind) => rest = behind.trim_start(),
            None => break,
        }
    }
    let mut alias = parts.last().cloned().unwrap_or_default();
    if let Some(behind) = rest.strip_prefix("as ") {
        alias = first_name(behind.trim_start());
        rest = &behind.trim_start()[alias.len()..];
    }
    uses.push(Use { parts, alias });
    rest
}

/// Every file begins with a comment that says what it is for.
fn check_header(source: &Source) -> Option<String> {
    let missing = !source.text.starts_with("//! ");
    missing.then(|| format!("{}: begins without a `//!` that says what it is for", source.path))
}

fn check_ascii(source: &Source) -> Vec<String> {
    let lines = source.text.lines().zip(1..).filter(|(line, _)| !line.is_ascii());
    lines.map(|(_, number)| format!("{}:{number}: not ASCII", source.path)).collect()
}

fn check_words(source: &Source) -> Vec<String> {
    let spoken = if source.path.starts_with("src/") { SPOKEN } else { &[] };
    // No test program uses all of the shared files.
    let is_shared = source.path.starts_with("tests/support/");
    let unfinished = UNFINISHED.iter().filter(|(word, _)| !(is_shared && *word == "allow(dead_code"));
    let words: Vec<_> = unfinished.chain(spoken).collect();
    let mut problems = Vec::new();
    for ((code, text), number) in source.code.lines().zip(source.text.lines()).zip(1..) {
        for (word, instead) in &words {
            if code.match_indices(word).any(|(at, _)| !ends_in_name(&code[..at])) {
                problems.push(format!("{}:{number}: {word}: {instead}", source.path));
            }
        }
        if let Some(mark) = MARKS.iter().find(|mark| text.contains(**mark)) {
            problems.push(format!("{}:{number}: {mark}: do it, or write down who will", source.path));
        }
    }
    problems
}

/// Every file must be reached by a `mod`, because otherwise it is not compiled.
fn check_orphans(sources: &[Source]) -> Vec<String> {
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut waiting: Vec<&Source> = sources.iter().filter(|source| is_crate_root(&source.path)).collect();
    while let Some(source) = waiting.pop() {
        if !reached.insert(&source.path) {
            continue;
        }
        let folder = module_folder(&source.path);
        for name in modules(&source.code) {
            let (file, nested) = (format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs"));
            // The shared files of test programs are in a folder beside them.
            let shared = [format!("tests/support/{name}.rs"), format!("tests/{name}/mod.rs")];
            let of_tests = source.path.starts_with("tests/");
            waiting.extend(sources.iter().filter(|other| {
                other.path == file || other.path == nested || (of_tests && shared.contains(&other.path))
            }));
        }
    }
    let orphans = sources.iter().filter(|source| !reached.contains(source.path.as_str()));
    orphans.map(|source| format!("{}: no `mod` leads here", source.path)).collect()
}

/// The server, the build script, every program below `tests/`, and the crate below `src`.
fn is_crate_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let is_library = parts.last() == Some(&"lib.rs");
    is_library
        || matches!(
            parts[..],
            ["src", "main.rs"] | ["proto", "build.rs"] | ["tests", _] | ["tests", _, "main.rs"]
        )
}

/// Where the modules that a file declares are looked for.
fn module_folder(path: &str) -> &str {
    let (folder, file) = path.rsplit_once('/').expect("a file in a folder");
    if is_crate_root(path) || file == "mod.rs" { folder } else { path.trim_end_matches(".rs") }
}

/// Names declared by `mod name;`.
fn modules(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let (before, name) = line.trim().strip_suffix(';')?.split_once("mod ")?;
        (before.is_empty() || before.starts_with("pub")).then(|| name.trim())
    })
}

/// Every page has exactly one title, in its first line.
fn check_title(path: &str, text: &str) -> Option<String> {
    let mut in_code = false;
    let mut titles = 0;
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        } else if !in_code && line.starts_with("# ") {
            titles += 1;
        }
    }
    let is_titled = titles == 1 && text.starts_with("# ");
    (!is_titled).then(|| format!("{path}: wants one `#` title, on the first line; has {titles}"))
}

/// Replaces comments and literals by blanks, and keeps the line breaks.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match literal_len(rest, ends_in_name(&out)) {
            0 => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
            length => {
                out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                rest = &rest[length..];
            }
        }
    }
    out
}

/// Length of the comment or literal that `text` begins with; 0 if it does not.
fn literal_len(text: &str, in_name: bool) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_len(text);
    }
    if !in_name {
        for prefix in ["r", "br"] {
            if let Some(length) = text.strip_prefix(prefix).and_then(raw_string_len) {
                return prefix.len() + length;
            }
        }
        if text.starts_with("b\"") || text.starts_with("b'") {
            return 1 + literal_len(&text[1..], false);
        }
    }
    if text.starts_with('"') {
        return quoted_len(text, '"');
    }
    // A lifetime has no closing quote two characters later.
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), _) | (Some('\''), Some(_), Some('\'')) => quoted_len(text, '\''),
        _ => 0,
    }
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw string after an `r`, if it is one and not a raw name.
fn raw_string_len(text: &str) -> Option<usize> {
    let hashes = text.len() - text.trim_start_matches('#').len();
    let body = text[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |at| hashes + 1 + at + end.len()))
}

fn block_comment_len(text: &str) -> usize {
    let mut depth = 0;
    for (at, _) in text.char_indices() {
        if text[at..].starts_with("/*") {
            depth += 1;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            if depth == 0 {
                return at + 2;
            }
        }
    }
    text.len()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/")
}

mod the_checks_themselves {
    use super::*;

    fn layers(path: &str, text: &str) -> Vec<String> {
        check_layers(&Source::new(path, text))
    }

    #[test]
    fn imports_of_a_higher_layer_are_found_in_every_form() {
        for text in [
            "use crate::node::Node;",
            "use crate::{node::Node, types::Rev};",
            "use crate::{types::{Rev, Revision}, node};",
            "use crate::{\n    types::Rev,\n    node::Node,\n};",
            "fn f() { crate::node::start() }",
            "pub(in crate::node) struct A;",
        ] {
            let found = layers("src/mvcc/index.rs", text);
            assert_eq!(found, ["src/mvcc/index.rs: mvcc must not use node"], "{text}");
        }
    }

    #[test]
    fn what_is_allowed_or_only_talked_about_is_not_found() {
        for text in [
            "use crate::{storage::{Record, node}, types::Rev, mvcc::Range};",
            "pub(crate) struct A;",
            "// crate::node\n/* crate::rpc /* nested */ crate::raft */",
            "const A: &str = \"crate::node\"; const B: &str = r#\"\"crate::rpc\"#;",
            "use other_crate::node::Node;",
            "use crate::types::Rev;\n\n#[cfg(test)]\nmod tests {\n    use crate::pb::mvccpb;\n}",
        ] {
            assert_eq!(layers("src/mvcc/index.rs", text), [""; 0], "{text}");
        }
    }

    #[test]
    fn every_room_keeps_to_its_layer() {
        let count = |path: &str, text: &str| layers(path, text).len();
        assert_eq!(count("src/lease/mod.rs", "use crate::mvcc::Store;"), 1);
        assert_eq!(count("src/watch/hub.rs", "use crate::auth::Permission;"), 1);
        assert_eq!(count("src/apply/kv.rs", "use crate::mvcc::Store;"), 0);
        assert_eq!(count("src/rpc/kv.rs", "use crate::storage::Database;"), 1);
        assert_eq!(count("src/node/mod.rs", "use crate::pb::retcd; use tonic::Status;"), 2);
        assert_eq!(count("src/apply/kv.rs", "use crate::pb::retcd; use prost::Message;"), 2);
        assert_eq!(count("src/apply/codec.rs", "use crate::pb::retcd; use prost::Message;"), 0);
        assert_eq!(count("src/surprise/mod.rs", ""), 1);
        assert_eq!(count("src/mvcc/tests.rs", "use crate::pb::mvccpb;"), 0);
        assert_eq!(count("src/main.rs", "use crate::storage::Database;"), 0);
    }

    #[test]
    fn what_touches_the_outside_is_found_unless_it_is_a_seam() {
        let check =
            |path: &str, text: &str, seams: &[Seam]| check_outside(&[Source::new(path, text)], seams).len();
        for text in [
            "let a = Instant::now();",
            "let a = tokio::time::Instant::now();",
            "queue.then(Instant::now)",
            "start.elapsed()",
            "SystemTime::now()",
            "use rand::random;",
            "let map: HashMap<u8, u8>;",
            "thread::Builder::new()",
            "task::spawn_blocking(work)",
            "use std::{fs::File, io};",
            "rustix::fs::flock(file)",
            "use tokio::net::TcpStream;",
        ] {
            assert_eq!(check("src/node/a.rs", text, &[]), 1, "{text}");
            assert_eq!(check("src/http/a.rs", text, &[]), 0, "not simulated: {text}");
            assert_eq!(check("src/node/tests.rs", text, &[]), 0, "a test: {text}");
        }
        for text in ["clock::now()", "// fs::File", "\"net::\"", "strand::x", "let now = since.elapsed;"] {
            assert_eq!(check("src/node/a.rs", text, &[]), 0, "{text}");
        }
    }

    #[test]
    fn wakes_in_an_order_of_chance_are_found() {
        let count = |path: &str, text: &str| check_wakes(&Source::new(path, text)).len();
        assert_eq!(count("src/node/a.rs", "use tokio::sync::watch;"), 1);
        assert_eq!(count("src/node/a.rs", "use tokio::{sync::{mpsc, watch}, time};"), 1);
        assert_eq!(count("src/node/a.rs", "use tokio::sync::mpsc; use crate::sync::watch;"), 0);
        assert_eq!(count("src/sync/mod.rs", "pub(crate) use tokio::sync::watch;"), 0);
        assert_eq!(count("src/serve.rs", "use tokio::sync::watch;"), 0, "not simulated");
        assert_eq!(count("src/rpc/a.rs", "tokio::select! { a = b => c }"), 1);
        assert_eq!(count("src/rpc/a.rs", "tokio::select! { biased; a = b => c }"), 0);
    }

    #[test]
    fn a_seam_that_is_not_needed_any_more_is_found() {
        let files = [seam("src/node/a.rs", &["files"], "a file")];
        let check = |text: &str, seams: &[Seam]| check_outside(&[Source::new("src/node/a.rs", text)], seams);
        assert_eq!(check("fs::read(path)", &files), [""; 0]);
        assert_eq!(check("", &files), ["src/node/a.rs: a seam for files that it does not need"]);
        assert_eq!(check("", &[seam("src/node/b.rs", &[], "?")]), ["src/node/b.rs: a seam that is gone"]);
        assert_eq!(check("", &[seam("src/node/a.rs", &["air"], "?")]).len(), 1, "there is no such outside");
        assert_eq!(check("", &[seam("src/node/a.rs", &[], "")]).len(), 1, "a seam has a reason");
        assert_eq!(check("fs::read(path); rand::random()", &files).len(), 1, "it is for one thing only");
    }

    #[test]
    fn requests_of_the_member_itself_are_made_where_it_is_listed() {
        let check = |path: &str, text: &str, listed: &[(&str, &str)]| {
            check_internal(&[Source::new(path, text)], listed).len()
        };
        const LISTED: &[(&str, &str)] = &[("src/node/a.rs", "its own alarms")];
        for text in
            ["command.by(Caller::Internal)", "use crate::types::Caller::*;", "use Caller::{Internal};"]
        {
            assert_eq!(check("src/rpc/a.rs", text, &[]), 1, "{text}");
            assert_eq!(check("src/node/a.rs", text, LISTED), 0, "{text}");
            assert_eq!(check("src/rpc/tests.rs", text, &[]), 0, "a test: {text}");
        }
        assert_eq!(check("src/rpc/a.rs", "// Caller::Internal\nPbCaller::Internal(x)", &[]), 0);
        assert_eq!(check("src/node/a.rs", "Caller::Nobody", LISTED), 1, "it need not be listed any more");
        assert_eq!(check("src/node/a.rs", "Caller::Internal", &[("src/node/a.rs", "")]), 1, "no reason");
    }

    #[test]
    fn a_room_that_may_use_one_further_up_is_found() {
        let check = |rooms: &[Room]| check_order(rooms);
        let low = || room("low", &[], &[]);
        assert_eq!(check(&[low(), room("high", &["low"], &[])]), [""; 0]);
        assert_eq!(
            check(&[room("a", &["b"], &[]), room("b", &[], &[])]),
            ["a: may use b, which is not below it"]
        );
        assert_eq!(check(&[room("a", &["a"], &[])]).len(), 1, "itself need not be said");
        assert_eq!(check(&[room("a", &["cellar"], &[])]), ["a: may use cellar, which is no room"]);
        assert_eq!(check(&[room("config", &["node"], &[]), room("node", &[], &[])]).len(), 1);
    }

    fn rings(files: &[(&str, &str)], listed: &[Ring]) -> Vec<String> {
        let files = files.iter().chain(&[("src/main.rs", "mod r;")]);
        let sources: Vec<Source> = files.map(|(path, text)| Source::new(path, text)).collect();
        check_rings(&sources, listed)
    }

    const A_B: &str = "src/r/a.rs, src/r/b.rs: import each other in a circle";

    #[test]
    fn files_that_import_each_other_are_found_in_every_form() {
        let facade = "mod a;\nmod b;\npub(crate) use a::A;\npub(super) use b::{B, f as g};";
        for (a, b) in [
            ("use super::b::B;", "use super::a::A;"),
            ("use crate::r::b::B;", "use crate::r::a;"),
            ("use crate::{r::{b::B, x}, types};", "use super::{a::A};"),
            ("use super::B;", "use super::A;"),
            ("use crate::r::{A as _, B};", "use crate::{r::A};"),
            ("use super::g;", "fn f() { super::A::new() }"),
            ("use super::b::{self, B};", "impl super::a::A {}"),
            ("pub(in crate::x) use super::B;", "use super::{\n    A,\n};"),
        ] {
            assert_eq!(
                rings(&[("src/r/mod.rs", facade), ("src/r/a.rs", a), ("src/r/b.rs", b)], &[]),
                [A_B],
                "{a}"
            );
        }
    }

    #[test]
    fn long_rings_and_those_through_folders_are_found() {
        let files = [
            ("src/r/mod.rs", "mod a; mod b; mod c; mod d; pub(crate) use c::deep::Deep;"),
            ("src/r/a.rs", "use super::b::B;"),
            ("src/r/b.rs", "use super::Deep;"),
            ("src/r/c/mod.rs", "pub(super) mod deep;"),
            ("src/r/c/deep.rs", "use super::super::a;"),
            ("src/r/d.rs", "use super::a;"),
        ];
        assert_eq!(
            rings(&files, &[]),
            ["src/r/a.rs, src/r/b.rs, src/r/c/deep.rs: import each other in a circle"]
        );
    }

    #[test]
    fn files_that_only_read_downwards_are_no_ring() {
        let facade = ("src/r/mod.rs", "mod a;\nmod b;\npub(crate) use {a::A, b::B};\nstruct Own;");
        for (a, b) in [
            ("use super::B;", ""),
            ("use super::B;", "// super::A\nconst A: &str = \"super::a\";"),
            ("use super::B;", "use super::Own;"),
            ("use super::B;", "#[cfg(test)]\nmod tests {\n    use super::super::A;\n}"),
            ("use super::B;", "use crate::other::A; fn f(self) -> Self { self.a }"),
        ] {
            let other = ("src/other.rs", "use crate::r::B; pub(crate) struct A;");
            assert_eq!(rings(&[facade, ("src/r/a.rs", a), ("src/r/b.rs", b), other], &[]), [""; 0], "{b}");
        }
    }

    #[test]
    fn a_ring_that_is_listed_stands_for_a_reason_and_as_long_as_it_is_there() {
        const FILES: &[&str] = &["src/r/a.rs", "src/r/b.rs"];
        let (a, b) = (("src/r/a.rs", "use super::b;"), ("src/r/b.rs", "use super::a;"));
        let facade = ("src/r/mod.rs", "mod a;\nmod b;");
        assert_eq!(rings(&[facade, a, b], &[ring(FILES, "one thought")]), [""; 0]);
        assert_eq!(rings(&[facade, a, b], &[ring(FILES, "")]).len(), 1, "a ring has a reason");
        assert_eq!(rings(&[facade, a], &[ring(FILES, "one thought")]).len(), 1, "it is gone");
    }

    #[test]
    fn foreign_crates_are_found_by_their_first_name() {
        let uses = |text: &str| uses_crate(&blank(text), "tokio");
        for text in [
            "use tokio::sync;",
            "use tokio;",
            "use {tokio::sync, std::fs};",
            "tokio::spawn(f)",
            "(tokio :: x)",
        ] {
            assert!(uses(text), "{text}");
        }
        for text in [
            "my_tokio::x",
            "a::tokio::x",
            "let tokio = 1;",
            "// tokio::spawn",
            "\"tokio::x\"",
            "use tokio_stream::x;",
        ] {
            assert!(!uses(text), "{text}");
        }
    }

    #[test]
    fn literals_are_blanked_and_lines_kept() {
        for (text, blanked) in [
            (r#"a "b\"c" d"#, "a        d"),
            (r"'a' '\'' 'x: &'static str", "         'x: &'static str"),
            ("r#\"a\"b\"# c", "         c"),
            ("br\"a\" b\"c\" b'd' e", "                e"),
            ("a // b\nc", "a     \nc"),
            ("r#type", "r#type"),
            ("\"a\nb\"c", "  \n  c"),
            ("bar\"x\"", "bar   "),
            ("/* a /* b */ c */ d", "                  d"),
        ] {
            assert_eq!(blank(text), blanked, "{text}");
        }
    }

    #[test]
    fn every_file_says_what_it_is_for_in_ascii() {
        let source = |text: &str| Source::new("src/a.rs", text);
        assert!(check_header(&source("//! A.\n")).is_none());
        assert!(check_header(&source("use a;\n//! A.\n")).is_some());
        assert_eq!(check_ascii(&source("a\nb \u{2014} c")), ["src/a.rs:2: not ASCII"]);
    }

    #[test]
    fn words_of_unfinished_work_are_found() {
        let words = |path: &str, text: &str| check_words(&Source::new(path, text));
        for text in ["todo!()", "dbg!(a)", "println!()", "eprintln!()", "#[allow(dead_code)]", "#[ignore]"] {
            assert_eq!(words("src/a.rs", text).len(), 1, "{text}");
        }
        assert_eq!(words("src/a.rs", &format!("// {}", MARKS[0])).len(), 1);
        assert_eq!(words("src/a.rs", "// todo!\n\"println!\"; #[ignore = \"slow\"]"), [""; 0]);
        assert_eq!(words("proto/build.rs", "println!()"), [""; 0]);
    }

    #[test]
    fn files_that_nothing_leads_to_are_found() {
        let files = [
            ("src/main.rs", "mod a;\nmod b;"),
            ("src/a.rs", "mod c;"),
            ("src/a/c.rs", ""),
            ("src/b/mod.rs", "pub(crate) mod d;"),
            ("src/b/d.rs", ""),
            ("src/b/e.rs", "// mod f;"),
            ("tests/t.rs", ""),
            ("tests/u/main.rs", "mod v;"),
            ("tests/u/v.rs", ""),
            ("tests/u/w.rs", ""),
        ];
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        let orphans = ["src/b/e.rs: no `mod` leads here", "tests/u/w.rs: no `mod` leads here"];
        assert_eq!(check_orphans(&sources), orphans);
    }

    #[test]
    fn a_page_has_one_title() {
        assert!(check_title("a.md", "# A\n\n## B\n\n```\n# not a title\n```\n").is_none());
        assert!(check_title("a.md", "# A\n# B\n").is_some());
        assert!(check_title("a.md", "A\n\n# B\n").is_some());
        assert!(check_title("a.md", "## A\n").is_some());
    }
}
