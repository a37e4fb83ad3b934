//! An image of the database for a client to keep.
//!
//! The image is a database file as this server keeps it, as of one revision; `restore` makes a
//! member of it again. It is written beside the database first, because a file that is being
//! written to cannot be read in peace, and is removed as soon as it has been sent or nobody wants
//! it any more.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Node, ReadError, background::Request};
use crate::storage::StorageError;

const PIECE_BYTES: usize = 32 * 1024;

/// An image on its way to a client.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) total_bytes: u64,
    image: Arc<Image>,
}

/// The file, which goes when nobody reads it any more.
#[derive(Debug)]
struct Image {
    file: File,
    path: PathBuf,
}

impl Drop for Image {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

impl Snapshot {
    /// The next piece, in order; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        let image = self.image.clone();
        let read = move || {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            (&image.file)
                .take(PIECE_BYTES as u64)
                .read_to_end(&mut piece)
                .map_err(|source| StorageError::Io { action: "read", path: image.path.clone(), source })?;
            Ok((!piece.is_empty()).then(|| piece.into()))
        };
        tokio::task::spawn_blocking(read).await.expect("reading a file does not panic")
    }
}

impl Node {
    /// Takes an image of everything applied so far. Reads and writes go on meanwhile.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, ReadError> {
        let _timer = self.metrics().backend_snapshot.start_timer();
        self.checkpoint().await;
        let database = self.shared.database.clone();
        let path = self.image_path();
        let image = self
            .blocking(move || {
                database.copy_to(&path)?;
                let io = |source| StorageError::Io { action: "open", path: path.clone(), source };
                let file = File::open(&path).map_err(io)?;
                Ok::<_, StorageError>(Image { file, path })
            })
            .await?;
        let io = |source| StorageError::Io { action: "stat", path: image.path.clone(), source };
        let total_bytes = image.file.metadata().map_err(io)?.len();
        Ok(Snapshot { total_bytes, image: Arc::new(image) })
    }

    /// A hash of the whole database, and the revision that it was taken at.
    pub(crate) async fn hash(&self) -> Result<(crate::types::Rev, u32), ReadError> {
        let _timer = self.metrics().hash_duration.start_timer();
        self.checkpoint().await;
        let (rev, database) = (self.rev(), self.shared.database.clone());
        Ok((rev, self.blocking(move || database.hash()).await?))
    }

    /// Resolves when the database holds everything applied before the call, or the node ends.
    async fn checkpoint(&self) {
        let (answer, done) = oneshot::channel();
        if self.ask_background(Request::Checkpoint(answer)).is_ok() {
            let _ = done.await;
        }
    }

    fn image_path(&self) -> PathBuf {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        snap_dir(&self.shared.config.data_dir).join(format!("image-{serial}.tmp"))
    }
}

pub(super) fn snap_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("snap")
}

/// Removes images that a crash left behind.
pub(super) fn remove_leftovers(snap_dir: &Path) {
    for entry in fs::read_dir(snap_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("image-") {
            let _ = fs::remove_file(entry.path());
        }
    }
}
