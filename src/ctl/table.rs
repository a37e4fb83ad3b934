//! The table of all commands.

use super::{
    commands::{
        auth, check, concurrency, endpoint, kv, lease, maintenance, member, mirror, txn, utility, watch,
    },
    settings::GLOBAL,
};
use crate::cli::{COMPLETION, Command, HELP, OPTIONS};

/// In the order of their names, in which they are shown.
pub(crate) static ROOT: Command =
    Command::new("etcdctl", "", "A command line client for etcd and retcd.").inherited(GLOBAL).below(&[
        maintenance::ALARM_COMMAND,
        auth::AUTH,
        check::CHECK,
        maintenance::COMPACTION,
        COMPLETION,
        endpoint::DEFRAG,
        kv::DEL,
        maintenance::DOWNGRADE_COMMAND,
        concurrency::ELECT,
        endpoint::ENDPOINT,
        kv::GET,
        HELP,
        lease::LEASE,
        concurrency::LOCK,
        mirror::MAKE_MIRROR,
        member::MEMBER,
        maintenance::MOVE_LEADER_COMMAND,
        OPTIONS,
        kv::PUT_COMMAND,
        auth::ROLE,
        maintenance::SNAPSHOT_COMMAND,
        txn::TXN_COMMAND,
        auth::USER,
        utility::VERSION,
        watch::WATCH_COMMAND,
    ]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Found, Group};

    #[test]
    fn the_table_is_in_order() {
        ROOT.verify();
        assert!(ROOT.below.iter().all(|command| command.group != Group::None), "each has a heading");
    }

    fn found(line: &str) -> (String, Vec<String>) {
        let args: Vec<Vec<u8>> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let found = Found::in_line(&ROOT, &args);
        let rest = found.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        (found.typed("etcdctl"), rest)
    }

    #[test]
    fn commands_are_found_behind_flags_and_by_their_beginnings() {
        for (line, typed, rest) in [
            ("", "etcdctl", ""),
            ("get a", "etcdctl get", "a"),
            ("ge a", "etcdctl get", "a"),
            ("--endpoints x get a b", "etcdctl get", "--endpoints x a b"),
            ("--endpoints=x -w json get a", "etcdctl get", "--endpoints=x -w json a"),
            ("--hex get a", "etcdctl get", "--hex a"),
            ("--unknown get a", "etcdctl", "--unknown get a"),
            ("-- get a", "etcdctl", "-- get a"),
            ("get get", "etcdctl get", "get"),
            ("l", "etcdctl", "l"),
        ] {
            let rest: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            assert_eq!(found(line), (typed.to_owned(), rest), "{line}");
        }
    }
}
