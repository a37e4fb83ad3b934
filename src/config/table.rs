//! Every flag there is, one row each.
//!
//! The names are etcd's, the union of its versions 3.4 to 3.8, so that no unit file, manifest or
//! script has to change. A row says what the flag means here: most are used, some have no
//! effect, some ask for what is not built yet and are refused, and some are history.

use Group::{Auth, Clustering, Limits, Logging, Member, Metrics, Other, Security, Unsafe, Upkeep};
use Kind::{Bool, Choice, Duration, Int, Path, Text, Uint, Urls};

/// One flag, as the help shows it and the parser takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As one would type it.
    pub(super) default: &'static str,
    pub(super) group: Group,
    pub(super) help: &'static str,
    pub(super) standing: Standing,
}

/// What may stand behind the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
    /// A file or directory. The one kind of value that need not be text.
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

/// What becomes of a flag that somebody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Used,
    /// It tunes a part of etcd that has no counterpart here. Accepted with a warning.
    NoEffect,
    /// It tunes what the text names, which is refused. Without that it has no effect in etcd either.
    /// Accepted with a warning.
    NoEffectWithout(&'static str),
    /// Ignoring it would be wrong. Any value but the default is refused; the text says what it
    /// asks for.
    Unsupported(&'static str),
    /// Gone from etcd; the text says since when, or what took its place. Accepted with a warning.
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

/// URLs that TLS is spoken on.
const TLS: &str = "an https:// or unixs:// URL";

pub(super) const FLAGS: &[Flag] = &[
    flag("name", Text, "default", Member, "Name of this member, as --initial-cluster calls it."),
    flag("data-dir", Path, "", Member, "Where the data lives. Empty: <name>.etcd in the working directory."),
    flag(
        "wal-dir",
        Path,
        "",
        Member,
        "A separate place for the write-ahead log. Empty: inside the data directory.",
    ),
    flag("listen-client-urls", Urls, "http://localhost:2379", Member, "Where to listen for clients."),
    flag(
        "listen-client-http-urls",
        Urls,
        "",
        Member,
        "Where to serve plain HTTP, if not on the client URLs.",
    ),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Member, "Where to listen for other members."),
    flag("listen-metrics-urls", Urls, "", Member, "More places for /metrics and the health checks."),
    flag("heartbeat-interval", Uint, "100", Member, "Milliseconds between heartbeats of the leader."),
    flag("election-timeout", Uint, "1000", Member, "Milliseconds without a leader before an election."),
    flag("initial-election-tick-advance", Bool, "true", Member, "Shorten the first election.").no_effect(),
    flag("snapshot-count", Uint, "10000", Member, "Log entries between two snapshots.").no_effect(),
    flag(
        "snapshot-catchup-entries",
        Uint,
        "5000",
        Member,
        "Log entries kept behind a snapshot for slow members.",
    ),
    flag("reactors", Uint, "0", Member, "Threads that serve clients. 0: one for each core. (Not in etcd.)"),
    flag("max-wals", Uint, "5", Member, "Old log files to keep.").no_effect(),
    flag("max-snapshots", Uint, "5", Member, "Old snapshot files to keep.").no_effect(),
    flag("memory-mlock", Bool, "false", Member, "Keep memory from being swapped out.").no_effect(),
    flag("backend-bbolt-freelist-type", Text, "map", Member, "How bbolt keeps free pages.").no_effect(),
    flag("backend-batch-interval", Duration, "0", Member, "Longest wait of a backend batch.").no_effect(),
    flag("backend-batch-limit", Int, "0", Member, "Most operations in a backend batch.").no_effect(),
    flag("socket-reuse-port", Bool, "false", Member, "Listen with SO_REUSEPORT.").no_effect(),
    flag("socket-reuse-address", Bool, "false", Member, "Listen with SO_REUSEADDR.").no_effect(),
    flag("raft-read-timeout", Duration, "5s", Member, "Read timeout between members.").no_effect(),
    flag("raft-write-timeout", Duration, "5s", Member, "Write timeout between members.").no_effect(),
    flag("enable-grpc-gateway", Bool, "true", Member, "Serve JSON below /v3/.").no_effect(),
    flag("feature-gates", Text, "", Member, "Features to switch: Name=true,Other=false."),
    //
    flag(
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        Clustering,
        "Peer URLs to tell the other members.",
    ),
    flag("initial-cluster", Text, "", Clustering, "First members: name=url,name=url. Empty: this one alone."),
    flag(
        "initial-cluster-state",
        Choice(&["new", "existing"]),
        "new",
        Clustering,
        "\"new\", or \"existing\" to join a cluster that runs.",
    ),
    flag("initial-cluster-token", Text, "etcd-cluster", Clustering, "Keeps clusters apart while they start."),
    flag(
        "advertise-client-urls",
        Urls,
        "http://localhost:2379",
        Clustering,
        "Client URLs to tell everybody.",
    ),
    flag("strict-reconfig-check", Bool, "true", Clustering, "Refuse changes that would cost the quorum."),
    flag("pre-vote", Bool, "true", Clustering, "Ask before starting an election."),
    flag("max-learners", Uint, "1", Clustering, "Most learners in the cluster."),
    flag("discovery-token", Text, "", Clustering, "Discovery: token of the cluster.")
        .unsupported("discovery"),
    flag("discovery-endpoints", Text, "", Clustering, "Discovery: where to ask.").unsupported("discovery"),
    flag("discovery-dial-timeout", Duration, "2s", Clustering, "Discovery: dial timeout.").no_effect(),
    flag("discovery-request-timeout", Duration, "5s", Clustering, "Discovery: request timeout.").no_effect(),
    flag("discovery-keepalive-time", Duration, "2s", Clustering, "Discovery: keepalive time.").no_effect(),
    flag("discovery-keepalive-timeout", Duration, "6s", Clustering, "Discovery: keepalive timeout.")
        .no_effect(),
    flag("discovery-insecure-transport", Bool, "true", Clustering, "Discovery: without TLS.").no_effect(),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", Clustering, "Discovery: trust anyone.")
        .no_effect(),
    flag("discovery-cert", Text, "", Clustering, "Discovery: client certificate.")
        .no_effect_without("--discovery-endpoints"),
    flag("discovery-key", Text, "", Clustering, "Discovery: client key.")
        .no_effect_without("--discovery-endpoints"),
    flag("discovery-cacert", Text, "", Clustering, "Discovery: CA certificate.")
        .no_effect_without("--discovery-endpoints"),
    flag("discovery-user", Text, "", Clustering, "Discovery: user.")
        .no_effect_without("--discovery-endpoints"),
    flag("discovery-password", Text, "", Clustering, "Discovery: password.")
        .no_effect_without("--discovery-endpoints"),
    flag("discovery-fallback", Text, "exit", Clustering, "Discovery: what to do when it fails.").no_effect(),
    flag("discovery", Text, "", Clustering, "Version 2 discovery.").unsupported("discovery"),
    flag("discovery-proxy", Text, "", Clustering, "Proxy for version 2 discovery.")
        .no_effect_without("--discovery"),
    flag("discovery-srv", Text, "", Clustering, "DNS domain to discover by.").unsupported("discovery"),
    flag("discovery-srv-name", Text, "", Clustering, "Suffix of the SRV name.")
        .no_effect_without("--discovery-srv"),
    //
    flag(
        "quota-backend-bytes",
        Int,
        "0",
        Limits,
        "Refuse writes beyond this size. 0: 2 GiB. Negative: no limit.",
    ),
    flag("max-txn-ops", Uint, "128", Limits, "Most operations in one transaction."),
    flag("max-request-bytes", Uint, "1572864", Limits, "Largest request."),
    flag("max-concurrent-streams", Uint, "4294967295", Limits, "Most requests in flight on one connection."),
    flag("grpc-keepalive-min-time", Duration, "5s", Limits, "Shortest time between two pings of a client.")
        .no_effect(),
    flag(
        "grpc-keepalive-interval",
        Duration,
        "2h",
        Limits,
        "Silence before the server pings a client. 0: never.",
    ),
    flag("grpc-keepalive-timeout", Duration, "20s", Limits, "Wait for the answer before closing. 0: never."),
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
        "What to keep: hours or a duration; or revisions. 0: off.",
    ),
    flag("compaction-batch-limit", Int, "1000", Upkeep, "Revisions removed in one stride of a compaction."),
    flag("compaction-sleep-interval", Duration, "10ms", Upkeep, "Pause between two strides."),
    flag(
        "watch-progress-notify-interval",
        Duration,
        "10m",
        Upkeep,
        "Silence before a watcher is told the revision.",
    ),
    flag("corrupt-check-time", Duration, "0s", Upkeep, "How often members compare their data.").no_effect(),
    flag("compact-hash-check-time", Duration, "1m", Upkeep, "How often members compare hashes.").no_effect(),
    flag("bootstrap-defrag-threshold-megabytes", Uint, "0", Upkeep, "Defragment at start-up.").no_effect(),
    flag("downgrade-check-time", Duration, "5s", Upkeep, "How often to look for a downgrade.").no_effect(),
    //
    flag("cert-file", Path, "", Security, "Server certificate for clients.").no_effect_without(TLS),
    flag("key-file", Path, "", Security, "Its key.").no_effect_without(TLS),
    flag("client-cert-auth", Bool, "false", Security, "Demand certificates of clients.")
        .no_effect_without(TLS),
    flag("trusted-ca-file", Path, "", Security, "CA of the clients.").no_effect_without(TLS),
    flag("client-cert-file", Path, "", Security, "Certificate for calling itself.").no_effect_without(TLS),
    flag("client-key-file", Path, "", Security, "Its key.").no_effect_without(TLS),
    flag("client-crl-file", Path, "", Security, "Revoked client certificates.").no_effect_without(TLS),
    flag("client-cert-allowed-hostname", Text, "", Security, "Name a client must have.")
        .no_effect_without(TLS),
    flag("auto-tls", Bool, "false", Security, "Make a certificate for clients.").no_effect_without(TLS),
    flag("peer-cert-file", Path, "", Security, "Certificate for members.").no_effect_without(TLS),
    flag("peer-key-file", Path, "", Security, "Its key.").no_effect_without(TLS),
    flag("peer-client-cert-auth", Bool, "false", Security, "Demand certificates of members.")
        .no_effect_without(TLS),
    flag("peer-trusted-ca-file", Path, "", Security, "CA of the members.").no_effect_without(TLS),
    flag("peer-client-cert-file", Path, "", Security, "Certificate for calling members.")
        .no_effect_without(TLS),
    flag("peer-client-key-file", Path, "", Security, "Its key.").no_effect_without(TLS),
    flag("peer-crl-file", Path, "", Security, "Revoked member certificates.").no_effect_without(TLS),
    flag("peer-cert-allowed-cn", Text, "", Security, "Common name a member must have.")
        .no_effect_without(TLS),
    flag("peer-cert-allowed-hostname", Text, "", Security, "Name a member must have.").no_effect_without(TLS),
    flag("peer-auto-tls", Bool, "false", Security, "Make a certificate for members.").no_effect_without(TLS),
    flag("peer-skip-client-san-verification", Bool, "false", Security, "Do not check addresses.")
        .no_effect_without(TLS),
    flag("self-signed-cert-validity", Uint, "1", Security, "Years that a made certificate lasts.")
        .no_effect(),
    flag("cipher-suites", Text, "", Security, "TLS cipher suites.").no_effect_without(TLS),
    flag("tls-min-version", Text, "TLS1.2", Security, "Oldest TLS version.").no_effect(),
    flag("tls-max-version", Text, "", Security, "Newest TLS version.").no_effect(),
    flag("cors", Text, "*", Security, "Web origins that may call, comma-separated. *: all."),
    flag("host-whitelist", Text, "*", Security, "Host names that HTTP requests may use. *: all."),
    //
    flag("auth-token", Text, "simple", Auth, "Kind of token.")
        .unsupported("any kind of token but \"simple\""),
    flag("auth-token-ttl", Uint, "300", Auth, "Seconds that a token lasts.").no_effect(),
    flag("bcrypt-cost", Uint, "10", Auth, "Work spent on a password: 4 to 31."),
    //
    flag("log-level", Text, "info", Logging, "debug, info, warn, error, panic or fatal."),
    flag("log-format", Text, "", Logging, "json or console. Empty: console on a terminal, json elsewhere."),
    flag("log-outputs", Text, "default", Logging, "stderr, stdout or file paths, comma-separated."),
    flag("logger", Text, "zap", Logging, "Always \"zap\": lines have that shape.").no_effect(),
    flag("enable-log-rotation", Bool, "false", Logging, "Rotate log files.").unsupported("log rotation"),
    flag("log-rotation-config-json", Text, "", Logging, "How to rotate.").no_effect(),
    flag("warning-apply-duration", Duration, "100ms", Logging, "Warn when applying takes longer."),
    flag("warning-unary-request-duration", Duration, "300ms", Logging, "Warn when a request takes longer."),
    //
    flag("metrics", Text, "basic", Metrics, "\"extensive\" adds a histogram for each gRPC method."),
    flag("enable-pprof", Bool, "false", Metrics, "Serve Go profiles.").no_effect(),
    flag("enable-distributed-tracing", Bool, "false", Metrics, "Send traces.")
        .unsupported("distributed tracing"),
    flag("distributed-tracing-address", Text, "localhost:4317", Metrics, "Where to send them.").no_effect(),
    flag("distributed-tracing-service-name", Text, "etcd", Metrics, "As which service.").no_effect(),
    flag("distributed-tracing-instance-id", Text, "", Metrics, "As which instance.").no_effect(),
    flag("distributed-tracing-sampling-rate", Int, "0", Metrics, "How many of a million.").no_effect(),
    //
    flag("force-new-cluster", Bool, "false", Unsafe, "Keep the data, forget all other members."),
    flag("unsafe-no-fsync", Bool, "false", Unsafe, "Do not wait for the disk.").no_effect(),
    //
    flag(
        "config-file",
        Path,
        "",
        Other,
        "Read all settings from this YAML file; other flags are then ignored.",
    ),
    flag("version", Bool, "false", Other, "Print the version and exit."),
    //
    removed("debug", Bool, "removed in 3.5; use --log-level=debug"),
    removed("log-output", Text, "removed in 3.5; use --log-outputs"),
    removed("log-package-levels", Text, "removed in 3.5; use --log-level"),
    removed("next-cluster-version-compatible", Bool, "removed in 3.5"),
    removed("enable-v2", Bool, "the version 2 API is gone since 3.6"),
    removed("experimental-enable-v2v3", Text, "the version 2 API is gone since 3.6"),
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

/// The flag that a name of 3.5 or 3.6 stands for today.
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
