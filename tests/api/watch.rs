//! Watches: which events watchers get, in which order, and when they end.
//!
//! etcd guarantees that watches are ordered, unique, atomic, reliable, resumable and bookmarkable. The tests
//! under load check this for every event.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tonic::Code;

use crate::{
    client::{Client, WatchStream, accepted, prefix_end, revision, soon},
    pb::{
        etcdserverpb::{request_op::Request, watch_create_request::FilterType, *},
        mvccpb::{Event, event::EventType},
    },
    server::{Launch, serve, serve_with},
};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

fn on(key: &'static str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), ..Default::default() }
}

fn on_all() -> WatchCreateRequest {
    WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

fn on_prefix(prefix: &'static str) -> WatchCreateRequest {
    WatchCreateRequest { range_end: prefix_end(prefix.as_bytes()), ..on(prefix) }
}

/// An event in one line: `put k=v @3`, `delete k @4`.
fn line(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("an event carries a key");
    let key = String::from_utf8_lossy(&kv.key);
    match event.r#type() {
        EventType::Put => format!("put {key}={} @{}", String::from_utf8_lossy(&kv.value), kv.mod_revision),
        EventType::Delete => format!("delete {key} @{}", kv.mod_revision),
    }
}

fn lines(events: &[Event]) -> Vec<String> {
    events.iter().map(line).collect()
}

fn put_op(key: impl Into<Bytes>, value: impl Into<Bytes>) -> RequestOp {
    let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

async fn puts(client: &Client, keys: impl IntoIterator<Item = String>) -> i64 {
    let success = keys.into_iter().map(|key| put_op(key, "v")).collect();
    revision(&client.txn(TxnRequest { success, ..Default::default() }).await.header)
}

#[tokio::test]
async fn a_watcher_hears_of_each_change_from_now_on() {
    let (_server, client) = serve();
    client.put("k", "before").await;
    let mut stream = client.watch_stream();
    let created = stream.create(on("k")).await;
    assert_eq!((created.watch_id, created.canceled, revision(&created.header)), (0, false, 2));
    assert!(created.events.is_empty());
    client.put("other", "x").await;
    client.put("k", "1").await;
    client.delete("k").await;
    client.delete("k").await;
    let put = stream.next().await;
    assert_eq!((put.watch_id, put.created, revision(&put.header)), (0, false, 4));
    assert_eq!(lines(&put.events), ["put k=1 @4"]);
    let deleted = stream.next().await;
    assert_eq!((lines(&deleted.events), revision(&deleted.header)), (vec!["delete k @5".into()], 5));
    assert!(stream.arrived().is_none());
}

#[tokio::test]
async fn an_event_carries_what_etcd_says_it_does() {
    let (_server, client) = serve();
    let lease = client.grant(600, 77).await;
    let mut plain = client.watch(on("k")).await;
    let mut with_previous = client.watch(WatchCreateRequest { prev_kv: true, ..on("k") }).await;
    let put = PutRequest { key: "k".into(), value: "1".into(), lease, ..Default::default() };
    accepted("put", client.try_put(put).await);
    client.put("k", "2").await;
    client.delete("k").await;
    client.put("k", "3").await;

    let events = plain.events(4).await;
    let first = events[0].kv.as_ref().expect("a kv");
    assert_eq!((first.create_revision, first.mod_revision, first.version, first.lease), (2, 2, 1, 77));
    let deleted = events[2].kv.as_ref().expect("a kv");
    assert_eq!((deleted.create_revision, deleted.version, deleted.lease), (0, 0, 0));
    assert_eq!((deleted.value.len(), deleted.mod_revision, &deleted.key[..]), (0, 4, &b"k"[..]));
    assert!(events.iter().all(|event| event.prev_kv.is_none()));

    let events = with_previous.events(4).await;
    let previous: Vec<Option<&[u8]>> =
        events.iter().map(|event| event.prev_kv.as_ref().map(|kv| &kv.value[..])).collect();
    assert_eq!(previous, [None, Some(&b"1"[..]), Some(&b"2"[..]), None]);
}

#[tokio::test]
async fn one_stream_carries_many_watchers() {
    let (_server, client) = serve();
    let mut stream = client.watch_stream();
    for expected in 0..3 {
        assert_eq!(stream.create(on("k")).await.watch_id, expected, "ids are given from 0 on");
    }
    assert_eq!(stream.create(WatchCreateRequest { watch_id: 9, ..on_prefix("k") }).await.watch_id, 9);
    assert_eq!(stream.create(WatchCreateRequest { watch_id: 3, ..on("x") }).await.watch_id, 3);
    assert_eq!(stream.create(on("y")).await.watch_id, 4, "ids in use are passed over");
    client.put("k", "1").await;
    let mut told = BTreeSet::new();
    for _ in 0..4 {
        let response = stream.next().await;
        assert_eq!(lines(&response.events), ["put k=1 @2"]);
        told.insert(response.watch_id);
    }
    assert_eq!(told, BTreeSet::from([0, 1, 2, 9]));

    let mut other = client.watch_stream();
    assert_eq!(other.create(on("k")).await.watch_id, 0, "each stream counts for itself");
}

#[tokio::test]
async fn an_id_in_use_is_refused_and_the_stream_goes_on() {
    let (_server, client) = serve();
    let mut stream = client.watch(WatchCreateRequest { watch_id: 5, ..on("k") }).await;
    let refused = stream.create(WatchCreateRequest { watch_id: 5, ..on("l") }).await;
    assert_eq!((refused.watch_id, refused.canceled, refused.compact_revision), (-1, true, 0));
    assert_eq!(refused.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    assert_eq!(revision(&refused.header), 1);
    client.put("k", "1").await;
    assert_eq!(stream.next().await.watch_id, 5);
}

#[tokio::test]
async fn an_empty_range_is_refused_and_the_stream_goes_on() {
    let (_server, client) = serve();
    let mut stream = client.watch_stream();
    for end in ["a", "k"] {
        let refused = stream.create(WatchCreateRequest { range_end: end.into(), ..on("k") }).await;
        assert_eq!((refused.watch_id, refused.canceled), (-1, true));
        if client.has((3, 6, 0), "the words for an empty watch range").await {
            assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");
        }
    }
    assert_eq!(stream.create(on("k")).await.watch_id, 0);
}

#[tokio::test]
async fn an_empty_key_means_the_first_possible_one() {
    let (_server, client) = serve();
    let mut all = client.watch(WatchCreateRequest { range_end: "\0".into(), ..on("") }).await;
    client.put("a", "1").await;
    client.put("z", "1").await;
    assert_eq!(lines(&all.events(2).await), ["put a=1 @2", "put z=1 @3"]);
}

#[tokio::test]
async fn a_watch_covers_its_interval_only() {
    let (_server, client) = serve();
    let mut interval = client.watch(WatchCreateRequest { range_end: "d".into(), ..on("b") }).await;
    let mut from = client.watch(WatchCreateRequest { range_end: "\0".into(), ..on("c") }).await;
    for key in ["a", "b", "bb", "c", "d", "e"] {
        client.put(key, "").await;
    }
    assert_eq!(lines(&interval.events(3).await), ["put b= @3", "put bb= @4", "put c= @5"]);
    assert_eq!(lines(&from.events(3).await), ["put c= @5", "put d= @6", "put e= @7"]);
}

#[tokio::test]
async fn cancel_answers_once_and_frees_the_id() {
    let (_server, client) = serve();
    let mut stream = client.watch(on("k")).await;
    stream.cancel(0).await;
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.created), (0, true, false));
    assert_eq!((canceled.cancel_reason.as_str(), revision(&canceled.header)), ("", 1));
    // An unknown id gets no answer: the next response is about the next watcher.
    stream.cancel(0).await;
    stream.cancel(123).await;
    client.put("k", "unheard").await;
    let created = stream.create(WatchCreateRequest { watch_id: 7, ..on("k") }).await;
    assert_eq!(created.watch_id, 7);
    client.put("k", "heard").await;
    assert_eq!(lines(&stream.events(1).await), ["put k=heard @3"]);
}

#[tokio::test]
async fn a_past_start_revision_brings_the_history() {
    let (_server, client) = serve();
    client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    client.put("l", "x").await;
    for (start, expected) in [
        (1, vec!["put k=1 @2", "put k=2 @3", "delete k @4"]),
        (2, vec!["put k=1 @2", "put k=2 @3", "delete k @4"]),
        (3, vec!["put k=2 @3", "delete k @4"]),
        (4, vec!["delete k @4"]),
    ] {
        let mut stream = client.watch_stream();
        let created = stream.create(WatchCreateRequest { start_revision: start, ..on("k") }).await;
        assert_eq!(revision(&created.header), 5);
        assert_eq!(lines(&stream.events(expected.len()).await), expected, "from {start}");
    }
    let mut stream = client.watch(WatchCreateRequest { start_revision: 2, prev_kv: true, ..on("k") }).await;
    client.put("k", "3").await;
    let events = stream.events(4).await;
    let previous: Vec<Option<&[u8]>> =
        events.iter().map(|event| event.prev_kv.as_ref().map(|kv| &kv.value[..])).collect();
    assert_eq!(previous, [None, Some(&b"1"[..]), Some(&b"2"[..]), None]);
    assert_eq!(line(&events[3]), "put k=3 @6", "history runs on into the present");
}

#[tokio::test]
async fn a_future_start_revision_is_waited_for() {
    let (_server, client) = serve();
    let mut stream = client.watch(WatchCreateRequest { start_revision: 4, ..on("k") }).await;
    for value in ["1", "2", "3", "4"] {
        client.put("k", value).await;
    }
    assert_eq!(lines(&stream.events(2).await), ["put k=3 @4", "put k=4 @5"]);
}

#[tokio::test]
async fn a_negative_start_revision_is_refused_as_compacted() {
    let (_server, client) = serve();
    if !client.has((3, 5, 24), "the refusal of a negative start revision").await {
        return;
    }
    let mut stream = client.watch_stream();
    let refused = stream.create(WatchCreateRequest { start_revision: -1, ..on("k") }).await;
    assert_eq!((refused.watch_id, refused.canceled, refused.compact_revision), (-1, true, 0));
    assert_eq!(refused.cancel_reason, COMPACTED);
    assert_eq!(stream.create(on("k")).await.watch_id, 0);
}

#[tokio::test]
async fn filters_drop_puts_or_deletes() {
    let (_server, client) = serve();
    let filtered = |filter: FilterType| WatchCreateRequest { filters: vec![filter.into()], ..on("k") };
    let mut deletes = client.watch(filtered(FilterType::Noput)).await;
    let mut only_puts = client.watch(filtered(FilterType::Nodelete)).await;
    client.put("k", "1").await;
    client.delete("k").await;
    client.put("k", "2").await;
    client.delete("k").await;
    assert_eq!(lines(&deletes.events(2).await), ["delete k @3", "delete k @5"]);
    assert_eq!(lines(&only_puts.events(2).await), ["put k=1 @2", "put k=2 @4"]);
    let history = WatchCreateRequest { start_revision: 1, ..filtered(FilterType::Noput) };
    assert_eq!(lines(&client.watch(history).await.events(2).await), ["delete k @3", "delete k @5"]);
}

#[tokio::test]
async fn all_events_of_one_revision_come_together() {
    let (_server, client) = serve();
    let mut stream = client.watch(on_all()).await;
    puts(&client, ["a", "b", "c"].map(String::from)).await;
    let response = stream.next().await;
    assert_eq!(lines(&response.events), ["put a=v @2", "put b=v @2", "put c=v @2"]);
    let all = DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    accepted("delete", client.try_delete(all).await);
    let response = stream.next().await;
    assert_eq!(lines(&response.events), ["delete a @3", "delete b @3", "delete c @3"]);

    let mut history = client.watch(WatchCreateRequest { start_revision: 1, ..on_all() }).await;
    assert_eq!(history.events(6).await.len(), 6);
}

#[tokio::test]
async fn a_revoked_lease_looks_like_a_delete() {
    let (_server, client) = serve();
    let lease = client.grant(600, 0).await;
    for key in ["b", "a"] {
        let put = PutRequest { key: key.into(), lease, ..Default::default() };
        accepted("put", client.try_put(put).await);
    }
    let mut stream = client.watch(on_all()).await;
    accepted("revoke", client.try_revoke(lease).await);
    assert_eq!(lines(&stream.next().await.events), ["delete a @4", "delete b @4"]);
}

#[tokio::test]
async fn a_compacted_start_cancels_the_watcher_with_the_revision_to_go_on_from() {
    let (_server, client) = serve();
    for value in ["1", "2", "3"] {
        client.put("k", value).await;
    }
    client.compact(3).await;
    let mut stream = client.watch_stream();
    let created = stream.create(WatchCreateRequest { start_revision: 2, ..on("k") }).await;
    assert!(!created.canceled, "first it is created, then it is cancelled");
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.compact_revision), (0, true, 3));
    assert_eq!((canceled.cancel_reason.as_str(), revision(&canceled.header)), ("", 0));
    assert!(canceled.events.is_empty());
    let mut at = client.watch(WatchCreateRequest { start_revision: 3, ..on("k") }).await;
    assert_eq!(lines(&at.events(2).await), ["put k=2 @3", "put k=3 @4"]);
    // The id stays in use until the client cancels it.
    let again = stream.create(WatchCreateRequest { watch_id: 1, ..on("k") }).await;
    assert_eq!(again.watch_id, 1);
}

#[tokio::test]
async fn a_tombstone_at_the_compact_revision_is_still_told() {
    let (_server, client) = serve();
    if !client.has((3, 5, 16), "a tombstone kept at the compact revision").await {
        return;
    }
    client.put("k", "1").await;
    let deleted = client.delete("k").await;
    client.compact(deleted).await;
    let mut stream = client.watch(WatchCreateRequest { start_revision: deleted, ..on("k") }).await;
    assert_eq!(lines(&stream.events(1).await), ["delete k @3"]);
}

#[tokio::test]
async fn a_watcher_that_is_up_to_date_outlives_compaction() {
    let (_server, client) = serve();
    let mut stream = client.watch(WatchCreateRequest { prev_kv: true, ..on("k") }).await;
    for value in ["1", "2"] {
        client.put("k", value).await;
    }
    stream.events(2).await;
    client.compact(3).await;
    client.put("k", "3").await;
    let events = stream.events(1).await;
    assert_eq!(line(&events[0]), "put k=3 @4");
    assert_eq!(&events[0].prev_kv.as_ref().expect("not compacted").value[..], b"2");
}

#[tokio::test]
async fn a_large_revision_comes_in_fragments_when_asked() {
    let (_server, client) = serve();
    // The deletion of 20 x 128 KiB, with the previous values: more than one response may hold.
    let value = vec![b'x'; 128 * 1024];
    for number in 0..20 {
        client.put(format!("k{number:02}"), value.clone()).await;
    }
    let mut live = client.watch(WatchCreateRequest { fragment: true, prev_kv: true, ..on_all() }).await;
    let mut whole = client.watch(WatchCreateRequest { prev_kv: true, ..on_all() }).await;
    let all = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let deleted = accepted("delete", client.try_delete(all).await);
    let at = revision(&deleted.header);
    let history = WatchCreateRequest { start_revision: at, fragment: true, prev_kv: true, ..on_all() };
    let mut history = client.watch(history).await;
    for stream in [&mut live, &mut history] {
        let mut keys = Vec::new();
        let mut fragments = Vec::new();
        while keys.len() < 20 {
            let response = stream.next().await;
            assert!(!response.events.is_empty() && revision(&response.header) == at);
            fragments.push(response.fragment);
            keys.extend(response.events.into_iter().map(|event| event.kv.expect("a kv").key));
        }
        assert!(keys.is_sorted() && keys.len() == 20);
        let (last, firsts) = fragments.split_last().expect("there were some");
        assert!(!firsts.is_empty() && firsts.iter().all(|fragment| *fragment) && !last, "{fragments:?}");
    }
    let response = whole.next().await;
    assert_eq!((response.events.len(), response.fragment), (20, false), "without asking it comes whole");
}

#[tokio::test]
async fn history_comes_in_bounded_batches_of_whole_revisions() {
    let (_server, client) = serve();
    for round in 0..25 {
        puts(&client, (0..100).map(|number| format!("{round:02}/{number:03}"))).await;
    }
    // 2,500 single puts more, so that there are more revisions than one batch may hold.
    let mut writers = Vec::new();
    for writer in 0..10 {
        let client = client.clone();
        writers.push(tokio::spawn(async move {
            for number in 0..120 {
                client.put(format!("w{writer}"), format!("{number}")).await;
            }
        }));
    }
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
    let mut stream = client.watch(WatchCreateRequest { start_revision: 2, ..on_all() }).await;
    let mut tape = Tape::from(2);
    let mut most = 0;
    while tape.next_revision < 2 + 25 + 1200 {
        let response = stream.next().await;
        most = most.max(tape.read(&response));
    }
    assert!(most <= 1000, "{most} revisions in one response");
    assert_eq!(tape.events, 2500 + 1200);
}

/// Reads the responses of one watcher over the whole key space, and checks that it gets every revision, in
/// order, once, and complete.
pub(crate) struct Tape {
    pub(crate) next_revision: i64,
    pub(crate) events: usize,
}

impl Tape {
    pub(crate) fn from(revision: i64) -> Tape {
        Tape { next_revision: revision, events: 0 }
    }

    /// Checks one response. Returns the number of revisions in it.
    pub(crate) fn read(&mut self, response: &WatchResponse) -> usize {
        assert!(!response.canceled && !response.created && !response.fragment, "{response:?}");
        let mut revisions: BTreeMap<i64, usize> = BTreeMap::new();
        let mut last = 0;
        for event in &response.events {
            let at = event.kv.as_ref().expect("an event carries a key").mod_revision;
            assert!(at >= last, "events of one response are in order");
            last = at;
            *revisions.entry(at).or_default() += 1;
            self.events += 1;
        }
        for at in revisions.keys() {
            assert_eq!(*at, self.next_revision, "no revision is skipped, repeated or split");
            self.next_revision += 1;
        }
        if let Some(last) = revisions.keys().last() {
            assert!(revision(&response.header) >= *last, "the header is not behind its events");
        }
        revisions.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_sees_every_revision_in_order_under_load() {
    let (_server, client) = serve();
    const WRITERS: usize = 6;
    const EACH: usize = 150;
    let last_revision = 1 + i64::try_from(WRITERS * EACH).expect("a few");
    let mut readers = Vec::new();
    for start in [0, 1, 1, 300] {
        let watching = client.clone();
        let mut stream = watching.watch(WatchCreateRequest { start_revision: start, ..on_all() }).await;
        readers.push(tokio::spawn(async move {
            let mut tape = Tape::from(if start == 0 { 2 } else { start.max(2) });
            while tape.next_revision <= last_revision {
                tape.read(&stream.next().await);
            }
        }));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = client.clone();
        writers.push(tokio::spawn(async move {
            for number in 0..EACH {
                match number % 5 {
                    0 => puts(&client, (0..3).map(|part| format!("{writer}/{part}"))).await,
                    1 => client.delete(format!("{writer}/0")).await,
                    _ => client.put(format!("{writer}/{}", number % 3), format!("{number}")).await,
                };
            }
        }));
    }
    // Watchers that are created under load and start in the past.
    for start in [1, 200] {
        let mut stream = client.watch(WatchCreateRequest { start_revision: start, ..on_all() }).await;
        readers.push(tokio::spawn(async move {
            let mut tape = Tape::from(start.max(2));
            while tape.next_revision <= last_revision {
                tape.read(&stream.next().await);
            }
        }));
    }
    for task in writers.into_iter().chain(readers) {
        soon("the load's end", task).await.expect("no reader or writer panics");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_lags_but_misses_nothing() {
    let (server, client) = serve();
    // The slow stream reads nothing until everything is written, which is far more than all buffers between
    // client and server can take.
    let mut slow = {
        let client = server.client();
        let create =
            WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(on_all())) };
        let (requests, outgoing) = tokio::sync::mpsc::channel(1);
        requests.send(create).await.expect("the receiver is here");
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let stream = accepted("watch", client.watches().watch(outgoing).await).into_inner();
        (requests, stream)
    };
    let created = accepted("created", soon("the created response", slow.1.message()).await);
    assert!(created.expect("the stream is open").created);
    let mut quick = client.watch(on_all()).await;
    let value = vec![b'v'; 32 * 1024];
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (client, value) = (client.clone(), value.clone());
        writers.push(tokio::spawn(async move {
            for _ in 0..150 {
                client.put(format!("{writer}"), value.clone()).await;
            }
        }));
    }
    let mut tape = Tape::from(2);
    while tape.next_revision <= 601 {
        tape.read(&quick.next().await);
    }
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
    let mut tape = Tape::from(2);
    while tape.next_revision <= 601 {
        let response = accepted("watch", soon("a late event", slow.1.message()).await);
        tape.read(&response.expect("the stream is open"));
    }
}

#[tokio::test]
async fn progress_is_told_when_asked_for() {
    let (_server, client) = serve();
    if !client.has((3, 5, 8), "manual progress in step with the events").await {
        return;
    }
    let mut stream = client.watch(on("k")).await;
    client.put("other", "x").await;
    stream.ask_progress().await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len(), revision(&progress.header)), (-1, 0, 2));
    assert!(!progress.created && !progress.canceled);
    // A progress notification is never ahead of the events that it covers.
    for round in 0..50 {
        let at = client.put("k", format!("{round}")).await;
        stream.ask_progress().await;
        let mut event_seen = false;
        loop {
            let response = stream.next().await;
            if response.watch_id == -1 {
                if revision(&response.header) >= at {
                    assert!(event_seen, "progress {at} came before its event");
                    break;
                }
            } else {
                event_seen |= response.events.iter().any(|event| line(event).ends_with(&format!("@{at}")));
            }
        }
    }
}

#[tokio::test]
async fn progress_is_not_told_while_a_watcher_waits_for_the_future() {
    let (_server, client) = serve();
    if !client.has((3, 5, 8), "manual progress in step with the events").await {
        return;
    }
    let mut stream = client.watch_stream();
    stream.ask_progress().await;
    stream.create(WatchCreateRequest { start_revision: 100, ..on("k") }).await;
    stream.ask_progress().await;
    // Neither request was answered: the next response is the creation of the second watcher.
    let created = stream.create(on("l")).await;
    assert_eq!(created.watch_id, 1);
    stream.cancel(0).await;
    assert!(stream.next().await.canceled);
    stream.ask_progress().await;
    assert_eq!(stream.next().await.watch_id, -1);
}

#[tokio::test]
async fn idle_watchers_are_told_of_progress_at_intervals() {
    let launch = Launch::subject().flag("experimental-watch-progress-notify-interval", "200ms");
    let (_server, client) = serve_with(launch);
    let mut stream = client.watch(WatchCreateRequest { progress_notify: true, ..on("k") }).await;
    client.put("other", "x").await;
    loop {
        let progress = stream.next().await;
        assert_eq!((progress.watch_id, progress.events.len()), (0, 0));
        if revision(&progress.header) == 2 {
            break;
        }
    }
}

#[tokio::test]
async fn an_unknown_request_is_ignored() {
    let (_server, client) = serve();
    let (requests, outgoing) = tokio::sync::mpsc::channel(4);
    requests.send(WatchRequest { request_union: None }).await.expect("the receiver is here");
    let create = watch_request::RequestUnion::CreateRequest(on("k"));
    requests.send(WatchRequest { request_union: Some(create) }).await.expect("the receiver is here");
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut stream = accepted("watch", client.watches().watch(outgoing).await).into_inner();
    let first = accepted("watch", soon("the created response", stream.message()).await);
    assert!(first.expect("the stream is open").created);
}

#[tokio::test]
async fn a_client_that_has_no_more_to_ask_is_still_told() {
    let (_server, client) = serve();
    let stream = client.watch(on("k")).await;
    let mut responses = stream.close_sending();
    for value in ["1", "2"] {
        let at = client.put("k", value).await;
        let response = soon("an event", responses.recv()).await.expect("the stream goes on");
        assert_eq!(lines(&accepted("watch", response).events), [format!("put k={value} @{at}")]);
    }
}

#[tokio::test]
async fn a_stopping_server_ends_its_watch_streams() {
    let (mut server, client) = serve();
    let mut stream = client.watch(on("k")).await;
    server.signal(rustix::process::Signal::TERM);
    // It is not defined how the stream ends, but the stream and the server must end.
    match stream.next_or_end().await {
        None => {}
        Some(Err(status)) => {
            assert!(
                matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal),
                "{status}"
            );
        }
        Some(Ok(response)) => panic!("an event out of nowhere: {response:?}"),
    }
    server.wait_for_end();
}

#[tokio::test]
async fn hundreds_of_watchers_are_all_told() {
    let (_server, client) = serve();
    let mut streams: Vec<WatchStream> = Vec::new();
    for _ in 0..5 {
        let mut stream = client.watch_stream();
        for number in 0..100 {
            let key = format!("k{number}");
            stream.create(WatchCreateRequest { key: key.into(), ..Default::default() }).await;
        }
        streams.push(stream);
    }
    puts(&client, (0..100).map(|number| format!("k{number}"))).await;
    for stream in &mut streams {
        let mut told = BTreeSet::new();
        while told.len() < 100 {
            let response = stream.next().await;
            assert_eq!(response.events.len(), 1);
            assert!(told.insert(response.watch_id), "each watcher is told once");
        }
    }
}

#[tokio::test]
async fn a_watcher_resumes_after_a_restart_where_it_was() {
    let (mut server, client) = serve();
    client.put("k", "1").await;
    client.put("k", "2").await;
    server.restart();
    let client = server.client();
    let mut stream = client.watch(WatchCreateRequest { start_revision: 3, ..on("k") }).await;
    client.put("k", "3").await;
    assert_eq!(lines(&stream.events(2).await), ["put k=2 @3", "put k=3 @4"]);
}

/// The events, with previous pairs, that one watcher of all keys gets from `start_revision` up to `last`.
async fn told_from(client: &Client, start_revision: i64, last: &str) -> Vec<String> {
    let mut stream = client.watch(WatchCreateRequest { start_revision, prev_kv: true, ..on_all() }).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|line: &String| !line.starts_with(last)) {
        let response = stream.next().await;
        if response.canceled {
            return vec![format!("canceled at {}", response.compact_revision)];
        }
        told.extend(response.events.iter().map(|event| {
            let before = event.prev_kv.as_ref().map(|kv| format!(", before {}", kv.mod_revision));
            line(event) + &before.unwrap_or_default()
        }));
    }
    told
}

/// Revision 4 changes a key several times. All these changes are sent until the compaction to it, and then
/// only the last, whether the records are in memory, on the disk, or removed.
#[tokio::test]
async fn a_watch_from_the_compacted_revision_is_the_same_after_a_restart() {
    let nested = |op: RequestOp| {
        let txn = TxnRequest { success: vec![op], ..Default::default() };
        RequestOp { request: Some(Request::RequestTxn(txn)) }
    };
    let delete_op = |key: &'static str| {
        let delete = DeleteRangeRequest { key: key.into(), ..Default::default() };
        RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    };
    let (mut server, client) = serve();
    client.put("a", "1").await;
    client.put("b", "1").await;
    // This is the only way in which one revision can change a key twice.
    let success =
        vec![nested(put_op("a", "2")), nested(put_op("c", "1")), nested(delete_op("a")), put_op("d", "1")];
    client.txn(TxnRequest { success, ..Default::default() }).await;
    client.put("a", "3").await;
    client.put("b", "2").await;
    client.put("last", "").await;
    assert_eq!(
        told_from(&client, 4, "put last").await,
        [
            "put a=2 @4, before 2",
            "put c=1 @4",
            "delete a @4, before 2",
            "put d=1 @4",
            "put a=3 @5",
            "put b=2 @6, before 3",
            "put last= @7"
        ]
    );
    accepted("compact", client.try_compact(4, true).await);
    for run in ["before a restart", "after it"] {
        let client = server.client();
        assert_eq!(told_from(&client, 3, "put last").await, ["canceled at 4"], "{run}");
        assert_eq!(
            told_from(&client, 4, "put last").await,
            ["put c=1 @4", "delete a @4", "put d=1 @4", "put a=3 @5", "put b=2 @6, before 3", "put last= @7"],
            "{run}"
        );
        assert_eq!(
            told_from(&client, 5, "put last").await,
            ["put a=3 @5", "put b=2 @6, before 3", "put last= @7"],
            "{run}"
        );
        server.stop();
        server.start();
    }
}
