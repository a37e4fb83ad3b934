//! The common part of the lock and election services.
//!
//! Both are a queue: each client puts a key under the same prefix, with its lease in the name, and the client
//! with the oldest key has the lock or is the leader. The services only use operations that a client of the
//! API could use, and their only state are the keys.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use bytes::Bytes;
use tonic::Status;

use super::{status::Refusal, wrong_kind};
use crate::{
    apply::{self, Command, Compare, CompareOperator, CompareTarget, DeleteRange, Op, Put, Txn, TxnResult},
    mvcc::{Range, RangeResult, RevBounds, Sort, SortOrder, SortTarget},
    node::{AuthChanges, CaughtUp, Found, ManyEvents, NotCreated, ProposeError, Session, WatchStream},
    types::{Event, EventKind, KeyRange, KeyValue, LeaseId, Rev},
    watch::{Delivery, WatcherSpec},
};

/// TTL of the lease that is granted for a call without a lease.
const SESSION_TTL: Duration = Duration::from_secs(60);

/// The lease to which a call attaches its key.
pub(crate) struct HeldLease {
    session: Session,
    pub(crate) id: LeaseId,
    /// The lease was granted for this call, and the client does not know of it yet. If the call ends before
    /// the client does, the lease is revoked, and its keys are deleted.
    is_unknown: bool,
}

/// The lease for the call's key: the client's lease, which is renewed once, or a new one. After that the
/// client has to keep the lease alive.
pub(crate) async fn held_lease(session: &Session, lease: LeaseId) -> Result<HeldLease, Status> {
    if lease.is_some() {
        // If there is no such lease, the put that names it is refused later.
        session.lease_keep_alive(lease).await.map_err(|error| match error {
            ProposeError::Auth(denied) => denied.into(),
            _ => Refusal::Timeout,
        })?;
        return Ok(HeldLease { session: session.clone(), id: lease, is_unknown: false });
    }
    // From here on the lease may exist, even if this call does not learn that it was granted.
    let lease = LeaseId(session.choose_lease_id());
    let mut held = HeldLease { session: session.clone(), id: lease, is_unknown: true };
    let granted = session.lease_grant(lease.0, SESSION_TTL.as_secs() as i64).await;
    held.is_unknown =
        granted.as_ref().map_or_else(ProposeError::is_uncertain, |granted| granted.result.is_ok());
    match granted?.result? {
        apply::Response::LeaseGrant { .. } => Ok(held),
        other => Err(wrong_kind(&other)),
    }
}

impl HeldLease {
    /// Keeps the lease when this is dropped, because the client learns of the lease or can find its keys.
    pub(crate) fn keep(mut self) {
        self.is_unknown = false;
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        if self.is_unknown {
            self.session.clean_up_lease(self.id, SESSION_TTL);
        }
    }
}

/// The prefix of the keys in the queue `name`.
pub(crate) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key of the holder of `lease` in the queue.
pub(crate) fn own_key(prefix: &Bytes, lease: LeaseId) -> Bytes {
    let sign = if lease.0 < 0 { "-" } else { "" };
    [&prefix[..], format!("{sign}{:x}", lease.0.unsigned_abs()).as_bytes()].concat().into()
}

/// Every key with this prefix, which is not empty and does not end in 0xff.
pub(crate) fn under(prefix: &Bytes) -> KeyRange {
    let mut end = prefix.to_vec();
    let last = end.last_mut().expect("a prefix ends in a slash");
    *last += 1;
    KeyRange::Span(prefix.clone(), end.into())
}

/// The oldest key with this prefix.
pub(crate) fn oldest(prefix: &Bytes) -> Range {
    let sort = Sort { target: SortTarget::CreateRev, order: SortOrder::Ascend };
    Range { limit: 1, sort, ..Range::of(under(prefix)) }
}

/// The comparison that `key` was created at `rev`; 0 means that it does not exist.
pub(crate) fn created_at(key: &Bytes, rev: i64) -> Compare {
    Compare {
        range: KeyRange::Point(key.clone()),
        operator: CompareOperator::Equal,
        target: CompareTarget::CreateRev(rev),
    }
}

pub(crate) fn get(key: &Bytes) -> Op {
    Op::Range(Range::of(KeyRange::Point(key.clone())))
}

pub(crate) fn put(key: &Bytes, value: Bytes, lease: LeaseId) -> Op {
    Op::Put(Put::new(key.clone(), Some(value), Some(lease), false))
}

pub(crate) fn delete(key: &Bytes) -> Op {
    Op::DeleteRange(DeleteRange { range: KeyRange::Point(key.clone()), prev_kv: false })
}

pub(crate) async fn commit(session: &Session, txn: Txn) -> Result<(Rev, TxnResult), Status> {
    let outcome = session.propose_with_quota(Command::Txn(txn)).await?;
    match outcome.result? {
        apply::Response::Txn(result) => Ok((outcome.rev, result)),
        other => Err(wrong_kind(&other)),
    }
}

/// The first key that the range at `place` of a transaction found.
pub(crate) fn found(result: &mut TxnResult, place: usize) -> Option<KeyValue> {
    match result.responses.get_mut(place) {
        Some(apply::OpResult::Range { result, .. }) => result.kvs.drain(..).next(),
        _ => None,
    }
}

/// A linearizable read, of which the first part is enough.
pub(crate) async fn read(session: &Session, query: &Range) -> Result<(Rev, RangeResult), Status> {
    session.read_barrier().await?;
    let Found { rev, result, .. } = session.range(query).await?;
    Ok((rev, result))
}

/// Waits until no key that was created before `rev` is left. Only the newest of these keys is watched:
/// usually the others are gone when that one is deleted, and so each deletion wakes only one waiting client.
pub(crate) async fn wait_for_turn(session: &Session, prefix: &Bytes, rev: Rev) -> Result<(), Status> {
    let youngest_before = Range {
        limit: 1,
        sort: Sort { target: SortTarget::CreateRev, order: SortOrder::Descend },
        create_rev: RevBounds { min: 0, max: rev.0 - 1 },
        ..Range::of(under(prefix))
    };
    loop {
        let (read_rev, mut result) = read(session, &youngest_before).await?;
        let Some(ahead) = result.kvs.pop() else { return Ok(()) };
        let mut changes = Changes::follow(session, KeyRange::Point(ahead.key), read_rev)?;
        while changes.next().await?.kind != EventKind::Delete {}
    }
}

/// A key in the queue. If `give_up` is set, dropping this deletes the key, because a call that has stopped
/// waiting must not block the clients behind it.
pub(crate) struct Place {
    held: HeldLease,
    key: Bytes,
    /// The revision that created the key. If the key was created again later, it belongs to another call.
    pub(crate) rev: Rev,
    give_up: bool,
}

impl Place {
    /// From here on the key is deleted when this is dropped.
    pub(crate) fn wait(&mut self) {
        self.give_up = true;
    }

    pub(crate) fn keep(mut self) {
        self.give_up = false;
        self.held.is_unknown = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // If the lease is unknown to the client, it is revoked, which also deletes the key.
        if self.give_up && !self.held.is_unknown {
            let compares = vec![created_at(&self.key, self.rev.0)];
            let txn = Txn { compares, success: vec![delete(&self.key)], failure: Vec::new() };
            self.held.session.clean_up_with(Command::Txn(txn));
        }
    }
}

/// The result of [`enqueue`].
pub(crate) struct Queued {
    pub(crate) rev: Rev,
    pub(crate) result: TxnResult,
    pub(crate) place: Place,
    /// The key, if it was in the queue before.
    pub(crate) found: Option<KeyValue>,
}

/// Adds `key` to the queue. The transaction creates the key, or else reads it by its first operation.
///
/// A new key is deleted if the call ends, even if it ends before the transaction is answered. A key that was
/// in the queue before is not deleted, until [`Place::wait`] is called.
pub(crate) async fn enqueue(
    session: &Session,
    held: HeldLease,
    key: &Bytes,
    txn: Txn,
) -> Result<Queued, Status> {
    let key = key.clone();
    let queueing = session.outliving(|session| async move {
        let (rev, mut result) = commit(&session, txn).await?;
        let is_new = result.succeeded;
        let found = if is_new { None } else { found(&mut result, 0) };
        let own_rev = found.as_ref().map_or(rev, |kv| kv.create_rev);
        Ok(Queued { rev, result, place: Place { held, key, rev: own_rev, give_up: is_new }, found })
    });
    // A task of the core is only cancelled when the core stops.
    queueing.await.map_err(|_| Refusal::Stopped)?
}

/// The changes of the keys in a range, beginning with one revision, each once and in order.
pub(crate) struct Changes {
    stream: WatchStream,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    auth_changes: AuthChanges,
    queued: VecDeque<Event>,
    /// Events behind those.
    many: Option<ManyEvents>,
}

impl Changes {
    pub(crate) fn follow(session: &Session, range: KeyRange, from: Rev) -> Result<Changes, Status> {
        let spec = WatcherSpec {
            id: 0,
            range,
            start_rev: from.0,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            progress_notify: false,
            fragment: false,
        };
        let auth_changes = session.auth_changes();
        let mut stream = session.watch();
        let (created, _) = stream.create(spec);
        created.map_err(|error| match error {
            NotCreated::Denied(denied) => denied.into(),
            NotCreated::Refused(refused) => Status::unknown(refused.to_string()),
        })?;
        let stopping = Box::pin(session.stopping());
        Ok(Changes { stream, stopping, auth_changes, queued: VecDeque::new(), many: None })
    }

    pub(crate) async fn next(&mut self) -> Result<Event, Status> {
        loop {
            if let Some(event) = self.queued.pop_front() {
                return Ok(event);
            }
            if let Some(many) = &mut self.many {
                match many.next().await? {
                    Some(events) => self.queued.extend(events),
                    None => self.many = None,
                }
                continue;
            }
            if self.stream.is_behind() {
                match self.stream.catch_up().await? {
                    Some(CaughtUp::Events { events, .. }) => self.queued.extend(events),
                    Some(CaughtUp::ManyEvents { events, .. }) => self.many = Some(events),
                    Some(CaughtUp::Compacted { .. }) => return Err(Refusal::Compacted.into()),
                    None => {}
                }
                continue;
            }
            let delivery = tokio::select! { biased;
                () = &mut self.stopping => None,
                () = self.auth_changes.changed() => {
                    if let Some((_, denied)) = self.stream.judge_again().await.pop() {
                        return Err(denied.into());
                    }
                    continue;
                }
                delivery = self.stream.recv() => delivery,
            };
            match delivery {
                Some(Delivery::Batch(batch)) => {
                    self.queued.extend(batch.shares().flat_map(|share| share.events().cloned()));
                }
                Some(Delivery::Progress { .. } | Delivery::StreamProgress { .. }) => {}
                Some(Delivery::Lagging) => self.stream.fell_behind(),
                None => return Err(Refusal::Stopped.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_after_the_lease_in_hex() {
        let prefix = prefix(b"queue");
        assert_eq!(own_key(&prefix, LeaseId(0x694d_71ba_2d03_ba1a)), "queue/694d71ba2d03ba1a");
        assert_eq!(own_key(&prefix, LeaseId(15)), "queue/f");
        assert_eq!(own_key(&prefix, LeaseId(-31)), "queue/-1f");
    }

    #[test]
    fn a_queue_is_what_lies_under_its_prefix() {
        let range = under(&prefix(b"q"));
        assert!(range.contains(b"q/1") && range.contains(b"q/") && range.contains(b"q/\xff"));
        assert!(!range.contains(b"q") && !range.contains(b"q0") && !range.contains(b"qq/1"));
    }
}
