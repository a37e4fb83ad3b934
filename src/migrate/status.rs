//! What a database of etcd holds, as `etcdutl snapshot status` and `etcdutl hashkv` show it.
//!
//! The newest revision of each key is kept in memory meanwhile, as in the index of a member that has the database.

use std::collections::BTreeMap;

use super::{
    IntakeError,
    intake::{entries, unreadable},
    schema,
    survey::{Survey, walk},
};
use crate::{
    bbolt::BboltFile,
    mvcc::{KvHash, RevError, kv_hash},
    storage::Record,
    types::{Rev, Revision},
};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileStatus {
    pub(crate) hash: u32,
    pub(crate) revision: Rev,
    /// Keys that exist at that revision.
    pub(crate) keys: usize,
    pub(crate) bytes: u64,
    /// Of the format, from etcd 3.6 on; empty if it is not said.
    pub(crate) version: String,
}

/// Reads all of a file.
pub(crate) fn status(file: &BboltFile) -> Result<FileStatus, IntakeError> {
    let mut live = LiveKeys::default();
    let survey = walk(file, &|| true, &mut |revision, record| live.add(revision, record))?;
    let Survey { revision, hash, .. } = survey.expect("it is wanted");
    let version = entries(file, schema::META)?.get(schema::STORAGE_VERSION).cloned().unwrap_or_default();
    let version = String::from_utf8_lossy(&version).into_owned();
    Ok(FileStatus { hash, revision, keys: live.count(), bytes: file.state_bytes(), version })
}

/// The hash of the history up to a revision, 0 for the newest, as a member that has the database would answer it. The
/// file is read twice: what of the compacted history counts is what exists at that revision.
pub(crate) fn hash_kv(file: &BboltFile, asked: i64) -> Result<Result<KvHash, RevError>, IntakeError> {
    let compacted = compacted(file)?;
    let upto = if asked == 0 { Rev(i64::MAX) } else { Rev(asked) };
    let mut live = LiveKeys::default();
    let mut current = Rev::INITIAL.max(compacted);
    walk_records(file, |revision, record| {
        current = current.max(revision.main);
        if revision.main <= upto {
            live.add(revision, record);
        }
    })?;
    let rev = if asked == 0 { current } else { Rev(asked) };
    if asked > 0 && rev < compacted {
        return Ok(Err(RevError::Compacted { asked: rev, compacted }));
    }
    if rev > current {
        return Ok(Err(RevError::Future { asked: rev, current }));
    }
    let mut hash = kv_hash::of_nothing();
    walk_records(file, |revision, record| {
        let is_kept = revision.main > compacted || live.is_empty() || live.has(revision, record);
        if revision.main <= rev && is_kept {
            hash = kv_hash::add(hash, compacted, revision, record);
        }
    })?;
    Ok(Ok(KvHash { hash, rev_compacted: compacted, rev_hashed: rev, rev_current: current }))
}

/// The keys that exist, and the revision of the newest record of each.
#[derive(Default)]
pub(super) struct LiveKeys(BTreeMap<Box<[u8]>, Revision>);

impl LiveKeys {
    /// In the order of revisions.
    pub(super) fn add(&mut self, revision: Revision, record: &Record) {
        let key = record.parts().key;
        match record.is_tombstone() {
            true => drop(self.0.remove(key)),
            // The copy does not keep the page that the record is in.
            false => drop(self.0.insert(key.into(), revision)),
        }
    }

    fn has(&self, revision: Revision, record: &Record) -> bool {
        self.0.get(record.parts().key) == Some(&revision)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

fn walk_records(file: &BboltFile, mut each: impl FnMut(Revision, &Record)) -> Result<(), IntakeError> {
    let keys = file.bucket(schema::KEY.as_bytes())?.ok_or(IntakeError::NotOfEtcd)?;
    for entry in keys.entries()? {
        let entry = entry?;
        let found = schema::revision_of(&entry.key);
        let record = found.and_then(|(revision, is_tombstone)| {
            Record::decode(is_tombstone, entry.value.clone()).map(|record| (revision, record))
        });
        let (revision, record) = record.ok_or_else(|| unreadable(schema::KEY, &entry.key))?;
        each(revision, &record);
    }
    Ok(())
}

/// The compaction that was begun last counts as done: whoever opens the database does it.
fn compacted(file: &BboltFile) -> Result<Rev, IntakeError> {
    let meta = entries(file, schema::META)?;
    let rev = |name: &'static [u8]| match meta.get(name) {
        Some(value) => schema::compaction_of(value).ok_or_else(|| unreadable(schema::META, name)),
        None => Ok(Rev::NEVER_COMPACTED),
    };
    Ok(rev(schema::COMPACT_FINISHED)?.max(rev(schema::COMPACT_SCHEDULED)?))
}
