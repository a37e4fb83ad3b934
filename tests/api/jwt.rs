//! JSON web tokens with every method that etcd knows, with keys made by openssl: the tokens of a real etcd work on the
//! server under test, and the other way round.

use std::{fs, path::Path, process::Command};

use tonic::{Code, Request, Status, metadata::MetadataValue};

use crate::{
    canary,
    client::refused,
    pb::etcdserverpb::*,
    server::{Launch, Server, subject_is_retcd},
};

/// Arguments of `openssl` that make a private key, for the methods that use it.
const KEYS: [(&[&str], &[&str]); 6] = [
    (
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
    ),
    (&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], &["ES256"]),
    (&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], &["ES384"]),
    (&["ecparam", "-name", "secp521r1", "-genkey", "-noout"], &["ES512"]),
    (&["genpkey", "-algorithm", "ED25519"], &["EdDSA"]),
    (&["rand", "-hex", "64"], &["HS256", "HS384", "HS512"]),
];

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let made = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

fn make_key(arguments: &[&str], file: &Path) {
    fs::write(file, openssl(arguments)).expect("it is writable");
}

fn options(method: &str, public: Option<&Path>, private: Option<&Path>) -> String {
    let mut options = format!("jwt,sign-method={method},ttl=1h");
    for (name, file) in [("pub-key", public), ("priv-key", private)] {
        if let Some(file) = file {
            options.push_str(&format!(",{name}={}", file.display()));
        }
    }
    options
}

fn guarded(launch: Launch, options: &str) -> Launch {
    launch.flag("auth-token", options).flag("bcrypt-cost", 4)
}

/// Users `root` and `ann`, and authentication enabled: the same revision of users and roles on every server.
async fn enable(server: &Server) {
    let mut auth = server.client().auth();
    for name in ["root", "ann"] {
        let add = AuthUserAddRequest {
            name: name.to_owned(),
            password: "canary-password".to_owned(),
            ..AuthUserAddRequest::default()
        };
        auth.user_add(add).await.expect("it is new");
    }
    let grant = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    auth.user_grant_role(grant).await.expect("it is granted");
    auth.auth_enable(AuthEnableRequest {}).await.expect("root is there");
}

async fn log_in(server: &Server) -> Result<String, Status> {
    let request = AuthenticateRequest { name: "root".to_owned(), password: "canary-password".to_owned() };
    let token = server.client().auth().authenticate(request).await?.into_inner().token;
    canary::plant(&token);
    Ok(token)
}

async fn put(server: &Server, token: &str) -> Result<(), Status> {
    let mut request = Request::new(PutRequest { key: "k".into(), ..PutRequest::default() });
    request.metadata_mut().insert("token", MetadataValue::try_from(token).expect("it is ASCII"));
    server.client().kv().put(request).await.map(drop)
}

#[tokio::test]
async fn tokens_of_one_server_work_on_the_other() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let key = folder.path().join("key");
    for (arguments, methods) in KEYS {
        make_key(arguments, &key);
        for method in methods {
            let options = options(method, None, Some(&key));
            let theirs = guarded(Launch::reference(), &options).start();
            let ours = guarded(Launch::subject(), &options).start();
            enable(&theirs).await;
            enable(&ours).await;
            let (of_theirs, of_ours) = (log_in(&theirs).await, log_in(&ours).await);
            let (of_theirs, of_ours) = (of_theirs.expect(method), of_ours.expect(method));
            for token in [&of_theirs, &of_ours] {
                put(&theirs, token).await.expect(method);
                put(&ours, token).await.expect(method);
                let forged = format!("{token}A");
                refused(put(&theirs, &forged).await, Code::Unauthenticated, "etcdserver: invalid auth token");
                refused(put(&ours, &forged).await, Code::Unauthenticated, "etcdserver: invalid auth token");
            }
        }
    }
}

#[tokio::test]
async fn a_public_key_alone_checks_tokens_and_issues_none() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (private, public) = (folder.path().join("private"), folder.path().join("public"));
    make_key(KEYS[1].0, &private);
    let derive = ["pkey", "-pubout", "-in", private.to_str().expect("it is UTF-8")];
    fs::write(&public, openssl(&derive)).expect("it is writable");
    let issuing = guarded(Launch::reference(), &options("ES256", Some(&public), Some(&private))).start();
    enable(&issuing).await;
    let token = log_in(&issuing).await.expect("it has the private key");
    let mut refusals = Vec::new();
    for launch in [Launch::reference(), Launch::subject()] {
        let checking = guarded(launch, &options("ES256", Some(&public), None)).start();
        enable(&checking).await;
        put(&checking, &token).await.expect("it has the public key");
        let refusal = log_in(&checking).await.expect_err("it cannot sign");
        refusals.push((refusal.code(), refusal.message().to_owned()));
    }
    assert_eq!(refusals[0], refusals[1], "etcd (left) and ours (right)");
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let place = |name: &str| folder.path().join(name);
    make_key(KEYS[1].0, &place("ec"));
    make_key(KEYS[0].0, &place("rsa"));
    make_key(KEYS[1].0, &place("other"));
    for name in ["ec", "other"] {
        let file = place(name);
        let derive = ["pkey", "-pubout", "-in", file.to_str().expect("it is UTF-8")];
        fs::write(place(&format!("{name}.pub")), openssl(&derive)).expect("it is writable");
    }
    fs::write(place("empty"), "").expect("it is writable");
    for (wrong, ours) in [
        ("jwt".to_owned(), "sign-method"),
        ("jwt,sign-method=ES257".to_owned(), "ES257"),
        ("jwt,sign-method=ES256".to_owned(), "auth: missing key data"),
        (options("ES256", None, Some(&place("none"))), "none"),
        (options("ES256", None, Some(&place("empty"))), "auth: missing key data"),
        (options("ES256", None, Some(&place("rsa"))), "ES256"),
        (options("RS256", None, Some(&place("ec"))), "RS256"),
        (options("HS256", Some(&place("ec.pub")), None), "auth: missing key data"),
        (options("ES256", Some(&place("other.pub")), Some(&place("ec"))), "don't match"),
        (options("ES256", Some(&place("ec")), None), "ES256"),
        (format!("{},ttl=x", options("ES256", None, Some(&place("ec")))), "ttl"),
        ("jwt,sign-method=ES256,ttl=soon".to_owned(), "ttl"),
        ("jwt,sign-method".to_owned(), "auth: invalid auth options"),
    ] {
        for (launch, is_ours) in [(Launch::reference(), false), (Launch::subject(), true)] {
            let ended = launch.flag("auth-token", &wrong).prepare().start_refused();
            assert!(!ended.status.success(), "{wrong}");
            let log = ended.log.join("\n");
            assert!(!is_ours || !subject_is_retcd() || log.contains(ours), "{wrong}: {log}");
        }
    }
}

/// etcd reads its keys at the start and not again.
#[tokio::test]
async fn a_key_that_has_changed_is_taken_without_a_restart() {
    if !subject_is_retcd() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (key, next) = (folder.path().join("key"), folder.path().join("next"));
    make_key(KEYS[1].0, &key);
    let server = guarded(Launch::subject(), &options("ES256", None, Some(&key))).start();
    enable(&server).await;
    let old = log_in(&server).await.expect("there is a key");
    put(&server, &old).await.expect("it is of this key");

    // A file that is no key changes nothing.
    fs::write(&next, "half a key").expect("it is writable");
    fs::rename(&next, &key).expect("it is the same directory");
    crate::client::soon("the log names the file", async {
        while !server.log().iter().any(|line| line.contains("key") && line.contains("the old one")) {
            put(&server, &old).await.expect("the old key goes on");
            tokio::task::yield_now().await;
        }
    })
    .await;

    make_key(KEYS[1].0, &next);
    fs::rename(&next, &key).expect("it is the same directory");
    crate::client::soon("tokens of the old key end", async { while put(&server, &old).await.is_ok() {} })
        .await;
    refused(put(&server, &old).await, Code::Unauthenticated, "etcdserver: invalid auth token");
    let new = log_in(&server).await.expect("there is a key");
    put(&server, &new).await.expect("it is of the new key");
}
