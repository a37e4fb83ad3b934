//! Samples in pprof's format.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use pprof::{Report, Symbol};
use prost::Message;

use crate::pb::profile::{Function, Label, Line, Location, Profile, Sample, ValueType};

/// `frequency` is that of the samples in a second of CPU time.
pub(super) fn profile(
    report: &Report,
    began: Duration,
    took: Duration,
    frequency: i32,
) -> io::Result<Vec<u8>> {
    let period = 1_000_000_000 / i64::from(frequency);
    let mut tables = Tables::new();
    let mut samples = Vec::new();
    for (stack, count) in &report.data {
        let location_id = stack.frames.iter().map(|symbols| tables.location(symbols)).collect();
        let count = *count as i64;
        let label = Label { key: tables.text("thread"), str: tables.text(&stack.thread_name) };
        samples.push(Sample { location_id, value: vec![count, count * period], label: vec![label] });
    }
    let mut kind = |name, unit| ValueType { r#type: tables.text(name), unit: tables.text(unit) };
    let sample_type = vec![kind("samples", "count"), kind("cpu", "nanoseconds")];
    let period_type = Some(kind("cpu", "nanoseconds"));
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    let profile = Profile {
        sample_type,
        sample: samples,
        location: tables.locations,
        function: tables.functions,
        string_table: tables.texts,
        time_nanos: nanos(began),
        duration_nanos: nanos(took),
        period_type,
        period,
    };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&profile.encode_to_vec())?;
    encoder.finish()
}

/// Texts, functions and locations, each once. Ids of functions and locations begin with 1.
struct Tables {
    texts: Vec<String>,
    text_places: BTreeMap<String, i64>,
    functions: Vec<Function>,
    function_ids: BTreeMap<(i64, i64), u64>,
    locations: Vec<Location>,
    location_ids: BTreeMap<Vec<(u64, i64)>, u64>,
}

impl Tables {
    fn new() -> Tables {
        Tables {
            texts: vec![String::new()],
            text_places: BTreeMap::from([(String::new(), 0)]),
            functions: Vec::new(),
            function_ids: BTreeMap::new(),
            locations: Vec::new(),
            location_ids: BTreeMap::new(),
        }
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(place) = self.text_places.get(text) {
            return *place;
        }
        let place = self.texts.len() as i64;
        self.texts.push(text.to_owned());
        self.text_places.insert(text.to_owned(), place);
        place
    }

    fn function(&mut self, symbol: &Symbol) -> u64 {
        let (name, system_name) = (self.text(&symbol.name()), self.text(&symbol.sys_name()));
        let filename = self.text(&symbol.filename());
        let next = self.functions.len() as u64 + 1;
        let id = *self.function_ids.entry((system_name, filename)).or_insert(next);
        if id == next {
            self.functions.push(Function { id, name, system_name, filename });
        }
        id
    }

    /// Functions that were inlined are at one location, the innermost first.
    fn location(&mut self, symbols: &[Symbol]) -> u64 {
        let lines: Vec<(u64, i64)> =
            symbols.iter().map(|symbol| (self.function(symbol), i64::from(symbol.lineno()))).collect();
        let next = self.locations.len() as u64 + 1;
        let id = *self.location_ids.entry(lines.clone()).or_insert(next);
        if id == next {
            let line = lines.into_iter().map(|(function_id, line)| Line { function_id, line }).collect();
            self.locations.push(Location { id, address: 0, line });
        }
        id
    }
}
