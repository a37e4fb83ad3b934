//! Clients that do not behave: they do not finish what they begin, or send what nobody asked for.
//!
//! Each case is sent to the port of clients and to that of peers. What etcd does about some of them, nothing at
//! all, is not what is expected here.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use futures_util::StreamExt;

use crate::{
    client::accepted,
    http,
    pb::etcdserverpb::{
        PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, watch_request::RequestUnion,
    },
    raw::*,
    server::{Launch, PATIENCE, Server, serve_with, subject_is_retcd},
};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const HELLO: &str = "/retcd.peer.Peer/Hello";
const APPEND: &str = "/retcd.peer.Peer/Append";

const ENHANCE_YOUR_CALM: u32 = 11;

/// Connections that keep the server waiting, and what of it they have sent.
fn unfinished(port: u16, unary: &str) -> Vec<(&'static str, Raw)> {
    let block = call_block(unary);
    let headers = |flags| frame(HEADERS, flags, 1, &block);
    let with = |frames: &[u8]| [&greeting()[..], frames].concat();
    let cases: [(&str, Vec<u8>); 10] = [
        ("nothing", Vec::new()),
        ("half a preface", PREFACE[..12].to_vec()),
        ("a preface without settings", PREFACE.to_vec()),
        ("half a frame's header", with(&[0, 0, 8, PING])),
        ("half a ping", with(&frame(PING, 0, 0, &[0; 8])[..12])),
        ("half a frame of headers", with(&headers(END_HEADERS)[..30])),
        ("headers without their continuation", with(&headers(0))),
        ("half a frame of data", {
            with(&[headers(END_HEADERS), frame(DATA, 0, 1, &[0; 100])[..50].to_vec()].concat())
        }),
        ("half a head of HTTP/1", b"GET /health HTTP/1.1\r\nHost: a\r\n".to_vec()),
        (
            "half a body of HTTP/1",
            b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab".to_vec(),
        ),
    ];
    cases.into_iter().map(|(what, bytes)| (what, Raw::saying(port, &bytes))).collect()
}

#[test]
fn a_connection_that_keeps_the_server_waiting_is_closed() {
    if !subject_is_retcd() {
        return;
    }
    let server = Launch::subject().start();
    let mut waiting = Vec::new();
    for (port, unary) in [(server.client_port, RANGE), (server.peer_port, HELLO)] {
        waiting.extend(unfinished(port, unary));
        // Many of them are no different.
        waiting.extend((0..200).map(|_| ("nothing", Raw::silent(port))));
    }
    // Meanwhile others are only slow, or idle.
    let mut idle = [Raw::greeted(server.client_port), Raw::greeted(server.peer_port)];
    let slow = thread::spawn({
        let port = server.client_port;
        move || slow_upload(port)
    });
    let mut half_requests: Vec<(Raw, u32)> = Vec::new();
    for (port, unary, stream) in [(server.client_port, RANGE, WATCH), (server.peer_port, HELLO, APPEND)] {
        for path in [unary, stream] {
            let mut raw = Raw::greeted(port);
            let id = raw.open(path);
            raw.send(&frame(DATA, 0, id, &message(&[0; 1000])[..500])).expect("the server reads");
            half_requests.push((raw, id));
        }
        let mut raw = Raw::greeted(port);
        let id = raw.open(unary);
        half_requests.push((raw, id));
    }

    let start = Instant::now();
    for (what, raw) in &mut waiting {
        raw.closed(PATIENCE).unwrap_or_else(|error| panic!("after {what}: {error}"));
    }
    assert!(start.elapsed() > Duration::from_secs(5), "a client is given some time");
    for (raw, id) in &mut half_requests {
        raw.ended(*id, PATIENCE).expect("a call that is half sent ends");
    }
    slow.join().expect("no panic");
    // Those that owe nothing are still there.
    for (raw, path) in idle.iter_mut().zip([RANGE, HELLO]) {
        let id = raw.call(path, &[]);
        raw.ended(id, PATIENCE).expect("an idle connection is not closed");
    }
    assert!(http::get(server.client_port, "/health").body.contains("true"));
}

/// Puts a value that takes longer to arrive than a client may keep the server waiting.
fn slow_upload(port: u16) {
    let mut raw = Raw::greeted(port);
    let id = raw.open(PUT);
    let put = PutRequest { key: "slow".into(), value: vec![7; 60_000].into(), ..Default::default() };
    let body = message(&prost::Message::encode_to_vec(&put));
    // One frame with nearly all of it and a small last one, in pieces that have no regard for frames.
    let (most, last) = body.split_at(body.len() - 10);
    let frames: Vec<u8> = most.chunks(16_000).flat_map(|part| frame(DATA, 0, id, part)).collect();
    let frames = [frames, frame(DATA, END_STREAM, id, last)].concat();
    for piece in frames.chunks(frames.len() / 13) {
        raw.send(piece).expect("the server still reads");
        thread::sleep(Duration::from_secs(1));
    }
    let ended = raw.ended(id, PATIENCE).expect("a slow client is served");
    assert_eq!(ended.kind, HEADERS, "trailers");
}

/// Sends the same bytes until the server has had enough, and returns what it says.
fn flood(port: u16, first: &[u8], again: &[u8]) -> Closed {
    let mut raw = Raw::greeted(port);
    raw.send(first).expect("the server reads");
    let many = again.repeat(1000);
    let mut sender = raw.stream.try_clone().expect("a descriptor");
    let sender = thread::spawn(move || while io::Write::write_all(&mut sender, &many).is_ok() {});
    let closed = raw.closed(PATIENCE);
    // Otherwise a server that did not close the connection would keep this waiting.
    let _ = raw.stream.shutdown(std::net::Shutdown::Both);
    sender.join().expect("no panic");
    closed.expect("a flood ends")
}

#[tokio::test]
async fn a_flood_of_frames_ends_in_goaway() {
    if !subject_is_retcd() {
        return;
    }
    let (server, client) = serve_with(Launch::subject());
    client.put("k", "v").await;
    for (port, stream) in [(server.client_port, WATCH), (server.peer_port, APPEND)] {
        let open = frame(HEADERS, END_HEADERS, 1, &call_block(stream));
        let reset = [&open[..], &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat();
        let floods: [(&str, &[u8], Vec<u8>); 10] = [
            ("pings", &[], frame(PING, 0, 0, &[0; 8])),
            ("pings while a call is open", &open, frame(PING, 0, 0, &[0; 8])),
            ("answers to pings", &[], frame(PING, ACK, 0, &[0; 8])),
            ("settings", &[], frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
            ("answers to settings", &[], frame(SETTINGS, ACK, 0, &[])),
            ("empty data", &open, frame(DATA, 0, 1, &[])),
            ("priorities", &[], frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
            ("window updates", &[], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
            ("unknown frames", &[], frame(0xbe, 0, 0, &[])),
            ("resets", &reset, frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ];
        for (what, first, again) in floods {
            let closed = flood(port, first, &again);
            let text = if what.starts_with("pings") { "too_many_pings" } else { "too_many_frames" };
            match what {
                // Our HTTP/2 library has a word of its own for an answer that nobody asked for.
                "answers to settings" => assert!(closed.goaway.is_some(), "{what}: {closed:?}"),
                _ => assert_eq!(closed.goaway, Some((ENHANCE_YOUR_CALM, text.to_owned())), "{what}"),
            }
        }
        // A block of headers that does not end is none.
        let continuation = frame(CONTINUATION, 0, 1, &[]);
        let begun = frame(HEADERS, 0, 1, &call_block(stream));
        assert!(flood(port, &begun, &continuation).goaway.is_some());
    }
    client.put("k", "v").await;
}

/// As in gRPC for Go: the third ping that comes too soon is one too many.
#[test]
fn pings_are_allowed_as_often_as_the_flag_says() {
    let server = Launch::subject().flag("grpc-keepalive-min-time", "1ms").start();
    let mut raw = Raw::greeted(server.client_port);
    raw.open(WATCH);
    let ping = |raw: &mut Raw| {
        raw.send(&frame(PING, 0, 0, &[7; 8])).expect("the server reads");
        while !matches!(raw.read(PATIENCE).expect("the connection stays"), Frame { kind: PING, .. }) {}
    };
    for _ in 0..10 {
        ping(&mut raw);
        thread::sleep(Duration::from_millis(2));
    }
    let strict = Launch::subject().start();
    let mut raw = Raw::greeted(strict.client_port);
    raw.open(WATCH);
    let mut pings = 0;
    let goaway = loop {
        pings += 1;
        // The beginning of an answer allows one more than four.
        assert!(pings <= 5, "the connection is still open");
        raw.send(&frame(PING, 0, 0, &[7; 8])).expect("the server reads");
        let answer = loop {
            let frame = raw.read(PATIENCE).expect("an answer to the ping, or the reason of the end");
            if matches!(frame.kind, PING | GOAWAY) {
                break frame;
            }
        };
        if answer.kind == GOAWAY {
            break answer;
        }
    };
    assert!(pings >= 4, "three pings are allowed");
    assert_eq!(goaway.payload[4..8], ENHANCE_YOUR_CALM.to_be_bytes());
    assert_eq!(goaway.payload[8..], *b"too_many_pings");
}

/// The resident memory of the server in megabytes.
fn memory(server: &Server) -> f64 {
    http::metric(server, "process_resident_memory_bytes").expect("it is a metric") / 1e6
}

/// Opens streams that announce a message of 1 MiB and send eight bytes of it.
fn announce(port: u16, path: &str, streams: u32) -> Raw {
    let mut raw = Raw::greeted(port);
    let begin = [&[0, 0, 16, 0, 0][..], &[7; 8]].concat();
    for _ in 0..streams {
        let id = raw.open(path);
        raw.send(&frame(DATA, 0, id, &begin)).expect("the server reads");
    }
    // Whoever is answered was read up to here.
    let id = raw.call("/none/Such", &[]);
    raw.ended(id, PATIENCE).expect("an answer");
    raw
}

#[test]
fn memory_for_streams_that_never_finish_is_small_and_goes_back_to_the_system() {
    if !subject_is_retcd() {
        return;
    }
    let server = Launch::subject().start();
    let before = memory(&server);
    for (port, path) in [(server.client_port, PUT), (server.peer_port, HELLO)] {
        for _ in 0..3 {
            let connections: Vec<Raw> = (0..4).map(|_| announce(port, path, 3000)).collect();
            let grown = memory(&server) - before;
            assert!(grown < 200.0, "12000 streams that sent 8 bytes each take {grown} MB");
            drop(connections);
        }
        let deadline = Instant::now() + PATIENCE;
        while memory(&server) > before + 30.0 {
            assert!(Instant::now() < deadline, "{} MB are kept", memory(&server) - before);
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Watchers that are far behind and read nothing.
#[tokio::test]
async fn a_watcher_that_does_not_read_holds_little_memory() {
    const WATCHERS: u32 = 100;
    let (server, client) = serve_with(Launch::subject());
    let puts = (0..2000).map(|number| client.put(format!("k{number}"), vec![7; 4096]));
    futures_util::stream::iter(puts).buffer_unordered(64).collect::<Vec<_>>().await;
    let create = WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 2,
        ..Default::default()
    };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let create = message(&prost::Message::encode_to_vec(&create));
    let before = memory(&server);
    let watchers = (0..WATCHERS).map(|_| {
        let mut raw = Raw::greeted(server.client_port);
        let id = raw.open(WATCH);
        raw.send(&frame(DATA, 0, id, &create)).expect("the server reads");
        // The events begin, and nobody reads on.
        while raw.read(PATIENCE).expect("an answer").kind != DATA {}
        raw
    });
    let watchers: Vec<Raw> = watchers.collect();
    // Whoever reads is not held up.
    let mut reader = client.watch(WatchCreateRequest { key: "new".into(), ..Default::default() }).await;
    client.put("new", "v").await;
    reader.events(1).await;
    let grown = (memory(&server) - before) * 1000.0 / f64::from(WATCHERS);
    // Alone each takes about 60 KB. The checkpoint of what was put takes memory meanwhile, up to 25 MB.
    assert!(grown < 400.0, "each takes {grown} KB");
    drop(watchers);
}

#[tokio::test]
async fn calls_that_their_clients_give_up_count_as_cancelled() {
    if !subject_is_retcd() {
        return;
    }
    let (server, client) = serve_with(Launch::subject());
    client.put("k", "v").await;
    let count = |method: &str, code: &str| -> u64 {
        let body = http::get(server.client_port, "/metrics").body;
        let of = |line: &&str| {
            line.starts_with("grpc_server_handled_total")
                && line.contains(&format!("grpc_method=\"{method}\""))
                && line.contains(&format!("grpc_code=\"{code}\""))
        };
        body.lines()
            .find(of)
            .map_or(0, |line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
    };
    // Half a message, whose stream is reset, and whose connection is closed.
    for reset in [8, 0, 2] {
        let mut raw = Raw::greeted(server.client_port);
        let id = raw.open(RANGE);
        raw.send(&frame(DATA, 0, id, &message(&[0; 1000])[..500])).expect("the server reads");
        raw.send(&frame(RST_STREAM, 0, id, &[0, 0, 0, reset])).expect("the server reads");
        let id = raw.call("/none/Such", &[]);
        raw.ended(id, PATIENCE).expect("an answer");
        raw.open(PUT);
        let id = raw.call("/none/Such", &[]);
        raw.ended(id, PATIENCE).expect("an answer");
    }
    let deadline = Instant::now() + PATIENCE;
    while count("Put", "Canceled") < 3 {
        assert!(Instant::now() < deadline, "{}", http::get(server.client_port, "/metrics").body);
        tokio::task::yield_now().await;
    }
    assert_eq!((count("Range", "Canceled"), count("Put", "Canceled")), (3, 3));
    accepted("range", client.kv().range(RangeRequest { key: "k".into(), ..Default::default() }).await);
}

/// The value of one setting that the server announces.
fn setting(server: &Server, id: u8) -> Option<u32> {
    let mut raw = Raw::greeted(server.client_port);
    loop {
        let frame = raw.read(PATIENCE).expect("settings");
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            let mut settings = frame.payload.chunks(6);
            let value = settings.find(|setting| setting[..2] == [0, id])?;
            return Some(u32::from_be_bytes(value[2..].try_into().expect("four bytes")));
        }
    }
}

#[test]
fn a_connection_has_a_limit_of_streams_and_the_flag_sets_another() {
    if !subject_is_retcd() {
        return;
    }
    assert_eq!(setting(&Launch::subject().start(), 3), Some(10_000));
    assert_eq!(setting(&Launch::subject().flag("max-concurrent-streams", 20_000).start(), 3), Some(20_000));
    assert_eq!(setting(&Launch::subject().flag("max-concurrent-streams", 7).start(), 3), Some(7));
}
