//! `retcd ctl`, which is etcdctl: a client of a cluster on the command line.
//!
//! ```text
//! words --- command ---> Found --- flags ---> Invocation --- run ---> a file in commands/
//!                                                  |
//!                             settings, client (a cluster), printer (five formats)
//! ```
//!
//! The interface is that of etcdctl 3.7: commands, flags, variables, what goes to stdout, and exit codes, because scripts
//! depend on them. The words of the help and of remarks on stderr are our own. This room knows the wire, and nothing
//! of the server.
//!
//! To add a command: a `const` of [`command::Command`] and a function in a file of `commands/`, one line in `table.rs`,
//! the methods it calls in `client/methods.rs`, and, if its answer is shown in the five formats, a variant of
//! [`printer::Shown`], for which the compiler asks each printer. The function judges its arguments first, then calls
//! [`invocation::Invocation::connect`], then the client, and hands the answer to
//! [`invocation::Session::print`]. Usage, completion and options come from the table.

mod client;
mod command;
mod commands;
mod exit;
mod flags;
mod go;
mod help;
mod invocation;
mod output;
mod printer;
mod process;
mod ranges;
mod settings;
mod table;
mod terminal;
mod words;

use std::{ffi::OsString, io, process::ExitCode};

use self::{
    command::{Found, suggestions},
    exit::{Exit, Failure},
    flags::{Parsed, Values},
    invocation::Invocation,
    table::ROOT,
};

/// Runs a command line. `program` is what precedes it on a command line: `etcdctl`, or `retcd ctl`.
pub(crate) async fn run(program: &str, args: &[OsString], variables: &[(OsString, OsString)]) -> ExitCode {
    let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_encoded_bytes().to_vec()).collect();
    match command_line(program, &args, variables).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.tell(&mut io::stderr())),
    }
}

async fn command_line(
    program: &str,
    args: &[Vec<u8>],
    variables: &[(OsString, OsString)],
) -> Result<(), Failure> {
    let found = Found::in_line(&ROOT, args);
    if found.path.len() == 1
        && let Some(at) = found.first_word()
    {
        return Err(unknown_command(program, &String::from_utf8_lossy(&found.args[at])));
    }
    let mut values = Values::defaults(found.flags());
    let parsed = values.parse(&found.args);
    let parsed = parsed
        .map_err(|text| Failure::Usage { text, usage: format!("{}\n", help::usage(program, &found)) })?;
    match (found.command().run, parsed) {
        (Some(run), Parsed::Arguments(args)) => {
            run(&Invocation { program, root: &ROOT, found: &found, args, values, variables }).await
        }
        (None, _) | (_, Parsed::Help) => {
            output::write(|out| Ok(out.write_all(help::help(program, &found).as_bytes())?))
        }
    }
}

fn unknown_command(program: &str, word: &str) -> Failure {
    let mut text = format!("unknown command {} for \"{program}\"", go::quote(word.as_bytes()));
    let meant = suggestions(&ROOT, word);
    if !meant.is_empty() {
        text += &format!("\n\nDid you mean this?\n\t{}\n", meant.join("\n\t"));
    }
    text += &format!("\nRun '{program} --help' for usage.");
    Exit::Error.because(text)
}
