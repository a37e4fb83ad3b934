//! `endpoint` and `defrag`: commands that ask one endpoint after the other.

use std::time::Duration;

use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, join_all},
};
use tokio::time::Instant;

use crate::{
    cli::{
        Command, Exit, Failure, Flag, Group, Invocation,
        output::{self, complain},
    },
    ctl::{
        client::{ALARM, Client, DEFRAGMENT, HASH_KV, MEMBER_LIST, RANGE, STATUS},
        printer::{Health, Shown},
        session::Session,
    },
    pb::etcdserverpb::{
        AlarmRequest, AlarmType, DefragmentRequest, HashKvRequest, MemberListRequest, RangeRequest,
        StatusRequest,
    },
    telemetry::GoDuration,
};

const CLUSTER: &[Flag] =
    &[Flag::switch("cluster", "all endpoints of the cluster, which a member is asked for")];

pub(in crate::ctl) const ENDPOINT: Command = Command::new("endpoint", "<subcommand>", "Commands about endpoints")
    .of(Group::Maintenance)
    .inherited(CLUSTER)
    .below(&[
        Command::new("hashkv", "", "Shows a hash of the keys and their history at each endpoint")
            .flags(&[Flag::int("rev", "the newest revision to hash (0: the newest)")])
            .runs(hash_kv),
        Command::new("health", "", "Checks whether the endpoints in --endpoints serve").runs(health),
        Command::new("status", "", "Shows the status of the endpoints in --endpoints")
            .long(
                "Shows the status of the endpoints in --endpoints.\n\nThe format \"simple\" has a line for each endpoint: endpoint, ID, \
                 version, storage version, size of the database, size in use, percentage not in use, quota, whether it is the \
                 leader, whether it is a learner, Raft term, Raft index, applied Raft index, errors, downgrade target, and whether \
                 a downgrade is going on.\n",
            )
            .runs(status),
    ]);

pub(in crate::ctl) const DEFRAG: Command =
    Command::new("defrag", "", "Gives the free space in the members' databases back to the system")
        .of(Group::Maintenance)
        .flags(CLUSTER)
        .runs(defrag);

fn status<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let session = call.session()?;
        let mut statuses = Vec::new();
        let mut failed = false;
        for endpoint in endpoints(&session).await? {
            let client = session.client(&session.dial.only(&endpoint)).await?;
            match client.call(&STATUS, &StatusRequest {}, session.deadline()).await {
                Ok(status) => statuses.push((endpoint, status)),
                Err(error) => {
                    failed = true;
                    complain(format_args!("Failed to get the status of endpoint {endpoint} ({error})"));
                }
            }
        }
        session.print(&Shown::Status(&statuses))?;
        if failed { Err(Failure::silent(Exit::Error)) } else { Ok(()) }
    }
    .boxed_local()
}

fn hash_kv<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let session = call.session()?;
        let request = HashKvRequest { revision: call.values.int("rev") };
        let mut hashes = Vec::new();
        let mut last_error = None;
        for endpoint in endpoints(&session).await? {
            let client = session.client(&session.dial.only(&endpoint)).await?;
            match client.call(&HASH_KV, &request, session.deadline()).await {
                Ok(hash) => hashes.push((endpoint, hash)),
                Err(error) => {
                    complain(format_args!("Failed to get the hash of endpoint {endpoint} ({error})"));
                    last_error = Some(error);
                }
            }
        }
        session.print(&Shown::HashKv(&hashes))?;
        last_error.map_or(Ok(()), |error| Err(error.into()))
    }
    .boxed_local()
}

fn health<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let session = call.session()?;
        let endpoints = endpoints(&session).await?;
        let healths = join_all(endpoints.into_iter().map(|endpoint| health_of(&session, endpoint))).await;
        session.print(&Shown::Health(&healths))?;
        if healths.iter().any(|health| !health.error.is_empty()) {
            return Err(Exit::Error.because("unhealthy cluster"));
        }
        Ok(())
    }
    .boxed_local()
}

async fn health_of(session: &Session, endpoint: String) -> Health {
    let (took, error) = match Client::open(&session.dial.only(&endpoint)).await {
        Ok(client) => {
            let (took, error) = trouble(session, &client).await;
            (GoDuration(took).to_string(), error)
        }
        Err(error) => (String::new(), Some(error.to_string())),
    };
    Health { endpoint, is_healthy: error.is_none(), took, error: error.unwrap_or_default() }
}

/// A read that needs a majority, and the alarms. A user without permission is refused only after that.
async fn trouble(session: &Session, client: &Client) -> (Duration, Option<String>) {
    const PERMISSION_DENIED: &str = "etcdserver: permission denied";
    let (begin, deadline) = (Instant::now(), session.deadline());
    let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
    let read = client.call(&RANGE, &request, deadline).await;
    let took = begin.elapsed();
    match read {
        Err(error) if !error.says(PERMISSION_DENIED) => return (took, Some(error.to_string())),
        Ok(_) | Err(_) => {}
    }
    let trouble = match client.call(&ALARM, &AlarmRequest::default(), deadline).await {
        Ok(answer) if answer.alarms.is_empty() => None,
        Ok(answer) => {
            let name = |alarm: AlarmType| match alarm {
                AlarmType::Nospace => "NOSPACE ",
                AlarmType::Corrupt => "CORRUPT ",
                AlarmType::None => "UNKNOWN ",
            };
            let names = answer.alarms.iter().map(|member| name(member.alarm()));
            Some(format!("Active Alarm(s): {}", names.collect::<String>()))
        }
        Err(_) => Some("Unable to fetch the alarm list".to_owned()),
    };
    (took, trouble)
}

fn defrag<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let session = call.session()?;
        let mut failed = false;
        for endpoint in endpoints(&session).await? {
            let client = session.client(&session.dial.only(&endpoint)).await?;
            let begin = Instant::now();
            let done = client.call(&DEFRAGMENT, &DefragmentRequest {}, session.deadline()).await;
            let took = GoDuration(begin.elapsed());
            match done {
                Ok(_) => {
                    output::line(format_args!("Finished defragmenting etcd member[{endpoint}]. took {took}"))?
                }
                Err(error) => {
                    failed = true;
                    complain(format_args!(
                        "Failed to defragment etcd member[{endpoint}]. took {took}. ({error})"
                    ));
                }
            }
        }
        if failed { Err(Failure::silent(Exit::Error)) } else { Ok(()) }
    }
    .boxed_local()
}

/// Those in `--endpoints`, or with `--cluster` those of all members.
async fn endpoints(session: &Session) -> Result<Vec<String>, Failure> {
    if !session.values.switch("cluster") {
        return Ok(session.values.list("endpoints").to_vec());
    }
    let client = Client::open(&session.dial).await?;
    let members =
        client.call(&MEMBER_LIST, &MemberListRequest { linearizable: true }, session.deadline()).await;
    let members = members.map_err(|error| {
        Exit::Error.because(format_args!("failed to fetch endpoints from etcd cluster member list: {error}"))
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}
