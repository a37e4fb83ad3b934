//! What a row measures.

/// One number of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
}

pub(crate) const PER_SEC: &str = "per second";
pub(crate) const P50: &str = "p50 us";
pub(crate) const P99: &str = "p99 us";
pub(crate) const P99_BEFORE: &str = "p99 us before";
pub(crate) const P99_DURING: &str = "p99 us during it";
pub(crate) const LONGEST_DURING: &str = "longest us during it";
pub(crate) const CPU: &str = "server CPU us each";
pub(crate) const WRITTEN: &str = "bytes written each";
pub(crate) const MILLIS: &str = "ms";
pub(crate) const CPU_MILLIS: &str = "server CPU ms";
pub(crate) const RESTART_MILLIS: &str = "ms of a restart";
pub(crate) const RESTART_CPU_MILLIS: &str = "server CPU ms of a restart";
pub(crate) const DEFRAGMENT_MILLIS: &str = "ms of a defragmentation";
pub(crate) const DEFRAGMENT_CPU_MILLIS: &str = "server CPU ms of a defragmentation";
pub(crate) const MEMORY: &str = "memory MiB";
pub(crate) const MEMORY_EACH: &str = "memory KiB each";

pub(crate) fn figure(name: &'static str, value: f64) -> Figure {
    Figure { name, value }
}

/// Figures of one kind from several rounds: the middle one, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}
