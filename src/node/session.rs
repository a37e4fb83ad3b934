//! What a client may ask of a member, and the only way to ask it.
//!
//! A [`Session`] is the member and what the client says of itself. Who is calling is found out when
//! something is asked, and goes with all that the call asks: into the log with a command, to the leader with
//! a question about a lease or a change of the members. What a command needs is judged where it is
//! applied. What a read needs is judged here, before the read and again after it: users and roles may
//! have changed meanwhile, and its answer is no older than they are.
//!
//! The methods of [`Node`] that do the work are visible in `node` alone, so that there is no call
//! without a caller.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use super::{
    ChangeError, Credentials, Found, Member, MemberHealth, Memory, MoveLeaderError, Node, ProposeError,
    ReadError, Snapshot,
    admin::Status,
    lease::LeaseInfo,
    passwords::{Origin, PasswordError},
    watching::WatchStream,
};
use crate::{
    apply::{Alarm, Command, Outcome, Request, Txn, admission::Call},
    auth::{AuthError, AuthStore},
    link::Change,
    mvcc::{KvHash, Range, RangeResult},
    sync::watch,
    types::{Caller, LeaseId, MemberId, Rev, Secret},
};

#[derive(Clone)]
pub(crate) struct Session {
    node: Node,
    credentials: Credentials,
}

impl Node {
    pub(crate) fn session(&self, credentials: Credentials) -> Session {
        Session { node: self.clone(), credentials }
    }

    /// Whether a caller may make a call, by what was applied here.
    pub(super) fn permit(&self, caller: &Caller, call: Call<'_>) -> Result<(), AuthError> {
        if self.guarded_at().is_none() {
            return Ok(());
        }
        self.shared.replica.read().state.permit(caller, call)
    }

    /// Refuses what was read for a caller if users or roles have changed since the caller was identified.
    fn check_unchanged(&self, caller: &Caller) -> Result<(), AuthError> {
        match (self.guarded_at(), caller) {
            (None, _) | (Some(_), Caller::Internal) => Ok(()),
            (Some(_), Caller::Nobody) => Err(AuthError::UserEmpty),
            (Some(now), Caller::User { auth_rev, .. }) if *auth_rev == now => Ok(()),
            (Some(_), Caller::User { .. }) => Err(AuthError::OldRevision),
        }
    }
}

/// Who is calling.
impl Session {
    /// To be waited for once, before anything is asked.
    pub(crate) async fn await_login(&self) {
        self.node.await_login(&self.credentials).await;
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    fn caller(&self) -> Result<Caller, AuthError> {
        self.node.identify(&self.credentials)
    }

    pub(super) fn permit(&self, call: Call<'_>) -> Result<Caller, AuthError> {
        let caller = self.caller()?;
        self.node.permit(&caller, call)?;
        Ok(caller)
    }

    /// As [`Session::permit`], for what is about to go through the log: a call is not refused because this
    /// member is behind the others.
    async fn permit_as_of_now(&self, call: Call<'_>) -> Result<(), ProposeError> {
        if self.permit(call).is_err() {
            self.node.read_barrier().await?;
            self.permit(call)?;
        }
        Ok(())
    }

    /// A request for the log. A client that nobody knows gets nothing into the log while authentication is
    /// enabled: the answer is what applying the command would have been.
    async fn request(&self, command: Command) -> Result<Result<Request, Outcome>, ProposeError> {
        let mut request = command.by(self.caller()?);
        if request.caller == Caller::Nobody && self.node.guarded_at().is_some() {
            // Authentication may have been disabled, which is not applied here yet.
            self.node.read_barrier().await?;
            request.caller = self.caller()?;
            // As in etcd, whoever grants or revokes a lease has to be somebody, before the alarms are looked at.
            let is_of_lease =
                matches!(request.command, Command::LeaseGrant { .. } | Command::LeaseRevoke { .. });
            if is_of_lease && request.caller == Caller::Nobody && self.node.guarded_at().is_some() {
                return Err(AuthError::UserEmpty.into());
            }
            let state = &self.node.shared.replica.read().state;
            if let Err(refusal) = state.admit(&request) {
                let outcome = Outcome { rev: state.mvcc.rev_current(), result: Err(refusal), unread: None };
                return Ok(Err(outcome));
            }
        }
        Ok(Ok(request))
    }

    /// Tells when users or roles have changed.
    pub(crate) fn auth_changes(&self) -> AuthChanges {
        AuthChanges(Box::pin(next_change(self.node.shared.logins.changes())))
    }
}

/// The future that a [`watch::Receiver`] waits with is made once for each change, and not each time that a
/// stream waits for something.
pub(crate) struct AuthChanges(Pin<Box<dyn Future<Output = watch::Receiver<Option<u64>>> + Send>>);

impl AuthChanges {
    /// Resolves when users or roles have changed since it resolved last. Nothing is lost if this is dropped
    /// before.
    pub(crate) async fn changed(&mut self) {
        let changes = (&mut self.0).await;
        self.0 = Box::pin(next_change(changes));
    }
}

async fn next_change(mut changes: watch::Receiver<Option<u64>>) -> watch::Receiver<Option<u64>> {
    if changes.changed().await.is_err() {
        // The member has ended, and its streams do.
        std::future::pending::<()>().await;
    }
    changes
}

/// Commands. What they need is judged where they are applied.
impl Session {
    /// Puts a command into the log. The answer is what all replicas agree on; an error says that
    /// it was not accepted, or that nobody knows.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        match self.request(command).await? {
            Ok(request) => self.node.propose(request).await,
            Err(refused) => Ok(refused),
        }
    }

    /// As [`Session::propose`], for commands that take space: refused, and the alarm raised, when
    /// the quota is used up.
    pub(crate) async fn propose_with_quota(&self, command: Command) -> Result<Outcome, ProposeError> {
        match self.request(command).await? {
            Ok(request) => self.node.propose_with_quota(request).await,
            Err(refused) => Ok(refused),
        }
    }

    /// As [`Session::propose`], with the memory that the answer takes.
    pub(crate) async fn write(&self, command: Command) -> Result<(Outcome, Memory), ProposeError> {
        match self.request(command).await? {
            Ok(request) => self.node.write(request).await,
            Err(refused) => Ok((refused, Memory::default())),
        }
    }

    /// As [`Session::propose_with_quota`], with the memory that the answer takes.
    pub(crate) async fn write_with_quota(&self, command: Command) -> Result<(Outcome, Memory), ProposeError> {
        match self.request(command).await? {
            Ok(request) => self.node.write_with_quota(request).await,
            Err(refused) => Ok((refused, Memory::default())),
        }
    }

    /// Removes history below `rev`. With `physical` the answer waits until the space is free.
    pub(crate) async fn compact(&self, rev: Rev, physical: bool) -> Result<Outcome, ProposeError> {
        let command = Command::Compact { rev };
        // As in etcd, before the alarms are looked at.
        self.permit_as_of_now(Call::Command(&command)).await?;
        match self.request(command).await? {
            Ok(request) => self.node.compact(request, physical).await,
            Err(refused) => Ok(refused),
        }
    }

    /// Grants a lease; id 0 lets the member choose. The TTL is raised to what the cluster can keep.
    pub(crate) async fn lease_grant(&self, id: i64, ttl_secs: i64) -> Result<Outcome, ProposeError> {
        match self.request(self.node.lease_grant_command(id, ttl_secs)).await? {
            Ok(request) => self.node.propose_with_quota(request).await,
            Err(refused) => Ok(refused),
        }
    }

    pub(crate) fn choose_lease_id(&self) -> i64 {
        self.node.choose_lease_id()
    }

    /// Whether the caller might have granted a permission, if the request had one.
    pub(crate) async fn grant_nothing(&self) -> Result<(), ProposeError> {
        self.permit_as_of_now(Call::GrantOfNothing).await
    }

    /// The bcrypt hash of a password, for a user that is added or changed.
    pub(crate) async fn hash_password(&self, password: Secret) -> Result<String, PasswordError> {
        self.permit_as_of_now(Call::PasswordHash).await?;
        self.node.hash_password(password).await
    }

    /// A token for a user's password, and the newest revision at that moment. Anybody may try.
    pub(crate) async fn login(
        &self,
        origin: Origin,
        name: &str,
        password: Secret,
    ) -> Result<(Rev, Arc<Secret>), ProposeError> {
        self.node.login(origin, name, password).await
    }
}

/// Reads.
impl Session {
    /// After this, a read here sees every write that was answered before the call.
    pub(crate) async fn read_barrier(&self) -> Result<(), ProposeError> {
        self.node.read_barrier().await
    }

    /// Keys of a range, and the newest revision at the moment of reading.
    pub(crate) async fn range(&self, query: &Range) -> Result<Found, ReadError> {
        let caller = self.permit(Call::Range(&query.range))?;
        let read = self.node.range(query).await?;
        self.node.check_unchanged(&caller)?;
        Ok(read)
    }

    /// As [`Session::range`], for a piece of a longer read, whose limit keeps it short. Without `counted` the walk
    /// ends where the limit is reached.
    pub(crate) async fn range_piece(
        &self,
        query: &Range,
        counted: bool,
    ) -> Result<(Rev, RangeResult), ReadError> {
        let caller = self.permit(Call::Range(&query.range))?;
        let read = self.node.range_piece(query, counted).await?;
        self.node.check_unchanged(&caller)?;
        Ok(read)
    }

    /// A transaction that only reads, at one revision, with the memory that the answer takes.
    pub(crate) async fn read_txn(&self, txn: &Txn) -> Result<(Outcome, Memory), ReadError> {
        let caller = self.permit(Call::ReadTxn(txn))?;
        let read = self.node.read_txn(txn).await?;
        self.node.check_unchanged(&caller)?;
        Ok(read)
    }

    /// Resolves once the server is asked to stop.
    pub(crate) fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let node = self.node.clone();
        async move { node.stopping().await }
    }

    /// Opens a stream of watchers. What each of them needs is judged when it is created.
    pub(crate) fn watch(&self) -> WatchStream {
        WatchStream::open(self.node.clone(), self.credentials.clone())
    }
}

/// Leases, but for their grants and revokes.
impl Session {
    /// Renews a lease in the leader's memory. `None` if it does not exist or has expired.
    pub(crate) async fn lease_keep_alive(&self, id: LeaseId) -> Result<Option<i64>, ProposeError> {
        let caller = self.permit(Call::LeaseKeepAlive(id))?;
        self.node.lease_keep_alive(&caller, id).await
    }

    /// Whether the caller may still renew leases that it has renewed.
    pub(crate) fn may_keep_alive(&self, ids: impl IntoIterator<Item = LeaseId>) -> Result<(), AuthError> {
        let caller = self.node.as_of_now(self.caller()?);
        ids.into_iter().try_for_each(|id| self.node.permit(&caller, Call::LeaseKeepAlive(id)))
    }

    /// `None` if the lease does not exist or has expired.
    pub(crate) async fn lease_time_to_live(
        &self,
        id: LeaseId,
        with_keys: bool,
    ) -> Result<Option<LeaseInfo>, ProposeError> {
        let caller = self.permit(Call::LeaseTimeToLive { id, with_keys })?;
        let info = self.node.lease_time_to_live(&caller, id, with_keys).await?;
        if with_keys {
            // Keys may have been attached meanwhile that the caller may not see.
            self.node.permit(&caller, Call::LeaseTimeToLive { id, with_keys })?;
            self.node.check_unchanged(&caller)?;
        }
        Ok(info)
    }

    /// All leases, in the order in which they end.
    pub(crate) fn leases(&self) -> Result<Vec<LeaseId>, ProposeError> {
        self.permit(Call::LeaseLeases)?;
        Ok(self.node.leases())
    }
}

/// Users, roles, members and the care of a member.
impl Session {
    /// Asks users and roles, after a barrier, and the newest revision at that moment.
    pub(crate) async fn ask_auth<T>(
        &self,
        call: Call<'_>,
        ask: impl FnOnce(&AuthStore) -> T,
    ) -> Result<(Rev, T), ProposeError> {
        self.node.ask_auth(|| self.caller(), call, ask).await
    }

    /// All members, by id. Names and client URLs are what the members published of themselves.
    pub(crate) fn members(&self) -> Result<Vec<Member>, ProposeError> {
        self.permit(Call::MemberList)?;
        Ok(self.node.members())
    }

    /// How all members are, in their own words. Members that do not answer within a second are said to be silent.
    pub(crate) async fn members_health(&self) -> Result<Arc<[MemberHealth]>, ProposeError> {
        self.permit(Call::MemberList)?;
        self.permit(Call::Status)?;
        Ok(self.node.members_health().await)
    }

    /// Adds a member that is going to be reached at `peer_urls`.
    pub(crate) async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<Member, ChangeError> {
        let caller = self.permit(Call::MemberChange).map_err(ProposeError::from)?;
        self.node.member_add(&caller, peer_urls, is_learner).await
    }

    /// Has the leader change the membership. Once this returns, this member knows of it.
    pub(crate) async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let caller = self.permit(Call::MemberChange).map_err(ProposeError::from)?;
        self.node.change(&caller, change).await
    }

    pub(crate) fn alarms(&self) -> Result<Vec<Alarm>, ProposeError> {
        self.permit(Call::AlarmList)?;
        Ok(self.node.alarms())
    }

    /// For a request that raises or clears an alarm of no kind, which does nothing.
    pub(crate) fn may_change_alarms(&self) -> Result<(), ProposeError> {
        self.permit(Call::AlarmChange)?;
        Ok(())
    }

    pub(crate) fn status(&self) -> Result<Status, ProposeError> {
        self.permit(Call::Status)?;
        Ok(self.node.status())
    }

    /// Rewrites the database without its holes, while reads and writes go on.
    pub(crate) async fn defragment(&self) -> Result<Result<(), String>, AuthError> {
        self.permit(Call::Defragment)?;
        Ok(self.node.defragment().await)
    }

    pub(crate) async fn hash(&self) -> Result<(Rev, u32), ReadError> {
        self.permit(Call::Hash)?;
        self.node.hash().await
    }

    pub(crate) async fn hash_kv(&self, rev: i64) -> Result<KvHash, ReadError> {
        self.permit(Call::Hash)?;
        self.node.hash_kv(rev).await
    }

    /// Takes an image of everything applied so far. Reads and writes go on meanwhile.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, ReadError> {
        self.permit(Call::Snapshot)?;
        self.node.snapshot().await
    }

    /// Hands leadership to another voter.
    pub(crate) async fn move_leader(&self, target: MemberId) -> Result<(), MoveLeaderError> {
        self.permit(Call::MoveLeader)?;
        self.node.move_leader(target).await
    }

    pub(crate) fn may_downgrade(&self) -> Result<(), AuthError> {
        self.permit(Call::Downgrade).map(drop)
    }

    /// What every action of a downgrade begins with.
    pub(crate) async fn before_downgrade(&self) -> Result<(), ProposeError> {
        self.permit(Call::Downgrade)?;
        self.node.read_barrier().await
    }
}

/// What is left to do for a call that ended before its time.
impl Session {
    /// Revokes a lease that was granted on behalf of a call and that nobody has been told of. The
    /// member does so itself, for the lease is nobody else's.
    pub(crate) fn clean_up_lease(&self, id: LeaseId, ttl: Duration) {
        self.node.clean_up_lease(id, ttl);
    }

    /// Undoes something that the member did for a call. The member does that itself: its caller may not be
    /// permitted anything any more, and others wait for it.
    pub(crate) fn clean_up_with(&self, command: Command) {
        self.node.clean_up_with(command);
    }

    /// Runs a part of a call on the core thread, where it goes on when the call ends.
    pub(crate) fn outliving<T, F>(&self, work: impl FnOnce(Session) -> F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let credentials = self.credentials.clone();
        self.node.outliving(|node| work(Session { node, credentials }))
    }
}
