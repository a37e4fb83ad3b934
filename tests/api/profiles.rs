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
    let run = |words: &[&str]| tokio::task::block_in_place(|| pprof(&server, words));
    // On a busy machine a server gets little time, and its core thread may have no sample in a profile. Then another is made.
    for attempts_left in (0..10).rev() {
        let Some(top) = run(&["-top", "-nodecount=5000", &url]) else { break };
        assert!(top.contains("Type: cpu") && top.contains("flat%"), "{top}");
        if !subject_is_retcd() {
            break;
        }
        // They are numbered.
        let files = fs::read_dir(fetched(&server)).expect("a profile was fetched");
        let newest = files.map(|file| file.expect("an entry").path()).max().expect("a profile was fetched");
        let tags = run(&["-tags", &newest.display().to_string()]).expect("it ran before");
        if top.contains("retcd::") && tags.contains("retcd-core") {
            break;
        }
        assert!(attempts_left > 0, "functions and threads have names: {top}\n{tags}");
    }
    busy.abort();
}

/// Memory is found under the name of what has allocated it, in use or ever, and as a difference.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_the_heap_is_read_by_gos_tool() {
    let server = Launch::subject().argument("--enable-pprof").start();
    let client = server.client();
    let top = |path: &str, more: &[&str]| {
        let url = format!("http://{}/debug/pprof/{path}", server.endpoint());
        let words = [&["-top", "-cum", "-nodecount=5000", "-unit=kb"], more, &[url.as_str()]].concat();
        tokio::task::block_in_place(|| pprof(&server, &words))
    };
    // 32 MiB that stay in memory until the next checkpoints and in the index, and twice as much that is freed.
    for number in 0..64 {
        client.put(format!("key-{number}"), "v".repeat(512 << 10)).await;
    }
    let Some(heap) = top("heap", &[]) else { return };
    assert!(heap.contains("Type: inuse_space") && heap.contains("flat%"), "{heap}");
    let allocs = top("allocs", &[]).expect("it ran before");
    assert!(allocs.contains("Type: alloc_space"), "{allocs}");
    let objects = top("heap", &["-sample_index=alloc_objects"]).expect("it ran before");
    assert!(objects.contains("Type: alloc_objects"), "{objects}");
    let busy = tokio::spawn(async move {
        for number in 0.. {
            client.put(format!("key-{}", number % 100), "v".repeat(100 << 10)).await;
        }
    });
    let delta = top("allocs?seconds=1", &[]).expect("it ran before");
    busy.abort();
    if !subject_is_retcd() {
        return;
    }
    for (name, top) in [("heap", &heap), ("allocs", &allocs), ("delta", &delta)] {
        assert!(top.contains("retcd::"), "{name}: functions have names: {top}");
    }
    // All of the values have been allocated by something on the way from the socket, which is no function of jemalloc.
    let total =
        allocs.lines().find_map(|line| line.split("of ").nth(1)?.split("kB").next()).expect("a total");
    let total: f64 = total.parse().expect("a number");
    assert!(
        (32_000.0..640_000.0).contains(&total),
        "{total} kB were allocated for 32 MiB of values: {allocs}"
    );
    // Memory counts for the function that wanted it, and not for `Vec` or `Box`.
    let counts_for_alloc = |top: &str| {
        top.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = words.get(5).map_or("", |name| name.trim_start_matches('<'));
            words.first() != Some(&"0") && (name == "alloc" || name.starts_with("alloc::"))
        })
    };
    for top in [&heap, &allocs, &delta] {
        assert!(!top.contains("_rjem_") && !counts_for_alloc(top), "the allocator is left out: {top}");
    }
    let get = |path: &str| {
        let answer = http::get(server.client_port, path);
        (answer.status, answer.body)
    };
    let (status, text) = get("/debug/pprof/heap?debug=1");
    assert!(status == 200 && text.starts_with("heap_v2/524288\n"), "{status} {text}");
    assert_eq!(get("/debug/pprof/heap?seconds=no").0, 400);
    assert_eq!(get("/debug/pprof/heap?seconds=1&debug=1").0, 400);
    assert_eq!(get("/debug/pprof/heap?seconds=100000").0, 400);
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
    let (status, block) = get("/debug/pprof/block");
    assert!(status == 501 && block.contains("waits are not recorded"), "{status} {block}");
    assert_eq!(get("/debug/pprof/profile?seconds=100000").0, 400);
}

#[test]
fn without_the_flag_there_are_no_profiles() {
    let server = Launch::subject().start();
    assert_eq!(http::get(server.client_port, "/debug/pprof/").status, 404);
}
