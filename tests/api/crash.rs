//! What must hold after a crash: acknowledged writes are there, revisions never go back, watchers neither
//! miss nor repeat an event. Damage on the disk is repaired or refused with a message, and never served.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::{
    client::{Client, accepted, revision, soon},
    pb::etcdserverpb::*,
    server::{Launch, Server, serve, subject_is_retcd},
    watch::Tape,
};

const CRASHES: usize = 20;
const WRITERS: usize = 4;
const WRITES_BETWEEN_CRASHES: usize = 100;

fn everything(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), start_revision, ..Default::default() }
}

/// Writes increasing numbers to one key until the server is gone, and reports each acknowledged one.
async fn write(
    client: Client,
    writer: usize,
    from: u64,
    acknowledged: mpsc::UnboundedSender<(usize, u64, i64)>,
) {
    for number in from.. {
        let request = PutRequest {
            key: format!("writer {writer}").into(),
            value: number.to_string().into(),
            ..Default::default()
        };
        match client.try_put(request).await {
            Ok(response) => acknowledged.send((writer, number, revision(&response.header))).ok(),
            Err(_) => return,
        };
    }
}

#[tokio::test]
async fn twenty_crashes_under_load_lose_nothing() {
    let (mut server, _) = serve();
    let mut written = [(0_u64, 0_i64); WRITERS];
    let mut tape = Tape::from(2);
    for crash in 0..CRASHES {
        let client = server.client();
        let mut stream = client.watch(everything(tape.next_revision)).await;
        let watcher = tokio::spawn(async move {
            // The stream ends when the server is killed.
            while let Some(Ok(response)) = stream.next_or_end().await {
                tape.read(&response);
            }
            tape
        });
        let (acknowledged, mut acknowledgements) = mpsc::unbounded_channel();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                tokio::spawn(write(client.clone(), writer, written[writer].0 + 1, acknowledged.clone()))
            })
            .collect();
        drop(acknowledged);
        for _ in 0..WRITES_BETWEEN_CRASHES {
            let (writer, number, at) =
                soon("an acknowledgement", acknowledgements.recv()).await.expect("it runs");
            written[writer] = (number, at);
        }
        server.kill();
        for writer in writers {
            soon("a writer's end", writer).await.expect("no writer panics");
        }
        while let Some((writer, number, at)) = acknowledgements.recv().await {
            written[writer] = (number, at);
        }
        tape = soon("the watcher's end", watcher).await.expect("no watcher panics");

        server.start();
        let client = server.client();
        let now =
            revision(&client.range(RangeRequest { key: "x".into(), ..Default::default() }).await.header);
        let seen = tape.next_revision - 1;
        assert!(now >= seen, "crash {crash}: watchers saw {seen}, the store is back at {now}");
        for (writer, (number, at)) in written.iter_mut().enumerate() {
            let kv = client.get(format!("writer {writer}")).await;
            let Some(kv) = kv else {
                assert_eq!(*number, 0, "crash {crash}: writer {writer}'s key is gone");
                continue;
            };
            let stored: u64 =
                std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok()).expect("a number");
            // The write that was in progress may have been executed or not.
            assert!(
                stored == *number || stored == *number + 1,
                "crash {crash}: writer {writer} was acknowledged {number} at {at}, {stored} is stored"
            );
            assert!(kv.mod_revision >= *at && kv.mod_revision <= now);
            assert_eq!(kv.version.cast_unsigned(), stored, "every write was made once");
            (*number, *at) = (stored, kv.mod_revision);
        }
    }
    // A watcher that reads the whole history from the start gets the same events.
    let client = server.client();
    let now = client.put("the end", "").await;
    let mut stream = client.watch(everything(2)).await;
    let mut whole = Tape::from(2);
    while whole.next_revision <= now {
        whole.read(&stream.next().await);
    }
}

/// The strongest check of a history: an etcd that replays it revision by revision computes the same hash over
/// all records.
#[tokio::test]
async fn a_history_made_under_load_and_crashes_has_the_hash_etcd_gives_it() {
    let (mut server, _) = serve();
    let mut tape: Vec<(i64, RequestOp)> = Vec::new();
    for round in 0..3_u64 {
        let client = server.client();
        let (done, mut count) = mpsc::unbounded_channel();
        let writers: Vec<_> = (0..WRITERS as u64)
            .map(|writer| {
                let (client, done) = (client.clone(), done.clone());
                tokio::spawn(async move {
                    for number in 0_u64.. {
                        if scribble(&client, round, writer, number).await.is_err() {
                            return;
                        }
                        done.send(()).ok();
                    }
                })
            })
            .collect();
        for _ in 0..150 {
            soon("a write", count.recv()).await.expect("it runs");
        }
        server.kill();
        for writer in writers {
            soon("a writer's end", writer).await.expect("no writer panics");
        }
        server.start();
    }
    let client = server.client();
    let last = client.put("the end", "").await;
    let mut stream = client.watch(everything(2)).await;
    while tape.last().is_none_or(|(at, _)| *at < last) {
        for event in stream.next().await.events {
            let deletes = event.r#type == 1;
            let kv = event.kv.expect("an event carries a key");
            let request = if deletes {
                request_op::Request::RequestDeleteRange(DeleteRangeRequest {
                    key: kv.key,
                    ..Default::default()
                })
            } else {
                let put = PutRequest { key: kv.key, value: kv.value, ..Default::default() };
                request_op::Request::RequestPut(put)
            };
            tape.push((kv.mod_revision, RequestOp { request: Some(request) }));
        }
    }
    let etcd = Launch::reference().start();
    let replay = etcd.client();
    for revision_of in tape.chunk_by(|a, b| a.0 == b.0) {
        let success = revision_of.iter().map(|(_, op)| op.clone()).collect();
        let response = replay.txn(TxnRequest { success, ..Default::default() }).await;
        assert_eq!(revision(&response.header), revision_of[0].0);
    }
    for at in [0, last / 2, last / 3] {
        let ours = accepted("hash", client.try_hash_kv(at).await).hash;
        assert_eq!(ours, accepted("hash", replay.try_hash_kv(at).await).hash, "at {at} of {last}");
    }
    for client in [&client, &replay] {
        client.compact(last / 2).await;
    }
    assert_eq!(
        accepted("hash", client.try_hash_kv(0).await).hash,
        accepted("hash", replay.try_hash_kv(0).await).hash,
        "after a compaction"
    );
}

/// One of a few kinds of writes, over few keys.
async fn scribble(client: &Client, round: u64, writer: u64, number: u64) -> Result<(), tonic::Status> {
    let key = |number: u64| Bytes::from(format!("key {}", number % 17));
    let value = Bytes::from(format!("{round} {writer} {number}"));
    let put = |number: u64| PutRequest { key: key(number), value: value.clone(), ..Default::default() };
    let delete = DeleteRangeRequest { key: key(number * 3), range_end: key(number * 3 + 2), prev_kv: false };
    match number % 4 {
        0 => {
            let op = |request| RequestOp { request: Some(request) };
            let success = vec![
                op(request_op::Request::RequestPut(put(number))),
                op(request_op::Request::RequestPut(put(number + 5))),
                op(request_op::Request::RequestPut(put(number + 11))),
            ];
            client.try_txn(TxnRequest { success, ..Default::default() }).await.map(drop)
        }
        1 => client.try_delete(delete).await.map(drop),
        _ => client.try_put(put(number + writer)).await.map(drop),
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_large_txns_leaves_them_whole() {
    let (mut server, client) = serve();
    const KEYS: usize = 50;
    for _ in 0..5 {
        let (done, mut count) = mpsc::unbounded_channel();
        let writing = client.clone();
        let writer = tokio::spawn(async move {
            for number in 0_u64.. {
                let put = |key: usize| RequestOp {
                    request: Some(request_op::Request::RequestPut(PutRequest {
                        key: format!("key {key}").into(),
                        value: Bytes::from(number.to_string().repeat(500)),
                        ..Default::default()
                    })),
                };
                let txn = TxnRequest { success: (0..KEYS).map(put).collect(), ..Default::default() };
                if writing.try_txn(txn).await.is_err() {
                    return;
                }
                done.send(()).ok();
            }
        });
        for _ in 0..10 {
            soon("a txn", count.recv()).await.expect("it runs");
        }
        server.kill();
        soon("the writer's end", writer).await.expect("the writer does not panic");
        server.start();
        let client = server.client();
        let all = RangeRequest { key: "key".into(), range_end: "kez".into(), ..Default::default() };
        let kvs = client.range(all).await.kvs;
        assert_eq!(kvs.len(), KEYS);
        assert!(kvs.iter().all(|kv| (&kv.value, kv.mod_revision) == (&kvs[0].value, kvs[0].mod_revision)));
    }
}

#[tokio::test]
async fn a_server_told_to_end_does_so_at_once() {
    let (mut server, client) = serve();
    let _stream = client.watch(everything(0)).await;
    let (acknowledged, mut acknowledgements) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write(client.clone(), 0, 1, acknowledged));
    let mut last = 0;
    for _ in 0..50 {
        last = soon("a write", acknowledgements.recv()).await.expect("it runs").1;
    }
    let ended = server.stop();
    if subject_is_retcd() {
        // The stop is promised within a second; the rest of the time is for a busy machine.
        assert!(ended.took < Duration::from_secs(5), "it took {:?}", ended.took);
    }
    soon("the writer's end", writer).await.expect("the writer does not panic");
    while let Some((_, number, _)) = acknowledgements.recv().await {
        last = number;
    }
    server.start();
    let kv = server.client().get("writer 0").await.expect("it was written");
    let stored: u64 =
        std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok()).expect("a number");
    assert!(stored >= last, "acknowledged {last}, stored {stored}");
}

/// Fills a server with data, stops it, and returns it with its newest log segment.
async fn written_server(orderly: bool) -> (Server, PathBuf, Vec<(String, String)>) {
    let (mut server, client) = serve();
    let mut pairs = Vec::new();
    for number in 0..200 {
        let (key, value) = (format!("key {number:03}"), format!("value {number} {}", "x".repeat(200)));
        client.put(key.clone(), value.clone()).await;
        pairs.push((key, value));
    }
    if orderly {
        drop(server.stop())
    } else {
        server.kill()
    }
    let mut segments: Vec<PathBuf> = fs::read_dir(server.wal_dir())
        .expect("the log has a directory")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    segments.sort();
    let newest = segments.pop().expect("the log has a segment");
    (server, newest, pairs)
}

fn pairs_of(response: &RangeResponse) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    response.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

async fn stored(client: &Client) -> Vec<(String, String)> {
    let all = RangeRequest { key: "key".into(), range_end: "kez".into(), ..Default::default() };
    pairs_of(&client.range(all).await)
}

/// The end of the written part of a segment, which may be followed by zeros.
fn end_of_data(path: &Path) -> usize {
    let bytes = fs::read(path).expect("the segment can be read");
    bytes.iter().rposition(|byte| *byte != 0).expect("something was written") + 1
}

#[tokio::test]
async fn a_torn_tail_of_the_log_is_repaired() {
    if !subject_is_retcd() {
        return;
    }
    let (mut server, segment, pairs) = written_server(false).await;
    let end = end_of_data(&segment) as u64;
    // A record that was partly written when the power failed: its first bytes, then zeros.
    let mut file = OpenOptions::new().write(true).open(&segment).expect("the segment can be written");
    file.set_len(end).expect("it can be cut");
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).expect("it can be sought");
    file.write_all(&[0x55, 0x01, 0x02]).expect("it can be written");
    drop(file);
    server.start();
    assert_eq!(stored(&server.client()).await, pairs, "nothing that was acknowledged is lost");

    // The last record itself is truncated: the rest must be a prefix of what was written.
    server.kill();
    let file = OpenOptions::new().write(true).open(&segment).expect("the segment can be written");
    file.set_len(end_of_data(&segment) as u64 - 3).expect("it can be cut");
    drop(file);
    server.start();
    let left = stored(&server.client()).await;
    assert!(pairs.starts_with(&left) && left.len() >= pairs.len() - 1, "{} of {}", left.len(), pairs.len());
    assert!(server.client().put("after", "it").await > 100);
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_is_named_and_refused() {
    if !subject_is_retcd() {
        return;
    }
    let (mut server, segment, _) = written_server(false).await;
    let mut bytes = fs::read(&segment).expect("the segment can be read");
    let middle = end_of_data(&segment) / 2;
    bytes[middle] ^= 0x10;
    fs::write(&segment, &bytes).expect("the segment can be written");
    let ended = server.start_refused();
    assert_eq!(ended.status.code(), Some(1));
    let name = segment.file_name().expect("a segment has a name").to_string_lossy().into_owned();
    assert!(ended.log.iter().any(|line| line.contains(&name)), "no line names {name}: {:#?}", ended.log);
    // After the repair the server runs as before.
    bytes[middle] ^= 0x10;
    fs::write(&segment, &bytes).expect("the segment can be written");
    server.start();
    assert_eq!(stored(&server.client()).await.len(), 200);
}

#[tokio::test]
async fn flipped_bits_in_the_database_are_never_served() {
    if !subject_is_retcd() {
        return;
    }
    let (mut server, _, pairs) = written_server(true).await;
    let database = server.database();
    let whole = fs::read(&database).expect("the database can be read");
    // Damage within the values, and evenly over the file. The second kind also hits the pages of redb's
    // trees.
    let values: Vec<usize> =
        whole.windows(8).enumerate().filter(|(_, bytes)| bytes == b"xxxxxxxx").map(|(at, _)| at).collect();
    assert!(!values.is_empty(), "an orderly end leaves everything in the database");
    let spots = 12;
    let in_values = (0..spots).map(|spot| values[values.len() * (2 * spot + 1) / (2 * spots)]);
    let in_pages = (0..spots).map(|spot| (whole.len() * (2 * spot + 1) / (2 * spots)) | 0x123);
    let mut refused = 0;
    for at in in_values.chain(in_pages) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x04;
        fs::write(&database, &bytes).expect("the database can be written");
        server.spawn_and_settle();
        if !server.is_running() {
            refused += 1;
            let ended = server.start_refused();
            let name = database.display().to_string();
            let is_named = ended.log.iter().any(|line| line.contains(&name));
            assert!(is_named && ended.status.code() == Some(1), "at {at}: {:#?}", ended.log);
            continue;
        }
        let all = RangeRequest { key: "key".into(), range_end: "kez".into(), ..Default::default() };
        match server.client().try_range(all).await {
            Ok(response) => assert_eq!(pairs_of(&response), pairs, "a flipped bit at {at} was served"),
            Err(_) => refused += 1,
        }
        server.kill();
    }
    assert!(refused > 0, "no flipped bit was noticed: they all missed what is read");
    eprintln!("{refused} of {} flipped bits were refused; the others lay in unused space", 2 * spots);
    fs::write(&database, &whole).expect("the database can be written");
    server.start();
    assert_eq!(stored(&server.client()).await, pairs);
}

/// The pages of redb's trees, which no checksum of retcd covers.
#[tokio::test]
async fn pages_that_make_no_sense_are_a_refusal() {
    const PAGE: usize = 4096;
    if !subject_is_retcd() {
        return;
    }
    let (mut server, _, pairs) = written_server(true).await;
    let database = server.database();
    let whole = fs::read(&database).expect("the database can be read");
    for damage in [[0xff; 32], [0x01; 32], [0x02; 32]] {
        let mut bytes = whole.clone();
        // The first page has the type of the file.
        for page in bytes.chunks_mut(PAGE).skip(1).filter(|page| page.iter().any(|byte| *byte != 0)) {
            page[..damage.len()].copy_from_slice(&damage);
        }
        fs::write(&database, &bytes).expect("the database can be written");
        let ended = server.start_refused();
        let refusal = format!("{} is damaged: ", database.display());
        let is_named = ended.log.iter().any(|line| line.contains(&refusal));
        assert!(is_named && ended.status.code() == Some(1), "{:?}: {:#?}", ended.status, ended.log);
    }
    fs::write(&database, &whole).expect("the database can be written");
    server.start();
    assert_eq!(stored(&server.client()).await, pairs);
}

/// Blocks of the database that read as zeros, and flipped bits, wherever they are. A start refuses the
/// file, or the member serves what was written and ends when a checkpoint meets the damage. The log
/// names the file each time, and never has a panic in it.
#[tokio::test]
async fn damage_to_any_page_ends_the_member_with_a_message() {
    const PAGE: usize = 4096;
    if !subject_is_retcd() {
        return;
    }
    let (mut server, _, pairs) = written_server(true).await;
    let database = server.database();
    let whole = fs::read(&database).expect("the database can be read");
    let is_used = |page: &usize| whole[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0);
    let pages: Vec<usize> = (0..whole.len() / PAGE).filter(is_used).collect();
    let (mut refused, mut ended_later) = (0, 0);
    for (turn, page) in pages.iter().enumerate().step_by(pages.len().div_ceil(60)) {
        let mut bytes = whole.clone();
        let bytes_of_page = &mut bytes[page * PAGE..][..PAGE];
        match turn % 3 {
            0 => bytes_of_page[turn * 7 % 64] ^= 1 << (turn % 8),
            _ => bytes_of_page.fill(0),
        }
        fs::write(&database, &bytes).expect("the database can be written");
        let ended = match server.spawn_and_settle() {
            Some(ended) => ended,
            None => {
                let client = server.client();
                let all = RangeRequest { key: "key".into(), range_end: "kez".into(), ..Default::default() };
                if let Ok(response) = client.try_range(all).await {
                    assert_eq!(pairs_of(&response), pairs, "page {page} was served");
                }
                // The last checkpoint stores it, and reads pages that no start reads.
                let _ = client.try_put(PutRequest { key: "z".into(), ..Default::default() }).await;
                server.signal(Signal::TERM);
                let ended = server.wait_for_end();
                ended_later += usize::from(!ended.status.success());
                ended
            }
        };
        refused += usize::from(!ended.status.success());
        let text = ended.log.join("\n");
        assert!(!text.contains("panicked") && !text.contains("stack backtrace"), "page {page}: {text}");
        if !ended.status.success() {
            assert_eq!(ended.status.code(), Some(1), "page {page}: {text}");
            assert!(text.contains(&format!("{} ", database.display())), "page {page}: {text}");
        }
    }
    assert!(refused > 20, "{refused} damaged files were noticed");
    eprintln!("{refused} damaged files were noticed, {ended_later} of them after the start");
    fs::write(&database, &whole).expect("the database can be written");
    server.start();
    assert_eq!(stored(&server.client()).await, pairs);
}

#[tokio::test]
async fn a_missing_log_segment_is_not_passed_over() {
    if !subject_is_retcd() {
        return;
    }
    let (mut server, segment, _) = written_server(false).await;
    fs::remove_file(&segment).expect("the segment can be removed");
    server.spawn_and_settle();
    if server.is_running() {
        // This is right only if the database had all entries already.
        assert_eq!(stored(&server.client()).await.len(), 200, "acknowledged writes are gone without a word");
    }
}

#[tokio::test]
async fn the_same_directory_is_never_served_twice() {
    if !subject_is_retcd() {
        return;
    }
    let (server, client) = serve();
    client.put("k", "v").await;
    let mut second = Launch::subject().flag("data-dir", server.data_dir().display()).prepare();
    let ended = second.start_refused();
    assert_eq!(ended.status.code(), Some(1));
    assert!(!ended.log.is_empty());
    assert_eq!(client.put("k", "v").await, 3, "the first goes on");
    assert!(
        accepted("range", client.try_range(RangeRequest { key: "k".into(), ..Default::default() }).await)
            .count
            == 1
    );
}
