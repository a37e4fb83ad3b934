//! Random requests to both servers, whose answers have to be equal.

use super::{
    pair,
    wire::{Wire, normal_body},
};
use crate::server::Server;

/// As many as fit a minute of a build for tests.
const REQUESTS: usize = 4000;

/// A generator of numbers that gives the same ones for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }

    fn path(&mut self) -> String {
        let names = ["a", "b", "a-", "_h", "c"];
        let depth = self.roll(4);
        let mut path: String = (0..depth).map(|_| format!("/{}", self.pick(&names))).collect();
        match self.roll(30) {
            0 => path.push('/'),
            1 => path = format!("/{path}"),
            2 => path += "/../b",
            3 => path += "/%e4%C3%A4%20",
            _ => {}
        }
        path
    }

    /// Method, target and form. Well-formed requests are more frequent than malformed ones.
    fn request(&mut self) -> (&'static str, String, Option<String>) {
        let method =
            self.pick(&["GET", "GET", "PUT", "PUT", "PUT", "PUT", "POST", "DELETE", "DELETE", "HEAD"]);
        let mut parameters = Vec::new();
        let offered: &[(&str, &[&str], usize)] = match method {
            "PUT" | "POST" => &[
                ("value", &["x", "y", "z", "", "%3Ca%26b%3E%22%5c", "%ff", "a+b"], 2),
                ("dir", &["true", "1", "false"], 6),
                ("ttl", &["1000", "100000", "", "x", "-1"], 6),
                ("prevExist", &["true", "false", "T", "x"], 4),
                ("prevValue", &["x", "y", ""], 5),
                ("prevIndex", &["4", "5", "6", "7", "0", "x", ""], 8),
                ("refresh", &["true", "false", "x"], 10),
                ("noValueOnSuccess", &["true", "x"], 12),
                ("wait", &["true", "false"], 40),
            ],
            "DELETE" => &[
                ("dir", &["true", "false"], 3),
                ("recursive", &["true", "false", "x"], 3),
                ("prevValue", &["x", "y", "z", ""], 5),
                ("prevIndex", &["4", "0", "x"], 8),
                ("wait", &["true"], 40),
            ],
            _ => &[
                ("recursive", &["true", "false", "2"], 3),
                ("sorted", &["true", "true", "x"], 3),
                ("quorum", &["true", "false", "x"], 6),
                ("stream", &["x"], 40),
                ("waitIndex", &["x"], 40),
            ],
        };
        for (name, values, one_in) in offered {
            if self.roll(*one_in) == 0 {
                parameters.push(format!("{name}={}", self.pick(values)));
            }
        }
        let path = self.path();
        let text = parameters.join("&");
        if matches!(method, "PUT" | "POST") && self.roll(8) > 0 {
            return (method, format!("/v2/keys{path}"), Some(text));
        }
        (method, format!("/v2/keys{path}?{text}"), None)
    }
}

#[test]
fn random_requests_are_answered_as_etcd_answers_them() {
    let Some(servers) = pair() else { return };
    for seed in 0..2 {
        let mut dice = Dice(seed);
        let mut wires = servers.each_ref().map(Wire::to);
        for number in 0..REQUESTS / 2 {
            let (method, target, form) = dice.request();
            let is_sorted = target.contains("sorted=true");
            let answers = wires.each_mut().map(|wire| wire.ask(method, &target, form.as_deref()));
            let [ours, theirs] = answers.each_ref().map(|answer| answer.normal(is_sorted));
            assert_eq!(ours, theirs, "seed {seed}, request {number}: {method} {target} {form:?}");
        }
        for mut wire in wires {
            wire.ask("DELETE", "/v2/keys/a?recursive=true", None);
        }
    }
}

/// Streams of both servers through a few hundred changes, and then the history.
#[test]
fn watchers_see_what_they_see_of_etcd() {
    const WATCHED: [(&str, bool); 7] = [
        ("", true),
        ("/a", true),
        ("/a", false),
        ("/b/c", true),
        ("/b/c", false),
        ("/_h", true),
        ("/a/_h/b", true),
    ];
    let Some(servers) = pair() else { return };
    let mut dice = Dice(7);
    let mut wires = servers.each_ref().map(Wire::to);
    for round in 0..4 {
        let mut streams: Vec<[Wire; 2]> = Vec::new();
        for (path, recursive) in WATCHED {
            let target = format!("/v2/keys{path}?wait=true&stream=true&recursive={recursive}");
            streams.push(servers.each_ref().map(|server| begin_stream(server, &target)));
        }
        let begin = index_of(&mut wires[0]);
        // Fewer than wait for a watcher that is not read.
        for _ in 0..60 {
            let (method, target, form) = dice.request();
            wires.iter_mut().for_each(|wire| drop(wire.ask(method, &target, form.as_deref())));
        }
        let changed = index_of(&mut wires[0]) - begin;
        // Every watcher sees its end.
        for (path, _) in WATCHED.iter().skip(1) {
            for wire in &mut wires {
                wire.ask("DELETE", &format!("/v2/keys{path}?recursive=true"), None);
                for parent in path.match_indices('/').skip(1).map(|(at, _)| &path[..at]) {
                    // A file in the way of the end.
                    wire.ask("DELETE", &format!("/v2/keys{parent}"), None);
                }
                let end = wire.ask("PUT", &format!("/v2/keys{path}"), Some(&format!("value=end-{round}")));
                assert!(end.body.contains(&format!("\"value\":\"end-{round}\"")), "{end:?}");
            }
        }
        let last = format!("value=last-{round}");
        let end = wires.each_mut().map(|wire| wire.ask("PUT", "/v2/keys/last", Some(&last)));
        assert_eq!(end[0].normal(true), end[1].normal(true));
        for ((path, recursive), streams) in WATCHED.iter().zip(&mut streams) {
            let end = match *path {
                "" => format!("\"value\":\"last-{round}\""),
                path => format!("\"key\":\"{path}\",\"value\":\"end-{round}\""),
            };
            let [ours, theirs] = streams.each_mut().map(|stream| events_until(stream, &end));
            assert_eq!(ours, theirs, "round {round}, {path:?} recursive={recursive}");
        }
        for _ in 0..40 {
            let (path, recursive) = WATCHED[dice.roll(WATCHED.len())];
            // Each key has an event after these: its end.
            let index = begin + dice.roll(changed as usize + 1) as u64;
            let target = format!("/v2/keys{path}?wait=true&recursive={recursive}&waitIndex={index}");
            let answers = wires.each_mut().map(|wire| wire.ask("GET", &target, None));
            let [ours, theirs] = answers.each_ref().map(|answer| answer.normal(true));
            assert_eq!(ours, theirs, "round {round}, {target}");
        }
    }
}

#[test]
fn a_history_that_is_gone_is_refused_as_by_etcd() {
    let Some(servers) = pair() else { return };
    let mut wires = servers.each_ref().map(Wire::to);
    for number in 0..1010 {
        for wire in &mut wires {
            wire.ask("PUT", "/v2/keys/k", Some(&format!("value={number}")));
        }
    }
    for target in [
        "/v2/keys/k?wait=true&waitIndex=7",
        "/v2/keys/k?wait=true&waitIndex=1",
        "/v2/keys/k?wait=true&waitIndex=14",
    ] {
        let answers = wires.each_mut().map(|wire| wire.ask("GET", target, None));
        let [ours, theirs] = answers.each_ref().map(|answer| answer.normal(true));
        assert_eq!(ours, theirs, "{target}");
    }
}

/// What has no random requests: paths, methods, and bodies that are no forms.
#[test]
fn odd_requests_are_refused_as_by_etcd() {
    let Some(servers) = pair() else { return };
    let mut wires = servers.each_ref().map(Wire::to);
    let form = "application/x-www-form-urlencoded";
    for (method, target, content_type, body) in [
        ("PATCH", "/v2/keys/a", "", ""),
        ("GET", "/v2/nothing", "", ""),
        ("GET", "/v2/stats/nothing", "", ""),
        ("PUT", "/v2/stats/self", "", ""),
        ("POST", "/v2/machines", "", ""),
        ("GET", "/v2/keys/a?x=%zz", "", ""),
        ("GET", "/v2/keys/a?x;y", "", ""),
        ("GET", "/v2/keys//a/./b/../c?q=1", "", ""),
        ("PUT", "/v2//keys/a", form, "value=1"),
        ("PUT", "/v2/keys/a", "text", "value=1"),
        ("PUT", "/v2/keys/a", "", "value=1"),
        ("PUT", "/v2/keys/a", ";;", "value=1"),
        ("PUT", "/v2/keys/a", "application/x-www-form-urlencoded; charset=utf-8", "value=3"),
        ("PUT", "/v2/keys/a?value=2", form, "value=1"),
        ("PUT", "/v2/keys/a", form, "value=%zz"),
        ("PUT", "/v2/keys/a", form, "value=1&ttl=99999999999"),
        ("DELETE", "/v2/keys?prevValue=x", "", ""),
        ("GET", "/v2/keys/a?waitIndex=", "", ""),
        ("GET", "/v2/members/nothing", "", ""),
        ("PATCH", "/v2/members", "", ""),
        ("POST", "/v2/members", form, "{}"),
        ("POST", "/v2/members", "application/json", ""),
        ("POST", "/v2/members", "application/json", "{}"),
        ("POST", "/v2/members", "application/json", r#"{"peerURLs":["ftp://a:1"]}"#),
        ("POST", "/v2/members", "application/json", r#"{"peerURLs":["http://a"]}"#),
        ("POST", "/v2/members", "application/json", r#"{"peerURLs":["http://a:1/b"]}"#),
        ("DELETE", "/v2/members/xyz", "", ""),
        ("DELETE", "/v2/members/77", "", ""),
        ("DELETE", "/v2/members", "", ""),
        ("PUT", "/v2/members/77", "application/json", r#"{"peerURLs":["http://a:1"]}"#),
        ("GET", "/v2/auth/users/nobody", "", ""),
        ("GET", "/v2/auth/users/a/b", "", ""),
        ("GET", "/v2/auth/nothing", "", ""),
        ("POST", "/v2/auth/users", "", ""),
        ("POST", "/v2/auth/enable", "", ""),
        ("PUT", "/v2/auth/enable", "", ""),
        ("DELETE", "/v2/auth/enable", "", ""),
        ("PUT", "/v2/auth/users/u", "", "{"),
        ("PUT", "/v2/auth/users/u", "", r#"{"user":"v"}"#),
    ] {
        let headers = match content_type {
            "" => Vec::new(),
            given => vec![("Content-Type", given.to_owned())],
        };
        let answers = wires.each_mut().map(|wire| wire.ask_with(method, target, &headers, body));
        let [ours, theirs] = answers.each_ref().map(|answer| answer.normal(true));
        assert_eq!(ours, theirs, "{method} {target} {content_type:?} {body}");
    }
}

fn begin_stream(server: &Server, target: &str) -> Wire {
    let mut wire = Wire::to(server);
    wire.send("GET", target, &[], "");
    assert_eq!(wire.head().status, 200, "{target}");
    wire
}

/// etcd shows a removal twice to a stream at the removed node; such repetitions are left out.
fn events_until(stream: &mut Wire, end: &str) -> Vec<String> {
    let mut events: Vec<String> = Vec::new();
    loop {
        let chunk = stream.chunk().expect("an event");
        for line in chunk.lines() {
            events.push(normal_body(line, true));
            if line.contains(end) {
                events.dedup();
                return events;
            }
        }
    }
}

fn index_of(wire: &mut Wire) -> u64 {
    let answer = wire.ask("GET", "/v2/keys", None);
    answer.header("x-etcd-index").and_then(|index| index.parse().ok()).expect("an index")
}
