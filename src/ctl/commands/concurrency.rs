//! `lock` and `elect`: who may, of those who want to.
//!
//! Both queue up: whoever wants to writes a key of its own below a common prefix, attached to a lease that it keeps
//! alive, and it is the turn of the oldest of these keys. The keys are those of etcd's clients, so that all of them can
//! wait for each other.

use std::{convert::Infallible, future::Future, time::Duration};

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::{
    cli::{Command, Exit, Failure, Flag, Group, Invocation, output::notice},
    ctl::{
        client::{
            Client, ClientError, DELETE_RANGE, Deadline, KeepAlive, LEASE_GRANT, RANGE, TXN, Watcher,
            watch_error,
        },
        printer::Shown,
        process::{Program, RunError},
        ranges::prefix_end,
        session::Session,
    },
    pb::{
        etcdserverpb::{
            Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
            RequestOp, ResponseHeader, TxnRequest, WatchCreateRequest, WatchResponse,
            compare::{CompareResult, CompareTarget, TargetUnion},
            range_request::{SortOrder, SortTarget},
            request_op::Request,
            response_op::Response,
        },
        mvccpb::{KeyValue, event::EventType},
    },
    signals::Signals,
};

pub(in crate::ctl) const LOCK: Command =
    Command::new("lock", "<lockname> [exec-command arg1 arg2 ...]", "Waits for a lock, and holds it")
        .long(
            "Waits for a lock, and holds it until it is interrupted, or until <exec-command> has ended, which is run with the \
             variables ETCD_LOCK_KEY and ETCD_LOCK_REV.\n",
        )
        .of(Group::Concurrency)
        .flags(&[Flag::int("ttl", "how many seconds the lock outlives this command if it is killed").or("10")])
        .runs(lock);

pub(in crate::ctl) const ELECT: Command =
    Command::new("elect", "<election-name> [proposal]", "Takes part in an election, or watches one")
        .of(Group::Concurrency)
        .flags(&[Flag::switch("listen", "watch who is elected").short('l')])
        .runs(elect);

/// The life of the lease of whoever takes part in an election.
const ELECTION_TTL_SECS: i64 = 60;

fn lock<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let Some((name, command)) = call.args.split_first() else {
            return Err(Failure::bad_args(
                "lock takes a lock name argument and an optional command to execute",
            ));
        };
        let (session, client) = call.connect().await?;
        let mut signals = Signals::listen().map_err(|error| Exit::Error.because(error))?;
        let ttl = call.values.int("ttl");
        let mut lease = Lease::grant(&session, &client, if ttl > 0 { ttl } else { 10 }).await?;
        let mut turn = Turn::new(&client, name, lease.id);
        let acquired = tokio::select! { biased;
            _ = signals.next() => Err(Exit::Error.because("context canceled")),
            acquired = turn.wait(b"") => acquired.map_err(Failure::from),
            () = lease.ended() => Err(Exit::Error.because("mutex: session is expired")),
        };
        let revision = match acquired {
            Ok(header) => header.revision,
            Err(failure) => {
                // Nobody else has to wait for this one any longer.
                let _ = turn.leave(session.deadline()).await;
                return Err(failure);
            }
        };
        if !command.is_empty() {
            let variables = vec![
                ("ETCD_LOCK_KEY", turn.key.clone()),
                ("ETCD_LOCK_REV", revision.to_string().into_bytes()),
            ];
            let ran = lease.alive_during(Program::new(command, variables).run()).await;
            let left = turn.leave(session.deadline()).await;
            ran.map_err(|error| program_failed(&error))?;
            return Ok(left?);
        }
        show_own_key(&session, &client, &turn.key, "lock lost on init").await?;
        tokio::select! { biased;
            _ = signals.next() => Ok(turn.leave(session.deadline()).await?),
            () = lease.ended() => Err(Exit::Error.because("session expired")),
        }
    }
    .boxed_local()
}

/// With the exit code of the program.
fn program_failed(error: &RunError) -> Failure {
    match error {
        RunError::Failed(status) => Failure::Exited {
            code: status.code().map_or(u8::MAX, |code| code as u8),
            text: error.to_string(),
        },
        RunError::NotFound { .. } | RunError::NotStarted { .. } => Exit::Error.because(error),
    }
}

fn elect<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if !(1..=2).contains(&call.args.len()) {
            return Err(Failure::bad_args(
                "elect takes one election name argument and an optional proposal argument",
            ));
        }
        let (session, client) = call.connect().await?;
        let name = &call.args[0];
        match (call.args.get(1), call.values.switch("listen")) {
            (None, false) => Err(Failure::bad_args("no proposal argument but -l not set")),
            (Some(_), true) => Err(Failure::bad_args("proposal given but -l is set")),
            (None, true) => observe(&session, &client, name).await,
            (Some(proposal), false) => campaign(&session, &client, name, proposal).await,
        }
    }
    .boxed_local()
}

async fn campaign(session: &Session, client: &Client, name: &[u8], proposal: &[u8]) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(|error| Exit::Error.because(error))?;
    let mut lease = Lease::grant(session, client, ELECTION_TTL_SECS).await?;
    let mut turn = Turn::new(client, name, lease.id);
    let elected = tokio::select! { biased;
        _ = signals.next() => Err(Exit::Error.because("context canceled")),
        elected = turn.wait(proposal) => elected.map(drop).map_err(Failure::from),
        () = lease.ended() => Err(Exit::Error.because("elect: session expired")),
    };
    if let Err(failure) = elected {
        let _ = turn.leave(session.deadline()).await;
        return Err(failure);
    }
    show_own_key(session, client, &turn.key, "elect: session expired").await?;
    tokio::select! { biased;
        _ = signals.next() => Ok(turn.leave(session.deadline()).await?),
        () = lease.ended() => Err(Exit::Error.because("elect: session expired")),
    }
}

/// Shows who is elected, until it is interrupted.
async fn observe(session: &Session, client: &Client, name: &[u8]) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(|error| Exit::Error.because(error))?;
    let observed = tokio::select! { biased;
        _ = signals.next() => return Ok(()),
        observed = observe_all(session, client, name) => observed,
    };
    match observed {
        Err(Observed::Shown(failure)) => Err(failure),
        Err(Observed::Client(error)) => {
            notice(format_args!("{error}"));
            Err(Exit::Error.because("elect: observer lost"))
        }
        Ok(never) => match never {},
    }
}

enum Observed {
    Shown(Failure),
    Client(ClientError),
}

impl From<ClientError> for Observed {
    fn from(error: ClientError) -> Observed {
        Observed::Client(error)
    }
}

async fn observe_all(session: &Session, client: &Client, name: &[u8]) -> Result<Infallible, Observed> {
    let prefix = prefix_of(name);
    let show = |header: Option<ResponseHeader>, kv: KeyValue| {
        let response = RangeResponse { header, kvs: vec![kv], more: false, count: 0 };
        session.print(&Shown::Get(&response)).map_err(Observed::Shown)
    };
    loop {
        let oldest = client.call(&RANGE, &edge(&prefix, SortOrder::Ascend, 0), Deadline::never()).await?;
        let revision = oldest.header.map_or(0, |header| header.revision);
        let (header, leader) = match oldest.kvs.into_iter().next() {
            Some(leader) => (oldest.header, leader),
            None => first_put(client, &prefix, revision).await?,
        };
        let (key, seen) = (leader.key.clone(), header.map_or(0, |header| header.revision));
        show(header, leader)?;
        let request = WatchCreateRequest { key, start_revision: seen + 1, ..WatchCreateRequest::default() };
        let mut watcher = Watcher::new(client);
        watcher.add(request).await;
        'reign: loop {
            let response = checked(watcher.next().await?.response)?;
            for event in response.events {
                if event.r#type() == EventType::Delete {
                    break 'reign;
                }
                show(response.header, event.kv.unwrap_or_default())?;
            }
        }
    }
}

/// The first key that is written below the prefix from the revision on.
async fn first_put(
    client: &Client,
    prefix: &[u8],
    revision: i64,
) -> Result<(Option<ResponseHeader>, KeyValue), ClientError> {
    let request = WatchCreateRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        start_revision: revision,
        ..WatchCreateRequest::default()
    };
    let mut watcher = Watcher::new(client);
    watcher.add(request).await;
    loop {
        let response = checked(watcher.next().await?.response)?;
        let put = response.events.into_iter().find(|event| event.r#type() == EventType::Put);
        if let Some(kv) = put.and_then(|event| event.kv) {
            let header = response.header.map(|header| ResponseHeader { revision: kv.mod_revision, ..header });
            return Ok((header, kv));
        }
    }
}

/// A lease that lives as long as the command.
struct Lease<'a> {
    id: i64,
    keep_alive: KeepAlive<'a>,
}

impl<'a> Lease<'a> {
    async fn grant(session: &Session, client: &'a Client, ttl: i64) -> Result<Lease<'a>, Failure> {
        let granted =
            client.call(&LEASE_GRANT, &LeaseGrantRequest { ttl, id: 0 }, session.deadline()).await?;
        let life = Duration::from_secs(granted.ttl.unsigned_abs());
        Ok(Lease { id: granted.id, keep_alive: KeepAlive::granted(client, granted.id, life) })
    }

    /// Keeps it alive until it has ended all the same.
    async fn ended(&mut self) {
        while self.keep_alive.next().await.is_ok() {}
    }

    /// Keeps it alive while something else is done, which is not stopped if the lease ends.
    async fn alive_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! { biased;
            done = &mut work => done,
            () = self.ended() => work.await,
        }
    }
}

/// A place in a queue.
struct Turn<'a> {
    client: &'a Client,
    prefix: Vec<u8>,
    key: Vec<u8>,
    lease: i64,
    /// The revision at which its key was created; 0 before.
    created: i64,
}

impl<'a> Turn<'a> {
    fn new(client: &'a Client, name: &[u8], lease: i64) -> Turn<'a> {
        let prefix = prefix_of(name);
        let key = [&prefix[..], format!("{lease:x}").as_bytes()].concat();
        Turn { client, prefix, key, lease, created: 0 }
    }

    /// Waits until it is its turn. The header is the one of the answer that said so.
    async fn wait(&mut self, value: &[u8]) -> Result<ResponseHeader, ClientError> {
        let mut header = self.queue_up(value).await?;
        loop {
            let request = edge(&self.prefix, SortOrder::Descend, self.created - 1);
            let before = self.client.call(&RANGE, &request, Deadline::never()).await?;
            let Some(last) = before.kvs.into_iter().next() else { return Ok(header) };
            header = before.header.unwrap_or_default();
            wait_for_deletion(self.client, last, header.revision).await?;
        }
    }

    async fn queue_up(&mut self, value: &[u8]) -> Result<ResponseHeader, ClientError> {
        let put = PutRequest {
            key: self.key.clone().into(),
            value: value.to_vec().into(),
            lease: self.lease,
            ..PutRequest::default()
        };
        let get = RangeRequest { key: self.key.clone().into(), ..RangeRequest::default() };
        let request = TxnRequest {
            compare: vec![created_at(&self.key, 0)],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
        };
        let answer = self.client.call(&TXN, &request, Deadline::never()).await?;
        let header = answer.header.unwrap_or_default();
        let found = answer.responses.into_iter().find_map(|part| match part.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        self.created = found.map_or(header.revision, |kv| kv.create_revision);
        Ok(header)
    }

    async fn leave(&self, deadline: Deadline) -> Result<(), ClientError> {
        let request = DeleteRangeRequest { key: self.key.clone().into(), ..DeleteRangeRequest::default() };
        self.client.call(&DELETE_RANGE, &request, deadline).await.map(drop)
    }
}

async fn wait_for_deletion(client: &Client, kv: KeyValue, revision: i64) -> Result<(), ClientError> {
    let request =
        WatchCreateRequest { key: kv.key, start_revision: revision + 1, ..WatchCreateRequest::default() };
    let mut watcher = Watcher::new(client);
    watcher.add(request).await;
    loop {
        let response = checked(watcher.next().await?.response)?;
        if response.events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(());
        }
    }
}

fn checked(response: WatchResponse) -> Result<WatchResponse, ClientError> {
    match watch_error(&response) {
        Some(error) => Err(ClientError::Refused(error)),
        None => Ok(response),
    }
}

fn prefix_of(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// The oldest or the newest key below a prefix, of those created at `max_create_revision` or earlier (0: all).
fn edge(prefix: &[u8], order: SortOrder, max_create_revision: i64) -> RangeRequest {
    RangeRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        max_create_revision,
        ..RangeRequest::default()
    }
}

fn created_at(key: &[u8], revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.to_vec().into(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

async fn show_own_key(session: &Session, client: &Client, key: &[u8], lost: &str) -> Result<(), Failure> {
    let request = RangeRequest { key: key.to_vec().into(), ..RangeRequest::default() };
    let own = client.call(&RANGE, &request, session.deadline()).await?;
    if own.kvs.is_empty() {
        return Err(Exit::Error.because(lost));
    }
    session.print(&Shown::Get(&own))
}
