//! `retcd snapshot restore FILE --data-dir DIR`: the one command beside serving.

use std::path::PathBuf;

use super::{ConfigError, Invocation};

const USAGE: &str = "usage: retcd snapshot restore FILE [--data-dir DIR]; DIR is default.etcd unless given";

/// `args` are those behind `snapshot restore`.
pub(super) fn invocation(args: &[String]) -> Result<Invocation, ConfigError> {
    let mut file = None;
    let mut data_dir = PathBuf::from("default.etcd");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.trim_start_matches('-');
        match name.split_once('=') {
            Some(("data-dir", dir)) if name != arg => data_dir = dir.into(),
            None if name == "data-dir" && name != arg => {
                let dir = args.next().ok_or_else(|| ConfigError::usage(USAGE.to_owned()))?;
                data_dir = dir.into();
            }
            _ if name == arg && file.is_none() => file = Some(PathBuf::from(arg)),
            _ => return Err(ConfigError::usage(format!("{arg:?} is not understood here; {USAGE}"))),
        }
    }
    let file = file.ok_or_else(|| ConfigError::usage(USAGE.to_owned()))?;
    Ok(Invocation::Restore { file, data_dir })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File and directory, or `None` if the line is refused.
    fn parse(line: &str) -> Option<(PathBuf, PathBuf)> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match invocation(&args) {
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
}
