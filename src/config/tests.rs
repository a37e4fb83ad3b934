//! The whole way from a command line to a configuration, or to the words of refusal.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt, path::PathBuf, time::Duration};

use super::table::{FLAGS, Standing};
use super::{
    AutoCompaction, CipherSuite, ClusterState, Config, ConfigError, Founding, Generated, Identity,
    Invocation, KeyPair, ListenUrl, LogFormat, LogLevel, LogOutput, MetricsMode, Retain, TlsVersion,
    TransportSecurity, Versions,
};

impl Config {
    /// What these flags mean, for tests anywhere.
    pub(crate) fn of_flags(flags: &[&str]) -> Config {
        let flags: Vec<OsString> = flags.iter().map(OsString::from).collect();
        match Config::load(&flags, &[]) {
            Ok(Invocation::Serve(config)) => *config,
            other => panic!("{flags:?} start no server: {other:?}"),
        }
    }
}

fn load(args: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let args: Vec<OsString> = args.split_whitespace().map(OsString::from).collect();
    let env: Vec<(OsString, OsString)> =
        env.iter().map(|(name, text)| (OsString::from(name), OsString::from(text))).collect();
    match Config::load(&args, &env)? {
        Invocation::Serve(config) => Ok(*config),
        Invocation::Restore(_) | Invocation::Import(_) | Invocation::Export(_) | Invocation::Check(_) => {
            panic!("nobody asked for that")
        }
        Invocation::Print(text) => panic!("printed {text}"),
    }
}

fn config(args: &str) -> Config {
    load(args, &[]).expect(args)
}

/// Exit code and message of a command line that does not start.
fn refusal(args: &str) -> (u8, String) {
    let error = load(args, &[]).expect_err(args);
    (error.exit_code, error.to_string())
}

/// The warnings of a command line that starts all the same.
fn warnings(args: &str) -> Vec<String> {
    config(args).notices.into_iter().filter(|notice| notice.warn).map(|notice| notice.message).collect()
}

/// Where a list of URLs listens.
fn addresses(urls: &[ListenUrl]) -> Vec<String> {
    urls.iter().map(|url| url.address.to_string()).collect()
}

/// Compares URLs by their text alone.
fn same_text(ours: &[String], theirs: &[String]) -> Result<(), String> {
    if ours == theirs { Ok(()) } else { Err("they differ".to_owned()) }
}

/// What is accepted has to travel to other members.
#[test]
fn requests_are_no_larger_than_what_travels() {
    for (asked, effective) in [("67108864", 67_108_864), ("67108865", 67_108_864), ("2147483647", 67_108_864)]
    {
        let flags = format!("--max-request-bytes={asked}");
        assert_eq!(config(&flags).max_request_bytes, effective);
        let is_told = warnings(&flags).iter().any(|warning| warning.contains("is reduced to 67108864"));
        assert_eq!(is_told, asked != "67108864", "{:?}", warnings(&flags));
    }
}

#[test]
fn no_arguments_are_a_cluster_of_one_on_localhost() {
    let config = config("");
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(config.wal_dir, None);
    assert_eq!(addresses(&config.listen_client_urls), ["127.0.0.1:2379"]);
    assert_eq!(config.advertise_client_urls, ["http://localhost:2379"]);
    assert_eq!(config.initial_cluster_text(), "default=http://localhost:2380");
    assert_eq!(config.initial_cluster_state, ClusterState::New);
    assert_eq!(config.heartbeat, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_millis(1000));
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!(config.max_request_bytes, 1_572_864);
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.log_format, None);
    assert_eq!(config.log_outputs, [LogOutput::Stderr]);
    assert_eq!(config.metrics, MetricsMode::Basic);
    assert_eq!((config.cors.as_ref(), config.host_whitelist.as_ref()), (None, None));
    assert!(config.pre_vote && config.reactors > 0);
    assert_eq!(config.notices, []);
    assert_eq!(config.verify_bootstrap(same_text), Ok(()));
}

#[test]
fn all_spellings_mean_the_same() {
    for args in ["--name a", "-name a", "--name=a", "-name=a", "--name b --name a"] {
        assert_eq!(config(args).name, "a", "{args}");
    }
    assert!(!config("--pre-vote=false").pre_vote);
    assert!(!config("-pre-vote=F").pre_vote);
    assert!(config("--pre-vote --name a").pre_vote);
    assert_eq!(config("--initial-cluster-token a=b").initial_cluster_token, "a=b");
    assert_eq!(config("--name=").name, "");
}

#[test]
fn what_cannot_be_read_exits_with_2() {
    let cases = [
        (
            "--listen-client-url x",
            "flag provided but not defined: -listen-client-url (did you mean --listen-client-urls?)",
        ),
        ("--data_dir=x", "flag provided but not defined: -data_dir (did you mean --data-dir?)"),
        ("--surprise-me-with-something", "flag provided but not defined: -surprise-me-with-something"),
        (
            "--initial-cluster-state=old",
            "invalid value \"old\" for flag -initial-cluster-state: must be one of new, existing",
        ),
        ("--name", "flag needs an argument: -name"),
        ("---name=a", "bad flag syntax: ---name=a"),
        ("--=a", "bad flag syntax: --=a"),
        ("--pre-vote=maybe", "invalid value \"maybe\" for flag -pre-vote: must be true or false"),
        (
            "--election-timeout 1s",
            "invalid value \"1s\" for flag -election-timeout: must be a whole number that is not negative",
        ),
        (
            "--listen-client-urls localhost:2379",
            "invalid value \"localhost:2379\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: localhost:2379",
        ),
    ];
    for (args, message) in cases {
        assert_eq!(refusal(args), (2, message.to_owned()), "{args}");
    }
}

#[test]
fn what_makes_no_sense_exits_with_1() {
    let cases = [
        ("--name a serve", "\"serve\" is not a valid flag"),
        ("--pre-vote false", "\"false\" is not a valid flag (did you mean --pre-vote=false?)"),
        ("-- x", "\"x\" is not a valid flag"),
        (
            "--listen-client-urls http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly; it tells clients where \
             to reach this member, for example --advertise-client-urls http://127.0.0.1:1",
        ),
        (
            "--listen-client-urls http://0.0.0.0:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly; it tells clients where \
             to reach this member, for example --advertise-client-urls http://10.0.0.1:1",
        ),
        ("--listen-peer-urls http://:1", "--listen-peer-urls: expected IP in URL for binding (http://:1)"),
        (
            "--listen-client-http-urls http://localhost:2379",
            "--listen-client-urls and --listen-client-http-urls both listen on 127.0.0.1:2379",
        ),
        (
            "--election-timeout 400",
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            "--election-timeout 50001",
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        ("--heartbeat-interval 0", "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            "--auto-compaction-mode=never",
            "unknown auto-compaction-mode \"never\"; want --auto-compaction-mode=periodic or revision",
        ),
        (
            "--backup-retain=many",
            "--backup-retain: \"many\" is no number of backups; want a number such as 24, or a number and an age such as \
             24,168h",
        ),
        ("--backup-interval=10ms", "--backup-interval must be at least 1s"),
        (
            "--auto-compaction-retention=1x",
            "--auto-compaction-retention: error parsing CompactionRetention: \"1x\"; want hours or a duration such as \
             10m with --auto-compaction-mode=periodic, a number of revisions with --auto-compaction-mode=revision",
        ),
        ("--initial-cluster=http://a:1", "--initial-cluster: \"http://a:1\" is not of the form name=url"),
        ("--metrics=all", "--metrics: unknown metrics mode \"all\", want basic or extensive"),
        (
            "--log-level=loud",
            "--log-level: unrecognized level: \"loud\"; want debug, info, warn, error, dpanic, panic or fatal",
        ),
        ("--log-format=xml", "--log-format: unknown log format \"xml\", want \"json\" or \"console\""),
        ("--bcrypt-cost=3", "--bcrypt-cost 3 must be between 4 and 31"),
        ("--max-concurrent-streams=4294967296", "--max-concurrent-streams 4294967296 is out of range"),
        (
            "--feature-gates=Surprise=true",
            "--feature-gates: unrecognized feature gate: Surprise; known gates are StopGRPCServiceOnDefrag, \
             InitialCorruptCheck, CompactHashCheck, TxnModeWriteWithSharedBuffer, LeaseCheckpoint, \
             LeaseCheckpointPersist, SetMemberLocalAddr, FastLeaseKeepAlive, PriorityRequest",
        ),
    ];
    for (args, message) in cases {
        assert_eq!(refusal(args), (1, message.to_owned()), "{args}");
    }
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let cases = [(
        "--discovery http://a.example",
        "--discovery is set, but version 2 discovery is not supported yet",
    )];
    for (args, message) in cases {
        assert_eq!(refusal(args), (1, message.to_owned()), "{args}");
    }
    assert_eq!(warnings("--client-cert-auth=false --auth-token=simple --auto-tls=false"), [""; 0]);
}

#[test]
fn who_founds_a_cluster_is_said_in_one_way() {
    let service = "--discovery-endpoints http://a:1,http://b:1 --discovery-token t";
    let config = config(&format!("{service} --name n --initial-cluster-token other --discovery-user u:p"));
    assert_eq!((config.initial_cluster_token.as_str(), config.initial_cluster.len()), ("t", 1));
    let Founding::Service(found) = &config.founding else { panic!("{:?}", config.founding) };
    assert_eq!(found.endpoints, ["http://a:1", "http://b:1"]);
    assert!(!format!("{config:?}").contains("u:p"), "a password is not shown");
    assert!(config.settings.contains(&"discovery-user=*** (flag)".to_owned()), "{:?}", config.settings);
    let founded = config.founded_by("n=http://localhost:2380,m=http://m:1").expect("a cluster");
    assert_eq!(founded.initial_cluster_text(), "m=http://m:1,n=http://localhost:2380");
    let several = "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \
                   \"discovery-srv\"";
    let both = "both --discovery-token and --discovery-endpoints must be set";
    let domain = "--discovery-srv example.com --initial-cluster default=http://a:1";
    for (args, message) in [
        (domain.to_owned(), several),
        (format!("{service} --discovery-srv example.com"), several),
        (format!("{service} --initial-cluster default=http://a:1"), several),
        ("--discovery-token t".to_owned(), both),
        ("--discovery-endpoints http://a:1".to_owned(), both),
        (
            "--discovery-endpoints http://a:1, --discovery-token t".to_owned(),
            "--discovery-endpoints must not contain empty endpoints",
        ),
    ] {
        assert_eq!(refusal(&args), (1, message.to_owned()), "{args}");
    }
}

/// What has no effect is in the documentation with the reason.
#[test]
fn what_has_no_effect_is_documented() {
    let page = include_str!("../../docs/differences.md");
    let (_, section) = page.split_once("## Flags without effect").expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `--"));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap_or_default());
    let mut documented: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    documented.sort_unstable();
    let idle = FLAGS.iter().filter(|flag| flag.standing == Standing::NoEffect);
    let mut names: Vec<String> = idle.map(|flag| format!("--{}", flag.name)).collect();
    names.sort_unstable();
    assert_eq!(documented, names);
}

#[test]
fn traces_are_configured_as_in_etcd() {
    assert_eq!(config("--distributed-tracing-sampling-rate 5").tracing, None);
    let settings =
        config("--experimental-enable-distributed-tracing --distributed-tracing-sampling-rate 5").tracing;
    let settings = settings.expect("it is on");
    assert_eq!((settings.address.as_str(), settings.service_name.as_str()), ("localhost:4317", "etcd"));
    assert_eq!((settings.instance_id.as_str(), settings.sampled_per_million), ("", 5));
    for (flag, words) in [
        ("--distributed-tracing-sampling-rate=-1", "(tracing sampling rate must be positive)"),
        ("--distributed-tracing-sampling-rate=1000001", "(tracing sampling rate must be less than 1000000)"),
        ("--distributed-tracing-address=nowhere", "must be \"host:port\""),
    ] {
        let (code, message) = refusal(&format!("--enable-distributed-tracing {flag}"));
        assert!(code == 1 && message.contains(words), "{message}");
    }
}

#[test]
fn what_changes_nothing_is_told() {
    assert_eq!(warnings("--max-wals 3"), ["--max-wals=3 has no effect in retcd"]);
    assert_eq!(warnings("--max-wals 5"), [""; 0]);
    assert_eq!(
        warnings("--experimental-enable-v2v3=/a"),
        ["--experimental-enable-v2v3 is ignored: the version 2 API is not kept in keys of version 3"]
    );
    assert!(config("--enable-v2").enable_v2 && !config("").enable_v2);
    assert_eq!(warnings("--enable-v2=true"), [""; 0]);
    assert_eq!(warnings("--logger zap"), [""; 0]);
    assert_eq!(
        warnings("--quota-backend-bytes -1"),
        ["--quota-backend-bytes is negative: the size of the data has no limit"]
    );
    assert_eq!(
        warnings("--experimental-enable-lease-checkpoint"),
        ["--experimental-enable-lease-checkpoint is deprecated; use --feature-gates=LeaseCheckpoint=true"]
    );
    assert_eq!(
        warnings("--feature-gates=PriorityRequest=true"),
        ["feature gate PriorityRequest=true has no effect in retcd"]
    );
}

/// As in etcd, which warns of certificates that no URL needs.
#[test]
fn what_only_tls_or_discovery_would_use_is_told_and_does_not_stop_the_start() {
    let ignored =
        |flag: &str, what: &str| vec![format!("{flag} is ignored: it has no effect without {what}")];
    let tls = "an https:// or unixs:// URL";
    for args in [
        "--cipher-suites TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "--cert-file a.pem",
        "--client-cert-auth",
        "--trusted-ca-file a.pem",
        "--auto-tls",
        "--peer-auto-tls",
        "--peer-cert-allowed-cn a",
    ] {
        let flag = args.split(' ').next().expect("a flag");
        assert_eq!(warnings(args), ignored(flag, tls), "{args}");
    }
    assert_eq!(warnings("--discovery-proxy a"), ignored("--discovery-proxy", "--discovery"));
}

const HTTPS: &str = "--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1";
const HTTPS_PEER: &str =
    "--listen-peer-urls https://127.0.0.1:2 --initial-advertise-peer-urls https://127.0.0.1:2";

#[test]
fn certificates_are_what_etcd_asks_for() {
    for (args, message) in [
        (
            HTTPS.to_owned(),
            "--listen-client-urls: TLS key/cert (--cert-file, --key-file) must be provided for client url \
             https://127.0.0.1:1 with HTTPS scheme; set --cert-file and --key-file, or --auto-tls",
        ),
        (
            HTTPS_PEER.to_owned(),
            "--listen-peer-urls: cannot listen on TLS for https://127.0.0.1:2: KeyFile and CertFile are not presented; set \
             --peer-cert-file and --peer-key-file, or --peer-auto-tls",
        ),
        (
            "--listen-metrics-urls https://127.0.0.1:3".to_owned(),
            "--listen-metrics-urls: client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url \
             https://127.0.0.1:3; set --cert-file and --key-file, or --auto-tls",
        ),
        (
            format!("{HTTPS} --cert-file a.pem"),
            "KeyFile and CertFile must both be present[key: , cert: a.pem]; set --cert-file and --key-file",
        ),
        (
            format!("{HTTPS} --auto-tls --client-key-file k"),
            "ClientKeyFile and ClientCertFile must both be present or both absent[key: k, cert: ]; set --client-cert-file \
             and --client-key-file",
        ),
        (
            format!("{HTTPS_PEER} --peer-auto-tls --peer-cert-allowed-cn a --peer-cert-allowed-hostname b,c"),
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\", \"c\"]); set \
             --peer-cert-allowed-cn or --peer-cert-allowed-hostname, not both",
        ),
        (
            format!("{HTTPS} --auto-tls --self-signed-cert-validity 0"),
            "selfSignedCertValidity is invalid,it should be greater than 0; set --self-signed-cert-validity to the years \
             that the certificate of --auto-tls is valid",
        ),
        (
            "--tls-min-version TLS1.1".to_owned(),
            "--tls-min-version: unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            "--tls-min-version TLS1.3 --tls-max-version TLS1.2".to_owned(),
            "min version (TLS1.3) is greater than max version (TLS1.2); change --tls-min-version or --tls-max-version",
        ),
        (
            "--tls-min-version TLS1.3 --cipher-suites TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned(),
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        ("--cipher-suites none".to_owned(), "--cipher-suites: unexpected TLS cipher suite \"none\""),
        (
            "--cipher-suites TLS_RSA_WITH_AES_128_CBC_SHA,TLS_AES_128_GCM_SHA256".to_owned(),
            "--cipher-suites: retcd does not have any of TLS_RSA_WITH_AES_128_CBC_SHA, which lack forward secrecy or \
             authenticated encryption; name one with ECDHE and GCM or CHACHA20",
        ),
    ] {
        assert_eq!(refusal(&args), (1, message.to_owned()), "{args}");
    }
}

#[test]
fn settings_of_tls_become_typed() {
    let pair = |cert: &str, key: &str| KeyPair { cert_file: cert.into(), key_file: key.into() };
    let config = config(&format!(
        "{HTTPS} --cert-file a --key-file b --client-cert-file c --client-key-file d --client-cert-auth \
         --trusted-ca-file e --client-crl-file f --client-cert-allowed-hostname g,h {HTTPS_PEER} --peer-auto-tls \
         --data-dir dir --self-signed-cert-validity 3 --peer-skip-client-san-verification \
         --tls-max-version TLS1.2 --cipher-suites TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_RSA_WITH_AES_128_CBC_SHA"
    ));
    let versions = Versions { oldest: TlsVersion::Tls12, newest: TlsVersion::Tls12 };
    let cipher_suites = vec![CipherSuite::EcdheRsaAes128GcmSha256];
    let expected = TransportSecurity {
        identity: Identity::Files(pair("a", "b")),
        client_pair: Some(pair("c", "d")),
        trusted_ca_file: Some("e".into()),
        client_cert_auth: true,
        crl_file: Some("f".into()),
        allowed_cns: vec![],
        server_name: None,
        allowed_hostnames: vec!["g".to_owned(), "h".to_owned()],
        skip_client_san_verification: false,
        versions,
        cipher_suites: cipher_suites.clone(),
    };
    assert_eq!(config.client_security, expected);
    let generated =
        Generated { dir: "dir/fixtures/peer".into(), hosts: vec!["127.0.0.1".to_owned()], validity_years: 3 };
    let expected = TransportSecurity {
        identity: Identity::Generated(generated),
        client_pair: None,
        trusted_ca_file: None,
        client_cert_auth: false,
        crl_file: None,
        allowed_cns: vec![],
        server_name: None,
        allowed_hostnames: vec![],
        skip_client_san_verification: true,
        versions,
        cipher_suites,
    };
    assert_eq!(config.peer_security, expected);
}

#[test]
fn plaintext_and_tls_stand_side_by_side() {
    let args = "--listen-client-urls http://127.0.0.1:1,https://127.0.0.1:1,https://127.0.0.1:2,http://127.0.0.1:3 \
                --advertise-client-urls https://127.0.0.1:1 --cert-file a --key-file b --client-cert-auth";
    let accepts: Vec<String> = config(args).listen_client_urls.iter().map(ListenUrl::to_string).collect();
    assert_eq!(
        accepts,
        ["http://127.0.0.1:1 and https://127.0.0.1:1", "http://127.0.0.1:3", "https://127.0.0.1:2"]
    );
    let warnings = warnings(args);
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert_eq!(
        warnings[..2],
        [
            "scheme is http or unix while key and cert files are present; ignoring key and cert files for \
             --listen-client-urls http://127.0.0.1:1",
            "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for \
             --listen-client-urls http://127.0.0.1:1"
        ]
    );
}

#[test]
fn a_restriction_that_restricts_nobody_is_told() {
    assert_eq!(
        warnings(&format!("{HTTPS_PEER} --peer-auto-tls --peer-cert-allowed-cn a")),
        ["--peer-cert-allowed-cn does not restrict who connects: without --peer-client-cert-auth or \
          --peer-trusted-ca-file no certificate is asked for"]
    );
    assert_eq!(warnings(&format!("{HTTPS_PEER} --peer-auto-tls")), [""; 0]);
}

/// The keys and values of the sample that etcd ships, of its releases 3.4 to 3.7 together.
#[test]
fn the_sample_configuration_file_starts() {
    let sample = r#"
name: 'default'
data-dir:
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: http://localhost:2380
listen-client-urls: http://localhost:2379
max-snapshots: 5
max-wals: 5
cors:
initial-advertise-peer-urls: http://localhost:2380
advertise-client-urls: http://localhost:2379
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
initial-cluster:
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-v2: true
enable-pprof: true
proxy: 'off'
proxy-failure-wait: 5000
proxy-refresh-interval: 30000
proxy-dial-timeout: 1000
proxy-write-timeout: 5000
proxy-read-timeout: 0
client-transport-security:
  cert-file:
  key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
peer-transport-security:
  cert-file:
  key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
  allowed-cn:
  allowed-hostname:
self-signed-cert-validity: 1
debug: false
log-level: debug
logger: zap
log-outputs: [stderr]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: "1"
cipher-suites: [
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
]
tls-min-version: 'TLS1.2'
tls-max-version: 'TLS1.3'
"#;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("etcd.conf.yml");
    fs::write(&path, sample).expect("a file");
    let warnings = warnings(&format!("--config-file {}", path.display()));
    let expected = "--cipher-suites is ignored: it has no effect without an https:// or unixs:// URL";
    assert!(warnings.iter().any(|warning| warning == expected), "{warnings:?}");
}

#[test]
fn values_that_no_server_could_work_with_are_refused_or_mended() {
    for (args, words) in [
        ("--max-request-bytes 30", "--max-request-bytes 30 is too small for a put; it must be at least 128"),
        ("--max-request-bytes 0", "at least 128"),
        ("--reactors 1025", "--reactors 1025 must not be greater than 1024"),
    ] {
        let (code, message) = refusal(args);
        assert!(code == 1 && message.contains(words), "{message}");
    }
    assert_eq!(config("--max-request-bytes 128").max_request_bytes, 128);
    assert_eq!(config("--max-concurrent-streams 0").max_concurrent_streams, u32::MAX);
    let keepalive = config("--grpc-keepalive-interval 1ns").grpc_keepalive.expect("it is on");
    assert_eq!(keepalive.interval, Duration::from_secs(1));
}

#[test]
fn arguments_and_variables_need_not_be_text() {
    let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
    let load = |args: &[&[u8]], env: &[(&[u8], &[u8])]| {
        let args: Vec<OsString> = args.iter().map(|arg| bytes(arg)).collect();
        let env: Vec<_> = env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        Config::load(&args, &env)
    };
    let data_dir = |args: &[&[u8]], env: &[(&[u8], &[u8])]| match load(args, env) {
        Ok(Invocation::Serve(config)) => config.data_dir.into_os_string().into_vec(),
        Ok(Invocation::Restore(command)) => command.config.data_dir.into_os_string().into_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(data_dir(&[], &[(b"FOO", b"\xff"), (b"\xff", b"1")]), b"default.etcd");
    assert_eq!(data_dir(&[b"--data-dir=\xff"], &[]), b"\xff");
    assert_eq!(data_dir(&[b"-data-dir", b"a=\xff"], &[]), b"a=\xff");
    assert_eq!(data_dir(&[], &[(b"ETCD_DATA_DIR", b"\xff")]), b"\xff");
    assert_eq!(data_dir(&[b"snapshot", b"restore", b"\xfe", b"--data-dir=\xff"], &[]), b"\xff");
    let refused = |args: &[&[u8]], env: &[(&[u8], &[u8])]| load(args, env).expect_err("not text").to_string();
    assert_eq!(
        refused(&[b"--name=\xff"], &[]),
        "invalid value \"\\xFF\" for flag -name: must be text in UTF-8"
    );
    let variable = refused(&[], &[(b"ETCD_NAME", b"\xff")]);
    assert!(
        variable.ends_with("must be text in UTF-8 (from the environment variable ETCD_NAME)"),
        "{variable}"
    );
    assert!(refused(&[b"--\xff"], &[]).starts_with("flag provided but not defined"));
    assert!(refused(&[b"\xff"], &[]).contains("is not a valid flag"));
    assert!(refused(&[b"snapshot", b"\xff"], &[]).starts_with("there is no command"));
}

#[test]
fn leases_are_checkpointed_unless_somebody_objects() {
    for (args, is_on) in [
        ("", true),
        ("--feature-gates=LeaseCheckpoint=true", true),
        ("--feature-gates=LeaseCheckpoint=false", false),
        ("--experimental-enable-lease-checkpoint", true),
        ("--experimental-enable-lease-checkpoint=false", false),
    ] {
        assert_eq!(config(args).lease_checkpoint, is_on, "{args}");
    }
}

#[test]
fn an_experimental_name_wins_over_the_stable_one() {
    let limit = |args: &str| config(args).compaction_batch_limit;
    assert_eq!(limit("--experimental-compaction-batch-limit 10"), 10);
    assert_eq!(limit("--experimental-compaction-batch-limit 10 --compaction-batch-limit 20"), 10);
    assert_eq!(
        warnings("--experimental-compaction-batch-limit 10"),
        ["--experimental-compaction-batch-limit is deprecated; use --compaction-batch-limit"]
    );
}

#[test]
fn the_environment_stands_behind_the_flags() {
    let from_env =
        load("", &[("ETCD_NAME", "a"), ("ETCD_PRE_VOTE", "false"), ("PATH", "/bin")]).expect("a start");
    assert_eq!((from_env.name.as_str(), from_env.pre_vote), ("a", false));
    assert_eq!(from_env.notices[0].message, "recognized and used environment variable ETCD_NAME=a");
    assert!(!from_env.notices[0].warn);

    let experimental = load("", &[("ETCD_EXPERIMENTAL_COMPACTION_BATCH_LIMIT", "7")]).expect("a start");
    assert_eq!(experimental.compaction_batch_limit, 7);

    let ignored =
        [("ETCD_VERSION", "v3"), ("ETCD_UNSUPPORTED_ARCH", "arm"), ("ETCD_NAME", ""), ("ETCDCTL_API", "3")];
    assert_eq!(load("", &ignored).expect("a start").notices, []);

    let unknown = load("", &[("ETCD_SURPRISE", "1")]).expect("a start");
    assert_eq!(unknown.notices[0].message, "unrecognized environment variable ETCD_SURPRISE");
    assert!(unknown.notices[0].warn);

    let conflict = load("--name b", &[("ETCD_NAME", "a")]).expect_err("both");
    assert_eq!(conflict.exit_code, 1);
    assert_eq!(
        conflict.to_string(),
        "conflicting environment variable is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag)): ETCD_NAME"
    );

    let wrong = load("", &[("ETCD_ELECTION_TIMEOUT", "soon")]).expect_err("not a number");
    assert_eq!(wrong.exit_code, 1);
    assert!(wrong.to_string().contains("ETCD_ELECTION_TIMEOUT"), "{wrong}");
}

#[test]
fn a_configuration_file_replaces_flags_and_environment() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("etcd.yml");
    fs::write(&path, "name: filed\nheartbeat-interval: 50\n").expect("a file");
    let args = format!("--config-file {} --name typed --election-timeout 2000", path.display());
    let config = config(&args);
    assert_eq!(config.name, "filed");
    assert_eq!(config.heartbeat, Duration::from_millis(50));
    assert_eq!(config.election_timeout, Duration::from_millis(1000));
    assert!(config.notices[0].warn && config.notices[0].message.contains("will be ignored"));

    let path_text = path.display().to_string();
    assert_eq!(load("", &[("ETCD_CONFIG_FILE", &path_text)]).expect("a start").name, "filed");

    fs::write(&path, "election-timeout: soon\n").expect("a file");
    let (code, message) = refusal(&args);
    assert!(code == 1 && message.contains("election-timeout") && message.contains(&path_text), "{message}");
    assert!(refusal("--config-file /nowhere/at/all").1.contains("cannot read the configuration file"));
}

#[test]
fn clusters_are_described_by_name_and_url() {
    let args = "--name b --initial-advertise-peer-urls http://h:2,http://h:1 --initial-cluster b=http://h:2,b=http://h:1";
    let cluster = config(args);
    assert_eq!(cluster.initial_cluster_text(), "b=http://h:1,b=http://h:2");
    assert_eq!(cluster.verify_bootstrap(same_text), Ok(()));

    let verdict = |args: &str| config(args).verify_bootstrap(same_text).expect_err(args).to_string();
    assert_eq!(
        verdict("--name c --initial-cluster a=http://g:1"),
        "couldn't find local name \"c\" in the initial cluster configuration; --name must be one of the names in \
         --initial-cluster: a"
    );
    assert_eq!(
        verdict("--name a --initial-cluster a=http://g:1"),
        "--initial-cluster has a=http://g:1 but missing from --initial-advertise-peer-urls=http://localhost:2380 \
         (they differ); both must name the same URLs for this member"
    );
    assert_eq!(
        verdict("--name a --initial-cluster a=http://g:1,b=http://g:1"),
        "initial cluster a=http://g:1,b=http://g:1 has duplicate url"
    );
    let three = config("--initial-cluster default=http://localhost:2380,b=http://g:1,c=http://h:1");
    assert!(three.verify_bootstrap(same_text).is_ok());
}

#[test]
fn the_same_url_twice_is_one_url() {
    let config = config(
        "--listen-client-urls http://127.0.0.1:1,http://127.0.0.1:1,http://localhost:1,unix://a,unix:a \
         --advertise-client-urls http://a:1,http://a:1 --listen-peer-urls http://127.0.0.1:0,http://127.0.0.1:0 \
         --listen-metrics-urls http://[::1]:1,http://[0:0:0:0:0:0:0:1]:1",
    );
    assert_eq!(addresses(&config.listen_client_urls), ["127.0.0.1:1", "a"]);
    assert_eq!(addresses(&config.listen_metrics_urls), ["[::1]:1"]);
    assert_eq!(config.advertise_client_urls, ["http://a:1"]);
    assert_eq!(addresses(&config.listen_peer_urls), ["127.0.0.1:0"], "typed twice is once, at any port");
    assert_eq!(
        refusal("--listen-metrics-urls http://127.0.0.1:2380").1,
        "--listen-peer-urls and --listen-metrics-urls both listen on 127.0.0.1:2380"
    );
}

#[test]
fn a_name_or_peer_url_alone_makes_a_cluster_of_one() {
    let config =
        config("--name a --initial-advertise-peer-urls http://h:1 --listen-peer-urls http://0.0.0.0:1");
    assert_eq!(config.initial_cluster_text(), "a=http://h:1");
    assert_eq!(config.data_dir, PathBuf::from("a.etcd"));
    assert_eq!(config.verify_bootstrap(same_text), Ok(()));
}

#[test]
fn compaction_counts_hours_time_or_revisions() {
    let compaction = |args: &str| config(args).auto_compaction;
    assert_eq!(
        compaction("--auto-compaction-retention 1"),
        AutoCompaction::Periodic(Duration::from_secs(3600))
    );
    assert_eq!(
        compaction("--auto-compaction-retention 10m"),
        AutoCompaction::Periodic(Duration::from_secs(600))
    );
    assert_eq!(compaction("--auto-compaction-retention 0s"), AutoCompaction::Off);
    assert_eq!(
        compaction("--auto-compaction-mode revision --auto-compaction-retention 1000"),
        AutoCompaction::Revision(1000)
    );
    assert_eq!(compaction("--auto-compaction-mode revision"), AutoCompaction::Off);
    assert_eq!(refusal("--auto-compaction-mode revision --auto-compaction-retention 1h").0, 1);
}

#[test]
fn backups_are_kept_by_count_and_by_age() {
    assert_eq!(config("--backup-interval 5m").backup, None, "no directory, no backups");
    let backup = |args: &str| config(&format!("--backup-dir d {args}")).backup.expect("a directory is named");
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let usual = backup("");
    assert_eq!((usual.dir, usual.interval, usual.member), (PathBuf::from("d"), hours(1), None));
    assert_eq!(usual.retain, Retain { count: Some(24), age: None });
    let retain = |text: &str| backup(&format!("--backup-retain {text}")).retain;
    assert_eq!(retain("7,168h"), Retain { count: Some(7), age: Some(hours(168)) });
    assert_eq!(retain("0,24h"), Retain { count: None, age: Some(hours(24)) });
    assert_eq!(retain("0"), Retain { count: None, age: None });
    assert_eq!(backup("--backup-member m1").member.as_deref(), Some("m1"));
    for wrong in ["-1", "1,", "1,x", "24h"] {
        assert_eq!(refusal(&format!("--backup-retain {wrong}")).0, 1, "{wrong}");
    }
}

#[test]
fn values_arrive_in_the_types_they_are_used_in() {
    let config = config(
        "--reactors 3 --wal-dir w --cors http://a,http://b --host-whitelist a --grpc-keepalive-interval 0 \
         --watch-progress-notify-interval 1ms --log-level dpanic --log-format console \
         --log-outputs stdout,/tmp/a,stdout --metrics extensive --feature-gates PriorityRequest=true",
    );
    assert_eq!(config.reactors, 3);
    assert_eq!(config.wal_dir, Some(PathBuf::from("w")));
    assert_eq!(config.cors, Some(vec!["http://a".to_owned(), "http://b".to_owned()]));
    assert_eq!(config.host_whitelist, Some(vec!["a".to_owned()]));
    assert_eq!(config.grpc_keepalive, None);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(100));
    assert_eq!((config.log_level, config.log_format), (LogLevel::Fatal, Some(LogFormat::Console)));
    assert_eq!(config.log_outputs, [LogOutput::Stdout, LogOutput::File(PathBuf::from("/tmp/a"))]);
    assert_eq!(config.metrics, MetricsMode::Extensive);
    let enabled = config.features.iter().filter(|feature| feature.enabled).map(|feature| feature.name);
    assert!(enabled.eq([
        "CompactHashCheck",
        "TxnModeWriteWithSharedBuffer",
        "LeaseCheckpoint",
        "LeaseCheckpointPersist",
        "FastLeaseKeepAlive",
        "PriorityRequest"
    ]));
}

#[test]
fn help_and_version_are_printed_whatever_else_is_wrong() {
    let printed = |args: &[&str]| {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        match Config::load(&args, &[("ETCD_NAME".into(), "x".into())]) {
            Ok(Invocation::Print(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    assert!(printed(&["--help"]).contains("--listen-client-urls"));
    assert!(printed(&["--name", "a", "-h"]).contains("Usage"));
    assert!(printed(&["--version", "--cert-file=x"]).starts_with("etcd Version: 3.7.3\n"));
}
