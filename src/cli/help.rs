//! What is shown of the commands and their flags.

use std::fmt::Write as _;

use super::{
    command::{Command, Found, Group},
    flags::{Flag, Kind},
};

/// The name of the command that shows the flags of the root.
pub(crate) const OPTIONS_NAME: &str = "options";

const GROUPS: [(Group, &str); 5] = [
    (Group::KeyValue, "Key-value commands"),
    (Group::Maintenance, "Cluster maintenance commands"),
    (Group::Concurrency, "Concurrency commands"),
    (Group::Authentication, "Authentication commands"),
    (Group::Utility, "Utility commands"),
];

/// The answer to `--help`.
pub(crate) fn help(program: &str, found: &Found) -> String {
    let command = found.command();
    let about = if command.long.is_empty() { command.short } else { command.long };
    let mut text = format!("{}\n\n{}", about.trim_end(), usage(program, found));
    if has_options(found) {
        push(
            &mut text,
            format_args!(
                "Use \"{program} {OPTIONS_NAME}\" for a list of global command-line options (applies to all commands).\n"
            ),
        );
    }
    text
}

/// How a command is used, as it is also shown after an error in its flags.
pub(crate) fn usage(program: &str, found: &Found) -> String {
    let (command, typed) = (found.command(), found.typed(program));
    let mut text = "Usage:\n".to_owned();
    if command.run.is_some() {
        let arguments = [command.arguments, "[flags]"].into_iter().filter(|word| !word.is_empty());
        push(&mut text, format_args!("  {typed} {}\n", arguments.collect::<Vec<_>>().join(" ")));
    }
    if !command.below.is_empty() {
        push(&mut text, format_args!("  {typed} [command]\n"));
        push_commands(&mut text, command);
    }
    let of_root = if has_options(found) { 1 } else { 0 };
    let inherited_here = if found.path.len() > of_root { command.inherited } else { &[] };
    let own = command.flags.iter().chain(inherited_here);
    push(&mut text, format_args!("\nFlags:\n{}", flags(own, Some(command.name))));
    let (_, above) = found.path.split_last().expect("the root is always in it");
    let mut from_above = above.iter().skip(of_root).flat_map(|command| command.inherited).peekable();
    if from_above.peek().is_some() {
        push(&mut text, format_args!("\nGlobal Flags:\n{}", flags(from_above, None)));
    }
    if !command.below.is_empty() {
        push(
            &mut text,
            format_args!("\nUse \"{typed} [command] --help\" for more information about a command.\n"),
        );
    }
    text
}

/// The flags that all commands take.
pub(crate) fn options(root: &Command) -> String {
    format!("The following options can be passed to any command:\n\n{}", flags(root.inherited.iter(), None))
}

/// Whether the flags of the root are shown by `options` alone.
fn has_options(found: &Found) -> bool {
    found.path.first().is_some_and(|root| root.below.iter().any(|command| command.name == OPTIONS_NAME))
}

fn push_commands(text: &mut String, command: &Command) {
    let width = command.below.iter().map(|below| below.name.len()).max().unwrap_or(0).max(11);
    let mut list = |heading: &str, group: Group| {
        push(text, format_args!("\n{heading}\n"));
        for below in command.below.iter().filter(|below| below.group == group) {
            push(text, format_args!("  {:width$} {}\n", below.name, below.short));
        }
    };
    if command.below.iter().all(|below| below.group == Group::None) {
        list("Available Commands:", Group::None);
    } else {
        GROUPS.iter().for_each(|(group, heading)| list(heading, *group));
    }
}

/// One line for each flag, sorted by name, with `--help` if a command is named.
fn flags<'a>(flags: impl Iterator<Item = &'a Flag>, command: Option<&str>) -> String {
    let mut lines: Vec<(&str, String, String)> =
        flags.map(|flag| (flag.name, head(flag), about(flag))).collect();
    if let Some(command) = command {
        lines.push(("help", "  -h, --help".to_owned(), format!("help for {command}")));
    }
    lines.sort();
    let width = lines.iter().map(|(_, head, _)| head.len()).max().unwrap_or(0) + 3;
    lines.iter().map(|(_, head, about)| format!("{head:width$}{about}\n")).collect()
}

fn head(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
    let value = match flag.kind {
        Kind::Switch => "",
        Kind::Int => " int",
        Kind::Uint => " uint",
        Kind::Duration => " duration",
        Kind::Text => " string",
        Kind::List => " strings",
    };
    format!("  {short}--{}{value}", flag.name)
}

fn about(flag: &Flag) -> String {
    let default = match (flag.kind, flag.default) {
        (_, "") => return flag.usage.to_owned(),
        (Kind::Text, text) => format!("\"{text}\""),
        (Kind::List, list) => format!("[{list}]"),
        (_, value) => value.to_owned(),
    };
    format!("{} (default {default})", flag.usage)
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(more);
}
