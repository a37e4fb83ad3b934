//! The examples of the documentation, run as a reader would run them.
//!
//! The `sh` blocks of a page are run in order in one shell, and the output of each must equal the `text`
//! block after it.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal};

use crate::{
    server::{Launch, Server, subject_is_retcd, subject_program},
    tools::{ETCDCTL_PATIENCE, Release},
};

struct Block {
    script: String,
    expected: Option<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let body: String =
            lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        match language {
            "sh" => blocks.push(Block { script: body, expected: None }),
            "text" => blocks.last_mut().expect("output follows a script").expected = Some(body),
            other => panic!("a block of {other:?} would not be tested"),
        }
    }
    blocks
}

/// Runs a page twice with the same server, because a reader's server usually has data already.
fn run_page(name: &str, etcdctl: &Path) {
    let server = Launch::subject().start();
    let tools = server.home().join("tools");
    fs::create_dir(&tools).expect("a test may write");
    std::os::unix::fs::symlink(etcdctl, tools.join("etcdctl")).expect("a test may link");
    for _ in 0..2 {
        run_page_once(name, &server, &tools);
    }
}

fn run_page_once(name: &str, server: &Server, tools: &Path) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name);
    let page = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let blocks = blocks(&page);
    assert!(blocks.iter().filter(|block| block.expected.is_some()).count() >= 5, "a page without examples");

    let mut script = "set -euo pipefail\n".to_owned();
    for block in &blocks {
        script.push_str(&block.script);
        script.push_str("echo '@@'\n");
    }
    let child = Command::new("bash")
        .arg("-c")
        .arg(&script)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
        .env("ETCDCTL_ENDPOINTS", server.endpoint())
        .envs(ETCDCTL_PATIENCE)
        .current_dir(server.home())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(fs::File::create(server.home().join("out")).expect("a test may write"))
        .stderr(fs::File::create(server.home().join("err")).expect("a test may write"))
        .spawn();
    let mut child = child.expect("bash starts");
    let status = child.wait().expect("bash ends");
    // After the page no process of it may be left, and no key whose lease such a process keeps alive.
    let group = Pid::from_raw(child.id().cast_signed()).expect("a child's id is positive");
    let left_running = !ends_soon(group);
    rustix::process::kill_process_group(group, Signal::KILL).ok();
    let read = |file: &str| fs::read_to_string(server.home().join(file)).expect("the shell wrote it");
    let (out, errors) = (read("out"), read("err"));
    assert!(!left_running, "{name} leaves processes running\n{out}\n{errors}");
    assert!(status.success(), "{name} ended with {status}\n{out}\n{errors}");
    let printed: Vec<&str> = out.split("@@\n").collect();
    for (block, printed) in blocks.iter().zip(printed) {
        let expected = block.expected.as_deref().unwrap_or_default();
        assert_eq!(printed.trim_end(), expected.trim_end(), "{name}:\n{}\n{errors}", block.script);
    }
}

/// Whether all processes of a group end within ten seconds.
fn ends_soon(group: Pid) -> bool {
    (0..500).any(|_| {
        let has_ended = rustix::process::test_kill_process_group(group).is_err();
        if !has_ended {
            thread::sleep(Duration::from_millis(20));
        }
        has_ended
    })
}

fn every_etcdctl() -> impl Iterator<Item = PathBuf> {
    Release::of_etcdctl().into_iter().map(Release::etcdctl)
}

#[test]
fn service_discovery_works_as_described() {
    for etcdctl in every_etcdctl() {
        run_page("service-discovery.md", &etcdctl);
    }
}

#[test]
fn config_sharing_works_as_described() {
    for etcdctl in every_etcdctl() {
        run_page("config-sharing.md", &etcdctl);
    }
}

#[test]
fn every_example_is_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
    let mut pages: Vec<String> = fs::read_dir(folder)
        .expect("the examples are there")
        .map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    pages.sort();
    assert_eq!(pages, ["config-sharing.md", "service-discovery.md", "systemd"]);
}

/// The configuration file of the package, in another directory and at other ports.
#[tokio::test]
async fn a_member_serves_with_the_configuration_of_the_package() {
    if !subject_is_retcd() {
        eprintln!("left out: the file has settings that etcd does not know");
        return;
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/systemd/retcd.conf.yml");
    let example = fs::read_to_string(example).expect("the example is there");
    let mut server = Launch::subject().bare().flag("config-file", "retcd.conf.yml").prepare();
    let file = example
        .replace("/var/lib/retcd", &server.data_dir().display().to_string())
        .replace("localhost:2379", &format!("127.0.0.1:{}", server.client_port))
        .replace("localhost:2380", &format!("127.0.0.1:{}", server.peer_port));
    // What is set out in comments has to be right too.
    let file = file.replace("#   backup-", "backup-");
    assert!(file.contains("\nbackup-retain: "), "{file}");
    fs::write(server.home().join("retcd.conf.yml"), file).expect("a test may write");
    server.start();
    server.client().put("k", "v").await;
    assert!(server.data_dir().join("member").is_dir());
}

/// The unit starts the program with that file, and systemd takes it, where its tool is installed.
#[test]
fn the_unit_of_the_package_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/systemd");
    let unit = fs::read_to_string(folder.join("retcd.service")).expect("the unit is there");
    let start = "ExecStart=/usr/bin/retcd --config-file /etc/retcd/retcd.conf.yml\n";
    assert!(unit.contains("Type=notify\n") && unit.contains(start), "{unit}");
    let copy = tempfile::tempdir().expect("a directory");
    let path = copy.path().join("retcd.service");
    let program = subject_program();
    let unit = unit
        .replace("/usr/bin/retcd", &program.display().to_string())
        .replace("Documentation=man:retcd(1)\n", "");
    fs::write(&path, unit).expect("a test may write");
    match Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&path).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("retcd.service:"), "{said}");
        }
        Err(error) => eprintln!("left out: there is no systemd-analyze: {error}"),
    }
}
