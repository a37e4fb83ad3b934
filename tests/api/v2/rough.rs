//! Requests that are too large, too deep or too long.

use super::{pair, subject, wire::Wire};

const FORM: &str = "application/x-www-form-urlencoded";

#[test]
fn a_form_that_is_too_large_is_refused_as_by_etcd() {
    let Some(servers) = pair() else { return };
    let form = format!("value={}", "v".repeat(10 * 1024 * 1024));
    let [ours, theirs] =
        servers.each_ref().map(|server| Wire::to(server).ask("PUT", "/v2/keys/k", Some(&form)).normal(true));
    assert_eq!(ours, theirs);
    assert!(ours.contains("\"errorCode\":210") && ours.contains("http: POST too large"), "{ours}");
}

#[test]
fn what_is_out_of_bounds_is_refused_and_the_server_goes_on() {
    let server = subject();
    let nested = format!("{{\"user\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let long = format!("/v2/keys/{}", "k".repeat(5000));
    let deep = format!("/v2/keys{}", "/k".repeat(200));
    let large = format!("value={}", "v".repeat(2 * 1024 * 1024));
    for (method, target, content_type, body, status, said) in [
        ("PUT", "/v2/auth/users/u", "", nested.as_str(), 400, "Invalid JSON in request body."),
        ("PUT", "/v2/auth/users/u", "", "[1", 400, "Invalid JSON in request body."),
        ("PUT", "/v2/auth/users/u", "", r#"{"user":1}"#, 400, "Invalid JSON in request body."),
        ("PUT", long.as_str(), FORM, "value=1", 400, "\"errorCode\":210"),
        ("PUT", deep.as_str(), FORM, "value=1", 400, "\"errorCode\":210"),
        ("GET", deep.as_str(), "", "", 400, "\"errorCode\":210"),
        ("PUT", "/v2/keys/k", FORM, large.as_str(), 500, "etcdserver: request is too large"),
        ("PUT", "/v2/keys/k", FORM, "value=%f", 400, "invalid URL escape"),
        ("PUT", "/v2/keys/k", FORM, "value=1", 201, "\"action\":\"set\""),
    ] {
        let headers = match content_type {
            "" => Vec::new(),
            given => vec![("Content-Type", given.to_owned())],
        };
        let answer = Wire::to(&server).ask_with(method, target, &headers, body);
        assert_eq!(answer.status, status, "{method} {target:.40}: {answer:?}");
        assert!(answer.body.contains(said), "{method} {target:.40}: {answer:?}");
    }
}

/// A body that nobody looks at does not cost the connection.
#[test]
fn a_connection_outlives_bodies_that_are_not_wanted() {
    let server = subject();
    let mut wire = Wire::to(&server);
    for number in 0..50 {
        for (method, target, content_type, status) in [
            ("PUT", "/v2//keys/k", FORM, 301),
            ("POST", "/v2/machines", FORM, 405),
            ("PUT", "/v2/keys/k", "text/plain", if number == 0 { 201 } else { 200 }),
            ("DELETE", "/v2/keys/nothing", FORM, 404),
            ("POST", "/v2/members", FORM, 415),
        ] {
            let headers = [("Content-Type", content_type.to_owned())];
            let answer = wire.ask_with(method, target, &headers, "value=1");
            assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        }
    }
}
