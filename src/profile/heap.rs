//! A profile of the heap: which functions have allocated what is in use, and what was ever allocated.
//!
//! jemalloc takes the samples: one in half a MiB of what is allocated. It has been ready to since the process started
//! (`ALLOCATOR_SETTINGS` in `main.rs`), and does so from [`begin`] on.

use std::{
    collections::HashMap,
    ffi::c_void,
    io::{self, Read},
    time::Duration,
};

use jemalloc_pprof::{JemallocProfCtl, PROF_CTL};
use pprof::Symbol;
use thiserror::Error;
use tokio::{
    sync::{Semaphore, oneshot},
    time,
};

use super::{
    dump::{Counts, Dump, Unreadable},
    encode::{Encoder, Kind, Shape},
};
use crate::{clock, threads};

/// Go's names, in Go's order.
const VALUES: &[Kind] = &[
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// What is shown first. The samples are the same.
#[derive(Clone, Copy)]
pub(super) enum Shown {
    InUse,
    Allocated,
}

#[derive(Debug, Error)]
pub(super) enum HeapError {
    #[error("the allocator takes no samples: _RJEM_MALLOC_CONF has set prof:false")]
    Off,
    #[error("a heap profile of a period is being made already")]
    InUse,
    #[error("the allocator cannot write its samples to a temporary file: {0}")]
    NotWritten(String),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the thread that makes the profile has ended")]
    Ended,
}

/// One request waits for a period at a time: each keeps the samples from the period's beginning.
static PERIOD: Semaphore = Semaphore::const_new(1);

/// The allocator samples from now on.
pub(crate) async fn begin() {
    let Some(control) = PROF_CTL.as_ref() else {
        tracing::warn!("there are no heap profiles: _RJEM_MALLOC_CONF has set prof:false");
        return;
    };
    if let Err(error) = control.lock().await.activate() {
        tracing::warn!(%error, "there are no heap profiles: the allocator cannot take samples");
    }
}

/// The compressed profile; of a period, what has changed within it.
pub(super) async fn profile(shown: Shown, period: Option<Duration>) -> Result<Vec<u8>, HeapError> {
    let Some(period) = period else {
        let began = clock::wall();
        return with_samples(move |text| encode(&Dump::parse(&text)?, shown, began, Duration::ZERO)).await;
    };
    let _turn = PERIOD.try_acquire().map_err(|_| HeapError::InUse)?;
    let began = clock::wall();
    let before = with_samples(|text| Ok(Dump::parse(&text)?)).await?;
    time::sleep(period).await;
    with_samples(move |text| encode(&Dump::parse(&text)?.since(&before), shown, began, period)).await
}

/// The samples as the allocator writes them, which jeprof reads.
pub(super) async fn text() -> Result<String, HeapError> {
    with_samples(Ok).await
}

/// Does this with what the allocator writes, on a thread of its own so that no reactor waits for it. One request has
/// its turn at a time, and the others wait without a thread.
async fn with_samples<T: Send + 'static>(
    work: impl FnOnce(String) -> Result<T, HeapError> + Send + 'static,
) -> Result<T, HeapError> {
    let mut control = PROF_CTL.as_ref().ok_or(HeapError::Off)?.clone().lock_owned().await;
    let (tell, made) = oneshot::channel();
    threads::try_spawn("retcd-profile", move || {
        // Whoever asked may be gone.
        let _ = tell.send(read(&mut control).and_then(work));
    })?;
    made.await.unwrap_or(Err(HeapError::Ended))
}

fn read(control: &mut JemallocProfCtl) -> Result<String, HeapError> {
    let mut file = control.dump().map_err(|error| HeapError::NotWritten(error.to_string()))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn encode(dump: &Dump, shown: Shown, began: Duration, took: Duration) -> Result<Vec<u8>, HeapError> {
    let mut encoder = Encoder::new();
    let mut names = HashMap::new();
    for (stack, counts) in &dump.stacks {
        let stack = locate(stack, &mut names, &mut encoder);
        let Counts { objects_allocated, bytes_allocated, objects_in_use, bytes_in_use } = *counts;
        let values = vec![objects_allocated, bytes_allocated, objects_in_use, bytes_in_use];
        encoder.sample(stack, values, None);
    }
    let shape = Shape {
        values: VALUES,
        shown: Some(match shown {
            Shown::InUse => "inuse_space",
            Shown::Allocated => "alloc_space",
        }),
        period: (("space", "bytes"), dump.interval as i64),
        began,
        took,
    };
    Ok(encoder.finish(&shape)?)
}

/// The places of a stack, without the innermost ones that only allocate: so memory counts for the function that wanted it,
/// and not for `Vec`.
fn locate(stack: &[u64], names: &mut HashMap<u64, Vec<Symbol>>, encoder: &mut Encoder) -> Vec<u64> {
    let mut locations = Vec::new();
    for address in stack {
        let symbols: &[Symbol] = names.entry(*address).or_insert_with(|| symbols(*address));
        let allocating = match locations.is_empty() {
            true => symbols.iter().take_while(|symbol| only_allocates(symbol)).count(),
            false => 0,
        };
        if allocating < symbols.len() {
            locations.push(encoder.location(&symbols[allocating..]));
        }
    }
    locations
}

/// Whether it is a function of the allocator or of the standard library. Inlined ones are named without their path, and then
/// their files tell.
fn only_allocates(symbol: &Symbol) -> bool {
    const FILES: [&str; 4] = ["jemalloc", "/library/alloc/", "/library/core/", "/library/std/"];
    const NAMES: [&str; 6] = ["_rjem_", "prof_", "__rust", "alloc::", "core::", "std::"];
    let (name, file) = (symbol.name(), symbol.filename());
    let name = name.trim_start_matches('<');
    FILES.iter().any(|part| file.contains(part)) || NAMES.iter().any(|start| name.starts_with(start))
}

/// The functions at a return address; inlined ones first.
fn symbols(address: u64) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| symbols.push(Symbol::from(symbol)));
    if symbols.is_empty() {
        let name = format!("{address:#x}").into_bytes();
        symbols.push(Symbol { name: Some(name), addr: None, lineno: None, filename: None });
    }
    symbols
}
