//! The leases of the source, at the destination.
//!
//! Each lease is granted with the id and the whole TTL that it has at the source, and is renewed for as long as the source
//! has it: whether it ends is decided there. When the source has lost it, its keys are deleted by what is followed, and
//! the lease is revoked. From the cutover on the clients have to renew it, and it has its whole TTL once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    ctl::{
        client::{
            Client, ClientError, Deadline, LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE, LEASE_TIME_TO_LIVE,
            LEASES,
        },
        follow::patience::patiently,
    },
    pb::etcdserverpb::{
        LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
        LeaseRevokeRequest, LeaseTimeToLiveRequest,
    },
};

const NOT_FOUND: &str = "etcdserver: requested lease not found";
const EXISTS: &str = "etcdserver: lease already exists";

pub(super) struct Leases<'a> {
    source: &'a Client,
    destination: &'a Client,
    /// Those that are at the destination, and when each is renewed next.
    granted: BTreeMap<i64, Granted>,
    renewals: Option<Renewals>,
    /// One has ended at the destination, with its keys, although the source may have it.
    is_lost: bool,
}

struct Granted {
    ttl: Duration,
    due: Instant,
}

struct Renewals {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl<'a> Leases<'a> {
    pub(super) fn new(source: &'a Client, destination: &'a Client) -> Leases<'a> {
        Leases { source, destination, granted: BTreeMap::new(), renewals: None, is_lost: false }
    }

    pub(super) fn has(&self, id: i64) -> bool {
        self.granted.contains_key(&id)
    }

    pub(super) fn count(&self) -> usize {
        self.granted.len()
    }

    /// Grants what is not there. A lease that the source has no more is left out.
    pub(super) async fn ensure(&mut self, ids: impl Iterator<Item = i64>) -> Result<(), ClientError> {
        let missing: BTreeSet<i64> = ids.filter(|id| !self.has(*id)).collect();
        for id in missing {
            let question = LeaseTimeToLiveRequest { id, keys: false };
            let (source, destination) = (self.source, self.destination);
            let ask = async || source.call(&LEASE_TIME_TO_LIVE, &question, Deadline::never()).await;
            let found = match patiently(ask).await {
                Ok(found) if found.ttl >= 0 => found,
                Ok(_) => continue,
                Err(error) if error.says(NOT_FOUND) => continue,
                Err(error) => return Err(error),
            };
            let request = LeaseGrantRequest { id, ttl: found.granted_ttl };
            let grant = async || destination.call(&LEASE_GRANT, &request, Deadline::never()).await;
            match patiently(grant).await {
                Ok(_) => {}
                Err(error) if error.says(EXISTS) => {}
                Err(error) => return Err(error),
            }
            let ttl = Duration::from_secs(found.granted_ttl.unsigned_abs());
            self.granted.insert(id, Granted { ttl, due: Instant::now() + ttl / 3 });
        }
        Ok(())
    }

    /// The destination has lost one. They are granted again when they are needed.
    pub(super) fn forget(&mut self) {
        self.granted.clear();
        self.is_lost = true;
    }

    /// Whether keys were lost with a lease since the last time that this was asked.
    pub(super) fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.is_lost)
    }

    /// Grants the leases that the source has got, and revokes those that it has lost.
    pub(super) async fn compare(&mut self) -> Result<(), ClientError> {
        let (source, destination) = (self.source, self.destination);
        let ask = async || source.call(&LEASES, &LeaseLeasesRequest {}, Deadline::never()).await;
        let there: BTreeSet<i64> = match patiently(ask).await {
            Ok(answer) => answer.leases.iter().map(|lease| lease.id).collect(),
            // Before etcd 3.3. Leases with keys are known by these.
            Err(error) if error.is_unimplemented() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.ensure(there.iter().copied()).await?;
        let lost: Vec<i64> = self.granted.keys().copied().filter(|id| !there.contains(id)).collect();
        for id in lost {
            let request = LeaseRevokeRequest { id };
            let revoke = async || destination.call(&LEASE_REVOKE, &request, Deadline::never()).await;
            match patiently(revoke).await {
                Err(error) if !error.says(NOT_FOUND) => return Err(error),
                Ok(_) | Err(_) => drop(self.granted.remove(&id)),
            }
        }
        Ok(())
    }

    /// Renews those whose time has come. What fails is tried again: a third of the TTL has passed, and the
    /// same again is left after the next attempt.
    pub(super) async fn renew_due(&mut self) {
        let now = Instant::now();
        let due: Vec<i64> =
            self.granted.iter().filter(|(_, granted)| granted.due <= now).map(|(id, _)| *id).collect();
        self.renew(&due).await;
    }

    pub(super) async fn renew_all(&mut self) {
        let all: Vec<i64> = self.granted.keys().copied().collect();
        self.renew(&all).await;
    }

    async fn renew(&mut self, ids: &[i64]) {
        for id in ids {
            if self.try_renew(*id).await.is_err() {
                // The stream has broken, and is opened again with the next attempt.
                self.renewals = None;
                return;
            }
        }
    }

    async fn try_renew(&mut self, id: i64) -> Result<(), ClientError> {
        let gone = || ClientError::Refused("the stream has ended".to_owned());
        let request = LeaseKeepAliveRequest { id };
        match &self.renewals {
            Some(renewals) => renewals.requests.send(request).await.map_err(|_| gone())?,
            None => {
                let (requests, queue) = mpsc::channel(1);
                requests.try_send(request).map_err(|_| gone())?;
                let queue = ReceiverStream::new(queue);
                let answers = self.destination.duplex(&LEASE_KEEP_ALIVE, queue, true).await?;
                self.renewals = Some(Renewals { requests, answers });
            }
        }
        let renewals = self.renewals.as_mut().ok_or_else(gone)?;
        let answer = renewals.answers.message().await.map_err(ClientError::of)?.ok_or_else(gone)?;
        match self.granted.get_mut(&id) {
            Some(granted) if answer.ttl > 0 => granted.due = Instant::now() + granted.ttl / 3,
            _ => {
                self.granted.remove(&id);
                self.is_lost = true;
            }
        }
        Ok(())
    }
}
