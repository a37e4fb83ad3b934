//! The version 2 API: its commands, its reads, its watchers, and the expiration of its nodes.
//!
//! Nodes expire by the time of day, which a command brings with it: the member that proposes it reads its
//! clock. Only the leader proposes that nodes expire.

use std::{sync::Arc, time::Duration};

use parking_lot::MutexGuard;
use tokio::time;

use super::{Member, Node, Origin, PasswordError, ProposeError, Session};
use crate::{
    apply::{ApplyError, Command, Outcome, Response, admission::Call},
    clock, limits,
    telemetry::RoundTrips,
    types::{MemberId, Secret},
    v2::{
        AccountChange, AccountRefusal, Answer, Change, Code, Counts, Done, Event, Happened, Hub, Key,
        KeyChange, Listing, Refusal, Store, V2Command, Watching, Who,
    },
};

/// Why a request of the version 2 API has no answer.
#[derive(Debug)]
pub(crate) enum V2Error {
    /// The tree says no.
    Refused(Refusal),
    /// This member could not do it, or does not know whether it was done.
    Failed(ProposeError),
    /// No command of its kind is executed now, or the caller may not ask for it.
    NotApplied(ApplyError),
    /// As many watchers wait as may.
    TooManyWatchers,
}

impl From<Refusal> for V2Error {
    fn from(refusal: Refusal) -> V2Error {
        V2Error::Refused(refusal)
    }
}

impl From<ProposeError> for V2Error {
    fn from(error: ProposeError) -> V2Error {
        V2Error::Failed(error)
    }
}

/// Where the log stood when a request was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RaftMark {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// Messages to and from the other members.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerTraffic {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// Since when this member runs, and since when it knows the leader: in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    pub(crate) start: i64,
    pub(crate) leader: Option<(MemberId, i64)>,
}

/// The time of day in nanoseconds since 1970.
pub(crate) fn wall_nanos() -> i64 {
    i64::try_from(clock::wall().as_nanos()).unwrap_or(i64::MAX)
}

impl Session {
    /// Changes a node. `at` is the time of the request.
    pub(crate) async fn v2_change(
        &self,
        who: Who,
        key: Key,
        at: i64,
        change: Change,
    ) -> Result<Happened, V2Error> {
        match self.v2_propose(V2Command::Key(KeyChange { who, key, at, change })).await? {
            Answer::Key(_, result) => Ok(result?),
            Answer::Expired(_) | Answer::Account { .. } => unreachable!("an answer is of its command"),
        }
    }

    /// Changes users and roles of the version 2 API.
    pub(crate) async fn v2_change_account(
        &self,
        who: Who,
        change: AccountChange,
    ) -> Result<Result<Done, AccountRefusal>, V2Error> {
        match self.v2_propose(V2Command::Account { who, change }).await? {
            Answer::Account { result, .. } => Ok(result),
            Answer::Key(..) | Answer::Expired(_) => unreachable!("an answer is of its command"),
        }
    }

    async fn v2_propose(&self, command: V2Command) -> Result<Answer, V2Error> {
        let Outcome { result, .. } = self.propose_with_quota(Command::V2(command)).await?;
        match result {
            Ok(Response::V2(answer)) => Ok(*answer),
            Ok(_) => unreachable!("an answer is of its command"),
            Err(refusal) => Err(V2Error::NotApplied(refusal)),
        }
    }

    /// A node and what is below it, and the index of the tree.
    pub(crate) fn v2_list(&self, who: &Who, key: &Key, recursive: bool) -> Result<(Listing, u64), V2Error> {
        self.permit(Call::V2Read).map_err(ProposeError::from)?;
        let node = self.node();
        let listing = {
            let replica = node.shared.replica.read();
            let store = &replica.state.v2;
            if !store.may_use(who, key, false, recursive) {
                return Err(unauthorized().into());
            }
            let tree = store.tree();
            drop(replica);
            Listing::new(&tree, key, recursive).map(|listing| (listing, tree.index))
        };
        node.v2_hub().count_get(listing.is_ok());
        Ok(listing?)
    }

    /// What users and roles say.
    pub(crate) fn v2_ask<T>(&self, ask: impl FnOnce(&Store) -> T) -> Result<T, ProposeError> {
        self.permit(Call::V2Read)?;
        Ok(ask(&self.node().shared.replica.read().state.v2))
    }

    /// Waits for events of a key: those from index `from` on, or the next one if that is 0.
    pub(crate) fn v2_watch(
        &self,
        who: &Who,
        key: &Key,
        recursive: bool,
        from: u64,
    ) -> Result<V2Watch, V2Error> {
        self.permit(Call::V2Read).map_err(ProposeError::from)?;
        if !self.v2_ask(|store| store.may_use(who, key, false, recursive))? {
            return Err(unauthorized().into());
        }
        V2Watch::begin(self.node().clone(), key.clone(), recursive, from)
    }

    /// Whether this is the password of a user of version 2, by its hash. `None` stands for a user that does not
    /// exist.
    pub(crate) async fn v2_check_password(
        &self,
        origin: Origin,
        name: &str,
        password: String,
        hash: Option<&str>,
    ) -> Result<bool, ProposeError> {
        self.permit(Call::V2Read)?;
        // A user of version 3 may have the same name.
        let name = format!("version 2: {name}");
        self.node().shared.passwords.check(origin, &name, Secret::new(password), hash).await
    }

    pub(crate) async fn v2_hash_password(&self, password: String) -> Result<String, PasswordError> {
        self.permit(Call::V2Read).map_err(ProposeError::from)?;
        self.node().shared.passwords.hash(Secret::new(password)).await
    }

    /// All members, whom version 2 shows to everybody.
    pub(crate) fn v2_members(&self) -> Result<Vec<Member>, ProposeError> {
        self.permit(Call::V2Read)?;
        Ok(self.node().members())
    }

    pub(crate) fn v2_counts(&self) -> Result<Counts, ProposeError> {
        self.permit(Call::V2Read)?;
        Ok(self.node().v2_hub().counts())
    }

    pub(crate) fn raft_mark(&self) -> RaftMark {
        let node = self.node();
        let applied = *node.shared.applied.borrow();
        let index = node.shared.consensus.committed_index().max(applied);
        RaftMark { index, term: node.raft_term() }
    }

    /// The round trips to the other members.
    pub(crate) fn round_trips(&self) -> Vec<(MemberId, RoundTrips)> {
        let node = self.node();
        let (_, own) = node.ids();
        let others: Vec<u64> = {
            let replica = node.shared.replica.read();
            replica.peers().map(|(id, _)| id).filter(|id| *id != own.0).collect()
        };
        let peers = &node.shared.peers;
        others.into_iter().map(|id| (MemberId(id), peers.metrics_of(id).round_trips())).collect()
    }

    pub(crate) fn peer_traffic(&self) -> PeerTraffic {
        let mut traffic = PeerTraffic::default();
        for (_, metrics) in self.node().shared.peers.all_metrics() {
            let (sent, received) = metrics.messages();
            traffic.sent += sent;
            traffic.received += received;
        }
        traffic
    }

    pub(crate) fn since(&self) -> Since {
        let node = self.node();
        let leader = *node.shared.leader_since.lock();
        Since { start: node.shared.started, leader }
    }
}

fn unauthorized() -> Refusal {
    Refusal::of_request(Code::Unauthorized, "Insufficient credentials")
}

/// A watcher: of what the history has, and then of what happens.
pub(crate) struct V2Watch {
    node: Node,
    key: Key,
    recursive: bool,
    /// The next index that the watcher wants.
    next: u64,
    watching: Watching,
    /// The index of the tree at the beginning.
    pub(crate) start: u64,
}

impl V2Watch {
    fn begin(node: Node, key: Key, recursive: bool, from: u64) -> Result<V2Watch, V2Error> {
        let watching = node.v2_hub().register(&key, recursive, from).ok_or(V2Error::TooManyWatchers)?;
        let start = watching.published;
        // From here on the watcher leaves the hub when it is dropped.
        let watch =
            V2Watch { node, key, recursive, next: if from == 0 { start + 1 } else { from }, watching, start };
        if watch.next <= start {
            watch.find()?;
        }
        Ok(watch)
    }

    /// The first event in the history that the watcher wants.
    fn find(&self) -> Result<Option<Arc<Event>>, Refusal> {
        let replica = self.node.shared.replica.read();
        replica.state.v2.find_event(&self.key, self.recursive, self.next, self.watching.published)
    }

    /// `None` at the end: the watcher did not read fast enough, or what it wants is gone from the history.
    pub(crate) async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            if self.next <= self.watching.published {
                match self.find() {
                    Ok(Some(event)) => {
                        self.next = event.index() + 1;
                        return Some(event);
                    }
                    Ok(None) => self.next = self.watching.published + 1,
                    Err(_) => return None,
                }
            }
            match self.watching.events.recv().await {
                Some(event) => {
                    self.next = event.index() + 1;
                    return Some(event);
                }
                None => self.resume()?,
            }
        }
    }

    /// The queue has ended. If that is so because a snapshot took the place of the state, the watcher goes on
    /// in the new one.
    fn resume(&mut self) -> Option<()> {
        let mut hub = self.node.v2_hub();
        if hub.generation() == self.watching.generation {
            return None;
        }
        self.watching = hub.register(&self.key, self.recursive, self.next)?;
        Some(())
    }
}

impl Drop for V2Watch {
    fn drop(&mut self) {
        self.node.v2_hub().unregister(&self.key, self.watching.id);
    }
}

impl Node {
    pub(super) fn v2_hub(&self) -> MutexGuard<'_, Hub> {
        self.shared.v2_hub.lock()
    }

    pub(super) fn leader_was_found(&self, leader: Option<u64>) {
        *self.shared.leader_since.lock() = leader.map(|leader| (MemberId(leader), wall_nanos()));
    }
}

/// The leader's task of one term: proposes that nodes expire.
pub(super) async fn expire(node: Node, term: u64) {
    let mut index = node.v2_hub().subscribe();
    loop {
        let before = *index.borrow_and_update();
        let next = node.shared.replica.read().state.v2.next_expiration();
        let now = wall_nanos();
        match next {
            None => drop(index.changed().await),
            Some(at) if at > now => {
                let left = Duration::from_nanos(at.abs_diff(now));
                tokio::select! { biased;
                    _ = index.changed() => {}
                    // The time of day may jump meanwhile.
                    () = time::sleep(left.min(limits::V2_EXPIRY_INTERVAL)) => {}
                }
            }
            Some(_) => {
                let command = V2Command::Expire { cutoff: now, most: limits::V2_EXPIRATIONS_PER_ROUND };
                if let Err(error) = node.propose_in_term(term, vec![Command::V2(command)]).await {
                    tracing::warn!(%error, "failed to expire nodes of the version 2 API; will retry");
                }
                if *index.borrow() == before {
                    time::sleep(limits::V2_EXPIRY_INTERVAL).await;
                }
            }
        }
    }
}
