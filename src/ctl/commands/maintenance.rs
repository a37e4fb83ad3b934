//! What keeps a cluster going: `compaction`, `alarm`, `move-leader`, `downgrade` and `snapshot`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::{
    cli::{
        Command, Exit, Failure, Flag, Group, Invocation,
        go::{self, Listed, reason},
        output,
    },
    ctl::{
        client::{ALARM, COMPACT, Client, ClientError, DOWNGRADE, Deadline, MOVE_LEADER, SNAPSHOT, STATUS},
        printer::Shown,
    },
    pb::etcdserverpb::{
        AlarmRequest, AlarmResponse, CompactionRequest, DowngradeRequest, MoveLeaderRequest, SnapshotRequest,
        StatusRequest, alarm_request::AlarmAction, downgrade_request::DowngradeAction,
    },
    telemetry::{HumanBytes, Terminal},
};

pub(in crate::ctl) const COMPACTION: Command =
    Command::new("compaction", "[options] <revision>", "Forgets what keys were before a revision")
        .of(Group::KeyValue)
        .flags(&[Flag::switch("physical", "wait until it is forgotten on the disk too")])
        .runs(compaction);

pub(in crate::ctl) const ALARM_COMMAND: Command =
    Command::new("alarm", "<subcommand>", "Commands about alarms").of(Group::Maintenance).below(&[
        Command::new("disarm", "", "Ends all alarms").runs(alarm_disarm),
        Command::new("list", "", "Lists all alarms").runs(alarm_list),
    ]);

pub(in crate::ctl) const MOVE_LEADER_COMMAND: Command =
    Command::new("move-leader", "<transferee-member-id>", "Makes another member the leader")
        .of(Group::Maintenance)
        .runs(move_leader);

pub(in crate::ctl) const DOWNGRADE_COMMAND: Command =
    Command::new("downgrade", "<TARGET_VERSION>", "Commands about going back to an earlier version")
        .of(Group::Maintenance)
        .below(&[
            Command::new("cancel", "", "Ends a downgrade that is going on").runs(downgrade_cancel),
            Command::new("enable", "<TARGET_VERSION>", "Begins a downgrade").runs(downgrade_enable),
            Command::new("validate", "<TARGET_VERSION>", "Checks whether a downgrade is possible")
                .runs(downgrade_validate),
        ]);

pub(in crate::ctl) const SNAPSHOT_COMMAND: Command =
    Command::new("snapshot", "<subcommand>", "Commands about snapshots of a member")
        .of(Group::Maintenance)
        .below(&[
            Command::new("save", "<filename>", "Saves a snapshot of a member to a file").runs(snapshot_save)
        ]);

fn compaction<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("compaction command needs 1 argument"));
        }
        let revision = go::parse_int(&call.text(0), 10).map_err(|error| Exit::Error.because(error))?;
        let (session, client) = call.connect().await?;
        let request = CompactionRequest { revision, physical: call.values.switch("physical") };
        client.call(&COMPACT, &request, session.deadline()).await?;
        output::line(format_args!("compacted revision {revision}"))
    }
    .boxed_local()
}

fn alarm_list<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if !call.args.is_empty() {
            return Err(Failure::bad_args("alarm list command accepts no arguments"));
        }
        let (session, client) = call.connect().await?;
        let answer = client.call(&ALARM, &AlarmRequest::default(), session.deadline()).await?;
        session.print(&Shown::Alarm(&answer))
    }
    .boxed_local()
}

fn alarm_disarm<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if !call.args.is_empty() {
            return Err(Failure::bad_args("alarm disarm command accepts no arguments"));
        }
        let (session, client) = call.connect().await?;
        let deadline = session.deadline();
        let raised = client.call(&ALARM, &AlarmRequest::default(), deadline).await?;
        // What is shown has no header, because it is made of several answers.
        let mut ended = AlarmResponse::default();
        for alarm in raised.alarms {
            let action = AlarmAction::Deactivate.into();
            let request = AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
            ended.alarms.extend(client.call(&ALARM, &request, deadline).await?.alarms);
        }
        session.print(&Shown::Alarm(&ended))
    }
    .boxed_local()
}

fn move_leader<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("move-leader command needs 1 argument"));
        }
        let target =
            go::parse_uint(&call.text(0), 16).map_err(|error| Failure::bad_args(error.to_string()))?;
        let session = call.session()?;
        let deadline = session.deadline();
        for endpoint in &session.dial.endpoints {
            let client = session.client(&session.dial.only(endpoint)).await?;
            let status = client.call(&STATUS, &StatusRequest {}, deadline).await?;
            let leader = status.leader;
            if status.header.is_some_and(|header| header.member_id == leader) {
                let request = MoveLeaderRequest { target_id: target };
                let response = client.call(&MOVE_LEADER, &request, deadline).await?;
                return session.print(&Shown::MoveLeader { leader, target, response: &response });
            }
        }
        Err(Failure::bad_args(format!("no leader endpoint given at {}", Listed(&session.dial.endpoints))))
    }
    .boxed_local()
}

fn downgrade_validate<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move { downgrade(call, DowngradeAction::Validate, target_version(call)?).await }.boxed_local()
}

fn downgrade_enable<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move { downgrade(call, DowngradeAction::Enable, target_version(call)?).await }.boxed_local()
}

fn downgrade_cancel<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move { downgrade(call, DowngradeAction::Cancel, String::new()).await }.boxed_local()
}

fn target_version(call: &Invocation<'_>) -> Result<String, Failure> {
    match call.args.as_slice() {
        [] => Err(Failure::bad_args("TARGET_VERSION not provided")),
        [version] if version.is_empty() => Err(Failure::bad_args("target version not provided")),
        [_] => Ok(call.text(0)),
        [..] => Err(Failure::bad_args("too many arguments")),
    }
}

async fn downgrade(call: &Invocation<'_>, action: DowngradeAction, version: String) -> Result<(), Failure> {
    let (session, client) = call.connect().await?;
    let request = DowngradeRequest { action: action.into(), version };
    let answer = client.call(&DOWNGRADE, &request, session.deadline()).await?;
    session.print(&Shown::Downgrade(action, &answer))
}

fn snapshot_save<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 1 {
            return Err(Failure::bad_args("snapshot save expects one argument <filename>"));
        }
        let session = call.session()?;
        let interrupted = |error: SaveError| Exit::Interrupted.because(error);
        let [_] = session.dial.endpoints.as_slice() else {
            return Err(interrupted(SaveError::Endpoints(Listed(&session.dial.endpoints).to_string())));
        };
        let client = Client::open(&session.dial).await.map_err(|error| interrupted(error.into()))?;
        // A large database takes as long as it takes, unless somebody has said how long.
        let is_bounded = session.values.is_set("command-timeout");
        let deadline = if is_bounded { session.deadline() } else { Deadline::never() };
        let path = PathBuf::from(call.text(0));
        let version = match deadline.bound(save(&client, &path, deadline)).await {
            Some(saved) => saved.map_err(interrupted)?,
            None => return Err(interrupted(ClientError::DeadlineExceeded.into())),
        };
        output::line(format_args!("Snapshot saved at {}", path.display()))?;
        if !version.is_empty() {
            output::line(format_args!("Server version {version}"))?;
        }
        Ok(())
    }
    .boxed_local()
}

#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error("snapshot must be requested to one selected node, not multiple {0}")]
    Endpoints(String),
    #[error("could not open {0} (open {0}: {1})", path.display(), reason(error))]
    Open { path: PathBuf, error: io::Error },
    #[error("could not write snapshot: {}", reason(.0))]
    Write(io::Error),
    #[error("could not fsync snapshot: {}", reason(.0))]
    Sync(io::Error),
    #[error("sha256 checksum not found [bytes: {0}]")]
    Checksum(u64),
    #[error("could not rename {} to {} ({})", from.display(), to.display(), reason(error))]
    Rename { from: PathBuf, to: PathBuf, error: io::Error },
    #[error("{0}")]
    Client(#[from] ClientError),
}

/// A file that is not complete has another name, and is removed, also when the time is over.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // It is not there after it was renamed.
        let _ = fs::remove_file(&self.0);
    }
}

/// Returns the version of the server, which it says from etcd 3.6 on.
async fn save(client: &Client, path: &Path, deadline: Deadline) -> Result<String, SaveError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let draft = Draft(PathBuf::from(name));
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft.0);
    let file = file.map_err(|error| SaveError::Open { path: draft.0.clone(), error })?;
    let version = fetch(client, &file, deadline).await?;
    file.sync_all().map_err(SaveError::Sync)?;
    fs::rename(&draft.0, path).map_err(|error| SaveError::Rename {
        from: draft.0.clone(),
        to: path.to_owned(),
        error,
    })?;
    Ok(version)
}

async fn fetch(client: &Client, mut file: &File, deadline: Deadline) -> Result<String, SaveError> {
    const SECTOR_BYTES: u64 = 512;
    const SHA256_BYTES: u64 = 32;
    let mut terminal = Terminal::default();
    let mut pieces = client.stream(&SNAPSHOT, &SnapshotRequest {}, deadline).await?;
    let mut version = String::new();
    let mut bytes = 0;
    while let Some(piece) = pieces.message().await.map_err(ClientError::of)? {
        if version.is_empty() {
            version = piece.version;
        }
        file.write_all(&piece.blob).map_err(SaveError::Write)?;
        bytes += piece.blob.len() as u64;
        let total = bytes + piece.remaining_bytes;
        let shown = |bytes: u64| HumanBytes(i64::try_from(bytes).unwrap_or(i64::MAX));
        terminal.show(|| format!("saved {} of {}", shown(bytes), shown(total)));
    }
    terminal.clear();
    // The pages of the database, and the sum behind them.
    if bytes % SECTOR_BYTES != SHA256_BYTES {
        return Err(SaveError::Checksum(bytes));
    }
    Ok(version)
}
