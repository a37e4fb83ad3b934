//! Connections of clients: their number, Unix sockets, and URLs to listen on.

use std::{fs, net::TcpStream, process::Command};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    http,
    server::{Launch, Server, may_mount, serve_with, subject_is_retcd},
    tools::{Release, Seen, patient},
};

/// Idle connections.
fn idle(port: u16, count: usize) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect(("127.0.0.1", port)).expect("the kernel takes a connection");
    (0..count).map(connect).collect()
}

/// The number of descriptors that a test needs for its own ends of the connections.
fn raise_own_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("it is ours to raise");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_descriptors_to_the_log() {
    raise_own_limit();
    // Seventy of these values are more than a segment of the log.
    let value = "x".repeat(1024 * 1024);
    let (server, client) = serve_with(Launch::subject().limits("-n 256"));
    client.put("first", "served").await;
    let at_clients = idle(server.client_port, 300);
    let at_peers = idle(server.peer_port, 300);
    for number in 0..70 {
        client.put(format!("key-{}", number % 4), value.clone()).await;
    }
    assert!(server.wal_dir().join("00000002.wal").exists(), "the log has turned over");
    // Further connections wait, and are served once others have closed.
    let late = server.client();
    let waits = tokio::spawn(async move { late.get("first").await });
    drop((at_clients, at_peers));
    waits.await.expect("no panic");
    client.put("last", "served").await;
}

#[test]
fn a_limit_that_leaves_nothing_for_clients_is_refused() {
    let ended = Launch::subject().limits("-n 150").prepare().start_refused();
    assert_eq!(ended.status.code(), Some(1), "{:#?}", ended.log);
    let words = if subject_is_retcd() {
        "the limit of open files is 150"
    } else {
        "limit of etcd process is too low"
    };
    assert!(ended.log.iter().any(|line| line.contains(words)), "{:#?}", ended.log);
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_to_the_hard_one() {
    let server = Launch::subject().limits("-Sn 100").start();
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = http::metric(&server, "process_max_fds").expect("it is a metric");
    // Go's limit is one lower.
    assert!(hard.is_none_or(|hard| limit + 1.0 >= hard as f64), "{limit} of {hard:?}");
}

/// Serves clients at nothing but two Unix sockets: one in its working directory, one elsewhere.
fn on_unix_sockets(directory: &tempfile::TempDir) -> (Server, String) {
    let absolute = format!("unix://{}", directory.path().join("client.sock").display());
    let launch = Launch::subject()
        .flag("listen-client-urls", format!("unix://client:1,{absolute}"))
        .flag("advertise-client-urls", &absolute)
        .flag("listen-metrics-urls", "unix://metrics:1");
    (launch.start(), absolute)
}

fn etcdctl(release: Release, server: &Server, endpoint: &str, arguments: &[&str]) -> Seen {
    let mut command = Command::new(release.etcdctl());
    command
        .env_clear()
        .env("ETCDCTL_API", "3")
        .current_dir(server.home())
        .arg(format!("--endpoints={endpoint}"))
        .args(arguments);
    patient(&mut command);
    Seen::of(&command.output().expect("etcdctl can be started"))
}

#[test]
fn clients_are_served_over_unix_sockets() {
    // A path of its own, because that of a build may be too long for a socket.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut server, absolute) = on_unix_sockets(&directory);
    for release in [Release::V34, Release::V35] {
        for endpoint in ["unix://client:1", &absolute] {
            let put = etcdctl(release, &server, endpoint, &["put", "k", "v"]);
            assert_eq!(put.stdout, "OK\n", "{release:?} at {endpoint}: {put:?}");
            assert_eq!(etcdctl(release, &server, endpoint, &["get", "k"]).stdout, "k\nv\n");
        }
    }
    let members = etcdctl(Release::V35, &server, "unix://client:1", &["member", "list"]);
    assert!(members.stdout.contains(&absolute), "{members:?}");
    let file = directory.path().join("client.sock");

    // The socket files that a crash leaves behind do not prevent a start.
    server.kill();
    assert!(file.exists(), "nobody was left to remove it");
    server.start();
    assert_eq!(etcdctl(Release::V35, &server, "unix://client:1", &["get", "k"]).stdout, "k\nv\n");
    server.stop();
    assert!(!file.exists() && !server.home().join("client:1").exists(), "a server takes its sockets away");
}

#[test]
fn a_socket_in_use_and_a_file_in_the_way_are_refused() {
    // etcd removes both.
    if !subject_is_retcd() {
        return;
    }
    let first = Launch::subject()
        .flag("listen-client-urls", "unix://client:1")
        .flag("advertise-client-urls", "unix://client:1")
        .start();
    let path = first.home().join("client:1");
    let refused = |path: &std::path::Path| {
        let url = format!("unix://{}", path.display());
        let launch = Launch::subject().flag("listen-client-urls", &url).flag("advertise-client-urls", &url);
        launch.prepare().start_refused().log.join("\n")
    };
    if path.as_os_str().len() <= 107 {
        let log = refused(&path);
        assert!(log.contains("another process") && log.contains("--listen-client-urls"), "{log}");
        assert!(path.exists());
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("precious");
    fs::write(&file, "data").expect("a test may write");
    assert!(refused(&file).contains("not a socket exists at that path; move that file away"));
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "data");
    let long = directory.path().join("x".repeat(107));
    assert!(refused(&long).contains("may have at most 107 bytes"));
}

#[tokio::test]
async fn a_url_to_listen_on_may_be_given_twice() {
    let mut server = Launch::subject().prepare();
    let twice = |port: u16| format!("http://127.0.0.1:{port},http://127.0.0.1:{port}");
    server.set_flag("listen-client-urls", twice(server.client_port));
    server.set_flag("listen-peer-urls", twice(server.peer_port));
    server.start();
    server.client().put("k", "v").await;
}

#[tokio::test]
async fn a_host_name_is_listened_on_at_all_of_its_addresses() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd listens on addresses only");
        return;
    }
    if !may_mount() {
        eprintln!("left out: this user cannot mount");
        return;
    }
    let mut server = Launch::subject().prepare();
    let hosts = server.home().join("hosts");
    fs::write(&hosts, "127.0.0.1 node.test\n127.0.0.2 node.test\n192.0.2.7 node.test\n")
        .expect("a test may write");
    server.set_mounts(&format!("mount --bind {} /etc/hosts", hosts.display()));
    let urls = format!("http://node.test:{}", server.client_port);
    server.set_flag("listen-client-urls", &urls);
    server.set_flag("advertise-client-urls", &urls);
    server.start();
    for ip in ["127.0.0.1", "127.0.0.2"] {
        let client = crate::client::Client::connect(&format!("{ip}:{}", server.client_port));
        client.put("k", ip).await;
    }
}

/// An own listener that shares its port stands for another member.
#[tokio::test]
async fn a_port_is_shared_if_that_is_asked_for() {
    let mut server = Launch::subject().prepare();
    // The server must not inherit it: it would get half of the connections there, and never take them.
    let other = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    );
    let other = other.expect("a socket");
    rustix::net::sockopt::set_socket_reuseport(&other, true).expect("Linux can");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.client_port));
    rustix::net::bind(&other, &address).expect("the port is free");
    rustix::net::listen(&other, 1).expect("it may listen");
    let ended = server.start_refused();
    assert!(
        ended.log.iter().any(|line| line.to_lowercase().contains("address already in use")),
        "{:#?}",
        ended.log
    );
    server.set_flag("socket-reuse-port", true);
    server.set_flag("socket-reuse-address", true);
    server.start();
    // It would get half of the connections.
    drop(other);
    server.client().put("k", "v").await;
}
