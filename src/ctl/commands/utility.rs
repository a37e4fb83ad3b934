//! Commands that ask no cluster: `version`, `options` and `help`.

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::ctl::{
    command::{Command, Found, Group},
    exit::Failure,
    help,
    invocation::Invocation,
    output,
};

pub(in crate::ctl) const VERSION: Command =
    Command::new("version", "", "Shows the version of this tool").of(Group::Utility).runs(version);

pub(in crate::ctl) const OPTIONS: Command =
    Command::new("options", "", "Shows the flags that all commands have").of(Group::Utility).runs(options);

pub(in crate::ctl) const HELP: Command =
    Command::new("help", "[command]", "Shows the help of a command").of(Group::Utility).runs(help_command);

/// The etcdctl whose interface this is. Scripts compare it with the version of the cluster.
const ETCDCTL_VERSION: &str = "3.7.3";
const API_VERSION: &str = "3.7";

fn version<'a>(_: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async { output::line(format_args!("etcdctl version: {ETCDCTL_VERSION}\nAPI version: {API_VERSION}")) }
        .boxed_local()
}

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
