//! Clients with leases: some keep a lease alive and then let it end, others want a lock.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tonic::{Code, Status};

use super::{
    clients::{REQUEST_TIMEOUT, Shared, ask, within},
    dice::Dice,
    judges::{
        history::{Answer, Operation, Outcome, Request},
        wire,
    },
    pb::etcdserverpb::{
        LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, kv_client::KvClient, lease_client::LeaseClient,
    },
};

/// A client with leases: it puts a key with a lease, keeps the lease alive for a while, and then lets it expire.
///
/// For the judges of the history, the expiry is a deletion whose outcome is unknown from the put on.
pub(super) struct Tenant {
    pub(super) number: usize,
    pub(super) dice: Dice,
    pub(super) shared: Arc<Shared>,
}

/// By how much a clock may differ from the world's within the life of a lease, in thousandths of it.
const DRIFT: u32 = 60;

/// A renewal that took longer may be that of a leader which was just replaced.
const LONG: Duration = Duration::from_millis(500);

/// So much later than a lease was promised to end, it may be renewed if members have elected a leader meanwhile.
const ELECTION: Duration = Duration::from_secs(3);

impl Tenant {
    pub(super) async fn run(self) {
        for round in 0.. {
            if self.shared.is_over() {
                return;
            }
            let key = format!("lease/{}/{round}", self.number);
            // What fails is tried again with another key and another lease.
            let _ = self.live(&key).await;
            time::sleep(self.dice.between(Duration::ZERO, Duration::from_millis(500))).await;
        }
    }

    async fn live(&self, key: &str) -> Result<(), Status> {
        let home = self.dice.below(self.shared.members as u64) as usize;
        // Some keep their connection, whatever becomes of the member behind it.
        let any_member = || match self.number % 3 {
            0 => home,
            _ => self.dice.below(self.shared.members as u64) as usize,
        };
        let member = any_member();
        let ttl = self.dice.within(2..5) as i64;
        let mut leases = LeaseClient::new(self.shared.wire(member));
        let asked_at = self.shared.now();
        let request = LeaseGrantRequest { ttl, id: 0 };
        let granted = within(leases.lease_grant(request)).await?.into_inner();
        let ttl = Duration::from_secs(granted.ttl as u64);
        let put = put_leased(&self.shared, 100 + self.number, key, granted.id, member).await;
        // The lease is not renewed before it has a key, so it may end from the grant on.
        let mut lives_until = asked_at + ttl;
        if put.is_ok() {
            for _ in 0..self.dice.below(8) {
                time::sleep(self.dice.between(ttl / 8, ttl / 2)).await;
                let asked_at = self.shared.now();
                let member = any_member();
                let mut leases = LeaseClient::new(self.shared.wire(member));
                let request = LeaseKeepAliveRequest { id: granted.id };
                let kept = within(async {
                    let stream = futures_util::stream::iter([request]);
                    leases.lease_keep_alive(stream).await?.into_inner().message().await
                });
                let kept = kept.await;
                let took = self.shared.now() - asked_at;
                let Ok(Some(kept)) = kept else {
                    let now = self.shared.now();
                    let goes_on = match self.number % 3 {
                        // Who keeps to a member asks it again: it may be paused, and still believe that it leads.
                        0 => now < lives_until,
                        // A lease that nobody could renew may be renewed by the next leader, beyond its end.
                        1 => now < lives_until + ELECTION,
                        _ => false,
                    };
                    if goes_on {
                        continue;
                    }
                    break;
                };
                if kept.ttl <= 0 {
                    if self.shared.now() < early(lives_until, ttl) {
                        self.shared.violated(format!(
                            "lease {:x} has expired at {:?}, and was to live until {lives_until:?}",
                            granted.id,
                            self.shared.now()
                        ));
                    }
                    return Ok(());
                }
                lives_until = asked_at + Duration::from_secs(kept.ttl as u64);
                if took > LONG {
                    // Whatever made it slow, the next renewal might make up for it.
                    break;
                }
            }
            // Whoever has taken time from the lease is found shortly before its end.
            let left = early(lives_until, ttl).saturating_sub(self.shared.now());
            let lead = self.dice.between(Duration::from_millis(20), Duration::from_millis(500));
            time::sleep(left.saturating_sub(lead)).await;
            self.check_alive(key, granted.id, lives_until, ttl).await;
        }
        Ok(())
    }

    /// The key of a lease is there as long as the lease was promised to live.
    async fn check_alive(&self, key: &str, id: i64, lives_until: Duration, ttl: Duration) {
        let member = self.dice.below(self.shared.members as u64) as usize;
        let asked_at = self.shared.now();
        let mut client = KvClient::new(self.shared.wire(member));
        let request = Request::Get { key: key.to_owned(), serializable: false };
        if let Ok(Ok((_, answer))) = time::timeout(REQUEST_TIMEOUT, wire::ask(&mut client, &request)).await {
            let returned = self.shared.now();
            if answer.kvs.is_empty() && returned < early(lives_until, ttl) {
                self.shared.violated(format!(
                    "{key} of lease {id:x} is gone at {returned:?}; the lease was to live until {lives_until:?}"
                ));
            }
            self.shared.record(Operation {
                client: 100 + self.number,
                member,
                called: asked_at,
                returned: Some(returned),
                request,
                outcome: Outcome::Ok(answer),
            });
        }
    }
}

/// A put of a key with a lease. For the judges, the end of the lease is a deletion whose outcome is unknown.
async fn put_leased(
    shared: &Shared,
    client: usize,
    key: &str,
    lease: i64,
    member: usize,
) -> Result<(), Status> {
    let value = shared.new_value();
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.to_string().into(),
        lease,
        ..PutRequest::default()
    };
    let called = shared.now();
    let put = within(KvClient::new(shared.wire(member)).put(request)).await;
    let (returned, outcome) = match &put {
        Ok(done) => {
            let revision = done.get_ref().header.as_ref().map_or(0, |header| header.revision);
            (Some(shared.now()), Outcome::Ok(Answer { revision, ..Answer::default() }))
        }
        Err(status) if wire::is_refusal(status) || status.code() == Code::NotFound => {
            (Some(shared.now()), Outcome::Refused)
        }
        Err(_) => (None, Outcome::Unknown),
    };
    let is_refused = matches!(outcome, Outcome::Refused);
    let put_request = Request::Put { key: key.to_owned(), value };
    shared.record(Operation { client, member, called, returned, request: put_request, outcome });
    if !is_refused {
        let request = Request::Delete { key: key.to_owned() };
        let outcome = Outcome::Unknown;
        shared.record(Operation { client, member, called, returned: None, request, outcome });
    }
    put.map(drop)
}

/// A client that wants a lock, as etcd's recipe has it: a key with a lease below the name of the lock, and the lock
/// belongs to the key that was created first.
///
/// Judge: "a lock is held by at most one client whose lease is alive" (etcd's concurrency API; reliability of leases
/// across leaders).
pub(super) struct Locker {
    pub(super) number: usize,
    pub(super) dice: Dice,
    pub(super) shared: Arc<Shared>,
}

const LOCK: &str = "lease/lock/";

impl Locker {
    pub(super) async fn run(self) {
        for round in 0.. {
            if self.shared.is_over() {
                return;
            }
            let key = format!("{LOCK}{}-{round}", self.number);
            let _ = self.lock(&key).await;
            time::sleep(self.dice.between(Duration::ZERO, Duration::from_millis(300))).await;
        }
    }

    async fn lock(&self, key: &str) -> Result<(), Status> {
        let member = self.any_member();
        let asked_at = self.shared.now();
        let request = LeaseGrantRequest { ttl: 3, id: 0 };
        let granted = within(LeaseClient::new(self.shared.wire(member)).lease_grant(request)).await?;
        let ttl = Duration::from_secs(granted.get_ref().ttl as u64);
        let lives_until = early(asked_at + ttl, ttl);
        put_leased(&self.shared, self.number, key, granted.get_ref().id, member).await?;
        while self.shared.now() < lives_until {
            let request = Request::List { prefix: LOCK.to_owned(), serializable: false };
            // Not recorded: a list connects all keys that it names, which the judges would have to search together.
            let listed = ask(&self.shared, self.number, self.any_member(), request).await;
            let Some(Answer { kvs, .. }) = listed.answer() else { continue };
            // An answer that was under way for longer than the lease lives says nothing any more.
            if self.shared.now() >= lives_until {
                break;
            }
            let first = kvs.iter().min_by_key(|stored| stored.create_revision);
            if first.is_some_and(|first| first.key == key) {
                self.shared.holds(LOCK, self.number, key, lives_until);
                time::sleep(self.dice.between(Duration::ZERO, Duration::from_millis(400))).await;
                self.shared.releases(LOCK, self.number);
                break;
            }
            time::sleep(self.dice.between(Duration::from_millis(10), Duration::from_millis(100))).await;
        }
        let request = Request::Delete { key: key.to_owned() };
        let unlocked = ask(&self.shared, self.number, self.any_member(), request).await;
        self.shared.record(unlocked);
        Ok(())
    }

    fn any_member(&self) -> usize {
        self.dice.below(self.shared.members as u64) as usize
    }
}

/// Until when a lease certainly lives, whatever the clocks do.
pub(super) fn early(lives_until: Duration, ttl: Duration) -> Duration {
    lives_until.saturating_sub(ttl * DRIFT / 1000)
}
