//! Durations in the log: as Go prints them, and so as etcd's log has them.

use std::{fmt, time::Duration};

/// `7s`, `1m0.5s`, `12.3ms`, all digits that there are.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go's `time.Duration.String` makes of the same durations.
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
