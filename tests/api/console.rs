//! The console: its files, and its pages in a real browser. The steps of a person are in `tests/console`.

use std::process::Command;

use crate::{
    browser,
    http::get,
    server::{Launch, Server, subject_is_retcd},
    tools::Release,
};

fn etcdctl(server: &Server, arguments: &[&str]) {
    crate::tools::etcdctl(&server.endpoint(), arguments).expect("etcdctl succeeds");
}

/// Runs a script to its end, and shows what it says.
fn run(mut command: Command) {
    let output = command.output().expect("the tests of the console need Node.js");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "the console failed:\n{said}\n{complained}");
}

#[test]
fn a_person_can_use_it() {
    if !subject_is_retcd() {
        return;
    }
    let server = Launch::subject().start();
    run(browser::script("one_member.mjs", &server.endpoint(), &Release::V35.etcdctl()));
}

#[test]
fn nothing_is_shown_before_the_login() {
    if !subject_is_retcd() {
        return;
    }
    let server = Launch::subject().start();
    etcdctl(&server, &["put", "public/a", "seen"]);
    etcdctl(&server, &["put", "secret/a", "hidden"]);
    for arguments in [
        &["user", "add", "root:right"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "ann:pass"],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "read", "public/", "--prefix"],
        &["user", "grant-role", "ann", "reader"],
        &["auth", "enable"],
    ] {
        etcdctl(&server, arguments);
    }
    for path in ["/console/data/members", "/console/data/samples"] {
        let answer = get(server.client_port, path);
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(answer.body.contains("etcdserver: user name is empty"), "{path}: {}", answer.body);
    }
    run(browser::script("login.mjs", &server.endpoint(), &Release::V35.etcdctl()));
}

#[test]
fn it_can_be_switched_off() {
    if !subject_is_retcd() {
        return;
    }
    let server = Launch::subject().flag("console", false).start();
    for path in ["/console", "/console/main.js", "/console/data/members"] {
        assert_eq!(get(server.client_port, path).status, 404, "{path}");
    }
}
