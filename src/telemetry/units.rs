//! Durations and sizes in the log, in etcd's formats.

use std::{fmt, time::Duration};

/// A duration as Go prints it, with all its digits: `7s`, `1m0.5s`, `12.3ms`.
pub(crate) struct GoDuration(pub(crate) Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let (unit, name) = match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "\u{b5}s"),
            1_000_000..1_000_000_000 => (1_000_000, "ms"),
            _ => (1_000_000_000, "s"),
        };
        let (whole, rest) = (nanos / unit, nanos % unit);
        let (hours, minutes) = if name == "s" { (whole / 3600, whole / 60 % 60) } else { (0, 0) };
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}", whole - hours * 3600 - minutes * 60)?;
        if rest > 0 {
            let width = unit.ilog10() as usize;
            let digits = format!("{rest:0width$}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str(name)
    }
}

/// A size in words, beside the number: `20 kB`, `2.1 GB`. The units are powers of a thousand.
pub(crate) struct HumanBytes(pub(crate) i64);

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        let bytes = self.0.max(0);
        let power = bytes.max(1).ilog(1000);
        let unit = UNITS[power as usize];
        let tenths = (bytes as f64 / 1000_f64.powi(power as i32) * 10.0).round() / 10.0;
        if power == 0 || tenths >= 10.0 {
            write!(f, "{tenths:.0} {unit}")
        } else {
            write!(f, "{tenths:.1} {unit}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_look_as_in_etcd() {
        for (bytes, text) in [
            (-1, "0 B"),
            (0, "0 B"),
            (7, "7 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (20_480, "20 kB"),
            (82_854_982, "83 MB"),
            (2_147_483_648, "2.1 GB"),
            (i64::MAX, "9.2 EB"),
        ] {
            assert_eq!(HumanBytes(bytes).to_string(), text);
        }
    }

    /// The texts are those of Go's `time.Duration.String`.
    #[test]
    fn durations_look_as_in_go() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (300_578, "300.578\u{b5}s"),
            (999_999, "999.999\u{b5}s"),
            (1_943_133, "1.943133ms"),
            (900_000_000, "900ms"),
            (1_000_000_000, "1s"),
            (1_000_000_001, "1.000000001s"),
            (60_000_000_000, "1m0s"),
            (60_500_000_000, "1m0.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (5_025_000_000_000, "1h23m45s"),
            (360_000_000_000_000, "100h0m0s"),
        ] {
            assert_eq!(GoDuration(Duration::from_nanos(nanos)).to_string(), text);
        }
    }
}
