//! `watch`: what happens to keys, as it happens.

use std::io;

use futures_util::{FutureExt, future::LocalBoxFuture};
use tokio::task::{self, JoinHandle};

use crate::{
    cli::{
        Command, Exit, Failure, Flag, Group, Invocation, Parsed, Values,
        go::quote,
        output::{self, complain},
    },
    ctl::{
        client::{ClientError, Seen, Watcher, watch_error},
        printer::{Shown, event_type},
        process::Program,
        ranges::range,
        session::Session,
        words::words,
    },
    pb::{
        etcdserverpb::{WatchCreateRequest, WatchResponse},
        mvccpb::Event,
    },
};

const FLAGS: &[Flag] = &[
    Flag::switch("interactive", "read what to watch from stdin, line by line").short('i'),
    Flag::switch("prefix", "all keys with this prefix"),
    Flag::int("rev", "from this revision on"),
    Flag::switch("prev-kv", "show keys as they were before"),
    Flag::switch("progress-notify", "show from time to time how far the server is"),
];

pub(in crate::ctl) const WATCH_COMMAND: Command = Command::new(
    "watch",
    "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    "Shows what happens to keys, as it happens",
)
.of(Group::KeyValue)
.flags(FLAGS)
.runs(watch);

const BAD_NUMBER: &str = "bad number of arguments";
const CONFLICT: &str = "bad number of arguments (found conflicting environment key)";
const NO_COMMAND: &str = "bad number of arguments (found separator --, but no commands)";

fn watch<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let named = Named::by_variables(call)?;
        if call.values.switch("interactive") {
            return interactive(call, &named).await;
        }
        let wanted = Wanted::of(&call.found.args, &call.args, &named, &call.values)?;
        let (session, client) = call.connect().await?;
        let request = wanted.request()?;
        let mut watcher = Watcher::new(&client);
        watcher.add(request).await;
        loop {
            let seen = match watcher.next().await {
                Ok(seen) => seen,
                Err(error) => {
                    show_end(&session, &error)?;
                    break;
                }
            };
            show(&session, &seen.response)?;
            run_for_events(wanted.command.as_ref(), &seen.response).await?;
            if is_over(&seen.response) {
                break;
            }
        }
        Err(Exit::Interrupted.because("watch is canceled by the server"))
    }
    .boxed_local()
}

/// Lines of stdin begin watches, or ask how far the server is. It ends with stdin.
async fn interactive(call: &Invocation<'_>, named: &Named) -> Result<(), Failure> {
    let (session, client) = call.connect().await?;
    let mut watcher = Watcher::new(&client);
    let mut commands = Vec::new();
    let mut line = next_line();
    loop {
        tokio::select! { biased;
            seen = watcher.next() => match seen {
                Ok(seen) => show_to_all(&session, &seen, &commands).await?,
                Err(error) => {
                    show_end(&session, &error)?;
                    watcher = Watcher::new(&client);
                    commands.clear();
                }
            },
            read = &mut line => {
                let text = read.map_err(|error| Exit::InvalidInput.because(error))?;
                let text = text.map_err(|error| {
                    Exit::InvalidInput.because(format_args!("error reading watch request line: {error}"))
                })?;
                line = next_line();
                match Line::parse(&text, named)? {
                    Line::Watch(wanted) => match wanted.request() {
                        Ok(request) => {
                            watcher.add(request).await;
                            commands.push(wanted.command);
                        }
                        Err(failure) => complain_of(&text, failure),
                    },
                    Line::Progress => watcher.request_progress().await,
                    Line::Wrong(complaint) => complain(format_args!("{complaint}")),
                }
            }
        }
    }
}

fn complain_of(line: &str, failure: Failure) {
    if let Failure::Told { text, .. } = failure {
        complain(format_args!("Invalid command {line} ({text})"));
    }
}

/// On another thread, because stdin cannot be waited for otherwise.
fn next_line() -> JoinHandle<io::Result<String>> {
    task::spawn_blocking(|| {
        let mut line = String::new();
        match io::stdin().read_line(&mut line)? {
            _ if line.ends_with('\n') => Ok(line.trim_end_matches('\n').to_owned()),
            _ => Err(io::Error::other("EOF")),
        }
    })
}

/// A line that was typed.
enum Line {
    Watch(Wanted),
    Progress,
    Wrong(String),
}

impl Line {
    fn parse(text: &str, named: &Named) -> Result<Line, Failure> {
        let words = words(text).map_err(|error| Exit::InvalidInput.because(error))?;
        match words.split_first().map(|(first, rest)| (first.as_slice(), rest)) {
            None => Ok(Line::Wrong(format!("Invalid command: {text} (watch and progress supported)"))),
            Some((b"watch", [])) if named.key.is_empty() => {
                Ok(Line::Wrong(format!("Invalid command {text} (command type or key is not provided)")))
            }
            Some((b"watch", rest)) => {
                let mut values = Values::defaults(FLAGS);
                match values.parse(rest).map_err(Failure::bad_args)? {
                    Parsed::Arguments(args) => Ok(Line::Watch(Wanted::of(rest, &args, named, &values)?)),
                    Parsed::Help => Err(Failure::bad_args("pflag: help requested")),
                }
            }
            Some((b"progress", _)) => Ok(Line::Progress),
            Some(_) => Ok(Line::Wrong(format!("Invalid command {text} (only support watch)"))),
        }
    }
}

/// The key and the end of the range by variables of the environment; empty: none.
struct Named {
    key: Vec<u8>,
    range_end: Vec<u8>,
}

impl Named {
    fn by_variables(call: &Invocation<'_>) -> Result<Named, Failure> {
        let [key, range_end] =
            ["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"].map(|name| call.variable(name));
        if key.is_empty() && !range_end.is_empty() {
            return Err(Failure::bad_args(format!(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
                quote(&range_end)
            )));
        }
        Ok(Named { key, range_end })
    }
}

/// What is to be watched, and what is run for each event.
struct Wanted {
    keys: Vec<Vec<u8>>,
    command: Option<Vec<Vec<u8>>>,
    prefix: bool,
    rev: i64,
    prev_kv: bool,
    progress_notify: bool,
}

impl Wanted {
    /// `line` is the command line, and `args` what is left of it without flags. A command is behind `--`.
    fn of(line: &[Vec<u8>], args: &[Vec<u8>], named: &Named, values: &Values) -> Result<Wanted, Failure> {
        let separator = line.iter().position(|word| word == b"--");
        let command = match separator.map(|at| &line[at + 1..]) {
            Some([]) => return Err(Failure::bad_args(NO_COMMAND)),
            command => command.map(<[Vec<u8>]>::to_vec),
        };
        let typed = &args[..args.len() - command.as_ref().map_or(0, Vec::len)];
        let keys = match (named.key.is_empty(), typed) {
            (true, typed) => typed.to_vec(),
            (false, []) => {
                let end = Some(named.range_end.clone()).filter(|end| !end.is_empty());
                std::iter::once(named.key.clone()).chain(end).collect()
            }
            (false, _) => return Err(Failure::bad_args(CONFLICT)),
        };
        if keys.is_empty() {
            return Err(Failure::bad_args(BAD_NUMBER));
        }
        Ok(Wanted {
            keys,
            command,
            prefix: values.switch("prefix"),
            rev: values.int("rev"),
            prev_kv: values.switch("prev-kv"),
            progress_notify: values.switch("progress-notify"),
        })
    }

    fn request(&self) -> Result<WatchCreateRequest, Failure> {
        if self.keys.len() == 2 && self.prefix {
            return Err(Failure::bad_args("`range_end` and `--prefix` are mutually exclusive"));
        }
        // etcdctl leaves a third argument unread.
        let keys = if self.keys.len() == 2 { &self.keys[..] } else { &self.keys[..1] };
        let (key, range_end) = range(keys, self.prefix, false)?;
        Ok(WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: self.rev,
            progress_notify: self.progress_notify,
            filters: Vec::new(),
            prev_kv: self.prev_kv,
            watch_id: 0,
            fragment: false,
        })
    }
}

fn show(session: &Session, response: &WatchResponse) -> Result<(), Failure> {
    if let Some(error) = watch_error(response) {
        complain(format_args!("watch was canceled ({error})"));
    }
    let revision = response.header.map_or(0, |header| header.revision);
    if response.events.is_empty() && !is_over(response) && revision != 0 {
        output::line(format_args!("progress notify: {revision}"))?;
    }
    session.print(&Shown::Watch(response))
}

/// All watches have ended.
fn show_end(session: &Session, error: &ClientError) -> Result<(), Failure> {
    complain(format_args!("watch was canceled ({error})"));
    let response = WatchResponse { canceled: true, ..WatchResponse::default() };
    session.print(&Shown::Watch(&response))
}

/// Once for each watch that has seen it.
async fn show_to_all(
    session: &Session,
    seen: &Seen,
    commands: &[Option<Vec<Vec<u8>>>],
) -> Result<(), Failure> {
    for watch in &seen.watches {
        show(session, &seen.response)?;
        run_for_events(commands[*watch].as_ref(), &seen.response).await?;
    }
    Ok(())
}

fn is_over(response: &WatchResponse) -> bool {
    response.canceled || response.compact_revision != 0
}

async fn run_for_events(command: Option<&Vec<Vec<u8>>>, response: &WatchResponse) -> Result<(), Failure> {
    let Some(command) = command else { return Ok(()) };
    let revision = response.header.map_or(0, |header| header.revision);
    for event in &response.events {
        let program = Program::new(command, variables(event, revision));
        if let Err(error) = program.run().await {
            let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
            complain(format_args!("command [{}] error ({error})", words.join(" ")));
            return Err(Failure::silent(Exit::Error));
        }
    }
    Ok(())
}

fn variables(event: &Event, revision: i64) -> Vec<(&'static str, Vec<u8>)> {
    let kv = event.kv.clone().unwrap_or_default();
    vec![
        ("ETCD_WATCH_REVISION", revision.to_string().into_bytes()),
        ("ETCD_WATCH_EVENT_TYPE", quote(event_type(event).as_bytes()).into_bytes()),
        ("ETCD_WATCH_KEY", quote(&kv.key).into_bytes()),
        ("ETCD_WATCH_VALUE", quote(&kv.value).into_bytes()),
    ]
}
