//! The commands that every tool has, or may have: `help` and `options`.

use futures_util::{FutureExt, future::LocalBoxFuture};

use super::{
    command::{Command, Found, Group},
    exit::Failure,
    help,
    invocation::Invocation,
    output,
};

pub(crate) const HELP: Command =
    Command::new("help", "[command]", "Shows the help of a command").of(Group::Utility).runs(help_command);

/// A tool with this command does not repeat the flags that all commands have in the help of each.
pub(crate) const OPTIONS: Command =
    Command::new(help::OPTIONS_NAME, "", "Shows the flags that all commands have")
        .of(Group::Utility)
        .runs(options);

fn options<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async { output::write(|out| Ok(out.write_all(help::options(call.root).as_bytes())?)) }.boxed_local()
}

fn help_command<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async {
        let found = Found::in_line(call.root, &call.args);
        let text = help::help(call.program, &found);
        output::write(|out| Ok(out.write_all(text.as_bytes())?))
    }
    .boxed_local()
}
