//! The whole state, for a member that is too far behind for the log.
//!
//! A snapshot is a database file. On this side it is pinned by a reader, copied to a file beside
//! the database, and sent in pieces by a thread of its own: neither the core nor the connections
//! that the log travels on notice. On the other side the pieces become a file again, which is
//! complete and on the disk before consensus hears of it, and then takes the database's place in
//! one rename. Whatever breaks off on the way leaves both sides as they were.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::{
    error::{ReplicationClosed, StreamingError, Unreachable},
    raft::SnapshotResponse,
};
use tokio::{runtime, sync::oneshot, task};

use super::{
    message,
    peers::Peers,
    typ::{Peer, Snapshot, SnapshotMeta, TypeConfig, Vote},
};
use crate::{
    limits,
    pb::retcd::peer::SnapshotPiece,
    storage::{Database, Reader},
};

/// How long a peer may take to receive and install a snapshot.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How long it may take a peer to show that it is there.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// A state that can be sent, or one that was received.
pub(crate) enum SnapshotImage {
    /// What the database held at some checkpoint. It stays readable for as long as this lives.
    Pinned { database: Arc<Database>, reader: Box<Reader> },
    /// A complete file beside the database.
    Received(TemporaryFile),
}

impl fmt::Debug for SnapshotImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotImage::Pinned { .. } => f.write_str("Pinned"),
            SnapshotImage::Received(file) => write!(f, "Received({})", file.path.display()),
        }
    }
}

/// A file that goes when nobody needs it any more. What a crash leaves goes at the next start.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    pub(super) path: PathBuf,
}

impl TemporaryFile {
    fn new(dir: &Path) -> TemporaryFile {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        TemporaryFile { path: dir.join(format!("image-peer-{serial}.tmp")) }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // It is not there if it has taken the database's place.
        let _ = fs::remove_file(&self.path);
    }
}

/// Sends a snapshot and waits until the peer has installed it.
pub(super) async fn send(
    peers: &Arc<Peers>,
    target: u64,
    peer: &Peer,
    vote: &Vote,
    snapshot: Snapshot,
    cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let (tell, sent) = oneshot::channel();
    let work = {
        let (peers, peer, vote) = (peers.clone(), peer.clone(), *vote);
        move || tell.send(send_blocking(&peers, target, &peer, &vote, snapshot))
    };
    let unreachable = |reason: String| StreamingError::Unreachable(Unreachable::from_string(reason));
    thread::Builder::new()
        .name("retcd-snapshot".to_owned())
        .spawn(move || drop(work()))
        .map_err(|error| unreachable(error.to_string()))?;
    tokio::select! { biased;
        closed = cancel => Err(StreamingError::Closed(closed)),
        result = sent => match result {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(reason)) => Err(unreachable(reason)),
            Err(_) => Err(unreachable("the thread that sends a snapshot ended".to_owned())),
        },
    }
}

fn send_blocking(
    peers: &Arc<Peers>,
    target: u64,
    peer: &Peer,
    vote: &Vote,
    snapshot: Snapshot,
) -> Result<SnapshotResponse<TypeConfig>, String> {
    let SnapshotImage::Pinned { database, reader } = snapshot.snapshot else {
        return Err("a received snapshot is not sent on".to_owned());
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // Before the work of a copy: whether somebody is there to take it.
    let url = peer.peer_urls.first().map_or("", String::as_str);
    runtime.block_on(Peers::members_at(url, PROBE_PATIENCE)).map_err(|error| error.to_string())?;
    let file = TemporaryFile::new(database.dir());
    database.copy_reader_to(&reader, &file.path).map_err(|error| error.to_string())?;
    drop(reader);
    let source = File::open(&file.path).map_err(|error| error.to_string())?;
    let total = source.metadata().map_err(|error| error.to_string())?.len();
    tracing::info!(to = format_args!("{target:x}"), bytes = total, "sending a snapshot");
    let header = SnapshotPiece {
        envelope: Some(peers.envelope(target)),
        message: message::encode_snapshot_header(vote, &snapshot.meta, total),
        ..SnapshotPiece::default()
    };
    runtime.block_on(async {
        let mut client = Peers::client(Peers::connect(peer).map_err(|error| error.to_string())?);
        let pieces = stream::iter(std::iter::once(header).chain(pieces(source)));
        let answer = peers.answer(target, peer, PATIENCE, client.snapshot(pieces)).await;
        let reply = answer.map_err(|error| error.to_string())?;
        message::decode_snapshot_reply(reply.message).map_err(|error| error.to_string())
    })
}

/// The pieces of a file. One that cannot be read ends it early, which the other side notices.
fn pieces(source: File) -> impl Iterator<Item = SnapshotPiece> {
    std::iter::from_fn(move || {
        let mut data = Vec::with_capacity(limits::SNAPSHOT_PIECE_BYTES);
        match (&source).take(limits::SNAPSHOT_PIECE_BYTES as u64).read_to_end(&mut data) {
            Ok(0) => None,
            Ok(_) => {
                let data_crc32c = crc32c::crc32c(&data);
                Some(SnapshotPiece { data: data.into(), data_crc32c, ..SnapshotPiece::default() })
            }
            Err(error) => {
                tracing::error!(%error, "the image of a snapshot cannot be read");
                None
            }
        }
    })
}

/// A snapshot that arrived, to be installed.
pub(super) struct Arrived {
    pub(super) vote: Vote,
    pub(super) snapshot: Snapshot,
}

/// A part of the file, with its checksum.
pub(crate) struct Piece {
    pub(crate) data: Bytes,
    pub(crate) crc32c: u32,
}

/// Writes the pieces to a file in `dir`. A stream that cannot go on says why.
pub(super) async fn receive(
    dir: &Path,
    header: Bytes,
    mut pieces: impl Stream<Item = Result<Piece, String>> + Unpin,
) -> Result<Arrived, String> {
    let (vote, meta, total) = message::decode_snapshot_header(header).map_err(|error| error.to_string())?;
    let image = TemporaryFile::new(dir);
    let mut file = File::create(&image.path).map_err(|error| error.to_string())?;
    let mut received = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if crc32c::crc32c(&piece.data) != piece.crc32c {
            return Err(format!("the piece of a snapshot at byte {received} is damaged"));
        }
        received += piece.data.len() as u64;
        file = blocking(move || file.write_all(&piece.data).map(|()| file)).await?;
    }
    if received != total {
        return Err(format!("a snapshot of {total} bytes broke off after {received}"));
    }
    blocking(move || file.sync_all()).await?;
    tracing::info!(bytes = total, "received a snapshot");
    Ok(Arrived { vote, snapshot: Snapshot { meta, snapshot: SnapshotImage::Received(image) } })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    task::spawn_blocking(work).await.expect("file work does not panic").map_err(|error| error.to_string())
}

/// A snapshot of what `reader` sees.
pub(super) fn pinned(database: Arc<Database>, reader: Reader, meta: SnapshotMeta) -> Snapshot {
    Snapshot { meta, snapshot: SnapshotImage::Pinned { database, reader: Box::new(reader) } }
}
