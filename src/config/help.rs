//! What `--help` and `--version` print.

use std::{env::consts, fmt::Write};

use super::{
    ETCD_VERSION, GIT_SHA, RUST_VERSION,
    table::{FLAGS, Flag, Group, Kind, Standing},
};

const INTRODUCTION: &str = "\
retcd: a distributed key-value store that speaks etcd's v3 API

Usage:
  retcd [flags]
  retcd snapshot restore FILE [--data-dir DIR]   creates a data directory from FILE, which
                                                 `etcdctl snapshot save FILE` wrote
  retcd import SOURCE [--data-dir DIR]           creates a data directory from that of an etcd
                                                 which is stopped, or from a snapshot of it
  retcd export --data-dir DIR FILE               writes a snapshot of a member that is stopped
  retcd check --data-dir DIR                     reads all files of a member that is stopped
                                                 against their checksums
  retcd ctl COMMAND ...                          etcdctl: asks a running cluster
  retcd utl COMMAND ...                          etcdutl: works on files that no server uses
  retcd follow --from URLS [--to URLS]           copies the keys of a running etcd, and goes on
                                                 until it is told to cut over
  retcd version                                  prints the version, as --version does
  retcd help                                     prints this help, as --help does
  retcd man                                      prints a manual page for man(1)

Without flags, retcd runs a cluster of one member, keeps its data in ./default.etcd, and serves
clients at http://localhost:2379. To try it, in another terminal:
  etcdctl put greeting hello
  etcdctl get greeting

Examples:
  retcd --data-dir /var/lib/etcd
  retcd --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://10.0.0.1:2379
  retcd --quota-backend-bytes 8589934592 --auto-compaction-retention 1h
  ETCD_LOG_LEVEL=debug retcd

The flags are etcd's. Each flag can also be set by an environment variable: --data-dir by
ETCD_DATA_DIR. A boolean flag is turned off with an equals sign: --pre-vote=false. A duration is
written like 300ms or 1h30m. The default of a flag is in [brackets].
";

const GROUPS: [(Group, &str); 10] = [
    (Group::Member, "Member"),
    (Group::Clustering, "Clustering"),
    (Group::Limits, "Limits"),
    (Group::Upkeep, "Maintenance"),
    (Group::Security, "Security"),
    (Group::Auth, "Auth"),
    (Group::Logging, "Logging"),
    (Group::Metrics, "Metrics"),
    (Group::Unsafe, "Unsafe (read docs/operations.md first)"),
    (Group::Other, "Other"),
];

/// The longest line, for a terminal.
const LINE_MAX: usize = 110;

/// A manual page for `man`, from the same table.
pub(super) fn manual() -> String {
    let mut page = format!(
        ".TH RETCD 1 \"\" \"retcd {}\" \"User Commands\"\n.SH NAME\nretcd \\- a distributed key-value store that \
         speaks etcd's v3 API\n.SH DESCRIPTION\n.nf\n",
        env!("CARGO_PKG_VERSION")
    );
    // The title is the name of the page.
    let introduction = INTRODUCTION.split_once("\n\n").map_or(INTRODUCTION, |(_title, rest)| rest);
    page += &roff(introduction);
    page += ".fi\n";
    for (group, title) in GROUPS {
        writeln!(page, ".SH {}", title.to_uppercase()).expect("a String takes everything");
        for flag in FLAGS.iter().filter(|flag| flag.group == group && flag.standing == Standing::Used) {
            let name = roff(&format!("--{}", flag.name));
            let (value, help) = (flag.kind.placeholder(), roff(flag.help));
            let default = match flag.default {
                "" => String::new(),
                default => format!(" Default: {}.", roff(default)),
            };
            writeln!(page, ".TP\n.B {name}\\fR{value}\n{help}{default}").expect("a String takes everything");
        }
    }
    page += ".SH SEE ALSO\nThe documentation in docs/ of the source, and that of etcd for its API and its clients.\n";
    page
}

/// Text as roff reads it: a dash is a dash, and no line of it is a command.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped
        .lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    if escaped.ends_with('\n') {
        text.push('\n');
    }
    text
}

pub(super) fn help() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (group, title) in GROUPS {
        let used: Vec<&Flag> =
            FLAGS.iter().filter(|flag| flag.group == group && flag.standing == Standing::Used).collect();
        if !used.is_empty() {
            writeln!(text, "\n{title}:").expect("a String takes everything");
        }
        for flag in used {
            write_flag(&mut text, flag);
        }
    }
    write_names(&mut text, "Not supported yet (any value other than the default is refused)", |standing| {
        matches!(standing, Standing::Unsupported(_))
    });
    write_names(&mut text, "Accepted, but without effect in retcd", |standing| {
        matches!(standing, Standing::NoEffect | Standing::NoEffectWithout(_))
    });
    text
}

impl Kind {
    /// What stands for the value of a flag.
    fn placeholder(self) -> &'static str {
        match self {
            Kind::Bool => "",
            Kind::Text | Kind::Choice(_) => " <text>",
            Kind::Path => " <path>",
            Kind::Int | Kind::Uint => " <number>",
            Kind::Duration => " <duration>",
            Kind::Urls => " <urls>",
        }
    }
}

fn write_flag(text: &mut String, flag: &Flag) {
    let value = flag.kind.placeholder();
    let default = match flag.default {
        "" => String::new(),
        default => format!(" [{default}]"),
    };
    let head = format!("  --{}{value}", flag.name);
    let gap = if head.len() + default.len() > LINE_MAX { "\n       " } else { "" };
    writeln!(text, "{head}{gap}{default}\n        {}", flag.help).expect("a String takes everything");
}

fn write_names(text: &mut String, title: &str, wanted: impl Fn(&Standing) -> bool) {
    write!(text, "\n{title}:").expect("a String takes everything");
    let mut column = usize::MAX;
    for flag in FLAGS.iter().filter(|flag| wanted(&flag.standing)) {
        let default = match (flag.standing, flag.default) {
            (Standing::Unsupported(_), default) if !default.is_empty() && flag.kind != Kind::Bool => {
                format!(" [{default}]")
            }
            _ => String::new(),
        };
        let width = flag.name.len() + default.len() + 3;
        if column.saturating_add(width) > 100 {
            text.push_str("\n ");
            column = 1;
        }
        write!(text, " --{}{default}", flag.name).expect("a String takes everything");
        column += width;
    }
    text.push('\n');
}

/// Scripts that work with etcd parse the first line, so that line is worded as etcd's.
pub(super) fn version() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\nretcd Version: {}\nGit SHA: {}\nRust Version: {}\nOS/Arch: {}/{}\n",
        env!("CARGO_PKG_VERSION"),
        GIT_SHA,
        RUST_VERSION,
        consts::OS,
        consts::ARCH,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_today_is_in_the_help() {
        let help = help();
        for flag in FLAGS.iter().filter(|flag| !matches!(flag.standing, Standing::Removed(_))) {
            assert!(help.contains(&format!("--{}", flag.name)), "{} is not in the help", flag.name);
        }
        assert!(help.lines().all(|line| line.len() <= LINE_MAX), "a line is too long for a terminal");
    }

    #[test]
    fn the_manual_page_has_every_flag_and_no_stray_command() {
        let page = manual();
        for flag in FLAGS.iter().filter(|flag| flag.standing == Standing::Used) {
            let name = format!(".B \\-\\-{}\\fR", flag.name.replace('-', "\\-"));
            assert!(page.contains(&name), "{name} is not in the page");
        }
        let commands = ["TH", "SH", "TP", "B", "nf", "fi"];
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            let command = line[1..].split(' ').next().unwrap_or_default();
            assert!(commands.contains(&command), "{line}");
        }
    }

    #[test]
    fn the_first_line_of_the_version_is_for_scripts() {
        let version = version();
        let lines: Vec<&str> = version.lines().collect();
        assert_eq!(lines[0], "etcd Version: 3.7.3");
        assert!(lines[1].starts_with("retcd Version: "));
        assert!(lines.iter().all(|line| line.contains(": ")));
        assert!(lines.iter().any(|line| line.starts_with("Git SHA: ")));
        assert!(lines.iter().any(|line| line.starts_with("Rust Version: 1.")), "{version}");
    }
}
