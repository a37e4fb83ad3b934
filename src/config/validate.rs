//! Validation: the flags become a [`Config`], or an error that says why they make no sense together.
//!
//! The messages are etcd's where etcd has one, because operators search for them. Validation touches
//! neither disk nor network. Rules that hold only for a member without data are checked by
//! [`Config::verify_bootstrap`], after the data directory has been opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::limits::{
    AUTH_TOKEN_TTL_DEFAULT, AUTH_TOKEN_TTL_MAX, BACKUP_INTERVAL_MIN, KEEPALIVE_INTERVAL_MIN,
    KEEPALIVE_MIN_TIME_DEFAULT, QUOTA_BYTES_DEFAULT, REACTORS_MAX, REQUEST_BYTES_LIMIT, REQUEST_BYTES_MIN,
};

use super::{
    AuthToken, AutoCompaction, BackupPlan, ClusterState, Config, ConfigError, Feature, Founding, Keepalive,
    LogFormat, LogLevel, LogOutput, LogRotation, MetricsMode, Notice, Retain, Sending, SocketOptions,
    TraceSettings,
    flags::Flags,
    security::transport_security,
    table::{Flag, Kind, Standing},
    url::{ListenAddress, ListenUrl, Target, Url, parse_urls},
    value::{parse_bool, parse_duration},
};

const ELECTION_MS_MAX: u64 = 50_000;
const QUOTA_BYTES_SUGGESTED_MAX: i64 = 8 << 30;
const REQUEST_BYTES_SUGGESTED_MAX: usize = 10 << 20;
/// The gRPC transport keeps the length of a message in 32 bits.
const REQUEST_BYTES_MAX: u64 = i32::MAX as u64;
/// A shorter interval would keep the server busy with progress notifications.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The feature gates that change what retcd does. Those that cost nothing are on by default, unlike in etcd.
const LEASE_CHECKPOINT: &str = "LeaseCheckpoint";
const COMPACT_HASH_CHECK: &str = "CompactHashCheck";
const INITIAL_CORRUPT_CHECK: &str = "InitialCorruptCheck";

const FEATURES: &[(&str, &str, bool)] = &[
    ("StopGRPCServiceOnDefrag", "ALPHA", false),
    (INITIAL_CORRUPT_CHECK, "ALPHA", false),
    (COMPACT_HASH_CHECK, "ALPHA", true),
    ("TxnModeWriteWithSharedBuffer", "BETA", true),
    (LEASE_CHECKPOINT, "ALPHA", true),
    ("LeaseCheckpointPersist", "ALPHA", true),
    ("SetMemberLocalAddr", "ALPHA", false),
    ("FastLeaseKeepAlive", "BETA", true),
    ("PriorityRequest", "ALPHA", false),
];

impl TryFrom<&Flags> for Config {
    type Error = ConfigError;

    fn try_from(flags: &Flags) -> Result<Config, ConfigError> {
        let mut notices = flags.notices.clone();
        check_standing(flags, &mut notices)?;

        check_words(flags)?;

        let listen_client_urls = listen_urls(flags, "listen-client-urls")?;
        let listen_client_http_urls = listen_urls(flags, "listen-client-http-urls")?;
        let listen_peer_urls = listen_urls(flags, "listen-peer-urls")?;
        let listen_metrics_urls = listen_urls(flags, "listen-metrics-urls")?;
        check_listeners(&[
            ("listen-client-urls", &listen_client_urls, true),
            ("listen-client-http-urls", &listen_client_http_urls, false),
            ("listen-peer-urls", &listen_peer_urls, true),
            ("listen-metrics-urls", &listen_metrics_urls, false),
        ])?;

        let features = features(flags, &mut notices)?;
        let is_on = |name: &str| features.iter().any(|feature| feature.name == name && feature.enabled);
        let advertise_client_urls = advertised(flags, "advertise-client-urls", &mut notices)?;
        let initial_advertise_peer_urls = advertised(flags, "initial-advertise-peer-urls", &mut notices)?;
        if flags.is_set("listen-client-urls") && !flags.is_set("advertise-client-urls") {
            return invalid(format!(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly; it tells clients where \
                 to reach this member, for example --advertise-client-urls {}",
                advertise_example(&flags.urls("listen-client-urls"))
            ));
        }

        let name = flags.text("name").to_owned();
        let data_dir = match flags.path("data-dir") {
            dir if dir.as_os_str().is_empty() => PathBuf::from(format!("{name}.etcd")),
            dir => dir.to_owned(),
        };
        let founding = Founding::of(flags)?;
        let initial_cluster = match flags.text("initial-cluster") {
            "" => vec![(name.clone(), initial_advertise_peer_urls.clone())],
            text => initial_cluster(text)?,
        };
        let cluster_urls: Vec<String> = initial_cluster.iter().flat_map(|(_, urls)| urls).cloned().collect();
        let (client_security, peer_security) =
            transport_security(flags, &data_dir, &cluster_urls, &mut notices)?;
        let (heartbeat, election_timeout) = election_timing(flags)?;
        let max_request_bytes = max_request_bytes(flags, &mut notices)?;
        let log_outputs = log_outputs(flags.text("log-outputs"))?;

        Ok(Config {
            name,
            data_dir,
            wal_dir: Some(flags.path("wal-dir").to_owned()).filter(|dir| !dir.as_os_str().is_empty()),
            listen_client_urls,
            listen_client_http_urls,
            listen_peer_urls,
            listen_metrics_urls,
            socket_options: SocketOptions { reuse_port: flags.bool("socket-reuse-port") },
            advertise_client_urls,
            initial_advertise_peer_urls,
            client_security,
            peer_security,
            initial_cluster_token: match &founding {
                Founding::Service(service) => service.token.clone(),
                Founding::Listed | Founding::Dns { .. } => flags.text("initial-cluster-token").to_owned(),
            },
            founding,
            initial_cluster,
            initial_cluster_state: match flags.text("initial-cluster-state") {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            force_new_cluster: flags.bool("force-new-cluster"),
            strict_reconfig_check: flags.bool("strict-reconfig-check"),
            max_learners: narrow(flags, "max-learners")?,
            snapshot_catchup_entries: flags.uint("snapshot-catchup-entries"),
            pre_vote: flags.bool("pre-vote"),
            enable_v2: flags.bool("enable-v2"),
            heartbeat,
            election_timeout,
            memory_mlock: flags.bool("memory-mlock"),
            reactors: match narrow(flags, "reactors")? {
                0 => thread::available_parallelism().map_or(1, usize::from).min(REACTORS_MAX),
                reactors if reactors <= REACTORS_MAX => reactors,
                reactors => {
                    return invalid(format!("--reactors {reactors} must not be greater than {REACTORS_MAX}"));
                }
            },
            console: flags.bool("console"),
            quota_backend_bytes: quota(flags, &mut notices),
            max_txn_ops: narrow(flags, "max-txn-ops")?,
            max_request_bytes,
            // With a limit of 0 streams no request could be made. In etcd, 0 means no limit.
            max_concurrent_streams: match narrow(flags, "max-concurrent-streams")? {
                0 => u32::MAX,
                streams => streams,
            },
            grpc_keepalive_min_time: match flags.duration("grpc-keepalive-min-time") {
                Duration::ZERO => KEEPALIVE_MIN_TIME_DEFAULT,
                min_time => min_time,
            },
            grpc_keepalive: keepalive(flags),
            auto_compaction: auto_compaction(flags)?,
            backup: backup(flags)?,
            compaction_batch_limit: match flags.int("compaction-batch-limit") {
                limit if limit > 0 => narrow(flags, "compaction-batch-limit")?,
                _ => return invalid("--compaction-batch-limit must be greater than 0"),
            },
            compaction_sleep_interval: flags.duration("compaction-sleep-interval"),
            watch_progress_notify_interval: flags
                .duration("watch-progress-notify-interval")
                .max(PROGRESS_INTERVAL_MIN),
            enable_grpc_gateway: flags.bool("enable-grpc-gateway"),
            cors: any_or_list(flags.text("cors")),
            host_whitelist: any_or_list(flags.text("host-whitelist")),
            auth_token: AuthToken::parse(flags.text("auth-token"))
                .map_err(|error| ConfigError::invalid(format!("--auth-token: {error}")))?,
            // As in etcd, 0 means the default.
            auth_token_ttl: match flags.uint("auth-token-ttl") {
                0 => AUTH_TOKEN_TTL_DEFAULT,
                secs => Duration::from_secs(secs).min(AUTH_TOKEN_TTL_MAX),
            },
            bcrypt_cost: match narrow(flags, "bcrypt-cost")? {
                cost @ 4..=31 => cost,
                cost => return invalid(format!("--bcrypt-cost {cost} must be between 4 and 31")),
            },
            warning_apply_duration: flags.duration("warning-apply-duration"),
            warning_unary_request_duration: flags.duration("warning-unary-request-duration"),
            log_level: log_level(flags)?,
            log_format: match flags.text("log-format") {
                "" => None,
                "json" => Some(LogFormat::Json),
                "console" => Some(LogFormat::Console),
                other => {
                    return invalid(format!(
                        "--log-format: unknown log format {other:?}, want \"json\" or \"console\""
                    ));
                }
            },
            log_rotation: log_rotation(flags, &log_outputs)?,
            log_outputs,
            metrics: match flags.text("metrics") {
                "basic" => MetricsMode::Basic,
                "extensive" => MetricsMode::Extensive,
                other => {
                    return invalid(format!(
                        "--metrics: unknown metrics mode {other:?}, want basic or extensive"
                    ));
                }
            },
            tracing: tracing(flags)?,
            // As in etcd.
            pprof: flags.bool("enable-pprof") || flags.text("log-level") == "debug",
            lease_checkpoint: is_on(LEASE_CHECKPOINT),
            checks_history_at_start: is_on(INITIAL_CORRUPT_CHECK),
            corrupt_check_interval: Some(flags.duration("corrupt-check-time"))
                .filter(|interval| !interval.is_zero()),
            compact_hash_check_interval: is_on(COMPACT_HASH_CHECK)
                .then(|| flags.duration("compact-hash-check-time")),
            features,
            settings: flags.settings(),
            notices,
        })
    }
}

impl Config {
    /// Checks what must hold to start a new cluster. A member that already has data does not use the
    /// flags of the first start any more.
    ///
    /// `same_places` compares two lists of URLs by the addresses they resolve to; its error says what
    /// differs.
    pub(crate) fn verify_bootstrap(
        &self,
        same_places: impl FnOnce(&[String], &[String]) -> Result<(), String>,
    ) -> Result<(), ConfigError> {
        let urls = self.verify_join()?;
        let advertised = &self.initial_advertise_peer_urls;
        let Err(difference) = same_places(advertised, urls) else { return Ok(()) };
        let missing = |urls: &[String], from: &[String]| {
            let missing: Vec<String> = urls.iter().filter(|url| !from.contains(url)).cloned().collect();
            missing
        };
        let (not_advertised, not_listed) = (missing(urls, advertised), missing(advertised, urls));
        let remedy = format!(" ({difference}); both must name the same URLs for this member");
        if !not_advertised.is_empty() {
            return invalid(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}{remedy}",
                join(not_advertised.iter().map(|url| format!("{}={url}", self.name))),
                join(advertised),
            ));
        }
        invalid(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}{remedy}",
            join(&not_listed),
            join(urls.iter().map(|url| format!("{}={url}", self.name))),
        ))
    }

    /// Checks what must hold to start or to join a cluster. Returns the peer URLs that
    /// `--initial-cluster` has for this member.
    pub(crate) fn verify_join(&self) -> Result<&[String], ConfigError> {
        let mut seen = BTreeSet::new();
        if !self.initial_cluster.iter().flat_map(|(_, urls)| urls).all(|url| seen.insert(url)) {
            return invalid(format!("initial cluster {} has duplicate url", self.initial_cluster_text()));
        }
        let Some((_, urls)) = self.initial_cluster.iter().find(|(name, _)| *name == self.name) else {
            return invalid(format!(
                "couldn't find local name {:?} in the initial cluster configuration; --name must be one of the \
                 names in --initial-cluster: {}",
                self.name,
                join(self.initial_cluster.iter().map(|(name, _)| name)),
            ));
        };
        Ok(urls)
    }

    /// `--initial-cluster` as a user would type it.
    pub(crate) fn initial_cluster_text(&self) -> String {
        join(
            self.initial_cluster
                .iter()
                .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}"))),
        )
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::invalid(message.into()))
}

fn warn(notices: &mut Vec<Notice>, message: String) {
    notices.push(Notice { warn: true, message });
}

fn join<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(item.as_ref());
    }
    text
}

/// Warns about flags that have no effect, and refuses flags that ask for an unsupported feature.
fn check_standing(flags: &Flags, notices: &mut Vec<Notice>) -> Result<(), ConfigError> {
    for (flag, text) in flags.iter_set().filter(|(flag, text)| !is_default(flag, text)) {
        match flag.standing {
            Standing::Unsupported(what) => {
                return invalid(format!("--{} is set, but {what} is not supported yet", flag.name));
            }
            Standing::NoEffect => warn(notices, format!("--{}={text} has no effect in retcd", flag.name)),
            Standing::NoEffectWithout(what) => {
                warn(notices, format!("--{} is ignored: it has no effect without {what}", flag.name));
            }
            Standing::Used | Standing::Removed(_) => {}
        }
    }
    Ok(())
}

/// Whether a value means what the default means. In a configuration file a duration is a number of nanoseconds.
fn is_default(flag: &Flag, text: &str) -> bool {
    let same_time = || parse_duration(text).is_ok_and(|time| parse_duration(flag.default) == Ok(time));
    text == flag.default || (flag.kind == Kind::Duration && same_time())
}

/// Refuses values that etcd refuses of flags that have but one useful value, or no effect.
fn check_words(flags: &Flags) -> Result<(), ConfigError> {
    match flags.text("logger") {
        "zap" => {}
        "capnslog" => return invalid("--logger=capnslog is removed in v3.5"),
        other => return invalid(format!("unknown logger option {other:?}; --logger must be \"zap\"")),
    }
    if flags.text("discovery-fallback") == "proxy" {
        return invalid("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"");
    }
    if flags.duration("compact-hash-check-time").is_zero() {
        return invalid("--compact-hash-check-time must be >0 (set to 0s)");
    }
    Ok(())
}

/// The number of a flag, in the type of the `Config` field; a number that does not fit is refused.
fn narrow<T: TryFrom<i128>>(flags: &Flags, name: &'static str) -> Result<T, ConfigError> {
    let text = flags.text(name);
    let number: i128 = text.parse().expect("checked when it was set");
    T::try_from(number).or_else(|_| invalid(format!("--{name} {text} is out of range")))
}

/// The URLs of a flag. Two spellings of one address are one socket, so each address is kept once; its connections
/// may use the scheme of either.
fn listen_urls(flags: &Flags, name: &'static str) -> Result<Vec<ListenUrl>, ConfigError> {
    let urls = flags.urls(name).iter().map(Url::listen).collect::<Result<Vec<_>, _>>();
    let urls = urls.map_err(|error| ConfigError::invalid(format!("--{name}: {error}")))?;
    let mut sockets: Vec<ListenUrl> = Vec::new();
    for url in urls {
        match sockets.iter_mut().find(|known| known.address == url.address && url.address.is_one_place()) {
            Some(known) => known.accepts = known.accepts.and(url.accepts),
            None => sockets.push(url),
        }
    }
    Ok(sockets)
}

/// An example of `--advertise-client-urls` for a member that listens on these URLs.
fn advertise_example(listen: &[Url]) -> String {
    match listen.first().map(|url| (url, &url.target)) {
        None => "http://10.0.0.1:2379".to_owned(),
        Some((url, Target::Host { host, port })) if host == "0.0.0.0" || host == "::" => {
            format!("{}://10.0.0.1:{port}", url.scheme.as_str())
        }
        Some((url, _)) => url.to_string(),
    }
}

/// `listeners` are the flags, their URLs, and whether a flag must have at least one URL.
fn check_listeners(listeners: &[(&'static str, &[ListenUrl], bool)]) -> Result<(), ConfigError> {
    let mut owners: BTreeMap<&ListenAddress, &str> = BTreeMap::new();
    for (name, urls, is_needed) in listeners {
        if *is_needed && urls.is_empty() {
            return invalid(format!("--{name} must name at least one URL"));
        }
        for address in urls.iter().map(|url| &url.address).filter(|address| address.is_one_place()) {
            match owners.insert(address, name) {
                Some(other) if other != *name => {
                    return invalid(format!("--{other} and --{name} both listen on {address}"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn advertised(
    flags: &Flags,
    name: &'static str,
    notices: &mut Vec<Notice>,
) -> Result<Vec<String>, ConfigError> {
    let urls = flags.urls(name);
    for url in &urls {
        let Target::Host { host, .. } = &url.target else { continue };
        if host.is_empty() {
            return invalid(format!(
                "--{name} {:?} must be \"host:port\" (unexpected empty host ({url}))",
                url.to_string()
            ));
        }
        if host == "0.0.0.0" || host == "::" {
            warn(
                notices,
                format!(
                    "--{name} {url} is a wildcard address, at which no client or member can reach this member"
                ),
            );
        }
    }
    Ok(urls.iter().map(Url::to_string).collect())
}

pub(super) fn initial_cluster(text: &str) -> Result<Vec<(String, Vec<String>)>, ConfigError> {
    let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (name, url) = item.split_once('=').unwrap_or(("", item));
        if name.is_empty() || url.is_empty() {
            return invalid(format!("--initial-cluster: {item:?} is not of the form name=url"));
        }
        let urls =
            parse_urls(url).map_err(|error| ConfigError::invalid(format!("--initial-cluster: {error}")))?;
        members.entry(name).or_default().extend(urls.iter().map(Url::to_string));
    }
    let sorted = |(name, mut urls): (&str, Vec<String>)| {
        urls.sort_unstable();
        (name.to_owned(), urls)
    };
    Ok(members.into_iter().map(sorted).collect())
}

fn election_timing(flags: &Flags) -> Result<(Duration, Duration), ConfigError> {
    let (heartbeat, election) = (flags.uint("heartbeat-interval"), flags.uint("election-timeout"));
    if heartbeat == 0 {
        return invalid("--heartbeat-interval must be >0 (set to 0ms)");
    }
    if election == 0 {
        return invalid("--election-timeout must be >0 (set to 0ms)");
    }
    if heartbeat.saturating_mul(5) > election {
        return invalid(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_MS_MAX {
        return invalid(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        ));
    }
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

fn max_request_bytes(flags: &Flags, notices: &mut Vec<Notice>) -> Result<usize, ConfigError> {
    if flags.uint("max-request-bytes") > REQUEST_BYTES_MAX {
        return invalid(format!("--max-request-bytes must not be greater than {REQUEST_BYTES_MAX}"));
    }
    let bytes: usize = narrow(flags, "max-request-bytes")?;
    if bytes < REQUEST_BYTES_MIN {
        return invalid(format!(
            "--max-request-bytes {bytes} is too small for a put; it must be at least {REQUEST_BYTES_MIN}"
        ));
    }
    if bytes > REQUEST_BYTES_LIMIT {
        warn(
            notices,
            format!(
                "--max-request-bytes {bytes} is reduced to {REQUEST_BYTES_LIMIT}: a larger request does not fit in a message \
                 between members, and is refused with `etcdserver: request is too large`"
            ),
        );
    } else if bytes > REQUEST_BYTES_SUGGESTED_MAX {
        warn(notices, format!("--max-request-bytes {bytes} exceeds the recommended 10 MiB"));
    }
    Ok(bytes.min(REQUEST_BYTES_LIMIT))
}

fn quota(flags: &Flags, notices: &mut Vec<Notice>) -> Option<i64> {
    match flags.int("quota-backend-bytes") {
        0 => Some(QUOTA_BYTES_DEFAULT),
        bytes if bytes < 0 => {
            warn(notices, "--quota-backend-bytes is negative: the size of the data has no limit".to_owned());
            None
        }
        bytes => {
            if bytes > QUOTA_BYTES_SUGGESTED_MAX {
                warn(notices, format!("--quota-backend-bytes {bytes} exceeds the recommended 8 GiB"));
            }
            Some(bytes)
        }
    }
}

/// Setting either the interval or the timeout to 0 turns pings off.
fn keepalive(flags: &Flags) -> Option<Keepalive> {
    let interval = flags.duration("grpc-keepalive-interval");
    let timeout = flags.duration("grpc-keepalive-timeout");
    let interval_raised = interval.max(KEEPALIVE_INTERVAL_MIN);
    (!interval.is_zero() && !timeout.is_zero()).then_some(Keepalive { interval: interval_raised, timeout })
}

/// A plain number means hours in the mode `periodic` and revisions in the mode `revision`.
fn auto_compaction(flags: &Flags) -> Result<AutoCompaction, ConfigError> {
    let retention = flags.text("auto-compaction-retention");
    let wrong = || {
        ConfigError::invalid(format!(
            "--auto-compaction-retention: error parsing CompactionRetention: {retention:?}; want hours or a duration such \
             as 10m with --auto-compaction-mode=periodic, a number of revisions with --auto-compaction-mode=revision"
        ))
    };
    let number: Option<u32> = retention.parse().ok();
    match (flags.text("auto-compaction-mode"), number) {
        ("periodic" | "revision", Some(0)) => Ok(AutoCompaction::Off),
        ("periodic", Some(hours)) => {
            Ok(AutoCompaction::Periodic(Duration::from_secs(u64::from(hours) * 3600)))
        }
        ("periodic", None) => match parse_duration(retention).map_err(|_| wrong())? {
            Duration::ZERO => Ok(AutoCompaction::Off),
            age => Ok(AutoCompaction::Periodic(age)),
        },
        ("revision", _) => match retention.parse() {
            Ok(revisions) if revisions > 0 => Ok(AutoCompaction::Revision(revisions)),
            _ => Err(wrong()),
        },
        ("", _) => {
            invalid("undefined auto-compaction-mode; want --auto-compaction-mode=periodic or revision")
        }
        (mode, _) => invalid(format!(
            "unknown auto-compaction-mode {mode:?}; want --auto-compaction-mode=periodic or revision"
        )),
    }
}

fn backup(flags: &Flags) -> Result<Option<BackupPlan>, ConfigError> {
    let retain = flags.text("backup-retain");
    let parse = || {
        let (count, age) = retain.split_once(',').map_or((retain, None), |(count, age)| (count, Some(age)));
        let count: usize = count.trim().parse().ok()?;
        let age = age.map(|age| parse_duration(age.trim())).transpose().ok()?;
        Some(Retain { count: (count > 0).then_some(count), age: age.filter(|age| !age.is_zero()) })
    };
    let Some(retain) = parse() else {
        return invalid(format!(
            "--backup-retain: {retain:?} is no number of backups; want a number such as 24, or a number and an age \
             such as 24,168h"
        ));
    };
    let interval = flags.duration("backup-interval");
    if interval < BACKUP_INTERVAL_MIN {
        return invalid("--backup-interval must be at least 1s");
    }
    let dir = flags.path("backup-dir");
    let member = Some(flags.text("backup-member")).filter(|name| !name.is_empty()).map(str::to_owned);
    Ok((dir != Path::new("")).then(|| BackupPlan { dir: dir.to_owned(), interval, retain, member }))
}

/// `None` when the list holds `*`.
fn any_or_list(text: &str) -> Option<Vec<String>> {
    let items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
    let any = items.iter().any(|item| item.is_empty() || item == "*");
    (!any).then_some(items)
}

fn log_level(flags: &Flags) -> Result<LogLevel, ConfigError> {
    match flags.text("log-level") {
        "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" => Ok(LogLevel::Warn),
        "error" => Ok(LogLevel::Error),
        "dpanic" | "panic" | "fatal" => Ok(LogLevel::Fatal),
        other => invalid(format!(
            "--log-level: unrecognized level: {other:?}; want debug, info, warn, error, dpanic, panic or fatal"
        )),
    }
}

fn log_outputs(text: &str) -> Result<Vec<LogOutput>, ConfigError> {
    let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    if items.len() > 1 && items.contains(&"default") {
        return invalid(
            "multi logoutput for \"default\" is not supported yet: --log-outputs=default stands alone; name stderr in its \
             place",
        );
    }
    let mut outputs: Vec<LogOutput> = Vec::new();
    for item in items {
        let output = match item {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => LogOutput::Journal,
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if outputs.is_empty() { invalid("--log-outputs must name at least one output") } else { Ok(outputs) }
}

fn log_rotation(flags: &Flags, outputs: &[LogOutput]) -> Result<Option<LogRotation>, ConfigError> {
    if !flags.bool("enable-log-rotation") {
        return Ok(None);
    }
    let json = flags.text("log-rotation-config-json");
    LogRotation::parse(json, outputs).map(Some).map_err(ConfigError::invalid)
}

fn tracing(flags: &Flags) -> Result<Option<TraceSettings>, ConfigError> {
    if !flags.bool("enable-distributed-tracing") {
        return Ok(None);
    }
    let sampled_per_million = match flags.int("distributed-tracing-sampling-rate") {
        ..0 => Err("tracing sampling rate must be positive"),
        1_000_001.. => Err("tracing sampling rate must be less than 1000000"),
        rate => Ok(rate as u32),
    };
    let sampled_per_million = sampled_per_million.map_err(|why| {
        ConfigError::invalid(format!("distributed tracing configurition is not valid: ({why})"))
    })?;
    let address = flags.text("distributed-tracing-address").to_owned();
    if address.parse::<http::uri::Authority>().map_or(true, |authority| authority.port_u16().is_none()) {
        return invalid(format!("--distributed-tracing-address {address:?} must be \"host:port\""));
    }
    Ok(Some(TraceSettings {
        address,
        service_name: flags.text("distributed-tracing-service-name").to_owned(),
        instance_id: flags.text("distributed-tracing-instance-id").to_owned(),
        sampled_per_million,
        sending: Sending::default(),
    }))
}

fn features(flags: &Flags, notices: &mut Vec<Notice>) -> Result<Vec<Feature>, ConfigError> {
    let mut features: Vec<Feature> =
        FEATURES.iter().map(|&(name, stage, enabled)| Feature { name, stage, enabled }).collect();
    for item in flags.gates() {
        let (name, text) = item.split_once('=').unwrap_or((item, ""));
        let Ok(on) = parse_bool(text.trim()) else {
            return invalid(format!(
                "--feature-gates: invalid value of feature gate {item:?}, want Name=true or Name=false"
            ));
        };
        let name = name.trim();
        let stage = match name {
            "AllAlpha" => Some("ALPHA"),
            "AllBeta" => Some("BETA"),
            _ => None,
        };
        let mut known = false;
        for feature in &mut features {
            if feature.name == name || stage == Some(feature.stage) {
                known = true;
                if feature.enabled != on {
                    feature.enabled = on;
                    if [LEASE_CHECKPOINT, COMPACT_HASH_CHECK, INITIAL_CORRUPT_CHECK].contains(&feature.name) {
                        continue;
                    }
                    warn(notices, format!("feature gate {}={on} has no effect in retcd", feature.name));
                }
            }
        }
        if !known {
            let known: Vec<&str> = features.iter().map(|feature| feature.name).collect();
            return invalid(format!(
                "--feature-gates: unrecognized feature gate: {name}; known gates are {}",
                known.join(", ")
            ));
        }
    }
    Ok(features)
}
