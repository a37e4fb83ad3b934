//! What alarms forbid.

use expect_test::expect;

use super::replica::check;

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
