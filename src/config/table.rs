//! The table of all flags.
//!
//! The names are those of etcd 3.4 to 3.8 taken together, so that no unit file, manifest or script
//! has to change. The `standing` of a row says what retcd does with the flag: most flags are used,
//! some have no effect, some ask for a feature that retcd does not have yet and are refused, and
//! some were removed from etcd.

use Group::{Auth, Clustering, Limits, Logging, Member, Metrics, Other, Security, Unsafe, Upkeep};
use Kind::{Bool, Choice, Duration, Int, Path, Text, Uint, Urls};

/// One flag, as `--help` shows it and the parser reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The default value, as a user would type it.
    pub(super) default: &'static str,
    pub(super) group: Group,
    pub(super) help: &'static str,
    pub(super) standing: Standing,
}

/// The kind of value that a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
    /// A file or directory. A path is the only kind of value that need not be UTF-8.
    Path,
    /// One of these words.
    Choice(&'static [&'static str]),
    Int,
    Uint,
    Duration,
    /// Comma-separated `scheme://host:port`.
    Urls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Member,
    Clustering,
    Limits,
    Upkeep,
    Security,
    Auth,
    Logging,
    Metrics,
    Unsafe,
    Other,
}

/// What retcd does with a flag that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Used,
    /// The flag tunes a part of etcd that retcd does not have. Accepted with a warning.
    NoEffect,
    /// The flag tunes the feature that the text names, and retcd refuses that feature. Without the
    /// feature the flag has no effect in etcd either. Accepted with a warning.
    NoEffectWithout(&'static str),
    /// Ignoring the flag would be wrong, because the user relies on what it asks for. Any value other
    /// than the default is refused; the text names what the flag asks for.
    Unsupported(&'static str),
    /// Removed from etcd; the text says since when, or what replaces the flag. Accepted with a warning.
    Removed(&'static str),
}

impl Flag {
    const fn no_effect(self) -> Flag {
        Flag { standing: Standing::NoEffect, ..self }
    }

    const fn no_effect_without(self, what: &'static str) -> Flag {
        Flag { standing: Standing::NoEffectWithout(what), ..self }
    }

    const fn unsupported(self, what: &'static str) -> Flag {
        Flag { standing: Standing::Unsupported(what), ..self }
    }
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: Group,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, group, help, standing: Standing::Used }
}

const fn removed(name: &'static str, kind: Kind, why: &'static str) -> Flag {
    Flag { name, kind, default: "", group: Other, help: "", standing: Standing::Removed(why) }
}

pub(super) const FLAGS: &[Flag] = &[
    flag("name", Text, "default", Member, "Name of this member, as in --initial-cluster."),
    flag("data-dir", Path, "", Member, "Data directory. Empty: <name>.etcd in the working directory."),
    flag("wal-dir", Path, "", Member, "Directory of the write-ahead log. Empty: inside the data directory."),
    flag("listen-client-urls", Urls, "http://localhost:2379", Member, "URLs to listen on for clients."),
    flag(
        "listen-client-http-urls",
        Urls,
        "",
        Member,
        "URLs to serve HTTP on. If set, the client URLs serve gRPC only.",
    ),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Member, "URLs to listen on for other members."),
    flag("listen-metrics-urls", Urls, "", Member, "Additional URLs for /metrics and the health checks."),
    flag("heartbeat-interval", Uint, "100", Member, "Milliseconds between two heartbeats of the leader."),
    flag(
        "election-timeout",
        Uint,
        "1000",
        Member,
        "Milliseconds without a heartbeat before a member starts an election.",
    ),
    flag("initial-election-tick-advance", Bool, "true", Member, "Shorten the first election.").no_effect(),
    flag("snapshot-count", Uint, "10000", Member, "Log entries between two snapshots.").no_effect(),
    flag(
        "snapshot-catchup-entries",
        Uint,
        "5000",
        Member,
        "Log entries kept after a checkpoint, so that slow members catch up from the log.",
    ),
    flag(
        "reactors",
        Uint,
        "0",
        Member,
        "Threads that serve clients. 0: one for each CPU core. (Not in etcd.)",
    ),
    flag(
        "console",
        Bool,
        "true",
        Member,
        "Serve the console under /console on the client port. (Not in etcd.)",
    ),
    flag("max-wals", Uint, "5", Member, "Old log files to keep.").no_effect(),
    flag("max-snapshots", Uint, "5", Member, "Old snapshot files to keep.").no_effect(),
    flag("memory-mlock", Bool, "false", Member, "Keep memory from being swapped out."),
    flag("backend-bbolt-freelist-type", Text, "map", Member, "Type of bbolt's list of free pages.")
        .no_effect(),
    flag("backend-batch-interval", Duration, "0", Member, "Longest wait of a backend batch.").no_effect(),
    flag("backend-batch-limit", Int, "0", Member, "Maximum operations in a backend batch.").no_effect(),
    flag(
        "socket-reuse-port",
        Bool,
        "false",
        Member,
        "Listen with SO_REUSEPORT: share ports with other processes.",
    ),
    flag("socket-reuse-address", Bool, "false", Member, "Listen with SO_REUSEADDR. This is always done."),
    flag("raft-read-timeout", Duration, "5s", Member, "Read timeout between members.").no_effect(),
    flag("raft-write-timeout", Duration, "5s", Member, "Write timeout between members.").no_effect(),
    flag("enable-grpc-gateway", Bool, "true", Member, "Serve JSON below /v3/."),
    flag("feature-gates", Text, "", Member, "Features to switch: Name=true,Other=false."),
    //
    flag(
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        Clustering,
        "Peer URLs announced to the other members.",
    ),
    flag(
        "initial-cluster",
        Text,
        "",
        Clustering,
        "Members of a new cluster: name=url,name=url. Empty: this member only.",
    ),
    flag(
        "initial-cluster-state",
        Choice(&["new", "existing"]),
        "new",
        Clustering,
        "\"new\", or \"existing\" to join a running cluster.",
    ),
    flag(
        "initial-cluster-token",
        Text,
        "etcd-cluster",
        Clustering,
        "Token that makes the IDs of the cluster and its members unique.",
    ),
    flag(
        "advertise-client-urls",
        Urls,
        "http://localhost:2379",
        Clustering,
        "Client URLs announced to clients and members.",
    ),
    flag(
        "strict-reconfig-check",
        Bool,
        "true",
        Clustering,
        "Refuse membership changes that would lose the quorum.",
    ),
    flag(
        "pre-vote",
        Bool,
        "true",
        Clustering,
        "Ask the other members before starting an election (Raft Pre-Vote).",
    ),
    flag("max-learners", Uint, "1", Clustering, "Maximum number of learners."),
    flag("discovery-token", Text, "", Clustering, "Token of the new cluster in the discovery service."),
    flag(
        "discovery-endpoints",
        Text,
        "",
        Clustering,
        "Endpoints of an etcd through which the members of a new cluster find each other.",
    ),
    flag("discovery-dial-timeout", Duration, "2s", Clustering, "How long a login there may take."),
    flag("discovery-request-timeout", Duration, "5s", Clustering, "How long a request there may take."),
    flag(
        "discovery-keepalive-time",
        Duration,
        "2s",
        Clustering,
        "Silence after which a connection to it is probed; at least 10s.",
    ),
    flag(
        "discovery-keepalive-timeout",
        Duration,
        "6s",
        Clustering,
        "How long the answer to a probe may take.",
    ),
    flag(
        "discovery-insecure-transport",
        Bool,
        "true",
        Clustering,
        "No TLS with it, unless an endpoint or another flag asks for it.",
    ),
    flag(
        "discovery-insecure-skip-tls-verify",
        Bool,
        "false",
        Clustering,
        "Take any certificate of it. For tests only.",
    ),
    flag("discovery-cert", Path, "", Clustering, "Certificate to show to it (PEM)."),
    flag("discovery-key", Path, "", Clustering, "Key of that certificate (PEM)."),
    flag("discovery-cacert", Path, "", Clustering, "CAs of its certificates (PEM)."),
    flag("discovery-user", Text, "", Clustering, "User of it: name[:password]."),
    flag("discovery-password", Text, "", Clustering, "Password of that user."),
    flag(
        "discovery-fallback",
        Choice(&["exit", "proxy"]),
        "exit",
        Clustering,
        "Discovery: what to do when it fails. Always \"exit\".",
    ),
    flag("discovery", Text, "", Clustering, "Version 2 discovery, which etcd has dropped.")
        .unsupported("version 2 discovery"),
    flag("discovery-proxy", Text, "", Clustering, "Proxy for version 2 discovery.")
        .no_effect_without("--discovery"),
    flag(
        "discovery-srv",
        Text,
        "",
        Clustering,
        "Domain whose SRV records name the members of a new cluster.",
    ),
    flag("discovery-srv-name", Text, "", Clustering, "Suffix of the service's name in these records."),
    //
    flag(
        "quota-backend-bytes",
        Int,
        "0",
        Limits,
        "Size of the data, in bytes, at which writes are refused. 0: 2 GiB. Negative: no limit.",
    ),
    flag("max-txn-ops", Uint, "128", Limits, "Maximum number of operations in one transaction."),
    flag("max-request-bytes", Uint, "1572864", Limits, "Maximum size of a request in bytes."),
    flag(
        "max-concurrent-streams",
        Uint,
        "4294967295",
        Limits,
        "Maximum concurrent requests on one connection.",
    ),
    flag(
        "grpc-keepalive-min-time",
        Duration,
        "5s",
        Limits,
        "Shortest time between two pings of a client. The server closes connections with more pings. 0: 5m.",
    ),
    flag(
        "grpc-keepalive-interval",
        Duration,
        "2h",
        Limits,
        "Idle time after which the server pings a client. 0: never.",
    ),
    flag(
        "grpc-keepalive-timeout",
        Duration,
        "20s",
        Limits,
        "Time to wait for the answer to a ping before closing the connection. 0: no pings.",
    ),
    //
    flag(
        "auto-compaction-mode",
        Text,
        "periodic",
        Upkeep,
        "\"periodic\" (by age) or \"revision\" (by count).",
    ),
    flag(
        "auto-compaction-retention",
        Text,
        "0",
        Upkeep,
        "History to keep: hours or a duration (periodic), or a number of revisions (revision). 0: off.",
    ),
    flag("compaction-batch-limit", Int, "1000", Upkeep, "Revisions removed in one batch of a compaction."),
    flag(
        "compaction-sleep-interval",
        Duration,
        "10ms",
        Upkeep,
        "Pause between two batches of a compaction, at most.",
    ),
    flag(
        "watch-progress-notify-interval",
        Duration,
        "10m",
        Upkeep,
        "Time without events after which a watcher gets a progress notification.",
    ),
    flag(
        "backup-dir",
        Path,
        "",
        Upkeep,
        "Directory for snapshots that are made at intervals. Empty: none are made. (Not in etcd.)",
    ),
    flag("backup-interval", Duration, "1h", Upkeep, "Time between two backups. (Not in etcd.)"),
    flag(
        "backup-retain",
        Text,
        "24",
        Upkeep,
        "Backups to keep: a number, or a number and an age such as 24,168h. 0: any number. (Not in etcd.)",
    ),
    flag(
        "backup-member",
        Text,
        "",
        Upkeep,
        "Name of the member that makes the backups. Empty: the leader. (Not in etcd.)",
    ),
    flag(
        "corrupt-check-time",
        Duration,
        "0s",
        Upkeep,
        "How often the leader compares the data of all members. 0: never.",
    ),
    flag(
        "compact-hash-check-time",
        Duration,
        "1m",
        Upkeep,
        "How often the leader compares the hashes that compactions leave.",
    ),
    flag(
        "bootstrap-defrag-threshold-megabytes",
        Uint,
        "0",
        Upkeep,
        "Free space at which to defragment at startup.",
    )
    .no_effect(),
    flag("downgrade-check-time", Duration, "5s", Upkeep, "How often to look for a downgrade.").no_effect(),
    //
    flag("cert-file", Path, "", Security, "Server certificate for clients (PEM)."),
    flag("key-file", Path, "", Security, "Key of the server certificate (PEM)."),
    flag(
        "client-cert-auth",
        Bool,
        "false",
        Security,
        "Require certificates of clients. Their common name is the name of a user.",
    ),
    flag(
        "trusted-ca-file",
        Path,
        "",
        Security,
        "CAs of the clients (PEM). If set, clients need a certificate.",
    ),
    flag("client-cert-file", Path, "", Security, "Certificate for the member's calls to itself."),
    flag("client-key-file", Path, "", Security, "Key of that certificate."),
    flag("client-crl-file", Path, "", Security, "Revoked client certificates (DER or PEM)."),
    flag(
        "client-cert-allowed-cn",
        Text,
        "",
        Security,
        "Common names of which client certificates must have one. (In etcd: in the configuration file only.)",
    ),
    flag(
        "client-cert-allowed-hostname",
        Text,
        "",
        Security,
        "Host names of which client certificates must have one.",
    ),
    flag("auto-tls", Bool, "false", Security, "Generate the server certificate."),
    flag("peer-cert-file", Path, "", Security, "Certificate for members (PEM)."),
    flag("peer-key-file", Path, "", Security, "Key of the certificate for members (PEM)."),
    flag("peer-client-cert-auth", Bool, "false", Security, "Require certificates of members."),
    flag(
        "peer-trusted-ca-file",
        Path,
        "",
        Security,
        "CAs of the members (PEM). If set, members need a certificate.",
    ),
    flag("peer-client-cert-file", Path, "", Security, "Certificate for calls to other members."),
    flag("peer-client-key-file", Path, "", Security, "Key of that certificate."),
    flag("peer-crl-file", Path, "", Security, "Revoked member certificates (DER or PEM)."),
    flag(
        "peer-cert-allowed-cn",
        Text,
        "",
        Security,
        "Common names of which member certificates must have one.",
    ),
    flag(
        "peer-cert-allowed-hostname",
        Text,
        "",
        Security,
        "Host names of which member certificates must have one.",
    ),
    flag("peer-auto-tls", Bool, "false", Security, "Generate the certificate for members."),
    flag(
        "peer-skip-client-san-verification",
        Bool,
        "false",
        Security,
        "Do not compare the names in a member's certificate with the address that it connects from.",
    ),
    flag("self-signed-cert-validity", Uint, "1", Security, "Validity of generated certificates, in years."),
    flag("cipher-suites", Text, "", Security, "Cipher suites of TLS 1.2, by Go's names. Empty: all."),
    flag("tls-min-version", Text, "TLS1.2", Security, "Oldest TLS version: TLS1.2 or TLS1.3."),
    flag("tls-max-version", Text, "", Security, "Newest TLS version. Empty: TLS1.3."),
    flag("cors", Text, "*", Security, "Allowed CORS origins, comma-separated. *: all."),
    flag(
        "host-whitelist",
        Text,
        "*",
        Security,
        "Accepted host names of HTTP requests, comma-separated. *: all.",
    ),
    //
    flag(
        "auth-token",
        Text,
        "simple",
        Auth,
        "Kind of token: simple, or jwt with its options. Empty: no tokens.",
    ),
    flag("auth-token-ttl", Uint, "300", Auth, "Seconds after its last use that a simple token is valid."),
    flag("bcrypt-cost", Uint, "10", Auth, "Cost of hashing a password with bcrypt: 4 to 31."),
    //
    flag("log-level", Text, "info", Logging, "debug, info, warn, error, panic or fatal."),
    flag("log-format", Text, "", Logging, "json or console. Empty: console on a terminal, json elsewhere."),
    flag(
        "log-outputs",
        Text,
        "default",
        Logging,
        "stderr, stdout, systemd/journal or file paths, comma-separated. default: stderr.",
    ),
    flag("logger", Text, "zap", Logging, "Always \"zap\": the log has that format."),
    flag("enable-log-rotation", Bool, "false", Logging, "Rotate the log file among --log-outputs."),
    flag(
        "log-rotation-config-json",
        Text,
        r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
        Logging,
        "How it is rotated: size in MB, age of old files in days, their number, gzip. 0: no limit.",
    ),
    flag(
        "warning-apply-duration",
        Duration,
        "100ms",
        Logging,
        "Log a warning when applying a request takes longer.",
    ),
    flag(
        "warning-unary-request-duration",
        Duration,
        "300ms",
        Logging,
        "Log a warning when a request takes longer.",
    ),
    //
    flag("metrics", Text, "basic", Metrics, "\"extensive\" adds a histogram for each gRPC method."),
    flag("enable-pprof", Bool, "false", Metrics, "Serve profiles under /debug/pprof/ on the client port."),
    flag("enable-distributed-tracing", Bool, "false", Metrics, "Send traces to an OpenTelemetry collector."),
    flag(
        "distributed-tracing-address",
        Text,
        "localhost:4317",
        Metrics,
        "host:port of the collector (OTLP over gRPC).",
    ),
    flag("distributed-tracing-service-name", Text, "etcd", Metrics, "Name of the service in traces."),
    flag("distributed-tracing-instance-id", Text, "", Metrics, "Name of this member in traces."),
    flag(
        "distributed-tracing-sampling-rate",
        Int,
        "0",
        Metrics,
        "Traces that begin here, per million calls. Calls that their clients trace are traced always.",
    ),
    //
    flag(
        "force-new-cluster",
        Bool,
        "false",
        Unsafe,
        "Keep the data and remove all other members from the cluster.",
    ),
    flag("unsafe-no-fsync", Bool, "false", Unsafe, "Do not wait for the disk.").no_effect(),
    //
    flag(
        "config-file",
        Path,
        "",
        Other,
        "YAML file with all settings. Other flags and environment variables are then ignored.",
    ),
    flag("enable-v2", Bool, "false", Other, "Serve the version 2 API, which etcd has dropped."),
    flag("version", Bool, "false", Other, "Print the version and exit."),
    //
    removed("debug", Bool, "removed in 3.5; use --log-level=debug"),
    removed("log-output", Text, "removed in 3.5; use --log-outputs"),
    removed("log-package-levels", Text, "removed in 3.5; use --log-level"),
    removed("next-cluster-version-compatible", Bool, "removed in 3.5"),
    removed("experimental-enable-v2v3", Text, "the version 2 API is not kept in keys of version 3"),
    removed("v2-deprecation", Text, "removed in 3.8"),
    removed("proxy", Text, "the version 2 proxy is gone since 3.6"),
    removed("proxy-failure-wait", Uint, "the version 2 proxy is gone since 3.6"),
    removed("proxy-refresh-interval", Uint, "the version 2 proxy is gone since 3.6"),
    removed("proxy-dial-timeout", Uint, "the version 2 proxy is gone since 3.6"),
    removed("proxy-write-timeout", Uint, "the version 2 proxy is gone since 3.6"),
    removed("proxy-read-timeout", Uint, "the version 2 proxy is gone since 3.6"),
    removed("snapshot", Bool, "ignored by etcd since 2.0"),
    removed("v", Bool, "ignored by etcd since 2.0"),
    removed("vv", Bool, "ignored by etcd since 2.0"),
    removed("force", Bool, "ignored by etcd since 2.0"),
    removed("cluster-active-size", Text, "ignored by etcd since 2.0"),
    removed("cluster-remove-delay", Text, "ignored by etcd since 2.0"),
    removed("cluster-sync-interval", Text, "ignored by etcd since 2.0"),
    removed("config", Text, "ignored by etcd since 2.0; use --config-file"),
    removed("max-result-buffer", Text, "ignored by etcd since 2.0"),
    removed("max-retry-attempts", Text, "ignored by etcd since 2.0"),
    removed("peer-heartbeat-interval", Text, "ignored by etcd since 2.0; use --heartbeat-interval"),
    removed("peer-election-timeout", Text, "ignored by etcd since 2.0; use --election-timeout"),
    removed("retry-interval", Text, "ignored by etcd since 2.0"),
];

/// Boolean flags of 3.5 and 3.6 that became feature gates.
pub(super) const GATE_FLAGS: &[(&str, &str)] = &[
    ("experimental-initial-corrupt-check", "InitialCorruptCheck"),
    ("experimental-compact-hash-check-enabled", "CompactHashCheck"),
    ("experimental-enable-lease-checkpoint", "LeaseCheckpoint"),
    ("experimental-enable-lease-checkpoint-persist", "LeaseCheckpointPersist"),
    ("experimental-stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"),
    ("experimental-txn-mode-write-with-shared-buffer", "TxnModeWriteWithSharedBuffer"),
    ("experimental-set-member-localaddr", "SetMemberLocalAddr"),
];

pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The flag that had this `experimental-` name in etcd 3.5 or 3.6.
pub(super) fn find_experimental(name: &str) -> Option<&'static Flag> {
    find(name.strip_prefix("experimental-")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        url::parse_urls,
        value::{parse_bool, parse_duration, parse_int, parse_uint},
    };

    #[test]
    fn names_are_unique_and_defaults_have_the_syntax_of_their_kind() {
        for (i, flag) in FLAGS.iter().enumerate() {
            assert!(FLAGS[..i].iter().all(|other| other.name != flag.name), "{} is there twice", flag.name);
            let default = flag.default;
            let sound = match flag.kind {
                _ if matches!(flag.standing, Standing::Removed(_)) => true,
                Text | Path => true,
                Choice(words) => words.contains(&default),
                Bool => parse_bool(default).is_ok(),
                Int => parse_int(default).is_ok(),
                Uint => parse_uint(default).is_ok(),
                Duration => parse_duration(default).is_ok(),
                Urls => parse_urls(default).is_ok(),
            };
            assert!(sound, "the default {default:?} of {}", flag.name);
        }
    }

    #[test]
    fn experimental_names_are_known() {
        let names = "backend-bbolt-freelist-type bootstrap-defrag-threshold-megabytes compact-hash-check-time \
            compaction-batch-limit compaction-sleep-interval corrupt-check-time distributed-tracing-address \
            distributed-tracing-instance-id distributed-tracing-sampling-rate distributed-tracing-service-name \
            downgrade-check-time enable-distributed-tracing max-learners memory-mlock \
            peer-skip-client-san-verification snapshot-catchup-entries warning-apply-duration \
            warning-unary-request-duration watch-progress-notify-interval";
        for name in names.split_whitespace() {
            assert!(find_experimental(&format!("experimental-{name}")).is_some(), "{name}");
        }
    }
}
