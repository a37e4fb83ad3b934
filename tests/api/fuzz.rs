//! Raw bytes on both ports: whatever is sent, the server goes on serving.
//!
//! The bytes are those of `tests/corpus/http2`, changed at random. `RETCD_FUZZ_SECS` says for how long (default: 2) and
//! `RETCD_FUZZ_SEED` with which seed, which a failure names together with the bytes.

use std::{
    env, fs,
    net::Shutdown,
    path::Path,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    raw::Raw,
    server::{Launch, PATIENCE, Server, subject_is_retcd},
};

/// The longest that is sent.
const BYTES_MAX: usize = 64 * 1024;

/// Inputs after which the server is asked whether it is still well.
const BATCH: usize = 50;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/http2");
    let files = fs::read_dir(&folder).expect("the corpus is in the tree");
    let mut corpus: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    corpus.sort();
    let bytes = |path: &Path| {
        let digits: String = fs::read_to_string(path).expect("readable").split_whitespace().collect();
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two digits of hex")).collect()
    };
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    corpus.iter().map(|path| (name(path), bytes(path))).collect()
}

fn changed(corpus: &[(String, Vec<u8>)], chance: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus.choose(chance).expect("there are some").1.clone();
    for _ in 0..chance.random_range(0..8) {
        let at = chance.random_range(0..=bytes.len());
        let end = (at + chance.random_range(0..64)).min(bytes.len());
        match chance.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.random_range(0..8),
            1 if at < bytes.len() => {
                bytes[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(chance).expect("one of five")
            }
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            4 => {
                let mut noise = vec![0; chance.random_range(0..40)];
                chance.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
            5 => bytes.truncate(at),
            6 => {
                let other = &corpus.choose(chance).expect("there are some").1;
                let from = chance.random_range(0..other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            // Much of the same.
            _ => {
                let part = bytes[at..end].repeat(chance.random_range(0..500));
                bytes.splice(at..at, part);
            }
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}

/// The bytes as a file of the corpus has them.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn assert_is_well(server: &Server, seed: u64, sent: &[Vec<u8>]) {
    let told = || {
        let sent: Vec<String> = sent.iter().map(|bytes| hex(bytes)).collect();
        format!("after RETCD_FUZZ_SEED={seed}, which sent\n{}", sent.join("\n"))
    };
    let panicked = server.log().iter().any(|line| line.contains("panicked at"));
    assert!(!panicked, "the server panicked {}", told());
    for (port, path) in
        [(server.client_port, "/etcdserverpb.KV/Range"), (server.peer_port, "/retcd.peer.Peer/Members")]
    {
        let mut raw = Raw::greeted(port);
        let id = raw.call(path, &[0x0a, 1, b'k']);
        assert!(raw.ended(id, PATIENCE).is_ok(), "the server does not answer {}", told());
    }
}

#[test]
fn the_server_goes_on_whatever_bytes_it_is_sent() {
    if !subject_is_retcd() {
        return;
    }
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let time = Duration::from_secs(number("RETCD_FUZZ_SECS").unwrap_or(2));
    let seed = number("RETCD_FUZZ_SEED").unwrap_or_else(rand::random);
    let mut chance = StdRng::seed_from_u64(seed);
    let corpus = corpus();
    let server = Launch::subject().start();

    // First as they are, so that all of the corpus is of use.
    let mut sent: Vec<Vec<u8>> = Vec::new();
    for (_, bytes) in &corpus {
        for port in [server.client_port, server.peer_port] {
            let _ = Raw::silent(port).send(bytes);
        }
        sent.push(bytes.clone());
    }
    assert_is_well(&server, seed, &sent);
    let start = Instant::now();
    let mut open = Vec::new();
    while start.elapsed() < time {
        sent.clear();
        for _ in 0..BATCH {
            let bytes = changed(&corpus, &mut chance);
            let port = if chance.random() { server.client_port } else { server.peer_port };
            let mut raw = Raw::silent(port);
            let cut = chance.random_range(0..=bytes.len());
            // The server may close the connection at any moment.
            let _ = raw.send(&bytes[..cut]).and_then(|()| raw.send(&bytes[cut..]));
            match chance.random_range(0..3) {
                0 => open.push(raw),
                1 => drop(raw),
                _ => drop(raw.stream.shutdown(Shutdown::Write)),
            }
            sent.push(bytes);
        }
        open.drain(..open.len().saturating_sub(2 * BATCH));
        assert_is_well(&server, seed, &sent);
    }
}
