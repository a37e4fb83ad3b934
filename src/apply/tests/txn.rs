//! Transactions.

use expect_test::expect;

use super::replica::check;

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
                + b=3 (4 4 2)
                + c=5 (3 4 2)
                + c=5 (3 4 3)
                - a= (0 4 0)
                - b= (0 4 0)
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

/// etcd issues 18667 and 18799: a transaction was refused after half of it was written.
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

/// The rule that a transaction may not write a key twice, which is etcd's, does not see that `a..`
/// contains `b`. The put therefore finds no value and no lease to keep.
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
                - b= (0 3 0)
                + b= (3 3 1)
            revoke 7
              3: revoked
        "#]],
    );
}
