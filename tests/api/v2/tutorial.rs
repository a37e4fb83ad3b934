//! The lines of a tutorial, typed with curl.

use std::process::Command;

use super::subject;
use crate::server::Launch;

/// `curl` with these arguments after its address; prints the body and the status.
fn curl(endpoint: &str, path: &str, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-s", "-L", "-w", "%{http_code}"])
        .arg(format!("http://{endpoint}{path}"))
        .args(arguments)
        .output()
        .expect("curl is installed");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_lines_of_a_tutorial_work() {
    let server = subject();
    let endpoint = server.endpoint();
    let curl = |path: &str, arguments: &[&str]| curl(&endpoint, path, arguments);
    for (path, arguments, expected) in [
        (
            "/v2/keys/message",
            &["-XPUT", "-d", "value=Hello"][..],
            r#"{"action":"set","node":{"key":"/message","value":"Hello","modifiedIndex":4,"createdIndex":4}}"#,
        ),
        (
            "/v2/keys/message",
            &[],
            r#"{"action":"get","node":{"key":"/message","value":"Hello","modifiedIndex":4,"createdIndex":4}}"#,
        ),
        (
            "/v2/keys/message",
            &["-XPUT", "-d", "value=Hi", "-d", "prevValue=Hello"],
            r#"{"action":"compareAndSwap","node":{"key":"/message","value":"Hi","modifiedIndex":5,"createdIndex":4},"prevNode":{"key":"/message","value":"Hello","modifiedIndex":4,"createdIndex":4}}"#,
        ),
        (
            "/v2/keys/message?prevExist=false",
            &["-XPUT", "-d", "value=x"],
            r#"{"errorCode":105,"message":"Key already exists","cause":"/message","index":5}"#,
        ),
        (
            "/v2/keys/message?prevIndex=4",
            &["-XPUT", "-d", "value=x"],
            r#"{"errorCode":101,"message":"Compare failed","cause":"[4 != 5]","index":5}"#,
        ),
        (
            "/v2/keys/message",
            &["-XDELETE"],
            r#"{"action":"delete","node":{"key":"/message","modifiedIndex":6,"createdIndex":4},"prevNode":{"key":"/message","value":"Hi","modifiedIndex":5,"createdIndex":4}}"#,
        ),
        (
            "/v2/keys/queue",
            &["-XPOST", "-d", "value=Job1"],
            r#"{"action":"create","node":{"key":"/queue/00000000000000000007","value":"Job1","modifiedIndex":7,"createdIndex":7}}"#,
        ),
        (
            "/v2/keys/queue?recursive=true&sorted=true",
            &[],
            r#"{"action":"get","node":{"key":"/queue","dir":true,"nodes":[{"key":"/queue/00000000000000000007","value":"Job1","modifiedIndex":7,"createdIndex":7}],"modifiedIndex":7,"createdIndex":7}}"#,
        ),
        (
            "/v2/keys/dir",
            &["-XPUT", "-d", "dir=true"],
            r#"{"action":"set","node":{"key":"/dir","dir":true,"modifiedIndex":8,"createdIndex":8}}"#,
        ),
        (
            "/v2/keys/queue?dir=true",
            &["-XDELETE"],
            r#"{"errorCode":108,"message":"Directory not empty","cause":"/queue","index":8}"#,
        ),
        (
            "/v2/keys/message?wait=true&waitIndex=4",
            &[],
            r#"{"action":"set","node":{"key":"/message","value":"Hello","modifiedIndex":4,"createdIndex":4}}"#,
        ),
    ] {
        let said = curl(path, arguments);
        assert!(said.starts_with(expected), "{path} {arguments:?}:\n{said}");
    }
    let own = curl("/v2/stats/self", &[]);
    assert!(own.contains(r#""state":"StateLeader""#) && own.contains(r#""leaderInfo":{"leader":""#), "{own}");
    let leader = curl("/v2/stats/leader", &[]);
    assert!(leader.contains(r#","followers":{}}"#), "{leader}");
    let store = curl("/v2/stats/store", &[]);
    assert!(store.contains(r#""compareAndSwapSuccess":1,"compareAndSwapFail":1"#), "{store}");
}

#[test]
fn without_the_flag_the_answer_names_it() {
    let server = Launch::subject().start();
    for path in ["/v2/keys/a", "/v2", "/v2/stats/self"] {
        let said = curl(&server.endpoint(), path, &[]);
        assert_eq!(
            said, "404 page not found: the version 2 API is disabled; --enable-v2=true enables it\n404",
            "{path}"
        );
    }
}
