//! `version`.

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::cli::{Command, Failure, Invocation, output};

pub(in crate::utl) const VERSION: Command =
    Command::new("version", "", "Shows the version of this tool").runs(version);

/// The etcdutl whose interface this is.
const ETCDUTL_VERSION: &str = "3.7.3";
const API_VERSION: &str = "3.7";

fn version<'a>(_: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async { output::line(format_args!("etcdutl version: {ETCDUTL_VERSION}\nAPI version: {API_VERSION}")) }
        .boxed_local()
}
