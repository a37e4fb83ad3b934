//! The table of all commands.

use super::{
    command::Command,
    commands::{
        auth, check, completion, concurrency, endpoint, kv, lease, maintenance, member, mirror, txn, utility,
        watch,
    },
    settings::GLOBAL,
};

/// In the order of their names, in which they are shown.
pub(super) static ROOT: Command =
    Command::new("etcdctl", "", "A command line client for etcd and retcd.").inherited(GLOBAL).below(&[
        maintenance::ALARM_COMMAND,
        auth::AUTH,
        check::CHECK,
        maintenance::COMPACTION,
        completion::COMPLETION,
        endpoint::DEFRAG,
        kv::DEL,
        maintenance::DOWNGRADE_COMMAND,
        concurrency::ELECT,
        endpoint::ENDPOINT,
        kv::GET,
        utility::HELP,
        lease::LEASE,
        concurrency::LOCK,
        mirror::MAKE_MIRROR,
        member::MEMBER,
        maintenance::MOVE_LEADER_COMMAND,
        utility::OPTIONS,
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
    use crate::ctl::{command::Group, flags::Values};

    fn check(command: &'static Command, above: &[&'static str]) {
        let flags = command.flags.iter().chain(command.inherited);
        let names: Vec<&str> = flags.clone().map(|flag| flag.name).chain(above.iter().copied()).collect();
        let mut once = names.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), names.len(), "{}: a flag is there twice: {names:?}", command.name);
        // Fails if a default is none.
        Values::defaults(flags);
        assert!(command.below.is_sorted_by_key(|below| below.name), "{} is not in order", command.name);
        assert!(command.run.is_some() || !command.below.is_empty(), "{} does nothing", command.name);
        let inherited: Vec<&str> =
            command.inherited.iter().map(|flag| flag.name).chain(above.iter().copied()).collect();
        command.below.iter().for_each(|below| check(below, &inherited));
    }

    #[test]
    fn the_table_is_in_order() {
        check(&ROOT, &[]);
        assert!(ROOT.below.iter().all(|command| command.group != Group::None), "each has a heading");
    }
}
