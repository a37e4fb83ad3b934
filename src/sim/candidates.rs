//! Candidates of an election, which the members themselves hold (etcd's `Election` service): each campaigns with a key and
//! a lease of its own, proclaims something while it leads, and resigns or lets its lease end. Some give up while they
//! wait.
//!
//! Judges: "only one leader at a time" while its lease lives (etcd's concurrency API), and everybody who asks is told of
//! the candidate that has waited longest, with what it proclaimed last. What the service writes is in the history like
//! every other write: a key is put by its campaign and by proclamations, and deleted once, whether its candidate resigns or
//! gives up, or its lease ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time;
use tonic::Status;

use super::{
    clients::{REQUEST_TIMEOUT, Shared, Told, ask, within},
    dice::Dice,
    judges::{
        history::{Answer, Change, ChangeKind, Compare, Operation, Outcome, Request, Response, Txn, Write},
        wire,
    },
    pb::{
        etcdserverpb::{LeaseGrantRequest, lease_client::LeaseClient},
        v3electionpb::{
            CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
            election_client::ElectionClient,
        },
    },
};

const ELECTION: &str = "lease/election";

pub(super) struct Candidate {
    pub(super) number: usize,
    pub(super) dice: Dice,
    pub(super) shared: Arc<Shared>,
}

impl Candidate {
    pub(super) async fn run(self) {
        while !self.shared.is_over() {
            // What fails is tried again with another lease.
            let _ = self.campaign().await;
            time::sleep(self.dice.between(Duration::ZERO, Duration::from_millis(300))).await;
            self.ask_for_leader().await;
        }
    }

    async fn campaign(&self) -> Result<(), Status> {
        let asked_at = self.shared.now();
        let request = LeaseGrantRequest { ttl: 3, id: 0 };
        let mut leases = LeaseClient::new(self.shared.wire(self.any_member()));
        let granted = within(leases.lease_grant(request)).await?.into_inner();
        let ttl = Duration::from_secs(granted.ttl as u64);
        let lives_until = self.shared.certain_until(asked_at + ttl, ttl);
        let key = format!("{ELECTION}/{:x}", granted.id);
        let patience = match self.dice.below(4) {
            0 => self.dice.between(Duration::from_millis(5), Duration::from_millis(800)),
            _ => REQUEST_TIMEOUT,
        };
        let Some(leader) = self.win(&key, granted.id, patience).await else { return Ok(()) };
        // An answer that was under way for longer than the lease lives says nothing any more.
        if self.shared.now() < lives_until {
            self.shared.elections_won.fetch_add(1, Relaxed);
            self.shared.holds(ELECTION, self.number, &key, lives_until);
            time::sleep(self.dice.between(Duration::ZERO, Duration::from_millis(300))).await;
            if self.dice.flip() {
                self.proclaim(&key, &leader).await;
            }
            self.ask_for_leader().await;
            self.shared.releases(ELECTION, self.number);
        }
        if self.dice.below(4) > 0 {
            self.resign(key, leader).await;
        }
        Ok(())
    }

    async fn win(&self, key: &str, lease: i64, patience: Duration) -> Option<LeaderKey> {
        let (member, value, called) = (self.any_member(), self.shared.new_value(), self.shared.now());
        let mut client = ElectionClient::new(self.shared.wire(member));
        let (name, text) = (ELECTION.to_owned().into(), value.to_string().into());
        let request = CampaignRequest { name, lease, value: text };
        let won = match time::timeout(patience, client.campaign(request)).await {
            Ok(Ok(won)) => won.into_inner().leader,
            // The key may have been put, whatever went wrong afterwards.
            Ok(Err(_)) | Err(_) => None,
        };
        if let Some(leader) = won.as_ref().filter(|leader| leader.key != key.as_bytes()) {
            self.shared
                .violated("elections and locks", format!("the campaign with {key} was won as {leader:?}"));
        }
        let put = Request::Put { key: key.to_owned(), value };
        let revision = won.as_ref().map(|leader| leader.rev);
        self.record(member, called, put, revision.map(|revision| Answer { revision, ..Answer::default() }));
        self.record(member, called, Request::Delete { key: key.to_owned() }, None);
        won
    }

    /// Who does not lead any more is refused.
    async fn proclaim(&self, key: &str, leader: &LeaderKey) {
        let (member, value, called) = (self.any_member(), self.shared.new_value(), self.shared.now());
        let mut client = ElectionClient::new(self.shared.wire(member));
        let request = ProclaimRequest { leader: Some(leader.clone()), value: value.to_string().into() };
        let done = within(client.proclaim(request)).await;
        let revision = done.ok().and_then(|done| done.into_inner().header).map(|header| header.revision);
        let answer = revision.map(|revision| Answer {
            revision,
            succeeded: true,
            responses: vec![Response::Put],
            ..Answer::default()
        });
        let put = Request::Txn(Txn {
            compares: vec![Compare::CreateRevision { key: key.to_owned(), equal: leader.rev }],
            success: vec![Write::Put { key: key.to_owned(), value }],
            failure: Vec::new(),
        });
        self.record(member, called, put, answer);
    }

    async fn resign(&self, key: String, leader: LeaderKey) {
        let mut client = ElectionClient::new(self.shared.wire(self.any_member()));
        let resigned = within(client.resign(ResignRequest { leader: Some(leader) })).await;
        if resigned.is_err() {
            return;
        }
        let request = Request::Get { key: key.clone(), serializable: false };
        let left = ask(&self.shared, self.number, self.any_member(), request).await;
        if left.answer().is_some_and(|answer| !answer.kvs.is_empty()) {
            self.shared.violated(
                "elections and locks",
                format!("{key} is there although its candidate has resigned: {left}"),
            );
        }
        self.shared.record(left);
    }

    /// Who is known to lead during the whole call is the one that is told.
    async fn ask_for_leader(&self) {
        let (member, called) = (self.any_member(), self.shared.now());
        let before = self.shared.holder(ELECTION);
        let mut client = ElectionClient::new(self.shared.wire(member));
        let told = within(client.leader(LeaderRequest { name: ELECTION.to_owned().into() })).await;
        let now = self.shared.now();
        let certain = before.filter(|before| self.shared.holder(ELECTION).as_ref() == Some(before));
        let certain = certain.filter(|certain| certain.until > now);
        let (header, kv) = match told.map(|told| told.into_inner()) {
            Ok(told) => (told.header.expect("every answer has a header"), told.kv),
            Err(status) if status.message() == "election: no leader" => {
                if let Some(certain) = certain {
                    self.shared.violated(
                        "elections and locks",
                        format!("m{member} knows of no leader at {now:?}: {certain:?}"),
                    );
                }
                return;
            }
            Err(_) => return,
        };
        let kvs = wire::all(kv);
        if let Some(leader) = kvs.first() {
            if let Some(certain) = certain.filter(|certain| certain.key != leader.key) {
                self.shared.violated(
                    "elections and locks",
                    format!("m{member} says that {leader} leads at {now:?}: {certain:?}"),
                );
            }
            let revision = header.revision;
            let request = Request::Get { key: leader.key.clone(), serializable: false };
            self.shared.leaders_told.lock().push(Told { revision, key: leader.key.clone() });
            self.record(member, called, request, Some(Answer { revision, kvs, ..Answer::default() }));
        }
    }

    /// Without an answer the outcome is unknown.
    fn record(&self, member: usize, called: Duration, request: Request, answer: Option<Answer>) {
        let returned = answer.is_some().then(|| self.shared.now());
        let outcome = answer.map_or(Outcome::Unknown, Outcome::Ok);
        let client = self.number;
        self.shared.record(Operation { client, member, called, returned, request, outcome });
    }

    fn any_member(&self) -> usize {
        self.dice.below(self.shared.members as u64) as usize
    }
}

/// At its revision, each leader that was told is the candidate whose key was created first.
pub(super) fn check(changes: &[Change], mut told: Vec<Told>) -> Result<(), String> {
    told.sort_by_key(|told| told.revision);
    let is_ours = |change: &&Change| change.key.starts_with(ELECTION);
    let mut changes = changes.iter().filter(is_ours).peekable();
    let mut waiting: BTreeMap<&str, i64> = BTreeMap::new();
    for Told { revision, key } in told {
        while let Some(change) = changes.next_if(|change| change.stored.mod_revision <= revision) {
            match change.kind {
                ChangeKind::Put => waiting.insert(&change.key, change.stored.create_revision),
                ChangeKind::Delete => waiting.remove(change.key.as_str()),
            };
        }
        let first = waiting.iter().min_by_key(|(_, created)| **created).map(|(key, _)| *key);
        if first != Some(key.as_str()) {
            return Err(format!("at revision {revision} {key} was told to lead, of {waiting:?}"));
        }
    }
    Ok(())
}
