//! The Watch service of a real node, without sockets.

use std::sync::Arc;

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::{
    apply::{Command, DeleteRange, Op, Put, Txn},
    config::Config,
    limits::{READ_STRIDE_RECORDS, WATCH_BATCH_REVS, WATCH_MERGED_FROM, WATCH_QUEUE},
    mvcc::Range,
    node::{self, Credentials, Running},
    pb::{
        etcdserverpb::{WatchCancelRequest, WatchProgressRequest},
        mvccpb::event::EventType,
    },
    telemetry::Metrics,
    types::LeaseId,
    watch::WatchHub,
};

type Requests = UnboundedReceiverStream<Result<WatchRequest, Status>>;

/// A node, and one client's stream.
struct Stage {
    node: Node,
    requests: Option<mpsc::UnboundedSender<Result<WatchRequest, Status>>>,
    call: Option<WatchCall<Requests>>,
    /// Responses that came with others and were not taken yet.
    inbox: VecDeque<WatchResponse>,
    running: Option<Running>,
    _data_dir: TempDir,
}

impl Stage {
    async fn set() -> Stage {
        let data_dir = TempDir::new().expect("there is a place for temporary files");
        let data_dir_flag = format!("--data-dir={}", data_dir.path().display());
        let config = Config::of_flags(&[&data_dir_flag, "--watch-progress-notify-interval=100ms"]);
        let metrics = Arc::new(Metrics::new(&config));
        let (running, node) = node::start(config, metrics);
        let (requests, call) = open(&node);
        Stage {
            node,
            requests: Some(requests),
            call: Some(call),
            inbox: VecDeque::new(),
            running: Some(running),
            _data_dir: data_dir,
        }
    }

    fn reopen(&mut self) {
        let (requests, call) = open(&self.node);
        self.requests = Some(requests);
        self.call = Some(call);
    }

    /// Writes one revision, and returns it.
    async fn write(&self, changes: &[(&str, Option<Bytes>)]) -> i64 {
        self.write_all(&[changes]).await
    }

    /// Writes a revision for each of `writes`, and returns the last one.
    async fn write_all(&self, writes: &[&[(&str, Option<Bytes>)]]) -> i64 {
        let session = self.node.session(Credentials::Nothing);
        let proposals = writes.iter().map(|changes| {
            let success = changes.iter().map(|(key, value)| change(key, value)).collect();
            session.propose(Command::Txn(Txn { success, ..Txn::default() }))
        });
        let mut last = 0;
        for outcome in join_all(proposals).await {
            let outcome = outcome.expect("the node takes it");
            outcome.result.expect("nothing speaks against it");
            last = outcome.rev.0;
        }
        last
    }

    /// Puts the numbers below `count` to `key`, and returns the last revision.
    async fn count(&self, key: &str, count: usize) -> i64 {
        let writes: Vec<_> =
            (0..count).map(|number| [(key, Some(Bytes::from(number.to_string())))]).collect();
        let writes: Vec<&[_]> = writes.iter().map(|write| &write[..]).collect();
        self.write_all(&writes).await
    }

    async fn compact(&self, rev: i64) {
        let outcome = self
            .node
            .session(Credentials::Nothing)
            .compact(Rev(rev), false)
            .await
            .expect("the node takes it");
        outcome.result.expect("there is something to compact");
    }

    async fn put(&self, key: &str, value: impl Into<Bytes>) -> i64 {
        self.write(&[(key, Some(value.into()))]).await
    }

    async fn delete(&self, key: &str) -> i64 {
        self.write(&[(key, None)]).await
    }

    fn ask(&self, request: RequestUnion) {
        let request = WatchRequest { request_union: Some(request) };
        let requests = self.requests.as_ref().expect("the client has not half-closed");
        requests.send(Ok(request)).expect("the call is there");
    }

    fn cancel(&self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    fn ask_progress(&self) {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    /// Creates a watcher, and returns its id.
    async fn create(&mut self, create: WatchCreateRequest) -> i64 {
        self.ask(RequestUnion::CreateRequest(create));
        let response = self.next().await;
        assert!(response.created && !response.canceled, "{response:?}");
        response.watch_id
    }

    async fn next(&mut self) -> WatchResponse {
        loop {
            if let Some(response) = self.inbox.pop_front() {
                return response;
            }
            match self.call.as_mut().expect("it is open").next().await.expect("the stream goes on") {
                Outgoing::Whole(response) => return response,
                Outgoing::Encoded(messages) => {
                    self.inbox.extend(crate::rpc::in_parts::decoded::<WatchResponse>(&messages))
                }
                Outgoing::InParts(message) => self.inbox.extend(message.decoded::<WatchResponse>().await),
            }
        }
    }

    /// Events of `watch_id` until one of revision `rev`, as `revision key value`.
    async fn read_to(&mut self, watch_id: i64, rev: i64) -> Vec<String> {
        let mut lines = Vec::new();
        let mut last = 0;
        while last < rev {
            let response = self.next().await;
            if response.watch_id == watch_id {
                for event in &response.events {
                    last = event.kv.as_ref().expect("an event has a key").mod_revision;
                    lines.push(line(event));
                }
                assert!(revision(&response) >= last, "the header is older than the events");
            }
        }
        lines
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.call = None;
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

fn change(key: &str, value: &Option<Bytes>) -> Op {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match value {
        Some(value) => Op::Put(Put::new(key, Some(value.clone()), Some(LeaseId::NONE), false)),
        None => Op::DeleteRange(DeleteRange { range: KeyRange::Point(key), prev_kv: false }),
    }
}

fn open(node: &Node) -> (mpsc::UnboundedSender<Result<WatchRequest, Status>>, WatchCall<Requests>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        sender,
        WatchCall::new(
            node.clone(),
            &node.session(Credentials::Nothing),
            UnboundedReceiverStream::new(receiver),
        ),
    )
}

fn on(key: &'static str, range_end: &'static str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from_static(key.as_bytes()),
        range_end: Bytes::from_static(range_end.as_bytes()),
        ..WatchCreateRequest::default()
    }
}

fn revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().expect("a response has a header").revision
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn line(event: &mvccpb::Event) -> String {
    let kv = event.kv.as_ref().expect("an event has a key");
    let prev = event.prev_kv.as_ref().map_or(String::new(), |prev| format!(" was {}", text(&prev.value)));
    match event.r#type() {
        EventType::Put => format!("{} {}={}{prev}", kv.mod_revision, text(&kv.key), text(&kv.value)),
        EventType::Delete => {
            assert_eq!((kv.create_revision, kv.version, kv.lease, kv.value.len()), (0, 0, 0, 0));
            format!("{} {} deleted{prev}", kv.mod_revision, text(&kv.key))
        }
    }
}

fn lines(response: &WatchResponse) -> Vec<String> {
    response.events.iter().map(line).collect()
}

#[tokio::test]
async fn creations_are_answered_in_order() {
    let mut stage = Stage::set().await;
    let rev = stage.put("a", "1").await;
    let creates = [
        on("a", ""),
        WatchCreateRequest { watch_id: 7, ..on("a", "b") },
        WatchCreateRequest { watch_id: 7, ..on("a", "b") },
        on("b", "a"),
        WatchCreateRequest { start_revision: -1, ..on("a", "") },
        on("", "\0"),
    ];
    for create in creates {
        stage.ask(RequestUnion::CreateRequest(create));
    }
    let expected = [
        (0, ""),
        (7, ""),
        (-1, "mvcc: duplicate watch ID provided on the WatchStream"),
        (-1, "mvcc: watcher range is empty"),
        (-1, "etcdserver: mvcc: required revision has been compacted"),
        (1, ""),
    ];
    for (id, reason) in expected {
        let response = stage.next().await;
        assert!(response.created);
        assert_eq!((response.watch_id, response.cancel_reason.as_str()), (id, reason));
        assert_eq!(response.canceled, id == -1);
        assert_eq!((revision(&response), response.compact_revision), (rev, 0));
    }
}

#[tokio::test]
async fn live_events_come_one_revision_at_a_time() {
    let mut stage = Stage::set().await;
    stage.put("a", "0").await;
    stage.create(WatchCreateRequest { prev_kv: true, ..on("a", "c") }).await;
    stage.write(&[("a", Some("1".into())), ("c", Some("1".into())), ("b", Some("1".into()))]).await;
    stage.delete("a").await;
    let response = stage.next().await;
    assert_eq!((revision(&response), lines(&response)), (3, vec!["3 a=1 was 0".into(), "3 b=1".into()]));
    let response = stage.next().await;
    assert_eq!((revision(&response), lines(&response)), (4, vec!["4 a deleted was 1".into()]));
}

/// The number of events in each response to a watcher, and the events.
async fn responses_of(stage: &mut Stage, watch_id: i64, rev: i64) -> (Vec<usize>, Vec<String>) {
    let (mut counts, mut seen) = (Vec::new(), Vec::new());
    loop {
        let response = stage.next().await;
        if response.watch_id == watch_id {
            counts.push(response.events.len());
            seen.extend(lines(&response));
            if revision(&response) >= rev {
                return (counts, seen);
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_is_behind_gets_several_revisions_in_a_message() {
    let mut stage = Stage::set().await;
    for (id, filters) in [(1, vec![]), (2, vec![FilterType::Nodelete.into()]), (3, vec![])] {
        let prev_kv = id == 3;
        stage.create(WatchCreateRequest { watch_id: id, filters, prev_kv, ..on("k", "") }).await;
    }
    let last = stage.count("k", WATCH_MERGED_FROM - 1).await;
    let (counts, _) = responses_of(&mut stage, 3, last).await;
    assert_eq!(counts, vec![1; WATCH_MERGED_FROM - 1], "a client that keeps up gets one revision at a time");

    // The deletion has fewer watchers, so what comes before it is a message, and what comes behind it.
    let first = stage.count("k", 5).await - 4;
    let deleted = stage.delete("k").await;
    let last = stage.count("k", 12).await;
    let put = |rev: i64, from: i64| format!("{rev} k={}", rev - from);
    let behind = deleted + 1;
    let expected: Vec<String> = (first..deleted)
        .map(|rev| put(rev, first))
        .chain([format!("{deleted} k deleted")])
        .chain((behind..=last).map(|rev| put(rev, behind)))
        .collect();
    let mut seen: [(Vec<usize>, Vec<String>); 4] = Default::default();
    while seen[3].1.len() < expected.len() {
        let response = stage.next().await;
        let (counts, events) = &mut seen[response.watch_id as usize];
        counts.push(response.events.len());
        events.extend(lines(&response));
    }
    assert_eq!(seen[1], (vec![5, 1, 6, 6], expected.clone()));
    let puts: Vec<String> = expected.iter().filter(|line| !line.contains("deleted")).cloned().collect();
    assert_eq!(seen[2], (vec![5, 6, 6], puts));
    let with_prev = &seen[3].1;
    assert_eq!(with_prev[5], format!("{deleted} k deleted was 4"));
    assert_eq!(with_prev[7], format!("{} k=1 was 0", behind + 1));
}

#[tokio::test]
async fn filters_hold_live_and_in_history() {
    let mut stage = Stage::set().await;
    stage.put("a", "1").await;
    stage.delete("a").await;
    for (id, filter) in [(1, FilterType::Noput), (2, FilterType::Nodelete)] {
        let filters = vec![filter.into()];
        stage.create(WatchCreateRequest { watch_id: id, start_revision: 1, filters, ..on("a", "") }).await;
    }
    assert_eq!(stage.read_to(1, 3).await, ["3 a deleted"]);
    assert_eq!(stage.read_to(2, 2).await, ["2 a=1"]);
    stage.put("a", "2").await;
    stage.delete("a").await;
    let first = stage.next().await;
    let second = stage.next().await;
    assert_eq!((first.watch_id, lines(&first)), (2, vec!["4 a=2".into()]));
    assert_eq!((second.watch_id, lines(&second)), (1, vec!["5 a deleted".into()]));
}

#[tokio::test]
async fn history_is_caught_up_with_in_whole_and_joins_the_present() {
    let mut stage = Stage::set().await;
    stage.count("k", 2500).await;
    let was = |number| if number == 0 { String::new() } else { format!(" was {}", number - 1) };
    let mut expected: Vec<String> =
        (0..2500).map(|number| format!("{} k={number}{}", number + 2, was(number))).collect();
    stage.create(WatchCreateRequest { start_revision: 1, prev_kv: true, ..on("k", "") }).await;
    let response = stage.next().await;
    assert_eq!((response.events.len(), revision(&response)), (WATCH_BATCH_REVS, 2501));
    let mut seen = lines(&response);
    // Written while the watcher catches up.
    stage.put("other", "x").await;
    let last = stage.put("k", "last").await;
    expected.push(format!("{last} k=last was 2499"));
    seen.extend(stage.read_to(0, last).await);
    assert_eq!(seen, expected);
    let live = stage.put("k", "live").await;
    assert_eq!(revision(&stage.next().await), live);
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_nothing() {
    let mut stage = Stage::set().await;
    for id in 1..=3 {
        stage.create(WatchCreateRequest { watch_id: id, ..on("k", "") }).await;
    }
    stage.create(WatchCreateRequest { watch_id: 4, ..on("quiet", "") }).await;
    stage.count("k", 3 * WATCH_QUEUE).await;
    let expected: Vec<String> =
        (0..3 * WATCH_QUEUE).map(|number| format!("{} k={number}", number + 2)).collect();
    let last = stage.put("quiet", "x").await;
    let mut seen = [const { Vec::new() }; 5];
    while seen.iter().map(Vec::len).sum::<usize>() < 3 * expected.len() + 1 {
        let response = stage.next().await;
        seen[response.watch_id as usize].extend(lines(&response));
    }
    for (id, seen) in seen.iter().enumerate().take(4).skip(1) {
        assert_eq!(*seen, expected, "of watcher {id}");
    }
    assert_eq!(seen[4], [format!("{last} quiet=x")]);
}

#[tokio::test]
async fn many_laggards_walk_together_with_the_living() {
    let mut stage = Stage::set().await;
    let last = stage.count("k", 1500).await;
    for id in 1..=100 {
        stage.ask(RequestUnion::CreateRequest(WatchCreateRequest {
            watch_id: id,
            start_revision: if id == 100 { 0 } else { 2 + 15 * id },
            ..on("k", "")
        }));
    }
    let mut next = [0; 101];
    let mut done = 0;
    let mut live = 0;
    while done < 100 {
        let response = stage.next().await;
        let id = response.watch_id;
        if response.created {
            next[id as usize] = if id == 100 { last + 1 } else { 2 + 15 * id };
            if id == 100 {
                live = stage.put("k", "live").await;
            }
        }
        for event in &response.events {
            let rev = event.kv.as_ref().expect("an event has a key").mod_revision;
            assert_eq!(rev, next[id as usize], "of watcher {id}");
            next[id as usize] += 1;
            done += usize::from(rev == live);
        }
    }
}

#[tokio::test]
async fn compacted_history_ends_the_watcher_but_not_the_stream() {
    let mut stage = Stage::set().await;
    stage.count("k", 9).await;
    stage.compact(6).await;
    let id = stage.create(WatchCreateRequest { start_revision: 5, watch_id: 3, ..on("k", "") }).await;
    let response = stage.next().await;
    assert_eq!((response.watch_id, response.canceled, response.compact_revision), (id, true, 6));
    assert_eq!((revision(&response), response.cancel_reason.as_str()), (0, ""));
    // The id stays in use until the client cancels it.
    stage.ask(RequestUnion::CreateRequest(WatchCreateRequest { watch_id: 3, ..on("k", "") }));
    assert!(stage.next().await.canceled);
    stage.cancel(3);
    let response = stage.next().await;
    assert_eq!((response.watch_id, response.canceled, response.compact_revision), (3, true, 0));
    assert_eq!(revision(&response), 10);
    stage.create(WatchCreateRequest { start_revision: 6, watch_id: 3, ..on("k", "") }).await;
    assert_eq!(stage.read_to(3, 10).await.len(), 5);
}

#[tokio::test]
async fn a_cancelled_watcher_falls_silent() {
    let mut stage = Stage::set().await;
    stage.create(on("k", "")).await;
    stage.create(on("k", "l")).await;
    stage.put("k", "1").await;
    stage.cancel(0);
    stage.cancel(5);
    let response = stage.next().await;
    assert_eq!((response.watch_id, response.canceled, revision(&response)), (0, true, 2));
    assert_eq!(response.cancel_reason, "");
    let response = stage.next().await;
    assert_eq!((response.watch_id, lines(&response)), (1, vec!["2 k=1".into()]));
    // The same holds while the watcher catches up, whether history is being read for it or not yet.
    let last = stage.count("other", 2500).await;
    for (id, start_revision) in [(8, 2), (9, 2), (10, last)] {
        let create = WatchCreateRequest { watch_id: id, start_revision, ..on("", "\0") };
        stage.ask(RequestUnion::CreateRequest(create));
    }
    stage.cancel(9);
    stage.cancel(10);
    let mut cancelled = Vec::new();
    while cancelled.len() < 2 {
        let response = stage.next().await;
        assert!(!cancelled.contains(&response.watch_id));
        if response.canceled {
            cancelled.push(response.watch_id);
        }
    }
    stage.cancel(8);
    while !stage.next().await.canceled {}
    for _ in 0..5 {
        stage.put("k", "2").await;
        assert_eq!(stage.next().await.watch_id, 1);
    }
}

#[tokio::test]
async fn history_and_the_present_take_turns() {
    let mut stage = Stage::set().await;
    stage.create(WatchCreateRequest { watch_id: 1, ..on("k", "") }).await;
    stage.count("k", WATCH_QUEUE).await;
    stage.create(WatchCreateRequest { watch_id: 2, start_revision: 2, ..on("k", "") }).await;
    let ids = [stage.next().await.watch_id, stage.next().await.watch_id, stage.next().await.watch_id];
    assert!(ids.contains(&1) && ids.contains(&2), "{ids:?}");
}

#[tokio::test]
async fn the_hub_forgets_a_stream_that_ends() {
    let mut stage = Stage::set().await;
    stage.create(on("k", "")).await;
    assert_eq!(stage.node.state().watchers, 1);
    stage.call = None;
    assert_eq!(stage.node.state().watch_streams, 0);
    assert_eq!(stage.node.state().watchers, 0);
}

#[tokio::test]
async fn a_previous_value_that_nobody_asked_for_in_time_is_looked_up() {
    let mut stage = Stage::set().await;
    stage.put("k", "1").await;
    let rev = stage.put("k", "2").await;
    // As if the watcher had been created after the event was applied and before it was published.
    let key = Range::of(KeyRange::Point("k".into()));
    let mut read = stage.node.session(Credentials::Nothing).range(&key).await.expect("it is there");
    let events = [Event { kind: EventKind::Put, kv: read.result.kvs.remove(0), prev_kv: None }];
    let mut hub = WatchHub::new(Rev(rev - 1));
    let mut feed = hub.open_stream(1);
    let spec = WatcherSpec {
        id: 0,
        range: KeyRange::all(),
        start_rev: 0,
        no_put: false,
        no_delete: false,
        prev_kv: true,
        progress_notify: false,
        fragment: false,
    };
    hub.create(&mut feed, spec).expect("0 is free");
    hub.publish(Rev(rev), Arc::new(events.into_iter().collect()));
    let delivery = feed.recv().await.expect("it is published");
    stage.call.as_mut().expect("it is open").delivery(delivery);
    assert_eq!(lines(&stage.next().await), ["3 k=2 was 1"]);
}

#[test]
fn the_empty_key_stands_for_the_first() {
    let first = Bytes::from_static(b"\0");
    assert_eq!(range(Bytes::new(), Bytes::new()), KeyRange::Point(first.clone()));
    assert_eq!(range(Bytes::new(), first.clone()), KeyRange::From(first));
}

#[tokio::test]
async fn progress_is_told_when_asked_and_when_due() {
    let mut stage = Stage::set().await;
    stage.put("k", "1").await;
    // There is no watcher; then there is one that has not caught up.
    stage.ask_progress();
    stage.ask(RequestUnion::CreateRequest(WatchCreateRequest { start_revision: 1, ..on("k", "") }));
    stage.ask_progress();
    assert!(stage.next().await.created);
    assert_eq!(lines(&stage.next().await), ["2 k=1"]);
    stage.ask_progress();
    let response = stage.next().await;
    assert_eq!((response.watch_id, revision(&response), response.events.len()), (-1, 2, 0));
    assert!(!response.created && !response.canceled);

    let id = stage.create(WatchCreateRequest { progress_notify: true, ..on("other", "") }).await;
    let response = stage.next().await;
    assert_eq!((response.watch_id, revision(&response), response.events.len()), (id, 2, 0));
    assert!(!response.created && !response.canceled);
}

#[tokio::test]
async fn large_responses_come_in_fragments_for_those_who_ask() {
    let mut stage = Stage::set().await;
    // Two events, which are too large for one fragment together with what their keys held before.
    let value = Some(Bytes::from(vec![b'x'; 700_000]));
    let mut rev = 0;
    for _ in 0..2 {
        rev = stage.write(&[("k", value.clone()), ("l", value.clone())]).await;
    }
    for fragment in [false, true] {
        stage.reopen();
        let create = WatchCreateRequest { start_revision: rev, prev_kv: true, fragment, ..on("", "\0") };
        stage.create(create).await;
        let mut parts = Vec::new();
        let mut revisions = Vec::new();
        while revisions.len() < 2 {
            let part = stage.next().await;
            assert_eq!((part.watch_id, revision(&part)), (0, rev));
            revisions.extend(part.events.iter().map(|event| event.kv.as_ref().expect("a key").mod_revision));
            parts.push((part.events.len(), part.fragment));
        }
        assert_eq!(revisions, [rev, rev]);
        let expected: &[(usize, bool)] = if fragment { &[(1, true), (1, false)] } else { &[(2, false)] };
        assert_eq!(parts, expected);
    }
}

/// Live and from history; with previous pairs that were applied before anybody asked for them; in fragments.
#[tokio::test]
async fn a_revision_with_many_events_is_sent_in_parts_and_is_the_same() {
    const KEYS: usize = 40;
    let mut stage = Stage::set().await;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("k{number:02}")).collect();
    let puts: Vec<_> =
        keys.iter().map(|key| (key.as_str(), Some(Bytes::from(vec![b'x'; 100_000])))).collect();
    // As many as fit a request.
    let puts: Vec<&[_]> = puts.chunks(10).collect();
    stage.write_all(&puts).await;
    let deletes: Vec<_> = keys.iter().map(|key| (key.as_str(), None)).collect();
    for (is_live, prev_kv, fragment) in [false, true]
        .into_iter()
        .flat_map(|live| [false, true].into_iter().map(move |prev| (live, prev)))
        .flat_map(|(live, prev)| [false, true].into_iter().map(move |fragment| (live, prev, fragment)))
    {
        stage.reopen();
        let create = WatchCreateRequest { prev_kv, fragment, ..on("k", "l") };
        let rev = if is_live {
            stage.create(create).await;
            stage.write(&deletes).await
        } else {
            let rev = stage.write(&deletes).await;
            stage.create(WatchCreateRequest { start_revision: rev, ..create }).await;
            rev
        };
        let mut parts = Vec::new();
        while parts.last().is_none_or(|part: &WatchResponse| part.fragment) {
            parts.push(stage.next().await);
        }
        assert_eq!(parts.len() > 1, prev_kv && fragment, "4 MB are more than a fragment");
        assert!(parts.iter().all(|part| part.watch_id == 0 && revision(part) == rev && !part.canceled));
        let bytes_max = 1_572_864 + REQUEST_OVERHEAD_BYTES;
        assert!(!fragment || parts.iter().all(|part| part.encoded_len() < bytes_max));
        let events: Vec<&mvccpb::Event> = parts.iter().flat_map(|part| &part.events).collect();
        assert_eq!(events.len(), KEYS);
        for (event, key) in events.into_iter().zip(&keys) {
            let kv = event.kv.as_ref().expect("an event has a key");
            assert_eq!(
                (event.r#type(), text(&kv.key), kv.mod_revision),
                (EventType::Delete, key.clone(), rev)
            );
            let prev = event.prev_kv.as_ref().map(|prev| (text(&prev.key), prev.value.len()));
            assert_eq!(prev, prev_kv.then(|| (key.clone(), 100_000)));
        }
        stage.write_all(&puts).await;
    }
}

/// Other tasks of the reactor get their turn while such a revision is counted.
#[tokio::test]
async fn a_stream_with_many_events_yields() {
    const KEYS: usize = 3000;
    let mut stage = Stage::set().await;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("k{number:04}")).collect();
    let puts: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(Bytes::from("v")))).collect();
    for is_live in [true, false] {
        stage.reopen();
        let rev = stage.write(&puts).await;
        stage
            .create(WatchCreateRequest { start_revision: if is_live { 0 } else { rev }, ..on("k", "l") })
            .await;
        if is_live {
            stage.write(&puts).await;
        }
        let mut next = std::pin::pin!(stage.call.as_mut().expect("it is open").next());
        let mut polls = 0;
        let outgoing = std::future::poll_fn(|context| {
            polls += 1;
            next.as_mut().poll(context)
        });
        let Ok(Outgoing::InParts(message)) = outgoing.await else { panic!("many events are sent in parts") };
        assert!(polls > KEYS / READ_STRIDE_RECORDS, "{polls}");
        let responses = message.decoded::<WatchResponse>().await;
        assert_eq!(responses.iter().map(|response| response.events.len()).collect::<Vec<_>>(), [KEYS]);
    }
}

#[tokio::test]
async fn a_half_closed_stream_goes_on() {
    let mut stage = Stage::set().await;
    stage.create(on("k", "")).await;
    stage.requests = None;
    let rev = stage.put("k", "1").await;
    assert_eq!(revision(&stage.next().await), rev);
}

#[tokio::test]
async fn a_server_that_stops_says_so() {
    let mut stage = Stage::set().await;
    stage.create(on("k", "")).await;
    stage.running.as_ref().expect("it runs").announce_stop();
    let end = stage.call.as_mut().expect("it is open").next().await.err().expect("the stream ends");
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: server stopped"));
}

#[test]
fn an_event_larger_than_a_fragment_still_passes() {
    let event = |bytes| mvccpb::Event {
        kv: Some(mvccpb::KeyValue { value: vec![0; bytes].into(), ..mvccpb::KeyValue::default() }),
        ..mvccpb::Event::default()
    };
    let response = WatchResponse {
        events: vec![event(10), event(2000), event(10), event(10)],
        ..WatchResponse::default()
    };
    let parts = fragments(response, 1000);
    let sizes: Vec<usize> = parts.iter().map(|part| part.events.len()).collect();
    assert_eq!(sizes, [1, 1, 2]);
    let open: Vec<bool> = parts.iter().map(|part| part.fragment).collect();
    assert_eq!(open, [true, true, false]);
}

#[test]
fn the_sum_of_the_parts_is_known_without_encoding_them() {
    for bytes in [0, 100, 127, 128, 20_000] {
        let event = mvccpb::Event {
            kv: Some(mvccpb::KeyValue { value: vec![0; bytes].into(), ..mvccpb::KeyValue::default() }),
            ..mvccpb::Event::default()
        };
        let response = WatchResponse { events: vec![event.clone()], ..WatchResponse::default() };
        assert_eq!(rope::event_bytes(&event), response.encoded_len());
    }
}
