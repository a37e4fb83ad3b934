//! Moving values out of files of which little else is needed.
//!
//! A file of values is as long as the segment of the log that it was. When fewer than half of its bytes are values that
//! the database refers to, these are copied, a slice at a time, to the end of another file. Each slice is on the disk there
//! before the database refers to it, and the old file goes when nobody refers to it any more.

use super::super::{
    Database, Record, StorageError, StoredRecord,
    checkpoint::{begin_write, put_records},
};
use crate::{
    limits,
    types::{Rev, Revision, ValuePlace},
};

/// The values of one file, on their way.
#[derive(Debug)]
pub(crate) struct Moving {
    file: u32,
    /// Records before it refer to the file no more.
    next: Revision,
    /// The newest one that may.
    last: Rev,
}

/// What came of a slice.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) bytes: u64,
    /// A value that is damaged stays where it is.
    pub(crate) damaged: Vec<StorageError>,
    /// A value could not be read for another reason, which may pass.
    pub(crate) unread: Option<StorageError>,
    pub(crate) is_done: bool,
}

impl Database {
    /// A file whose values should be moved, if there is one. Not one of `except`.
    pub(crate) fn begin_moving(&self, except: &dyn Fn(u32) -> bool) -> Option<Moving> {
        let (file, occupied) = self.values()?.sparsest(except)?;
        let next = Revision { main: occupied.first, sub: 0 };
        Some(Moving { file, next, last: occupied.last })
    }

    /// Moves some values. [`StorageError::NoSpace`] means that nothing was moved; after any other error the process has to
    /// stop.
    pub(crate) fn move_some(&self, moving: &mut Moving) -> Result<Moved, StorageError> {
        let values = self.values().expect("values are moved where there are some");
        let _writing = self.begin_writing()?;
        let opened = self.opened();
        if !opened.settle()? {
            return Err(self.no_space());
        }
        let reader = self.reader()?;
        let mut moved = Moved { is_done: true, ..Moved::default() };
        let mut found: Vec<(Revision, StoredRecord)> = Vec::new();
        let mut bytes = Vec::new();
        for (visited, item) in reader.stored_records(moving.next)?.enumerate() {
            let (revision, stored) = item?;
            if revision.main > moving.last {
                break;
            }
            if visited >= limits::VALUE_MOVE_RECORDS || bytes.len() >= limits::VALUE_MOVE_BYTES {
                moved.is_done = false;
                moving.next = revision;
                break;
            }
            if stored.place().is_none_or(|place| place.file != moving.file) {
                continue;
            }
            match reader.load(stored.clone()) {
                Ok(record) => {
                    bytes.extend_from_slice(value_of(&record));
                    found.push((revision, stored));
                }
                Err(damage) if damage.is_damage() => moved.damaged.push(damage),
                Err(error) => {
                    moved.unread = Some(error);
                    break;
                }
            }
        }
        if found.is_empty() {
            return Ok(moved);
        }
        let ValuePlace { file, mut offset, .. } = values.append(&bytes)?;
        let (mut records, mut added, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for (revision, stored) in found {
            let from = stored.place().expect("its value lies apart");
            let to = ValuePlace { file, offset, ..from };
            offset += from.len;
            added.push((revision.main, to));
            removed.push(from);
            records.push((revision, stored.moved_to(to)));
        }
        moved.bytes = bytes.len() as u64;
        let _inside = self.inside();
        let transaction = begin_write(opened.redb())?;
        put_records(&transaction, records)?;
        transaction.commit()?;
        values.committed(&added, &removed);
        Ok(moved)
    }

    /// Removes the files of values that nobody refers to any more. Returns how many bytes they had.
    pub(crate) fn sweep_values(&self) -> Result<u64, StorageError> {
        let Some(values) = self.values() else { return Ok(0) };
        let _writing = self.begin_writing()?;
        // What is held back in memory is not what the next start finds.
        if self.holds_back() { Ok(0) } else { values.sweep() }
    }
}

impl Moving {
    /// The number of the file.
    pub(crate) fn file(&self) -> u32 {
        self.file
    }
}

fn value_of(record: &Record) -> &[u8] {
    record.parts().value
}
