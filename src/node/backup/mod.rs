//! Backups: snapshots that the leader, or one member that is named, writes into a directory at intervals.
//!
//! A backup is what `etcdctl snapshot save` would have written at that moment, and is restored in the same way. It gets its
//! name only after it was read again and is whole, and older ones are removed only then. So a backup that fails, on
//! a full disk for example, costs no good one. When the next is due follows from the names in the directory,
//! which a restart or another leader finds there.

mod shelf;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::time;

use self::shelf::{Backup, Names};
use super::{
    Node, ReadError,
    image_file::{DIGEST_BYTES, ImageFile},
};
use crate::{
    bbolt::BboltFile,
    clock,
    config::BackupPlan,
    disk::{Directory, Disk, DiskFile, create_directory, is_full},
    limits,
    migrate::{IntakeError, survey},
    telemetry::{GoDuration, HumanBytes},
    threads,
    types::Rev,
};

pub(crate) async fn run(node: Node) {
    let Some(plan) = node.config().backup.clone() else { return };
    tokio::select! { biased;
        () = node.stopping() => {}
        () = back_up_at_intervals(&node, &plan) => {}
    }
}

async fn back_up_at_intervals(node: &Node, plan: &BackupPlan) {
    let (cluster, _) = node.ids();
    let names = Names::of(cluster);
    let mut is_told = false;
    loop {
        time::sleep(limits::BACKUP_CHECK_INTERVAL.min(plan.interval)).await;
        if !node.is_whose_turn(plan) {
            continue;
        }
        let shelf = Shelf::open(plan, &names).await;
        let newest = match &shelf {
            Ok(shelf) => shelf.backups.last().copied(),
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tell_failure(node, plan, error);
                }
                continue;
            }
        };
        is_told = false;
        node.note_last_backup(newest);
        if !shelf::due_in(newest, plan.interval, clock::wall()).is_zero() {
            continue;
        }
        if let Err(error) = node.back_up(plan, &names).await {
            tell_failure(node, plan, &error);
            time::sleep(limits::BACKUP_RETRY_PAUSE.min(plan.interval)).await;
        }
    }
}

fn tell_failure(node: &Node, plan: &BackupPlan, error: &BackupError) {
    node.metrics().backup.failures.inc();
    tracing::error!(
        "backup-dir" = %plan.dir.display(),
        %error,
        "a backup has failed; the earlier ones are kept, and it will be tried again"
    );
}

/// No backup was made.
#[derive(Debug, Error)]
enum BackupError {
    #[error("no space in {}: a backup takes {} there. Free some, or lower --backup-retain", dir.display(), HumanBytes(*bytes as i64))]
    NoSpace { dir: PathBuf, bytes: u64 },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the snapshot of this member cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("{} is not what was written: its checksum is another one. Check the disk", path.display())]
    Changed { path: PathBuf },
    #[error("{} cannot be restored: {source}", path.display())]
    Unusable { path: PathBuf, source: IntakeError },
    #[error("the member stops")]
    Stopped,
}

/// The directory and the backups in it.
struct Shelf {
    disk: Arc<dyn Disk>,
    /// Oldest first.
    backups: Vec<Backup>,
}

impl Shelf {
    async fn open(plan: &BackupPlan, names: &Names) -> Result<Shelf, BackupError> {
        let dir = plan.dir.clone();
        let opened = blocking(move || {
            create_directory(&dir).map_err(io_error("create", &dir))?;
            let disk = Directory::open(&dir).map_err(io_error("open", &dir))?;
            let files = disk.list().map_err(io_error("list", &dir))?;
            Ok((disk, files))
        });
        let (disk, files) = opened.await?;
        Ok(Shelf { backups: names.read_all(&files), disk: Arc::new(disk) })
    }
}

impl Node {
    /// Whether this member is the one that makes backups.
    fn is_whose_turn(&self, plan: &BackupPlan) -> bool {
        match &plan.member {
            Some(name) => *name == self.config().name,
            None => self.leadership().is_leader,
        }
    }

    fn note_last_backup(&self, newest: Option<Backup>) {
        if let Some(newest) = newest {
            self.metrics().backup.last_success.set(newest.taken_at.as_secs_f64());
        }
    }

    async fn back_up(&self, plan: &BackupPlan, names: &Names) -> Result<(), BackupError> {
        let start = clock::now();
        let taken_at = Duration::from_secs(clock::wall().as_secs());
        let shelf = Shelf::open(plan, names).await?;
        let (_, own) = self.ids();
        let part = names.part(&own.to_string());
        let (file, bytes, revision) = self.write_backup(&shelf, &part, &plan.dir).await?;
        let backup = Backup { taken_at, revision };
        let name = names.name(backup);
        let path = plan.dir.join(&name);
        blocking(move || file.publish(&name).map_err(io_error("rename", &path))).await?;

        let took = clock::since(start);
        let backup_metrics = &self.metrics().backup;
        backup_metrics.last_success.set(taken_at.as_secs_f64());
        backup_metrics.last_size.set(bytes as i64);
        backup_metrics.last_duration.set(took.as_secs_f64());
        backup_metrics.successes.inc();
        tracing::info!(
            path = %plan.dir.join(names.name(backup)).display(),
            revision = revision.0,
            size = %HumanBytes(bytes as i64),
            took = %GoDuration(took),
            "made a backup and read it again"
        );
        if let Err(error) = self.remove_surplus(plan, names).await {
            tracing::warn!("backup-dir" = %plan.dir.display(), %error, "older backups cannot be removed");
        }
        Ok(())
    }

    /// A backup that is on the disk and whole, and has no name yet.
    async fn write_backup(
        &self,
        shelf: &Shelf,
        part: &Path,
        dir: &Path,
    ) -> Result<(ImageFile, u64, Rev), BackupError> {
        let mut snapshot = self.snapshot().await?;
        let (image_bytes, path) = (snapshot.total_bytes, dir.join(part));
        let write_error = {
            let (dir, path) = (dir.to_owned(), path.clone());
            move |source: io::Error| match is_full(&source) {
                true => BackupError::NoSpace { dir: dir.clone(), bytes: image_bytes + DIGEST_BYTES },
                false => BackupError::Io { action: "write", path: path.clone(), source },
            }
        };
        let (disk, name, failed) = (Arc::clone(&shelf.disk), part.to_owned(), write_error.clone());
        let mut file = blocking(move || ImageFile::begin(disk, name, image_bytes).map_err(failed)).await?;
        while let Some(pieces) = next_pieces(&mut snapshot).await? {
            let failed = write_error.clone();
            file = blocking(move || file.write(&pieces).map(|()| file).map_err(failed)).await?;
        }
        // The state that it was read from need not be kept any more.
        drop(snapshot);
        let (disk, name) = (Arc::clone(&shelf.disk), part.to_owned());
        let stopping = self.shared.stopping.clone();
        blocking(move || {
            file.complete().map_err(write_error)?;
            let written = disk.open_to_read(&name).map_err(io_error("open", &path))?;
            let revision = verify(written, image_bytes, &path, &|| !*stopping.borrow())?;
            Ok((file, image_bytes + DIGEST_BYTES, revision))
        })
        .await
    }

    async fn remove_surplus(&self, plan: &BackupPlan, names: &Names) -> Result<(), BackupError> {
        let Shelf { disk, backups } = Shelf::open(plan, names).await?;
        let surplus = shelf::surplus(&backups, plan.retain, clock::wall());
        let surplus: Vec<PathBuf> = surplus.into_iter().map(|backup| names.name(backup)).collect();
        blocking(move || {
            for name in &surplus {
                // Another member may have been quicker.
                match disk.remove(name) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(io_error("remove", &disk.path().join(name))(error));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            disk.sync().map_err(io_error("sync", disk.path()))
        })
        .await
    }
}

/// About as many bytes as are read at once for a client.
async fn next_pieces(snapshot: &mut super::Snapshot) -> Result<Option<Bytes>, ReadError> {
    let mut pieces = BytesMut::new();
    while pieces.len() < limits::IMAGE_READ_BYTES {
        match snapshot.next().await? {
            Some(piece) => pieces.extend_from_slice(&piece),
            None => break,
        }
    }
    Ok((!pieces.is_empty()).then(|| pieces.freeze()))
}

/// Reads all of a file: its bytes against their checksum, and its records one by one.
fn verify(
    file: Box<dyn DiskFile>,
    image_bytes: u64,
    path: &Path,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Rev, BackupError> {
    let mut digest = Sha256::new();
    let mut piece = vec![0; limits::IMAGE_READ_BYTES];
    let mut offset = 0;
    while offset < image_bytes {
        if !is_wanted() {
            return Err(BackupError::Stopped);
        }
        let len = piece.len().min((image_bytes - offset) as usize);
        file.read_at(&mut piece[..len], offset).map_err(io_error("read", path))?;
        digest.update(&piece[..len]);
        offset += len as u64;
    }
    let mut stored = [0; DIGEST_BYTES as usize];
    file.read_at(&mut stored, image_bytes).map_err(io_error("read", path))?;
    if digest.finalize()[..] != stored {
        return Err(BackupError::Changed { path: path.to_owned() });
    }
    let unusable = |source: IntakeError| BackupError::Unusable { path: path.to_owned(), source };
    let file = BboltFile::open(file.into(), image_bytes).map_err(|error| unusable(error.into()))?;
    let survey = survey(&file, is_wanted).map_err(unusable)?.ok_or(BackupError::Stopped)?;
    Ok(survey.revision)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { action, path, source }
}

/// Runs work that waits for a disk, which is maybe a slow one.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    threads::blocking(work).await.unwrap_or(Err(BackupError::Stopped))
}
