//! Clients with leases: some keep a lease alive and then let it end, others want a lock.

use std::{collections::VecDeque, pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Response, Status};

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

/// A renewal that took longer may be that of a leader which was just replaced.
const LONG: Duration = Duration::from_millis(500);

/// So much later than a lease was promised to end, it may be renewed if members have elected a leader meanwhile.
const ELECTION: Duration = Duration::from_secs(3);

/// The pause before a stream that has ended is opened again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A lease, as its holder was told of it.
struct Promised {
    id: i64,
    ttl: Duration,
    /// By the world's clock.
    lives_until: Duration,
    has_ended: bool,
}

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
        let member = self.any_member();
        // Some keep a stream to one member, and what that says counts for longer than an election takes.
        let has_stream = self.number.is_multiple_of(2);
        let ttl_secs = self.dice.within(if has_stream { 4..8 } else { 2..5 }) as i64;
        let mut leases = LeaseClient::new(self.shared.wire(member));
        let asked_at = self.shared.now();
        let request = LeaseGrantRequest { ttl: ttl_secs, id: 0 };
        let granted = within(leases.lease_grant(request)).await?.into_inner();
        let ttl = Duration::from_secs(granted.ttl as u64);
        put_leased(&self.shared, 100 + self.number, key, granted.id, member).await?;
        // The lease is not renewed before it has a key, so it may end from the grant on.
        let mut lease = Promised { id: granted.id, ttl, lives_until: asked_at + ttl, has_ended: false };
        if has_stream {
            self.renew_by_stream(&mut lease, member).await;
        } else {
            self.renew_by_calls(&mut lease).await;
        }
        if !lease.has_ended {
            // Whoever has taken time from the lease is found shortly before its end.
            let left = self.certain_until(&lease).saturating_sub(self.shared.now());
            let lead = self.dice.between(Duration::from_millis(20), Duration::from_millis(500));
            time::sleep(left.saturating_sub(lead)).await;
            self.check_alive(key, &lease).await;
        }
        Ok(())
    }

    /// Each renewal by whichever member.
    async fn renew_by_calls(&self, lease: &mut Promised) {
        for _ in 0..self.dice.below(8) {
            time::sleep(self.dice.between(lease.ttl / 8, lease.ttl / 2)).await;
            let asked_at = self.shared.now();
            let mut leases = LeaseClient::new(self.shared.wire(self.any_member()));
            let request = LeaseKeepAliveRequest { id: lease.id };
            let kept = within(async {
                let requests = stream::iter([request]);
                leases.lease_keep_alive(requests).await?.into_inner().message().await
            });
            let Ok(Some(kept)) = kept.await else {
                // A lease that nobody could renew may be renewed by the next leader, beyond its end.
                if self.number % 3 == 1 && self.shared.now() < lease.lives_until + ELECTION {
                    continue;
                }
                return;
            };
            let is_last = self.take(lease, asked_at, kept.ttl);
            if lease.has_ended || is_last {
                return;
            }
        }
    }

    /// All renewals on one stream, whatever becomes of the member behind it. As etcd's own client does, it asks at
    /// intervals, also while nothing is answered.
    async fn renew_by_stream(&self, lease: &mut Promised, member: usize) {
        let mut questions_left = self.dice.within(2..12);
        while questions_left > 0 && self.shared.now() < lease.lives_until {
            let (questions, receiver) = mpsc::unbounded_channel();
            let mut leases = LeaseClient::new(self.shared.wire(member));
            let answers =
                async move { leases.lease_keep_alive(UnboundedReceiverStream::new(receiver)).await };
            let answers = stream::once(answers).map_ok(Response::into_inner).try_flatten();
            let mut answers = pin!(answers);
            let mut asked = VecDeque::new();
            while questions_left > 0 || !asked.is_empty() {
                let pause = self.dice.between(lease.ttl / 16, lease.ttl / 4);
                tokio::select! { biased;
                    kept = answers.next() => {
                        let Some(Ok(kept)) = kept else { break };
                        let asked_at = asked.pop_front().expect("an answer belongs to a question");
                        let is_last = self.take(lease, asked_at, kept.ttl);
                        if lease.has_ended {
                            return;
                        }
                        if is_last {
                            // What has been asked meanwhile is answered too.
                            questions_left = 0;
                        }
                    }
                    () = time::sleep(pause) => {
                        if self.shared.now() >= lease.lives_until {
                            return;
                        }
                        if questions_left > 0 {
                            questions_left -= 1;
                            asked.push_back(self.shared.now());
                            let _ = questions.send(LeaseKeepAliveRequest { id: lease.id });
                        }
                    }
                }
            }
            time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Takes note of an answer to what was asked then. The result is whether it is better not to ask again.
    fn take(&self, lease: &mut Promised, asked_at: Duration, ttl_secs: i64) -> bool {
        let now = self.shared.now();
        if ttl_secs <= 0 {
            lease.has_ended = true;
            if now < self.certain_until(lease) {
                let Promised { id, lives_until, .. } = lease;
                self.shared.violated(
                    "leases",
                    format!("lease {id:x} has expired at {now:?}, and was to live until {lives_until:?}"),
                );
            }
            return true;
        }
        lease.lives_until = asked_at + Duration::from_secs(ttl_secs as u64);
        // Whatever made it slow, the next renewal might make up for it.
        now - asked_at > LONG
    }

    fn certain_until(&self, lease: &Promised) -> Duration {
        self.shared.certain_until(lease.lives_until, lease.ttl)
    }

    fn any_member(&self) -> usize {
        self.dice.below(self.shared.members as u64) as usize
    }

    /// The key of a lease is there as long as the lease was promised to live.
    async fn check_alive(&self, key: &str, lease: &Promised) {
        let member = self.any_member();
        let asked_at = self.shared.now();
        let mut client = KvClient::new(self.shared.wire(member));
        let request = Request::Get { key: key.to_owned(), serializable: false };
        if let Ok(Ok((_, answer))) = time::timeout(REQUEST_TIMEOUT, wire::ask(&mut client, &request)).await {
            let returned = self.shared.now();
            if answer.kvs.is_empty() && returned < self.certain_until(lease) {
                let Promised { id, lives_until, .. } = lease;
                self.shared.violated("leases", format!(
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
        let lives_until = self.shared.certain_until(asked_at + ttl, ttl);
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
