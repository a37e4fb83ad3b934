//! `snapshot`: what a snapshot holds, and a data directory of one.

use std::{ffi::OsString, io};

use futures_util::{FutureExt, future::LocalBoxFuture};

use super::{path, patience, printer};
use crate::{
    cli::{Command, Exit, Failure, Flag, Invocation, Kind, go::reason, output},
    config::{Config, Invocation as Asked},
    node,
    telemetry::Terminal,
    utl::source::Source,
};

pub(in crate::utl) const SNAPSHOT: Command =
    Command::new("snapshot", "<subcommand>", "Commands about snapshots").below(&[
        Command::new(
            "restore",
            "<filename> --data-dir {output dir} [options]",
            "Makes a data directory of retcd of a snapshot of etcd or retcd",
        )
        .flags(&[
            Flag::text("data-dir", "the directory that is made"),
            Flag::text("wal-dir", "the directory of the log, if it is not to be in the other"),
            Flag::text("name", "the name of the member").or("default"),
            Flag::text("initial-cluster", "the members of the new cluster").or("default=http://localhost:2380"),
            Flag::text("initial-cluster-token", "what tells the new cluster from others").or("etcd-cluster"),
            Flag::text("initial-advertise-peer-urls", "the URLs at which the other members reach this one")
                .or("http://localhost:2380"),
            Flag::switch("skip-hash-check", "take a file without a checksum: a copy of a database"),
            Flag::new(Kind::Uint, "initial-memory-map-size", "has no effect: retcd maps no files")
                .or("10737418240"),
            Flag::new(Kind::Uint, "bump-revision", "how much the newest revision is raised"),
            Flag::switch("mark-compacted", "compact everything before (belongs to --bump-revision)"),
        ])
        .runs(restore),
        Command::new("status", "<filename>", "Shows what a snapshot holds")
            .long(
                "Shows what a snapshot holds: hash, newest revision, keys, size, and version of the format.\n\n<filename> is a snapshot, \
                 the database of an etcd (member/snap/db), or a data directory. Of a data directory of retcd, what is shown is the snapshot \
                 that `retcd export` would write.\n",
            )
            .runs(status),
    ]);

fn status<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("snapshot status requires exactly one argument"));
        }
        let path = path(call, 0);
        Source::verify_there(&path).map_err(|error| Exit::Error.because(error))?;
        let printer = printer(call)?;
        let status = Source::open(&path, patience(call)).and_then(|source| source.status());
        printer.status(&status.map_err(|error| Exit::Error.because(error))?)
    }
    .boxed_local()
}

/// The flags that `retcd snapshot restore` has too, and that are handed on to it if they are given.
const HANDED_ON: [&str; 6] = [
    "data-dir",
    "wal-dir",
    "name",
    "initial-cluster",
    "initial-cluster-token",
    "initial-advertise-peer-urls",
];

fn restore<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let values = &call.values;
        if call.args.len() != 1 {
            return Err(Failure::bad_args("snapshot restore requires exactly one argument"));
        }
        if (values.uint("bump-revision") > 0) != values.switch("mark-compacted") {
            return Err(Failure::bad_args("--mark-compacted required if --revision-bump > 0"));
        }
        let flag = |name: &str, value: &str| OsString::from(format!("--{name}={value}"));
        let mut words = vec!["snapshot".into(), "restore".into(), path(call, 0).into_os_string()];
        let given = HANDED_ON.into_iter().filter(|name| values.is_set(name) && !values.text(name).is_empty());
        words.extend(given.map(|name| flag(name, values.text(name))));
        words.push(flag("bump-revision", &values.uint("bump-revision").to_string()));
        for switch in ["mark-compacted", "skip-hash-check"] {
            words.push(flag(switch, &values.switch(switch).to_string()));
        }
        let command = match Config::load(&words, &[]).map_err(|error| Exit::Error.because(error))? {
            Asked::Restore(command) => *command,
            _ => unreachable!("the words are those of a restore"),
        };
        // A file that is not there is said as etcdutl says it, whose words scripts may look for.
        std::fs::File::open(&command.source).map_err(|error: io::Error| {
            Exit::Error.because(format_args!("open {}: {}", command.source.display(), reason(&error)))
        })?;
        let mut terminal = Terminal::default();
        let restored = node::restore(&command, &mut |step| terminal.show(|| step.to_string()));
        terminal.clear();
        let restored = restored.map_err(|error| Exit::Error.because(error))?;
        // etcdutl writes nothing to stdout here.
        output::complain(format_args!("{}", restored.summary(&command).trim_end()));
        Ok(())
    }
    .boxed_local()
}
