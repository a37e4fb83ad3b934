//! Users, roles and basic authentication, compared with etcd.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{pair, wire::Wire};

/// Who asks, what is asked with which body.
type Step = (&'static str, &'static str, &'static str, &'static str);

const STEPS: &[Step] = &[
    ("", "GET", "/v2/auth/enable", ""),
    ("", "GET", "/v2/auth/users", ""),
    ("", "GET", "/v2/auth/roles", ""),
    ("", "DELETE", "/v2/auth/users/u", ""),
    ("", "PUT", "/v2/auth/users/u", r#"{"user":"u"}"#),
    ("", "PUT", "/v2/auth/users/u", r#"{"user":"u","password":"p"}"#),
    ("", "GET", "/v2/keys", ""),
    ("", "PUT", "/v2/auth/users/u", r#"{"user":"u"}"#),
    ("", "PUT", "/v2/auth/users/u", r#"{"user":"u"}"#),
    ("", "PUT", "/v2/auth/users/v", r#"{"user":"v","password":"p","roles":["r","s"]}"#),
    ("", "PUT", "/v2/auth/users/v", r#"{"user":"v","password":"p","roles":["r"]}"#),
    ("", "PUT", "/v2/auth/users/u", r#"{"user":"u","grant":["r"]}"#),
    ("", "PUT", "/v2/auth/users/u", r#"{"user":"u","grant":["r"]}"#),
    ("", "PUT", "/v2/auth/users/u", r#"{"user":"u","revoke":["x"]}"#),
    ("", "PUT", "/v2/auth/users/u", r#"{"user":"u","roles":["r"],"revoke":["x"]}"#),
    ("", "PUT", "/v2/auth/users/w", r#"{"user":"w","grant":["r"]}"#),
    ("", "GET", "/v2/auth/users/u", ""),
    ("", "PUT", "/v2/auth/roles/r", r#"{"role":"r"}"#),
    ("", "PUT", "/v2/auth/roles/r", r#"{"role":"r"}"#),
    ("", "PUT", "/v2/auth/roles/r", r#"{"role":"r","grant":{"kv":{"read":["/a*","/b"]}}}"#),
    ("", "PUT", "/v2/auth/roles/r", r#"{"role":"r","grant":{"kv":{"read":["/b"]}}}"#),
    ("", "PUT", "/v2/auth/roles/r", r#"{"role":"r","revoke":{"kv":{"write":["/b"]}}}"#),
    ("", "PUT", "/v2/auth/roles/r", r#"{"role":"r","grant":{"kv":{"write":["/a/w"]}}}"#),
    ("", "PUT", "/v2/auth/roles/s", r#"{"role":"s","permissions":{"kv":{"read":["/s"],"write":["/s"]}}}"#),
    ("", "PUT", "/v2/auth/roles/no", r#"{"role":"no","grant":{"kv":{"write":["/a/w"]}}}"#),
    ("", "PUT", "/v2/auth/roles/root", r#"{"role":"root"}"#),
    ("", "DELETE", "/v2/auth/roles/root", ""),
    ("", "DELETE", "/v2/auth/roles/no", ""),
    ("", "GET", "/v2/auth/roles", ""),
    ("", "GET", "/v2/auth/roles/no", ""),
    ("", "GET", "/v2/auth/users", ""),
    ("", "PUT", "/v2/auth/enable", ""),
    ("", "PUT", "/v2/auth/users/root", r#"{"user":"root","password":"secret"}"#),
    ("", "PUT", "/v2/auth/enable", ""),
    ("", "GET", "/v2/auth/enable", ""),
    ("", "GET", "/v2/auth/users", ""),
    ("root:wrong", "GET", "/v2/auth/users", ""),
    ("nobody:secret", "GET", "/v2/auth/users", ""),
    ("root:secret", "GET", "/v2/auth/users", ""),
    ("root:secret", "PUT", "/v2/auth/enable", ""),
    ("root:secret", "DELETE", "/v2/auth/users/root", ""),
    ("", "PUT", "/v2/keys/a/guest?value=1", ""),
    ("root:secret", "PUT", "/v2/auth/roles/guest", r#"{"role":"guest","revoke":{"kv":{"write":["/*"]}}}"#),
    ("", "PUT", "/v2/keys/a/guest?value=2", ""),
    ("", "GET", "/v2/keys/a/guest", ""),
    ("", "GET", "/v2/keys/a?recursive=true", ""),
    ("u:p", "GET", "/v2/keys/a/guest", ""),
    ("u:p", "GET", "/v2/keys/a?recursive=true", ""),
    ("u:p", "GET", "/v2/keys/b?recursive=true", ""),
    ("u:p", "GET", "/v2/keys/c", ""),
    ("u:p", "PUT", "/v2/keys/a/w?value=3", ""),
    ("u:p", "PUT", "/v2/keys/a/x?value=3", ""),
    ("u:p", "DELETE", "/v2/keys/a?recursive=true", ""),
    ("u:wrong", "GET", "/v2/keys/a/guest", ""),
    ("u:p", "PUT", "/v2/auth/users/u", r#"{"user":"u","grant":["root"]}"#),
    ("u:p", "POST", "/v2/members", ""),
    ("", "GET", "/v2/members/leader-not", ""),
    ("root:secret", "PUT", "/v2/auth/users/u", r#"{"user":"u","password":"q"}"#),
    ("u:p", "GET", "/v2/keys/a/guest", ""),
    ("u:q", "GET", "/v2/keys/a/guest", ""),
    ("root:secret", "DELETE", "/v2/auth/users/u", ""),
    ("u:q", "GET", "/v2/keys/a/guest", ""),
    ("root:secret", "DELETE", "/v2/auth/enable", ""),
    ("", "PUT", "/v2/keys/a/guest?value=4", ""),
    ("", "DELETE", "/v2/auth/enable", ""),
];

#[test]
fn users_and_roles_are_those_of_etcd() {
    let Some(servers) = pair() else { return };
    let mut wires = servers.each_ref().map(Wire::to);
    for (number, (who, method, target, body)) in STEPS.iter().enumerate() {
        let mut headers = Vec::new();
        if !who.is_empty() {
            headers.push(("Authorization", format!("Basic {}", STANDARD.encode(who))));
        }
        let answers = wires.each_mut().map(|wire| wire.ask_with(method, target, &headers, body));
        let [ours, theirs] = answers.each_ref().map(|answer| answer.normal(true));
        assert_eq!(ours, theirs, "step {number}: {who} {method} {target} {body}");
    }
}
