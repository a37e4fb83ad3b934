//! The commands other than serving: `help`, `version` and `snapshot restore`.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use super::{ConfigError, Invocation, flags::split_value, help};

const RESTORE_USAGE: &str =
    "usage: retcd snapshot restore FILE [--data-dir DIR]; the default of DIR is default.etcd";

/// Parses a command line that begins with the word `command`.
pub(super) fn invocation(command: &OsStr, args: &[OsString]) -> Result<Invocation, ConfigError> {
    // Every word that is compared below is UTF-8.
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    match (command.to_str().unwrap_or_default(), words.as_slice()) {
        ("help", _) => Ok(Invocation::Print(help::help())),
        ("version", _) => Ok(Invocation::Print(help::version())),
        ("snapshot", ["help" | "-h" | "--help"] | ["restore", "-h" | "--help"]) => {
            Ok(Invocation::Print(format!("{RESTORE_USAGE}\n")))
        }
        ("snapshot", ["restore", ..]) => restore(&args[1..]),
        ("snapshot", []) => Err(ConfigError::usage(RESTORE_USAGE.to_owned())),
        ("snapshot", [..]) => Err(ConfigError::usage(format!(
            "there is no command \"snapshot {}\"; {RESTORE_USAGE}. To save a snapshot of a running server, \
             use `etcdctl snapshot save FILE`",
            args[0].display()
        ))),
        _ => Err(ConfigError::invalid(format!(
            "{command:?} is not a valid flag and not a command: the commands are `snapshot restore`, `help` and `version`. \
             For commands of a client, such as `put` and `get`, use etcdctl"
        ))),
    }
}

/// `args` are the arguments after `snapshot restore`.
fn restore(args: &[OsString]) -> Result<Invocation, ConfigError> {
    let usage = || ConfigError::usage(RESTORE_USAGE.to_owned());
    let mut file = None;
    let mut data_dir = PathBuf::from("default.etcd");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if !arg.as_encoded_bytes().starts_with(b"-") && file.is_none() {
            file = Some(PathBuf::from(arg));
            continue;
        }
        let (head, given) = split_value(arg);
        if head != "-data-dir" && head != "--data-dir" {
            return Err(ConfigError::usage(format!("unexpected argument {arg:?}; {RESTORE_USAGE}")));
        }
        data_dir = match given {
            Some(dir) => dir.into(),
            None => args.next().ok_or_else(usage)?.into(),
        };
    }
    let file = file.ok_or_else(usage)?;
    Ok(Invocation::Restore { file, data_dir })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File and directory, or `None` if the line is refused.
    fn parse(line: &str) -> Option<(PathBuf, PathBuf)> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
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
