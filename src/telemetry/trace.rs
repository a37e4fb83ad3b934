//! Spans of requests, in the terms of OpenTelemetry.
//!
//! ```text
//! call ---- begin ----> Active ---- end ----> queue of spans ---- the room `otlp` ----> collector
//!                         ^
//!                         | stages of a write: queue, fsync, quorum, apply
//! core ---- applied ----> ring of the last entries
//! ```
//!
//! A call is traced if its client traces it (`traceparent`), or else with the probability of
//! `--distributed-tracing-sampling-rate`. While the handler of a traced call runs, its thread knows the call, so that a
//! write can add its stages without being told of traces. Where nothing is traced there is no [`Tracer`], and a call
//! costs one comparison.

use std::{
    cell::RefCell,
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::IntCounter;

use super::maker::Maker;
use crate::{chance::Chance, clock, config::TraceSettings, limits};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(pub(crate) [u8; 16]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanId(pub(crate) [u8; 8]);

/// A part of a trace that is over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) trace: TraceId,
    pub(crate) id: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) name: String,
    /// Whether this is the whole call, and not a stage of it.
    pub(crate) is_call: bool,
    /// Since 1970.
    pub(crate) start: Duration,
    pub(crate) took: Duration,
    pub(crate) attributes: Vec<(&'static str, Attribute)>,
    /// What went wrong in the server; `None` if nothing did.
    pub(crate) error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Text(String),
    Number(i64),
}

/// When an entry of the log went through its stages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryStages {
    /// The revision of the store behind the entry.
    pub(crate) revision: i64,
    /// It was handed to this member's log. `None` where another member leads.
    pub(crate) taken: Option<Instant>,
    /// It was on this member's disk.
    pub(crate) synced: Option<Instant>,
    pub(crate) committed: Instant,
    pub(crate) applied: Instant,
}

/// Collects spans until somebody fetches them.
pub(crate) struct Tracer {
    /// A trace is sampled if the number of its id is below this one.
    sampled_below: u64,
    chance: Chance,
    spans: Mutex<Vec<Span>>,
    entries: Mutex<VecDeque<EntryStages>>,
    metrics: TraceMetrics,
}

/// What became of spans.
pub(crate) struct TraceMetrics {
    pub(crate) exported: IntCounter,
    pub(crate) dropped: IntCounter,
}

impl TraceMetrics {
    pub(super) fn new(make: &Maker<'_>) -> TraceMetrics {
        TraceMetrics {
            exported: make.counter("retcd_trace_spans_exported_total", "Spans that a collector has taken."),
            dropped: make.counter(
                "retcd_trace_spans_dropped_total",
                "Spans that were lost: the collector did not take them, or they came too fast.",
            ),
        }
    }
}

impl Tracer {
    pub(super) fn new(settings: &TraceSettings, metrics: TraceMetrics) -> Tracer {
        // Ids are compared without their lowest bit, as other libraries do it: all members of a trace decide alike.
        let sampled_below = match settings.sampled_per_million {
            1_000_000.. => 1 << 63,
            rate => ((u128::from(rate) << 63) / 1_000_000) as u64,
        };
        Tracer {
            sampled_below,
            chance: Chance::from_system(),
            spans: Mutex::default(),
            entries: Mutex::default(),
            metrics,
        }
    }

    pub(crate) fn metrics(&self) -> &TraceMetrics {
        &self.metrics
    }

    /// Begins the span of a call, if it is to be traced. `parent` is the header `traceparent`.
    pub(crate) fn begin(&self, parent: Option<&[u8]>) -> Option<Box<Active>> {
        let (trace, parent) = match parent.and_then(parse_parent) {
            Some((_, _, false)) => return None,
            Some((trace, parent, true)) => (trace, Some(parent)),
            None => {
                let (high, low) = (self.chance.number(), self.chance.number());
                if low >> 1 >= self.sampled_below {
                    return None;
                }
                let mut id = [0; 16];
                id[..8].copy_from_slice(&high.to_be_bytes());
                id[8..].copy_from_slice(&low.to_be_bytes());
                (TraceId(id), None)
            }
        };
        let id = self.span_id();
        Some(Box::new(Active {
            trace,
            id,
            parent,
            start: clock::now(),
            wall: clock::wall(),
            stages: Vec::new(),
        }))
    }

    fn span_id(&self) -> SpanId {
        // All zeros is no id.
        SpanId(self.chance.number().max(1).to_be_bytes())
    }

    /// An entry was applied here.
    pub(crate) fn applied(&self, entry: EntryStages) {
        let mut entries = self.entries.lock();
        if entries.len() == limits::TRACE_ENTRIES_KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// A write of the call that this thread serves has had an answer: adds its stages to the call's span. The entry is the
    /// first that had the revision of the answer after `queued`; it may have been forgotten.
    pub(crate) fn wrote(&self, revision: i64, queued: Instant) {
        CURRENT.with_borrow_mut(|current| {
            let Some(stages) = current else { return };
            if stages.len() >= limits::TRACE_STAGES_MAX {
                return;
            }
            let entries = self.entries.lock();
            let entry =
                entries.iter().find(|entry| entry.applied >= queued && entry.revision >= revision).copied();
            drop(entries);
            if let Some(entry) = entry {
                stages.extend(entry.stages(queued));
            }
        });
    }

    /// All spans that have come since the last time.
    pub(crate) fn take(&self) -> Vec<Span> {
        std::mem::take(&mut self.spans.lock())
    }

    fn push(&self, span: Span) {
        let mut spans = self.spans.lock();
        if spans.len() < limits::TRACE_SPANS_QUEUED {
            spans.push(span);
        } else {
            self.metrics.dropped.inc();
        }
    }
}

type Stage = (&'static str, Instant, Duration);

impl EntryStages {
    /// A write that was queued at `queued`.
    fn stages(&self, queued: Instant) -> Vec<Stage> {
        let mut stages = Vec::new();
        let mut add = |name, start: Instant, end: Instant| {
            stages.push((name, start, end.saturating_duration_since(start)));
        };
        match self.taken {
            Some(taken) => {
                add("queue", queued, taken);
                if let Some(synced) = self.synced {
                    add("fsync", taken, synced);
                }
                add("quorum", taken, self.committed);
            }
            // Another member leads: what passes until this one hears of the commit is one stage.
            None => add("quorum", queued, self.committed),
        }
        add("apply", self.committed, self.applied);
        stages
    }
}

thread_local! {
    /// The stages of the traced call that this thread serves now. `None`: the call is not traced.
    static CURRENT: RefCell<Option<Vec<Stage>>> = const { RefCell::new(None) };
}

/// The span of a call that runs.
#[derive(Debug)]
pub(crate) struct Active {
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    start: Instant,
    wall: Duration,
    stages: Vec<Stage>,
}

impl Active {
    /// Runs a piece of the call's work.
    pub(crate) fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let outer = CURRENT.replace(Some(std::mem::take(&mut self.stages)));
        let result = work();
        self.stages = CURRENT.replace(outer).unwrap_or_default();
        result
    }

    pub(crate) fn end(
        self,
        tracer: &Tracer,
        name: String,
        attributes: Vec<(&'static str, Attribute)>,
        error: Option<String>,
    ) {
        for (name, start, took) in &self.stages {
            tracer.push(Span {
                trace: self.trace,
                id: tracer.span_id(),
                parent: Some(self.id),
                name: (*name).to_owned(),
                is_call: false,
                start: self.wall + start.saturating_duration_since(self.start),
                took: *took,
                attributes: Vec::new(),
                error: None,
            });
        }
        tracer.push(Span {
            trace: self.trace,
            id: self.id,
            parent: self.parent,
            name,
            is_call: true,
            start: self.wall,
            took: clock::since(self.start),
            attributes,
            error,
        });
    }
}

/// `00-<trace id>-<span id>-<flags>`, and whether the flags say that the trace is sampled. `None` if it is none.
fn parse_parent(header: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let text = str::from_utf8(header).ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may have more behind the flags, and the last one is none.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let [_version] = hex(version)?;
    let (trace, span, [flags]) = (hex::<16>(trace)?, hex::<8>(span)?, hex(flags)?);
    (trace != [0; 16] && span != [0; 8]).then_some((TraceId(trace), SpanId(span), flags & 1 == 1))
}

fn hex<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let is_lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * LEN || !text.bytes().all(is_lower) {
        return None;
    }
    let mut bytes = [0; LEN];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::config::Sending;

    fn tracer(sampled_per_million: u32) -> Tracer {
        let registry = Registry::new();
        let metrics = TraceMetrics::new(&Maker { registry: &registry });
        let settings = TraceSettings {
            address: String::new(),
            service_name: String::new(),
            instance_id: String::new(),
            sampled_per_million,
            sending: Sending::default(),
        };
        Tracer::new(&settings, metrics)
    }

    #[test]
    fn the_client_decides_and_else_chance() {
        let parent = |flags: &str| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let begin = |rate, parent: &str| tracer(rate).begin(Some(parent.as_bytes())).is_some();
        assert!(begin(0, &parent("01")) && begin(0, &parent("03")));
        assert!(!begin(1_000_000, &parent("00")), "the client does not trace it");
        for none in [
            "",
            "x",
            &parent("1"),
            &parent("0g"),
            &parent("01-more"),
            &parent("01").to_uppercase(),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(!begin(0, none), "{none}");
            assert!(begin(1_000_000, none), "{none}");
        }
        assert!(begin(0, &parent("01-more").replace("00-0a", "cc-0a")), "a later version");
        let half = tracer(500_000);
        let sampled = (0..4000).filter(|_| half.begin(None).is_some()).count();
        assert!((1600..2400).contains(&sampled), "{sampled} of 4000");
    }

    #[test]
    fn a_write_adds_its_stages_to_the_call_that_made_it() {
        let tracer = tracer(1_000_000);
        let start = clock::now();
        let at = |millis| start + Duration::from_millis(millis);
        let entry = |revision, from: u64| EntryStages {
            revision,
            taken: Some(at(from + 1)),
            synced: Some(at(from + 3)),
            committed: at(from + 6),
            applied: at(from + 10),
        };
        // Applied before the write was queued, so it is another one, which had the same revision after it.
        tracer.applied(entry(9, 0));
        tracer.applied(entry(9, 20));
        tracer.wrote(9, at(20));
        assert!(tracer.take().is_empty(), "this thread serves no traced call");
        let mut active = tracer.begin(None).expect("all are sampled");
        active.during(|| tracer.wrote(8, at(20)));
        active.end(&tracer, "KV/Put".to_owned(), Vec::new(), None);
        tracer.wrote(8, at(20));
        let spans = tracer.take();
        let call = spans.last().expect("the call");
        assert!(call.is_call && call.parent.is_none() && call.name == "KV/Put");
        let stages: Vec<(&str, u128)> =
            spans[..4].iter().map(|span| (span.name.as_str(), span.took.as_millis())).collect();
        assert_eq!(stages, [("queue", 1), ("fsync", 2), ("quorum", 5), ("apply", 4)]);
        assert!(spans[..4].iter().all(|span| span.parent == Some(call.id) && span.trace == call.trace));
        assert_eq!(spans.len(), 5);
    }

    #[test]
    fn what_nobody_fetches_is_bounded_and_counted() {
        let tracer = tracer(1_000_000);
        for _ in 0..limits::TRACE_SPANS_QUEUED + 7 {
            let active = tracer.begin(None).expect("all are sampled");
            active.end(&tracer, String::new(), Vec::new(), None);
        }
        assert_eq!(tracer.take().len(), limits::TRACE_SPANS_QUEUED);
        assert_eq!(tracer.metrics.dropped.get(), 7);
        for revision in 0..10 * limits::TRACE_ENTRIES_KEPT as i64 {
            let now = clock::now();
            tracer.applied(EntryStages { revision, taken: None, synced: None, committed: now, applied: now });
        }
        assert_eq!(tracer.entries.lock().len(), limits::TRACE_ENTRIES_KEPT);
    }
}
