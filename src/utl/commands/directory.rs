//! `defrag` and `migrate`: commands about a data directory.

use std::path::PathBuf;

use futures_util::{FutureExt, future::LocalBoxFuture};

use super::patience;
use crate::{
    cli::{Command, Exit, Failure, Flag, Invocation, go, output},
    telemetry::HumanBytes,
    utl::source::{DirectoryError, Source},
};

pub(in crate::utl) const DEFRAG: Command =
    Command::new("defrag", "", "Writes the database of a stopped member anew, without holes")
        .flags(&[
            Flag::text("data-dir", "the data directory of a member that is stopped (required)").required()
        ])
        .runs(defrag);

pub(in crate::utl) const MIGRATE: Command =
    Command::new("migrate", "", "Says what a data directory needs for another version")
        .long(
            "Says what a data directory needs for another version.\n\nA data directory of retcd needs nothing: its format does not depend on \
             the version of etcd whose interface is served. One of etcd becomes one of retcd with `retcd import`, whatever its version.\n",
        )
        .flags(&[
            Flag::text("data-dir", "the data directory of a member that is stopped (required)").required(),
            Flag::text("target-version", "the version of etcd, as in 3.6; from 3.5 on (required)").required(),
            Flag::switch("force", "has no effect"),
        ])
        .runs(migrate);

fn data_dir(call: &Invocation<'_>) -> PathBuf {
    PathBuf::from(call.values.text("data-dir"))
}

fn defrag<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let data_dir = data_dir(call);
        let shown = data_dir.display();
        let failed = |error: DirectoryError| {
            Exit::Error.because(format_args!("Failed to defragment etcd data[{shown}] ({error})"))
        };
        Source::verify_member(&data_dir).map_err(failed)?;
        let (before, after) = Source::defragment(&data_dir, patience(call)).map_err(failed)?;
        let size = |bytes: u64| HumanBytes(i64::try_from(bytes).unwrap_or(i64::MAX));
        output::complain(format_args!(
            "defragmented {shown}: the database had {}, and has {}",
            size(before),
            size(after)
        ));
        Ok(())
    }
    .boxed_local()
}

fn migrate<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        verify_version(call.values.text("target-version"))?;
        let data_dir = data_dir(call);
        Source::verify_member(&data_dir).map_err(|error| Exit::Error.because(error))?;
        let shown = data_dir.display();
        if Source::is_of_etcd(&data_dir) {
            return Err(Exit::Error.because(format_args!(
                "{shown} is a data directory of etcd, which retcd does not change. `retcd import {shown} --data-dir NEW` makes one of \
                 retcd of it; for another version of etcd, use the etcdutl of etcd"
            )));
        }
        output::complain(format_args!(
            "{shown} is a data directory of retcd: nothing is to be migrated, whatever version of etcd it is for"
        ));
        Ok(())
    }
    .boxed_local()
}

/// The texts are etcdutl's.
fn verify_version(version: &str) -> Result<(), Failure> {
    const OLDEST: (i64, i64) = (3, 5);
    let quoted = go::quote(version.as_bytes());
    let parts: Vec<&str> = version.split('.').collect();
    let [major, minor] = parts[..] else {
        return Err(Failure::bad_args(format!(
            "wrong target version format, expected \"X.Y\", got {quoted}"
        )));
    };
    let number = |text: &str| {
        let parsed = go::parse_int(text, 10);
        parsed.map_err(|error| Failure::bad_args(format!("failed to parse target version: {error}")))
    };
    match (number(major)?, number(minor)?) {
        version if version >= OLDEST => Ok(()),
        (major, minor) => Err(Failure::bad_args(format!(
            "target version \"{major}.{minor}\" not supported. Minimal \"3.5\""
        ))),
    }
}
