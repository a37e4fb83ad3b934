//! Reading history in the order of revisions, for watchers that are behind.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    mvcc::{RevError, Store, recent::Changes, store::Located},
    storage::{Reader, Record, StorageError},
    types::{Event, EventKind, KeyValue, Rev, Revision},
};

/// A part of the history that was captured and has not been read yet.
pub(crate) struct HistoryStride {
    source: Source,
    revs_max: usize,
    bytes_max: usize,
    compacted: Rev,
    current: Rev,
}

type Revs = Vec<(Rev, Changes)>;

enum Source {
    /// Whole revisions from memory, beginning with `from`.
    Head { from: Rev, revs: Revs },
    /// The revisions of `from..until` from the database.
    Body { body: Arc<Reader>, from: Rev, until: Rev },
}

/// Whole revisions, in order, each with its events in order.
#[derive(Debug, PartialEq)]
pub(crate) struct History {
    pub(crate) revs: Vec<(Rev, Vec<Event>)>,
    /// The revision at which the next stride begins.
    pub(crate) next: Rev,
    /// The newest revision when the stride was captured. If `next` is above it, the reader has caught up.
    pub(crate) current: Rev,
}

/// The key-value pairs before some events. They were located and have not been read yet.
pub(crate) struct PrevLookup {
    values: Vec<Option<Located>>,
}

impl Store {
    /// Captures the next revisions, beginning with `from`: at most `revs_max` of them, ending with the
    /// revision that reaches `bytes_max`.
    pub(crate) fn history(
        &self,
        from: Rev,
        revs_max: usize,
        bytes_max: usize,
    ) -> Result<HistoryStride, RevError> {
        assert!(revs_max > 0, "a stride reads at least one revision");
        if from < self.rev_compacted {
            return Err(RevError::Compacted { asked: from, compacted: self.rev_compacted });
        }
        let from = from.max(Rev::INITIAL);
        let until = self.recent.first();
        assert!(until <= self.rev_checkpointed.next(), "a record that is not in memory is in the database");
        let source = if from < until {
            Source::Body { body: Arc::clone(&self.body), from, until }
        } else {
            let mut bytes = 0;
            let mut revs = Vec::new();
            // The records are shared and not copied, since there may be very many of one revision.
            for (rev, bytes_of_rev, changes) in self.recent.sized_from(from).take(revs_max) {
                if bytes >= bytes_max || rev > self.rev_current {
                    break;
                }
                bytes += bytes_of_rev;
                revs.push((rev, changes.clone()));
            }
            Source::Head { from, revs }
        };
        let (compacted, current) = (self.rev_compacted, self.rev_current);
        Ok(HistoryStride { source, revs_max, bytes_max, compacted, current })
    }

    /// Locates, for each event, the key-value pair that its key had at the revision before.
    pub(crate) fn locate_prev(&self, events: &[&Event]) -> PrevLookup {
        let locate = |event: &&Event| {
            let before = Rev(event.kv.mod_rev.0 - 1);
            let is_creation = event.kind == EventKind::Put && event.kv.version == 1;
            if is_creation || before < self.rev_compacted {
                return None;
            }
            let live = self.index.get(&event.kv.key).and_then(|changes| changes.at(before))?;
            Some(self.locate(live.revision))
        };
        PrevLookup { values: events.iter().map(locate).collect() }
    }
}

impl HistoryStride {
    pub(crate) fn load(self) -> Result<History, StorageError> {
        let (revs, next) = match self.source {
            Source::Head { from, revs } => {
                let next = revs.last().map_or(from, |(rev, _)| rev.next());
                (revs, next)
            }
            Source::Body { body, from, until } => read(&body, from, until, self.revs_max, self.bytes_max)?,
        };
        let revs = revs.into_iter().map(|(rev, changes)| {
            let records = changes.iter_from(0);
            let events = match rev == self.compacted {
                true => newest_of_each_key(records).into_iter().map(|record| event(rev, record)).collect(),
                false => records.map(|record| event(rev, record)).collect(),
            };
            (rev, events)
        });
        Ok(History { revs: revs.collect(), next, current: self.current })
    }
}

impl PrevLookup {
    /// One result for each event: `None` if the event created the key, or if the revision before the
    /// event is compacted.
    pub(crate) fn load(self) -> Result<Vec<Option<KeyValue>>, StorageError> {
        self.values.into_iter().map(|value| value.map(Located::load).transpose()).collect()
    }
}

/// Whole revisions of `from..until`, and the revision after them.
fn read(
    body: &Reader,
    from: Rev,
    until: Rev,
    revs_max: usize,
    bytes_max: usize,
) -> Result<(Revs, Rev), StorageError> {
    let mut revs: Vec<(Rev, Vec<Record>)> = Vec::new();
    let mut bytes = 0;
    let mut next = until;
    for item in body.records(Revision { main: from, sub: 0 })? {
        let (Revision { main, .. }, record) = item?;
        if main >= until {
            break;
        }
        let is_full = revs.len() == revs_max || bytes >= bytes_max;
        bytes += record.bytes().len();
        match revs.last_mut() {
            Some((rev, records)) if *rev == main => records.push(record),
            _ if is_full => {
                next = main;
                break;
            }
            _ => revs.push((main, vec![record])),
        }
    }
    Ok((revs.into_iter().map(|(rev, records)| (rev, records.into())).collect(), next))
}

/// A transaction can change a key several times. A compaction to its revision removes all but the last
/// of these changes. A reader must not notice when that happens, in memory or on the disk, so the others
/// are left out from the moment of the compaction.
fn newest_of_each_key<'r>(records: impl DoubleEndedIterator<Item = &'r Record>) -> Vec<&'r Record> {
    let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
    // Backwards, because the newest change of a key is its last one.
    let mut kept: Vec<&Record> = records.rev().filter(|record| seen.insert(record.parts().key)).collect();
    kept.reverse();
    kept
}

fn event(rev: Rev, record: &Record) -> Event {
    match record.is_tombstone() {
        true => Event { kind: EventKind::Delete, kv: record.deleted_key_value(rev), prev_kv: None },
        false => Event { kind: EventKind::Put, kv: record.key_value(), prev_kv: None },
    }
}
