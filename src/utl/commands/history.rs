//! `hashkv`: the hash of the history of keys, as `etcdctl endpoint hashkv` shows that of a running member.

use futures_util::{FutureExt, future::LocalBoxFuture};

use super::{path, patience, printer};
use crate::{
    cli::{Command, Exit, Failure, Flag, Invocation},
    mvcc::RevError,
    utl::source::Source,
};

pub(in crate::utl) const HASHKV: Command =
    Command::new("hashkv", "<filename>", "Shows the hash of the history of keys in a file or a data directory")
        .long(
            "Shows the hash of the history of keys, the newest revision that it covers, and the compacted revision.\n\n<filename> is a \
             snapshot, the database of an etcd (member/snap/db), or a data directory. Two members of a cluster with the same data have \
             the same hash, and `etcdctl endpoint hashkv` shows it for a member that runs.\n",
        )
        .flags(&[Flag::int("rev", "the revision up to which history is hashed (0: the newest)")])
        .runs(hashkv);

fn hashkv<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        const COMPACTED: &str = "mvcc: required revision has been compacted";
        const FUTURE: &str = "mvcc: required revision is a future revision";
        call.expect_args(1)?;
        let printer = printer(call)?;
        let source =
            Source::open(&path(call, 0), patience(call)).map_err(|error| Exit::Error.because(error))?;
        let hashed = source.hash_kv(call.values.int("rev")).map_err(|error| Exit::Error.because(error))?;
        match hashed {
            Ok(hash) => printer.hash_kv(&hash),
            Err(RevError::Future { .. }) => Err(Exit::Error.because(FUTURE)),
            Err(RevError::Compacted { .. }) => Err(Exit::Error.because(COMPACTED)),
        }
    }
    .boxed_local()
}
