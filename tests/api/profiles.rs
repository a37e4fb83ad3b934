//! Profiles under `/debug/pprof/`, as `go tool pprof` and people read them.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    http,
    server::{Launch, Server, subject_is_retcd},
};

/// What `go tool pprof` says, with a directory for what it fetches. `None` where Go is missing.
fn pprof(server: &Server, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("go");
    command.args(["tool", "pprof"]).args(arguments).env("PPROF_TMPDIR", fetched(server));
    let Ok(output) = command.output() else {
        eprintln!("left out: go is not at hand");
        return None;
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn fetched(server: &Server) -> PathBuf {
    server.home().join("pprof")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_the_cpu_is_read_by_gos_tool() {
    let server = Launch::subject().argument("--enable-pprof").start();
    let client = server.client();
    let busy = tokio::spawn(async move {
        for number in 0.. {
            client.put(format!("key-{}", number % 100), "value").await;
        }
    });
    let url = format!("http://{}/debug/pprof/profile?seconds=2", server.endpoint());
    let top = tokio::task::block_in_place(|| pprof(&server, &["-top", "-nodecount=5000", &url]));
    busy.abort();
    let Some(top) = top else { return };
    assert!(top.contains("Type: cpu") && top.contains("flat%"), "{top}");
    if !subject_is_retcd() {
        return;
    }
    assert!(top.contains("retcd::"), "functions have names: {top}");
    let mut files = fs::read_dir(fetched(&server)).expect("a profile was fetched");
    let file = files.next().expect("a profile was fetched").expect("an entry").path().display().to_string();
    let tags = pprof(&server, &["-tags", &file]).expect("it ran before");
    assert!(tags.contains("retcd-core"), "samples have threads: {tags}");
}

#[test]
fn what_there_is_is_listed_and_the_rest_says_why() {
    let server = Launch::subject().argument("--enable-pprof").start();
    let get = |path: &str| {
        let answer = http::get(server.client_port, path);
        (answer.status, answer.body)
    };
    let (status, index) = get("/debug/pprof/");
    assert!(status == 200 && index.contains("profile") && index.contains("goroutine"), "{status} {index}");
    let (status, line) = get("/debug/pprof/cmdline");
    assert!(status == 200 && line.split('\0').any(|word| word == "--enable-pprof"), "{line:?}");
    if !subject_is_retcd() {
        return;
    }
    let (status, threads) = get("/debug/pprof/goroutine?debug=2");
    assert!(status == 200 && threads.contains("retcd-core: cpu "), "{status} {threads}");
    let (status, heap) = get("/debug/pprof/heap");
    assert!(status == 501 && heap.contains("the allocator is built without sampling"), "{status} {heap}");
    assert_eq!(get("/debug/pprof/profile?seconds=100000").0, 400);
}

#[test]
fn without_the_flag_there_are_no_profiles() {
    let server = Launch::subject().start();
    assert_eq!(http::get(server.client_port, "/debug/pprof/").status, 404);
}
