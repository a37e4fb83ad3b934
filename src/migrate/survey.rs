//! What a database of etcd holds, read from its beginning to its end and not taken over.

use bytes::Bytes;

use super::{IntakeError, intake::unreadable, schema};
use crate::{
    bbolt::BboltFile,
    storage::{Record, is_of_a_change},
    types::{Rev, Revision},
};

/// As `etcdutl snapshot status` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Of the last record.
    pub(crate) revision: Rev,
    /// Keys of all buckets.
    pub(crate) entries: u64,
    /// CRC32C of the names of the buckets, each with its keys and values behind it.
    pub(crate) hash: u32,
}

/// Reads every page that belongs to the file's state, and every record. `is_wanted` is asked now and then; `None` once
/// it says no.
pub(crate) fn survey(file: &BboltFile, is_wanted: &dyn Fn() -> bool) -> Result<Option<Survey>, IntakeError> {
    walk(file, is_wanted, &mut |_, _| {})
}

/// Does so, and hands each record to `each`.
pub(super) fn walk(
    file: &BboltFile,
    is_wanted: &dyn Fn() -> bool,
    each: &mut dyn FnMut(Revision, &Record),
) -> Result<Option<Survey>, IntakeError> {
    /// Entries between two questions.
    const STRIDE: u64 = 4096;
    let mut survey = Survey::default();
    let mut has_keys = false;
    for bucket in file.root().entries()? {
        let bucket = bucket?;
        let Some(entries) = &bucket.bucket else { return Err(unreadable("the root", &bucket.key)) };
        let is_of_keys = bucket.key == schema::KEY.as_bytes();
        has_keys |= is_of_keys;
        let mut last = Revision::default();
        survey.hash = crc32c::crc32c_append(survey.hash, &bucket.key);
        for entry in entries.entries()? {
            let entry = entry?;
            if is_of_keys {
                let (revision, record) = record(&entry.key, &entry.value, last)?;
                each(revision, &record);
                last = revision;
                survey.revision = revision.main;
            }
            survey.hash = crc32c::crc32c_append(survey.hash, &entry.key);
            survey.hash = crc32c::crc32c_append(survey.hash, &entry.value);
            survey.entries += 1;
            if survey.entries.is_multiple_of(STRIDE) && !is_wanted() {
                return Ok(None);
            }
        }
    }
    if has_keys { Ok(Some(survey)) } else { Err(IntakeError::NotOfEtcd) }
}

/// A record that can be read and comes after `last`. An empty value only raises the revision.
fn record(key: &Bytes, value: &Bytes, last: Revision) -> Result<(Revision, Record), IntakeError> {
    let unreadable = || unreadable(schema::KEY, key);
    let (revision, is_tombstone) = schema::revision_of(key).ok_or_else(unreadable)?;
    let record = Record::decode(is_tombstone, value.clone()).ok_or_else(unreadable)?;
    if is_of_a_change(revision) && revision > last { Ok((revision, record)) } else { Err(unreadable()) }
}
