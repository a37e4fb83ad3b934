//! Snapshots for clients: the database as a file that etcd's tools read.
//!
//! The database is pinned at one moment and laid out as a bbolt file ([`Image`]). The file itself never exists: its pages
//! are made while the client takes them, from the pinned state. Writes go on meanwhile. What they
//! free of the database cannot be used again before the state is no longer pinned, so there are never more than
//! [`limits::SNAPSHOT_IMAGES_MAX`], and clients that ask for the same state share one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
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
    disk::Disk,
    limits,
    migrate::{Image, ImagePages, LogPlace},
    raft::base,
    storage::StorageError,
    threads,
};

/// An image on its way to a client.
pub(crate) struct Snapshot {
    pub(crate) total_bytes: u64,
    image: Arc<Pinned>,
    pages: Arc<Pages>,
    /// What was read and not sent yet.
    read: Bytes,
    turns: Arc<Semaphore>,
}

/// The images that are being sent, and the one that is laid out.
pub(super) struct Images {
    lane: Lane<(), Result<Arc<Pinned>, NoImage>>,
    sent: Mutex<Vec<Weak<Pinned>>>,
    turns: Arc<Semaphore>,
}

/// A pinned state of the database.
pub(super) struct Pinned {
    total_bytes: u64,
    /// Everything up to this index of the log is in it.
    applied_index: u64,
    open: Mutex<Open>,
}

struct Open {
    /// `None` once the image was given up.
    image: Option<Image>,
    /// Of each client.
    pages: Vec<Weak<Pages>>,
    /// When a piece of it was read last.
    read_at: Instant,
}

/// What a client has not been sent yet; `None` once the image was given up. Locked while it is read.
type Pages = Mutex<Option<ImagePages>>;

#[derive(Clone, Debug)]
enum NoImage {
    TooMany,
    Storage(Arc<StorageError>),
}

impl Snapshot {
    /// The next piece, in order; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.read.is_empty() {
            self.image.open.lock().read_at = clock::now();
            let pages = Arc::clone(&self.pages);
            let read = move || match pages.lock().as_mut() {
                Some(pages) => pages.next(limits::IMAGE_READ_BYTES).map_err(ReadError::from),
                None => Err(ReadError::SnapshotGivenUp),
            };
            let turns = Arc::clone(&self.turns);
            // A task of its own: this future is polled only while the client takes what it is sent, and one that has stopped
            // must not keep its turn from the others.
            let next = tokio::spawn(async move {
                let _turn = turns.acquire_owned().await.map_err(|_| ReadError::Stopped)?;
                threads::blocking(read).await.expect("reading an image does not panic")
            });
            match next.await.map_err(|_| ReadError::Stopped)?? {
                Some(read) => self.read = read,
                None => return Ok(None),
            }
        }
        let length = self.read.len().min(limits::IMAGE_PIECE_BYTES);
        Ok(Some(self.read.split_to(length)))
    }
}

impl Pinned {
    /// For one more client.
    fn pages(&self) -> Result<Arc<Pages>, ReadError> {
        let mut open = self.open.lock();
        open.read_at = clock::now();
        let image = open.image.as_ref().ok_or(ReadError::SnapshotGivenUp)?;
        let pages = Arc::new(Mutex::new(Some(image.pages()?)));
        open.pages.retain(|pages| pages.strong_count() > 0);
        open.pages.push(Arc::downgrade(&pages));
        Ok(pages)
    }

    fn is_given_up(&self) -> bool {
        self.open.lock().image.is_none()
    }

    /// Gives the state up if no client has read from it for long.
    fn give_up_if_idle(&self, now: Instant) -> bool {
        let mut open = self.open.lock();
        let is_idle = now.saturating_duration_since(open.read_at) >= limits::SNAPSHOT_IDLE_MAX;
        if is_idle {
            open.image = None;
            for pages in open.pages.drain(..).filter_map(|pages| pages.upgrade()) {
                // One that is being read has its piece soon, and then gets no further one.
                if let Some(mut pages) = pages.try_lock() {
                    *pages = None;
                }
            }
        }
        is_idle
    }
}

impl Images {
    pub(super) fn new() -> Images {
        Images {
            lane: Lane::new(1),
            sent: Mutex::default(),
            turns: Arc::new(Semaphore::new(limits::SNAPSHOT_READS_AT_ONCE)),
        }
    }

    /// One that holds all up to `applied_index`, and nothing that was written since is missing.
    fn of(&self, applied_index: u64) -> Option<Arc<Pinned>> {
        self.alive().into_iter().find(|image| image.applied_index == applied_index)
    }

    /// Images that still have a reader.
    fn alive(&self) -> Vec<Arc<Pinned>> {
        let mut sent = self.sent.lock();
        let mut alive: Vec<Arc<Pinned>> = sent.iter().filter_map(Weak::upgrade).collect();
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
    /// Pins everything applied so far. Reads and writes go on meanwhile.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, ReadError> {
        let _timer = self.metrics().backend_snapshot.start_timer();
        let images = &self.shared.images;
        if self.shared.space.is_full() {
            // The checkpoint that an image begins with may wait for long.
            let path = self.shared.database.dir().to_owned();
            return Err(StorageError::NoSpace { what: "the checkpoint before a snapshot", path }.into());
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
        let turns = Arc::clone(&images.turns);
        let pages = image.pages()?;
        Ok(Snapshot { total_bytes: image.total_bytes, image, pages, read: Bytes::new(), turns })
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
    fn make_image(
        &self,
        run: &Run<(), Result<Arc<Pinned>, NoImage>>,
    ) -> Result<Option<Arc<Pinned>>, NoImage> {
        let images = &self.shared.images;
        // What the database holds is at least that.
        let applied_index = *self.shared.durable.borrow();
        if let Some(image) = images.of(applied_index) {
            return Ok(Some(image));
        }
        if !images.has_room() {
            return Err(NoImage::TooMany);
        }
        let image = self.pin(&|| run.is_wanted());
        let image = image.map_err(|error| NoImage::Storage(Arc::new(error)))?.map(Arc::new);
        images.sent.lock().extend(image.as_ref().map(Arc::downgrade));
        assert!(images.alive().len() <= limits::SNAPSHOT_IMAGES_MAX, "no more states are pinned than may be");
        Ok(image)
    }

    fn pin(&self, is_wanted: &dyn Fn() -> bool) -> Result<Option<Pinned>, StorageError> {
        let reader = self.shared.database.reader()?;
        let applied = base::applied(&reader)?;
        let place = applied.map(|applied| LogPlace { term: applied.term, index: applied.index });
        let Some(image) = Image::lay_out(reader, place, is_wanted)? else { return Ok(None) };
        let total_bytes = image.file_bytes();
        let open = Open { image: Some(image), pages: Vec::new(), read_at: clock::now() };
        let applied_index = place.map_or(0, |place| place.index);
        Ok(Some(Pinned { total_bytes, applied_index, open: Mutex::new(open) }))
    }

    /// Resolves when the database holds everything applied before the call, or the node ends.
    pub(super) async fn checkpoint(&self) {
        let applied_index = self.shared.replica.read().applied_index();
        self.shared.orders.checkpoint();
        // Of an error the member ends.
        let _ = self.shared.durable.clone().wait_for(|durable| *durable >= applied_index).await;
    }
}

pub(super) fn snap_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("snap")
}

/// Removes what a crash left of a snapshot of another member, and of those for clients that older versions made.
pub(super) fn remove_leftovers(disk: &dyn Disk) {
    for name in disk.list().unwrap_or_default() {
        if name.to_string_lossy().starts_with("image-") {
            let _ = disk.remove(&name);
        }
    }
}
