//! The numbers that the operating system has about this process.

use std::{fs, io};

use rustix::process::{Resource, getrlimit};

/// "No limit", as Prometheus' Go library shows it.
const UNLIMITED: f64 = u64::MAX as f64;

pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: f64,
    pub(super) virtual_bytes: f64,
    pub(super) virtual_bytes_max: f64,
    pub(super) open_fds: f64,
    pub(super) max_fds: f64,
    /// Unix time of the start.
    pub(super) start_seconds: f64,
    /// Bytes that the network namespace received and sent over IP.
    pub(super) received_bytes: f64,
    pub(super) sent_bytes: f64,
}

impl Process {
    /// Reads the numbers. `None` if `/proc` cannot be read.
    pub(super) fn look() -> Option<Process> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may contain any characters, also blanks and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Numbered as in proc(5), where the name is field 2 and the first after it is 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let (user, system, start) = (field(14)?, field(15)?, field(22)?);
        let limit = |resource| getrlimit(resource).current.map_or(UNLIMITED, |limit| limit as f64);
        let (received_bytes, sent_bytes) = network_bytes().unwrap_or_default();
        Some(Process {
            cpu_seconds: (user + system) / ticks_per_second,
            resident_bytes: field(24)? * rustix::param::page_size() as f64,
            virtual_bytes: field(23)?,
            virtual_bytes_max: limit(Resource::As),
            open_fds: count_fds().ok()?,
            max_fds: limit(Resource::Nofile),
            start_seconds: boot_seconds()? + start / ticks_per_second,
            received_bytes,
            sent_bytes,
        })
    }
}

fn count_fds() -> io::Result<f64> {
    Ok(fs::read_dir("/proc/self/fd")?.count() as f64)
}

/// Bytes received and sent: of the two lines that begin with `IpExt:` the first has the names of the columns and the
/// second their values.
fn network_bytes() -> Option<(f64, f64)> {
    let netstat = fs::read_to_string("/proc/self/net/netstat").ok()?;
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = |wanted: &str| {
        let place = names.split_whitespace().position(|name| name == wanted)?;
        values.split_whitespace().nth(place)?.parse().ok()
    };
    Some((column("InOctets")?, column("OutOctets")?))
}

fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_figures_are_plausible() {
        let process = Process::look().expect("a /proc");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!(process.resident_bytes > 100_000.0 && process.resident_bytes < process.virtual_bytes);
        assert!(process.virtual_bytes <= process.virtual_bytes_max);
        assert!(process.open_fds >= 3.0 && process.open_fds <= process.max_fds);
        assert!(process.received_bytes >= 0.0 && process.sent_bytes >= 0.0);
        assert!(process.cpu_seconds >= 0.0 && process.cpu_seconds < 3600.0);
        assert!(process.start_seconds > now - 3600.0 && process.start_seconds < now + 2.0);
    }
}
