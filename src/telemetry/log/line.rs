//! One line of the log: JSON in the format of zap, or text for people.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    time::SystemTime,
};

use serde_json::Value;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::config::LogFormat;

pub(super) struct Format(pub(super) LogFormat);

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

/// The folder of a source file.
pub(super) fn package(file: &str) -> &str {
    short_path(file).split_once('/').map_or("", |(folder, _)| folder)
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
