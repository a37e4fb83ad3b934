//! The first lines of the log: which server starts, and with which settings.

use std::{
    env::consts,
    path::{self, Path},
};

use super::{GoDuration, list};
use crate::config::{ClusterState, Config, ETCD_VERSION, GIT_SHA, ListenUrl, Notice, RUST_VERSION};

/// Logs what is about to start, and the remarks about the settings. The message and the fields are
/// etcd's, where etcd has them.
pub(crate) fn log_start(config: &Config) {
    let absolute =
        |path: &Path| path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let urls = |urls: &[ListenUrl]| urls.iter().map(ListenUrl::to_string).collect::<Vec<_>>();
    let wal_dir = config.wal_dir.as_deref().map(absolute).unwrap_or_default();
    let member_dir = config.data_dir.join("member");
    tracing::info!(
        "etcd-version" = ETCD_VERSION,
        "retcd-version" = env!("CARGO_PKG_VERSION"),
        "git-sha" = GIT_SHA,
        "rust-version" = RUST_VERSION,
        os = consts::OS,
        arch = consts::ARCH,
        "member-initialized" = member_dir.join("snap").join("db").exists(),
        name = config.name,
        "data-dir" = absolute(&config.data_dir),
        "wal-dir" = wal_dir,
        "member-dir" = absolute(&member_dir),
        "force-new-cluster" = config.force_new_cluster,
        "heartbeat-interval" = %GoDuration(config.heartbeat),
        "election-timeout" = %GoDuration(config.election_timeout),
        "initial-advertise-peer-urls" = ?list(&config.initial_advertise_peer_urls),
        "listen-peer-urls" = ?list(&urls(&config.listen_peer_urls)),
        "advertise-client-urls" = ?list(&config.advertise_client_urls),
        "listen-client-urls" = ?list(&urls(&config.listen_client_urls)),
        "listen-metrics-urls" = ?list(&urls(&config.listen_metrics_urls)),
        "initial-cluster" = config.initial_cluster_text(),
        "initial-cluster-state" = match config.initial_cluster_state {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        },
        "initial-cluster-token" = config.initial_cluster_token,
        "quota-backend-bytes" = config.quota_backend_bytes.unwrap_or(0),
        "max-request-bytes" = config.max_request_bytes,
        "pre-vote" = config.pre_vote,
        reactors = config.reactors,
        set = ?list(&config.settings),
        "starting an etcd server"
    );
    log_notices(config);
}

fn log_notices(config: &Config) {
    for Notice { warn, message } in &config.notices {
        if *warn { tracing::warn!("{message}") } else { tracing::info!("{message}") }
    }
}
