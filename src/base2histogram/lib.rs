//! A histogram that keeps a count and nothing else.
//!
//! openraft records batch sizes and latencies in histograms of the crate with this name, for a report that
//! retcd never prints. On first use that crate builds lookup tables for sixteen resolutions, of which one is
//! used: 26 MB of memory that an idle member would hold permanently. This crate has the functions that
//! openraft calls, and a call costs one addition.

use std::{fmt, marker::PhantomData};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    count: u64,
    _slots: PhantomData<T>,
}

impl<T> Histogram<T> {
    pub fn new() -> Histogram<T> {
        Histogram { count: 0, _slots: PhantomData }
    }

    pub fn record(&mut self, _value: u64) {
        self.count += 1;
    }

    pub fn record_n(&mut self, _value: u64, times: u64) {
        self.count += times;
    }

    pub fn total(&self) -> u64 {
        self.count
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// All zero: nothing was kept to compute them from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not recorded")
    }
}

/// Draws nothing.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    pub fn new() -> AsciiChart {
        AsciiChart
    }

    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> AsciiChart {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not recorded")
    }
}
