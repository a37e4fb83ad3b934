//! An image of the database for a client to keep.
//!
//! The image is a database file as this server keeps it, as of one revision; `restore` makes a
//! member of it again. The image is a file beside the database, because the database itself changes
//! while it is sent. The file is removed when it has been sent or its last reader has gone.
//!
//! An image is a copy of the whole database, so there is never one for each client: see
//! [`limits::SNAPSHOT_IMAGES_MAX`].

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    Node, ReadError,
    lane::{Begun, Lane, LaneFull, Run},
};
use crate::{
    clock,
    disk::{Disk, DiskFile},
    limits,
    storage::{StorageError, io_error},
    threads,
};

/// An image on its way to a client.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) total_bytes: u64,
    image: Arc<Image>,
    offset: u64,
    reads: Arc<Semaphore>,
}

/// The images that are on the disk, and the one that is made.
pub(super) struct Images {
    lane: Lane<(), Result<Arc<Image>, NoImage>>,
    sent: Mutex<Vec<Weak<Image>>>,
    reads: Arc<Semaphore>,
}

/// The file of an image, which is removed with its last reader.
#[derive(Debug)]
pub(super) struct Image {
    disk: Arc<dyn Disk>,
    name: PathBuf,
    bytes: u64,
    /// Everything up to this index of the log is in it.
    applied_index: u64,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    /// `None` once the image was given up.
    file: Option<Arc<dyn DiskFile>>,
    /// When a piece of it was read last.
    read_at: Instant,
}

#[derive(Clone, Debug)]
enum NoImage {
    TooMany,
    Storage(Arc<StorageError>),
}

impl Drop for Image {
    fn drop(&mut self) {
        // A file that cannot be removed now is removed at the next start.
        let _ = self.disk.remove(&self.name);
    }
}

impl Snapshot {
    /// The next piece, in order; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let file = self.image.file().ok_or(ReadError::SnapshotGivenUp)?;
        let (offset, path) = (self.offset, self.image.disk.path().join(&self.image.name));
        let length = self.total_bytes.saturating_sub(offset).min(limits::IMAGE_PIECE_BYTES as u64);
        if length == 0 {
            return Ok(None);
        }
        let reads = self.reads.clone();
        let read = move || {
            let mut piece = vec![0; length as usize];
            file.read_at(&mut piece, offset).map_err(io_error("read", &path))?;
            Ok::<_, StorageError>(Bytes::from(piece))
        };
        // A task of its own: this future is polled only while the client takes what it is sent, and one that has stopped
        // must not keep its turn from the others.
        let piece = tokio::spawn(async move {
            let _turn = reads.acquire_owned().await.map_err(|_| ReadError::Stopped)?;
            let piece = threads::blocking(read).await.expect("reading a file does not panic");
            piece.map_err(ReadError::from)
        });
        let piece = piece.await.map_err(|_| ReadError::Stopped)??;
        self.offset += piece.len() as u64;
        assert!(self.offset <= self.total_bytes, "a client is sent no more than it was told of");
        Ok(Some(piece))
    }
}

impl Image {
    /// Notes that it is being read.
    fn file(&self) -> Option<Arc<dyn DiskFile>> {
        let mut open = self.open.lock();
        open.read_at = clock::now();
        open.file.clone()
    }

    fn is_given_up(&self) -> bool {
        self.open.lock().file.is_none()
    }

    /// Frees its place on the disk if no client has read from it for long.
    fn give_up_if_idle(&self, now: Instant) -> bool {
        let mut open = self.open.lock();
        let is_idle = now.saturating_duration_since(open.read_at) >= limits::SNAPSHOT_IDLE_MAX;
        if is_idle {
            open.file = None;
            let _ = self.disk.remove(&self.name);
        }
        is_idle
    }
}

impl Images {
    pub(super) fn new() -> Images {
        Images {
            lane: Lane::new(1),
            sent: Mutex::default(),
            reads: Arc::new(Semaphore::new(limits::SNAPSHOT_READS_AT_ONCE)),
        }
    }

    /// One that holds all up to `applied_index`, and nothing that was written since is missing.
    fn of(&self, applied_index: u64) -> Option<Arc<Image>> {
        self.alive().into_iter().find(|image| image.applied_index == applied_index)
    }

    /// Images that still have a reader.
    fn alive(&self) -> Vec<Arc<Image>> {
        let mut sent = self.sent.lock();
        let mut alive: Vec<Arc<Image>> = sent.iter().filter_map(Weak::upgrade).collect();
        alive.retain(|image| !image.is_given_up());
        *sent = alive.iter().map(Arc::downgrade).collect();
        alive
    }

    /// Whether there may be one more.
    fn has_room(&self) -> bool {
        let alive = self.alive();
        let now = clock::now();
        alive.len() < limits::SNAPSHOT_IMAGES_MAX || alive.iter().any(|image| image.give_up_if_idle(now))
    }
}

impl Node {
    /// Takes an image of everything applied so far. Reads and writes go on meanwhile.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, ReadError> {
        let _timer = self.metrics().backend_snapshot.start_timer();
        let images = &self.shared.images;
        if self.shared.space.is_full() {
            // There is no room for an image, and the checkpoint that it needs may wait for long.
            let path = self.shared.database.dir().to_owned();
            return Err(StorageError::NoSpace { what: "an image of the database", path }.into());
        }
        let applied_index = self.shared.replica.read().applied_index();
        let image = match images.of(applied_index) {
            Some(image) => image,
            None => {
                let ticket = images.lane.join((), Begun::IsTooOld);
                let ticket = ticket.map_err(|LaneFull| ReadError::TooManyRequests)?;
                if images.lane.is_mine_to_drive() {
                    tokio::spawn(self.clone().make_images());
                }
                ticket.result().await.ok_or(ReadError::Stopped)?.map_err(|error| match error {
                    NoImage::TooMany => ReadError::TooManySnapshots,
                    NoImage::Storage(error) => ReadError::Shared(error),
                })?
            }
        };
        let reads = images.reads.clone();
        Ok(Snapshot { total_bytes: image.bytes, image, offset: 0, reads })
    }

    async fn make_images(self) {
        while let Some(run) = self.shared.images.lane.take() {
            self.checkpoint().await;
            let node = self.clone();
            self.blocking(move || match node.make_image(&run) {
                Ok(Some(image)) => run.finish(Ok(image)),
                Ok(None) => run.abandon(),
                Err(error) => run.finish(Err(error)),
            })
            .await;
        }
    }

    /// `None` once nobody waits for it any more.
    fn make_image(&self, run: &Run<(), Result<Arc<Image>, NoImage>>) -> Result<Option<Arc<Image>>, NoImage> {
        let images = &self.shared.images;
        // What the database holds is at least that.
        let applied_index = *self.shared.durable.borrow();
        if let Some(image) = images.of(applied_index) {
            return Ok(Some(image));
        }
        if !images.has_room() {
            return Err(NoImage::TooMany);
        }
        let image = self.copy(applied_index, &|| run.is_wanted());
        let image = image.map_err(|error| NoImage::Storage(Arc::new(error)))?.map(Arc::new);
        images.sent.lock().extend(image.as_ref().map(Arc::downgrade));
        assert!(
            images.alive().len() <= limits::SNAPSHOT_IMAGES_MAX,
            "no more images are on the disk than may be"
        );
        Ok(image)
    }

    fn copy(&self, applied_index: u64, is_wanted: &dyn Fn() -> bool) -> Result<Option<Image>, StorageError> {
        let name = image_name();
        if !self.shared.database.copy_to(&name, is_wanted)? {
            return Ok(None);
        }
        let disk = self.shared.database.disk().clone();
        let opened = disk.open_to_read(&name).and_then(|file| Ok((file.len()?, file)));
        let (bytes, file) = opened.map_err(io_error("open", &disk.path().join(&name)))?;
        let open = Mutex::new(Open { file: Some(file.into()), read_at: clock::now() });
        Ok(Some(Image { disk, name, bytes, applied_index, open }))
    }

    /// Resolves when the database holds everything applied before the call, or the node ends.
    pub(super) async fn checkpoint(&self) {
        let applied_index = self.shared.replica.read().applied_index();
        self.shared.orders.checkpoint();
        // Of an error the member ends.
        let _ = self.shared.durable.clone().wait_for(|durable| *durable >= applied_index).await;
    }
}

fn image_name() -> PathBuf {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("image-{serial}.tmp").into()
}

pub(super) fn snap_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("snap")
}

/// Removes images that a crash left behind.
pub(super) fn remove_leftovers(disk: &dyn Disk) {
    for name in disk.list().unwrap_or_default() {
        if name.to_string_lossy().starts_with("image-") {
            let _ = disk.remove(&name);
        }
    }
}
