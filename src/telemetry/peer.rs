//! The metrics of the traffic between this member and each of the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::maker::{Maker, buckets};
use crate::clock;

/// The metrics that have a label for the peer.
pub(super) struct PeerFamilies {
    active: IntGaugeVec,
    disconnected: IntCounterVec,
    sent_bytes: IntCounterVec,
    sent_failures: IntCounterVec,
    received_bytes: IntCounterVec,
    received_failures: IntCounterVec,
    round_trip: HistogramVec,
    snapshots_sent: TransferFamily,
    snapshots_received: TransferFamily,
}

struct TransferFamily {
    inflight: IntGaugeVec,
    successes: IntCounterVec,
    failures: IntCounterVec,
    duration: HistogramVec,
}

impl PeerFamilies {
    pub(super) fn new(make: &Maker<'_>) -> PeerFamilies {
        let (between, to, from) = (&["Local", "Remote"][..], &["To"][..], &["From"][..]);
        PeerFamilies {
            active: make.int_gauges("etcd_network_active_peers", "1 while a peer answers.", between),
            disconnected: make.counters(
                "etcd_network_disconnected_peers_total",
                "Number of times that a peer stopped answering.",
                between,
            ),
            sent_bytes: make.counters("etcd_network_peer_sent_bytes_total", "Bytes sent to a peer.", to),
            sent_failures: make.counters(
                "etcd_network_peer_sent_failures_total",
                "Requests to a peer that were not answered.",
                to,
            ),
            received_bytes: make.counters(
                "etcd_network_peer_received_bytes_total",
                "Bytes received from a peer.",
                from,
            ),
            received_failures: make.counters(
                "etcd_network_peer_received_failures_total",
                "Requests from a peer that failed on this member.",
                from,
            ),
            round_trip: make.histograms(
                "etcd_network_peer_round_trip_time_seconds",
                "Round-trip time of a request to a peer.",
                buckets(0.0001, 16),
                to,
            ),
            snapshots_sent: TransferFamily::new(make, "send", to),
            snapshots_received: TransferFamily::new(make, "receive", from),
        }
    }

    pub(super) fn of(&self, local: u64, remote: u64) -> PeerMetrics {
        let (local, remote) = (format!("{local:x}"), format!("{remote:x}"));
        let (between, remote) = (&[local.as_str(), remote.as_str()][..], &[remote.as_str()][..]);
        PeerMetrics {
            active: self.active.with_label_values(between),
            disconnected: self.disconnected.with_label_values(between),
            sent_bytes: self.sent_bytes.with_label_values(remote),
            sent_failures: self.sent_failures.with_label_values(remote),
            received_bytes: self.received_bytes.with_label_values(remote),
            received_failures: self.received_failures.with_label_values(remote),
            round_trip: self.round_trip.with_label_values(remote),
            round_trips: Mutex::default(),
            messages_sent: AtomicU64::new(0),
            messages_received: AtomicU64::new(0),
            snapshots_sent: self.snapshots_sent.of(remote),
            snapshots_received: self.snapshots_received.of(remote),
        }
    }
}

impl TransferFamily {
    fn new(make: &Maker<'_>, direction: &str, label: &[&str]) -> TransferFamily {
        let name = |suffix: &str| format!("etcd_network_snapshot_{direction}_{suffix}");
        TransferFamily {
            inflight: make.int_gauges(&name("inflights_total"), "Snapshots in transfer.", label),
            successes: make.counters(&name("success"), "Snapshots transferred successfully.", label),
            failures: make.counters(&name("failures"), "Snapshot transfers that failed.", label),
            duration: make.histograms(
                &name("total_duration_seconds"),
                "Duration of a snapshot transfer.",
                buckets(0.1, 10),
                label,
            ),
        }
    }

    fn of(&self, label: &[&str]) -> TransferMetrics {
        TransferMetrics {
            inflight: self.inflight.with_label_values(label),
            successes: self.successes.with_label_values(label),
            failures: self.failures.with_label_values(label),
            duration: self.duration.with_label_values(label),
        }
    }
}

/// The metrics of one peer.
pub(crate) struct PeerMetrics {
    /// 1 while the peer answers.
    active: IntGauge,
    disconnected: IntCounter,
    sent_bytes: IntCounter,
    sent_failures: IntCounter,
    received_bytes: IntCounter,
    received_failures: IntCounter,
    round_trip: Histogram,
    round_trips: Mutex<RoundTrips>,
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    snapshots_sent: TransferMetrics,
    snapshots_received: TransferMetrics,
}

/// The round trips to a peer since this member started, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrips {
    pub(crate) count: u64,
    /// Requests that were not answered.
    pub(crate) failures: u64,
    pub(crate) current: f64,
    pub(crate) average: f64,
    pub(crate) deviation: f64,
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
    /// The sum of the squares of the distances from the average.
    squares: f64,
}

impl RoundTrips {
    fn observe(&mut self, secs: f64) {
        self.count += 1;
        let distance = secs - self.average;
        self.average += distance / self.count as f64;
        self.squares += distance * (secs - self.average);
        self.deviation = (self.squares / self.count as f64).sqrt();
        self.minimum = if self.count == 1 { secs } else { self.minimum.min(secs) };
        self.maximum = self.maximum.max(secs);
        self.current = secs;
    }
}

struct TransferMetrics {
    inflight: IntGauge,
    successes: IntCounter,
    failures: IntCounter,
    duration: Histogram,
}

impl PeerMetrics {
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.inc_by(bytes as u64);
        self.messages_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.inc_by(bytes as u64);
        self.messages_received.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn send_failed(&self) {
        self.sent_failures.inc();
    }

    pub(crate) fn receive_failed(&self) {
        self.received_failures.inc();
    }

    pub(crate) fn observe_round_trip(&self, took: Duration) {
        self.round_trip.observe(took.as_secs_f64());
        self.round_trips.lock().observe(took.as_secs_f64());
    }

    pub(crate) fn round_trips(&self) -> RoundTrips {
        RoundTrips { failures: self.sent_failures.get(), ..*self.round_trips.lock() }
    }

    /// Messages sent and received.
    pub(crate) fn messages(&self) -> (u64, u64) {
        (self.messages_sent.load(Ordering::Relaxed), self.messages_received.load(Ordering::Relaxed))
    }

    /// To be called when the peer answers.
    pub(crate) fn found(&self) {
        self.active.set(1);
    }

    /// To be called when the peer has stopped answering.
    pub(crate) fn lost(&self) {
        self.active.set(0);
        self.disconnected.inc();
    }

    pub(crate) fn sending_snapshot(self: &Arc<PeerMetrics>) -> Transfer {
        Transfer::begin(self.clone(), |peer| &peer.snapshots_sent)
    }

    pub(crate) fn receiving_snapshot(self: &Arc<PeerMetrics>) -> Transfer {
        Transfer::begin(self.clone(), |peer| &peer.snapshots_received)
    }
}

/// A snapshot transfer. It counts as failed unless [`Transfer::arrived`] is called.
pub(crate) struct Transfer {
    peer: Arc<PeerMetrics>,
    of: fn(&PeerMetrics) -> &TransferMetrics,
    start: Instant,
    has_arrived: bool,
}

impl Transfer {
    fn begin(peer: Arc<PeerMetrics>, of: fn(&PeerMetrics) -> &TransferMetrics) -> Transfer {
        of(&peer).inflight.inc();
        Transfer { peer, of, start: clock::now(), has_arrived: false }
    }

    pub(crate) fn arrived(mut self) {
        self.has_arrived = true;
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let metrics = (self.of)(&self.peer);
        metrics.inflight.dec();
        if self.has_arrived {
            metrics.successes.inc();
            metrics.duration.observe(clock::since(self.start).as_secs_f64());
        } else {
            metrics.failures.inc();
        }
    }
}
