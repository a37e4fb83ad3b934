//! The metrics, under etcd's names, labels and buckets.
//!
//! There are two kinds. Events are counted where they happen, through a handle that is a public field of
//! [`Metrics`]. State (sizes, revisions, the leader) is not kept up to date here: the node describes
//! itself in a [`NodeState`] before each scrape. A name that ends in `_total` may be a gauge, and a counter
//! may lack that suffix, because etcd named them so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    Registry, TextEncoder, core::Metric,
};

use crate::config::{Config, ETCD_VERSION, MetricsMode};

use super::{
    Counts, GrpcMethod, History, grpc,
    maker::{Maker, buckets},
    peer::{PeerFamilies, PeerMetrics},
    process::Process,
    requests::{DurationsByKind, RequestKind},
    trace::{TraceMetrics, Tracer},
};

/// The state of the node at the time of a scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeState {
    /// In hex.
    pub(crate) member_id: String,
    /// `3.7`; empty before it is known.
    pub(crate) cluster_version: String,
    /// The ids of all members, this one included, in hex.
    pub(crate) known_peers: Vec<String>,
    pub(crate) has_leader: bool,
    pub(crate) is_leader: bool,
    pub(crate) is_learner: bool,
    pub(crate) proposals_committed: u64,
    pub(crate) proposals_applied: u64,
    pub(crate) proposals_pending: u64,
    /// 0 when there is no limit.
    pub(crate) quota_bytes: i64,
    pub(crate) db_bytes: i64,
    pub(crate) db_in_use_bytes: i64,
    pub(crate) open_read_transactions: u64,
    pub(crate) rev_current: i64,
    pub(crate) rev_compacted: i64,
    pub(crate) auth_revision: u64,
    pub(crate) keys: u64,
    pub(crate) watch_streams: u64,
    pub(crate) watchers: u64,
    pub(crate) slow_watchers: u64,
    pub(crate) pending_events: u64,
    /// Member in hex, and the kind: `NOSPACE` or `CORRUPT`.
    pub(crate) alarms: Vec<(String, &'static str)>,
    /// The directories whose disk is full.
    pub(crate) full_disks: Vec<String>,
}

/// Of the backups that this member makes.
pub(crate) struct BackupMetrics {
    /// Seconds since 1970; 0 before the first.
    pub(crate) last_success: Gauge,
    pub(crate) last_size: IntGauge,
    /// In seconds.
    pub(crate) last_duration: Gauge,
    pub(crate) successes: IntCounter,
    pub(crate) failures: IntCounter,
}

/// The handles of all metrics.
pub(crate) struct Metrics {
    registry: Registry,
    /// The last minutes, for the console.
    pub(crate) history: History,
    state: StateGauges,
    process: ProcessGauges,
    grpc: BTreeMap<String, Arc<GrpcMethod>>,

    pub(crate) client_received_bytes: IntCounter,
    pub(crate) client_sent_bytes: IntCounter,
    /// `unary` or `stream`, and the client's version of the API.
    pub(crate) client_requests: IntCounterVec,

    peers: PeerFamilies,
    pub(crate) leader_changes: IntCounter,
    pub(crate) heartbeat_failures: IntCounter,
    pub(crate) slow_read_indexes: IntCounter,
    pub(crate) failed_read_indexes: IntCounter,
    pub(crate) learners_promoted: IntCounter,
    /// By reason.
    pub(crate) learners_refused: IntCounterVec,
    /// 1 while a received snapshot is being installed.
    pub(crate) snapshot_apply_inflight: IntGauge,
    pub(crate) proposals_failed: IntCounter,
    slow_apply: IntCounter,
    apply_duration: DurationsByKind,
    apply_is_slow: Duration,
    request_duration: DurationsByKind,
    /// By success.
    range_duration: HistogramVec,
    range_duration_ok: Histogram,
    /// `send` or `receive`, and `watch` or `lease-keepalive`.
    pub(crate) stream_failures: IntCounterVec,
    watch_send: Histogram,
    watch_send_per_event: Histogram,
    watch_control: Histogram,
    watch_progress: Histogram,

    pub(crate) health_success: IntCounter,
    pub(crate) health_failures: IntCounter,
    healthcheck: GaugeVec,
    healthchecks: IntCounterVec,

    pub(crate) puts: IntCounter,
    pub(crate) deletes: IntCounter,
    pub(crate) ranges: IntCounter,
    pub(crate) txns: IntCounter,
    pub(crate) put_bytes: IntGauge,
    pub(crate) events: IntCounter,
    pub(crate) hash_duration: Histogram,
    pub(crate) hash_rev_duration: Histogram,
    /// Unix seconds; 0 before the first one.
    pub(crate) compaction_last: IntGauge,
    compaction_ms: Histogram,
    compaction_pause_ms: Histogram,

    pub(crate) leases_granted: IntCounter,
    pub(crate) leases_revoked: IntCounter,
    pub(crate) leases_renewed: IntCounter,
    pub(crate) leases_expired: IntCounter,
    pub(crate) lease_ttl_secs: Histogram,

    wal_fsync: Histogram,
    wal_write: Histogram,
    wal_write_bytes: IntGauge,
    backend_commit: Histogram,
    backend_commit_write: Histogram,
    /// Durable writes of a snapshot that was received, up to and without its rename.
    pub(crate) snap_db_fsync: Histogram,
    /// From the first piece of a received snapshot until it is installed.
    pub(crate) snap_db_save: Histogram,
    pub(crate) compacted_revisions: IntCounter,
    pub(crate) backend_snapshot: Histogram,
    pub(crate) backend_defrag: Histogram,
    /// 1 while defragmenting.
    pub(crate) defrag_inflight: IntGauge,
    pub(crate) backup: BackupMetrics,
    /// `None`: nothing is traced.
    pub(crate) tracer: Option<Arc<Tracer>>,

    scrapes: IntCounterVec,
    scrapes_inflight: IntGauge,
}

impl Metrics {
    pub(crate) fn new(config: &Config) -> Metrics {
        let registry = Registry::new();
        let make = Maker { registry: &registry };
        let disk = || buckets(0.001, 14);
        let apply = || buckets(0.0001, 20);
        let range_duration = make.histograms(
            "etcd_server_range_duration_seconds",
            "Duration of reading a range.",
            apply(),
            &["success"],
        );
        let traced = TraceMetrics::new(&make);
        let metrics = Metrics {
            tracer: config.tracing.as_ref().map(|settings| Arc::new(Tracer::new(settings, traced))),
            state: StateGauges::new(&make),
            process: ProcessGauges::new(&make),
            grpc: grpc::methods(&registry, config.metrics == MetricsMode::Extensive),

            client_received_bytes: make.counter(
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes received from gRPC clients.",
            ),
            client_sent_bytes: make
                .counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to gRPC clients."),
            client_requests: make.counters(
                "etcd_server_client_requests_total",
                "Requests, by the client's API version.",
                &["type", "client_api_version"],
            ),

            peers: PeerFamilies::new(&make),
            heartbeat_failures: make.counter(
                "etcd_server_heartbeat_send_failures_total",
                "Heartbeats that were not answered in time.",
            ),
            slow_read_indexes: make
                .counter("etcd_server_slow_read_indexes_total", "Read indexes that took too long or failed."),
            failed_read_indexes: make
                .counter("etcd_server_read_indexes_failed_total", "Read indexes that failed."),
            learners_promoted: make
                .counter("etcd_server_learner_promote_successes", "Learners promoted by this leader."),
            learners_refused: make.counters(
                "etcd_server_learner_promote_failures",
                "Learners that this leader did not promote, by reason.",
                &["Reason"],
            ),
            snapshot_apply_inflight: make.gauge(
                "etcd_server_snapshot_apply_in_progress_total",
                "1 while a received snapshot is being installed.",
            ),
            leader_changes: make.counter("etcd_server_leader_changes_seen_total", "Changes of leader seen."),
            proposals_failed: make.counter("etcd_server_proposals_failed_total", "Proposals that failed."),
            slow_apply: make.counter(
                "etcd_server_slow_apply_total",
                "Requests that took longer to apply than --warning-apply-duration.",
            ),
            apply_duration: {
                let applies = make.histograms(
                    "etcd_server_apply_duration_seconds",
                    "Duration of applying a request.",
                    apply(),
                    &["version", "op", "success"],
                );
                DurationsByKind::new(applies, |kind, success| vec!["v3", kind, success])
            },
            apply_is_slow: config.warning_apply_duration,
            request_duration: {
                let requests = make.histograms(
                    "etcd_server_request_duration_seconds",
                    "Duration of requests, by type.",
                    disk(),
                    &["type", "success"],
                );
                DurationsByKind::new(requests, |kind, success| vec![kind, success])
            },
            range_duration_ok: range_duration.with_label_values(&["true"]),
            range_duration,
            stream_failures: make.counters(
                "etcd_network_server_stream_failures_total",
                "Streams that failed, by direction and API.",
                &["Type", "API"],
            ),
            watch_send: make.histogram(
                "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
                "Duration of preparing one answer with events and passing it to its watch stream.",
                disk(),
            ),
            watch_send_per_event: make.histogram(
                "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
                "Duration of preparing one answer with events, divided by the number of events.",
                disk(),
            ),
            watch_control: make.histogram(
                "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
                "Duration of one request to create or cancel a watcher.",
                disk(),
            ),
            watch_progress: make.histogram(
                "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
                "Duration of one round of progress notifications.",
                disk(),
            ),

            health_success: make.counter("etcd_server_health_success", "Health checks that succeeded."),
            health_failures: make.counter("etcd_server_health_failures", "Health checks that failed."),
            healthcheck: make.gauges(
                "etcd_server_healthcheck",
                "Latest result of each health check: 1 is success.",
                &["type", "name"],
            ),
            healthchecks: make.counters(
                "etcd_server_healthchecks_total",
                "Results of each health check.",
                &["type", "name", "status"],
            ),

            puts: make.counter("etcd_mvcc_put_total", "Puts."),
            deletes: make.counter("etcd_mvcc_delete_total", "Deletes."),
            ranges: make.counter("etcd_mvcc_range_total", "Ranges."),
            txns: make.counter("etcd_mvcc_txn_total", "Transactions."),
            put_bytes: make
                .gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Keys and values put, in bytes."),
            events: make.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers."),
            hash_duration: make.histogram(
                "etcd_mvcc_hash_duration_seconds",
                "Duration of hashing the whole database.",
                buckets(0.01, 15),
            ),
            hash_rev_duration: make.histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "Duration of hashing the history up to a revision.",
                buckets(0.01, 15),
            ),
            compaction_last: make
                .gauge("etcd_debugging_mvcc_db_compaction_last", "Unix time of the last compaction."),
            compaction_ms: make.histogram(
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "Duration of compactions.",
                buckets(100.0, 14),
            ),
            compaction_pause_ms: make.histogram(
                "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
                "Duration of one batch of a compaction.",
                buckets(1.0, 13),
            ),

            leases_granted: make.counter("etcd_debugging_lease_granted_total", "Leases granted."),
            leases_revoked: make.counter("etcd_debugging_lease_revoked_total", "Leases revoked."),
            leases_renewed: make
                .counter("etcd_debugging_lease_renewed_total", "Leases renewed by this leader."),
            leases_expired: make.counter("etcd_debugging_server_lease_expired_total", "Leases that expired."),
            lease_ttl_secs: make.histogram(
                "etcd_debugging_lease_ttl_total",
                "TTLs of granted leases, in seconds.",
                buckets(1.0, 24),
            ),

            wal_fsync: make.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "Duration of the fsync of the write-ahead log.",
                disk(),
            ),
            wal_write: make.histogram(
                "etcd_disk_wal_write_duration_seconds",
                "Duration of writes to the write-ahead log, without the fsync.",
                disk(),
            ),
            wal_write_bytes: make
                .gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the write-ahead log."),
            backend_commit: make.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "Duration of checkpoints, the commits to the database.",
                disk(),
            ),
            backend_commit_write: make.histogram(
                "etcd_debugging_disk_backend_commit_write_duration_seconds",
                "Duration of writing and syncing the pages of a commit.",
                disk(),
            ),
            snap_db_fsync: make.histogram(
                "etcd_snap_db_fsync_duration_seconds",
                "Duration of the fsync of a received snapshot.",
                disk(),
            ),
            snap_db_save: make.histogram(
                "etcd_snap_db_save_total_duration_seconds",
                "Duration of receiving and storing a snapshot.",
                buckets(0.1, 10),
            ),
            compacted_revisions: make
                .counter("etcd_debugging_mvcc_db_compaction_keys_total", "Revisions removed by compactions."),
            backend_snapshot: make.histogram(
                "etcd_disk_backend_snapshot_duration_seconds",
                "Duration of sending snapshots to clients.",
                buckets(0.01, 17),
            ),
            backend_defrag: make.histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "Duration of defragmentations.",
                buckets(0.1, 13),
            ),
            defrag_inflight: make.gauge("etcd_disk_defrag_inflight", "1 while defragmenting."),
            backup: BackupMetrics {
                last_success: make.gauge_f64(
                    "retcd_backup_last_success_timestamp_seconds",
                    "When the newest backup was made that this member knows of, since 1970.",
                ),
                last_size: make.gauge("retcd_backup_last_size_bytes", "Size of the last backup."),
                last_duration: make.gauge_f64(
                    "retcd_backup_last_duration_seconds",
                    "How long the last backup took, with reading it again.",
                ),
                successes: make.counter("retcd_backup_successes_total", "Backups that this member has made."),
                failures: make.counter("retcd_backup_failures_total", "Backups that have failed."),
            },

            scrapes: make.counters(
                "promhttp_metric_handler_requests_total",
                "Scrapes, by HTTP status code.",
                &["code"],
            ),
            scrapes_inflight: make
                .gauge("promhttp_metric_handler_requests_in_flight", "Scrapes that are being answered."),

            registry: registry.clone(),
            history: History::default(),
        };
        register_idle(&make);
        for code in ["200", "500", "503"] {
            metrics.scrapes.with_label_values(&[code]);
        }
        let version = make.gauges(
            "etcd_server_version",
            "The version of etcd with which this server is compatible.",
            &["server_version"],
        );
        version.with_label_values(&[ETCD_VERSION]).set(1.0);
        let enabled =
            make.gauges("etcd_server_feature_enabled", "Whether a feature gate is on.", &["name", "stage"]);
        for feature in &config.features {
            enabled.with_label_values(&[feature.name, feature.stage]).set(f64::from(feature.enabled));
        }
        metrics
    }

    /// The methods of a service, by their paths: `/package.Service/Method`.
    pub(crate) fn grpc_methods(&self, service: &str) -> impl Iterator<Item = (&str, &Arc<GrpcMethod>)> {
        let prefix = format!("/{service}/");
        self.grpc
            .iter()
            .filter(move |(path, _)| path.starts_with(&prefix))
            .map(|(path, method)| (path.as_str(), method))
    }

    /// The metrics of the traffic with a peer.
    pub(crate) fn peer(&self, local: u64, remote: u64) -> PeerMetrics {
        self.peers.of(local, remote)
    }

    /// To be called when `bytes` were written to the log and synced.
    pub(crate) fn observe_wal_append(&self, write: Duration, sync: Duration, bytes: usize) {
        self.wal_write.observe(write.as_secs_f64());
        self.wal_fsync.observe(sync.as_secs_f64());
        self.wal_write_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// What the history makes rates of.
    pub(crate) fn counts(&self) -> Counts {
        let fsync = self.wal_fsync.metric();
        let fsync = fsync.get_histogram();
        let bounded = fsync
            .get_bucket()
            .iter()
            .map(|bucket| (bucket.upper_bound() * 1000.0, bucket.cumulative_count()));
        let all = (f64::INFINITY, fsync.get_sample_count());
        Counts { puts: self.puts.get(), ranges: self.ranges.get(), fsyncs_ms: bounded.chain([all]).collect() }
    }

    /// To be called when a checkpoint was committed to the database.
    pub(crate) fn observe_checkpoint(&self, took: Duration) {
        self.backend_commit.observe(took.as_secs_f64());
        // In etcd a commit has phases before it writes pages. In redb writing is the whole commit.
        self.backend_commit_write.observe(took.as_secs_f64());
    }

    /// To be called when a compaction has ended.
    pub(crate) fn observe_compaction(&self, took: Duration) {
        self.compaction_ms.observe(took.as_secs_f64() * 1000.0);
    }

    /// To be called after each stride of a compaction.
    pub(crate) fn observe_compaction_pause(&self, took: Duration) {
        self.compaction_pause_ms.observe(took.as_secs_f64() * 1000.0);
    }

    /// To be called when a command was applied.
    pub(crate) fn observe_apply(&self, kind: RequestKind, success: bool, took: Duration) {
        self.apply_duration.observe(kind, success, took);
    }

    /// To be called when a log entry with this number of commands was applied and its events were published. A
    /// slow entry counts once for each of its commands, because each of them is answered late.
    pub(crate) fn observe_applied_entry(&self, took: Duration, commands: usize) {
        if took > self.apply_is_slow {
            self.slow_apply.inc_by(commands as u64);
        }
    }

    /// To be called when a request was answered, or canceled by its client.
    pub(crate) fn observe_request(&self, kind: RequestKind, success: bool, took: Duration) {
        self.request_duration.observe(kind, success, took);
    }

    /// To be called when a range was read.
    pub(crate) fn observe_range(&self, success: bool, took: Duration) {
        let took = took.as_secs_f64();
        if success {
            self.range_duration_ok.observe(took);
        } else {
            self.range_duration.with_label_values(&["false"]).observe(took);
        }
    }

    /// To be called when an answer with this number of events was passed to a watch stream.
    pub(crate) fn observe_watch_send(&self, took: Duration, events: usize) {
        self.watch_send.observe(took.as_secs_f64());
        self.watch_send_per_event.observe(took.as_secs_f64() / events.max(1) as f64);
    }

    /// To be called when a request to create or cancel a watcher was answered.
    pub(crate) fn observe_watch_control(&self, took: Duration) {
        self.watch_control.observe(took.as_secs_f64());
    }

    /// To be called when the watchers of a stream were checked for due progress notifications.
    pub(crate) fn observe_watch_progress(&self, took: Duration) {
        self.watch_progress.observe(took.as_secs_f64());
    }

    /// The result of one check of `/livez` or `/readyz`.
    pub(crate) fn checked(&self, kind: &str, name: &str, success: bool) {
        self.healthcheck.with_label_values(&[kind, name]).set(f64::from(success));
        let status = if success { "success" } else { "error" };
        self.healthchecks.with_label_values(&[kind, name, status]).inc();
    }

    /// All metrics, in Prometheus' text format.
    pub(crate) fn render(&self, state: &NodeState) -> String {
        self.scrapes_inflight.inc();
        self.state.set(state);
        if let Some(process) = Process::look() {
            self.process.set(&process);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("a Vec grows as needed");
        self.scrapes_inflight.dec();
        self.scrapes.with_label_values(&["200"]).inc();
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

/// Registers metrics of parts that retcd does not have, because dashboards ask for them. Their value
/// stays 0.
fn register_idle(make: &Maker<'_>) {
    make.histogram(
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "Always 0: retcd compacts the index in short strides.",
        buckets(0.5, 14),
    );
    // Phases of a commit that redb does not have.
    for phase in ["rebalance", "spill"] {
        make.histogram(
            &format!("etcd_debugging_disk_backend_commit_{phase}_duration_seconds"),
            "Always 0: commits of retcd have no such phase.",
            buckets(0.001, 14),
        );
    }
    // etcd writes a small file of its version 2 store beside each snapshot.
    for name in [
        "etcd_snap_fsync_duration_seconds",
        "etcd_debugging_snap_save_total_duration_seconds",
        "etcd_debugging_snap_save_marshalling_duration_seconds",
    ] {
        make.histogram(name, "Always 0: there are no files of the version 2 store.", buckets(0.001, 14));
    }
    // The version 2 store itself.
    const NO_STORE: &str = "Always 0: there is no version 2 store.";
    make.counter("etcd_debugging_store_expires_total", NO_STORE);
    make.counter("etcd_debugging_store_watch_requests_total", NO_STORE);
    make.gauge("etcd_debugging_store_watchers", NO_STORE);
}

/// The gauges that show a [`NodeState`].
struct StateGauges {
    known_peers: GaugeVec,
    has_leader: IntGauge,
    is_leader: IntGauge,
    is_learner: IntGauge,
    proposals_committed: IntGauge,
    proposals_applied: IntGauge,
    proposals_pending: IntGauge,
    quota_bytes: IntGauge,
    db_bytes: IntGauge,
    db_in_use_bytes: IntGauge,
    open_read_transactions: IntGauge,
    rev_current: IntGauge,
    rev_compacted: IntGauge,
    auth_revision: IntGauge,
    keys: IntGauge,
    watch_streams: IntGauge,
    watchers: IntGauge,
    slow_watchers: IntGauge,
    pending_events: IntGauge,
    member_id: GaugeVec,
    cluster_version: GaugeVec,
    alarms: GaugeVec,
    full_disks: GaugeVec,
}

impl StateGauges {
    fn new(make: &Maker<'_>) -> StateGauges {
        StateGauges {
            known_peers: make.gauges(
                "etcd_network_known_peers",
                "1 for each member that this one knows.",
                &["Local", "Remote"],
            ),
            has_leader: make.gauge("etcd_server_has_leader", "1 when there is a leader."),
            is_leader: make.gauge("etcd_server_is_leader", "1 when this member is the leader."),
            is_learner: make.gauge("etcd_server_is_learner", "1 when this member is a learner."),
            proposals_committed: make.gauge("etcd_server_proposals_committed_total", "Proposals committed."),
            proposals_applied: make.gauge("etcd_server_proposals_applied_total", "Proposals applied."),
            proposals_pending: make
                .gauge("etcd_server_proposals_pending", "Proposals waiting to be committed."),
            quota_bytes: make.gauge("etcd_server_quota_backend_bytes", "The space quota."),
            db_bytes: make.gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the database on disk."),
            db_in_use_bytes: make.gauge(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Size of the data in the database, without free pages.",
            ),
            open_read_transactions: make
                .gauge("etcd_mvcc_db_open_read_transactions", "Open read transactions."),
            rev_current: make.gauge("etcd_debugging_mvcc_current_revision", "The current revision."),
            rev_compacted: make.gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision."),
            auth_revision: make.gauge("etcd_debugging_auth_revision", "The revision of users and roles."),
            keys: make.gauge("etcd_debugging_mvcc_keys_total", "Number of keys."),
            watch_streams: make.gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams."),
            watchers: make.gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
            slow_watchers: make.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind."),
            pending_events: make.gauge("etcd_debugging_mvcc_pending_events_total", "Events not sent yet."),
            member_id: make.gauges("etcd_server_id", "The id of this member.", &["server_id"]),
            cluster_version: make.gauges(
                "etcd_cluster_version",
                "The version of the cluster.",
                &["cluster_version"],
            ),
            full_disks: make.gauges(
                "retcd_disk_full",
                "1 for each directory whose disk is full: writes that add data are refused.",
                &["path"],
            ),
            alarms: make.gauges(
                "etcd_server_alarms",
                "Alarms that are raised.",
                &["server_id", "alarm_type"],
            ),
        }
    }

    fn set(&self, state: &NodeState) {
        let NodeState {
            member_id,
            cluster_version,
            known_peers,
            has_leader,
            is_leader,
            is_learner,
            proposals_committed,
            proposals_applied,
            proposals_pending,
            quota_bytes,
            db_bytes,
            db_in_use_bytes,
            open_read_transactions,
            rev_current,
            rev_compacted,
            auth_revision,
            keys,
            watch_streams,
            watchers,
            slow_watchers,
            pending_events,
            alarms,
            full_disks,
        } = state;
        self.has_leader.set(i64::from(*has_leader));
        self.is_leader.set(i64::from(*is_leader));
        self.is_learner.set(i64::from(*is_learner));
        self.quota_bytes.set(*quota_bytes);
        self.db_bytes.set(*db_bytes);
        self.db_in_use_bytes.set(*db_in_use_bytes);
        self.rev_current.set(*rev_current);
        self.rev_compacted.set(*rev_compacted);
        for (gauge, value) in [
            (&self.proposals_committed, proposals_committed),
            (&self.proposals_applied, proposals_applied),
            (&self.proposals_pending, proposals_pending),
            (&self.open_read_transactions, open_read_transactions),
            (&self.auth_revision, auth_revision),
            (&self.keys, keys),
            (&self.watch_streams, watch_streams),
            (&self.watchers, watchers),
            (&self.slow_watchers, slow_watchers),
            (&self.pending_events, pending_events),
        ] {
            gauge.set(i64::try_from(*value).unwrap_or(i64::MAX));
        }
        // Labels that no longer apply are removed, because their value would stay 1.
        for (gauge, label) in [(&self.member_id, member_id), (&self.cluster_version, cluster_version)] {
            gauge.reset();
            if !label.is_empty() {
                gauge.with_label_values(&[label]).set(1.0);
            }
        }
        self.known_peers.reset();
        for remote in known_peers {
            self.known_peers.with_label_values(&[member_id, remote]).set(1.0);
        }
        self.full_disks.reset();
        for path in full_disks {
            self.full_disks.with_label_values(&[path.as_str()]).set(1.0);
        }
        self.alarms.reset();
        for (member, kind) in alarms {
            self.alarms.with_label_values(&[member.as_str(), *kind]).set(1.0);
        }
    }
}

/// The metrics that show a [`Process`].
struct ProcessGauges {
    cpu_seconds: Counter,
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    virtual_bytes_max: Gauge,
    start_seconds: Gauge,
    open_fds: [Gauge; 2],
    max_fds: [Gauge; 2],
    received_bytes: Counter,
    sent_bytes: Counter,
}

impl ProcessGauges {
    fn new(make: &Maker<'_>) -> ProcessGauges {
        ProcessGauges {
            cpu_seconds: make
                .register(Counter::new("process_cpu_seconds_total", "CPU time, user and system.")),
            resident_bytes: make.gauge_f64("process_resident_memory_bytes", "Resident memory."),
            virtual_bytes: make.gauge_f64("process_virtual_memory_bytes", "Virtual memory."),
            virtual_bytes_max: make.gauge_f64("process_virtual_memory_max_bytes", "Maximum virtual memory."),
            start_seconds: make.gauge_f64("process_start_time_seconds", "Unix time of the start."),
            open_fds: ["process_open_fds", "os_fd_used"]
                .map(|name| make.gauge_f64(name, "Open file descriptors.")),
            max_fds: ["process_max_fds", "os_fd_limit"]
                .map(|name| make.gauge_f64(name, "Maximum number of open file descriptors.")),
            received_bytes: make.register(Counter::new(
                "process_network_receive_bytes_total",
                "Bytes that the process's network namespace received.",
            )),
            sent_bytes: make.register(Counter::new(
                "process_network_transmit_bytes_total",
                "Bytes that the process's network namespace sent.",
            )),
        }
    }

    fn set(&self, process: &Process) {
        // Two concurrent scrapes may read the numbers in one order and arrive here in the other. A counter
        // must not fall.
        for (counter, now) in [
            (&self.cpu_seconds, process.cpu_seconds),
            (&self.received_bytes, process.received_bytes),
            (&self.sent_bytes, process.sent_bytes),
        ] {
            counter.inc_by((now - counter.get()).max(0.0));
        }
        self.resident_bytes.set(process.resident_bytes);
        self.virtual_bytes.set(process.virtual_bytes);
        self.virtual_bytes_max.set(process.virtual_bytes_max);
        self.start_seconds.set(process.start_seconds);
        self.open_fds.iter().for_each(|gauge| gauge.set(process.open_fds));
        self.max_fds.iter().for_each(|gauge| gauge.set(process.max_fds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dashboards_and_alerts_read_is_there_from_the_start() {
        let metrics = Metrics::new(&Config::of_flags(&[]));
        let state = NodeState { has_leader: true, db_bytes: 20480, ..NodeState::default() };
        let text = metrics.render(&state);
        for line in [
            "# TYPE etcd_server_has_leader gauge\netcd_server_has_leader 1\n",
            "# TYPE etcd_server_leader_changes_seen_total counter\netcd_server_leader_changes_seen_total 0\n",
            "# TYPE etcd_server_proposals_committed_total gauge\n",
            "# TYPE etcd_server_proposals_applied_total gauge\n",
            "# TYPE etcd_server_proposals_pending gauge\n",
            "# TYPE etcd_server_proposals_failed_total counter\n",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 0\n",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 0\n",
            "etcd_disk_backend_commit_duration_seconds_bucket{le=\"8.192\"} 0\n",
            "etcd_mvcc_db_total_size_in_bytes 20480\n",
            "# TYPE etcd_mvcc_db_total_size_in_use_in_bytes gauge\n",
            "# TYPE etcd_server_quota_backend_bytes gauge\n",
            "etcd_network_client_grpc_received_bytes_total 0\n",
            "etcd_network_client_grpc_sent_bytes_total 0\n",
            "grpc_server_started_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 0\n",
            "grpc_server_handled_total{grpc_code=\"Unavailable\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 0\n",
            "# TYPE process_resident_memory_bytes gauge\n",
            "# TYPE process_cpu_seconds_total counter\n",
            "etcd_server_heartbeat_send_failures_total 0\n",
            "# TYPE etcd_server_health_success counter\netcd_server_health_success 0\n",
            "etcd_server_version{server_version=\"3.7.3\"} 1\n",
            "etcd_server_feature_enabled{name=\"LeaseCheckpoint\",stage=\"ALPHA\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("grpc_server_handling_seconds"));
    }

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let metrics = Metrics::new(&Config::of_flags(&["--metrics=extensive"]));
        let put = metrics
            .grpc_methods("etcdserverpb.KV")
            .find(|(path, _)| *path == "/etcdserverpb.KV/Put")
            .expect("a method")
            .1;
        put.started.inc();
        put.handled(0, Duration::from_millis(20));
        put.handled(14, Duration::from_millis(20));
        put.handled(99, Duration::from_millis(20));
        let text = metrics.render(&NodeState::default());
        let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        for line in [
            format!("grpc_server_started_total{{{put}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{put}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"Unknown\",{put}}} 1\n"),
            format!("grpc_server_handling_seconds_bucket{{{put},le=\"0.01\"}} 0\n"),
            format!("grpc_server_handling_seconds_bucket{{{put},le=\"0.025\"}} 3\n"),
        ] {
            assert!(text.contains(&line), "{line} is missing");
        }
        assert!(!metrics.grpc_methods("etcdserverpb.KV").any(|(path, _)| path.ends_with("Pull")));
    }

    #[test]
    fn state_is_what_it_was_last_said_to_be() {
        let metrics = Metrics::new(&Config::of_flags(&[]));
        let state = NodeState {
            member_id: "8e9e05c52164694d".to_owned(),
            cluster_version: "3.6".to_owned(),
            alarms: vec![("8e9e05c52164694d".to_owned(), "NOSPACE")],
            full_disks: Vec::new(),
            rev_compacted: -1,
            ..NodeState::default()
        };
        let text = metrics.render(&state);
        assert!(text.contains("etcd_server_id{server_id=\"8e9e05c52164694d\"} 1\n"));
        assert!(text.contains("etcd_cluster_version{cluster_version=\"3.6\"} 1\n"));
        assert!(text.contains("alarm_type=\"NOSPACE\",server_id=\"8e9e05c52164694d\"} 1\n"));
        assert!(text.contains("etcd_debugging_mvcc_compact_revision -1\n"));

        let text = metrics.render(&NodeState { cluster_version: "3.7".to_owned(), ..NodeState::default() });
        assert!(text.contains("etcd_cluster_version{cluster_version=\"3.7\"} 1\n"));
        assert!(!text.contains("\"3.6\"") && !text.contains("NOSPACE"));
    }

    #[test]
    fn timings_land_under_their_labels() {
        let metrics = Metrics::new(&Config::of_flags(&[]));
        metrics.observe_apply(RequestKind::Put, true, Duration::from_micros(150));
        metrics.observe_apply(RequestKind::Txn, false, Duration::from_micros(150));
        metrics.observe_applied_entry(Duration::from_micros(150), 1);
        metrics.observe_applied_entry(Duration::from_secs(1), 7);
        metrics.observe_request(RequestKind::DeleteRange, true, Duration::from_millis(3));
        metrics.observe_range(true, Duration::from_micros(150));
        metrics.observe_range(false, Duration::from_micros(150));
        metrics.observe_wal_append(Duration::from_micros(1500), Duration::from_millis(3), 4096);
        metrics.observe_watch_send(Duration::from_millis(7), 4);
        metrics.observe_checkpoint(Duration::from_millis(3));
        metrics.observe_compaction_pause(Duration::from_millis(3));
        metrics.checked("/readyz", "data_corruption", true);
        metrics.checked("/readyz", "data_corruption", false);
        let text = metrics.render(&NodeState::default());
        for line in [
            "etcd_server_apply_duration_seconds_bucket{op=\"Put\",success=\"true\",version=\"v3\",le=\"0.0002\"} 1\n",
            "etcd_server_apply_duration_seconds_bucket{op=\"Txn\",success=\"false\",version=\"v3\",le=\"0.0002\"} 1\n",
            "etcd_server_request_duration_seconds_bucket{success=\"true\",type=\"DeleteRange\",le=\"0.004\"} 1\n",
            "etcd_server_range_duration_seconds_bucket{success=\"true\",le=\"0.0002\"} 1\n",
            "etcd_server_range_duration_seconds_bucket{success=\"false\",le=\"0.0002\"} 1\n",
            "etcd_disk_wal_write_duration_seconds_bucket{le=\"0.002\"} 1\n",
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds_bucket{le=\"0.008\"} 1\n",
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds_bucket{le=\"0.002\"} 1\n",
            "etcd_server_slow_apply_total 7\n",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.004\"} 1\n",
            "etcd_disk_wal_write_bytes_total 4096\n",
            "etcd_disk_backend_commit_duration_seconds_bucket{le=\"0.004\"} 1\n",
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_bucket{le=\"4\"} 1\n",
            "etcd_server_healthcheck{name=\"data_corruption\",type=\"/readyz\"} 0\n",
            "etcd_server_healthchecks_total{name=\"data_corruption\",status=\"error\",type=\"/readyz\"} 1\n",
            "etcd_server_healthchecks_total{name=\"data_corruption\",status=\"success\",type=\"/readyz\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_peer_is_counted_under_its_own_name() {
        let metrics = Metrics::new(&Config::of_flags(&[]));
        let peer = Arc::new(metrics.peer(0xa, 0xb));
        peer.found();
        peer.sent(100);
        peer.received(7);
        peer.send_failed();
        peer.receive_failed();
        peer.observe_round_trip(Duration::from_millis(3));
        peer.sending_snapshot().arrived();
        drop(peer.sending_snapshot());
        let underway = peer.receiving_snapshot();
        let text = metrics.render(&NodeState::default());
        for line in [
            "etcd_network_active_peers{Local=\"a\",Remote=\"b\"} 1\n",
            "etcd_network_peer_sent_bytes_total{To=\"b\"} 100\n",
            "etcd_network_peer_received_bytes_total{From=\"b\"} 7\n",
            "etcd_network_peer_sent_failures_total{To=\"b\"} 1\n",
            "etcd_network_peer_received_failures_total{From=\"b\"} 1\n",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"0.0032\"} 1\n",
            "etcd_network_snapshot_send_success{To=\"b\"} 1\n",
            "etcd_network_snapshot_send_failures{To=\"b\"} 1\n",
            "etcd_network_snapshot_send_inflights_total{To=\"b\"} 0\n",
            "etcd_network_snapshot_send_total_duration_seconds_count{To=\"b\"} 1\n",
            "etcd_network_snapshot_receive_inflights_total{From=\"b\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        drop(underway);
        peer.lost();
        let text = metrics.render(&NodeState::default());
        for line in [
            "etcd_network_active_peers{Local=\"a\",Remote=\"b\"} 0\n",
            "etcd_network_disconnected_peers_total{Local=\"a\",Remote=\"b\"} 1\n",
            "etcd_network_snapshot_receive_failures{From=\"b\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
