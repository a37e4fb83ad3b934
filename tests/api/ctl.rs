//! Command lines typed at our etcdctl and at etcdctl 3.7, each at a server of its own of the same kind.
//!
//! What goes to stdout and the exit code are the same, and so is what goes to stderr, but for etcdctl's log lines and for
//! the words of usages. Where ours is different on purpose, the line says so.

use std::{
    io::Write,
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    certificates::Authority,
    etcdctl::{blotted, without_log_lines},
    running::Running,
    server::{Launch, PATIENCE, Server},
    tools::{Release, Seen},
};

/// Two servers of the same kind. `None`: there is no etcdctl 3.7 to compare with.
struct Pair {
    theirs: Server,
    ours: Server,
}

#[derive(Clone, Copy)]
enum Tool {
    Etcdctl,
    Ours,
}

impl Pair {
    fn start() -> Option<Pair> {
        if !Release::of_etcdctl().contains(&Release::V37) {
            return None;
        }
        // Each command logs in anew.
        let start = || Launch::reference().flag("bcrypt-cost", 4).start();
        Some(Pair { theirs: start(), ours: start() })
    }

    fn servers(&self) -> [(Tool, &Server); 2] {
        [(Tool::Etcdctl, &self.theirs), (Tool::Ours, &self.ours)]
    }

    /// Types lines at both, and compares everything.
    fn all_same(&self, lines: &str) {
        let mut different = Vec::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let [theirs, ours] = self.servers().map(|(tool, server)| typed(tool, server, line));
            if theirs != ours {
                different.push(format!("{line}\n  etcdctl {theirs:?}\n  ours    {ours:?}"));
            }
        }
        assert!(different.is_empty(), "not the same:\n{}", different.join("\n"));
    }

    /// Types a line at both, whatever they answer.
    fn prepare(&self, line: &str) {
        for (tool, server) in self.servers() {
            typed(tool, server, line);
        }
    }

    /// Starts a line at both that runs until it is stopped, types another one, and compares what the first shows.
    fn same_meanwhile(&self, line: &str, ready: usize, meanwhile: &[&str], shown: usize) {
        let [theirs, ours] = self.servers().map(|(tool, server)| {
            let (words, stdin) = words(line);
            let running = Running::start(command(tool, server, &words), &stdin);
            let mut lines = running.lines(ready);
            for other in meanwhile {
                typed(Tool::Etcdctl, server, other);
            }
            lines.extend(running.lines(shown));
            lines.iter().map(|line| blotted(line, server)).collect::<Vec<_>>()
        });
        assert_eq!(theirs, ours, "etcdctl (left) and ours (right): {line}");
    }
}

fn command(tool: Tool, server: &Server, words: &[String]) -> Command {
    let mut command = match tool {
        Tool::Etcdctl => Command::new(Release::V37.etcdctl()),
        Tool::Ours => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_retcd"));
            command.arg0("etcdctl");
            command
        }
    };
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("ETCDCTL_ENDPOINTS", server.endpoint())
        .current_dir(server.home())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A flag and its variable must not both be set.
    if words.iter().any(|word| word.starts_with("--endpoints")) {
        command.env_remove("ETCDCTL_ENDPOINTS");
    }
    command
}

fn typed(tool: Tool, server: &Server, line: &str) -> Seen {
    let line = line.replace("ENDPOINT", &server.endpoint());
    let (mut words, stdin) = words(&line);
    let variables: Vec<String> =
        words.iter().take_while(|word| word.starts_with("ETCDCTL_") && word.contains('=')).cloned().collect();
    words.drain(..variables.len());
    let mut command = command(tool, server, &words);
    // What has the form of a variable before the words sets it.
    command.envs(variables.iter().filter_map(|variable| variable.split_once('=')));
    let mut child = command.spawn().expect("it starts");
    // A command that does not read its input may have ended.
    child.stdin.take().expect("it is piped").write_all(stdin.as_bytes()).ok();
    let mut output = child.wait_with_output().expect("it ends");
    if line.contains("-w protobuf") {
        output.stdout = without_header(&output.stdout);
    }
    let seen = Seen::of(&output);
    let text = |text: &str| masked(&blotted(text, server), &line);
    let stderr = without_log_lines(&seen.stderr);
    // The words of a usage are ours.
    let is_before_usage = |line: &&str| *line != "Usage:";
    let before = stderr.lines().take_while(is_before_usage);
    let behind = stderr.lines().skip_while(is_before_usage).filter(|line| line.starts_with("Error: "));
    let stderr = before.chain(behind).filter(|line| !OWN_WORDS.iter().any(|begin| line.starts_with(begin)));
    let stderr = stderr.map(|line| format!("{line}\n")).collect::<String>();
    Seen { code: seen.code, stdout: text(&seen.stdout), stderr: text(&stderr) }
}

/// How lines on stderr begin that are not compared: remarks of ours for which etcdctl has a log line or none, and
/// those of `stty`, which etcdctl runs on what is no terminal.
const OWN_WORDS: [&str; 3] =
    ["Warning: no flag belongs to the environment variable", "Error: the environment variable", "stty: "];

/// An encoded message without the ids of its server, in hexadecimal. Answers about leases are nothing but a header.
fn without_header(bytes: &[u8]) -> Vec<u8> {
    const HEADER: u8 = 1 << 3 | 2;
    let rest = match bytes {
        [HEADER, len, rest @ ..] => rest.get(usize::from(*len)..).unwrap_or_default(),
        _ => return format!("{} bytes", if bytes.is_empty() { "no" } else { "some" }).into_bytes(),
    };
    rest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes()
}

/// Words are separated by space, unless they are in single quotes. What follows `<` is the input, with `\n` for a new line.
fn words(line: &str) -> (Vec<String>, String) {
    let (line, stdin) = line.split_once(" < ").unwrap_or((line, ""));
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').expect("a quote is closed"),
            None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    (words, stdin.replace("\\n", "\n"))
}

/// Sizes, indices of the log and durations are not the same on two servers.
fn masked(text: &str, line: &str) -> String {
    if line.contains("member add") {
        return text.lines().map(with_sorted_cluster).collect();
    }
    if !["endpoint status", "endpoint health", "timetolive", "-w table"]
        .iter()
        .any(|part| line.contains(part))
    {
        return text.to_owned();
    }
    let mut masked = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { '9' } else { c };
        // Columns are as wide as what is in them.
        if !(masked.ends_with(c) && matches!(c, '9' | ' ' | '\u{2500}')) {
            masked.push(c);
        }
    }
    masked.replace("9.9", "9")
}

/// Members are in the order of their ids.
fn with_sorted_cluster(line: &str) -> String {
    match line.strip_prefix("ETCD_INITIAL_CLUSTER=") {
        Some(cluster) => {
            let mut members: Vec<&str> = cluster.trim_matches('"').split(',').collect();
            members.sort_unstable();
            format!("ETCD_INITIAL_CLUSTER={members:?}\n")
        }
        None => format!("{line}\n"),
    }
}

#[test]
fn keys_are_the_same() {
    let Some(pair) = Pair::start() else { return };
    pair.all_same(
        "put a b
        put a
        put
        put a b c
        put a < from stdin
        get a
        get
        get a --hex
        get a -w json
        get a -w json --hex
        get a -w fields
        get a -w fields --hex
        get a -w table
        get a -w xyz
        get a -w protobuf
        get a --write-out=json
        get a -wjson
        get a --count-only
        get a -w json --count-only
        get a -w fields --count-only
        get a --print-value-only
        get a --print-value-only -w json
        get a --keys-only
        put --prev-kv a c
        put --prev-kv a d -w json
        put --prev-kv a d -w fields
        put a e -w protobuf
        put a e -w table
        put a --ignore-value
        put nokey --ignore-value
        put a e --ignore-value
        put a e --ignore-lease
        put a e --lease zz
        put a e --lease 123
        put a e --lease=123
        put a e --lease ''
        put -- a -b
        put a -- -c
        get a
        put html '<&>\"quoted\"'
        get html -w json
        get html -w fields
        put '' x
        get ''
        put p1 v1
        put p2 v2
        put p3 v3
        get p --prefix
        get p --prefix --keys-only
        get p --prefix --keys-only -w json
        get p --prefix --keys-only -w fields
        get p1 p3
        get p1 p3 more
        get p3 p1
        get p --from-key --limit 2
        get p --from-key --limit 2 -w json
        get '' --prefix --limit 1 -w json
        get '' --from-key --limit 1 --keys-only
        get p --prefix --from-key
        get p q --prefix
        get p --keys-only --count-only
        get p --prefix --sort-by modify --order descend
        get p --prefix --sort-by=VALUE --order=ascend
        get p --prefix --order q
        get p --prefix --sort-by q
        get p --prefix --consistency q
        get p --prefix --consistency s
        get p --prefix --rev 1
        get p --prefix --rev -1
        get p --prefix --rev 100000
        get p --prefix --rev 0x3
        get p --prefix --min-create-rev 5 --max-create-rev 1
        get p --prefix --min-mod-rev 5 --max-mod-rev 1
        get p --prefix --min-mod-rev 1 --max-mod-rev 100000 --limit 1
        get p --prefix --stream
        get p --prefix --stream -w json
        get nope
        get nope -w json
        get nope -w fields
        get nope --stream -w fields
        compaction
        compaction x
        compaction 3
        compaction 3
        compaction 100000
        compaction 4 --physical
        get p --prefix --rev 2
        del p1 p3 --range
        del p1 p3
        del p3 --prev-kv
        del p3 -w json
        del
        del a b c
        del p --prefix --from-key
        del p q --prefix
        del a --prefix --prev-kv -w fields
        del html --prev-kv -w json
        del html -w protobuf
        del zzz --from-key
        del '' --prefix",
    );
}

#[test]
fn transactions_are_the_same() {
    let Some(pair) = Pair::start() else { return };
    pair.prepare("put a b");
    pair.all_same(
        r#"txn < mod("a") > "0"\n\nput a c\nget a\n\nput q w\n\n
        txn -w json < mod("a") > "0"\n\nput a c\nget a\ndel a --prev-kv\n\nput q w\n\n
        txn -w fields < mod("a") > "0"\n\nput a c\n\nput q w\nget q\ndel q\n\n
        txn -w protobuf < ver("a") = "0"\n\nput a c\n\nput q w\n\n
        txn -w table < ver("a") = "0"\n\nput a c\n\nput q w\n\n
        txn -i < ver("a") = "0"\n\nput a c\n\nput q w\n\n
        txn < value("a") = "c"\n\nget a\n\nget q\n\n
        txn < val("a") != "c\x00"\ncreate("a") < "9999"\n\nget a\nget "a" --hex\n\nget q\n\n
        txn < c("a") > "0"\nm("a") > "0"\nversion("a") > "0"\n\np 'a b' "c\td"\nge 'a b'\n\nget q\n\n
        txn < \n\n\n
        txn < \n\n
        txn < \nput a b
        txn < mod(a) > "0"\n\n\n\n
        txn < bad("a") > "0"\n\n\n\n
        txn < mod("a") > "x"\n\n\n\n
        txn < mod("a")>"0"\n\n\n\n
        txn < mod\n\n\n\n
        txn < \nput a\n\n\n
        txn < \nput a --lease=x y\n\n\n
        txn < \nbogus a b\n\n\n
        txn < \nget\n\n\n
        txn < \nget --bogus a\n\n\n
        txn < \nput a 1\nput a 2\n\n\n
        txn x"#,
    );
}

#[test]
fn leases_are_the_same() {
    let Some(pair) = Pair::start() else { return };
    pair.all_same(
        "lease grant
        lease grant x
        lease grant 99999999999999999999
        lease grant 9999999999
        lease grant 100
        lease grant 0
        lease grant -- -5
        lease grant 100 -w json
        lease grant 100 -w fields
        lease grant 100 -w fields --hex
        lease grant 100 -w table
        lease grant 100 -w protobuf
        lease list
        lease list -w json
        lease list -w fields
        lease list -w protobuf
        lease revoke
        lease revoke zz
        lease revoke 1234
        lease timetolive
        lease timetolive zz
        lease timetolive 1234
        lease timetolive 1234 --keys
        lease timetolive 1234 -w json
        lease timetolive 1234 -w fields
        lease timetolive 1234 --keys --hex
        lease keep-alive
        lease keep-alive zz
        lease keep-alive --once 1234
        lease keep-alive 1234
        lease keep-alive 1234 -w json",
    );
    let [theirs, ours] = pair.servers().map(|(tool, server)| {
        let granted = typed_raw(tool, server, "lease grant 100");
        let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
        [
            format!("put k1 v1 --lease {id}"),
            format!("put k1 v2 --lease={id}"),
            format!("lease timetolive {id}"),
            format!("lease timetolive {id} --keys"),
            format!("lease timetolive {id} --keys -w json"),
            format!("lease timetolive {id} --keys -w fields"),
            format!("lease keep-alive {id} --once"),
            format!("lease keep-alive {id} --once -w json"),
            format!("lease keep-alive {id} --once -w fields"),
            format!("lease revoke {id} -w json"),
            format!("lease revoke {id}"),
            "get k --prefix".to_owned(),
        ]
        .map(|line| typed(tool, server, &line))
    });
    assert_eq!(theirs, ours, "etcdctl (left) and ours (right)");
}

/// What goes to stdout, as it is.
fn typed_raw(tool: Tool, server: &Server, line: &str) -> String {
    let output = command(tool, server, &words(line).0).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wait_until(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "it did not come to that");
    }
}

/// As if SIGPIPE had ended it, and without a word.
#[test]
fn a_closed_pipe_ends_a_watch_quietly() {
    let Some(pair) = Pair::start() else { return };
    let words = ["watch", "a", "--rev", "1"].map(str::to_owned);
    let mut watch = command(Tool::Ours, &pair.ours, &words).spawn().expect("it starts");
    drop(watch.stdout.take());
    typed(Tool::Etcdctl, &pair.ours, "put a b");
    let ended = watch.wait_with_output().expect("it ends");
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(141), ""));
}

/// Whoever cannot be reached does not keep a client from the others, and a call goes on when a server comes back.
#[test]
fn endpoints_that_do_not_answer_are_passed_over() {
    let Some(mut pair) = Pair::start() else { return };
    // Nobody answers at the second one: connections to it are not refused.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = silent.local_addr().expect("it has one").to_string();
    let line = format!("get a --endpoints 127.0.0.1:1,{silent},ENDPOINT --command-timeout 20s");
    let seen = typed(Tool::Ours, &pair.ours, &line);
    assert_eq!((seen.code, &*seen.stderr), (Some(0), ""));
    pair.ours.stop();
    let words = ["get", "a", "--command-timeout=60s"].map(str::to_owned);
    let waiting = command(Tool::Ours, &pair.ours, &words).spawn().expect("it starts");
    pair.ours.start();
    let ended = waiting.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn a_lease_is_kept_alive() {
    let Some(pair) = Pair::start() else { return };
    let [theirs, ours] = pair.servers().map(|(tool, server)| {
        let granted = typed_raw(tool, server, "lease grant 2");
        let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
        let words = ["lease", "keep-alive", &id].map(str::to_owned);
        let running = Running::start(command(tool, server, &words), "");
        let mut lines = running.lines(3);
        typed(tool, server, &format!("lease revoke {id}"));
        // A renewal may come between.
        lines.extend((0..3).map(|_| running.line()).find(|line| line.contains("expired")));
        lines.iter().map(|line| blotted(line, server)).collect::<Vec<_>>()
    });
    assert_eq!(theirs, ours, "etcdctl (left) and ours (right)");
}

#[test]
fn members_and_endpoints_are_the_same() {
    let Some(pair) = Pair::start() else { return };
    pair.all_same(
        "member list
        member list -w table
        member list -w json
        member list -w json --hex
        member list -w fields
        member list -w fields --hex
        member list --consistency s
        member add
        member add a
        member add a b http://x
        member add x --peer-urls foo
        member add x --peer-urls http://foo
        member add x --peer-urls http://foo:1/x
        member add x --peer-urls ftp://foo:1
        member remove
        member remove zz
        member remove -- -1
        member remove 123
        member update 123
        member update zz --peer-urls http://x:1
        member update 123 --peer-urls http://x:1
        member promote
        member promote 123
        endpoint health
        endpoint health --cluster
        endpoint health -w json
        endpoint health -w table
        endpoint health -w protobuf
        endpoint status
        endpoint status --cluster
        endpoint status -w table
        endpoint status -w json
        endpoint status -w fields
        endpoint status -w protobuf
        endpoint hashkv
        endpoint hashkv -w json
        endpoint hashkv -w table
        endpoint hashkv -w fields
        endpoint hashkv --rev 1
        endpoint hashkv --rev 1000000
        endpoint hashkv --rev x
        endpoint status --endpoints 127.0.0.1:1 --command-timeout 100ms
        endpoint status --endpoints 127.0.0.1:1 --command-timeout 100ms -w json
        endpoint health --endpoints 127.0.0.1:1 --command-timeout 100ms
        endpoint health --endpoints 127.0.0.1:1 --command-timeout 100ms -w json
        endpoint hashkv --endpoints 127.0.0.1:1 --command-timeout 100ms
        defrag
        defrag --cluster
        defrag --endpoints 127.0.0.1:1 --command-timeout 100ms
        alarm list
        alarm list -w json
        alarm list -w fields
        alarm list -w table
        alarm list x
        alarm disarm
        alarm disarm -w json
        alarm disarm x
        move-leader
        move-leader zz
        move-leader 123
        downgrade validate
        downgrade validate a b
        downgrade validate ''
        downgrade validate 3.6
        downgrade validate 3.6.0 -w json
        downgrade validate 3.6.0 -w fields
        downgrade validate 2.0.0
        downgrade validate x
        downgrade cancel
        snapshot save
        snapshot save a b
        snapshot save /nope/x
        snapshot save saved.db
        snapshot save saved.db --command-timeout 5s
        snapshot save x --endpoints 127.0.0.1:1,127.0.0.1:2
        member add x --peer-urls http://localhost:1,http://localhost:2
        member list
        member list -w table",
    );
}

#[test]
fn users_and_roles_are_the_same() {
    let Some(pair) = Pair::start() else { return };
    pair.all_same(
        "auth status
        auth status -w json
        auth status -w fields
        auth status x
        auth enable
        auth disable x
        role add r9
        role add r9
        role add
        role add r8 -w json
        role get r9
        role get r9 -w json
        role get r9 -w fields
        role get nope
        role grant-permission r9 read k k2
        role grant-permission r9 READWRITE k --prefix
        role grant-permission r9 write k --from-key
        role grant-permission r9 read one -w fields
        role grant-permission r9 write k --from-key --prefix
        role grant-permission r9 write k e --from-key
        role grant-permission r9 write k e --prefix
        role grant-permission r9 write '' --prefix
        role grant-permission r9 write ''
        role grant-permission r9 bad k
        role grant-permission r9 read
        role get r9
        role get r9 -w json
        role get r9 -w fields
        role revoke-permission r9 k k2
        role revoke-permission r9 k --prefix -w json
        role revoke-permission r9 k --from-key
        role revoke-permission r9 '' --prefix
        role revoke-permission r9 one
        role revoke-permission r9 nope
        role revoke-permission r9
        role list
        role list -w json
        role list -w fields
        role list x
        user add u9 --no-password
        user add u8:pw
        user add u8:pw
        user add :pw
        user add
        user add u7 --new-user-password pw -w json
        user add u6 --interactive=false < pw\\n
        user add u5 < pw\\npw\\n
        user add u4 < pw\\nother\\n
        user add u3 < \\n
        user passwd u6 < new\\nnew\\n
        user passwd u6 --interactive=false < pw\\n
        user passwd
        user passwd nope --interactive=false < pw\\n
        user get u8
        user get u8 -w json
        user get u8 -w fields
        user get u8 --detail
        user grant-role u8 r9
        user grant-role u8 r9 -w fields
        user grant-role u8
        user grant-role nope r9
        user grant-role u8 nope
        user get u8
        user get u8 --detail
        user get u8 --detail -w json
        user get
        user list
        user list -w json
        user list -w fields
        user list x
        user revoke-role u8 r9
        user revoke-role u8 r9
        user revoke-role u8
        user delete u9 -w fields
        user delete u9
        user delete
        role delete r8 -w json
        role delete nope
        role delete
        user add root:pw
        auth enable
        auth status
        auth status --user root:pw
        get a
        get a --user root:pw
        get a --user root --password pw
        get a --user root:wrong
        get a --user u8:pw
        ETCDCTL_USER=root:pw get a
        ETCDCTL_USER=root ETCDCTL_PASSWORD=pw get a
        ETCDCTL_USER=root:pw get a --user root:pw
        get a --user root < pw\\n
        get a --auth-jwt-token x
        endpoint health
        endpoint health --user root:pw
        endpoint health --user u8:pw
        role get root --user root:pw
        user list --user root:pw
        auth enable --user root:pw
        auth disable --user root:pw
        get a --user nobody:pw",
    );
}

#[test]
fn flags_and_variables_are_the_same() {
    let Some(pair) = Pair::start() else { return };
    pair.prepare("put a b");
    pair.all_same(
        "get --bogus
        get a --limit x
        get a --limit
        get -x
        get a -w
        get a --=x
        get ---
        bogus
        gett
        l
        ge a
        le li
        --hex get a
        get a --hex=false
        get a --hex=maybe
        --endpoints=ENDPOINT get a
        --endpoints 127.0.0.1:1 --endpoints ENDPOINT get a
        --endpoints 127.0.0.1:1,ENDPOINT get a
        --endpoints= get a
        get a --endpoints http://ENDPOINT
        get a --endpoints 127.0.0.1:1 --command-timeout 100ms
        put a b --endpoints 127.0.0.1:1 --command-timeout 100ms
        get a --endpoints 127.0.0.1:1 --user a:b --dial-timeout 100ms
        get a --cacert /nope
        get a --cert /nope
        get a --key /nope
        get a --cert /nope --key /nope
        get a --cert ''
        get a --key ''
        get a --cacert ''
        get a --dial-timeout x
        get a --command-timeout 5
        get a --command-timeout 5d
        get a --command-timeout=-1s
        get a --max-request-bytes 10
        put a bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb --max-request-bytes 10
        get a --max-request-bytes 10 --max-recv-bytes 5
        get a --debug=x
        get a --keepalive-time 1s --keepalive-timeout 1s
        ETCDCTL_HEX=true get a
        ETCDCTL_HEX=true get a --hex
        ETCDCTL_WRITE_OUT=json get a
        ETCDCTL_WRITE_OUT=bogus get a
        ETCDCTL_PREFIX=true get a
        ETCDCTL_CLUSTER=true endpoint health
        ETCDCTL_CLUSTER=true endpoint health --cluster
        version
        version -w json
        version x
        completion
        completion xx
        elect
        elect a
        elect a b -l
        elect a b c
        lock
        make-mirror
        make-mirror a b
        make-mirror a --dest-prefix x --no-dest-prefix
        watch
        watch a b --prefix
        watch a --
        watch --rev 1
        watch a --rev x
        ETCDCTL_WATCH_KEY=a watch b
        ETCDCTL_WATCH_KEY=a watch b -- true
        ETCDCTL_WATCH_RANGE_END=a watch
        watch -i < watch\\n
        watch -i < bogus\\n\\nwatch a b --prefix\\n
        watch -i < watch a --\\n
        watch -i < watch a --bogus\\n
        check perf --load x
        check datascale --load x
        check perf --prefix a
        check datascale --prefix a",
    );
}

#[test]
fn watches_are_the_same() {
    let Some(pair) = Pair::start() else { return };
    pair.prepare("put w 0");
    let changes = ["put w 1", "put w 2 --prev-kv", "del w"];
    // From a revision on, so that nothing is missed before the watch has begun.
    pair.same_meanwhile("watch w --rev 2", 0, &changes, 9);
    pair.same_meanwhile("watch w --rev 2 --prev-kv", 3, &changes, 12);
    pair.same_meanwhile("watch w --prefix --rev 2 -w json --prev-kv", 1, &changes, 3);
    pair.same_meanwhile("watch w --rev 2 -w fields --hex", 11, &changes, 22);
    pair.same_meanwhile("watch w x --rev 2 --hex", 3, &changes, 6);
    pair.same_meanwhile("watch w --rev 2 -- sh -c 'env | grep ETCD_WATCH | sort'", 0, &changes, 14);
    pair.same_meanwhile("watch -i < watch w --rev 2\\n", 3, &changes, 6);
    pair.same_meanwhile("watch -i < watch 'w' x --rev 3 --prev-kv\\n", 0, &changes, 10);
    pair.same_meanwhile("watch w --rev 2 -- false", 3, &[], 1);
    pair.prepare("compaction 5");
    pair.all_same(
        "watch w --rev 2
        watch w --rev 2 -w json
        watch w --rev 2 -w fields",
    );
}

#[test]
fn locks_and_elections_are_the_same() {
    let Some(pair) = Pair::start() else { return };
    pair.all_same(
        "lock l1 true
        lock l1 -- sh -c 'exit 3'
        lock l1 nonexisting
        lock l1 /nonexisting
        lock l1 --ttl 5 -- sh -c 'test -n \"$ETCD_LOCK_KEY\" && echo $ETCD_LOCK_REV'
        lock l1 echo $ETCD_LOCK_KEY",
    );
    pair.same_meanwhile("lock l2", 2, &["get l2 --prefix"], 0);
    pair.same_meanwhile("lock l3 -w fields", 12, &[], 0);
    pair.same_meanwhile("elect e1 me", 2, &["get e1 --prefix"], 0);
    pair.same_meanwhile("elect e2 me -w fields", 12, &[], 0);
}

/// Whoever waits gets the lock once the other lets go, whichever of the tools they use.
#[test]
fn locks_are_handed_on_between_the_tools() {
    let Some(pair) = Pair::start() else { return };
    let server = &pair.ours;
    for (first, second) in
        [(Tool::Etcdctl, Tool::Ours), (Tool::Ours, Tool::Etcdctl), (Tool::Ours, Tool::Ours)]
    {
        let hold =
            |tool: Tool| Running::start(command(tool, server, &["lock", "shared"].map(str::to_owned)), "");
        let mut holder = hold(first);
        holder.lines(2);
        let waiter = hold(second);
        wait_until(|| {
            typed_raw(Tool::Etcdctl, server, "get shared/ --prefix --keys-only").lines().count() == 4
        });
        assert!(waiter.is_silent(), "the lock is held");
        holder.interrupt();
        waiter.lines(2);
    }
}

/// The proposals of whoever is elected are seen, and then those of the next.
#[test]
fn elections_are_observed() {
    let Some(pair) = Pair::start() else { return };
    let server = &pair.ours;
    let start = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Running::start(command(Tool::Ours, server, &words), "")
    };
    let observer = start(&["elect", "-l", "e"]);
    let mut first = start(&["elect", "e", "first"]);
    first.lines(2);
    assert_eq!(observer.lines(2)[1], "first");
    let second = start(&["elect", "e", "second"]);
    wait_until(|| typed_raw(Tool::Etcdctl, server, "get e/ --prefix --keys-only").lines().count() == 4);
    first.interrupt();
    second.lines(2);
    assert_eq!(observer.lines(2)[1], "second");
}

/// Both tools copy the same keys, and then what happens to them.
#[test]
fn mirrors_are_made() {
    let Some(pair) = Pair::start() else { return };
    for line in ["put a/1 x", "put a/2 y", "put b z"] {
        typed(Tool::Etcdctl, &pair.ours, line);
    }
    let destination = pair.theirs.endpoint();
    let words = ["make-mirror", &destination, "--prefix", "a/", "--dest-prefix", "c/"].map(str::to_owned);
    let _mirror = Running::start(command(Tool::Ours, &pair.ours, &words), "");
    let copied =
        |expected: &str| wait_until(|| typed_raw(Tool::Etcdctl, &pair.theirs, "get '' --prefix") == expected);
    copied("c/1\nx\nc/2\ny\n");
    typed(Tool::Etcdctl, &pair.ours, "put a/3 w");
    typed(Tool::Etcdctl, &pair.ours, "del a/1");
    copied("c/2\ny\nc/3\nw\n");
}

/// Some seconds of writing, and nothing is left of it.
#[test]
fn the_memory_for_data_is_checked() {
    let Some(pair) = Pair::start() else { return };
    let words = ["check", "datascale", "--auto-compact", "--auto-defrag"].map(str::to_owned);
    let output = command(Tool::Ours, &pair.ours, &words).output().expect("it runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = [
        "Start data scale check for work load [10000 key-value pairs, 1024 bytes per key-value, 50 concurrent clients].",
        "Compacting with revision 10002",
        "Compacted with revision 10002",
        "Defragmenting ",
        "Defragmented ",
        "PASS: Approximate system memory used : ",
    ];
    let is_as_expected = shown.lines().zip(expected).all(|(line, begin)| line.starts_with(begin));
    assert!(is_as_expected && shown.lines().count() == expected.len(), "{shown}{:?}", output.stderr);
    assert_eq!(typed_raw(Tool::Etcdctl, &pair.ours, "get '' --prefix"), "");
}

/// What is shown of a command in a help: its flags with their types and defaults, and the commands below it.
#[derive(Debug, PartialEq)]
pub(crate) struct Interface {
    flags: Vec<String>,
    pub(crate) commands: Vec<String>,
}

#[test]
fn every_command_has_the_flags_of_etcdctl() {
    let Some(pair) = Pair::start() else { return };
    let mut waiting = vec![String::new()];
    let mut compared = 0;
    while let Some(path) = waiting.pop() {
        let help = if path.is_empty() { "options".to_owned() } else { format!("{path} --help") };
        let [theirs, ours] = pair.servers().map(|(tool, server)| interface(&typed_raw(tool, server, &help)));
        assert_eq!(theirs, ours, "etcdctl (left) and ours (right): {help}");
        let below = match path.is_empty() {
            true => {
                let [theirs, ours] =
                    pair.servers().map(|(tool, server)| interface(&typed_raw(tool, server, "--help")));
                assert_eq!(theirs.commands, ours.commands, "etcdctl (left) and ours (right)");
                ours.commands
            }
            false => ours.commands,
        };
        waiting.extend(below.iter().map(|name| format!("{path} {name}").trim().to_owned()));
        compared += 1;
    }
    assert!(compared > 50, "only {compared} commands were compared");
}

pub(crate) fn interface(help: &str) -> Interface {
    let mut found = Interface { flags: Vec::new(), commands: Vec::new() };
    // The words before are ours.
    let help = help.split_once("Usage:\n").map_or(help, |(_, usage)| usage);
    for line in help.lines() {
        let Some(line) = line.strip_prefix("  ") else { continue };
        // A line of the usage, or of an example.
        if ["etcdctl", "etcdutl", "#"].iter().any(|begin| line.trim_start().starts_with(begin)) {
            continue;
        }
        let words = line.trim_start();
        if words.starts_with('-') {
            // The name and the type end where the description begins.
            let head = words.split("   ").next().unwrap_or_default().trim_end();
            let default = words.rsplit_once("(default ").map(|(_, default)| default.trim_end_matches(')'));
            found.flags.push(format!("{head} = {}", default.unwrap_or_default()));
        } else if !line.starts_with(' ') && line.contains("  ") || line.split_whitespace().count() > 1 {
            found.commands.extend(words.split_whitespace().next().map(str::to_owned));
        }
    }
    found
}

/// etcd makes certificates that nobody has signed, with keys that few libraries know.
#[test]
fn a_certificate_that_a_server_made_is_taken_by_whoever_takes_any() {
    if !Release::of_etcdctl().contains(&Release::V37) {
        return;
    }
    let mut server = Launch::reference().flag("auto-tls", true).prepare();
    let url = format!("https://{}", server.endpoint());
    server.set_flag("listen-client-urls", &url);
    server.set_flag("advertise-client-urls", &url);
    server.start();
    for line in [
        format!("put a b --endpoints {url} --insecure-transport=false --insecure-skip-tls-verify"),
        format!("get a --endpoints {} --insecure-skip-tls-verify", server.endpoint()),
    ] {
        let [theirs, ours] = [Tool::Etcdctl, Tool::Ours].map(|tool| typed(tool, &server, &line));
        assert_eq!(theirs, ours, "etcdctl (left) and ours (right): {line}");
        assert_eq!(ours.code, Some(0), "{line}");
    }
}

/// Certificates of both sides, names of hosts, and certificates that nobody trusts.
#[test]
fn tls_is_the_same() {
    if !Release::of_etcdctl().contains(&Release::V37) {
        return;
    }
    let authority = Authority::new("ca");
    let (member, user) = (authority.issue("member"), authority.issue("user"));
    let mut server = Launch::reference()
        .flag("cert-file", member.cert.display())
        .flag("key-file", member.key.display())
        .flag("trusted-ca-file", authority.cert().display())
        .flag("client-cert-auth", true)
        .prepare();
    let url = format!("https://{}", server.endpoint());
    server.set_flag("listen-client-urls", &url);
    server.set_flag("advertise-client-urls", &url);
    server.start();
    let [ca, cert, key] = [authority.cert(), user.cert, user.key].map(|file| file.display().to_string());
    for line in [
        format!("put a b --endpoints {url} --cacert {ca} --cert {cert} --key {key}"),
        format!("get a --endpoints {} --cacert {ca} --cert {cert} --key {key}", server.endpoint()),
        format!("get a --endpoints {url} --insecure-skip-tls-verify --cert {cert} --key {key}"),
        format!("get a --endpoints {url} --cert {cert} --key {key} --command-timeout 300ms"),
        format!("get a --endpoints {url} --cacert {ca} --command-timeout 300ms"),
        format!("get a --endpoints {} --command-timeout 300ms", server.endpoint()),
    ] {
        let [theirs, ours] = [Tool::Etcdctl, Tool::Ours].map(|tool| typed(tool, &server, &line));
        assert_eq!(theirs, ours, "etcdctl (left) and ours (right): {line}");
    }
}
