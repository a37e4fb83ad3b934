//! The commands of `docs/migrating.md`, run as an operator would run them, on hosts that are directories.
//!
//! The `sh` blocks of a section are run in order. A block for `every member` is run once on each of three hosts. In front of
//! `/var/lib` is the directory of the host, and each address of the page has a port of this machine in its place. A
//! `systemctl` starts and stops the programs as the units of a host would.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    client::Client,
    migrate::{picture, text, write_history},
    pb::etcdserverpb::MemberListRequest,
    server::{free_port, subject_is_retcd, subject_program},
    tools::{ETCDCTL_PATIENCE, Release},
};

/// Starts and stops what the files `NAME.unit` in the directory of the host say.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -eu
unit=$HOST/$2.unit
case $1 in
  start)
    setsid $(cat "$unit") > "$HOST/$2.log" 2>&1 < /dev/null &
    echo $! > "$HOST/$2.pid"
    ;;
  stop)
    pid=$(cat "$HOST/$2.pid")
    kill "$pid"
    while kill -0 "$pid" 2> /dev/null; do sleep 0.02; done
    rm "$HOST/$2.pid"
    ;;
esac
"#;

/// Waits until the endpoint answers, as `systemctl start` waits for a unit of the type `notify`.
const WAIT: &str = "until etcdctl endpoint health > /dev/null 2>&1; do sleep 0.1; done";

struct Block {
    script: String,
    on_every_member: bool,
}

/// The blocks of a section of the page.
fn blocks(section: &str) -> Vec<Block> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let (_, behind) = page.split_once(&format!("## {section}\n")).expect("the page has the section");
    let part = behind.split("\n## ").next().unwrap_or_default();
    let mut blocks = Vec::new();
    let mut lines = part.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let on_every_member = match kind {
            "sh" => false,
            "sh every member" => true,
            other => panic!("a block of {other:?} would not be tested"),
        };
        let script =
            lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        blocks.push(Block { script, on_every_member });
    }
    assert!(!blocks.is_empty(), "{section} has no commands");
    blocks
}

struct Host {
    name: String,
    home: PathBuf,
    client_port: u16,
    peer_port: u16,
    /// Of a second server, which a live move goes to.
    other_port: u16,
}

impl Host {
    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    fn var_lib(&self) -> PathBuf {
        self.home.join("var/lib")
    }
}

/// Hosts, and the programs on all of them.
struct Site {
    /// Removed at the end.
    _home: tempfile::TempDir,
    tools: PathBuf,
    hosts: Vec<Host>,
    release: Release,
}

impl Site {
    fn of(release: Release, size: usize) -> Site {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it is writable");
        let tools = home.path().join("bin");
        fs::create_dir(&tools).expect("it is writable");
        let retcd = subject_program();
        for (name, program) in [
            ("retcd", &retcd),
            ("etcd", &release.etcd()),
            ("etcdctl", &release.etcdctl()),
            ("etcdutl", &release.etcdutl()),
        ] {
            std::os::unix::fs::symlink(program, tools.join(name)).expect("it is writable");
        }
        let systemctl = tools.join("systemctl");
        fs::write(&systemctl, SYSTEMCTL).expect("it is writable");
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let hosts = (1..=size).map(|number| {
            let home = home.path().join(format!("host{number}"));
            fs::create_dir_all(home.join("var/lib")).expect("it is writable");
            Host {
                name: if size == 1 { "default".to_owned() } else { format!("m{number}") },
                home,
                client_port: free_port(),
                peer_port: free_port(),
                other_port: free_port(),
            }
        });
        let site = Site { hosts: hosts.collect(), tools, release, _home: home };
        let cluster: Vec<String> =
            site.hosts.iter().map(|host| format!("{}={}", host.name, host.peer_url())).collect();
        for host in &site.hosts {
            site.unit(host, "etcd", "etcd", &format!("--initial-cluster {}", cluster.join(",")));
            site.unit(host, "retcd", "retcd", "");
            site.unit(host, "etcd-again", "etcd", &format!("--initial-cluster {}", cluster.join(",")));
        }
        site
    }

    fn unit(&self, host: &Host, name: &str, program: &str, more: &str) {
        let Host { client_port, peer_port, .. } = host;
        let program = self.tools.join(program);
        // A member that was restored knows its cluster; one that was imported founds one of its own.
        let cluster = if name == "retcd" && self.hosts.len() == 1 {
            format!("--initial-cluster default={}", host.peer_url())
        } else {
            more.to_owned()
        };
        let unit = format!(
            "{} --name {} --data-dir {}/{name} --listen-client-urls http://127.0.0.1:{client_port} --advertise-client-urls \
             http://127.0.0.1:{client_port} --listen-peer-urls http://127.0.0.1:{peer_port} --initial-advertise-peer-urls \
             http://127.0.0.1:{peer_port} {cluster}",
            text(&program),
            host.name,
            text(&host.var_lib()),
        );
        fs::write(host.home.join(format!("{name}.unit")), unit).expect("it is writable");
    }

    /// A shell on a host. Returns what it said.
    fn run(&self, host: &Host, script: &str) -> String {
        let mut script = script.replace("/var/lib", text(&host.var_lib()));
        for (number, host) in self.hosts.iter().enumerate() {
            let ports = [(2379, host.client_port), (2380, host.peer_port), (12379, host.other_port)];
            for (theirs, ours) in ports {
                let address = format!("10.0.0.{}:{theirs}", number + 1);
                script = script.replace(&address, &format!("127.0.0.1:{ours}"));
            }
        }
        assert!(!script.contains("10.0.0."), "an address of the page leads nowhere:\n{script}");
        let out = host.home.join("out");
        let file = fs::File::create(&out).expect("it is writable");
        // The servers that a script starts keep what they inherit, so their output goes to files.
        let status = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", text(&self.tools)))
            .env("HOST", &host.home)
            .env("NAME", &host.name)
            .env("URL", host.peer_url())
            .env("ETCDCTL_ENDPOINTS", host.endpoint())
            .env("ETCDCTL_API", "3")
            .envs(ETCDCTL_PATIENCE)
            .current_dir(&host.home)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a descriptor"))
            .stderr(file)
            .status()
            .expect("bash runs");
        let said = fs::read_to_string(&out).expect("it was written");
        assert!(status.success(), "{:?}: {status}:\n{script}\n{said}", self.release);
        said
    }

    fn client(&self, host: usize) -> Client {
        Client::connect(&self.hosts[host].endpoint())
    }
}

/// Whatever still runs on a host ends with the test.
impl Drop for Site {
    fn drop(&mut self) {
        for host in &self.hosts {
            for entry in fs::read_dir(&host.home).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "pid") {
                    let pid = fs::read_to_string(entry.path()).unwrap_or_default();
                    Command::new("kill").args(["-9", pid.trim()]).stderr(Stdio::null()).status().ok();
                }
            }
        }
    }
}

fn releases() -> Vec<Release> {
    if !subject_is_retcd() {
        eprintln!("left out: etcd does not import");
        return Vec::new();
    }
    Release::of_etcdctl().into_iter().filter(|release| *release != Release::V34).collect()
}

/// The commands that wait for a server follow one that starts it.
fn waiting(script: &str) -> String {
    let mut waiting = String::new();
    for line in script.lines() {
        writeln!(waiting, "{line}").expect("a string");
        if line.starts_with("systemctl start") {
            writeln!(waiting, "{WAIT}").expect("a string");
        }
    }
    waiting
}

#[tokio::test]
async fn one_member_moves_and_returns_as_the_page_says() {
    for release in releases() {
        let site = Site::of(release, 1);
        let host = &site.hosts[0];
        site.run(host, &waiting("systemctl start etcd"));
        write_history(&site.client(0), 31).await;
        let before = picture(&site.client(0)).await;
        for block in blocks("One member") {
            assert!(!block.on_every_member);
            let said = site.run(host, &waiting(&block.script));
            assert!(said.contains(&before.hash.to_string()) || said.contains("Snapshot saved"), "{said}");
        }
        assert_eq!(picture(&site.client(0)).await, before, "{release:?}");
        let back = blocks("Back to etcd");
        let [back, exported] = back.as_slice() else { panic!("the section has two ways") };
        site.run(host, &waiting(&back.script.replace("etcdutl snapshot restore", &with_cluster(host))));
        assert_eq!(picture(&site.client(0)).await, before, "{release:?}: etcd again");
        // The other way begins with a member that runs.
        site.run(host, &format!("systemctl stop etcd-again\n{}", waiting("systemctl start retcd")));
        let said = site.run(host, &exported.script);
        assert!(said.contains("exported"), "{said}");
        let status = site.run(host, "etcdutl snapshot status exported.db");
        assert!(status.contains(&before.revision.to_string()), "{status}");
    }
}

/// The page has no flags for the URLs of the host, which are those of the defaults there.
fn with_cluster(host: &Host) -> String {
    let url = host.peer_url();
    format!("etcdutl snapshot restore --initial-cluster default={url} --initial-advertise-peer-urls {url}")
}

#[tokio::test]
async fn three_members_move_as_the_page_says() {
    for release in releases() {
        let site = Site::of(release, 3);
        for host in &site.hosts {
            site.run(host, "systemctl start etcd");
        }
        site.run(&site.hosts[0], WAIT);
        write_history(&site.client(0), 41).await;
        let before = picture(&site.client(0)).await;
        let mut newest = None;
        for block in blocks("Three members") {
            if !block.on_every_member {
                let (_, at) = newest.expect("the members were imported");
                let from: &Host = &site.hosts[at];
                site.run(from, &block.script);
                // It is copied to all of them.
                for host in site.hosts.iter().filter(|host| host.name != from.name) {
                    fs::copy(from.home.join("all.db"), host.home.join("all.db")).expect("it can be copied");
                }
                continue;
            }
            for (at, host) in site.hosts.iter().enumerate() {
                let said = site.run(host, &block.script);
                if let Some(end) = end_of_log(&said) {
                    newest = newest.max(Some((end, at)));
                }
            }
        }
        for (at, host) in site.hosts.iter().enumerate() {
            site.run(host, WAIT);
            assert_eq!(picture(&site.client(at)).await, before, "{release:?}: {}", host.name);
        }
    }
}

/// The ids of the cluster and of its members, with their names.
async fn ids(client: &Client) -> (u64, Vec<(u64, String)>) {
    let request = MemberListRequest { linearizable: true };
    let list = client.cluster().member_list(request).await.expect("the members are listed").into_inner();
    let mut members: Vec<_> = list.members.into_iter().map(|member| (member.id, member.name)).collect();
    members.sort();
    (list.header.expect("a header").cluster_id, members)
}

#[tokio::test]
async fn three_members_keep_their_ids_as_the_page_says() {
    for release in releases() {
        let site = Site::of(release, 3);
        for host in &site.hosts {
            site.run(host, "systemctl start etcd");
        }
        site.run(&site.hosts[0], WAIT);
        write_history(&site.client(0), 43).await;
        let before = (picture(&site.client(0)).await, ids(&site.client(0)).await);
        for block in blocks("Three members with their ids") {
            assert!(block.on_every_member);
            for host in &site.hosts {
                site.run(host, &block.script);
            }
        }
        for (at, host) in site.hosts.iter().enumerate() {
            site.run(host, WAIT);
            let now = (picture(&site.client(at)).await, ids(&site.client(at)).await);
            assert_eq!(now, before, "{release:?}: {}", host.name);
        }
    }
}

/// Term and entry, as the import says them.
fn end_of_log(said: &str) -> Option<(u64, u64)> {
    let (_, behind) = said.split_once("which ends with entry ")?;
    let (entry, behind) = behind.split_once(" of term ")?;
    let term: String = behind.chars().take_while(char::is_ascii_digit).collect();
    Some((term.parse().expect("a number"), entry.parse().expect("a number")))
}

#[tokio::test]
async fn a_live_move_is_done_as_the_page_says() {
    for release in releases() {
        let site = Site::of(release, 1);
        let host = &site.hosts[0];
        site.run(host, &waiting("systemctl start etcd"));
        write_history(&site.client(0), 51).await;
        let unit = format!(
            "{} --data-dir {}/live --listen-client-urls http://127.0.0.1:{port} --advertise-client-urls http://127.0.0.1:{port} \
             --listen-peer-urls http://127.0.0.1:{peer} --initial-advertise-peer-urls http://127.0.0.1:{peer} --initial-cluster \
             default=http://127.0.0.1:{peer}",
            text(&site.tools.join("retcd")),
            text(&host.var_lib()),
            port = host.other_port,
            peer = free_port(),
        );
        fs::write(host.home.join("live.unit"), unit).expect("it is writable");
        let wait = WAIT.replace("etcdctl", &format!("etcdctl --endpoints 127.0.0.1:{}", host.other_port));
        site.run(host, &format!("systemctl start live\nunset ETCDCTL_ENDPOINTS\n{wait}"));
        let live = blocks("With a pause of seconds");
        let [by_hand, by_script] = live.as_slice() else { panic!("the section has two commands") };
        // Somebody types into the first. The word counts from when it has caught up.
        let said = site.run(host, &format!("echo cutover | {}", by_hand.script.trim_end()));
        assert!(said.contains("verified"), "{release:?}: {said}");
        site.client(0).put("later", "value").await;
        let said = site.run(host, &by_script.script);
        assert!(said.contains("verified") && said.contains("1 written or removed"), "{release:?}: {said}");
    }
}
