//! `retcd follow`: moves the keys of a running cluster to another one, with seconds of pause.
//!
//! ```text
//! compare all keys ---> follow by watch ---> cut over ---> follow to the end ---> verify
//!        ^                    |
//!        +--- the source has compacted what was to be followed
//! ```
//!
//! The first comparison with an empty destination copies everything; after an interruption it writes what differs. Keys
//! are written with their leases. Revisions are those of the destination, and its history begins with the copy. Roles and
//! users are copied at the end where that is asked for, without passwords.

mod batch;
mod compare;
mod leases;
mod order;
mod patience;
mod users;

use std::time::Duration;

use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, join},
};
use tokio::time::{self, Instant, Interval, MissedTickBehavior};

use self::{
    batch::{Batch, Change, change_bytes},
    compare::{Differences, Totals},
    leases::Leases,
    order::Orders,
    patience::{passes, patiently},
    users::{Accounts, Remaining},
};
use super::{
    client::{Client, ClientError, Deadline, RANGE, TXN, Watcher, watch_error},
    ranges::OPEN_END,
    settings::{Dial, GLOBAL, Login, Security},
};
use crate::{
    cli::{Command, Exit, Failure, Flag, Invocation, Kind, Values, output},
    limits,
    pb::{
        etcdserverpb::{RangeRequest, TxnRequest, WatchCreateRequest, WatchResponse},
        mvccpb::{Event, event::EventType},
    },
    telemetry::Terminal,
};

/// A tool of one command.
pub(crate) static FOLLOW: Command = Command::new(
    "follow",
    "--from URLS [--to URLS]",
    "Copies the keys of a running etcd, and goes on with what happens to them until it is told to cut over.",
)
.long(
    "Copies the keys of a running etcd to a cluster of retcd, with their leases, and goes on with what happens to them until it is told to cut \
     over. So a move costs a pause of seconds:\n\n  1. Start `retcd follow`, and wait for \"caught up\".\n  2. Stop the clients of the old \
     cluster.\n  3. Type `cutover`, or send SIGUSR1 to this process. It follows to the end, and compares both clusters.\n  4. Start the clients \
     with the endpoints of the new cluster.\n\nRevisions differ then: they are those of the new cluster, whose history begins with the copy. \
     Leases have their ids and whole TTLs, and are renewed for as long as the old cluster has them. Nothing else may write to the new \
     cluster meanwhile. With --users, roles and users are copied after the keys, but for the passwords, which etcd tells nobody: the commands that \
     set them are listed at the end.\n\nThe exit code is 0 after a cutover that was verified; 1 if something failed; 2 if nobody could log in; 3 if \
     the clusters differ; 4 if the old cluster was still written to after the cutover. After any but 0, start it again with --reconcile.",
)
.flags(&[
    Flag::new(Kind::List, "from", "the endpoints of the old cluster").required(),
    Flag::text("from-user", "name[:password] of the user at the old cluster"),
    Flag::text("from-password", "the password of --from-user, which then has none itself"),
    Flag::text("from-cacert", "the file with the CAs that sign the certificates of the old cluster"),
    Flag::text("from-cert", "the file with the certificate to show to the old cluster"),
    Flag::text("from-key", "the file with the key of that certificate"),
    Flag::switch("from-insecure-skip-tls-verify", "take any certificate of the old cluster (for tests)"),
    Flag::new(Kind::List, "to", "the endpoints of the new cluster").or("127.0.0.1:2379"),
    Flag::text("to-user", "name[:password] of the user at the new cluster"),
    Flag::text("to-password", "the password of --to-user, which then has none itself"),
    Flag::text("to-cacert", "the file with the CAs that sign the certificates of the new cluster"),
    Flag::text("to-cert", "the file with the certificate to show to the new cluster"),
    Flag::text("to-key", "the file with the key of that certificate"),
    Flag::switch("to-insecure-skip-tls-verify", "take any certificate of the new cluster (for tests)"),
    Flag::switch(
        "reconcile",
        "the new cluster may have keys: those that differ are written, and those that the old one does not have are removed",
    ),
    Flag::switch(
        "users",
        "copy roles with their permissions too, and users with their roles; their passwords have to be set anew",
    ),
    Flag::new(
        Kind::Uint,
        "cutover-at-lag",
        "cut over as soon as it is behind by so many revisions at most, once no client writes to the old cluster any more",
    ),
])
.runs(follow);

/// The clusters differ after everything was followed.
const DIFFERENT: u8 = 3;
/// Somebody still writes to the source.
const STILL_WRITTEN: u8 = 4;

/// How often it is looked how far behind it is, and how often that is said where there is no terminal.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// How long it is waited for the source while looking.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// How often the leases of both are compared.
const LEASES_INTERVAL: Duration = Duration::from_secs(5);

fn follow<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if !call.args.is_empty() {
            return Err(Failure::bad_args("follow takes no arguments: name the old cluster with --from"));
        }
        let (from, to) = (dial(call, "from", "old")?, dial(call, "to", "new")?);
        if from.endpoints.iter().any(|endpoint| to.endpoints.contains(endpoint)) {
            return Err(Failure::bad_args("--from and --to name the same endpoint"));
        }
        let open =
            async |dial: &Dial| Client::open(dial).await.map_err(|error| Exit::BadConnection.because(error));
        let (source, destination) = (open(&from).await?, open(&to).await?);
        let at_lag = call.values.is_set("cutover-at-lag").then(|| call.values.uint("cutover-at-lag"));
        let mut follower = Follower {
            source: &source,
            destination: &destination,
            leases: Leases::new(&source, &destination),
            orders: Orders::listen()?,
            at_lag: at_lag.map(|lag| i64::try_from(lag).unwrap_or(i64::MAX)),
            copies_users: call.values.switch("users"),
            new_endpoints: to.endpoints.clone(),
            is_ordered: false,
            batch: Batch::default(),
            written: 0,
            display: Display::default(),
        };
        if !call.values.switch("reconcile") {
            follower.refuse_occupied().await?;
        }
        follower.run().await
    }
    .boxed_local()
}

/// How one of both clusters is reached. What is not about who is asked is as `retcd ctl` has it by default.
fn dial(call: &Invocation<'_>, side: &str, name: &str) -> Result<Dial, Failure> {
    let text = |flag: &str| call.values.text(&format!("{side}-{flag}"));
    let security = Security {
        cert: text("cert"),
        key: text("key"),
        cacert: text("cacert"),
        insecure_transport: true,
        skip_verify: call.values.switch(&format!("{side}-insecure-skip-tls-verify")),
    };
    let prompt = format!("Password at the {name} cluster: ");
    let endpoints = call.values.list(side).iter().map(|endpoint| endpoint.trim().to_owned());
    Ok(Dial {
        endpoints: endpoints.collect(),
        trust: security.trust()?,
        login: Login::with_password(text("user"), text("password"), &prompt)?,
        ..Dial::of(&Values::defaults(GLOBAL))?
    })
}

struct Follower<'a> {
    source: &'a Client,
    destination: &'a Client,
    leases: Leases<'a>,
    orders: Orders,
    /// Cut over once it is behind by so many revisions.
    at_lag: Option<i64>,
    copies_users: bool,
    /// Of the destination, for the commands that are left to the operator.
    new_endpoints: Vec<String>,
    /// It was told to cut over.
    is_ordered: bool,
    batch: Batch,
    /// Changes that were written to the destination.
    written: u64,
    display: Display,
}

/// How following has ended.
enum Followed {
    /// Everything up to the revision at which it was told to cut over.
    To(i64),
    /// What was to be followed has been compacted.
    Compacted,
    /// A lease has ended at the destination alone, with its keys.
    LeaseLost,
}

impl Follower<'_> {
    /// A destination with keys is most likely the wrong one.
    async fn refuse_occupied(&self) -> Result<(), Failure> {
        let request = RangeRequest { count_only: true, ..everything() };
        let found = self.destination.call(&RANGE, &request, Deadline::never()).await?;
        match found.count {
            0 => Ok(()),
            count => Err(Exit::Error.because(format_args!(
                "the cluster of --to has {count} keys already. If it is the right one, as after an interruption, add \
                 --reconcile: what differs is written, and keys that the cluster of --from does not have are removed"
            ))),
        }
    }

    async fn run(&mut self) -> Result<(), Failure> {
        let target = loop {
            let revision = self.copy().await?;
            match self.follow_from(revision).await? {
                Followed::To(revision) => break revision,
                Followed::Compacted => output::line(format_args!(
                    "the old cluster has compacted what was to be followed next: all keys are compared again"
                ))?,
                Followed::LeaseLost => output::line(format_args!(
                    "a lease that the old cluster has could not be renewed in time: all keys are compared again"
                ))?,
            }
        };
        self.verify(target).await
    }

    /// Makes the destination equal to what the source was at the revision that is returned, or later.
    async fn copy(&mut self) -> Result<i64, Failure> {
        self.leases.compare().await?;
        let mut differences = Differences::between(self.source, self.destination);
        let revision = differences.source_revision().await?;
        output::line(format_args!(
            "comparing all keys, beginning at revision {revision} of the old cluster"
        ))?;
        let before = self.written;
        let mut look = looks();
        loop {
            tokio::select! { biased;
                _ = look.tick() => {
                    self.leases.renew_due().await;
                    let (compared, written) = (differences.compared, self.written - before);
                    self.display.show(|| format!("{compared} keys compared, {written} written"));
                }
                difference = differences.next() => match difference? {
                    Some((key, change)) => self.write(key, change).await?,
                    None => break,
                },
            }
        }
        self.flush().await?;
        self.display.clear();
        output::line(format_args!(
            "{} keys compared, {} written or removed, {} leases",
            differences.compared,
            self.written - before,
            self.leases.count()
        ))?;
        Ok(revision)
    }

    /// Follows what happens behind a revision, until it is told to cut over and nothing is left.
    async fn follow_from(&mut self, revision: i64) -> Result<Followed, Failure> {
        let mut applied = revision;
        let mut target = None;
        let mut has_caught_up = false;
        let mut look = looks();
        let mut leases_due = Instant::now() + LEASES_INTERVAL;
        let mut watcher = watch_from(self.source, applied + 1).await;
        loop {
            if self.is_ordered && target.is_none() {
                target = Some(self.begin_cutover().await?);
            }
            if let Some(target) = target.filter(|target| applied >= *target) {
                self.display.clear();
                return Ok(Followed::To(target));
            }
            tokio::select! { biased;
                () = self.orders.next(), if !self.is_ordered => self.is_ordered = true,
                seen = watcher.next() => match seen {
                    Ok(seen) if seen.response.compact_revision > 0 => return Ok(Followed::Compacted),
                    Ok(seen) => applied = applied.max(self.apply(seen.response, target).await?),
                    Err(error) if passes(&error) || error.says(NO_LEADER) => {
                        time::sleep(limits::CTL_FOLLOW_PAUSE).await;
                        watcher = watch_from(self.source, applied + 1).await;
                    }
                    Err(error) => return Err(error.into()),
                },
                _ = look.tick() => {
                    self.leases.renew_due().await;
                    if self.leases.take_lost() {
                        return Ok(Followed::LeaseLost);
                    }
                    // Where the source does not answer, leases are renewed all the same.
                    if Instant::now() >= leases_due
                        && let Ok(compared) = time::timeout(LOOK_PATIENCE, self.leases.compare()).await
                    {
                        compared?;
                        leases_due = Instant::now() + LEASES_INTERVAL;
                    }
                    let Ok(newest) = time::timeout(LOOK_PATIENCE, self.source_revision()).await else { continue };
                    let lag = (newest? - applied).max(0);
                    self.display.show_lag(lag, applied);
                    if lag == 0 && !has_caught_up {
                        has_caught_up = true;
                        self.display.clear();
                        output::line(format_args!(
                            "caught up at revision {applied} of the old cluster. To cut over, stop its clients; then type \
                             `{}`, or send SIGUSR1 to process {}",
                            order::WORD,
                            std::process::id()
                        ))?;
                    }
                    self.is_ordered |= self.at_lag.is_some_and(|at_lag| lag <= at_lag);
                }
            }
        }
    }

    /// The revision up to which is followed.
    async fn begin_cutover(&mut self) -> Result<i64, Failure> {
        let target = self.source_revision().await?;
        self.display.clear();
        output::line(format_args!("cutting over at revision {target} of the old cluster"))?;
        Ok(target)
    }

    async fn source_revision(&self) -> Result<i64, ClientError> {
        let request = RangeRequest { count_only: true, key: b"\0"[..].into(), ..RangeRequest::default() };
        let ask = async || self.source.call(&RANGE, &request, Deadline::never()).await;
        Ok(patiently(ask).await?.header.map_or(0, |header| header.revision))
    }

    /// Writes the events of an answer, but for those behind `target`. Returns the revision of the last one that was
    /// written.
    async fn apply(&mut self, response: WatchResponse, target: Option<i64>) -> Result<i64, Failure> {
        if let Some(error) = watch_error(&response) {
            return Err(Exit::Error.because(error));
        }
        let events: Vec<Event> = response.events;
        let revision_of = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let mut applied = 0;
        for revision in events.chunk_by(|one, other| revision_of(one) == revision_of(other)) {
            let at = revision_of(&revision[0]);
            if target.is_some_and(|target| at > target) {
                break;
            }
            let changes: Vec<_> = revision.iter().cloned().map(change).collect();
            let bytes = changes.iter().map(|(key, change)| change_bytes(key, change)).sum();
            if changes.len() + 1 >= limits::CTL_FOLLOW_TXN_OPS || self.batch.is_full_for(bytes) {
                self.flush().await?;
            }
            for (key, change) in changes {
                self.write(key, change).await?;
            }
            applied = at;
        }
        self.flush().await?;
        Ok(applied)
    }

    async fn write(&mut self, key: bytes::Bytes, change: Change) -> Result<(), Failure> {
        if self.batch.is_full_for(change_bytes(&key, &change)) {
            self.flush().await?;
        }
        self.batch.add(key, change);
        Ok(())
    }

    /// Writes what waits, with the leases that it needs.
    async fn flush(&mut self) -> Result<(), Failure> {
        const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
        if self.batch.is_empty() {
            return Ok(());
        }
        self.leases.renew_due().await;
        let ids: Vec<i64> = self.batch.leases().collect();
        self.leases.ensure(ids.iter().copied()).await?;
        let mut ops = self.batch.take(|id| self.leases.has(id));
        self.written += ops.len() as u64;
        loop {
            let request = TxnRequest { success: ops.clone(), ..TxnRequest::default() };
            let destination = self.destination;
            let commit = async || destination.call(&TXN, &request, Deadline::never()).await;
            match patiently(commit).await {
                Ok(_) => return Ok(()),
                // It has ended at the destination, because this process did not renew it in time.
                Err(error) if error.says(LEASE_NOT_FOUND) => {
                    self.leases.forget();
                    self.leases.ensure(ids.iter().copied()).await?;
                    batch::remove_leases(&mut ops, |id| self.leases.has(id));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Compares both clusters, once everything was followed.
    async fn verify(&mut self, target: i64) -> Result<(), Failure> {
        const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
        let still_written = |now: i64| Failure::Exited {
            code: STILL_WRITTEN,
            text: format!(
                "the old cluster is at revision {now} and was still written to after the cutover at revision {target}: stop all \
                 of its clients, and start this command again with --reconcile"
            ),
        };
        self.leases.compare().await?;
        self.leases.renew_all().await;
        let both = join(Totals::of(self.source, target), Totals::of(self.destination, 0));
        let (theirs, ours) = both.await;
        let theirs = match theirs {
            Ok((_, totals)) => totals,
            // Nothing behind it could have been compacted otherwise.
            Err(error) if error.says(COMPACTED) => return Err(still_written(self.source_revision().await?)),
            Err(error) => return Err(error.into()),
        };
        let (revision, ours) = ours?;
        output::line(format_args!("old cluster: {theirs}, at revision {target}"))?;
        output::line(format_args!("new cluster: {ours}, at revision {revision}"))?;
        if ours != theirs {
            return Err(Failure::Exited {
                code: DIFFERENT,
                text: "the clusters differ: something else has written to the new cluster. Stop it, and start this command again \
                       with --reconcile"
                    .to_owned(),
            });
        }
        let accounts = self.copy_accounts().await?;
        match self.source_revision().await? {
            now if now > target => return Err(still_written(now)),
            _ => output::line(format_args!(
                "verified. {} leases have their whole TTL from now on. Start the clients with the endpoints of the new cluster, whose \
                 revisions are other ones",
                self.leases.count()
            ))?,
        }
        match accounts {
            Some(accounts) if accounts.is_empty() => Ok(()),
            Some(accounts) => output::line(format_args!(
                "{}",
                Remaining {
                    accounts: &accounts,
                    endpoints: &self.new_endpoints,
                    are_copied: self.copies_users
                }
            )),
            None => output::line(format_args!(
                "not copied: roles and users, if there are any, which the user of --from may not list"
            )),
        }
    }

    /// `None` if they are not to be copied, and whoever was logged in as may not know them.
    async fn copy_accounts(&self) -> Result<Option<Accounts>, Failure> {
        let accounts = match Accounts::of(self.source).await {
            Err(_) if !self.copies_users => return Ok(None),
            accounts => accounts?,
        };
        if self.copies_users {
            accounts.copy(self.source, self.destination).await?;
        }
        Ok(Some(accounts))
    }
}

const NO_LEADER: &str = "etcdserver: no leader";

fn everything() -> RangeRequest {
    RangeRequest { key: b"\0"[..].into(), range_end: OPEN_END.into(), ..RangeRequest::default() }
}

fn looks() -> Interval {
    let mut looks = time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

async fn watch_from(source: &Client, revision: i64) -> Watcher<'_> {
    let request = WatchCreateRequest {
        key: b"\0"[..].into(),
        range_end: OPEN_END.into(),
        start_revision: revision,
        ..WatchCreateRequest::default()
    };
    let mut watcher = Watcher::new(source);
    watcher.add(request).await;
    watcher
}

fn change(event: Event) -> (bytes::Bytes, Change) {
    let kind = event.r#type();
    let kv = event.kv.unwrap_or_default();
    match kind {
        EventType::Put => (kv.key, Change::Put { value: kv.value, lease: kv.lease }),
        EventType::Delete => (kv.key, Change::Delete),
    }
}

/// How far it is: a line that is written over on a terminal, and else a line now and then.
#[derive(Default)]
struct Display {
    terminal: Terminal,
    told: Option<Instant>,
}

impl Display {
    fn show(&mut self, text: impl FnOnce() -> String) {
        self.terminal.show(text);
    }

    fn show_lag(&mut self, lag: i64, applied: i64) {
        let text = || format!("behind by {lag} revisions, at revision {applied} of the old cluster");
        self.terminal.show(text);
        let now = Instant::now();
        if self.told.is_none_or(|told| now >= told + TELL_INTERVAL) && !Terminal::is_there() {
            output::complain(format_args!("{}", text()));
            self.told = Some(now);
        }
    }

    fn clear(&mut self) {
        self.terminal.clear();
    }
}
