//! Users and roles.

use bytes::Bytes;
use expect_test::{Expect, expect};

use super::replica::{Replica, check};
use crate::{
    apply::{ApplyError, tape},
    auth::{AuthError, AuthStore},
    types::Caller,
};

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

/// Applies commands as these callers, each with its words, and shows what came of them.
fn check_as(script: &[(&str, &str)], expected: Expect) {
    let mut replica = Replica::new();
    let mut out = String::new();
    for (caller, commands) in script {
        let caller = match caller.split_once('@') {
            None if *caller == "nobody" => Caller::Nobody,
            None => Caller::Internal,
            Some((name, rev)) => {
                Caller::User { name: name.into(), auth_rev: rev.parse().expect("a revision") }
            }
        };
        for (words, command) in tape::parse(commands) {
            let applied = replica.apply_request(&command.by(caller.clone()));
            out += &format!("{words}\n  {}\n", tape::print(&applied).lines().next().expect("a line"));
        }
    }
    expected.assert_eq(&out);
}

/// The revision is 7 when authentication is enabled.
const USERS: (&str, &str) = (
    "nobody",
    "user add root h; user grant root root; user add ann h; role add r; user grant ann r;
     role permit r readwrite a..c; put x 1; put b 1; grant 7 60; put b 1 lease 7; grant 8 60; put x 1 lease 8; auth on",
);

#[test]
fn callers_are_judged_where_their_commands_are_applied() {
    let then = [
        (
            "nobody",
            "put a 1; grant 9 60; revoke 7; compact 2; user add eve h; auth off; login ann 7 x; left 7 1",
        ),
        (
            "ann@7",
            "put a 1; put b 1 prev; put x 1; del a..c prev; del a..d; compact 2; user add eve h; auth off",
        ),
        ("ann@7", "put a 1 lease 7; put a 1 lease 8; revoke 8; left 7 1; login ann 7 x"),
        (
            "ann@7",
            "txn { put a 1 } else { put x 1 }; txn if version x = 0 { put a 1 }; txn { txn { get x } }",
        ),
        ("ann@7", "txn { txn { put a 1; get b } } else { del b..c prev }; txn { put a 1 lease 8 }"),
        ("ann@6", "put a 1; grant 9 60; revoke 9"),
        ("eve@7", "put a 1; user add eve h"),
        ("a member", "login ann 6 x; login ann 7 x; login eve 7 x; left 7 1"),
        ("root@1", "put x 1; user add eve h"),
        ("root@7", "put x 1"),
        ("root@8", "put x 1; role forbid r a..c"),
        ("ann@8", "put a 1"),
        ("ann@9", "put a 1"),
        ("root@9", "user del root; user revoke root root; role del root; alarm nospace 1"),
        ("nobody", "put a 1; del a"),
        ("root@9", "auth off"),
        ("nobody", "disarm nospace 1; put a 1"),
    ];
    let script: Vec<(&str, &str)> = [USERS].into_iter().chain(then).collect();
    check_as(
        &script,
        expect![[r#"
        user add root h
          1: done
        user grant root root
          1: done
        user add ann h
          1: done
        role add r
          1: done
        user grant ann r
          1: done
        role permit r readwrite a..c
          1: done
        put x 1
          2: put
        put b 1
          3: put
        grant 7 60
          3: granted 7 for 60 s
        put b 1 lease 7
          4: put
        grant 8 60
          4: granted 8 for 60 s
        put x 1 lease 8
          5: put
        auth on
          5: done
        put a 1
          5: refused: user name is empty
        grant 9 60
          5: refused: user name is empty
        revoke 7
          5: refused: user name is empty
        compact 2
          5: refused: user name is empty
        user add eve h
          5: refused: user name is empty
        auth off
          5: refused: user name is empty
        login ann 7 x
          5: refused: permission denied
        left 7 1
          5: refused: permission denied
        put a 1
          6: put
        put b 1 prev
          7: put over b=1 (3 4 2) lease 7
        put x 1
          7: refused: permission denied
        del a..c prev
          8: deleted 2 over a=1 (6 6 1), b=1 (3 7 3)
        del a..d
          8: refused: permission denied
        compact 2
          8: refused: permission denied
        user add eve h
          8: refused: permission denied
        auth off
          8: refused: permission denied
        put a 1 lease 7
          9: put
        put a 1 lease 8
          9: refused: permission denied
        revoke 8
          9: refused: permission denied
        left 7 1
          9: refused: permission denied
        login ann 7 x
          9: refused: permission denied
        txn { put a 1 } else { put x 1 }
          9: refused: permission denied
        txn if version x = 0 { put a 1 }
          9: refused: permission denied
        txn { txn { get x } }
          9: refused: permission denied
        txn { txn { put a 1 ; get b } } else { del b..c prev }
          10: then { then { 10: put; 10: 0 of 0 [] } }
        txn { put a 1 lease 8 }
          10: refused: permission denied
        put a 1
          10: refused: revision of auth store is old
        grant 9 60
          10: granted 9 for 60 s
        revoke 9
          10: revoked
        put a 1
          10: refused: permission denied
        user add eve h
          10: refused: user name not found
        login ann 6 x
          10: refused: revision of auth store is old
        login ann 7 x
          10: done
        login eve 7 x
          10: refused: authentication failed, invalid user ID or password
        left 7 1
          10: noted
        put x 1
          10: refused: revision of auth store is old
        user add eve h
          10: done
        put x 1
          10: refused: revision of auth store is old
        put x 1
          11: put
        role forbid r a..c
          11: done
        put a 1
          11: refused: revision of auth store is old
        put a 1
          11: refused: permission denied
        user del root
          11: refused: invalid auth management
        user revoke root root
          11: refused: invalid auth management
        role del root
          11: refused: invalid auth management
        alarm nospace 1
          11: alarms [NoSpace of 1]
        put a 1
          11: refused: database space exceeded
        del a
          11: refused: user name is empty
        auth off
          11: done
        disarm nospace 1
          11: alarms [NoSpace of 1]
        put a 1
          12: put
    "#]],
    );
}

#[test]
fn that_authentication_is_enabled_is_kept() {
    let mut replica = Replica::new();
    for (_, command) in tape::parse(USERS.1) {
        replica.apply(&command);
    }
    replica.capture();
    replica.commit();
    let mut replica = replica.crash();
    let (_, put) = tape::parse("put a 1").remove(0);
    let refused = replica.apply_request(&put.clone().by(Caller::Nobody)).outcome.result;
    assert_eq!(refused, Err(ApplyError::Auth(AuthError::UserEmpty)));
    let ann = Caller::User { name: "ann".into(), auth_rev: 7 };
    assert!(replica.apply_request(&put.by(ann)).outcome.result.is_ok());
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
        14 false
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

/// As [`Auth::dump`](crate::apply::model::Auth::dump).
pub(super) fn dump_auth(auth: &AuthStore) -> String {
    let mut out = format!("{} {}\n", auth.rev(), auth.is_enabled());
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
    let holds_root = auth.user("root").ok().map(|root| root.roles.contains("root"));
    out + &format!("{holds_root:?}\n")
}
