//! The log: one line per event, on stderr unless `--log-outputs` names other outputs.
//!
//! ```text
//! event --- Format ---> line ---> stderr, stdout         by the thread of the event
//!                          \---> Queue ---> files, journal   by the thread retcd-logger
//! ```
//!
//! In JSON, each line is one object in the format of Go's zap: `level`, `ts`, `caller`, `msg`, and then the
//! fields of the event on the same level. At a terminal, a line has time, level, message and `key=value`
//! pairs. Fields have etcd's names, for which tracing has the syntax `"snapshot-count" = 10000`.

mod files;
mod journal;
mod line;
mod outputs;
mod queue;
mod rotated;

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, filter::Targets, layer::SubscriberExt};

pub(crate) use files::LogFiles;
pub(crate) use line::list;

use crate::config::{Config, LogFormat, LogLevel, LogOutput, LogRotation};

use line::Format;
use outputs::Outputs;

/// Starts logging with the settings of the configuration, for the rest of the process. The error is a
/// message for the operator.
pub(crate) fn init(config: &Config) -> Result<LogFiles, String> {
    install(config.log_level, config.log_format, &config.log_outputs, config.log_rotation.as_ref())
        .map_err(|error| error.to_string())
}

/// Starts logging when there is no configuration, to say why there is none.
pub(super) fn init_to_stderr() {
    install(LogLevel::Info, None, &[LogOutput::Stderr], None)
        .expect("stderr needs no opening, and this is the first log");
}

fn install(
    level: LogLevel,
    format: Option<LogFormat>,
    outputs: &[LogOutput],
    rotation: Option<&LogRotation>,
) -> io::Result<LogFiles> {
    let terminal = is_for_people();
    let format = match format {
        Some(format) => format,
        None if terminal => LogFormat::Console,
        None => LogFormat::Json,
    };
    let colour = terminal && env::var_os("NO_COLOR").is_none() && outputs == [LogOutput::Stderr];
    let (outputs, files) = Outputs::open(outputs, rotation)?;
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(colour)
        .with_writer(outputs)
        .event_format(Format(format))
        .with_filter(targets(level, env::var("RUST_LOG").ok().as_deref()));
    tracing::subscriber::set_global_default(Registry::default().with(layer)).map_err(io::Error::other)?;
    Ok(files)
}

/// Whether stderr is a terminal whose `TERM` is set and not `dumb`. Test harnesses and supervisors that
/// give a process a terminal without setting `TERM` parse the log by machine.
fn is_for_people() -> bool {
    io::stderr().is_terminal() && env::var("TERM").is_ok_and(|term| !term.is_empty() && term != "dumb")
}

/// Events of this crate from `level` on, and no events of libraries: those describe streams, frames and
/// lost messages, which do not help an operator. If an error in a library affects a request, a peer or this
/// process, this crate logs that effect once. `RUST_LOG` adds the events that a developer asks for.
fn targets(level: LogLevel, more: Option<&str>) -> Targets {
    let ours = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Fatal => LevelFilter::OFF,
    };
    let targets = Targets::new().with_default(LevelFilter::OFF).with_target(env!("CARGO_CRATE_NAME"), ours);
    match more.and_then(|text| text.parse::<Targets>().ok()) {
        Some(more) => targets.with_targets(more),
        None => targets,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use serde_json::Value;
    use tracing::{Level, debug, error, info, warn};
    use tracing_subscriber::filter::Filtered;

    use super::*;

    type TestLayer = Filtered<
        tracing_subscriber::fmt::Layer<
            Registry,
            tracing_subscriber::fmt::format::DefaultFields,
            Format,
            Outputs,
        >,
        Targets,
        Registry,
    >;

    /// The text that the events of `log` give, in one format and from one level on.
    fn written(format: LogFormat, level: LogLevel, colour: bool, log: impl FnOnce()) -> String {
        written_with(None, format, level, colour, log)
    }

    /// As [`written`], with a value of `RUST_LOG`.
    fn written_with(
        more: Option<&str>,
        format: LogFormat,
        level: LogLevel,
        colour: bool,
        log: impl FnOnce(),
    ) -> String {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path: PathBuf = dir.path().join("log");
        let (outputs, files) = Outputs::open(&[LogOutput::File(path.clone())], None).expect("a log file");
        let layer: TestLayer = tracing_subscriber::fmt::layer()
            .with_ansi(colour)
            .with_writer(outputs)
            .event_format(Format(format))
            .with_filter(targets(level, more));
        tracing::subscriber::with_default(Registry::default().with(layer), log);
        files.flush();
        fs::read_to_string(path).expect("the log")
    }

    #[test]
    fn a_json_line_has_the_shape_of_zap() {
        let line = written(LogFormat::Json, LogLevel::Info, false, || {
            info!(
                "snapshot-count" = 10_000_u64,
                two_words = 2,
                ratio = 0.5,
                ready = true,
                offset = -1,
                name = "a \"b\"\n",
                id = %7,
                urls = ?list(&["http://a:1", "b \"c\""]),
                none = ?list(&[""; 0]),
                "ready to serve client requests"
            );
        });
        assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["level"], "info");
        assert_eq!(value["msg"], "ready to serve client requests");
        assert_eq!(value["snapshot-count"], 10_000);
        assert_eq!(value["two-words"], 2);
        assert_eq!(value["ratio"], 0.5);
        assert_eq!(value["ready"], true);
        assert_eq!(value["offset"], -1);
        assert_eq!(value["name"], "a \"b\"\n");
        assert_eq!(value["id"], "7");
        assert_eq!(value["urls"], serde_json::json!(["http://a:1", "b \"c\""]));
        assert_eq!(value["none"], serde_json::json!([]));
        let caller = value["caller"].as_str().expect("a caller");
        assert!(caller.starts_with("log/mod.rs:"), "{caller}");
        let time = value["ts"].as_str().expect("a time");
        assert_eq!(time.len(), "2026-01-02T15:04:05.000000Z".len());
        assert!(time.ends_with('Z') && humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert!(line.starts_with("{\"level\":\"info\",\"ts\":\""), "{line}");
    }

    #[test]
    fn events_of_raft_name_their_logger() {
        let line = written_with(Some("openraft=error"), LogFormat::Json, LogLevel::Info, false, || {
            error!(target: "openraft::core", "lost it");
        });
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((value["logger"].as_str(), value["level"].as_str()), (Some("raft"), Some("error")));
    }

    #[test]
    fn libraries_are_silent() {
        let said = written(LogFormat::Json, LogLevel::Debug, false, || {
            error!(target: "openraft::core", "lost it");
            warn!(target: "h2::proto::streams", "locally-reset streams reached limit");
            error!(target: "hyper", "error");
            error!(target: "tonic", "error");
            error!(target: "redb", "error");
        });
        assert_eq!(said, "");
    }

    #[test]
    fn a_console_line_reads_from_left_to_right() {
        let line = written(LogFormat::Console, LogLevel::Info, false, || {
            warn!(address = "127.0.0.1:2379", why = "two words", count = 3, "slow\nfdatasync");
        });
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
        assert_eq!(rest, "warn  slow\\nfdatasync address=127.0.0.1:2379 why=\"two words\" count=3\n");

        let coloured = written(LogFormat::Console, LogLevel::Info, true, || info!("hello"));
        assert!(coloured.contains("\x1b[32minfo \x1b[0m hello"), "{coloured:?}");
    }

    #[test]
    fn levels_hold_back_what_is_below_them() {
        let log = || {
            debug!("d");
            info!("i");
            warn!("w");
            error!("e");
            info!(target: "hyper", "library");
        };
        let messages = |level| {
            let lines = written(LogFormat::Json, level, false, log);
            let message = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["msg"].clone();
            lines.lines().map(message).filter_map(|msg| msg.as_str().map(str::to_owned)).collect::<String>()
        };
        assert_eq!(messages(LogLevel::Debug), "diwe");
        assert_eq!(messages(LogLevel::Info), "iwe");
        assert_eq!(messages(LogLevel::Warn), "we");
        assert_eq!(messages(LogLevel::Error), "e");
        assert_eq!(messages(LogLevel::Fatal), "");
    }

    #[test]
    fn a_developer_can_ask_for_more() {
        let targets = targets(LogLevel::Info, Some("openraft=debug"));
        assert!(targets.would_enable("openraft::core", &Level::DEBUG));
        assert!(!targets.would_enable("hyper", &Level::INFO));
        assert!(targets.would_enable("retcd::node", &Level::INFO));
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let error = Outputs::open(&[LogOutput::File(PathBuf::from("/nowhere/at/all"))], None).err();
        assert!(error.expect("an error").to_string().contains("/nowhere/at/all"));
    }
}
