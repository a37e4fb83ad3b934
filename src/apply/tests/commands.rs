//! Writes, leases, compactions, members, and the events that they cause.

use expect_test::expect;

use super::replica::{Replica, check};
use crate::{
    apply::{Command, admission, tape},
    mvcc::Size,
    types::MemberId,
};

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
                + a=2 (2 3 2)
            put b 1 prev
              4: put
                + b=1 (4 4 1)
            del a..z prev
              5: deleted 2 over a=2 (2 3 2), b=1 (4 4 1)
                - a= (0 5 0)
                - b= (0 5 0)
            del a..z
              5: deleted 0
            put a 3
              6: put
                + a=3 (6 6 1)
        "#]],
    );
}

/// Between two strides, because nobody should wait for the state while a disk is read. [`Replica`] checks that
/// nothing is read within a stride.
#[test]
fn a_value_that_is_kept_and_not_in_memory_is_read_between_two_strides() {
    let script = "put a 1; put b 2; put c 3";
    let mut replica = Replica::new();
    for (_, command) in tape::parse(script) {
        replica.apply(&command);
    }
    replica.capture();
    replica.commit();
    let mut replica = replica.crash();
    let mut out = String::new();
    for (words, command) in tape::parse("put a _ prev; txn { del b ; put c _ ; put a _ }; put b _; put a _") {
        let applied = replica.run(&command, false);
        out += &format!("{words}\n  {}\n", tape::print(&applied));
    }
    expect![[r#"
        put a _ prev
          5: put over a=1 (2 2 1)
            + a=1 (2 5 2)
        txn { del b ; put c _ ; put a _ }
          6: then { 6: deleted 1; 6: put; 6: put }
            - b= (0 6 0)
            + c=3 (4 6 2)
            + a=1 (2 6 3)
        put b _
          6: refused: key not found
        put a _
          7: put
            + a=1 (2 7 4)
    "#]]
    .assert_eq(&out);
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
                + a=3 (2 5 4) lease 7
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
fn events_say_what_was_before_only_if_somebody_watches_for_it() {
    let mut replica = Replica::new();
    let [(_, put), (_, txn)] = &tape::parse("put a 1; txn { put a 2; del a.. }")[..] else { panic!("two") };
    for want_prev_events in [false, true] {
        replica.run(put, want_prev_events);
        let applied = replica.run(txn, want_prev_events);
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

/// Leases, users and roles are counted when they are added, changed and removed, and a restart counts
/// the same.
#[test]
fn what_clients_store_beside_keys_counts_towards_the_size() {
    let mut replica = Replica::new();
    let in_use = |replica: &Replica| replica.state.mvcc.size().in_use;
    let empty = in_use(&replica);
    let mut sizes = vec![empty];
    let script =
        "grant 7 60; grant 8 60; grant 8 60; left 7 5; role add reader; role permit reader read a..c;
         user add ann h; user grant ann reader; user add bob longer; user password bob h";
    for (words, command) in tape::parse(script) {
        replica.apply(&command);
        let size = in_use(&replica);
        let is_same = words == "grant 8 60" && sizes.len() == 3 || words.starts_with("left");
        let shrinks = words.starts_with("user password");
        let last = sizes[sizes.len() - 1];
        assert!(
            if is_same {
                size == last
            } else if shrinks {
                size < last
            } else {
                size > last
            },
            "{words}"
        );
        sizes.push(size);
    }
    let full = in_use(&replica);
    replica.capture();
    replica.commit();
    let mut replica = replica.crash();
    assert_eq!(in_use(&replica), full);
    let Size { total, .. } = replica.state.mvcc.size();
    assert!(total >= full);
    for (_, command) in
        tape::parse("revoke 7; role del reader; revoke 8; revoke 8; user del ann; user del bob")
    {
        replica.apply(&command);
    }
    assert_eq!(replica.state.mvcc.size(), Size { in_use: empty, total });
}
