//! Settings: from the command line, the environment or a file to a checked [`Config`].
//!
//! `Flags` holds strings under etcd's names; [`Config`] holds addresses, durations and sizes in typed
//! fields. A setting is checked twice on its way: for syntax in `flags` (exit code 2), and for whether
//! it makes sense together with the others in `validate` (exit code 1). Code that reads a `Config`
//! parses and checks nothing again.

mod auth_token;
mod command;
mod discovery;
mod file;
mod flags;
mod help;
mod identity;
mod log_rotation;
mod otel;
mod security;
mod table;
#[cfg(test)]
mod tests;
mod url;
mod validate;
mod value;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use auth_token::{AuthToken, JwtOptions};
pub(crate) use command::{CheckCommand, ExportCommand, RestoreCommand};
pub(crate) use discovery::{DiscoveryService, Founding};
pub(crate) use identity::{added_member_id, cluster_id, member_id};
pub(crate) use log_rotation::LogRotation;
pub(crate) use otel::Sending;
pub(crate) use security::{
    CipherSuite, Generated, Identity, KeyPair, TlsVersion, TransportSecurity, Versions,
};
pub(crate) use url::{Accepts, ListenAddress, ListenUrl, Target, Url};

use flags::Flags;

/// The version of etcd that retcd is compatible with, and that it reports to clients.
pub(crate) const ETCD_VERSION: &str = "3.7.3";
/// The commit that this binary was built from.
pub(crate) const GIT_SHA: &str = match option_env!("RETCD_GIT_SHA") {
    Some(commit) => commit,
    None => "not recorded",
};
pub(crate) const RUST_VERSION: &str = env!("RETCD_RUST_VERSION");
/// The cluster version that belongs to [`ETCD_VERSION`].
pub(crate) const ETCD_CLUSTER_VERSION: &str = "3.7.0";

/// All settings, checked and in types of their own.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    /// `None`: the write-ahead log is inside the data directory.
    pub(crate) wal_dir: Option<PathBuf>,

    pub(crate) listen_client_urls: Vec<ListenUrl>,
    /// If not empty, the client URLs serve gRPC only.
    pub(crate) listen_client_http_urls: Vec<ListenUrl>,
    pub(crate) listen_peer_urls: Vec<ListenUrl>,
    pub(crate) listen_metrics_urls: Vec<ListenUrl>,
    pub(crate) socket_options: SocketOptions,
    pub(crate) advertise_client_urls: Vec<String>,
    /// Sorted, because the member id is computed from this order.
    pub(crate) initial_advertise_peer_urls: Vec<String>,
    /// TLS with clients, on all ports but those for peers.
    pub(crate) client_security: TransportSecurity,
    pub(crate) peer_security: TransportSecurity,

    pub(crate) founding: Founding,
    /// Sorted by name; the URLs of a member are sorted too. This member alone where others are to be asked for it.
    pub(crate) initial_cluster: Vec<(String, Vec<String>)>,
    pub(crate) initial_cluster_state: ClusterState,
    pub(crate) initial_cluster_token: String,
    /// Keep this member's data and make it the only member of the cluster.
    pub(crate) force_new_cluster: bool,
    /// Refuse membership changes that would lose the quorum.
    pub(crate) strict_reconfig_check: bool,
    pub(crate) max_learners: usize,
    /// Log entries kept after a checkpoint, so that a slow member catches up from the log.
    pub(crate) snapshot_catchup_entries: u64,
    pub(crate) pre_vote: bool,
    pub(crate) enable_v2: bool,
    pub(crate) heartbeat: Duration,
    pub(crate) election_timeout: Duration,

    /// Whether the memory of the process must not be swapped out.
    pub(crate) memory_mlock: bool,
    /// Threads that serve clients, never 0.
    pub(crate) reactors: usize,
    /// Whether the console is served to clients.
    pub(crate) console: bool,
    /// `None`: no limit.
    pub(crate) quota_backend_bytes: Option<i64>,
    pub(crate) max_txn_ops: usize,
    pub(crate) max_request_bytes: usize,
    /// `u32::MAX`: the server's own limit.
    pub(crate) max_concurrent_streams: u32,
    /// The shortest time between two pings of a client.
    pub(crate) grpc_keepalive_min_time: Duration,
    /// `None`: the server never pings.
    pub(crate) grpc_keepalive: Option<Keepalive>,

    pub(crate) auto_compaction: AutoCompaction,
    /// `None`: no backups are made.
    pub(crate) backup: Option<BackupPlan>,
    pub(crate) compaction_batch_limit: usize,
    pub(crate) compaction_sleep_interval: Duration,
    pub(crate) watch_progress_notify_interval: Duration,

    /// Whether the JSON gateway is served.
    pub(crate) enable_grpc_gateway: bool,
    /// Allowed CORS origins; `None`: all.
    pub(crate) cors: Option<Vec<String>>,
    /// Host names that are accepted in plaintext HTTP requests; `None`: all.
    pub(crate) host_whitelist: Option<Vec<String>>,

    /// Whether the leader records the remaining TTL of leases in the log.
    pub(crate) lease_checkpoint: bool,

    /// Whether a member compares its history with that of the others before it serves.
    pub(crate) checks_history_at_start: bool,
    /// How often a leader compares the newest history of all members; `None`: never.
    pub(crate) corrupt_check_interval: Option<Duration>,
    /// How often a leader compares the hashes of compactions; `None`: never.
    pub(crate) compact_hash_check_interval: Option<Duration>,

    pub(crate) auth_token: AuthToken,
    /// How long a simple token is valid after its last use.
    pub(crate) auth_token_ttl: Duration,
    /// The bcrypt cost: the number of times that the work of hashing a password is doubled.
    pub(crate) bcrypt_cost: u32,

    pub(crate) warning_apply_duration: Duration,
    pub(crate) warning_unary_request_duration: Duration,
    pub(crate) log_level: LogLevel,
    /// `None`: console on a terminal, JSON elsewhere.
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) log_outputs: Vec<LogOutput>,
    /// `None`: log files grow without end.
    pub(crate) log_rotation: Option<LogRotation>,
    pub(crate) metrics: MetricsMode,
    /// Whether profiles are served to clients.
    pub(crate) pprof: bool,
    /// `None`: nothing is traced.
    pub(crate) tracing: Option<TraceSettings>,
    /// Every feature gate, with whether it is on.
    pub(crate) features: Vec<Feature>,

    /// Each setting that was set, with its value and source, for the log.
    pub(crate) settings: Vec<String>,
    /// Remarks about the settings, kept until the log is set up.
    pub(crate) notices: Vec<Notice>,
}

/// How ports are bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketOptions {
    /// Other processes of the same user may listen on the same port, and get a share of its connections.
    pub(crate) reuse_port: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterState {
    New,
    Existing,
}

/// How the server detects that a client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// The idle time after which the server pings the client.
    pub(crate) interval: Duration,
    /// The time that the server waits for the answer to a ping.
    pub(crate) timeout: Duration,
}

/// Backups that the server makes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackupPlan {
    pub(crate) dir: PathBuf,
    pub(crate) interval: Duration,
    pub(crate) retain: Retain,
    /// The name of the member that makes them; `None`: the leader.
    pub(crate) member: Option<String>,
}

/// Which backups are kept: those that are among the newest `count` and no older than `age`. `None`: any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retain {
    pub(crate) count: Option<usize>,
    pub(crate) age: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AutoCompaction {
    Off,
    /// Keep revisions that are younger than this.
    Periodic(Duration),
    /// Keep this number of revisions.
    Revision(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    /// `dpanic`, `panic` and `fatal`: only errors that end the process.
    Fatal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Json,
    Console,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogOutput {
    Stderr,
    Stdout,
    File(PathBuf),
    /// The journal of systemd.
    Journal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsMode {
    Basic,
    /// With a histogram of handling times for each gRPC method.
    Extensive,
}

/// Where spans are sent, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceSettings {
    /// `host:port` of the collector.
    pub(crate) address: String,
    pub(crate) service_name: String,
    /// Empty: none is said.
    pub(crate) instance_id: String,
    /// Of the calls that their clients do not trace.
    pub(crate) sampled_per_million: u32,
    pub(crate) sending: Sending,
}

/// A feature gate, as the metric `etcd_server_feature_enabled` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    pub(crate) stage: &'static str,
    pub(crate) enabled: bool,
}

/// A remark about the settings, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) warn: bool,
    pub(crate) message: String,
}

/// What the command line asks for: to serve, to restore, or to print a text.
#[derive(Clone, Debug)]
pub(crate) enum Invocation {
    Serve(Box<Config>),
    /// `snapshot restore FILE --data-dir DIR`.
    Restore(Box<RestoreCommand>),
    /// `import SOURCE --data-dir DIR`.
    Import(Box<RestoreCommand>),
    /// `export --data-dir DIR FILE`.
    Export(Box<ExportCommand>),
    Check(Box<CheckCommand>),
    /// Print this text, the help or the version, to stdout and exit.
    Print(String),
}

/// Why the settings were refused, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    pub(crate) exit_code: u8,
    message: String,
}

impl Config {
    /// `args` are the arguments after the program's name.
    pub(crate) fn load(args: &[OsString], env: &[(OsString, OsString)]) -> Result<Invocation, ConfigError> {
        if let [command, rest @ ..] = args
            && !command.as_encoded_bytes().starts_with(b"-")
        {
            return command::invocation(command, rest);
        }
        let flags = Flags::parse(args, env)?;
        if flags.help {
            return Ok(Invocation::Print(help::help()));
        }
        if flags.bool("version") {
            return Ok(Invocation::Print(help::version()));
        }
        let mut config = Config::try_from(&flags)?;
        if let Some(tracing) = &mut config.tracing {
            tracing.sending = Sending::of(env, &mut config.notices);
        }
        Ok(Invocation::Serve(Box::new(config)))
    }

    /// The same, for a cluster that is founded by these members, as `--initial-cluster` names them.
    pub(crate) fn founded_by(&self, members: &str) -> Result<Config, ConfigError> {
        Ok(Config { initial_cluster: validate::initial_cluster(members)?, ..self.clone() })
    }

    /// The same, with members that are expected to have certificates for their domain, if they use TLS and no CA is named
    /// that signs for nobody else. So does etcd, when SRV records say who founds a cluster.
    pub(crate) fn found_in_domain(mut self, domain: &str) -> Config {
        let mut urls = self.initial_cluster.iter().flat_map(|(_, urls)| urls);
        let has_tls = urls.any(|url| url.starts_with("https://"));
        if has_tls && self.peer_security.trusted_ca_file.is_none() {
            self.peer_security.server_name = Some(domain.to_owned());
        }
        self
    }

    /// How long a request waits for the cluster: five seconds plus two election timeouts.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + self.election_timeout * 2
    }
}

impl ConfigError {
    /// The command line has the wrong syntax.
    fn usage(message: String) -> ConfigError {
        ConfigError { exit_code: 2, message }
    }

    /// Whether the command line has the wrong syntax.
    pub(crate) fn is_usage(&self) -> bool {
        self.exit_code == 2
    }

    /// The syntax is right, but the settings make no sense.
    fn invalid(message: String) -> ConfigError {
        ConfigError { exit_code: 1, message }
    }

    fn in_variable(self, variable: &str) -> ConfigError {
        ConfigError::invalid(format!("{} (from the environment variable {variable})", self.message))
    }

    fn in_file(self, path: &Path) -> ConfigError {
        ConfigError::invalid(format!("{} (from the file {})", self.message, path.display()))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
