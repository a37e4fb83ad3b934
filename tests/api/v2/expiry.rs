//! TTLs.

use super::{pair, subject, wire::Wire};
use crate::server::Launch;

#[test]
fn nodes_expire_and_watchers_are_told() {
    let server = subject();
    let mut wire = Wire::to(&server);
    let mut stream = Wire::to(&server);
    stream.send("GET", "/v2/keys/d?wait=true&recursive=true&stream=true", &[], "");
    assert_eq!(stream.head().status, 200);
    wire.ask("PUT", "/v2/keys/d?dir=true&ttl=1", None);
    wire.ask("PUT", "/v2/keys/d/file", Some("value=1"));
    let created = stream.chunk().expect("the directory");
    assert!(created.contains("\"ttl\":1"), "{created}");
    stream.chunk().expect("the file");
    let expired = stream.chunk().expect("the end");
    assert!(
        expired.starts_with(r#"{"action":"expire","node":{"key":"/d","dir":true,"modifiedIndex":6"#),
        "{expired}"
    );
    let gone = wire.ask("GET", "/v2/keys/d", None);
    assert_eq!((gone.status, gone.header("x-etcd-index")), (404, Some("6")));
}

/// A TTL is a time and not a duration: it goes on while no member runs.
#[test]
fn what_has_expired_while_the_server_was_down_goes_at_its_start() {
    let mut server = Launch::subject().flag("enable-v2", true).start();
    let mut wire = Wire::to(&server);
    wire.ask("PUT", "/v2/keys/k", Some("value=1&ttl=1"));
    wire.ask("PUT", "/v2/keys/stays", Some("value=1&ttl=1000"));
    server.kill();
    server.start();
    let mut wire = Wire::to(&server);
    let expired = wire.ask("GET", "/v2/keys/k?wait=true&waitIndex=6", None);
    assert!(expired.body.contains("\"action\":\"expire\""), "{expired:?}");
    assert_eq!(wire.ask("GET", "/v2/keys/stays", None).status, 200);
}

#[test]
fn expirations_look_like_those_of_etcd() {
    let Some(servers) = pair() else { return };
    let mut wires = servers.each_ref().map(Wire::to);
    for (method, target, form) in [
        ("PUT", "/v2/keys/k", Some("value=1&ttl=1")),
        ("PUT", "/v2/keys/k?prevExist=true", Some("refresh=true&ttl=1")),
        ("GET", "/v2/keys/k?wait=true&waitIndex=6", None),
        ("PUT", "/v2/keys/d", Some("dir=true&ttl=100")),
        ("PUT", "/v2/keys/d", Some("dir=true&ttl=1&prevExist=true")),
        ("PUT", "/v2/keys/d/e", Some("value=1")),
        ("GET", "/v2/keys/d/e?wait=true&waitIndex=10", None),
        ("GET", "/v2/keys/d", None),
        ("PUT", "/v2/keys/stays", Some("value=1&ttl=1")),
        ("PUT", "/v2/keys/stays", Some("value=1&ttl=&prevExist=true")),
        ("PUT", "/v2/keys/k", Some("value=1&ttl=1")),
        ("GET", "/v2/keys/k?wait=true&waitIndex=14", None),
        ("GET", "/v2/keys/stays", None),
    ] {
        let answers = wires.each_mut().map(|wire| wire.ask(method, target, form));
        let [ours, theirs] = answers.each_ref().map(|answer| answer.normal(true));
        assert_eq!(ours, theirs, "{method} {target} {form:?}");
    }
}
