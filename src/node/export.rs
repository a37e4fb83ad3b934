//! A snapshot of a member that is stopped.
//!
//! What the member's log has beyond its database is applied first, as a start would do it. So the directory must not be
//! in use, and is up to date afterwards.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use super::{StartError, image_file::ImageFile, stopped::StoppedMember};
use crate::{
    config::ExportCommand,
    disk::Directory,
    limits,
    migrate::{Image, LogPlace},
    raft::base,
    storage::StorageError,
    types::Rev,
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Exported {
    pub(crate) revision: Rev,
    pub(crate) keys: usize,
    pub(crate) bytes: u64,
}

/// Nothing was exported.
#[derive(Debug, Error)]
pub(crate) enum ExportError {
    #[error("{} has no member: there is no member/snap/db. Name the --data-dir of a member of retcd", data_dir.display())]
    NoMember { data_dir: PathBuf },
    #[error("cannot write {}: {source}; name a file in a directory with enough free space", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Start(#[from] StartError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Writes the file. `report` is told how many of its bytes are written.
pub(crate) fn export(
    command: &ExportCommand,
    report: &mut dyn FnMut(u64, u64),
) -> Result<Exported, ExportError> {
    let config = &command.config;
    let member = StoppedMember::find(config)?
        .ok_or_else(|| ExportError::NoMember { data_dir: config.data_dir.clone() })?;
    let (database, replica) = member.open(config, |directory| Arc::new(directory))?;
    let store = &replica.state.mvcc;
    let (revision, keys) = (store.rev_current(), store.keys_live());
    drop(replica);

    let reader = database.reader()?;
    let place = base::applied(&reader)?.map(|place| LogPlace { term: place.term, index: place.index });
    let image = Image::lay_out(reader, place, &|| true)?.expect("the image is wanted");
    let bytes = write(&image, &command.file, report)?;
    Ok(Exported { revision, keys, bytes })
}

/// `report` is told how many bytes are written of how many.
fn write(image: &Image, path: &Path, report: &mut dyn FnMut(u64, u64)) -> Result<u64, ExportError> {
    let failed = |source| ExportError::File { path: path.to_owned(), source };
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let directory = Arc::new(Directory::open(parent).map_err(failed)?);
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
    let name = Path::new(name);
    let total = image.file_bytes();
    let mut file = ImageFile::begin(directory, name.with_added_extension("part"), total).map_err(failed)?;
    let (mut pages, mut written) = (image.pages()?, 0);
    while let Some(piece) = pages.next(limits::IMAGE_READ_BYTES)? {
        file.write(&piece).map_err(failed)?;
        written += piece.len() as u64;
        report(written, total);
    }
    assert_eq!(written, total, "a file is as long as it was laid out");
    file.complete().map_err(failed)?;
    file.publish(name).map_err(failed)?;
    Ok(written)
}
