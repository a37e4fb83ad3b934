//! The commands other than serving: `help`, `version`, and those that make a data directory, or a file of one.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use super::{Config, ConfigError, Invocation, flags::split_value, help, value::parse_bool};
use crate::limits;

const RESTORE_USAGE: &str = "usage: retcd snapshot restore FILE [--data-dir DIR] [--wal-dir DIR] [--name NAME] \
     [--initial-cluster MEMBERS] [--initial-cluster-token TOKEN] [--initial-advertise-peer-urls URLS] \
     [--bump-revision NUMBER --mark-compacted] [--skip-hash-check]; the default of --data-dir is default.etcd";
const IMPORT_USAGE: &str = "usage: retcd import SOURCE [--data-dir DIR] [--source-wal-dir DIR] [--keep-membership], and the other flags \
     of `retcd snapshot restore`; SOURCE is a snapshot file, or the data directory of an etcd that is stopped";
const EXPORT_USAGE: &str =
    "usage: retcd export --data-dir DIR [--wal-dir DIR] FILE; the member of DIR must be stopped";

const CHECK_USAGE: &str = "usage: retcd check --data-dir DIR [--wal-dir DIR]; the member of DIR must be stopped, and no \
     file is changed";

/// Flags that mean the same for the server: they are checked as it checks them.
const SERVER_FLAGS: [&str; 2] = ["data-dir", "wal-dir"];
/// Of these, those that say which cluster the member founds.
const CLUSTER_FLAGS: [&str; 4] =
    ["name", "initial-cluster", "initial-cluster-token", "initial-advertise-peer-urls"];

/// A data directory is to be made.
#[derive(Clone, Debug)]
pub(crate) struct RestoreCommand {
    /// The file that is restored, or the directory that is imported.
    pub(crate) source: PathBuf,
    /// With the directories, and with the cluster that the member founds.
    pub(crate) config: Config,
    /// Whether the cluster was given. If it was not, the flags of the first start describe it.
    pub(crate) founds: bool,
    /// How much the newest revision is raised. Everything before is compacted then; 0 leaves it as it is.
    pub(crate) bump_revision: i64,
    pub(crate) skip_hash_check: bool,
    /// Where the log of the imported directory is, if it is elsewhere.
    pub(crate) source_wal_dir: Option<PathBuf>,
    /// Whether the member keeps its ids, and its cluster the members.
    pub(crate) keep_membership: bool,
}

/// A snapshot of a data directory is to be made.
#[derive(Clone, Debug)]
pub(crate) struct ExportCommand {
    pub(crate) config: Config,
    pub(crate) file: PathBuf,
}

/// The files of a member are to be read against their checksums.
#[derive(Clone, Debug)]
pub(crate) struct CheckCommand {
    pub(crate) config: Config,
}

impl CheckCommand {
    /// For a directory whose log is not elsewhere.
    pub(crate) fn of(data_dir: &Path) -> Result<CheckCommand, ConfigError> {
        check(&["--data-dir".into(), data_dir.into()])
    }
}

/// Parses a command line that begins with the word `command`.
pub(super) fn invocation(command: &OsStr, args: &[OsString]) -> Result<Invocation, ConfigError> {
    // Every word that is compared below is UTF-8.
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    let usage = |text: &str| Ok(Invocation::Print(format!("{text}\n")));
    match (command.to_str().unwrap_or_default(), words.as_slice()) {
        ("help", _) => Ok(Invocation::Print(help::help())),
        ("version", _) => Ok(Invocation::Print(help::version())),
        ("man", []) => Ok(Invocation::Print(help::manual())),
        ("snapshot", ["help" | "-h" | "--help"] | ["restore", "-h" | "--help"]) => usage(RESTORE_USAGE),
        ("import", ["-h" | "--help"]) => usage(IMPORT_USAGE),
        ("export", ["-h" | "--help"]) => usage(EXPORT_USAGE),
        ("check", ["-h" | "--help"]) => usage(CHECK_USAGE),
        ("snapshot", ["restore", ..]) => Ok(Invocation::Restore(Box::new(restore(&args[1..])?))),
        ("import", _) => Ok(Invocation::Import(Box::new(import(args)?))),
        ("export", _) => Ok(Invocation::Export(Box::new(export(args)?))),
        ("check", _) => Ok(Invocation::Check(Box::new(check(args)?))),
        ("snapshot", []) => Err(ConfigError::usage(RESTORE_USAGE.to_owned())),
        ("snapshot", [..]) => Err(ConfigError::usage(format!(
            "there is no command \"snapshot {}\"; {RESTORE_USAGE}. To save a snapshot of a running server, \
             use `etcdctl snapshot save FILE`",
            args[0].display()
        ))),
        _ => Err(ConfigError::invalid(format!(
            "{command:?} is not a valid flag and not a command: the commands are `snapshot restore`, `import`, \
             `export`, `check`, `follow`, `ctl`, `utl`, `help`, `man` and `version`. Commands of a client, such as `put` and \
             `get`, come behind `retcd ctl`"
        ))),
    }
}

/// `args` are the arguments after `snapshot restore`.
fn restore(args: &[OsString]) -> Result<RestoreCommand, ConfigError> {
    let line =
        Line::parse(args, RESTORE_USAGE, Takes::Restore(&["bump-revision", "initial-memory-map-size"]))?;
    restore_command(line, RESTORE_USAGE)
}

fn import(args: &[OsString]) -> Result<RestoreCommand, ConfigError> {
    let known = ["bump-revision", "initial-memory-map-size", "source-wal-dir", "keep-membership"];
    restore_command(Line::parse(args, IMPORT_USAGE, Takes::Restore(&known))?, IMPORT_USAGE)
}

fn restore_command(line: Line, usage: &str) -> Result<RestoreCommand, ConfigError> {
    let bump_revision = match line.given("bump-revision") {
        None => 0,
        Some(number) => {
            let number = number.to_str().and_then(|number| number.parse().ok());
            number.filter(|number| (0..=limits::REVISION_BUMP_MAX).contains(number)).ok_or_else(|| {
                ConfigError::usage(format!("--bump-revision must be from 0 to {}", limits::REVISION_BUMP_MAX))
            })?
        }
    };
    if (bump_revision > 0) != line.is_set("mark-compacted") {
        return Err(ConfigError::usage(
            "--bump-revision greater than 0 and --mark-compacted belong together: clients that have seen the revisions in \
             between must learn that these are gone"
                .to_owned(),
        ));
    }
    let founds = CLUSTER_FLAGS.into_iter().any(|flag| line.given(flag).is_some());
    let skip_hash_check = line.is_set("skip-hash-check");
    let keep_membership = line.is_set("keep-membership");
    if keep_membership && founds {
        return Err(ConfigError::usage(
            "--keep-membership keeps the cluster as it is, and the flags of the cluster describe another one: leave one of both \
             out"
            .to_owned(),
        ));
    }
    let source_wal_dir = line.given("source-wal-dir").map(PathBuf::from);
    let config = line.config(true)?;
    let source = line.file.ok_or_else(|| ConfigError::usage(usage.to_owned()))?;
    Ok(RestoreCommand {
        source,
        config,
        founds,
        bump_revision,
        skip_hash_check,
        source_wal_dir,
        keep_membership,
    })
}

fn export(args: &[OsString]) -> Result<ExportCommand, ConfigError> {
    let line = Line::parse(args, EXPORT_USAGE, Takes::Directories)?;
    let config = line.config(false)?;
    let usage = || ConfigError::usage(EXPORT_USAGE.to_owned());
    if line.given("data-dir").is_none() {
        return Err(usage());
    }
    Ok(ExportCommand { config, file: line.file.ok_or_else(usage)? })
}

fn check(args: &[OsString]) -> Result<CheckCommand, ConfigError> {
    let line = Line::parse(args, CHECK_USAGE, Takes::Directories)?;
    if line.given("data-dir").is_none() || line.file.is_some() {
        return Err(ConfigError::usage(CHECK_USAGE.to_owned()));
    }
    Ok(CheckCommand { config: line.config(false)? })
}

/// The flags that a command knows.
enum Takes<'a> {
    /// Those of the directories.
    Directories,
    /// Those of a restore too, and more flags with a value.
    Restore(&'a [&'a str]),
}

/// The words of a command.
struct Line {
    file: Option<PathBuf>,
    /// Names without dashes.
    values: Vec<(String, OsString)>,
    set: Vec<String>,
}

impl Line {
    fn parse(args: &[OsString], usage: &str, takes: Takes<'_>) -> Result<Line, ConfigError> {
        let (is_restore, known) = match takes {
            Takes::Restore(known) => (true, known),
            Takes::Directories => (false, [].as_slice()),
        };
        let mut line = Line { file: None, values: Vec::new(), set: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let unexpected = || ConfigError::usage(format!("unexpected argument {arg:?}; {usage}"));
            if !arg.as_encoded_bytes().starts_with(b"-") && line.file.is_none() {
                line.file = Some(PathBuf::from(arg));
                continue;
            }
            let (head, given) = split_value(arg);
            let name = head.strip_prefix("--").or_else(|| head.strip_prefix('-')).ok_or_else(unexpected)?;
            let is_switch = matches!(name, "mark-compacted" | "skip-hash-check")
                || name == "keep-membership" && known.contains(&name);
            if is_restore && is_switch {
                let value = given.map_or(Some("true"), OsStr::to_str).ok_or_else(unexpected)?;
                if parse_bool(value).map_err(|_| unexpected())? {
                    line.set.push(name.to_owned());
                }
                continue;
            }
            let is_known = SERVER_FLAGS.contains(&name)
                || known.contains(&name)
                || is_restore && CLUSTER_FLAGS.contains(&name);
            if !is_known {
                return Err(unexpected());
            }
            let value = match given {
                Some(value) => value.to_owned(),
                None => args.next().ok_or_else(|| ConfigError::usage(usage.to_owned()))?.clone(),
            };
            line.values.push((name.to_owned(), value));
        }
        Ok(line)
    }

    /// The last value that was given for a flag.
    fn given(&self, flag: &str) -> Option<&OsStr> {
        self.values.iter().rev().find(|(name, _)| name == flag).map(|(_, value)| value.as_os_str())
    }

    fn is_set(&self, flag: &str) -> bool {
        self.set.iter().any(|name| name == flag)
    }

    /// The settings of a server with these flags.
    fn config(&self, with_cluster: bool) -> Result<Config, ConfigError> {
        let cluster = CLUSTER_FLAGS.iter().filter(|_| with_cluster);
        let flags = SERVER_FLAGS.iter().chain(cluster).filter_map(|flag| {
            let mut arg = OsString::from(format!("--{flag}="));
            arg.push(self.given(flag)?);
            Some(arg)
        });
        match Config::load(&flags.collect::<Vec<_>>(), &[])? {
            Invocation::Serve(config) => Ok(*config),
            _ => unreachable!("flags without `help` and `version` make settings"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    /// File and directory, or `None` if the line is refused.
    fn parse(line: &str) -> Option<(PathBuf, PathBuf)> {
        let command = restore(&words(line)).ok()?;
        Some((command.source, command.config.data_dir))
    }

    #[test]
    fn the_directory_may_be_said_in_each_way_or_not_at_all() {
        let restore = |dir: &str| Some(("a.db".into(), dir.into()));
        assert_eq!(parse("a.db --data-dir d"), restore("d"));
        assert_eq!(parse("--data-dir=d a.db"), restore("d"));
        assert_eq!(parse("-data-dir d a.db"), restore("d"));
        assert_eq!(parse("a.db"), restore("default.etcd"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in [
            "",
            "a.db b.db",
            "a.db --data-dir",
            "a.db --listen-client-urls http://a:1",
            "data-dir=d a.db b",
            "a.db --bump-revision 5",
            "a.db --mark-compacted",
            "a.db --bump-revision -1 --mark-compacted",
            "a.db --bump-revision 9223372036854775807 --mark-compacted",
            "a.db --source-wal-dir w",
            "a.db --keep-membership",
            "a.db --initial-cluster nonsense",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        for line in ["f", "--data-dir d", "--data-dir d f g", "--data-dir d --name n f", "--mark-compacted f"]
        {
            assert!(export(&words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn the_cluster_is_that_of_the_flags() {
        let line = "a.db --name m1 --initial-cluster m1=http://a:1,m2=http://b:1 --initial-cluster-token t \
                    --initial-advertise-peer-urls http://a:1 --bump-revision 7 --mark-compacted --skip-hash-check";
        let command = restore(&words(line)).expect("a command");
        assert!(command.founds && command.skip_hash_check);
        assert_eq!(command.bump_revision, 7);
        assert_eq!(command.config.initial_cluster.len(), 2);
        assert_eq!(command.config.data_dir, PathBuf::from("m1.etcd"));
        let command = restore(&words("a.db --mark-compacted=false")).expect("a command");
        assert!(!command.founds && command.bump_revision == 0);
        let command = import(&words("d --source-wal-dir w --data-dir n")).expect("a command");
        assert_eq!(command.source_wal_dir, Some(PathBuf::from("w")));
        assert!(!command.keep_membership);
        assert!(import(&words("d --data-dir n --keep-membership")).expect("a command").keep_membership);
        assert!(import(&words("d --data-dir n --keep-membership --name m")).is_err());
    }

    #[test]
    fn a_word_that_is_no_flag_is_a_command_or_refused_with_those_there_are() {
        let answer = |line: &str| {
            let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            match invocation(&args[0], &args[1..]) {
                Ok(Invocation::Print(text)) => text,
                Ok(_) => "another command".to_owned(),
                Err(error) => format!("{} {error}", error.exit_code),
            }
        };
        assert_eq!(answer("help"), help::help());
        assert_eq!(answer("version"), help::version());
        assert_eq!(answer("snapshot --help"), format!("{RESTORE_USAGE}\n"));
        assert_eq!(answer("snapshot restore -h"), format!("{RESTORE_USAGE}\n"));
        assert_eq!(answer("snapshot"), format!("2 {RESTORE_USAGE}"));
        assert_eq!(answer("snapshot restore"), format!("2 {RESTORE_USAGE}"));
        assert!(answer("snapshot save a").contains("2 there is no command \"snapshot save\""));
        assert!(answer("put a").contains("1 \"put\" is not a valid flag and not a command"));
    }
}
