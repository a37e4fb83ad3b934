//! What a client may ask of a member, and the only way to ask it.
//!
//! A [`Session`] is the member and who is calling. The caller is decided once, where the call comes
//! in, and goes with everything that the call asks: into the log with a command, to the leader with
//! a question about a lease or a change of the members. What a command needs is judged where it is
//! applied. What a read needs is judged here, before the read and again after it: users and roles may
//! have changed meanwhile, and its answer is no older than they are.
//!
//! The methods of [`Node`] that do the work are visible in `node` alone, so that there is no call
//! without a caller.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{
    ChangeError, Found, Member, Memory, MoveLeaderError, Node, ProposeError, ReadError, Snapshot,
    admin::Status, lease::LeaseInfo, watching::WatchStream,
};
use crate::{
    apply::{
        Alarm, Command, Outcome, Txn,
        admission::{self, Call},
    },
    auth::{AuthError, AuthStore},
    link::Change,
    mvcc::{KvHash, Range, RangeResult},
    types::{Caller, LeaseId, MemberId, Rev},
};

#[derive(Clone)]
pub(crate) struct Session {
    node: Node,
    caller: Caller,
}

impl Node {
    pub(crate) fn session(&self, caller: Caller) -> Session {
        Session { node: self.clone(), caller }
    }
}

impl Session {
    fn permit(&self, call: Call<'_>) -> Result<(), AuthError> {
        admission::permit(&self.caller, call)
    }
}

/// Commands. What they need is judged where they are applied.
impl Session {
    /// Puts a command into the log. The answer is what all replicas agree on; an error says that
    /// it was not accepted, or that nobody knows.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.node.propose(command.by(self.caller.clone())).await
    }

    /// As [`Session::propose`], for commands that take space: refused, and the alarm raised, when
    /// the quota is used up.
    pub(crate) async fn propose_with_quota(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.node.propose_with_quota(command.by(self.caller.clone())).await
    }

    /// As [`Session::propose`], with the memory that the answer takes.
    pub(crate) async fn write(&self, command: Command) -> Result<(Outcome, Memory), ProposeError> {
        self.node.write(command.by(self.caller.clone())).await
    }

    /// As [`Session::propose_with_quota`], with the memory that the answer takes.
    pub(crate) async fn write_with_quota(&self, command: Command) -> Result<(Outcome, Memory), ProposeError> {
        self.node.write_with_quota(command.by(self.caller.clone())).await
    }

    /// Removes history below `rev`. With `physical` the answer waits until the space is free.
    pub(crate) async fn compact(&self, rev: Rev, physical: bool) -> Result<Outcome, ProposeError> {
        self.node.compact(self.caller.clone(), rev, physical).await
    }

    /// Grants a lease; id 0 lets the member choose. The TTL is raised to what the cluster can keep.
    pub(crate) async fn lease_grant(&self, id: i64, ttl_secs: i64) -> Result<Outcome, ProposeError> {
        self.node.lease_grant(self.caller.clone(), id, ttl_secs).await
    }

    pub(crate) fn choose_lease_id(&self) -> i64 {
        self.node.choose_lease_id()
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
        self.permit(Call::Range(&query.range))?;
        let read = self.node.range(query).await?;
        self.permit(Call::Range(&query.range))?;
        Ok(read)
    }

    /// As [`Session::range`], for a piece of a longer read, whose limit keeps it short. Without `counted` the walk
    /// ends where the limit is reached.
    pub(crate) async fn range_piece(
        &self,
        query: &Range,
        counted: bool,
    ) -> Result<(Rev, RangeResult), ReadError> {
        self.permit(Call::Range(&query.range))?;
        let read = self.node.range_piece(query, counted).await?;
        self.permit(Call::Range(&query.range))?;
        Ok(read)
    }

    /// A transaction that only reads, at one revision, with the memory that the answer takes.
    pub(crate) async fn read_txn(&self, txn: &Txn) -> Result<(Outcome, Memory), ReadError> {
        self.permit(Call::ReadTxn(txn))?;
        let read = self.node.read_txn(txn).await?;
        self.permit(Call::ReadTxn(txn))?;
        Ok(read)
    }

    /// Resolves once the server is asked to stop.
    pub(crate) fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let node = self.node.clone();
        async move { node.stopping().await }
    }

    /// Opens a stream of watchers. What each of them needs is judged when it is created.
    pub(crate) fn watch(&self) -> WatchStream {
        WatchStream::open(self.node.clone(), self.caller.clone())
    }
}

/// Leases, but for their grants and revokes.
impl Session {
    /// Renews a lease in the leader's memory. `None` if it does not exist or has expired.
    pub(crate) async fn lease_keep_alive(&self, id: LeaseId) -> Result<Option<i64>, ProposeError> {
        self.permit(Call::LeaseKeepAlive(id))?;
        self.node.lease_keep_alive(&self.caller, id).await
    }

    /// `None` if the lease does not exist or has expired.
    pub(crate) async fn lease_time_to_live(
        &self,
        id: LeaseId,
        with_keys: bool,
    ) -> Result<Option<LeaseInfo>, ProposeError> {
        self.permit(Call::LeaseTimeToLive { id, with_keys })?;
        let info = self.node.lease_time_to_live(&self.caller, id, with_keys).await?;
        self.permit(Call::LeaseTimeToLive { id, with_keys })?;
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
        self.permit(call)?;
        let answer = self.node.ask_auth(ask).await?;
        self.permit(call)?;
        Ok(answer)
    }

    /// All members, by id. Names and client URLs are what the members published of themselves.
    pub(crate) fn members(&self) -> Result<Vec<Member>, ProposeError> {
        self.permit(Call::MemberList)?;
        Ok(self.node.members())
    }

    /// Adds a member that is going to be reached at `peer_urls`.
    pub(crate) async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<Member, ChangeError> {
        self.permit(Call::MemberChange).map_err(ProposeError::from)?;
        self.node.member_add(&self.caller, peer_urls, is_learner).await
    }

    /// Has the leader change the membership. Once this returns, this member knows of it.
    pub(crate) async fn change(&self, change: Change) -> Result<(), ChangeError> {
        self.permit(Call::MemberChange).map_err(ProposeError::from)?;
        self.node.change(&self.caller, change).await
    }

    pub(crate) fn alarms(&self) -> Result<Vec<Alarm>, ProposeError> {
        self.permit(Call::AlarmList)?;
        Ok(self.node.alarms())
    }

    pub(crate) fn status(&self) -> Result<Status, ProposeError> {
        self.permit(Call::Status)?;
        Ok(self.node.status())
    }

    /// Rewrites the database without its holes, while reads and writes go on.
    pub(crate) async fn defragment(&self) -> Result<(), String> {
        self.permit(Call::Defragment).map_err(|denied| denied.to_string())?;
        self.node.defragment().await
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

    /// Undoes something of a call, as its caller.
    pub(crate) fn clean_up_with(&self, command: Command) {
        self.node.clean_up_with(command.by(self.caller.clone()));
    }

    /// Runs a part of a call on the core thread, where it goes on when the call ends.
    pub(crate) fn outliving<T, F>(&self, work: impl FnOnce(Session) -> F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let caller = self.caller.clone();
        self.node.outliving(|node| work(Session { node, caller }))
    }
}
