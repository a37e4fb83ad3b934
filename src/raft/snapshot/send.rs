//! Sending: what a reader sees, at a bounded rate, on a thread of its own.
//!
//! There is at most one transfer for each peer at a time. It ends when the peer has installed the
//! snapshot, when it breaks, or when this member does not lead any more. Until the transfer has ended and
//! the log of the peer is known to reach to the end of the snapshot, the log behind that end is kept:
//! otherwise the peer would need the next snapshot as soon as it has installed this one.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    error::{ReplicationClosed, StreamingError, Unreachable},
    raft::SnapshotResponse,
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time};

use super::{Progress, Snapshot, SnapshotImage, give_way, part::Parts};
use crate::{
    clock, limits,
    link::{Peer, Peers, Piece},
    raft::{
        message, plausible,
        typ::{SnapshotMeta, TypeConfig, Vote},
    },
    storage::Reader,
    telemetry::GoDuration,
    threads,
};

/// How long a peer may take to receive and install a snapshot.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How long a peer may take to answer before anything is sent.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// The pause after a transfer that broke; it doubles with each in a row.
const REST_MIN: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(10);

/// How late a piece may be for the next one to make up for it.
const LATENESS_MAX: Duration = Duration::from_millis(50);

/// The transfers of this member to others.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    peers: Mutex<BTreeMap<u64, Transfer>>,
}

/// The last transfer to a peer.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    /// Of the last entry that the snapshot covers.
    index: u64,
    stage: Stage,
    /// How many broke in a row.
    broken: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    UnderWay,
    Installed,
    Over,
}

/// Why there is no answer.
enum Failure {
    /// Nobody was there; nothing was sent.
    Absent(String),
    Broken(String),
}

impl Failure {
    fn broken(error: &dyn std::fmt::Display) -> Failure {
        Failure::Broken(error.to_string())
    }
}

impl Outgoing {
    /// The lowest index behind which a peer will need the log, given how far each has it.
    pub(crate) fn needed_after(&self, progress: &BTreeMap<u64, u64>) -> Option<u64> {
        let mut peers = self.peers.lock();
        for (peer, transfer) in peers.iter_mut() {
            // From then on consensus knows from the peer's progress which entries the peer needs.
            let is_known = progress.get(peer).is_none_or(|matched| *matched >= transfer.index);
            if transfer.stage == Stage::Installed && is_known {
                transfer.stage = Stage::Over;
            }
        }
        let needed = peers.values().filter(|transfer| transfer.stage != Stage::Over);
        needed.map(|transfer| transfer.index).min()
    }

    /// Sends a snapshot and waits until the peer has installed it.
    pub(crate) async fn send(
        self: &Arc<Outgoing>,
        peers: &Arc<Peers>,
        target: u64,
        peer: &Peer,
        vote: &Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut cancel = pin!(cancel);
        let under_way = UnderWay::begin(self, target, &snapshot.meta);
        let (tell, sent) = oneshot::channel();
        // Dropped with this future, which ends the thread's work.
        let (_wanted, unwanted) = oneshot::channel::<()>();
        let work = {
            let (peers, peer, vote) = (peers.clone(), peer.clone(), *vote);
            async move {
                // The receiver is gone if the transfer was cancelled.
                drop(tell.send(send_wanted(&peers, target, &peer, &vote, snapshot, unwanted).await));
            }
        };
        let unreachable = |reason: String| StreamingError::Unreachable(Unreachable::from_string(reason));
        threads::try_host("retcd-snapshot", work).map_err(|error| unreachable(error.to_string()))?;
        let sent = tokio::select! { biased;
            closed = &mut cancel => {
                tracing::info!(to = format_args!("{target:x}"), reason = %closed, "gave up sending a snapshot");
                return Err(StreamingError::Closed(closed));
            }
            sent = sent => sent,
        };
        let reason = match sent {
            Ok(Ok(reply)) => {
                under_way.installed();
                return Ok(reply);
            }
            Ok(Err(Failure::Absent(reason))) => return Err(unreachable(reason)),
            Ok(Err(Failure::Broken(reason))) => reason,
            Err(_) => "the thread that sends a snapshot ended".to_owned(),
        };
        let rest = under_way.broken();
        tracing::warn!(
            to = format_args!("{target:x}"),
            error = reason,
            pause = %GoDuration(rest),
            "failed to send a snapshot; the next attempt sends a new one"
        );
        tokio::select! { biased;
            closed = &mut cancel => Err(StreamingError::Closed(closed)),
            () = time::sleep(rest) => Err(unreachable(reason)),
        }
    }
}

/// A transfer that is over when this is dropped.
pub(super) struct UnderWay<'a> {
    outgoing: &'a Outgoing,
    target: u64,
}

impl UnderWay<'_> {
    pub(super) fn begin<'a>(outgoing: &'a Outgoing, target: u64, meta: &SnapshotMeta) -> UnderWay<'a> {
        let index = meta.last_log_id.as_ref().map_or(0, |last| last.index);
        let mut peers = outgoing.peers.lock();
        let broken = peers.get(&target).map_or(0, |last| last.broken);
        peers.insert(target, Transfer { index, stage: Stage::UnderWay, broken });
        UnderWay { outgoing, target }
    }

    pub(super) fn installed(self) {
        if let Some(transfer) = self.outgoing.peers.lock().get_mut(&self.target) {
            transfer.stage = Stage::Installed;
            transfer.broken = 0;
        }
    }

    /// The pause before the next transfer to the peer.
    pub(super) fn broken(self) -> Duration {
        match self.outgoing.peers.lock().get_mut(&self.target) {
            Some(transfer) => {
                let rest = REST_MIN * 2_u32.saturating_pow(transfer.broken.min(16));
                transfer.broken += 1;
                rest.min(REST_MAX)
            }
            None => REST_MIN,
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(transfer) = self.outgoing.peers.lock().get_mut(&self.target)
            && transfer.stage == Stage::UnderWay
        {
            transfer.stage = Stage::Over;
        }
    }
}

/// Runs on a thread of its own.
async fn send_wanted(
    peers: &Arc<Peers>,
    target: u64,
    peer: &Peer,
    vote: &Vote,
    snapshot: Snapshot,
    unwanted: oneshot::Receiver<()>,
) -> Result<SnapshotResponse<TypeConfig>, Failure> {
    let SnapshotImage::Pinned(reader) = snapshot.snapshot else {
        return Err(Failure::Absent("a received snapshot is not sent on".to_owned()));
    };
    give_way();
    tokio::select! { biased;
        _ = unwanted => Err(Failure::Absent("the snapshot is not needed any more".to_owned())),
        reply = transfer(peers, target, peer, vote, &snapshot.meta, reader) => reply,
    }
}

async fn transfer(
    peers: &Arc<Peers>,
    target: u64,
    peer: &Peer,
    vote: &Vote,
    meta: &SnapshotMeta,
    reader: Box<Reader>,
) -> Result<SnapshotResponse<TypeConfig>, Failure> {
    // Nothing is read for a peer that is not there to take it.
    let found = peers.is_there(target, peer, PROBE_PATIENCE).await;
    found.map_err(|error| Failure::Absent(error.to_string()))?;
    let records = reader.record_count().map_err(|error| Failure::broken(&error))?;
    let index = meta.last_log_id.as_ref().map_or(0, |last| last.index);
    tracing::info!(to = format_args!("{target:x}"), urls = %peer, index, records, "sending a snapshot");
    let began = clock::now();
    let header = message::encode_snapshot_header(vote, meta, records);
    let parts = Parts::of(*reader).map_err(|error| Failure::broken(&error))?;
    let pieces = pieces(parts, Progress::new("sending a snapshot", target, records));
    let reply = peers.snapshot(target, peer, PATIENCE, header, pieces).await;
    let reply = reply.map_err(|error| Failure::broken(&error))?;
    let reply = message::decode_snapshot_reply(reply).map_err(|error| Failure::broken(&error))?;
    plausible::vote_in_answer(vote, &reply.vote).map_err(|error| Failure::broken(&error))?;
    if reply.vote <= *vote {
        let took = GoDuration(clock::since(began));
        tracing::info!(to = format_args!("{target:x}"), index, %took, "a snapshot was installed by a peer");
    }
    Ok(reply)
}

/// The parts in pieces, at a bounded rate. A part that cannot be read ends them early; the receiver
/// notices, because the last part says that it is the last.
fn pieces(parts: Parts, progress: Progress) -> impl Stream<Item = Piece> + Send + 'static {
    let parts =
        stream::unfold((parts, progress, clock::now()), |(mut parts, mut progress, due)| async move {
            time::sleep_until(due.into()).await;
            match parts.next()? {
                Ok(part) => {
                    let data = part.encode();
                    progress.advance(part.content.records.len() as u64, data.len());
                    let share =
                        Duration::from_secs_f64(data.len() as f64 / limits::SNAPSHOT_BYTES_PER_SEC as f64);
                    // A late piece does not speed up the next ones, except by the delay of a timer.
                    let due = due.max(clock::now() - LATENESS_MAX) + share;
                    Some((Piece::of(data), (parts, progress, due)))
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read the state that is to be sent");
                    None
                }
            }
        });
    parts.flat_map(stream::iter)
}
