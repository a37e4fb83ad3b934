//! Replays the history in the order of revisions.
//!
//! An answer has the revision of its state, so the order of all writes is known: each write has the revision
//! of its answer. A write without an answer has the revision at which its value was seen, or, if it only
//! deletes, a revision at which a watcher saw a deletion that no other write made. So every revision has one
//! write, which gives the state, and every answer must be the one that follows from the state at its
//! revision.
//!
//! The order must also be possible in time: an operation that was called after a revision was seen comes
//! after that revision. Only a serializable read may be of an older state, but not of an older one than the
//! same member returned to the same client before.
//!
//! Deletions without an answer leave no value, and a value may be replaced before it is read. Therefore the
//! history needs a watcher of all keys from the first revision to the last. A revision that no operation
//! wrote and no watcher saw is a violation.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt::Write as _,
    time::Duration,
};

use super::{
    history::{
        All, Answer, Batch, Change, ChangeKind, History, Operation, Outcome, Request, Response, Stored,
        Violation, Witness, Write,
    },
    model::Model,
};

/// The result of the replay.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) changes: Vec<Change>,
    /// The number of operations whose answer was compared with the state at its revision.
    pub(crate) judged: usize,
    /// The number of operations without an answer that were executed.
    pub(crate) unknown_done: usize,
}

pub(crate) fn check(history: &History) -> Result<Replayed, Violation> {
    let floors = floors(history);
    let writers = writers(history)?;
    check_real_time(history, &floors, &writers)?;
    check_members(history)?;
    Replay {
        history,
        floors: &floors,
        readers: readers(history, &writers)?,
        events: longest_events(history),
        unseen: unseen(history, &writers),
        writers,
        model: Model::new(),
        orphans: Vec::new(),
        replayed: Replayed { changes: Vec::new(), judged: 0, unknown_done: 0 },
    }
    .run()
}

/// The highest revision that was seen before an operation was called, and who saw it.
type Floors<'a> = Vec<(i64, Option<Witness<'a>>)>;

struct Replay<'a> {
    history: &'a History,
    floors: &'a Floors<'a>,
    /// The operation that made each revision, as an index.
    writers: BTreeMap<i64, usize>,
    /// The operations that were answered at a revision without making it.
    readers: BTreeMap<i64, Vec<usize>>,
    /// The operations without an answer that may have deleted a key, and whose value was not seen.
    unseen: Vec<usize>,
    /// The keys that watchers saw deleted or put, by revision.
    events: BTreeMap<i64, Vec<(&'a str, ChangeKind)>>,
    model: Model,
    /// The revisions that an operation without an answer made, with the operations that may have been it.
    orphans: Vec<(i64, Vec<usize>)>,
    replayed: Replayed,
}

impl Replay<'_> {
    fn run(mut self) -> Result<Replayed, Violation> {
        self.check_readers()?;
        while self.model.revision < self.history.final_revision {
            let revision = self.model.revision + 1;
            let changes = match self.writers.get(&revision) {
                Some(&writer) => self.written(writer)?,
                None => self.orphaned(revision)?,
            };
            self.model.commit(&changes);
            self.replayed.changes.extend(changes);
            self.check_readers()?;
        }
        self.assign_orphans()?;
        let stored: Vec<Stored> = self.model.kvs.into_values().collect();
        if stored != self.history.final_state {
            return Err(Violation(format!(
                "the final state, at revision {}, is not what the writes made\n  is:        {}\n  should be: {}",
                self.history.final_revision,
                All(&self.history.final_state),
                All(&stored)
            )));
        }
        Ok(self.replayed)
    }

    fn written(&mut self, writer: usize) -> Result<Vec<Change>, Violation> {
        let operation = &self.history.operations[writer];
        let (expected, changes) = self.model.evaluate(&operation.request);
        match operation.answer() {
            Some(answer) => self.check_answer(operation, answer, &expected)?,
            None if changes.is_empty() => {
                return Err(self.violation(
                    "a write was seen that the state does not allow",
                    operation,
                    &expected,
                ));
            }
            None => self.replayed.unknown_done += 1,
        }
        Ok(changes)
    }

    /// Finds the operations that may have made a revision which no answer has and which shows no value.
    fn orphaned(&mut self, revision: i64) -> Result<Vec<Change>, Violation> {
        let Some(seen) = self.events.get(&revision) else {
            return Err(Violation(format!("revision {revision} has no write, and no watcher saw one")));
        };
        let mut candidates = Vec::new();
        let mut changes = Vec::new();
        for &index in self.unseen.iter().filter(|index| self.floors[**index].0 < revision) {
            let (_, made) = self.model.evaluate(&self.history.operations[index].request);
            let is_deletes = made.iter().all(|change| change.kind == ChangeKind::Delete);
            if is_deletes
                && made.iter().map(|change| (change.key.as_str(), change.kind)).eq(seen.iter().copied())
            {
                candidates.push(index);
                changes = made;
            }
        }
        if candidates.is_empty() {
            return Err(Violation(format!("revision {revision} has no write, but watchers saw {seen:?}")));
        }
        self.orphans.push((revision, candidates));
        self.replayed.unknown_done += 1;
        Ok(changes)
    }

    /// No request was executed twice, so each of these revisions needs an operation of its own. (A matching,
    /// by augmenting paths.)
    fn assign_orphans(&self) -> Result<(), Violation> {
        fn augment(
            orphan: usize,
            orphans: &[(i64, Vec<usize>)],
            tried: &mut [bool],
            taken: &mut BTreeMap<usize, usize>,
        ) -> bool {
            if std::mem::replace(&mut tried[orphan], true) {
                return false;
            }
            let (_, candidates) = &orphans[orphan];
            for &candidate in candidates {
                let is_free = match taken.get(&candidate) {
                    Some(&other) => augment(other, orphans, tried, taken),
                    None => true,
                };
                if is_free {
                    taken.insert(candidate, orphan);
                    return true;
                }
            }
            false
        }

        let mut taken = BTreeMap::new();
        for (orphan, (revision, candidates)) in self.orphans.iter().enumerate() {
            if !augment(orphan, &self.orphans, &mut vec![false; self.orphans.len()], &mut taken) {
                let mut text = format!("revision {revision} was made by a request that was done before:");
                for candidate in candidates {
                    let _ = write!(text, "\n  {}", self.history.operations[*candidate]);
                }
                return Err(Violation(text));
            }
        }
        Ok(())
    }

    fn check_readers(&mut self) -> Result<(), Violation> {
        for reader in self.readers.remove(&self.model.revision).unwrap_or_default() {
            let operation = &self.history.operations[reader];
            let Some(answer) = operation.answer() else { continue };
            let (expected, _) = self.model.evaluate(&operation.request);
            self.check_answer(operation, answer, &expected)?;
        }
        Ok(())
    }

    fn check_answer(
        &mut self,
        operation: &Operation,
        answer: &Answer,
        expected: &Answer,
    ) -> Result<(), Violation> {
        let mut asked = expected.clone();
        if answer.previous.is_none() {
            asked.previous = None;
        }
        if *answer != asked {
            return Err(self.violation(
                "an answer is not that of the state at its revision",
                operation,
                &asked,
            ));
        }
        self.replayed.judged += 1;
        Ok(())
    }

    fn violation(&self, what: &str, operation: &Operation, expected: &Answer) -> Violation {
        let told = Operation { outcome: Outcome::Ok(expected.clone()), ..operation.clone() };
        let mut text =
            format!("{what}\n  is:        {operation}\n  should be: {told}\n  the writes in question:");
        let written = self.history.writers();
        let actual = operation.answer().into_iter().flat_map(Answer::seen);
        let values: BTreeSet<u64> = actual.chain(expected.seen()).map(|stored| stored.value).collect();
        let writers = values.iter().filter_map(|value| written.get(value).map(|writer| writer.to_string()));
        for writer in writers.collect::<BTreeSet<String>>() {
            let _ = write!(text, "\n    {writer}");
        }
        if let Some(writer) = self.writers.get(&expected.revision) {
            let _ = write!(text, "\n  the write of revision {}:", expected.revision);
            let _ = write!(text, "\n    {}", self.history.operations[*writer]);
        }
        Violation(text)
    }
}

fn floors(history: &History) -> Floors<'_> {
    let answers = history.operations.iter().filter_map(|operation| {
        Some((operation.returned?, operation.answer()?.revision, Witness::Operation(operation)))
    });
    let batches = history.watched.iter().flat_map(|watched| {
        let told = watched.batches.iter().filter_map(|batch| Some((batch.received, told_by(batch)?)));
        told.map(move |(received, revision)| (received, revision, Witness::Watched(watched)))
    });
    let mut told: Vec<(Duration, i64, Witness<'_>)> = answers.chain(batches).collect();
    told.sort_by_key(|(time, ..)| *time);
    let mut calls: Vec<usize> = (0..history.operations.len()).collect();
    calls.sort_by_key(|&index| history.operations[index].called);

    let mut floors = vec![(0, None); history.operations.len()];
    let mut floor = (0, None);
    let mut told = told.into_iter().peekable();
    for index in calls {
        while let Some((_, revision, witness)) =
            told.next_if(|told| told.0 < history.operations[index].called)
        {
            if revision > floor.0 {
                floor = (revision, Some(witness));
            }
        }
        floors[index] = floor;
    }
    floors
}

/// The revision that certainly existed when the batch arrived.
fn told_by(batch: &Batch) -> Option<i64> {
    if batch.is_progress {
        return Some(batch.header_revision);
    }
    batch.events.iter().map(|change| change.stored.mod_revision).max()
}

/// Which operation made which revision, as far as an answer or a value shows it.
fn writers(history: &History) -> Result<BTreeMap<i64, usize>, Violation> {
    let mut writers: BTreeMap<i64, usize> = BTreeMap::new();
    let mut place = |revision: i64, index: usize| match writers.entry(revision) {
        Entry::Vacant(entry) => {
            entry.insert(index);
            Ok(())
        }
        Entry::Occupied(entry) if *entry.get() == index => Ok(()),
        Entry::Occupied(entry) => Err(Violation(format!(
            "two writes have revision {revision}\n  {}\n  {}",
            history.operations[*entry.get()],
            history.operations[index]
        ))),
    };
    let mut by_value = BTreeMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        by_value
            .extend(operation.request.writes().into_iter().filter_map(|(_, value)| Some((value?, index))));
        if let Some(answer) = operation.answer().filter(|answer| has_written(&operation.request, answer)) {
            place(answer.revision, index)?;
        }
    }
    let mut found: BTreeMap<usize, (i64, Witness<'_>)> = BTreeMap::new();
    for (stored, _, witness) in history.seen() {
        let Some(&index) = by_value.get(&stored.value) else {
            return Err(Violation(format!("a value that nobody wrote: {stored}\n  seen by {witness}")));
        };
        let operation = &history.operations[index];
        let (revision, first) = *found.entry(index).or_insert((stored.mod_revision, witness));
        if revision != stored.mod_revision {
            return Err(Violation(format!(
                "one write has two revisions, {revision} and {}\n  {operation}\n  seen by {first}\n  seen by {witness}",
                stored.mod_revision
            )));
        }
        match operation.outcome {
            Outcome::Ok(_) => {}
            Outcome::Refused => {
                return Err(Violation(format!(
                    "a refused write was done: {operation}\n  as {stored}\n  seen by {witness}"
                )));
            }
            Outcome::Unknown => place(stored.mod_revision, index)?,
        }
    }
    Ok(writers)
}

/// Whether the answer shows that something was changed.
fn has_written(request: &Request, answer: &Answer) -> bool {
    match request {
        Request::Get { .. } | Request::List { .. } => false,
        Request::Put { .. } => true,
        Request::Delete { .. } => answer.deleted > 0,
        Request::Txn(txn) => {
            let mut taken = txn.taken(answer.succeeded, &answer.responses).into_iter();
            taken.any(|(write, response)| match write {
                Write::Put { .. } => true,
                _ => matches!(response, Response::Deleted(count) if *count > 0),
            })
        }
    }
}

/// Which operations were answered at which revision without making it.
fn readers(
    history: &History,
    writers: &BTreeMap<i64, usize>,
) -> Result<BTreeMap<i64, Vec<usize>>, Violation> {
    let mut readers: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Some(answer) = operation.answer() else { continue };
        if !(1..=history.final_revision).contains(&answer.revision) {
            return Err(Violation(format!(
                "an answer has a revision that is not there in the end, where {} is the last\n  {operation}",
                history.final_revision
            )));
        }
        if writers.get(&answer.revision) != Some(&index) {
            readers.entry(answer.revision).or_default().push(index);
        }
    }
    Ok(readers)
}

fn unseen(history: &History, writers: &BTreeMap<i64, usize>) -> Vec<usize> {
    let placed: BTreeSet<usize> = writers.values().copied().collect();
    let may_delete = |operation: &Operation| {
        matches!(operation.outcome, Outcome::Unknown)
            && operation.request.writes().iter().any(|(_, value)| value.is_none())
    };
    let all = history.operations.iter().enumerate();
    all.filter(|(index, operation)| may_delete(operation) && !placed.contains(index))
        .map(|(index, _)| index)
        .collect()
}

fn check_real_time(
    history: &History,
    floors: &Floors<'_>,
    writers: &BTreeMap<i64, usize>,
) -> Result<(), Violation> {
    let behind = |index: usize, revision: i64| {
        let (floor, witness) = floors[index];
        let witness = witness.map_or_else(String::new, |witness| witness.to_string());
        Violation(format!(
            "revision {revision} is behind the times: revision {floor} had been told before the call\n  \
             {}\n  told to {witness}",
            history.operations[index]
        ))
    };
    for (&revision, &index) in writers {
        if revision <= floors[index].0 {
            return Err(behind(index, revision));
        }
    }
    for (index, operation) in history.operations.iter().enumerate() {
        let Some(answer) = operation.answer().filter(|_| !operation.is_serializable()) else { continue };
        if answer.revision < floors[index].0 {
            return Err(behind(index, answer.revision));
        }
    }
    Ok(())
}

/// Checks that a member never returns an older state to a client than before. A call that waited while the member was
/// started again may be answered by either life of it, and is left out.
fn check_members(history: &History) -> Result<(), Violation> {
    let mut calls: Vec<&Operation> = history.operations.iter().collect();
    calls.sort_by_key(|operation| operation.called);
    let mut told: BTreeMap<(usize, usize, usize), (i64, &Operation)> = BTreeMap::new();
    for operation in calls {
        let (Some(answer), Some(returned)) = (operation.answer(), operation.returned) else { continue };
        let life_at = |time: Duration| {
            let of_member = history.restarts.iter().filter(|restart| restart.member == operation.member);
            of_member.filter(|restart| restart.at <= time).count()
        };
        let life = life_at(operation.called);
        if life != life_at(returned) {
            continue;
        }
        let last = told.entry((operation.client, operation.member, life)).or_insert((0, operation));
        if answer.revision < last.0 {
            return Err(Violation(format!(
                "a member went back from revision {} to {}\n  {}\n  {operation}",
                last.0, answer.revision, last.1
            )));
        }
        *last = (answer.revision, operation);
    }
    Ok(())
}

/// The events of each revision, from the watcher that saw most of them.
fn longest_events(history: &History) -> BTreeMap<i64, Vec<(&str, ChangeKind)>> {
    let mut longest: BTreeMap<i64, Vec<(&str, ChangeKind)>> = BTreeMap::new();
    for watched in &history.watched {
        let mut seen: BTreeMap<i64, Vec<(&str, ChangeKind)>> = BTreeMap::new();
        for change in watched.batches.iter().flat_map(|batch| &batch.events) {
            seen.entry(change.stored.mod_revision).or_default().push((&change.key, change.kind));
        }
        for (revision, events) in seen {
            let known = longest.entry(revision).or_default();
            if events.len() > known.len() {
                *known = events;
            }
        }
    }
    longest
}
