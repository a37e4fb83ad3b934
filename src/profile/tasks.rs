//! The threads of the process, as the system sees them.

use std::{fmt::Write, fs};

/// The words of the command line, with a zero byte between them, as Go has it.
pub(super) fn command_line() -> String {
    let words = fs::read("/proc/self/cmdline").unwrap_or_default();
    String::from_utf8_lossy(words.strip_suffix(b"\0").unwrap_or(&words)).into_owned()
}

/// A line for each thread: its name, its state, the CPU time that it has taken, and how often it was awake. A thread
/// that ends meanwhile is left out.
pub(super) fn threads() -> String {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut rows: Vec<(u32, String)> = tasks
        .filter_map(|task| {
            let id = task.file_name().to_str()?.parse().ok()?;
            Some((id, describe(&fs::read_to_string(task.path().join("stat")).ok()?, &read_switches(&task)?)?))
        })
        .collect();
    rows.sort();
    let mut text = format!("threads: total {}\n\n", rows.len());
    for (id, row) in rows {
        writeln!(text, "thread {id} {row}").expect("a String takes everything");
    }
    text
}

fn read_switches(task: &fs::DirEntry) -> Option<String> {
    let status = fs::read_to_string(task.path().join("status")).ok()?;
    let count = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    Some(format!(
        "{} waits, {} preemptions",
        count("voluntary_ctxt_switches:"),
        count("nonvoluntary_ctxt_switches:")
    ))
}

/// The columns are those of proc(5): the name in parentheses is the second.
fn describe(stat: &str, switches: &str) -> Option<String> {
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let state = match *fields.first()? {
        "R" => "running",
        "S" => "waiting",
        "D" => "waiting for a disk",
        other => other,
    };
    let (user, system) = (ticks(14)? / per_second, ticks(15)? / per_second);
    Some(format!("[{state}] {name}: cpu {user:.2}s user, {system:.2}s system; {switches}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_described_by_its_name_and_what_it_has_taken() {
        let stat = "12 (retcd (x)-1) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0";
        let row = describe(stat, "3 waits, 4 preemptions").expect("a row");
        assert!(row.starts_with("[waiting] retcd (x)-1: cpu 2.50s user, 0.50s system; 3 waits"), "{row}");
        assert_eq!(describe("nonsense", ""), None);
        let text = threads();
        assert!(text.starts_with("threads: total ") && text.contains("cpu "), "{text}");
    }
}
