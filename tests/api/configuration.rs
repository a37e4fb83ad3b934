//! etcd's flags and configuration files, taken as etcd takes them.

use std::{collections::BTreeSet, fs, process::Command};

use crate::{
    http,
    server::{Launch, subject_is_retcd, subject_program},
    tools,
};

/// The keys of etcd's sample file, and those it takes beside them, with values that start one member.
const ALL_KEYS: &str = "
name: 'sample'
data-dir: DATA
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: PEER
listen-client-urls: CLIENT
listen-client-http-urls:
listen-metrics-urls:
max-wals: 4
max-snapshots: 5
cors:
host-whitelist:
initial-advertise-peer-urls: PEER
advertise-client-urls: CLIENT
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
discovery-srv-name:
initial-cluster:
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: false
pre-vote: true
enable-pprof: true
client-transport-security:
  cert-file:
  key-file:
  client-cert-file:
  client-key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
  allowed-cn:
  allowed-hostname:
peer-transport-security:
  cert-file:
  key-file:
  client-cert-file:
  client-key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
  allowed-cn:
  allowed-hostname:
  skip-client-san-verification: false
self-signed-cert-validity: 1
socket-options:
  reuse-port: false
  reuse-address: true
log-level: debug
log-format: json
logger: zap
log-outputs: [stderr]
enable-log-rotation: false
log-rotation-config-json: '{\"maxsize\": 10}'
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: \"1\"
cipher-suites: [
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
]
tls-min-version: 'TLS1.2'
tls-max-version: 'TLS1.3'
auth-token: simple
auth-token-ttl: 300
bcrypt-cost: 10
max-txn-ops: 128
max-request-bytes: 1572864
max-concurrent-streams: 1000
max-learners: 1
grpc-keepalive-min-time: 5000000000
grpc-keepalive-interval: 7200000000000
grpc-keepalive-timeout: 20000000000
enable-grpc-gateway: true
metrics: basic
enable-distributed-tracing: false
distributed-tracing-address: localhost:4317
distributed-tracing-service-name: etcd
distributed-tracing-instance-id:
distributed-tracing-sampling-rate: 0
watch-progress-notify-interval: 600000000000
warning-apply-duration: 100000000
warning-unary-request-duration: 300000000
compaction-batch-limit: 1000
compaction-sleep-interval: 10000000
compact-hash-check-time: 60000000000
corrupt-check-time: 0
downgrade-check-time: 5000000000
bootstrap-defrag-threshold-megabytes: 0
snapshot-catchup-entries: 5000
backend-batch-interval: 0
backend-batch-limit: 0
backend-bbolt-freelist-type: map
memory-mlock: false
initial-election-tick-advance: true
feature-gates: CompactHashCheck=true
unsafe-no-fsync: false
v2-deprecation: write-only
";

#[tokio::test]
async fn a_file_with_all_keys_of_etcd_starts_a_member() {
    let place = Launch::subject().prepare();
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let text = ALL_KEYS
        .replace("DATA", &place.data_dir().display().to_string())
        .replace("CLIENT", &url(place.client_port))
        .replace("PEER", &url(place.peer_port));
    let file = place.home().join("etcd.conf.yml");
    fs::write(&file, text).expect("a test may write");
    let mut server = Launch::subject().bare().flag("config-file", file.display()).prepare();
    server.client_port = place.client_port;
    server.start();
    server.client().put("k", "v").await;
    assert_eq!(http::metric(&server, "etcd_server_quota_backend_bytes"), Some(f64::from(1_u32 << 31)));
    if !subject_is_retcd() {
        return;
    }
    let warnings: Vec<String> = server
        .stop()
        .log
        .iter()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["level"] == "warn")
        .filter_map(|line| line["msg"].as_str().map(str::to_owned))
        .filter(|message| message.contains("no effect") || message.contains("ignored"))
        .collect();
    let expected = [
        "loaded server configuration from",
        "discovery-fallback=\"proxy\" has no effect",
        "--v2-deprecation is ignored",
        "--max-wals=4 has no effect",
        "--cipher-suites is ignored: it has no effect without an https://",
        "--tls-max-version is ignored: it has no effect without an https://",
    ];
    for words in expected {
        assert!(warnings.iter().any(|warning| warning.contains(words)), "{words}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), expected.len(), "nothing else is complained of: {warnings:#?}");
}

/// The names of flags in a help text.
fn flags_of(help: &str) -> BTreeSet<String> {
    let words = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let name = |word: &str| {
        word.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-')
            .next()
            .map(str::to_owned)
    };
    words.filter_map(name).filter(|name| !name.is_empty()).collect()
}

fn help(program: &std::path::Path) -> String {
    let output = Command::new(program).arg("--help").output().expect("it runs");
    String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
}

#[test]
fn every_flag_of_etcd_is_in_the_help() {
    let theirs = flags_of(&help(&tools::reference().etcd));
    let ours = flags_of(&help(&subject_program()));
    // Removed in 3.8, named in the help of 3.7, and accepted.
    let gone = ["v2-deprecation", "user"];
    let missing: Vec<&String> =
        theirs.difference(&ours).filter(|name| !gone.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(theirs.len() > 100, "{theirs:?}");
}

/// Combinations that make no sense, with etcd's words.
#[test]
fn what_etcd_refuses_is_refused_with_its_words() {
    if tools::reference().version < (3, 7, 0) {
        eprintln!("left out: the words are those of 3.7");
        return;
    }
    for (arguments, words) in [
        (vec!["--logger=x"], "unknown logger option \\\"x\\\""),
        (vec!["--discovery-fallback=proxy"], "--discovery-fallback can't be configured as \\\"proxy\\\""),
        (vec!["--compact-hash-check-time=0"], "--compact-hash-check-time must be >0 (set to 0s)"),
    ] {
        let mut launch = Launch::subject();
        for argument in arguments {
            launch = launch.argument(argument);
        }
        let ended = launch.prepare().start_refused();
        assert_eq!(ended.status.code(), Some(1), "{:#?}", ended.log);
        assert!(ended.log.iter().any(|line| line.contains(words)), "{words}: {:#?}", ended.log);
    }
}

#[test]
fn memory_is_locked_if_that_is_asked_for() {
    let mut server = Launch::subject().argument("--memory-mlock").prepare();
    if let Some(ended) = server.spawn_and_settle() {
        // Where this user may not lock so much.
        let told = ended.log.iter().any(|line| line.contains("raise the limit of locked memory"));
        assert!(told || !subject_is_retcd(), "{:#?}", ended.log);
        return;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("Linux says it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a line");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib > 0, "{status}");
}
