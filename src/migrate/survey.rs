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
                last = record(&entry.key, &entry.value, last)?;
                survey.revision = last.main;
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

/// The revision of a record that can be read and comes after `last`.
fn record(key: &Bytes, value: &Bytes, last: Revision) -> Result<Revision, IntakeError> {
    let unreadable = || unreadable(schema::KEY, key);
    let (revision, is_tombstone) = schema::revision_of(key).ok_or_else(unreadable)?;
    // An empty value only raises the revision.
    let is_readable =
        (value.is_empty() && !is_tombstone) || Record::decode(is_tombstone, value.clone()).is_some();
    let is_in_place = is_of_a_change(revision) && revision > last;
    if is_readable && is_in_place { Ok(revision) } else { Err(unreadable()) }
}
