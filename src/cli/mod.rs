//! What the tools on the command line share: a table of commands and flags, and what is made of it.
//!
//! ```text
//! words --- command ---> Found --- flags ---> Invocation --- run ---> a function of the tool
//!                          |
//!                          +--- help, completion
//! ```
//!
//! `ctl` is etcdctl and `utl` is etcdutl, and both have been written with the same library of Go. Scripts depend on how it
//! reads a command line, so it is read in the same way here: flags before the name of a command, names by their
//! beginnings, numbers in Go's notation, and the texts of errors. A tool is a constant, the root of its
//! [`Command`]s; [`run`] does the rest. Nothing here knows what a tool does.

mod boxes;
mod builtin;
mod command;
mod completion;
mod exit;
mod flags;
mod format;
pub(crate) mod go;
mod help;
mod invocation;
pub(crate) mod output;

use std::{ffi::OsString, io, process::ExitCode};

use self::command::suggestions;
pub(crate) use self::{
    boxes::draw,
    builtin::{HELP, OPTIONS},
    command::{Command, Found, Group},
    completion::COMPLETION,
    exit::{Exit, Failure},
    flags::{Flag, Kind, Parsed, Values},
    format::Format,
    invocation::Invocation,
};

/// Runs a command line. `program` is what precedes it on a command line, such as `etcdctl` or `retcd ctl`.
pub(crate) async fn run(
    root: &'static Command,
    program: &str,
    args: &[OsString],
    variables: &[(OsString, OsString)],
) -> ExitCode {
    let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_encoded_bytes().to_vec()).collect();
    match command_line(root, program, &args, variables).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.tell(&mut io::stderr())),
    }
}

async fn command_line(
    root: &'static Command,
    program: &str,
    args: &[Vec<u8>],
    variables: &[(OsString, OsString)],
) -> Result<(), Failure> {
    let found = Found::in_line(root, args);
    // A tool of one command has arguments.
    if found.path.len() == 1
        && root.run.is_none()
        && let Some(at) = found.first_word()
    {
        return Err(unknown_command(root, program, &String::from_utf8_lossy(&found.args[at])));
    }
    let mut values = Values::defaults(found.flags());
    let usage = || format!("{}\n", help::usage(program, &found));
    let wrong = |text| Failure::Usage { text, usage: usage() };
    match (found.command().run, values.parse(&found.args).map_err(wrong)?) {
        (Some(run), Parsed::Arguments(args)) => {
            values.require().map_err(wrong)?;
            run(&Invocation { program, root, found: &found, args, values, variables }).await
        }
        (None, _) | (_, Parsed::Help) => {
            output::write(|out| Ok(out.write_all(help::help(program, &found).as_bytes())?))
        }
    }
}

fn unknown_command(root: &Command, program: &str, word: &str) -> Failure {
    let mut text = format!("unknown command {} for \"{program}\"", go::quote(word.as_bytes()));
    let meant = suggestions(root, word);
    if !meant.is_empty() {
        text += &format!("\n\nDid you mean this?\n\t{}\n", meant.join("\n\t"));
    }
    text += &format!("\nRun '{program} --help' for usage.");
    Exit::Error.because(text)
}
