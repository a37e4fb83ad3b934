//! Large values are on the disk once, in the files of the log, and go when nobody needs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;

use crate::{
    client::{Client, accepted, soon},
    pb::etcdserverpb::*,
    server::{Server, serve, subject_is_retcd, subject_program},
};

/// More than a segment of the log.
const PUTS: usize = 100;
const VALUE_BYTES: usize = 1024 * 1024;

const REMOVED: &str = "removed files of large values";

fn key(number: usize) -> String {
    format!("large {number:03}")
}

fn value(number: usize) -> Bytes {
    vec![number as u8; VALUE_BYTES].into()
}

async fn put_all(client: &Client) {
    for number in 0..PUTS {
        client.put(key(number), value(number)).await;
    }
}

async fn assert_all(client: &Client, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        let request = RangeRequest { key: key(number).into(), ..Default::default() };
        let found = accepted("a read", client.try_range(request).await);
        assert!(found.kvs[0].value == value(number), "{} has another value", key(number));
    }
}

/// Bytes of the files whose names end so.
fn bytes_of(directory: &Path, extension: &str) -> u64 {
    let entries = fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("it is there"));
    let named = entries.filter(|entry| entry.path().extension().is_some_and(|found| *found == *extension));
    named.map(|entry| entry.metadata().expect("it is there").len()).sum()
}

/// The first file of values, once the log has let go of it: that comes after a checkpoint, which comes after a put.
async fn first_file(server: &Server, client: &Client) -> PathBuf {
    let found = async {
        loop {
            let entries = fs::read_dir(server.wal_dir()).expect("it is there");
            let paths = entries.map(|entry| entry.expect("it is there").path());
            match paths.filter(|path| path.extension().is_some_and(|found| found == "values")).min() {
                Some(path) => return path,
                None => client.put("small", "value").await,
            };
        }
    };
    soon("a file of values", found).await
}

fn check(server: &Server) -> String {
    let mut command = Command::new(subject_program());
    command.arg("check").arg("--data-dir").arg(server.data_dir());
    let output = command.output().expect("it runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn they_are_written_once_and_survive_restarts() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd writes them to its log and to its database");
        return;
    }
    let (mut server, client) = serve();
    put_all(&client).await;
    first_file(&server, &client).await;
    let hash = client.try_hash_kv(0).await.expect("a hash").hash;
    server.stop();
    let all = (PUTS * VALUE_BYTES) as u64;
    let database = fs::metadata(server.database()).expect("it is there").len();
    assert!(database < all / 20, "the database has {database} bytes");
    let (log, values) = (bytes_of(&server.wal_dir(), "wal"), bytes_of(&server.wal_dir(), "values"));
    assert!(values > 0, "a segment that the log does not need is kept for its values");
    assert!(
        log + values < all + 2 * 64 * 1024 * 1024,
        "the log has {log} bytes, and there are {values} beside it"
    );
    let said = check(&server);
    assert!(said.contains("sound: ") && said.contains(&format!("HashKV {hash}")), "{said}");

    server.start();
    let client = server.client();
    assert_all(&client, 0..PUTS).await;
    assert_eq!(client.try_hash_kv(0).await.expect("a hash").hash, hash);
    client.put(key(0), value(0)).await;
    // What is read back from the log lies there as well.
    server.kill();
    server.start();
    assert_all(&server.client(), 0..PUTS).await;
    server.stop();
    let said = check(&server);
    assert!(said.contains("sound: "), "{said}");
}

#[tokio::test]
async fn files_go_when_their_values_are_compacted() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd has no such files");
        return;
    }
    let (mut server, client) = serve();
    put_all(&client).await;
    // Of the first file a few values are left, which are copied before it goes.
    let deletion = |first: usize, until: usize| DeleteRangeRequest {
        key: key(first).into(),
        range_end: key(until).into(),
        ..Default::default()
    };
    accepted("a deletion", client.try_delete(deletion(3, PUTS)).await);
    let revision = accepted("a deletion", client.try_delete(deletion(PUTS, PUTS + 1)).await).header;
    let revision = revision.expect("a header").revision;
    accepted("a compaction", client.try_compact(revision, true).await);
    server.wait_for_line(REMOVED);
    assert_all(&client, 0..3).await;
    server.stop();
    let values = bytes_of(&server.wal_dir(), "values");
    assert!(values < 16 * 1024 * 1024, "{values} bytes are left");
    server.start();
    assert_all(&server.client(), 0..3).await;
}

#[tokio::test]
async fn a_value_that_is_damaged_is_not_served_and_named() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not notice");
        return;
    }
    let (mut server, client) = serve();
    put_all(&client).await;
    let file = first_file(&server, &client).await;
    server.stop();
    let mut bytes = fs::read(&file).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("there is room");
    let said = check(&server);
    let name = file.display().to_string();
    assert!(said.contains("1 place is damaged") && said.contains(&name), "{said}");
    server.start();
    let client = server.client();
    let mut damaged = 0;
    for number in 0..PUTS {
        let request = RangeRequest { key: key(number).into(), ..Default::default() };
        match client.try_range(request).await {
            Ok(found) => assert!(found.kvs[0].value == value(number)),
            Err(refusal) => {
                assert!(refusal.message().contains(&name), "{}", refusal.message());
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);

    server.stop();
    fs::remove_file(&file).expect("it is there");
    let ended = server.start_refused();
    let log = ended.log.join("\n");
    assert!(log.contains(&name) && log.contains("it is missing"), "{log}");
}
