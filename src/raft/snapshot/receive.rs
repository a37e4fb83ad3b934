//! Receiving: pieces become a database beside this member's own, and that a replica.
//!
//! One snapshot is received at a time, and a newer one ends the transfer of an older one. The sender of
//! the older one has given up, or does not lead any more, or will try again.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc, oneshot},
    time,
};

use super::{Progress, Received, Snapshot, SnapshotImage, TemporaryFile, give_way, part::Part};
use crate::{
    disk::Disk,
    limits,
    link::Piece,
    raft::{
        codec,
        marks::INSTALLED_CELL,
        message::{self, Unreadable},
        replica::Replica,
        typ::{SnapshotMeta, Vote},
    },
    storage::{Checkpoint, Database, Draft, Table},
    sync::watch,
    telemetry::Metrics,
    threads,
};

/// How long a stream may be silent. A sender that still runs would have begun another one by then.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What is said of a snapshot before it.
pub(crate) struct Header {
    /// Of the leader that sends it.
    pub(crate) vote: Vote,
    meta: SnapshotMeta,
    records: u64,
}

impl Header {
    pub(crate) fn decode(bytes: Bytes) -> Result<Header, Unreadable> {
        let (vote, meta, records) = message::decode_snapshot_header(bytes)?;
        Ok(Header { vote, meta, records })
    }

    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn index(&self) -> u64 {
        self.meta.last_log_id.as_ref().map_or(0, |last| last.index)
    }
}

/// Where snapshots arrive.
pub(crate) struct Inbox {
    disk: Arc<dyn Disk>,
    /// See [`Parts`](crate::raft::Parts).
    own_cells: Vec<(Bytes, Option<Bytes>)>,
    /// Number of the newest snapshot.
    newest: watch::Sender<u64>,
    /// Held by the thread that makes a replica of one.
    turn: Arc<Mutex<()>>,
    metrics: Arc<Metrics>,
}

impl Inbox {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        own_cells: Vec<(Bytes, Option<Bytes>)>,
        metrics: Arc<Metrics>,
    ) -> Inbox {
        Inbox { disk, own_cells, newest: watch::Sender::default(), turn: Arc::default(), metrics }
    }

    /// Makes a replica of the pieces, ready to be installed. An error in the stream is the reason why it
    /// ended early.
    pub(crate) async fn receive(
        &self,
        header: Header,
        pieces: impl Stream<Item = Result<Piece, String>> + Unpin,
    ) -> Result<Snapshot, String> {
        let mut newest = self.newest.subscribe();
        let mut number = 0;
        self.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        let mut superseded = pin!(newest.wait_for(|newest| *newest != number));
        let superseded_reason = || Err("another snapshot is arriving".to_owned());
        let turn = tokio::select! { biased;
            _ = &mut superseded => return superseded_reason(),
            turn = self.turn.clone().lock_owned() => turn,
        };
        let (leader, index) = (header.vote.leader_id.voted_for, header.index());
        tracing::info!(
            from = format_args!("{leader:x}"),
            index,
            records = header.records,
            "receiving a snapshot"
        );
        let (feed, pieces_fed) = mpsc::channel(limits::SNAPSHOT_PIECES);
        let (tell, made) = oneshot::channel();
        let work = {
            let (disk, own_cells) = (self.disk.clone(), self.own_cells.clone());
            let metrics = self.metrics.clone();
            // The receiver is gone if a newer snapshot arrives.
            async move {
                let timer = metrics.snap_db_save.start_timer();
                let made = make(disk, number, header, own_cells, pieces_fed, turn, &metrics).await;
                if made.is_ok() {
                    timer.observe_duration()
                } else {
                    timer.stop_and_discard();
                };
                drop(tell.send(made));
            }
        };
        threads::try_host("retcd-snapshot", work).map_err(|error| error.to_string())?;
        let made = async {
            feed_all(pieces, feed).await?;
            made.await.unwrap_or_else(|_| Err("the thread that receives a snapshot ended".to_owned()))
        };
        let made = tokio::select! { biased;
            _ = &mut superseded => superseded_reason(),
            made = made => made,
        };
        if let Err(reason) = &made {
            tracing::warn!(
                from = format_args!("{leader:x}"),
                index,
                error = reason,
                "failed to receive a snapshot; this member keeps its state, and the leader will send a new snapshot"
            );
        }
        made
    }
}

/// Returns at the end of the pieces, or when the thread that takes them has ended.
async fn feed_all(
    mut pieces: impl Stream<Item = Result<Piece, String>> + Unpin,
    feed: mpsc::Sender<Piece>,
) -> Result<(), String> {
    loop {
        let next = time::timeout(SILENCE_MAX, pieces.next()).await;
        let Some(piece) = next.map_err(|_| format!("nothing arrived for {SILENCE_MAX:?}"))? else {
            return Ok(());
        };
        if feed.send(piece?).await.is_err() {
            // The thread that takes the pieces has failed; its result says why.
            return Ok(());
        }
    }
}

/// Makes a replica of the pieces of the snapshot with this number, on a thread of its own, because it waits for the disk.
async fn make(
    disk: Arc<dyn Disk>,
    number: u64,
    header: Header,
    own_cells: Vec<(Bytes, Option<Bytes>)>,
    mut pieces: mpsc::Receiver<Piece>,
    _turn: OwnedMutexGuard<()>,
    metrics: &Metrics,
) -> Result<Snapshot, String> {
    give_way();
    let file = TemporaryFile::new(disk.clone(), number);
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "the snapshot cannot be stored in {}: {error}; the disk needs free space for a second copy of the whole state",
            file.path().display()
        )
    };
    let mut progress = Progress::new("receiving a snapshot", header.vote.leader_id.voted_for, header.records);
    let mut draft = Draft::begin(&disk, &file.name).map_err(|error| failed(&error))?;
    loop {
        let data = receive_part(&mut pieces, &mut progress).await?;
        let part = Part::decode(data).map_err(|error| error.to_string())?;
        progress.advance(part.content.records.len() as u64, 0);
        #[cfg(test)]
        let part = if crate::planted::is(crate::planted::Bug::SnapshotWithoutLeases) {
            let mut part = part;
            part.content.cells.retain(|(table, ..)| *table != Table::Lease);
            part
        } else {
            part
        };
        draft.add(&part.content).map_err(|error| failed(&error))?;
        if part.is_last {
            break;
        }
    }
    // These replace the sender's own cells.
    let mut cells: Vec<_> = own_cells.into_iter().map(|(key, cell)| (Table::Meta, key, cell)).collect();
    if let Some(last) = &header.meta.last_log_id {
        cells.push((Table::Meta, INSTALLED_CELL.into(), Some(codec::encode_log_id(last))));
    }
    let own = Checkpoint { cells, ..Checkpoint::default() };
    draft.add(&own).map_err(|error| failed(&error))?;
    let timer = metrics.snap_db_fsync.start_timer();
    draft.finish().map_err(|error| failed(&error))?;
    timer.observe_duration();
    tracing::info!(
        bytes = progress.bytes,
        "bytes-per-second" = progress.bytes_per_second(),
        took = %progress.took(),
        "received a snapshot; opening it"
    );
    let database = Database::open(disk, &file.name, limits::DATABASE_CACHE_BYTES);
    let database = Arc::new(database.map_err(|error| error.to_string())?);
    let replica = Replica::open(database.clone()).map_err(|error| error.to_string())?;
    if *replica.durable() != header.meta {
        return Err(format!("the received data is not the announced state at {}", header.index()));
    }
    let received = Received { replica, database, file };
    Ok(Snapshot { meta: header.meta, snapshot: SnapshotImage::Received(Box::new(received)) })
}

/// The next part, put together from its pieces. It is held in memory, so its size is bounded.
async fn receive_part(pieces: &mut mpsc::Receiver<Piece>, progress: &mut Progress) -> Result<Bytes, String> {
    let mut begun = BytesMut::new();
    loop {
        let piece = pieces.recv().await;
        let Piece { data, crc32c, is_continued } =
            piece.ok_or_else(|| format!("the transfer broke off after {} bytes", progress.bytes))?;
        if crc32c::crc32c(&data) != crc32c {
            return Err(format!("the piece after byte {} is damaged", progress.bytes));
        }
        progress.advance(0, data.len());
        if begun.len() + data.len() > limits::SNAPSHOT_PART_BYTES_MAX {
            return Err(format!("a part of more than {} bytes", limits::SNAPSHOT_PART_BYTES_MAX));
        }
        if begun.is_empty() && !is_continued {
            return Ok(data);
        }
        begun.extend_from_slice(&data);
        if !is_continued {
            return Ok(begun.freeze());
        }
    }
}
