//! Replicas agree with one another and with the model.

use proptest::prelude::*;

use super::{replica::Replica, users::dump_auth};
use crate::{
    apply::{Applied, Command, Op, Request, Txn, arbitrary, codec, model::Model},
    mvcc::Range,
    types::KeyValue,
};

#[derive(Clone, Copy, Debug)]
enum Then {
    GoOn,
    Capture,
    Commit,
    Compact,
    Crash,
}

fn then() -> impl Strategy<Value = Then> {
    prop_oneof![
        8 => Just(Then::GoOn),
        3 => Just(Then::Capture),
        3 => Just(Then::Commit),
        1 => Just(Then::Compact),
        1 => Just(Then::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Replicas that applied the same log are equal, also with checkpoints, compactions and crashes.
    #[test]
    fn replicas_agree(log in prop::collection::vec((arbitrary::guarded_request(), then()), 1..60)) {
        let requests: Vec<Request> = log.iter().map(|(request, _)| request.clone()).collect();
        let mut quiet = Replica::new();
        let expected: Vec<Applied> = requests.iter().map(|request| quiet.apply_request(request)).collect();

        let mut bytes = Vec::new();
        codec::encode(&requests, &mut bytes);
        let requests = codec::decode(bytes.into()).expect("it was just encoded");
        let mut shaken = Replica::new();
        for (at, (_, then)) in log.iter().enumerate() {
            // After a crash the log is applied again from the last checkpoint on.
            for replayed in shaken.applied..=at {
                let applied = shaken.apply_request(&requests[replayed]);
                prop_assert_eq!(&applied, &expected[replayed], "request {}: {:?}", replayed, &requests[replayed]);
            }
            match then {
                Then::GoOn => {}
                Then::Capture => shaken.capture(),
                Then::Commit => shaken.commit(),
                Then::Compact => shaken.compaction_step(),
                Then::Crash => shaken = shaken.crash(),
            }
        }
        let mut shaken = shaken.crash();
        for request in &requests[shaken.applied..] {
            shaken.apply_request(request);
        }
        prop_assert_eq!(shaken.dump(), quiet.dump());
    }

    /// A replica answers as the model does.
    #[test]
    fn as_the_model_says(commands in arbitrary::commands(60)) {
        let mut replica = Replica::new();
        let mut model = Model::new();
        for mut command in commands {
            if let Command::Txn(txn) = &mut command {
                simplify(txn);
            }
            prop_assert_eq!(replica.apply(&command), model.apply(&command), "{:?}", &command);
        }
        let keys: Vec<KeyValue> = model.map().values().cloned().collect();
        for (id, lease) in replica.leases() {
            let attached = keys.iter().filter(|kv| kv.lease == id).map(|kv| kv.key.clone());
            prop_assert_eq!(lease.keys, attached.collect());
        }
        prop_assert_eq!(replica.keys(), keys);
    }

    /// What is read for an answer is what the operations saw, however late it is read and whatever became of
    /// the keys meanwhile. Half a command is never seen.
    #[test]
    fn answers_are_read_later_and_are_the_same(
        log in prop::collection::vec((arbitrary::command(), then(), 0usize..12), 1..50)
    ) {
        let mut replica = Replica::new();
        let mut model = Model::new();
        let mut late: Vec<(usize, Command, Applied, Applied)> = Vec::new();
        for (at, (mut command, then, delay)) in log.into_iter().enumerate() {
            if let Command::Txn(txn) = &mut command {
                simplify(txn);
            }
            let applied = replica.run_unread(&command, true, 1);
            let expected = model.apply(&command);
            late.push((at + delay, command, applied, expected));
            match then {
                // A crash would drop the answers.
                Then::GoOn | Then::Crash => {}
                Then::Capture => replica.capture(),
                Then::Commit => replica.commit(),
                Then::Compact => (0..9).for_each(|_| replica.compaction_step()),
            }
            for (_, command, mut applied, expected) in late.extract_if(.., |(due, ..)| *due <= at) {
                replica.fill(applied.outcome.missing(&command));
                prop_assert_eq!(applied, expected, "{:?}", &command);
            }
        }
        for (_, command, mut applied, expected) in late {
            replica.fill(applied.outcome.missing(&command));
            prop_assert_eq!(applied, expected, "{:?}", &command);
        }
        let keys: Vec<KeyValue> = model.map().values().cloned().collect();
        prop_assert_eq!(replica.keys(), keys);
    }

    #[test]
    fn users_and_roles_are_as_the_model_says(
        commands in prop::collection::vec(arbitrary::auth_command(), 1..80)
    ) {
        let mut replica = Replica::new();
        let mut model = Model::new();
        for command in commands.into_iter().map(Command::Auth) {
            prop_assert_eq!(replica.apply(&command), model.apply(&command), "{:?}", &command);
            prop_assert_eq!(dump_auth(&replica.state.auth), model.auth().dump());
        }
    }

    /// A read-only transaction has the same outcome without the log as through the log.
    #[test]
    fn reading_only_is_the_same_without_the_log(
        commands in arbitrary::commands(30),
        compares in prop::collection::vec(arbitrary::compare(), 0..3),
        ranges in prop::collection::vec(arbitrary::range(), 1..4),
    ) {
        let mut replica = Replica::new();
        commands.iter().for_each(|command| { replica.apply(command); });
        let ops: Vec<Op> = ranges.into_iter().map(Op::Range).collect();
        let txn = Txn { compares, success: ops.clone(), failure: ops };
        let read = replica.read_txn(&txn, 1);
        let applied = replica.apply(&Command::Txn(txn));
        prop_assert_eq!(&read, &applied.outcome);
        prop_assert!(applied.events.is_empty());
    }
}

/// Removes what the model does not implement from the ranges.
fn simplify(txn: &mut Txn) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match op {
            Op::Range(range) => {
                let Range { range: keys, rev, limit, keys_only, count_only, .. } = range.clone();
                *range = Range { rev, limit, keys_only, count_only, ..Range::of(keys) };
            }
            Op::Txn(inner) => simplify(inner),
            Op::Put(_) | Op::DeleteRange(_) => {}
        }
    }
}
