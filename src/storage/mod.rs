//! The body of the tape: records and state tables in redb.
//!
//! Everything here is on the far side of `rev_checkpointed`: what has been applied and has
//! since been moved to disk, in one durable transaction for each checkpoint. A crash leaves a
//! file exactly as some checkpoint wrote it; the raft log brings back what came after.
//!
//! redb does not verify its checksums when it reads, so everything of ours carries its own and
//! every read checks it: damage is reported, never served.

mod apart;
mod backend;
mod change;
mod checkpoint;
mod codec;
mod database;
mod defragmentation;
mod draft;
mod error;
mod inside;
mod inspection;
mod panics;
mod place;
mod reader;
mod record;
mod reserve;
mod stored;
mod stretches;
mod tables;
mod unwritten;
mod values;

pub(crate) use apart::Apart;
pub(crate) use change::StoredChange;
pub(crate) use checkpoint::Checkpoint;
pub(crate) use database::Database;
pub(crate) use defragmentation::{Copied, Defragmentation, Pass};
pub(crate) use draft::Draft;
pub(crate) use error::{REMEDY, StorageError, io_error};
#[cfg(test)]
pub(crate) use inside::Inside;
pub(crate) use inspection::{TableFindings, pages_are_sound};
pub(crate) use panics::name_damaged_files;
pub(crate) use reader::{Cells, Reader, StoredChanges};
pub(crate) use record::Record;
pub(crate) use reserve::Reserve;
pub(crate) use stored::StoredRecord;
pub(crate) use stretches::{StoredStretches, Stretches};
pub(crate) use tables::{Table, cell_footprint, footprint, is_of_a_change, meta};
pub(crate) use values::{Moving, Occupancy, Values};
