//! The judgement of a run, and its summary.

use std::{collections::BTreeMap, fmt, fs, path::Path, time::Duration};

use crate::{
    history::{History, Operation, Outcome},
    linearize,
    load::MEMBERS,
    replay, watches,
};

/// The summary of a run.
pub(crate) struct Summary {
    operations: usize,
    acknowledged: usize,
    unknown: usize,
    refused: usize,
    revisions: i64,
    events: usize,
    /// What the search examined.
    steps: usize,
    /// For each member, the longest time without an acknowledged write.
    gaps: Vec<Duration>,
}

/// Panics if the history cannot be that of a correct store.
pub(crate) fn judge(name: &str, history: &History) -> Summary {
    let mut summary = Summary::of(history);
    // All checkers judge, whatever the others found: if a checker is wrong, the results differ.
    let replayed = replay::check(history);
    let searched = linearize::check(history);
    let watched = replayed.as_ref().ok().map(|replayed| watches::check(history, replayed));
    let violations =
        [replayed.as_ref().err(), searched.as_ref().err(), watched.as_ref().and_then(|w| w.as_ref().err())];
    let violations: Vec<String> = violations.into_iter().flatten().map(ToString::to_string).collect();
    if !violations.is_empty() {
        let path = write_down(name, history, &violations);
        panic!("{name}: {summary}\n{}\nthe whole history is in {path}", violations.join("\n"));
    }
    summary.steps = searched.map_or(0, |searched| searched.steps);
    summary
}

/// Writes the history to a file, for the analysis. Returns the path.
fn write_down(name: &str, history: &History, violations: &[String]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.history", name.replace(' ', "-")));
    let mut lines = violations.to_vec();
    let mut operations: Vec<&Operation> = history.operations.iter().collect();
    operations.sort_by_key(|operation| operation.called);
    lines.extend(operations.iter().map(ToString::to_string));
    lines.extend(history.restarts.iter().map(|restart| format!("{restart:?}")));
    lines.extend(history.compactions.iter().map(|compaction| format!("{compaction:?}")));
    for watched in &history.watched {
        lines.push(watched.to_string());
        for batch in &watched.batches {
            let kind = if batch.is_progress { "progress" } else { "events" };
            let (received, revision) = (batch.received.as_secs_f64(), batch.header_revision);
            lines.push(format!("  {received:.6}s: {kind} at revision {revision}"));
            lines.extend(batch.events.iter().map(|change| format!("    {change}")));
        }
    }
    fs::write(&path, lines.join("\n")).expect("the build's directory for tests is writable");
    path.display().to_string()
}

impl Summary {
    fn of(history: &History) -> Summary {
        let count = |is_counted: fn(&Outcome) -> bool| {
            history.operations.iter().filter(|operation| is_counted(&operation.outcome)).count()
        };
        let mut acknowledged: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
        for operation in &history.operations {
            if let (Outcome::Ok(_), Some(returned), false) =
                (&operation.outcome, operation.returned, operation.request.writes().is_empty())
            {
                acknowledged.entry(operation.member).or_default().push(returned);
            }
        }
        let gaps = (0..MEMBERS).map(|member| {
            let mut at = acknowledged.remove(&member).unwrap_or_default();
            at.sort();
            at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
        });
        Summary {
            operations: history.operations.len(),
            acknowledged: count(|outcome| matches!(outcome, Outcome::Ok(_))),
            unknown: count(|outcome| matches!(outcome, Outcome::Unknown)),
            refused: count(|outcome| matches!(outcome, Outcome::Refused)),
            revisions: history.final_revision,
            events: history
                .watched
                .iter()
                .flat_map(|watched| &watched.batches)
                .map(|batch| batch.events.len())
                .sum(),
            steps: 0,
            gaps: gaps.collect(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { operations, acknowledged, unknown, refused, revisions, events, steps, gaps } = self;
        write!(
            f,
            "{operations} operations ({acknowledged} answered, {unknown} unknown, {refused} refused), "
        )?;
        write!(f, "{revisions} revisions, {events} events seen, {steps} situations searched, ")?;
        f.write_str("longest times without an acknowledged write ")?;
        let gaps: Vec<String> = gaps.iter().map(|gap| format!("{:.1}s", gap.as_secs_f64())).collect();
        f.write_str(&gaps.join(" "))
    }
}
