//! JSON as Go writes it: the same escapes, the same order of fields, and zero values left out.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use crate::v2::{Event, Refusal, Seen};

/// A field of an object, behind those before it.
pub(super) struct Fields<'o> {
    out: &'o mut String,
    is_first: bool,
}

impl<'o> Fields<'o> {
    pub(super) fn begin(out: &'o mut String) -> Fields<'o> {
        out.push('{');
        Fields { out, is_first: true }
    }

    /// Goes on with an object that has fields.
    pub(super) fn resume(out: &'o mut String, is_first: bool) -> Fields<'o> {
        Fields { out, is_first }
    }

    pub(super) fn name(&mut self, name: &str) -> &mut String {
        if !std::mem::replace(&mut self.is_first, false) {
            self.out.push(',');
        }
        let _ = write!(self.out, "\"{name}\":");
        self.out
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        string(self.name(name), value);
    }

    pub(super) fn texts(&mut self, name: &str, values: &[String]) {
        list(self.name(name), values, |out, value| string(out, value));
    }

    /// A list that was never named is `null`.
    pub(super) fn names(&mut self, name: &str, values: &Option<Vec<String>>) {
        match values {
            Some(values) => self.texts(name, values),
            None => self.name(name).push_str("null"),
        }
    }

    pub(super) fn number(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.name(name), "{value}");
    }

    pub(super) fn end(self) {
        self.out.push('}');
    }

    pub(super) fn is_empty(&self) -> bool {
        self.is_first
    }
}

pub(super) fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        each(out, item);
    }
    out.push(']');
}

pub(super) fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // A replacement character stands for a byte that was not UTF-8.
            '<' | '>' | '&' | '\0'..='\x1f' | '\u{2028}' | '\u{2029}' | '\u{fffd}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A time in nanoseconds since 1970, without the zeros at its end.
pub(super) fn time(nanos: i64) -> String {
    let since = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    let text = humantime::format_rfc3339_nanos(SystemTime::UNIX_EPOCH + since).to_string();
    let text = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{text}Z")
}

pub(super) fn event(event: &Event, with_nodes: bool) -> String {
    let mut out = String::new();
    let mut fields = Fields::begin(&mut out);
    fields.text("action", event.action.as_str());
    if with_nodes {
        seen(fields.name("node"), &event.node);
        if let Some(prev) = &event.prev {
            seen(fields.name("prevNode"), prev);
        }
    }
    fields.end();
    out.push('\n');
    out
}

fn seen(out: &mut String, seen: &Seen) {
    let mut fields = Fields::begin(out);
    let value = seen.value.as_deref();
    node_head(&mut fields, seen.key.as_str(), value, seen.is_dir, seen.expires.map(|at| (at, seen.ttl_secs)));
    node_tail(&mut fields, seen.modified, seen.created);
    fields.end();
}

/// The fields before the children.
pub(super) fn node_head(
    fields: &mut Fields<'_>,
    key: &str,
    value: Option<&str>,
    is_dir: bool,
    expires: Option<(i64, i64)>,
) {
    // The root has no name.
    if key != "/" {
        fields.text("key", key);
    }
    if let Some(value) = value {
        fields.text("value", value);
    }
    if is_dir {
        fields.name("dir").push_str("true");
    }
    if let Some((at, ttl_secs)) = expires {
        fields.text("expiration", &time(at));
        if ttl_secs != 0 {
            fields.number("ttl", ttl_secs);
        }
    }
}

/// The fields behind the children.
pub(super) fn node_tail(fields: &mut Fields<'_>, modified: u64, created: u64) {
    if modified != 0 {
        fields.number("modifiedIndex", modified);
    }
    if created != 0 {
        fields.number("createdIndex", created);
    }
}

pub(super) fn refusal(refusal: &Refusal) -> String {
    let mut out = String::new();
    let mut fields = Fields::begin(&mut out);
    fields.number("errorCode", refusal.code.number());
    fields.text("message", refusal.code.message());
    if !refusal.cause.is_empty() {
        fields.text("cause", &refusal.cause);
    }
    fields.number("index", refusal.index);
    fields.end();
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        let mut out = String::new();
        string(&mut out, "<a&b>\u{7f}\x01\"\\\n\u{2028}\u{e4}");
        assert_eq!(out, "\"\\u003ca\\u0026b\\u003e\u{7f}\\u0001\\\"\\\\\\n\\u2028\u{e4}\"");
    }

    #[test]
    fn times_have_no_zeros_at_their_end() {
        assert_eq!(time(1_500_000_000_123_000_000), "2017-07-14T02:40:00.123Z");
        assert_eq!(time(1_500_000_000_000_000_000), "2017-07-14T02:40:00Z");
        assert_eq!(time(-1), "1970-01-01T00:00:00Z");
    }
}
