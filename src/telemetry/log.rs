//! The log: one line per event, on stderr unless `--log-outputs` names other outputs.
//!
//! In JSON, each line is one object in the format of Go's zap: `level`, `ts`, `caller`, `msg`, and then the
//! fields of the event on the same level. At a terminal, a line has time, level, message and `key=value`
//! pairs. Fields have etcd's names, for which tracing has the syntax `"snapshot-count" = 10000`.

use std::{
    borrow::Cow,
    env,
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::SystemTime,
};

use serde_json::Value;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
};

use crate::config::{Config, LogFormat, LogLevel, LogOutput};

/// Starts logging with the settings of the configuration, for the rest of the process. The error is a
/// message for the operator.
pub(crate) fn init(config: &Config) -> Result<(), String> {
    install(config.log_level, config.log_format, &config.log_outputs).map_err(|error| error.to_string())
}

/// Starts logging when there is no configuration, to say why there is none.
pub(super) fn init_to_stderr() {
    install(LogLevel::Info, None, &[LogOutput::Stderr])
        .expect("stderr needs no opening, and this is the first log");
}

fn install(level: LogLevel, format: Option<LogFormat>, outputs: &[LogOutput]) -> io::Result<()> {
    let terminal = is_for_people();
    let format = match format {
        Some(format) => format,
        None if terminal => LogFormat::Console,
        None => LogFormat::Json,
    };
    let colour = terminal && env::var_os("NO_COLOR").is_none() && outputs == [LogOutput::Stderr];
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(colour)
        .with_writer(Outputs::open(outputs)?)
        .event_format(Format(format))
        .with_filter(targets(level, env::var("RUST_LOG").ok().as_deref()));
    tracing::subscriber::set_global_default(Registry::default().with(layer)).map_err(io::Error::other)
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

/// A field that is a list. In a line of JSON it is an array, and not a text that looks like one.
pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> impl fmt::Debug + '_ {
    List(items)
}

struct List<'a, T>(&'a [T]);

/// The first character of a list, which is followed by JSON, because tracing passes such a field on as text
/// only. If a text from a client begins like that, it becomes the JSON that it contains, which is still one
/// value of one field.
const LIST_MARK: char = '\u{1e}';

impl<T: AsRef<str>> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<&str> = self.0.iter().map(AsRef::as_ref).collect();
        write!(f, "{LIST_MARK}{}", Value::from(items))
    }
}

/// The outputs; each line is written to all of them.
#[derive(Clone)]
struct Outputs(Arc<[Output]>);

enum Output {
    Stderr,
    Stdout,
    File(File),
}

impl Outputs {
    fn open(outputs: &[LogOutput]) -> io::Result<Outputs> {
        let open = |output: &LogOutput| match output {
            LogOutput::Stderr => Ok(Output::Stderr),
            LogOutput::Stdout => Ok(Output::Stdout),
            LogOutput::File(path) => match OpenOptions::new().create(true).append(true).open(path) {
                Ok(file) => Ok(Output::File(file)),
                Err(error) => Err(io::Error::new(
                    error.kind(),
                    format!("cannot open the log file {}: {error}", path.display()),
                )),
            },
        };
        Ok(Outputs(outputs.iter().map(open).collect::<io::Result<_>>()?))
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = Outputs;

    fn make_writer(&'a self) -> Outputs {
        self.clone()
    }
}

impl Write for Outputs {
    /// Writes a whole line to all outputs. If one output fails, the others still get the line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut result = Ok(line.len());
        for output in self.0.iter() {
            let written = match output {
                Output::Stderr => io::stderr().write_all(line),
                Output::Stdout => io::stdout().write_all(line),
                Output::File(file) => (&*file).write_all(line),
            };
            if let Err(error) = written {
                result = Err(error);
            }
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Format(LogFormat);

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let colour = writer.has_ansi_escapes();
        let mut line = Line::default();
        event.record(&mut line);
        let now = SystemTime::now();
        match self.0 {
            LogFormat::Json => line.write_json(&mut writer, event.metadata(), now),
            LogFormat::Console => line.write_console(&mut writer, event.metadata(), now, colour),
        }
    }
}

/// The message and the fields of an event.
#[derive(Default)]
struct Line {
    message: String,
    fields: Vec<(Cow<'static, str>, Value)>,
}

impl Line {
    fn write_json(&self, out: &mut dyn fmt::Write, metadata: &Metadata<'_>, now: SystemTime) -> fmt::Result {
        let level = level_name(*metadata.level());
        let time = humantime::format_rfc3339_micros(now);
        write!(out, "{{\"level\":\"{level}\",\"ts\":\"{time}\"")?;
        if metadata.target().starts_with("openraft") {
            write!(out, ",\"logger\":\"raft\"")?;
        }
        let (file, line) = (metadata.file().unwrap_or("unknown"), metadata.line().unwrap_or(0));
        let caller = Value::from(format!("{}:{line}", short_path(file)));
        write!(out, ",\"caller\":{caller},\"msg\":{}", Value::from(self.message.as_str()))?;
        for (name, value) in &self.fields {
            write!(out, ",{}:{value}", Value::from(&**name))?;
        }
        writeln!(out, "}}")
    }

    fn write_console(
        &self,
        out: &mut dyn fmt::Write,
        metadata: &Metadata<'_>,
        now: SystemTime,
        colour: bool,
    ) -> fmt::Result {
        let time = humantime::format_rfc3339_millis(now);
        let level = *metadata.level();
        let (start, end) = if colour { (level_colour(level), "\x1b[0m") } else { ("", "") };
        write!(out, "{time} {start}{:<5}{end} {}", level_name(level), Printable(&self.message))?;
        for (name, value) in &self.fields {
            match value {
                Value::String(text) if is_one_word(text) => write!(out, " {name}={text}")?,
                value => write!(out, " {name}={value}")?,
            }
        }
        writeln!(out)
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(message)) => self.message = message,
            // Fields of the bridge from the `log` crate, which are not part of the event.
            (name, _) if name.starts_with("log.") => {}
            (name, value) => {
                let name = name.strip_prefix("r#").unwrap_or(name);
                // etcd joins the words of a field's name with hyphens, which the names in Rust cannot have.
                let hyphenated = name.contains('_').then(|| name.replace('_', "-"));
                self.fields.push((hyphenated.map_or(Cow::Borrowed(name), Cow::Owned), value));
            }
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::from(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let list = text.strip_prefix(LIST_MARK).and_then(|list| serde_json::from_str(list).ok());
        self.push(field, list.unwrap_or_else(|| Value::from(text)));
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

fn level_colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

/// The folder and the file: enough to find the line, and nothing about the machine that built it.
fn short_path(file: &str) -> &str {
    match file.rmatch_indices('/').nth(1) {
        Some((at, _)) => &file[at + 1..],
        None => file,
    }
}

fn is_one_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '=';
    !text.is_empty() && text.chars().all(plain)
}

/// Text that may come from a client: control characters are escaped, so that the text can neither control
/// the terminal nor forge a line.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tracing::{debug, error, info, warn};
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
        let outputs = Outputs::open(&[LogOutput::File(path.clone())]).expect("a log file");
        let layer: TestLayer = tracing_subscriber::fmt::layer()
            .with_ansi(colour)
            .with_writer(outputs)
            .event_format(Format(format))
            .with_filter(targets(level, more));
        tracing::subscriber::with_default(Registry::default().with(layer), log);
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
        assert!(caller.starts_with("telemetry/log.rs:"), "{caller}");
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
        let error = Outputs::open(&[LogOutput::File(PathBuf::from("/nowhere/at/all"))]).err();
        assert!(error.expect("an error").to_string().contains("/nowhere/at/all"));
    }
}
