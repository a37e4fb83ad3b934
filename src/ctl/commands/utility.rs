//! Commands that ask no cluster: `version`.

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::cli::{Command, Failure, Group, Invocation, output};

pub(in crate::ctl) const VERSION: Command =
    Command::new("version", "", "Shows the version of this tool").of(Group::Utility).runs(version);

/// The etcdctl whose interface this is. Scripts compare it with the version of the cluster.
const ETCDCTL_VERSION: &str = "3.7.3";
const API_VERSION: &str = "3.7";

fn version<'a>(_: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async { output::line(format_args!("etcdctl version: {ETCDCTL_VERSION}\nAPI version: {API_VERSION}")) }
        .boxed_local()
}
