//! `--log-rotation-config-json`: when a log file is put aside, and how long it is kept then.
//!
//! The names of the members are those of etcd, in any case; other members are ignored, as Go does.

use std::time::Duration;

use serde_json::{Map, Value};

use super::LogOutput;

/// In megabytes, where none is given.
const SIZE_DEFAULT: u64 = 100;
const MEGABYTE: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// When the log file is put aside, and what happens with it then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRotation {
    /// The size that the file does not grow beyond, but for a single line that is longer.
    pub(crate) size_bytes: u64,
    /// `None`: files are not removed because of their age.
    pub(crate) age: Option<Duration>,
    /// How many old files are kept; `None`: any number.
    pub(crate) backups: Option<usize>,
    /// Whether the names of old files have the local time, and not UTC.
    pub(crate) local_time: bool,
    pub(crate) compress: bool,
}

impl LogRotation {
    /// The messages begin with etcd's words.
    pub(super) fn parse(json: &str, outputs: &[LogOutput]) -> Result<LogRotation, String> {
        let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count();
        let is_journal = |output: &LogOutput| matches!(output, LogOutput::Journal);
        // In the journal nothing is rotated by us; etcd takes the two together as well.
        if files > 1 || (files == 0 && !outputs.iter().any(is_journal)) {
            return Err(
                "--log-outputs requires a single file path when --log-rotate-config-json is defined, and \
                 --enable-log-rotation is set"
                    .to_owned(),
            );
        }
        let value: Value = serde_json::from_str(json)
            .map_err(|error| format!("improperly formatted log rotation config: {error}"))?;
        let members = match value {
            Value::Object(members) => members,
            Value::Null => Map::new(),
            other => return Err(format!("invalid log rotation config: {other} is not an object")),
        };
        let mut rotation = LogRotation {
            size_bytes: SIZE_DEFAULT * MEGABYTE,
            age: None,
            backups: None,
            local_time: false,
            compress: false,
        };
        for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            match name.to_ascii_lowercase().as_str() {
                "maxsize" => {
                    if let Some(megabytes) = positive(name, value)? {
                        rotation.size_bytes = megabytes.saturating_mul(MEGABYTE);
                    }
                }
                "maxage" => {
                    let days = positive(name, value)?.map(|days| u32::try_from(days).unwrap_or(u32::MAX));
                    rotation.age = days.map(|days| DAY * days);
                }
                "maxbackups" => {
                    rotation.backups =
                        positive(name, value)?.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
                }
                "localtime" => rotation.local_time = boolean(name, value)?,
                "compress" => rotation.compress = boolean(name, value)?,
                _ => {}
            }
        }
        Ok(rotation)
    }
}

/// `None` for 0, which stands for the default, or for no limit.
fn positive(name: &str, value: &Value) -> Result<Option<u64>, String> {
    match value.as_u64() {
        Some(number) => Ok((number > 0).then_some(number)),
        None => Err(format!(
            "invalid log rotation config: {name} must be a whole number that is not negative, and not {value}"
        )),
    }
}

fn boolean(name: &str, value: &Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| format!("invalid log rotation config: {name} must be true or false, and not {value}"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn parse(json: &str) -> Result<LogRotation, String> {
        LogRotation::parse(json, &[LogOutput::Stderr, LogOutput::File(PathBuf::from("/log"))])
    }

    #[test]
    fn what_is_not_said_is_etcds_default() {
        let default = LogRotation {
            size_bytes: 100 << 20,
            age: None,
            backups: None,
            local_time: false,
            compress: false,
        };
        for json in [
            "{}",
            "null",
            r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
            r#"{"maxsize": 0, "MaxAge": null, "filename": "/other"}"#,
        ] {
            assert_eq!(parse(json), Ok(default.clone()), "{json}");
        }
        let json = r#"{"MaxSize": 1, "maxage": 2, "maxbackups": 3, "localtime": true, "compress": true}"#;
        let all = LogRotation {
            size_bytes: 1 << 20,
            age: Some(Duration::from_secs(2 * 86_400)),
            backups: Some(3),
            local_time: true,
            compress: true,
        };
        assert_eq!(parse(json), Ok(all));
    }

    #[test]
    fn nonsense_is_refused_with_etcds_words() {
        for (json, words) in [
            ("{x", "improperly formatted log rotation config: "),
            ("", "improperly formatted log rotation config: "),
            ("[]", "invalid log rotation config: "),
            (r#"{"maxsize": true}"#, "invalid log rotation config: maxsize must be a whole number"),
            (r#"{"maxage": -1}"#, "invalid log rotation config: maxage must be a whole number"),
            (r#"{"maxbackups": 1.5}"#, "invalid log rotation config: maxbackups must be a whole number"),
            (r#"{"compress": 1}"#, "invalid log rotation config: compress must be true or false, and not 1"),
        ] {
            assert!(parse(json).expect_err(json).starts_with(words), "{json}: {:?}", parse(json));
        }
    }

    #[test]
    fn there_is_one_file_to_rotate() {
        let file = |path: &str| LogOutput::File(PathBuf::from(path));
        for outputs in [
            vec![LogOutput::Stderr],
            vec![LogOutput::Stderr, LogOutput::Stdout],
            vec![file("/a"), file("/b")],
        ] {
            let error = LogRotation::parse("{}", &outputs).expect_err("no file, or two");
            assert!(error.starts_with("--log-outputs requires a single file path when"), "{error}");
        }
        assert!(LogRotation::parse("{}", &[file("/a"), LogOutput::Stdout]).is_ok());
        assert!(LogRotation::parse("{}", &[LogOutput::Journal]).is_ok());
    }
}
