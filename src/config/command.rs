//! The commands beside serving: `help`, `version` and `snapshot restore`.

use std::path::PathBuf;

use super::{ConfigError, Invocation, help};

const RESTORE_USAGE: &str =
    "usage: retcd snapshot restore FILE [--data-dir DIR]; DIR is default.etcd unless given";

/// What a command line that begins with the word `command` asks for.
pub(super) fn invocation(command: &str, args: &[String]) -> Result<Invocation, ConfigError> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match (command, words.as_slice()) {
        ("help", _) => Ok(Invocation::Print(help::help())),
        ("version", _) => Ok(Invocation::Print(help::version())),
        ("snapshot", ["help" | "-h" | "--help"] | ["restore", "-h" | "--help"]) => {
            Ok(Invocation::Print(format!("{RESTORE_USAGE}\n")))
        }
        ("snapshot", ["restore", ..]) => restore(&args[1..]),
        ("snapshot", []) => Err(ConfigError::usage(RESTORE_USAGE.to_owned())),
        ("snapshot", [verb, ..]) => Err(ConfigError::usage(format!(
            "there is no command \"snapshot {verb}\"; {RESTORE_USAGE}. To save a snapshot of a running server, \
             use `etcdctl snapshot save FILE`"
        ))),
        _ => Err(ConfigError::invalid(format!(
            "{command:?} is not a valid flag, and not a command: those are `snapshot restore`, `help` and `version`. \
             Commands of a client, such as `put` and `get`, are etcdctl's"
        ))),
    }
}

/// `args` are those behind `snapshot restore`.
fn restore(args: &[String]) -> Result<Invocation, ConfigError> {
    let mut file = None;
    let mut data_dir = PathBuf::from("default.etcd");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.trim_start_matches('-');
        match name.split_once('=') {
            Some(("data-dir", dir)) if name != arg => data_dir = dir.into(),
            None if name == "data-dir" && name != arg => {
                let dir = args.next().ok_or_else(|| ConfigError::usage(RESTORE_USAGE.to_owned()))?;
                data_dir = dir.into();
            }
            _ if name == arg && file.is_none() => file = Some(PathBuf::from(arg)),
            _ => return Err(ConfigError::usage(format!("{arg:?} is not understood here; {RESTORE_USAGE}"))),
        }
    }
    let file = file.ok_or_else(|| ConfigError::usage(RESTORE_USAGE.to_owned()))?;
    Ok(Invocation::Restore { file, data_dir })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File and directory, or `None` if the line is refused.
    fn parse(line: &str) -> Option<(PathBuf, PathBuf)> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match restore(&args) {
            Ok(Invocation::Restore { file, data_dir }) => Some((file, data_dir)),
            _ => None,
        }
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
        for line in ["", "a.db b.db", "a.db --data-dir", "a.db --name x", "data-dir=d a.db b"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_word_that_is_no_flag_is_a_command_or_refused_with_those_there_are() {
        let answer = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
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
        assert!(answer("put a").contains("1 \"put\" is not a valid flag, and not a command"));
    }
}
