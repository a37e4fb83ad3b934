//! The state in parts, as a snapshot sends it: records in the order of their revisions, then the cells
//! of every table.
//!
//! The last part says that it is the last. A stream that ends without it was interrupted.

use std::iter::Peekable;

use bytes::Bytes;

use crate::{
    raft::message::{self, Unreadable},
    storage::{Checkpoint, Reader, StorageError, Stretches},
};

/// A stretch of the state.
#[derive(Debug)]
pub(super) struct Part {
    /// What is to be stored.
    pub(super) content: Checkpoint,
    pub(super) is_last: bool,
}

impl Part {
    pub(super) fn encode(&self) -> Bytes {
        message::encode_snapshot_part(&self.content, self.is_last)
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Part, Unreadable> {
        let (content, is_last) = message::decode_snapshot_part(bytes)?;
        Ok(Part { content, is_last })
    }
}

/// All that a reader sees. Checksums are checked while it is read, so that damage is found here and is not
/// sent to another member.
pub(super) struct Parts {
    stretches: Peekable<Stretches>,
}

impl Parts {
    pub(super) fn of(reader: Reader) -> Result<Parts, StorageError> {
        Ok(Parts { stretches: reader.into_stretches()?.peekable() })
    }
}

impl Iterator for Parts {
    type Item = Result<Part, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stretch = self.stretches.next()?;
        Some(stretch.map(|content| Part { content, is_last: self.stretches.peek().is_none() }))
    }
}
