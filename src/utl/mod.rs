//! `retcd utl`, which is etcdutl: what can be done with files while no server uses them.
//!
//! The interface is that of etcdutl 3.7: commands, flags, formats, what goes to stdout, and exit codes. Where etcdutl takes
//! the file of a database, a data directory may be named too: that of a member of retcd, whose log counts, or that of an
//! etcd, whose database is read as it is. Files of etcd are only read.
//!
//! [`source`] says what a path names; the commands are in `commands/`.

mod commands;
mod printer;
mod source;

use crate::cli::{COMPLETION, Command, Flag, Format, Group, HELP, Kind};

/// The table of all commands, in the order of their names.
pub(crate) static ROOT: Command =
    Command::new("etcdutl", "", "Works on the files of etcd and retcd while no server uses them.")
        .inherited(&[
            Flag::text("write-out", "the format of the output (fields, json, protobuf, simple, table)")
                .short('w')
                .or("simple")
                .one_of(Format::NAMES),
            Flag::new(Kind::Duration, "timeout", "how long to wait for a file that is in use (0: for ever)")
                .or("10s"),
        ])
        .below(&[
            COMPLETION.of(Group::None),
            commands::directory::DEFRAG,
            commands::history::HASHKV,
            HELP.of(Group::None),
            commands::directory::MIGRATE,
            commands::snapshot::SNAPSHOT,
            commands::version::VERSION,
        ]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        ROOT.verify();
    }
}
