//! Sessions of an operator at the command line, with three members of a real etcd and with three of retcd.
//! The output must be the same, except for ids, times, sizes and ports.
//!
//! Member 0 leads on both sides. A session names members by number: `{0}` is the endpoint of the first
//! member, `{id0}` its id, `{peer0}` its peer URL and `{client0}` its client URL; `{all}` are the endpoints
//! of all members.
//!
//! Intended differences:
//!
//! * `member add` is refused as `unhealthy cluster` only if no quorum is left with the new member
//!   down, as later releases of etcd do it. 3.5.1 refuses it while any one member is away, and for
//!   the first five seconds of every cluster: the sessions begin after those.
//! * `member promote` of an unknown id through a follower is `member not found`. A follower of
//!   3.5.1 asks the leader again and again until the client's timeout.
//! * An added voter votes only after it has caught up. The output of `etcdctl` is the same.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    rows,
    running::Running,
    tools::{self, Release, Seen, patient},
};

/// How long members of 3.5.1 must have been connected to count as healthy.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// A cluster, and the ids of its members.
struct Side {
    cluster: Cluster,
    /// The ids by number, in hexadecimal.
    ids: Vec<String>,
    cluster_id: String,
}

impl Side {
    async fn found(plan: Plan) -> Side {
        let cluster = plan.found();
        let leader = cluster.leader().await;
        let mut ids = Vec::new();
        for member in &cluster.members {
            ids.push(format!("{:x}", member.id().await));
        }
        if leader != 0 {
            let moved = tools::etcdctl(&cluster.endpoints(), &["move-leader", &ids[0]]);
            moved.expect("leadership can be moved");
            assert_eq!(cluster.leader().await, 0);
        }
        let status = cluster.members[0].try_status().await.expect("a member says how it is");
        let cluster_id = format!("{:x}", status.header.expect("every answer has a header").cluster_id);
        Side { cluster, ids, cluster_id }
    }

    /// Replaces the placeholders of members by their values.
    fn fill(&self, word: &str) -> String {
        let mut word = word.to_owned();
        for (number, member) in self.cluster.members.iter().enumerate() {
            word = word
                .replace(&format!("{{{number}}}"), &member.endpoint())
                .replace(&format!("{{peer{number}}}"), &member.peer_url())
                .replace(&format!("{{client{number}}}"), &format!("http://{}", member.endpoint()));
        }
        for (number, id) in self.ids.iter().enumerate() {
            word = word.replace(&format!("{{id{number}}}"), id);
        }
        let all: Vec<String> = self.cluster.members.iter().map(Member::endpoint).collect();
        word.replace("{all}", &all.join(","))
    }

    /// Replaces the values of members by their placeholders, and masks times and other ids.
    fn blot(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (number, member) in self.cluster.members.iter().enumerate() {
            text = text
                .replace(&member.peer_url(), &format!("{{peer{number}}}"))
                .replace(&format!("http://{}", member.endpoint()), &format!("{{client{number}}}"))
                .replace(&member.endpoint(), &format!("{{{number}}}"));
        }
        let names = self.ids.iter().enumerate().map(|(number, id)| (id, format!("{{id{number}}}")));
        for (id, name) in names.chain([(&self.cluster_id, "{cluster}".to_owned())]) {
            let decimal = u64::from_str_radix(id, 16).expect("an id is hexadecimal").to_string();
            // In some lines the tool pads a short id.
            let padded = (format!(" {id:>16}"), format!(" {name}"));
            text = text.replace(&padded.0, &padded.1).replace(id, &name).replace(&decimal, &name);
        }
        without_times(&text)
    }

    fn command(&self, release: Release, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(release.etcdctl());
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir(self.cluster.members[0].data_dir())
            .arg(format!("--endpoints={}", self.fill(endpoint)))
            .args(arguments.iter().map(|word| self.fill(word)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        patient(&mut command);
        command
    }

    fn run(&self, release: Release, endpoint: &str, arguments: &[&str]) -> Seen {
        let output = self.command(release, endpoint, arguments).output().expect("etcdctl starts");
        Seen::of(&output)
    }

    fn start(&self, release: Release, endpoint: &str, arguments: &[&str]) -> Running {
        Running::start(self.command(release, endpoint, arguments), "")
    }
}

/// Two clusters, and the release of `etcdctl` for both.
struct Pair {
    release: Release,
    reference: Side,
    subject: Side,
}

impl Pair {
    async fn found(release: Release) -> Pair {
        let (reference, subject) = (Side::found(Plan::reference(3)).await, Side::found(Plan::new(3)).await);
        tokio::time::sleep(HEALTH_INTERVAL).await;
        Pair { release, reference, subject }
    }

    fn sides(&mut self) -> [&mut Side; 2] {
        [&mut self.reference, &mut self.subject]
    }

    /// Runs a command on both clusters and compares all output.
    fn same(&self, endpoint: &str, arguments: &[&str]) -> Seen {
        self.compare(endpoint, arguments, |text| text.to_owned())
    }

    /// As above, with more parts of the output masked than usual.
    fn compare(&self, endpoint: &str, arguments: &[&str], blot: impl Fn(&str) -> String) -> Seen {
        let see = |side: &Side| {
            let seen = side.run(self.release, endpoint, arguments);
            let stderr: String = seen
                .stderr
                .lines()
                .filter(|line| !line.starts_with('{'))
                .map(|line| format!("{line}\n"))
                .collect();
            Seen {
                code: seen.code,
                stdout: blot(&side.blot(&seen.stdout)),
                stderr: blot(&side.blot(&stderr)),
            }
        };
        let (reference, subject) = (see(&self.reference), see(&self.subject));
        assert_eq!(
            reference, subject,
            "etcd (left) and ours (right), {:?} at {endpoint}: {arguments:?}",
            self.release
        );
        subject
    }

    /// Repeats a command until both outputs are equal.
    fn comes_to_be_same(&self, endpoint: &str, arguments: &[&str], blot: impl Fn(&str) -> String) -> Seen {
        let see = |side: &Side| {
            let seen = side.run(self.release, endpoint, arguments);
            (seen.code, blot(&side.blot(&seen.stdout)), seen)
        };
        let since = Instant::now();
        loop {
            let (reference, subject) = (see(&self.reference), see(&self.subject));
            if (&reference.0, &reference.1) == (&subject.0, &subject.1) {
                return subject.2;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "etcd and ours, {:?} at {endpoint}: {arguments:?}\n{reference:?}\n{subject:?}",
                self.release
            );
        }
    }

    /// Starts a long-running command on both and compares its first lines.
    fn same_lines(&self, endpoint: &str, arguments: &[&str], count: usize) -> RunningPair {
        let start = |side: &Side| side.start(self.release, endpoint, arguments);
        let pair = RunningPair { reference: start(&self.reference), subject: start(&self.subject) };
        pair.same_lines(self, count);
        pair
    }
}

/// Masks durations, and ids without a placeholder.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hex = rest.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(rest.len());
        if hex >= 12 {
            // An id that begins with zeros is printed with blanks instead of them.
            while out.ends_with("  ") {
                out.pop();
            }
            out.push_str("ID");
            rest = &rest[hex..];
        } else if let Some((word, after)) = ["took = ", "took ", "\"took\":\""]
            .iter()
            .find_map(|word| rest.strip_prefix(word).map(|after| (word, after)))
        {
            out.push_str(word);
            out.push_str("TIME");
            rest = after.trim_start_matches(|sign: char| {
                sign == '.' || sign.is_ascii_alphanumeric() || sign == '\u{b5}'
            });
        } else {
            let taken = hex.max(first.len_utf8());
            out.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
    }
    out
}

/// Sorts the lines, because members are listed in the order of their ids, which differ.
fn in_any_order(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// JSON with the values of these fields masked, and with its lists sorted.
fn json_without(fields: &[&str]) -> impl Fn(&str) -> String {
    fn walk(value: &mut serde_json::Value, fields: &[&str]) {
        match value {
            serde_json::Value::Object(object) => {
                for (name, value) in object.iter_mut() {
                    if fields.contains(&name.as_str()) {
                        *value = "BLOT".into();
                    } else {
                        walk(value, fields);
                    }
                }
            }
            serde_json::Value::Array(values) => {
                values.iter_mut().for_each(|value| walk(value, fields));
                values.sort_by_key(serde_json::Value::to_string);
            }
            _ => {}
        }
    }
    move |text| match serde_json::from_str(&quote_names(text)) {
        Ok(mut value) => {
            walk(&mut value, fields);
            format!("{value}\n")
        }
        Err(_) => text.to_owned(),
    }
}

/// `:{id0}` is the placeholder of a number, and not an object.
fn quote_names(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(":{") {
        let (before, name) = rest.split_at(at + 1);
        out.push_str(before);
        let end = name.find('}').map_or(name.len(), |end| end + 1);
        if name[1..end].starts_with(|sign: char| sign.is_ascii_alphanumeric()) {
            out.push_str(&format!("\"{}\"", &name[..end]));
            rest = &name[end..];
        } else {
            out.push('{');
            rest = &name[1..];
        }
    }
    out + rest
}

/// Lines of `"Name" : value` with the values of these names masked, in any order.
fn fields_without(names: &[&str]) -> impl Fn(&str) -> String {
    move |text| {
        let lines = text.lines().map(|line| match line.split_once(" : ") {
            Some((name, _)) if names.contains(&name.trim_matches('"')) => format!("{name} : BLOT\n"),
            _ => format!("{line}\n"),
        });
        in_any_order(&lines.collect::<String>())
    }
}

/// A table with the cells below these headings masked, with its rows in any order.
fn table_without(headings: &[&str]) -> impl Fn(&str) -> String {
    move |text| in_any_order(&rows::table_without(text, headings))
}

/// The lines of `endpoint status`, in any order.
fn status_of(release: Release) -> impl Fn(&str) -> String {
    move |text| in_any_order(&rows::status_without(text, release, &rows::status_columns()))
}

struct RunningPair {
    reference: Running,
    subject: Running,
}

impl RunningPair {
    fn same_lines(&self, pair: &Pair, count: usize) -> Vec<String> {
        let lines = |running: &Running, side: &Side| -> Vec<String> {
            (0..count).map(|_| side.blot(&running.line())).collect()
        };
        let (left, right) = (lines(&self.reference, &pair.reference), lines(&self.subject, &pair.subject));
        assert_eq!(left, right, "etcd (left) and ours (right)");
        right
    }

    fn are_silent(&self) -> bool {
        self.reference.is_silent() && self.subject.is_silent()
    }

    fn interrupt(&mut self) {
        self.reference.interrupt();
        self.subject.interrupt();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_at_a_cluster() {
    let mut pair = Pair::found(Release::V34).await;
    for release in Release::of_etcdctl() {
        pair.release = release;
        look(&pair);
    }
}

fn look(pair: &Pair) {
    let (columns, status) = (rows::status_columns(), rows::status_fields());
    for member in ["{0}", "{1}", "{2}", "{all}"] {
        pair.compare(member, &["member", "list"], in_any_order);
        pair.compare(member, &["member", "list", "-w", "table"], table_without(&[]));
        // The tool may ask any of several endpoints.
        let (header, fields): (&[&str], &[&str]) = match member {
            "{all}" => (&["raft_term", "member_id"], &["RaftTerm", "MemberID"]),
            _ => (&["raft_term"], &["RaftTerm"]),
        };
        pair.compare(member, &["member", "list", "-w", "json"], json_without(header));
        pair.compare(member, &["member", "list", "-w", "fields"], fields_without(fields));
        pair.compare(member, &["endpoint", "status", "--cluster"], status_of(pair.release));
        pair.compare(member, &["endpoint", "status", "--cluster", "-w", "table"], table_without(&columns));
        pair.compare(member, &["endpoint", "status", "--cluster", "-w", "json"], json_without(&status));
        pair.compare(member, &["endpoint", "status", "--cluster", "-w", "fields"], fields_without(&status));
        pair.compare(member, &["endpoint", "health", "--cluster"], in_any_order);
        pair.compare(member, &["endpoint", "health", "--cluster", "-w", "json"], json_without(&["took"]));
        pair.compare(member, &["endpoint", "hashkv", "--cluster"], in_any_order);
        pair.compare(
            member,
            &["endpoint", "hashkv", "--cluster", "-w", "json"],
            json_without(&["raft_term"]),
        );
        pair.same(member, &["alarm", "list"]);
        pair.compare(member, &["member", "list", "--consistency=s"], in_any_order);
        pair.same(member, &["downgrade", "validate", "nonsense"]);
        pair.same(member, &["downgrade", "validate", "3.0"]);
        pair.same(member, &["auth", "status"]);
    }
    pair.compare("{all}", &["endpoint", "status", "-w", "table"], table_without(&columns));
    pair.compare("{all}", &["endpoint", "health"], in_any_order);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_member_serves_any_command() {
    let mut pair = Pair::found(Release::V34).await;
    for release in Release::of_etcdctl() {
        pair.release = release;
        for writer in ["{0}", "{1}", "{2}"] {
            pair.same(writer, &["put", "foo", writer, "--prev-kv"]);
            for reader in ["{0}", "{1}", "{2}"] {
                pair.same(reader, &["get", "foo"]);
                pair.compare(reader, &["get", "foo", "-w", "fields"], fields_without(&["RaftTerm"]));
            }
            pair.same("{all}", &["get", "foo"]);
            // The options of 3.7. Older releases of the tool show their usage.
            pair.same(writer, &["get", "foo", "--stream"]);
            pair.same(writer, &["get", "foo", "--prefix", "--stream", "--consistency=s"]);
            pair.same(writer, &["del", "foo"]);
            pair.same(writer, &["get", "foo", "--rev=999"]);
            // Every member must have applied this before the next command asks for the history before it.
            pair.same("{1}", &["put", "k", "v"]);
        }
        for member in ["{1}", "{2}", "{0}"] {
            pair.same(member, &["user", "add", "ann:secret"]);
            pair.same(member, &["user", "add", "ann:secret"]);
            pair.same(member, &["role", "add", "reader"]);
            pair.same(member, &["role", "grant-permission", "reader", "read", "a"]);
            pair.same(member, &["user", "grant-role", "ann", "reader"]);
            pair.same("{0}", &["user", "get", "ann", "--detail"]);
            pair.same("{2}", &["role", "get", "reader"]);
            pair.same(member, &["role", "delete", "reader"]);
            pair.same(member, &["user", "delete", "ann"]);
            pair.same("{1}", &["user", "list"]);
            pair.same(member, &["auth", "enable"]);
            pair.same(member, &["alarm", "disarm"]);
            pair.same(member, &["snapshot", "save", "backup.db"]);
            pair.same(member, &["lease", "timetolive", "1234"]);
            pair.same(member, &["lease", "revoke", "1234"]);
        }
        // The commands alternate between members, and each makes the next revision.
        let rev = pair.compare("{0}", &["get", "k", "-w", "fields"], fields_without(&["RaftTerm"]));
        let rev = rev.stdout.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).map(str::to_owned);
        let rev = rev.expect("an answer has a revision");
        pair.same("{1}", &["compaction", &rev]);
        pair.same("{2}", &["compaction", &rev]);
        pair.same("{2}", &["compaction", "99999"]);
        pair.same("{2}", &["get", "foo", "--rev=2"]);
        pair.compare("{2}", &["defrag", "--cluster"], in_any_order);
        pair.compare("{all}", &["defrag"], in_any_order);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_leases_locks_and_elections_span_members() {
    let mut pair = Pair::found(Release::V34).await;
    for release in Release::of_etcdctl() {
        pair.release = release;
        let mut watch = pair.same_lines("{1}", &["watch", "w", "--prefix", "--rev=1"], 0);
        pair.same("{2}", &["put", "w1", "one"]);
        watch.same_lines(&pair, 3);
        pair.same("{0}", &["del", "w1"]);
        watch.same_lines(&pair, 3);
        watch.interrupt();

        let grant = |side: &Side| {
            let seen = side.run(release, "{1}", &["lease", "grant", "30"]);
            seen.stdout.split(' ').nth(1).expect("the second word is the id").to_owned()
        };
        let (left, right) = (grant(&pair.reference), grant(&pair.subject));
        let kept = |side: &Side, id: &str, member: &str| {
            let seen = side.run(release, member, &["lease", "keep-alive", "--once", id]);
            (seen.code, side.blot(&seen.stdout), side.blot(&seen.stderr))
        };
        let mut running = Vec::new();
        for member in ["{1}", "{2}", "{0}"] {
            assert_eq!(kept(&pair.reference, &left, member), kept(&pair.subject, &right, member));
            let start = |side: &Side, id: &str| side.start(release, member, &["lease", "keep-alive", id]);
            let pair_of = RunningPair {
                reference: start(&pair.reference, &left),
                subject: start(&pair.subject, &right),
            };
            pair_of.same_lines(&pair, 1);
            running.push(pair_of);
        }
        let revoke = |side: &Side, id: &str| {
            let seen = side.run(release, "{2}", &["lease", "revoke", id]);
            (seen.code, side.blot(&seen.stdout))
        };
        assert_eq!(revoke(&pair.reference, &left), revoke(&pair.subject, &right));
        assert_eq!(kept(&pair.reference, &left, "{1}"), kept(&pair.subject, &right, "{1}"));
        drop(running);

        let mut holder = pair.same_lines("{0}", &["lock", "name"], 1);
        let waiter = pair.same_lines("{1}", &["lock", "name", "--", "echo", "held"], 0);
        // The second client waits in the queue: there are two keys now, and still one holder.
        pair.comes_to_be_same("{2}", &["get", "name", "--prefix", "--count-only", "-w", "fields"], |text| {
            format!("{}", text.contains("\"Count\" : 2"))
        });
        assert!(waiter.are_silent(), "one holds the lock");
        holder.interrupt();
        waiter.same_lines(&pair, 1);

        let mut ann = pair.same_lines("{0}", &["elect", "race", "ann"], 2);
        let observer = pair.same_lines("{2}", &["elect", "-l", "race"], 2);
        let mut bob = pair.same_lines("{1}", &["elect", "race", "bob"], 0);
        pair.comes_to_be_same("{2}", &["get", "race", "--prefix", "--count-only", "-w", "fields"], |text| {
            format!("{}", text.contains("\"Count\" : 2"))
        });
        assert!(bob.are_silent(), "ann leads");
        ann.interrupt();
        bob.same_lines(&pair, 2);
        let lines = observer.same_lines(&pair, 2);
        assert_eq!(lines[1], "bob");
        bob.interrupt();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_moved() {
    let mut pair = Pair::found(Release::V34).await;
    for (release, (from, to)) in
        Release::of_etcdctl().into_iter().zip([("0", "1"), ("1", "0")].into_iter().cycle())
    {
        pair.release = release;
        let (from_endpoint, to_id) = (format!("{{{from}}}"), format!("{{id{to}}}"));
        pair.same("{2}", &["move-leader", &to_id]);
        pair.same(&from_endpoint, &["move-leader", "1234"]);
        pair.same("{all}", &["move-leader", "1234"]);
        pair.same("{all}", &["move-leader"]);
        pair.same("{all}", &["move-leader", "nonsense"]);
        pair.same("{all}", &["move-leader", &format!("{{id{from}}}")]);
        pair.same("{all}", &["move-leader", &to_id]);
        for side in pair.sides() {
            assert_eq!(side.cluster.leader().await.to_string(), to);
        }
        pair.compare("{all}", &["endpoint", "status"], status_of(pair.release));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    for release in Release::of_etcdctl() {
        let mut pair = Pair::found(release).await;
        change_members(&mut pair).await;
    }
}

/// The id of the member that was added last, which has the URL of the prepared member.
fn name_added(side: &mut Side) {
    let number = side.ids.len();
    let list = side.run(Release::V35, "{0}", &["member", "list"]).stdout;
    let url = side.cluster.members[number].peer_url();
    let line = list.lines().find(|line| line.contains(&url)).unwrap_or_else(|| panic!("{url} in {list}"));
    side.ids.push(line.split(',').next().expect("a line begins with the id").to_owned());
}

async fn change_members(pair: &mut Pair) {
    let list = |pair: &Pair| {
        for member in ["{0}", "{1}"] {
            pair.compare(member, &["member", "list", "-w", "table"], table_without(&[]));
        }
    };
    pair.same("{1}", &["member", "add", "m3"]);
    pair.same("{1}", &["member", "add", "m3", "--peer-urls=nonsense"]);
    pair.same("{1}", &["member", "add", "m3", "--peer-urls={peer0}"]);
    pair.same("{0}", &["member", "add", "m3", "--peer-urls={peer0},http://127.0.0.1:1"]);
    pair.same("{1}", &["member", "remove", "1234"]);
    pair.same("{0}", &["member", "remove", "nonsense"]);
    pair.same("{1}", &["member", "update", "1234", "--peer-urls=http://127.0.0.1:1"]);
    pair.same("{1}", &["member", "update", "{id2}", "--peer-urls={peer0}"]);
    pair.same("{1}", &["member", "update", "{id2}", "--peer-urls={peer2}"]);
    pair.same("{0}", &["member", "promote", "1234"]);
    pair.same("{0}", &["member", "promote", "{id1}"]);
    pair.same("{1}", &["member", "promote", "{id1}"]);
    list(pair);

    // A learner is added and listed; a second learner and its promotion are refused; it is started and
    // promoted.
    for side in pair.sides() {
        side.cluster.prepare("m3");
    }
    // The output has its id, for which there is no placeholder yet.
    pair.compare("{1}", &["member", "add", "m3", "--learner", "--peer-urls={peer3}"], |text| {
        in_initial_cluster_order(text)
    });
    for side in pair.sides() {
        name_added(side);
    }
    list(pair);
    pair.same("{0}", &["member", "add", "m4", "--learner", "--peer-urls=http://127.0.0.1:1"]);
    // The id is computed from the URLs and the time in seconds, so it is different from before.
    pair.same("{1}", &["member", "add", "m4", "--learner", "--peer-urls={peer3},http://127.0.0.1:1"]);
    pair.same("{0}", &["member", "promote", "{id3}"]);
    pair.same("{1}", &["member", "promote", "{id3}"]);
    for side in pair.sides() {
        side.cluster.members[3].start();
    }
    // In 3.5.1 `endpoint status --cluster` does not show a member that has not published its URLs.
    pair.comes_to_be_same("{0}", &["member", "list", "-w", "table"], |text| {
        format!("{} {}", text.matches("started").count(), text.contains("unstarted"))
    });
    list(pair);
    pair.same("{3}", &["put", "foo", "bar"]);
    pair.same("{3}", &["get", "foo"]);
    pair.same("{3}", &["get", "foo", "--consistency=s"]);
    pair.same("{3}", &["lease", "grant", "30"]);
    pair.same("{3}", &["member", "list"]);
    pair.same("{3}", &["alarm", "list"]);
    pair.same("{3}", &["user", "list"]);
    pair.same("{3}", &["compaction", "1"]);
    pair.same("{3}", &["endpoint", "hashkv"]);
    pair.same("{3}", &["defrag"]);
    pair.same("{3}", &["move-leader", "{id0}"]);
    pair.same("{0}", &["move-leader", "{id3}"]);
    // A new member of etcd takes seconds to set its storage version.
    pair.comes_to_be_same("{3}", &["endpoint", "status"], status_of(pair.release));
    pair.same("{3}", &["snapshot", "save", "backup.db"]);
    pair.comes_to_be_same("{1}", &["member", "promote", "{id3}"], |text| text.to_owned());
    list(pair);
    pair.same("{3}", &["put", "foo", "bar"]);

    // A follower is removed, and then the leader, through itself.
    pair.same("{0}", &["member", "remove", "{id3}"]);
    pair.same("{0}", &["member", "remove", "{id3}"]);
    list(pair);
    for side in pair.sides() {
        side.cluster.members[3].wait_for_end();
    }
    pair.same("{1}", &["member", "remove", "{id0}"]);
    for side in pair.sides() {
        side.cluster.members[0].wait_for_end();
        side.cluster.leader().await;
    }
    pair.compare("{1}", &["member", "list", "-w", "table"], table_without(&[]));
    pair.same("{2}", &["put", "foo", "bar"]);
}

/// Sorts the items of `ETCD_INITIAL_CLUSTER`, which are in the order of the ids.
fn in_initial_cluster_order(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("ETCD_INITIAL_CLUSTER=\"") {
        Some(items) => {
            let mut items: Vec<&str> = items.trim_end_matches('"').split(',').collect();
            items.sort_unstable();
            format!("ETCD_INITIAL_CLUSTER=\"{}\"\n", items.join(","))
        }
        None => format!("{line}\n"),
    });
    lines.collect()
}
