//! Samples in pprof's format.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use pprof::Symbol;
use prost::Message;

use crate::pb::profile::{Function, Label, Line, Location, Profile, Sample, ValueType};

/// What a number is, and in which unit.
pub(super) type Kind = (&'static str, &'static str);

/// What the numbers of a profile are.
pub(super) struct Shape {
    /// One for each value of a sample.
    pub(super) values: &'static [Kind],
    /// Which of the values is shown first. The last one unless said otherwise.
    pub(super) shown: Option<&'static str>,
    /// What lies between two samples, and how much of it.
    pub(super) period: (Kind, i64),
    /// When the first sample was taken, as the time since 1970, and how long after it the last one was.
    pub(super) began: Duration,
    pub(super) took: Duration,
}

/// A profile to which samples are added.
pub(super) struct Encoder {
    tables: Tables,
    samples: Vec<Sample>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder { tables: Tables::new(), samples: Vec::new() }
    }

    /// A place in the code. Functions that were inlined there come first, the innermost before the others.
    pub(super) fn location(&mut self, symbols: &[Symbol]) -> u64 {
        self.tables.location(symbols)
    }

    /// The innermost location first.
    pub(super) fn sample(&mut self, location_id: Vec<u64>, value: Vec<i64>, thread: Option<&str>) {
        let tables = &mut self.tables;
        let label = thread.map(|name| Label { key: tables.text("thread"), str: tables.text(name) });
        self.samples.push(Sample { location_id, value, label: label.into_iter().collect() });
    }

    /// The compressed profile.
    pub(super) fn finish(self, shape: &Shape) -> io::Result<Vec<u8>> {
        let Encoder { mut tables, samples } = self;
        let mut kind = |(name, unit): Kind| ValueType { r#type: tables.text(name), unit: tables.text(unit) };
        let sample_type = shape.values.iter().copied().map(&mut kind).collect();
        let (period_type, period) = (Some(kind(shape.period.0)), shape.period.1);
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let profile = Profile {
            sample_type,
            sample: samples,
            default_sample_type: tables.text(shape.shown.unwrap_or_default()),
            location: tables.locations,
            function: tables.functions,
            string_table: tables.texts,
            time_nanos: nanos(shape.began),
            duration_nanos: nanos(shape.took),
            period_type,
            period,
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&profile.encode_to_vec())?;
        encoder.finish()
    }
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
        let (name, system_name) = (self.text(&full_name(symbol)), self.text(&symbol.sys_name()));
        let filename = self.text(&symbol.filename());
        let next = self.functions.len() as u64 + 1;
        let id = *self.function_ids.entry((system_name, filename)).or_insert(next);
        if id == next {
            self.functions.push(Function { id, name, system_name, filename });
        }
        id
    }

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

/// With the path of its module. The debug information of a release build has the bare names of functions, and then their files
/// tell.
fn full_name(symbol: &Symbol) -> String {
    let name = symbol.name();
    match module(&symbol.filename()) {
        Some(module) if !name.contains("::") => format!("{module}::{name}"),
        _ => name,
    }
}

/// The module that is in a file; `None` if it is no file of Rust.
fn module(file: &str) -> Option<String> {
    let (folder, inside) = file.strip_suffix(".rs")?.rsplit_once("src/")?;
    let folder = folder.trim_end_matches('/');
    let is_of_others = ["/registry/", "/checkouts/", "/library/"].iter().any(|part| folder.contains(part));
    let of_others = || {
        let name = folder.rsplit('/').next().unwrap_or_default();
        match name.rsplit_once('-') {
            Some((name, version)) if version.starts_with(|first: char| first.is_ascii_digit()) => name,
            _ => name,
        }
    };
    let package = if is_of_others { of_others() } else { env!("CARGO_PKG_NAME") };
    let modules = inside.split('/').filter(|module| !matches!(*module, "lib" | "main" | "mod"));
    Some([package].into_iter().chain(modules).collect::<Vec<_>>().join("::").replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_file() {
        for (file, expected) in [
            ("src/main.rs", "retcd"),
            ("/a/b/src/mvcc/index.rs", "retcd::mvcc::index"),
            ("/home/.cargo/registry/src/index-1/tracing-core-0.1.36/src/lib.rs", "tracing_core"),
            ("/home/.cargo/registry/src/index-1/redb-4.4.0/src/tree_store/mod.rs", "redb::tree_store"),
            ("/rustc/abc/library/alloc/src/raw_vec/mod.rs", "alloc::raw_vec"),
        ] {
            assert_eq!(module(file).as_deref(), Some(expected), "{file}");
        }
        for file in ["Unknown", "/build/glibc/clone3.S", "/home/jemalloc/src/prof.c"] {
            assert_eq!(module(file), None, "{file}");
        }
    }
}
