//! Space of the disk that is kept for checkpoints when the disk is full.
//!
//! The reserve is a file that holds nothing. When the disk has no room for a checkpoint, the file is
//! removed: what it took is enough for checkpoints of deletes and compactions, which in turn make room
//! inside the database. While the reserve is not whole, this member refuses what grows.

use std::{path::Path, sync::Arc};

use super::{StorageError, error::io_error};
use crate::{
    disk::{self, Disk},
    limits,
};

const NAME: &str = "reserve";

pub(crate) struct Reserve {
    disk: Arc<dyn Disk>,
    is_whole: bool,
}

impl Reserve {
    pub(crate) fn on(disk: Arc<dyn Disk>) -> Reserve {
        Reserve { disk, is_whole: false }
    }

    /// Takes the space unless that was done before. False if the disk has no room for it.
    pub(crate) fn fill(&mut self) -> Result<bool, StorageError> {
        if self.is_whole {
            return Ok(true);
        }
        let name = Path::new(NAME);
        // An earlier run may have left the file.
        let filled = self.disk.open(name).or_else(|_| self.disk.create(name));
        match filled.and_then(|file| file.reserve(limits::DATABASE_RESERVE_BYTES)) {
            Ok(()) => {
                self.is_whole = true;
                Ok(true)
            }
            Err(error) if disk::is_full(&error) => {
                // A part of the space may have been taken.
                self.release();
                Ok(false)
            }
            Err(error) => Err(io_error("reserve space in", &self.disk.path().join(name))(error)),
        }
    }

    /// Gives the space back for others to use.
    pub(crate) fn release(&mut self) {
        let _ = self.disk.remove(Path::new(NAME));
        self.is_whole = false;
    }
}
