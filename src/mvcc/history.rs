//! Reading history in the order of revisions, for watchers that are behind.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    mvcc::{RevError, Step, Store, recent::Changes, store::Located},
    storage::{Reader, Record, StorageError},
    types::{Chunked, Event, EventKind, KeyValue, Rev, Revision},
};

/// A part of the history that was captured and has not been read yet. It may be read in two parts, because there may
/// be very many events of one revision.
pub(crate) struct HistoryStride {
    source: Source,
    /// Whole revisions, but for the last while there is more to read.
    revs: Revs,
    /// The revision at which the next stride begins.
    next: Rev,
    compacted: Rev,
    current: Rev,
}

type Revs = Vec<(Rev, Changes)>;

enum Source {
    /// All of it is in memory, and captured.
    Head,
    Body(BodyStride),
}

/// The revisions before `until` in the database.
struct BodyStride {
    body: Arc<Reader>,
    /// The next record.
    from: Revision,
    until: Rev,
    revs_max: usize,
    bytes_max: usize,
    revs: Vec<(Rev, Vec<Record>)>,
    bytes: usize,
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

/// As [`History`], with so many events that nobody should handle all of them in one go.
#[derive(Debug)]
pub(crate) struct LongHistory {
    pub(crate) events: Chunked<Event>,
    pub(crate) next: Rev,
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
        let (compacted, current) = (self.rev_compacted, self.rev_current);
        if from < until {
            let (body, from) = (Arc::clone(&self.body), Revision { main: from, sub: 0 });
            let stride = BodyStride { body, from, until, revs_max, bytes_max, revs: Vec::new(), bytes: 0 };
            let source = Source::Body(stride);
            return Ok(HistoryStride { source, revs: Vec::new(), next: until, compacted, current });
        }
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
        let next = revs.last().map_or(from, |(rev, _)| rev.next());
        Ok(HistoryStride { source: Source::Head, revs, next, compacted, current })
    }

    /// Locates, for each event, the key-value pair that its key had at the revision before. What is below
    /// `compacted` is left out.
    pub(crate) fn locate_prev(&self, events: &[&Event], compacted: Rev) -> PrevLookup {
        let locate = |event: &&Event| {
            let before = Rev(event.kv.mod_rev.0 - 1);
            let is_creation = event.kind == EventKind::Put && event.kv.version == 1;
            if is_creation || before < compacted {
                return None;
            }
            let live = self.index.get(&event.kv.key).and_then(|changes| changes.at(before))?;
            Some(self.locate(live.revision))
        };
        PrevLookup { values: events.iter().map(locate).collect() }
    }
}

impl HistoryStride {
    /// How many events there are, if all of them are in memory.
    pub(crate) fn events_in_memory(&self) -> Option<usize> {
        match self.source {
            Source::Head => Some(self.revs.iter().map(|(_, changes)| changes.len()).sum()),
            Source::Body(_) => None,
        }
    }

    /// Reads until the stride is complete, or has more than so many events.
    pub(crate) fn read(&mut self, events_max: usize) -> Result<Step, StorageError> {
        if let Some(events) = self.events_in_memory() {
            return Ok(if events > events_max { Step::More } else { Step::Done });
        }
        match &mut self.source {
            Source::Head => Ok(Step::Done),
            Source::Body(stride) => {
                let Some(next) = stride.read(events_max)? else { return Ok(Step::More) };
                self.next = next;
                let revs = std::mem::take(&mut stride.revs).into_iter();
                self.revs = revs.map(|(rev, records)| (rev, records.into())).collect();
                self.source = Source::Head;
                Ok(Step::Done)
            }
        }
    }

    /// To be called when the stride is complete.
    pub(crate) fn into_history(self) -> History {
        let HistoryStride { revs, next, compacted, current, .. } = self;
        let revs = revs.into_iter().map(|(rev, changes)| {
            let mut events = Vec::with_capacity(changes.len());
            events_of(rev, &changes, compacted, |event| events.push(event));
            (rev, events)
        });
        History { revs: revs.collect(), next, current }
    }

    /// As [`HistoryStride::into_history`].
    pub(crate) fn into_long_history(self) -> LongHistory {
        let HistoryStride { revs, next, compacted, current, .. } = self;
        let mut events = Chunked::default();
        for (rev, changes) in revs {
            events_of(rev, &changes, compacted, |event| events.push(event));
        }
        LongHistory { events, next, current }
    }

    #[cfg(test)]
    pub(crate) fn load(mut self) -> Result<History, StorageError> {
        // As it is read in production, in two parts.
        if self.read(1)? == Step::More {
            assert_eq!(self.read(usize::MAX)?, Step::Done);
        }
        Ok(self.into_history())
    }
}

impl BodyStride {
    /// Returns the revision after the last one if the stride is complete, and `None` if there are more than so many
    /// events.
    fn read(&mut self, events_max: usize) -> Result<Option<Rev>, StorageError> {
        let before: usize = self.revs.iter().map(|(_, records)| records.len()).sum();
        for (events, item) in (before..).zip(self.body.records(self.from)?) {
            let (revision @ Revision { main, sub }, record) = item?;
            if main >= self.until {
                break;
            }
            if events > events_max {
                return Ok(None);
            }
            let is_full = self.revs.len() == self.revs_max || self.bytes >= self.bytes_max;
            match self.revs.last_mut() {
                Some((rev, records)) if *rev == main => records.push(record.clone()),
                _ if is_full => return Ok(Some(main)),
                _ => self.revs.push((main, vec![record.clone()])),
            }
            assert!(revision >= self.from, "records are read in order");
            self.from = Revision { main, sub: sub + 1 };
            self.bytes += record.bytes().len();
        }
        Ok(Some(self.until))
    }
}

impl PrevLookup {
    /// How many of the pairs are not in memory.
    pub(crate) fn unread(&self) -> usize {
        self.values.iter().filter(|value| matches!(value, Some(Located::Body(_)))).count()
    }

    /// One result for each event: `None` if the event created the key, or if the revision before the
    /// event is compacted. The results end with the one that reaches `bytes_max`.
    pub(crate) fn load(self, bytes_max: usize) -> Result<Vec<Option<KeyValue>>, StorageError> {
        let mut loaded = Vec::with_capacity(self.values.len());
        let mut bytes = 0;
        for value in self.values {
            if bytes >= bytes_max {
                break;
            }
            let kv = value.map(Located::load).transpose()?;
            bytes += kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
            loaded.push(kv);
        }
        Ok(loaded)
    }
}

fn events_of(rev: Rev, changes: &Changes, compacted: Rev, mut take: impl FnMut(Event)) {
    let records = changes.iter_from(0);
    match rev == compacted {
        true => newest_of_each_key(records).into_iter().for_each(|record| take(event(rev, record))),
        false => records.for_each(|record| take(event(rev, record))),
    }
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
