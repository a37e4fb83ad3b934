//! What is shown of a file, in the formats of etcdutl.

use crate::{
    cli::{Exit, Failure, Format, draw, go::json_string, output},
    migrate::FileStatus,
    mvcc::KvHash,
    telemetry::HumanBytes,
};

#[derive(Clone, Copy)]
pub(super) struct Printer(Format);

/// One column: its heading in a table, its names in `fields` and in `json`, and the value in a table and elsewhere.
struct Column {
    heading: &'static str,
    field: &'static str,
    json: &'static str,
    shown: String,
    value: Value,
}

enum Value {
    Number(i64),
    Text(String),
}

impl Printer {
    pub(super) fn of(format: Format) -> Printer {
        Printer(format)
    }

    pub(super) fn status(self, status: &FileStatus) -> Result<(), Failure> {
        let FileStatus { hash, revision, keys, bytes, version } = status;
        let (keys, bytes) = (*keys as i64, i64::try_from(*bytes).unwrap_or(i64::MAX));
        self.print(&[
            number("HASH", "Hash", "hash", (*hash).into()).shown_as(format!("{hash:x}")),
            number("REVISION", "Revision", "revision", revision.0),
            number("TOTAL KEYS", "Keys", "totalKey", keys),
            number("TOTAL SIZE", "Size", "totalSize", bytes).shown_as(HumanBytes(bytes).to_string()),
            Column {
                heading: "VERSION",
                field: "Version",
                json: "version",
                shown: version.clone(),
                value: Value::Text(version.clone()),
            },
        ])
    }

    pub(super) fn hash_kv(self, hash: &KvHash) -> Result<(), Failure> {
        self.print(&[
            number("HASH", "Hash", "hash", hash.hash.into()),
            number("HASH REVISION", "Hash revision", "hashRevision", hash.rev_hashed.0),
            number("COMPACT REVISION", "Compact revision", "compactRevision", hash.rev_compacted.0),
        ])
    }

    fn print(self, columns: &[Column]) -> Result<(), Failure> {
        let cells: Vec<String> = columns.iter().map(|column| column.shown.clone()).collect();
        match self.0 {
            Format::Simple => output::line(format_args!("{}", cells.join(", "))),
            Format::Table => {
                let headings: Vec<&str> = columns.iter().map(|column| column.heading).collect();
                output::write(|out| Ok(draw(&headings, &[cells], out)?))
            }
            Format::Fields => {
                let line = |column: &Column| match &column.value {
                    Value::Number(number) => format!("\"{}\" : {number}\n", column.field),
                    Value::Text(text) => format!("\"{}\" : {text}\n", column.field),
                };
                output::write(|out| Ok(write!(out, "{}", columns.iter().map(line).collect::<String>())?))
            }
            Format::Json => {
                let member = |column: &Column| match &column.value {
                    Value::Number(number) => format!("\"{}\":{number}", column.json),
                    Value::Text(text) => format!("\"{}\":{}", column.json, json_string(text)),
                };
                let members: Vec<String> = columns.iter().map(member).collect();
                output::line(format_args!("{{{}}}", members.join(",")))
            }
            Format::Protobuf => Err(Exit::BadFeature.because("protobuf not supported as output format")),
        }
    }
}

fn number(heading: &'static str, field: &'static str, json: &'static str, value: i64) -> Column {
    Column { heading, field, json, shown: value.to_string(), value: Value::Number(value) }
}

impl Column {
    fn shown_as(self, shown: String) -> Column {
        Column { shown, ..self }
    }
}
