//! Members that speak TLS with each other.

use std::fs;

use crate::{
    certificates::{Authority, Pair, Subject},
    cluster::{Cluster, Plan},
    tools,
};

const HERE: &str = "IP:127.0.0.1,DNS:localhost";

/// What each member is told: its certificate, and whose certificates it accepts.
fn flags(authority: &Authority, pair: &Pair) -> Vec<String> {
    vec![
        format!("--peer-cert-file={}", pair.cert.display()),
        format!("--peer-key-file={}", pair.key.display()),
        format!("--peer-trusted-ca-file={}", authority.cert().display()),
        "--peer-client-cert-auth".to_owned(),
        "--peer-cert-allowed-cn=member".to_owned(),
    ]
}

fn found(authority: &Authority, pair: &Pair) -> Cluster {
    let flags = flags(authority, pair);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Plan::new(3).with_peer_tls().flags(&flags).found()
}

#[tokio::test]
async fn members_with_certificates_work_and_change() {
    let authority = Authority::new("ca");
    let pair = authority.issue("member");
    let mut cluster = found(&authority, &pair);
    for number in 0..3 {
        cluster.members[number].put(&format!("key{number}"), "value").await;
    }
    let leader = cluster.leader().await;
    cluster.members[leader].kill();
    cluster.leader().await;
    let other = (leader + 1) % 3;
    cluster.members[other].put("without", "leader").await;
    cluster.members[leader].start();
    // One more, which gets all data.
    let member = cluster.prepare("m3");
    member.flags = flags(&authority, &pair);
    let url = format!("--peer-urls={}", member.peer_url());
    tools::etcdctl(&cluster.members[other].endpoint(), &["member", "add", "m3", &url]).expect("added");
    cluster.members[3].start();
    assert_eq!(cluster.members[3].get("without").await.as_deref(), Some("leader"));
    cluster.assert_equal().await;
}

#[tokio::test]
async fn a_member_with_another_certificate_stays_out_until_it_has_the_right_one() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("other"));
    let pair = authority.issue("member");
    let mut cluster = found(&authority, &pair);
    cluster.leader().await;
    let misnamed = authority.issue_for("misnamed", &Subject { name: "guest", hosts: HERE, valid: ("", "") });
    let elsewhere =
        authority.issue_for("elsewhere", &Subject { name: "member", hosts: "IP:10.9.9.9", valid: ("", "") });
    let right = cluster.members[2].flags.clone();
    cluster.members[2].kill();
    // That nobody is there is not the last that is said of it.
    cluster.members[0].wait_for_line("connection refused");
    for (authority, pair, words) in [
        (&stranger, stranger.issue("member"), "certificate signed by unknown authority"),
        (&authority, misnamed, "client certificate authentication failed"),
        (&authority, elsewhere, "certificate is valid for 10.9.9.9, not 127.0.0.1"),
    ] {
        let known = cluster.members[0].log().lines().count();
        cluster.members[2].flags = flags(authority, &pair);
        cluster.members[2].spawn();
        let line = cluster.members[0].wait_for_line_behind(known, words);
        // Whoever dials the other first notices it: the port that refuses, or the member that trusts it not.
        assert!(line.contains("peer"), "{line}");
        cluster.members[0].put("a", words).await;
        assert!(!cluster.members[2].log().contains("ready to serve client requests"), "it has no quorum");
        cluster.members[2].kill();
    }
    cluster.members[2].flags = right;
    cluster.members[2].start();
    cluster.members[2].put("b", "c").await;
    cluster.assert_equal().await;
}

/// The CA of all members is replaced, one member at a time and without a restart, as operators do it: first both
/// CAs are trusted, then the certificates are renewed, then the old CA is taken away.
#[tokio::test]
async fn the_ca_of_a_running_cluster_can_be_replaced() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| files.path().join(name);
    let put = |bytes: Vec<u8>, name: &str| {
        fs::write(path("draft"), bytes).expect("written");
        fs::rename(path("draft"), path(name)).expect("renamed");
    };
    let read = |path: &std::path::Path| fs::read(path).expect("readable");
    let (before, after) = (old.issue("member"), new.issue("member"));
    put(read(&old.cert()), "ca");
    put(read(&before.cert), "cert");
    put(read(&before.key), "key");
    let own = Pair { cert: path("cert"), key: path("key") };
    let mut told = flags(&old, &own);
    told[2] = format!("--peer-trusted-ca-file={}", path("ca").display());
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let mut cluster = Plan::new(3).with_peer_tls().flags(&told).found();
    cluster.leader().await;
    put([read(&old.cert()), read(&new.cert())].concat(), "ca");
    put(read(&after.cert), "cert");
    put(read(&after.key), "key");
    cluster.members[0].put("both", "trusted").await;
    put(read(&new.cert()), "ca");
    // Every connection of this member is a new one.
    cluster.members[1].kill();
    cluster.members[1].start();
    cluster.members[1].put("new", "only").await;
    cluster.assert_equal().await;
}

#[tokio::test]
async fn generated_certificates_encrypt_between_members() {
    let cluster = Plan::new(3).with_peer_tls().flags(&["--peer-auto-tls"]).found();
    cluster.members[1].put("a", "b").await;
    cluster.assert_equal().await;
}
