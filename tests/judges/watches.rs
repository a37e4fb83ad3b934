//! Compares what watchers got with what happened.
//!
//! A watcher must get the changes of its prefix from its first revision to the last one of the run: in order,
//! each once, none missing, those of one revision in one batch, with previous pairs. A progress notification
//! means that no event up to its revision is still to come.
//!
//! The replay checks that no event is sent before its write was called.

use super::{
    history::{Batch, Change, History, Violation, Watched},
    replay::Replayed,
};

#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) events: usize,
    pub(crate) progress_notices: usize,
}

pub(crate) fn check(history: &History, replayed: &Replayed) -> Result<Summary, Violation> {
    let mut summary = Summary { events: 0, progress_notices: 0 };
    for watched in &history.watched {
        let of_watcher = |change: &&Change| {
            change.stored.mod_revision >= watched.from_revision && change.key.starts_with(&watched.prefix)
        };
        let expected: Vec<&Change> = replayed.changes.iter().filter(of_watcher).collect();
        let mut stream = Stream { history, watched, expected, sent: 0, position: watched.from_revision - 1 };
        for (number, batch) in watched.batches.iter().enumerate() {
            let outcome = if batch.is_progress { stream.progress(batch) } else { stream.events(batch) };
            outcome.map_err(|what| stream.violation(&what, number))?;
            summary.events += batch.events.len();
            summary.progress_notices += usize::from(batch.is_progress);
        }
        stream.end().map_err(|what| stream.violation(&what, watched.batches.len()))?;
    }
    Ok(summary)
}

struct Stream<'a> {
    history: &'a History,
    watched: &'a Watched,
    expected: Vec<&'a Change>,
    /// How many of the expected events have arrived.
    sent: usize,
    /// The revision up to which the watcher knows that it has all events.
    position: i64,
}

impl Stream<'_> {
    fn events(&mut self, batch: &Batch) -> Result<(), String> {
        if batch.events.is_empty() {
            return Err("a batch has no events".to_owned());
        }
        for change in &batch.events {
            let revision = change.stored.mod_revision;
            let Some(expected) = self.expected.get(self.sent) else {
                return Err(format!("an event that is one too many: {change}"));
            };
            if !self.is_same(expected, change, batch) {
                return Err(self.difference(expected, change));
            }
            if revision > batch.header_revision {
                return Err(format!("an event is of a later revision than its header: {change}"));
            }
            self.sent += 1;
            self.position = revision;
        }
        match self.expected.get(self.sent) {
            Some(rest) if rest.stored.mod_revision == self.position => {
                Err(format!("revision {} is split: {rest} is not in its batch", self.position))
            }
            _ => Ok(()),
        }
    }

    fn progress(&mut self, batch: &Batch) -> Result<(), String> {
        let revision = batch.header_revision;
        if revision < self.position {
            return Err(format!("progress went back from revision {} to {revision}", self.position));
        }
        if revision > self.history.final_revision {
            return Err(format!("progress at revision {revision}, which never was"));
        }
        if let Some(rest) = self.expected.get(self.sent).filter(|rest| rest.stored.mod_revision <= revision) {
            return Err(format!("progress at revision {revision} comes before {rest}"));
        }
        self.position = revision;
        Ok(())
    }

    fn end(&self) -> Result<(), String> {
        let Some(compacted) = self.watched.compacted else {
            let missing = self.expected.len() - self.sent;
            return match self.expected.get(self.sent) {
                Some(first) => Err(format!("the stream ended before {first}, with {missing} events to come")),
                None => Ok(()),
            };
        };
        if compacted <= self.position + 1 {
            return Err(format!("ended by the compaction at {compacted}, although it is not behind"));
        }
        if !self.history.compactions.iter().any(|compaction| compaction.revision == compacted) {
            return Err(format!("ended by a compaction at {compacted}, which nobody asked for"));
        }
        Ok(())
    }

    /// The previous pair may be missing if it was compacted before the event was sent.
    fn is_same(&self, expected: &Change, change: &Change, batch: &Batch) -> bool {
        let revision = expected.stored.mod_revision;
        let is_compacted = || {
            let compactions = self.history.compactions.iter();
            compactions.filter(|it| it.called < batch.received).any(|it| it.revision >= revision)
        };
        expected == change
            || (change.prev.is_none()
                && Change { prev: None, ..expected.clone() } == *change
                && is_compacted())
    }

    fn difference(&self, expected: &Change, change: &Change) -> String {
        let is_event = |other: &&Change| other.stored == change.stored && other.kind == change.kind;
        let what = match self.expected.iter().position(is_event) {
            Some(at) if at == self.sent => "an event has a wrong previous value",
            Some(at) if at < self.sent => "an event comes again, or too late",
            Some(_) => "an event is missing or late",
            None => "an event is not what happened",
        };
        format!("{what}\n  is:        {change}\n  should be: {expected}")
    }

    fn violation(&self, what: &str, number: usize) -> Violation {
        let mut text = format!("{what}\n  {}, batch {number}", self.watched);
        for batch in self.watched.batches.iter().take(number + 1).skip(number.saturating_sub(3)) {
            let kind = if batch.is_progress { "progress" } else { "events" };
            let (time, revision) = (batch.received.as_secs_f64(), batch.header_revision);
            text += &format!("\n  {time:.6}s: {kind}, header {revision}");
            let hidden = batch.events.len().saturating_sub(EVENTS_SHOWN);
            if hidden > 0 {
                text += &format!("\n    ({hidden} more before)");
            }
            for change in &batch.events[hidden..] {
                text += &format!("\n    {change}");
            }
        }
        Violation(text)
    }
}

/// A batch, in the text of a violation.
const EVENTS_SHOWN: usize = 20;
