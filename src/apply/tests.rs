//! What commands do, on tape; and that it does not matter when or where they are applied.

use std::sync::Arc;

use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    apply::{
        Applied, Captured, Command, Op, StateMachine, Txn, admission, arbitrary, codec, model::Model, tape,
    },
    auth::{AuthError, AuthStore},
    lease::Lease,
    mvcc::{HashWalk, Range, RangeResult, Step as WalkStep},
    storage::{Database, Table},
    types::{KeyRange, KeyValue, LeaseId, MemberId},
};

/// A state machine with its own database, and the log's place in it.
struct Replica {
    directory: TempDir,
    database: Arc<Database>,
    state: StateMachine,
    /// Captured and not yet committed.
    captured: Option<Captured>,
    /// How many commands of the log are applied.
    applied: usize,
}

const APPLIED: &[u8] = b"applied";

impl Replica {
    fn new() -> Replica {
        let directory = tempfile::tempdir().expect("a directory");
        let (database, state) = open(&directory);
        Replica { directory, database, state, captured: None, applied: 0 }
    }

    fn apply(&mut self, command: &Command) -> Applied {
        self.applied += 1;
        self.state.apply(command, true).expect("the disk is well")
    }

    fn capture(&mut self) {
        if self.captured.is_none() {
            let applied = Bytes::copy_from_slice(&self.applied.to_be_bytes());
            self.captured = Some(self.state.capture(vec![(Bytes::from_static(APPLIED), applied)]));
        }
    }

    fn commit(&mut self) {
        if let Some(Captured { checkpoint, rev, .. }) = self.captured.take() {
            let removed_bytes = self.database.commit(&checkpoint).expect("the disk is well");
            self.state.checkpointed(rev, removed_bytes).expect("the disk is well");
        }
    }

    /// What was not committed is gone.
    fn crash(self) -> Replica {
        let Replica { directory, database, state, .. } = self;
        drop((state, database));
        let (database, state) = open(&directory);
        let reader = database.reader().expect("the disk is well");
        let applied = reader.cell(Table::Meta, APPLIED).expect("the disk is well");
        let applied = applied
            .map_or(0, |cell| usize::from_be_bytes(cell.as_ref().try_into().expect("as it was written")));
        Replica { directory, database, state, captured: None, applied }
    }

    fn keys(&self) -> Vec<KeyValue> {
        let range = Range::of(KeyRange::all());
        let (_, RangeResult { kvs, .. }) =
            self.state.mvcc.range(&range).expect("the disk is well").expect("the newest is readable");
        kvs
    }

    fn leases(&self) -> Vec<(LeaseId, Lease)> {
        self.state.lessor.leases().map(|(id, lease)| (id, lease.clone())).collect()
    }

    /// Everything on which replicas have to agree.
    fn dump(&mut self) -> String {
        let mut walk = HashWalk::new(0);
        while walk.step(&self.state.mvcc).expect("the newest is readable") == WalkStep::More {}
        let hash = walk.finish().expect("the disk is well");
        self.commit();
        self.capture();
        self.commit();
        let reader = self.database.reader().expect("the disk is well");
        let tables = [
            Table::Lease,
            Table::Alarm,
            Table::Member,
            Table::MemberRemoved,
            Table::AuthUser,
            Table::AuthRole,
        ];
        let cells = tables.map(|table| {
            let cells = reader.cells(table).expect("the disk is well");
            cells.collect::<Result<Vec<_>, _>>().expect("the disk is well")
        });
        let alarms: Vec<_> = self.state.alarms.active().collect();
        let members: Vec<_> = self.state.members.iter().collect();
        let (keys, leases) = (self.keys(), self.leases());
        let auth = &self.state.auth;
        format!("{hash:#?}\n{keys:#?}\n{leases:#?}\n{alarms:#?}\n{members:#?}\n{auth:#?}\n{cells:#?}")
    }
}

fn open(directory: &TempDir) -> (Arc<Database>, StateMachine) {
    let database = Database::open(&directory.path().join("db"), 1 << 20).expect("the disk is well");
    let database = Arc::new(database);
    let state = StateMachine::open(Arc::clone(&database)).expect("the disk is well");
    (database, state)
}

/// Says what each command does, with nobody watching for previous pairs.
fn check(script: &str, expected: Expect) {
    let mut replica = Replica::new();
    let mut out = String::new();
    for (words, command) in tape::parse(script) {
        let applied = replica.state.apply(&command, false).expect("the disk is well");
        out += &format!("{words}\n  {}\n", tape::print(&applied));
    }
    expected.assert_eq(&out);
}

#[test]
fn puts_and_deletes() {
    check(
        "put a 1; put a 2 prev; put b 1 prev; del a..z prev; del a..z; put a 3",
        expect![[r#"
        put a 1
          2: put
            + a=1 (2 2 1)
        put a 2 prev
          3: put over a=1 (2 2 1)
            + a=2 (2 3 2) over a=1 (2 2 1)
        put b 1 prev
          4: put
            + b=1 (4 4 1)
        del a..z prev
          5: deleted 2 over a=2 (2 3 2), b=1 (4 4 1)
            - a= (0 5 0) over a=2 (2 3 2)
            - b= (0 5 0) over b=1 (4 4 1)
        del a..z
          5: deleted 0
        put a 3
          6: put
            + a=3 (6 6 1)
    "#]],
    );
}

#[test]
fn a_put_keeps_what_it_is_told_to_keep() {
    check(
        "put a _; put a 1 lease _; put a 1 lease 7; grant 7 60; put a 1 lease 7; put a _;
         put a 2 lease 7; put a 3 lease _ prev; put a _ lease _; put b _ lease 8",
        expect![[r#"
            put a _
              1: refused: key not found
            put a 1 lease _
              1: refused: key not found
            put a 1 lease 7
              1: refused: requested lease not found
            grant 7 60
              1: granted 7 for 60 s
            put a 1 lease 7
              2: put
                + a=1 (2 2 1) lease 7
            put a _
              3: put
                + a=1 (2 3 2)
            put a 2 lease 7
              4: put
                + a=2 (2 4 3) lease 7
            put a 3 lease _ prev
              5: put over a=2 (2 4 3) lease 7
                + a=3 (2 5 4) lease 7 over a=2 (2 4 3) lease 7
            put a _ lease _
              6: put
                + a=3 (2 6 5) lease 7
            put b _ lease 8
              6: refused: requested lease not found
        "#]],
    );
}

#[test]
fn a_revoked_lease_takes_its_keys_along_in_one_revision() {
    check(
        "grant 7 60; put b 1 lease 7; put a 1 lease 7; put c 1 lease 7; put c 2; put d 1;
         revoke 7; revoke 7; grant 7 60; revoke 7",
        expect![[r#"
            grant 7 60
              1: granted 7 for 60 s
            put b 1 lease 7
              2: put
                + b=1 (2 2 1) lease 7
            put a 1 lease 7
              3: put
                + a=1 (3 3 1) lease 7
            put c 1 lease 7
              4: put
                + c=1 (4 4 1) lease 7
            put c 2
              5: put
                + c=2 (4 5 2)
            put d 1
              6: put
                + d=1 (6 6 1)
            revoke 7
              7: revoked
                - a= (0 7 0)
                - b= (0 7 0)
            revoke 7
              7: refused: requested lease not found
            grant 7 60
              7: granted 7 for 60 s
            revoke 7
              7: revoked
        "#]],
    );
}

#[test]
fn leases_that_are_refused() {
    check(
        "grant 7 60; grant 7 60; grant 0 60; grant 8 9000000001; grant -8 9000000000; left 9 5",
        expect![[r#"
            grant 7 60
              1: granted 7 for 60 s
            grant 7 60
              1: refused: lease already exists
            grant 0 60
              1: refused: requested lease not found
            grant 8 9000000001
              1: refused: too large lease TTL
            grant -8 9000000000
              1: granted fffffffffffffff8 for 9000000000 s
            left 9 5
              1: noted
        "#]],
    );
}

#[test]
fn compaction() {
    check(
        "compact 2; compact 0; compact 0; put a 1; compact 2; compact 2; compact -1; put a 2",
        expect![[r#"
            compact 2
              1: refused: required revision is a future revision (asked 2, current 1)
            compact 0
              1: compacted
            compact 0
              1: refused: required revision has been compacted (asked 0, compacted 0)
            put a 1
              2: put
                + a=1 (2 2 1)
            compact 2
              2: compacted
            compact 2
              2: refused: required revision has been compacted (asked 2, compacted 2)
            compact -1
              2: refused: required revision has been compacted (asked -1, compacted 2)
            put a 2
              3: put
                + a=2 (2 3 2)
        "#]],
    );
}

#[test]
fn a_transaction_takes_a_branch() {
    check(
        "txn if version a = 0 { put a 1; put b 1 } else { get a };
         txn if version a = 0 { put a 1; put b 1 } else { get a };
         txn { }; txn if version a > 5 { put a 1 }; txn { del z }",
        expect![[r#"
            txn if version a = 0 { put a 1 ; put b 1 } else { get a }
              2: then { 2: put; 2: put }
                + a=1 (2 2 1)
                + b=1 (2 2 1)
            txn if version a = 0 { put a 1 ; put b 1 } else { get a }
              2: else { 2: 1 of 1 [a=1 (2 2 1)] }
            txn { }
              2: then { }
            txn if version a > 5 { put a 1 }
              2: else { }
            txn { del z }
              2: then { 2: deleted 0 }
        "#]],
    );
}

#[test]
fn steps_see_what_came_before_them() {
    check(
        "put a 1; put c 1;
         txn { get a..; put b 2; get a..; put b 3 prev; put c 5; put c _ prev; del a..c prev; get a..; get a.. at 2 }",
        expect![[r#"
            put a 1
              2: put
                + a=1 (2 2 1)
            put c 1
              3: put
                + c=1 (3 3 1)
            txn { get a.. ; put b 2 ; get a.. ; put b 3 prev ; put c 5 ; put c _ prev ; del a..c prev ; get a.. ; get a.. at 2 }
              4: then { 3: 2 of 2 [a=1 (2 2 1), c=1 (3 3 1)]; 4: put; 4: 3 of 3 [a=1 (2 2 1), b=2 (4 4 1), c=1 (3 3 1)]; 4: put over b=2 (4 4 1); 4: put; 4: put over c=5 (3 4 2); 4: deleted 2 over a=1 (2 2 1), b=3 (4 4 2); 4: 1 of 1 [c=5 (3 4 3)]; 4: 1 of 1 [a=1 (2 2 1)] }
                + b=2 (4 4 1)
                + b=3 (4 4 2) over b=2 (4 4 1)
                + c=5 (3 4 2)
                + c=5 (3 4 3) over c=5 (3 4 2)
                - a= (0 4 0) over a=1 (2 2 1)
                - b= (0 4 0) over b=3 (4 4 2)
        "#]],
    );
}

#[test]
fn every_comparison_is_with_the_state_before() {
    check(
        "put a 1;
         txn { put a 2; txn if value a = 2 { put b then } else { put b else };
               txn if value a = 1 { txn if mod b = 0 { put c 1 } } }",
        expect![[r#"
            put a 1
              2: put
                + a=1 (2 2 1)
            txn { put a 2 ; txn if value a = 2 { put b then } else { put b else } ; txn if value a = 1 { txn if mod b = 0 { put c 1 } } }
              3: then { 3: put; else { 3: put }; then { then { 3: put } } }
                + a=2 (2 3 2)
                + b=else (3 3 1)
                + c=1 (3 3 1)
        "#]],
    );
}

#[test]
fn a_missing_key_is_zero_and_has_no_value() {
    check(
        "txn if version a = 0 { }; txn if create a < 1 { }; txn if mod a != 0 { }; txn if lease a = 0 { };
         txn if value a = x { }; txn if value a != x { }; txn if value a < x { }; txn if value a ? x { };
         txn if version a ? 7 { };
         txn if version b..d = 0 { }; txn if value b..d != x { }",
        expect![[r#"
            txn if version a = 0 { }
              1: then { }
            txn if create a < 1 { }
              1: then { }
            txn if mod a != 0 { }
              1: else { }
            txn if lease a = 0 { }
              1: then { }
            txn if value a = x { }
              1: else { }
            txn if value a != x { }
              1: else { }
            txn if value a < x { }
              1: else { }
            txn if value a ? x { }
              1: else { }
            txn if version a ? 7 { }
              1: then { }
            txn if version b..d = 0 { }
              1: then { }
            txn if value b..d != x { }
              1: else { }
        "#]],
    );
}

#[test]
fn a_comparison_of_a_range_is_for_all_of_it() {
    check(
        "put a 1; put b 1; put b 2; grant 7 60; put c 2 lease 7;
         txn if version a..c > 0 { }; txn if version a..c = 1 { }; txn if version c..a = 0 { };
         txn if value b.. = 2 { }; txn if value a.. = 2 { }; txn if lease c.. = 7 { }; txn if lease b.. = 7 { };
         txn if mod a..c < 5 { }; txn if mod a.. < 5 { }; txn if create b..c = 3 { }",
        expect![[r#"
            put a 1
              2: put
                + a=1 (2 2 1)
            put b 1
              3: put
                + b=1 (3 3 1)
            put b 2
              4: put
                + b=2 (3 4 2)
            grant 7 60
              4: granted 7 for 60 s
            put c 2 lease 7
              5: put
                + c=2 (5 5 1) lease 7
            txn if version a..c > 0 { }
              5: then { }
            txn if version a..c = 1 { }
              5: else { }
            txn if version c..a = 0 { }
              5: then { }
            txn if value b.. = 2 { }
              5: then { }
            txn if value a.. = 2 { }
              5: else { }
            txn if lease c.. = 7 { }
              5: then { }
            txn if lease b.. = 7 { }
              5: else { }
            txn if mod a..c < 5 { }
              5: then { }
            txn if mod a.. < 5 { }
              5: else { }
            txn if create b..c = 3 { }
              5: then { }
        "#]],
    );
}

/// etcd 18667, 18799: a transaction was found to be impossible when half of it was written.
#[test]
fn a_refused_transaction_leaves_no_trace() {
    check(
        "put a 1; put a 2; compact 3;
         txn { put b 1; get a at 9 }; txn { put b 1; get a at 2 }; txn { put b 1; get a at -1 };
         txn { put b 1; put b 2 lease 7 }; txn { put b 1; put b _ }; txn { put b 1; txn { put c _ } };
         txn { put b 1; get a at 3 } else { put c _ }; txn { get b.. }",
        expect![[r#"
            put a 1
              2: put
                + a=1 (2 2 1)
            put a 2
              3: put
                + a=2 (2 3 2)
            compact 3
              3: compacted
            txn { put b 1 ; get a at 9 }
              3: refused: required revision is a future revision (asked 9, current 3)
            txn { put b 1 ; get a at 2 }
              3: refused: required revision has been compacted (asked 2, compacted 3)
            txn { put b 1 ; get a at -1 }
              3: refused: required revision has been compacted (asked -1, compacted 3)
            txn { put b 1 ; put b 2 lease 7 }
              3: refused: requested lease not found
            txn { put b 1 ; put b _ }
              3: refused: key not found
            txn { put b 1 ; txn { put c _ } }
              3: refused: key not found
            txn { put b 1 ; get a at 3 } else { put c _ }
              4: then { 4: put; 4: 1 of 1 [a=2 (2 3 2)] }
                + b=1 (4 4 1)
            txn { get b.. }
              4: then { 4: 1 of 1 [b=1 (4 4 1)] }
        "#]],
    );
}

/// The rule against writing a key twice does not know that `a..` has no end. The put finds
/// nothing to keep then.
#[test]
fn a_put_may_find_that_its_own_transaction_deleted_the_key() {
    check(
        "grant 7 60; put b 1 lease 7; txn { del a.. prev; put b _ lease _ }; revoke 7",
        expect![[r#"
        grant 7 60
          1: granted 7 for 60 s
        put b 1 lease 7
          2: put
            + b=1 (2 2 1) lease 7
        txn { del a.. prev ; put b _ lease _ }
          3: then { 3: deleted 1 over b=1 (2 2 1) lease 7; 3: put }
            - b= (0 3 0) over b=1 (2 2 1) lease 7
            + b= (3 3 1)
        revoke 7
          3: revoked
    "#]],
    );
}

#[test]
fn alarms_come_and_go() {
    check(
        "alarm nospace 1; alarm nospace 1; disarm nospace 2; disarm corrupt 1; disarm nospace 1; disarm nospace 1",
        expect![[r#"
            alarm nospace 1
              1: alarms [NoSpace of 1]
            alarm nospace 1
              1: alarms [NoSpace of 1]
            disarm nospace 2
              1: alarms []
            disarm corrupt 1
              1: alarms []
            disarm nospace 1
              1: alarms [NoSpace of 1]
            disarm nospace 1
              1: alarms []
        "#]],
    );
}

#[test]
fn without_space_nothing_grows() {
    check(
        "put a 1; grant 7 60; alarm nospace 1;
         put a 2; grant 8 60; txn { } else { txn { put b 1 } }; txn { get a }; txn { del a };
         del b; compact 2; left 7 5; revoke 7; publish 1 one; disarm nospace 1; put a 3",
        expect![[r#"
            put a 1
              2: put
                + a=1 (2 2 1)
            grant 7 60
              2: granted 7 for 60 s
            alarm nospace 1
              2: alarms [NoSpace of 1]
            put a 2
              2: refused: database space exceeded
            grant 8 60
              2: refused: database space exceeded
            txn { } else { txn { put b 1 } }
              2: refused: database space exceeded
            txn { get a }
              2: then { 2: 1 of 1 [a=1 (2 2 1)] }
            txn { del a }
              3: then { 3: deleted 1 }
                - a= (0 3 0)
            del b
              3: deleted 0
            compact 2
              3: compacted
            left 7 5
              3: noted
            revoke 7
              3: revoked
            publish 1 one
              3: published
            disarm nospace 1
              3: alarms [NoSpace of 1]
            put a 3
              4: put
                + a=3 (4 4 1)
        "#]],
    );
}

#[test]
fn corrupt_means_hands_off() {
    check(
        "put a 1; grant 7 60; alarm nospace 2; alarm corrupt 1;
         put a 2; del a; grant 8 60; revoke 7; compact 2; txn { del a }; txn { txn { get a } }; txn { get a };
         publish 1 one; disarm corrupt 1; del a",
        expect![[r#"
            put a 1
              2: put
                + a=1 (2 2 1)
            grant 7 60
              2: granted 7 for 60 s
            alarm nospace 2
              2: alarms [NoSpace of 2]
            alarm corrupt 1
              2: alarms [Corrupt of 1]
            put a 2
              2: refused: corrupt cluster
            del a
              2: refused: corrupt cluster
            grant 8 60
              2: refused: corrupt cluster
            revoke 7
              2: refused: corrupt cluster
            compact 2
              2: refused: corrupt cluster
            txn { del a }
              2: refused: corrupt cluster
            txn { txn { get a } }
              2: refused: corrupt cluster
            txn { get a }
              2: then { 2: 1 of 1 [a=1 (2 2 1)] }
            publish 1 one
              2: published
            disarm corrupt 1
              2: alarms [Corrupt of 1]
            del a
              3: deleted 1
                - a= (0 3 0)
        "#]],
    );
}

#[test]
fn members() {
    let mut replica = Replica::new();
    let published = |name: &str| Command::MemberPublish {
        id: MemberId(1),
        name: name.to_owned(),
        client_urls: vec!["http://c".to_owned()],
    };
    replica.state.admit_member(MemberId(1), vec!["http://p".to_owned()], true);
    replica.apply(&published("one"));
    replica.state.admit_member(MemberId(1), vec!["http://q".to_owned()], false);
    replica.state.admit_member(MemberId(2), Vec::new(), false);
    replica.state.remove_member(MemberId(2));
    replica.capture();
    replica.commit();
    let mut replica = replica.crash();
    let dump = |replica: &Replica| {
        let members = &replica.state.members;
        let list: Vec<_> = members.iter().collect();
        format!(
            "{list:?}, 1 removed: {}, 2 removed: {}",
            members.is_removed(MemberId(1)),
            members.is_removed(MemberId(2))
        )
    };
    expect![[r#"[(MemberId(1), Member { name: "one", peer_urls: ["http://q"], client_urls: ["http://c"], is_learner: false })], 1 removed: false, 2 removed: true"#]].assert_eq(&dump(&replica));
    replica.state.remove_member(MemberId(1));
    replica.apply(&published("late"));
    expect!["[], 1 removed: true, 2 removed: true"].assert_eq(&dump(&replica));
}

#[test]
fn users_and_roles() {
    check(
        "user add ann h; user add ann h; user grant ann reader; role add reader; role add reader;
         user grant ann reader; user grant bob reader; user grant ann root; role permit reader read a..c;
         role permit reader write a..c; role permit reader read c..a; role permit writer read a..c;
         role forbid reader a; role forbid reader a..c; role del reader; role del reader;
         user revoke ann reader; user revoke ann root; user password bob h; user del ann; user del ann",
        expect![[r#"
            user add ann h
              1: done
            user add ann h
              1: refused: user name already exists
            user grant ann reader
              1: refused: role name not found
            role add reader
              1: done
            role add reader
              1: refused: role name already exists
            user grant ann reader
              1: done
            user grant bob reader
              1: refused: user name not found
            user grant ann root
              1: done
            role permit reader read a..c
              1: done
            role permit reader write a..c
              1: done
            role permit reader read c..a
              1: refused: invalid auth management
            role permit writer read a..c
              1: refused: role name not found
            role forbid reader a
              1: refused: permission is not granted to the role
            role forbid reader a..c
              1: done
            role del reader
              1: done
            role del reader
              1: refused: role name not found
            user revoke ann reader
              1: refused: role is not granted to the user
            user revoke ann root
              1: done
            user password bob h
              1: refused: user name not found
            user del ann
              1: done
            user del ann
              1: refused: user name not found
        "#]],
    );
}

#[test]
fn no_alarm_stands_against_users_and_roles() {
    check(
        "alarm nospace 1; alarm corrupt 1; user add ann h; role add r; user grant ann r",
        expect![[r#"
        alarm nospace 1
          1: alarms [NoSpace of 1]
        alarm corrupt 1
          1: alarms [Corrupt of 1]
        user add ann h
          1: done
        role add r
          1: done
        user grant ann r
          1: done
    "#]],
    );
}

/// In the order of names and of keys, and after a restart.
#[test]
fn users_and_roles_are_kept() {
    let mut replica = Replica::new();
    let script = "role add b; role add a; user add eve _; user add ann h; user password eve h;
        user grant ann b; user grant ann a; role permit a write b; role permit a read a..;
        role permit a readwrite a..b; role permit a readwrite a.. ; user del nobody; role add c; role del c";
    for (_, command) in tape::parse(script) {
        replica.apply(&command);
    }
    replica.capture();
    replica.commit();
    let before = replica.state.auth.clone();
    let mut replica = replica.crash();
    assert_eq!(replica.state.auth, before);
    expect![[r#"
        14
        ann: "h" false ["a", "b"]
        eve: "" true []
        a: [(2, b"a", b"\0"), (2, b"a", b"b"), (1, b"b", b"")]
        b: []
        None
    "#]]
    .assert_eq(&dump_auth(&replica.state.auth));
    for (_, command) in tape::parse("user del eve; role del a") {
        replica.apply(&command);
    }
    replica.capture();
    replica.commit();
    let before = replica.state.auth.clone();
    assert_eq!(replica.crash().state.auth, before);
    assert_eq!((before.users().count(), before.roles().count(), before.rev()), (1, 1, 16));
}

/// As [`super::model::Auth::dump`].
fn dump_auth(auth: &AuthStore) -> String {
    let mut out = format!("{}\n", auth.rev());
    for (name, user) in auth.users() {
        let roles: Vec<&String> = user.roles.iter().collect();
        out += &format!("{name}: {:?} {} {roles:?}\n", user.password_hash, user.no_password);
    }
    for name in auth.roles() {
        let permissions = auth.permissions(name).expect("it is in the list");
        let permissions: Vec<(i32, Bytes, Bytes)> = permissions
            .iter()
            .map(|permission| {
                let (key, range_end) = permission.range.to_wire();
                (permission.kind.number(), key, range_end)
            })
            .collect();
        out += &format!("{name}: {permissions:?}\n");
    }
    let holds_root = match auth.check_root() {
        Ok(()) => Some(true),
        Err(AuthError::RootRoleNotExist) => Some(false),
        Err(_) => None,
    };
    out + &format!("{holds_root:?}\n")
}

#[test]
fn events_say_what_was_before_only_if_somebody_watches_for_it() {
    let mut replica = Replica::new();
    let [(_, put), (_, txn)] = &tape::parse("put a 1; txn { put a 2; del a.. }")[..] else { panic!("two") };
    for want_prev_events in [false, true] {
        replica.state.apply(put, want_prev_events).expect("the disk is well");
        let applied = replica.state.apply(txn, want_prev_events).expect("the disk is well");
        assert!(applied.events.iter().all(|event| event.prev_kv.is_some() == want_prev_events));
        assert_eq!(applied.events.len(), 2);
    }
}

#[test]
fn what_a_command_costs() {
    let cost = |script: &str| admission::quota_cost(&tape::parse(script)[0].1);
    assert_eq!(cost("put abc defg"), 256 + 7);
    assert_eq!(cost("put abc _"), 256 + 3);
    assert_eq!(cost("grant 7 60"), 64);
    assert_eq!(
        cost("txn { put a 1; get b; txn { put b 22 } else { put c 333 } } else { put d 4444 }"),
        258 + 260
    );
    assert_eq!(cost("txn { } else { put d 4444 }"), 261);
    assert_eq!(cost("del a.."), 0);
}

#[test]
fn what_need_not_go_through_the_log() {
    let is_read_only = |script: &str| {
        let (_, Command::Txn(txn)) = &tape::parse(script)[0] else { panic!("a transaction: {script}") };
        admission::is_read_only(txn)
    };
    assert!(is_read_only("txn { }") && is_read_only("txn if version a = 1 { get a } else { get b.. at 1 }"));
    assert!(!is_read_only("txn { get a } else { del a }"));
    assert!(!is_read_only("txn { txn { get a } }"));
}

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

    /// Replicas that applied the same log are the same, whatever became of them on the way.
    #[test]
    fn replicas_agree(log in prop::collection::vec((arbitrary::command(), then()), 1..60)) {
        let commands: Vec<Command> = log.iter().map(|(command, _)| command.clone()).collect();
        let mut quiet = Replica::new();
        let expected: Vec<Applied> = commands.iter().map(|command| quiet.apply(command)).collect();

        let mut bytes = Vec::new();
        codec::encode(&commands, &mut bytes);
        let commands = codec::decode(bytes.into()).expect("it was just encoded");
        let mut shaken = Replica::new();
        for (at, (_, then)) in log.iter().enumerate() {
            // After a crash the log is read again from where the database is.
            for replayed in shaken.applied..=at {
                let applied = shaken.apply(&commands[replayed]);
                prop_assert_eq!(&applied, &expected[replayed], "command {}: {:?}", replayed, &commands[replayed]);
            }
            match then {
                Then::GoOn => {}
                Then::Capture => shaken.capture(),
                Then::Commit => shaken.commit(),
                Then::Compact => { shaken.state.mvcc.compaction_stride(2); }
                Then::Crash => shaken = shaken.crash(),
            }
        }
        let mut shaken = shaken.crash();
        for command in &commands[shaken.applied..] {
            shaken.apply(command);
        }
        prop_assert_eq!(shaken.dump(), quiet.dump());
    }

    /// And it is what the rules say.
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

    /// A read-only transaction answers as it would from the log.
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
        let read = admission::run_read_only(&replica.state, &txn).expect("the disk is well");
        let applied = replica.apply(&Command::Txn(txn));
        prop_assert_eq!(&read, &applied.outcome);
        prop_assert!(applied.events.is_empty());
    }
}

/// Leaves out of the ranges what the model does not know.
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
