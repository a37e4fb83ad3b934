//! Makes the same calls on two servers, and reports where their answers differ.
//!
//! Every answer is compared as soon as it arrives. Events may arrive at any time, so they are compared at
//! *meetings*: a key of each watcher is put and deleted, and both sides are read until every watcher has got
//! these events. There is a meeting before everything that would make the order of a watcher's events random:
//! compaction, cancelling, a crash.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    env,
};

use bytes::Bytes;
use tonic::Status;

use super::{
    call::{self, Call, Place, hears_nothing, terse},
    normal,
    operation::{self, Chosen},
};
use crate::{
    client::{Client, WatchStream, revision, soon},
    pb::etcdserverpb::{request_op::Request, watch_request::RequestUnion, *},
    server::{Launch, Server, subject_is_retcd},
    tools::reference,
};

/// The difference between two servers.
#[derive(Debug)]
pub(crate) struct Parted {
    /// The number of calls before it.
    pub(crate) index: usize,
    pub(crate) what: String,
    pub(crate) reference: String,
    pub(crate) subject: String,
}

struct Side {
    server: Server,
    client: Client,
    stream: WatchStream,
    chosen: Chosen,
    /// Answers to watch requests, in order.
    control: VecDeque<WatchResponse>,
    /// The events of each watcher since the last meeting.
    told: BTreeMap<i64, Vec<String>>,
    /// The newest revision that each watcher got.
    reached: BTreeMap<i64, i64>,
    /// The revisions of progress notifications of the stream.
    progress: Vec<i64>,
}

/// A watcher that both servers have.
struct Watcher {
    create: WatchCreateRequest,
    /// The watcher starts below the compacted revision, and will be cancelled.
    doomed: bool,
}

pub(crate) struct Lockstep {
    reference: Side,
    subject: Side,
    place: Place,
    watchers: BTreeMap<i64, Watcher>,
    /// Watchers that a compaction ended, and that the client has not cancelled.
    ended: BTreeSet<i64>,
    /// Revisions that are known to put and not to delete.
    puts: BTreeSet<i64>,
    /// Print every call, for a run that fails without a difference.
    traced: bool,
}

pub(crate) type Answer = Result<String, String>;

const FORGOTTEN_LEASES: [i64; 3] = [-1, i64::MIN, i64::MAX];

const PROBE_ID: i64 = 1_000_000;

impl Side {
    async fn start(launch: Launch) -> Side {
        let server = launch.start();
        let client = server.client();
        let stream = client.watch_stream();
        let header = client.status().await.header.expect("every answer has a header");
        let chosen = Chosen {
            member_id: header.member_id,
            client_port: server.client_port,
            peer_port: server.peer_port,
            added: Cell::new(Chosen::NOBODY),
        };
        Side {
            server,
            client,
            stream,
            chosen,
            control: VecDeque::new(),
            told: BTreeMap::new(),
            reached: BTreeMap::new(),
            progress: Vec::new(),
        }
    }

    /// Restarts the server: after a crash if it is retcd, after a normal stop if it is the reference, whose
    /// crashes are not tested here.
    fn begin_again(&mut self, crash: bool) {
        if crash {
            self.server.kill();
        } else {
            self.server.stop();
        }
        self.server.start();
        self.client = self.server.client();
        self.stream = self.client.watch_stream();
        self.control.clear();
        self.told.clear();
        self.reached.clear();
    }

    /// Makes one call. Returns the comparable part of the answer, and the store's revision if the answer has
    /// it.
    async fn call(&self, call: &Call) -> (Answer, i64) {
        let mut at = 0;
        let answer = self.answer(call, &mut at).await;
        (answer.map_err(|status| format!("{:?}: {}", status.code(), status.message())), at)
    }

    async fn answer(&self, call: &Call, at: &mut i64) -> Result<String, Status> {
        let client = &self.client;
        Ok(match call {
            Call::Range(request) => {
                let mut response = client.try_range(request.clone()).await?;
                *at = revision(&response.header);
                normal::range(request, &mut response);
                terse(&response)
            }
            Call::RangeStream(request) => {
                let mut stream = client.kv().range_stream(request.clone()).await?.into_inner();
                let mut chunks = Vec::new();
                while let Some(chunk) = soon("a chunk", stream.message()).await? {
                    chunks.push(chunk);
                }
                let response = normal::stream(request, chunks);
                *at = revision(&response.header);
                terse(&response)
            }
            Call::Put(request) => {
                let mut response = client.try_put(request.clone()).await?;
                *at = revision(&response.header);
                normal::header(&mut response.header);
                terse(&response)
            }
            Call::Delete(request) => {
                let mut response = client.try_delete(request.clone()).await?;
                *at = revision(&response.header);
                normal::header(&mut response.header);
                terse(&response)
            }
            Call::Txn(request) => {
                let mut response = client.try_txn(request.clone()).await?;
                *at = revision(&response.header);
                normal::txn(request, &mut response);
                terse(&response)
            }
            Call::Compact(request) => {
                let mut response = client.try_compact(request.revision, request.physical).await?;
                *at = revision(&response.header);
                normal::header(&mut response.header);
                terse(&response)
            }
            Call::Grant(request) => {
                let mut response = client.try_grant(request.ttl, request.id).await?;
                *at = revision(&response.header);
                normal::header(&mut response.header);
                terse(&response)
            }
            Call::GrantBriefly(request) => {
                let mut granted = client.try_grant(request.ttl, request.id).await?;
                let mut revoked = client.try_revoke(granted.id).await?;
                *at = revision(&revoked.header);
                normal::header(&mut granted.header);
                normal::header(&mut revoked.header);
                if request.id == 0 {
                    assert!(granted.id > 0, "a lease gets a positive id: {granted:?}");
                    granted.id = 0;
                }
                terse(&granted) + &terse(&revoked)
            }
            Call::Revoke(request) => {
                let mut response = client.try_revoke(request.id).await?;
                *at = revision(&response.header);
                normal::header(&mut response.header);
                terse(&response)
            }
            Call::TimeToLive(request) => {
                let mut response = client.leases().lease_time_to_live(*request).await?.into_inner();
                *at = revision(&response.header);
                normal::time_to_live(&mut response);
                terse(&response)
            }
            Call::KeepAlive(request) => {
                let mut response = client.keep_alive_once(request.id).await;
                *at = revision(&response.header);
                normal::header(&mut response.header);
                terse(&response)
            }
            Call::Leases(request) => {
                let mut response = client.leases().lease_leases(*request).await?.into_inner();
                *at = revision(&response.header);
                normal::header(&mut response.header);
                response.leases.sort_by_key(|lease| lease.id);
                terse(&response)
            }
            Call::HashKv(request) => {
                let mut response = client.try_hash_kv(request.revision).await?;
                *at = revision(&response.header);
                normal::hash_kv(&mut response);
                terse(&response)
            }
            Call::Operation(operation) => operation::answer(client, &self.chosen, operation, at).await?,
            Call::Watch(_) | Call::CancelWatch(_) | Call::Progress | Call::Alarmed(..) | Call::Crash => {
                unreachable!("not a plain call")
            }
        })
    }

    /// Sends a watch request and reads until its answer must have come, which is when the answer to a later
    /// probe arrives.
    async fn control(&mut self, union: RequestUnion) -> Vec<WatchResponse> {
        self.stream.send(union).await;
        let probe = WatchCreateRequest { key: "~probe".into(), watch_id: PROBE_ID, ..Default::default() };
        self.stream.send(RequestUnion::CreateRequest(probe)).await;
        self.stream.cancel(PROBE_ID).await;
        let mut answers = Vec::new();
        loop {
            while let Some(answer) = self.control.pop_front() {
                if answer.watch_id != PROBE_ID {
                    answers.push(answer);
                } else if answer.canceled {
                    return answers;
                }
            }
            self.hear().await;
        }
    }

    /// Reads one message from the watch stream.
    async fn hear(&mut self) {
        let mut response = self.stream.next().await;
        let told = self.told.entry(response.watch_id).or_default();
        if response.canceled && response.compact_revision != 0 {
            normal::header(&mut response.header);
            told.push(terse(&response));
        } else if response.watch_id == -1
            && !response.created
            && !response.canceled
            && response.events.is_empty()
        {
            self.progress.push(revision(&response.header));
        } else if response.created || response.canceled {
            normal::header(&mut response.header);
            self.control.push_back(response);
        } else {
            for event in &response.events {
                let at = event.kv.as_ref().expect("an event carries a key").mod_revision;
                self.reached.insert(response.watch_id, at);
                told.push(normal::event_line(event));
            }
        }
    }

    /// Reads until this watcher has got `at`, or has ended.
    async fn hear_until(&mut self, watch_id: i64, at: i64) {
        let done = |side: &Side| {
            side.reached.get(&watch_id).is_some_and(|reached| *reached >= at)
                || side
                    .told
                    .get(&watch_id)
                    .is_some_and(|told| told.iter().any(|line| line.contains("canceled: true")))
        };
        while !done(self) {
            self.hear().await;
        }
    }
}

impl Lockstep {
    pub(crate) async fn start(reference: Launch, subject: Launch) -> Lockstep {
        Lockstep {
            reference: Side::start(reference).await,
            subject: Side::start(subject).await,
            place: Place { now: 1, compacted: -1 },
            watchers: BTreeMap::new(),
            ended: BTreeSet::new(),
            puts: BTreeSet::new(),
            traced: env::var_os("RETCD_DIFFERENTIAL_TRACE").is_some(),
        }
    }

    /// Makes all calls, holds a last meeting, and compares the whole stores.
    pub(crate) async fn play(mut self, calls: &[Call]) -> Result<(), Parted> {
        for (index, call) in calls.iter().enumerate() {
            self.step(call).await.map_err(|parted| Parted { index, ..parted })?;
        }
        let last = async {
            self.meet().await?;
            for at in [self.place.compacted.max(1), self.place.now] {
                let everything = RangeRequest {
                    key: "\0".into(),
                    range_end: "\0".into(),
                    revision: at,
                    ..Default::default()
                };
                self.step(&Call::Range(everything)).await?;
            }
            self.step(&Call::Leases(LeaseLeasesRequest {})).await?;
            self.step(&Call::HashKv(HashKvRequest { revision: 0 })).await
        };
        last.await.map_err(|parted| Parted { index: calls.len(), ..parted })
    }

    async fn step(&mut self, call: &Call) -> Result<(), Parted> {
        let call = self.place.resolve_call(call);
        let Some(mut call) = call::adapted(call, reference()) else { return Ok(()) };
        match &mut call {
            Call::Alarmed(alarm, calls) => return self.alarmed(*alarm, calls).await,
            Call::Progress => return self.progress().await,
            Call::Watch(create) => return self.watch(create.clone()).await,
            Call::CancelWatch(cancel) => return self.cancel(*cancel).await,
            Call::Crash => {
                self.meet().await?;
                self.watchers.clear();
                self.ended.clear();
                for id in FORGOTTEN_LEASES {
                    // See DIFFERENCES: the reference loses these leases.
                    self.both(&Call::Revoke(LeaseRevokeRequest { id })).await?;
                }
                self.reference.begin_again(false);
                self.subject.begin_again(subject_is_retcd());
                // Before a linearizable read, some answers may be from an earlier state.
                let barrier = RangeRequest { key: "a".into(), ..Default::default() };
                self.both(&Call::Range(barrier)).await?;
                return Ok(());
            }
            // See DIFFERENCES: the reference would answer the hash of nothing for the newest revision.
            Call::Compact(CompactionRequest { revision: 0, .. }) if self.place.compacted < 0 => return Ok(()),
            Call::Compact(compact) => {
                self.meet().await?;
                let is_possible =
                    compact.revision > self.place.compacted && compact.revision <= self.place.now;
                if is_possible && !reference().has((3, 5, 16)) {
                    // Not a compaction to a tombstone: see DIFFERENCES.
                    let upto = self.puts.range(..=compact.revision);
                    let put = upto.last().filter(|put| **put > self.place.compacted);
                    let Some(put) = put else { return Ok(()) };
                    compact.revision = *put;
                }
            }
            Call::HashKv(hash) if !self.may_hash(hash.revision).await? => return Ok(()),
            _ => {}
        }
        let before = self.place.now;
        let accepted = self.both(&call).await?;
        if accepted {
            match &call {
                Call::Put(_) => {
                    assert_eq!(self.place.now, before + 1, "a put makes one revision");
                    self.puts.insert(self.place.now);
                }
                Call::Compact(compact) => self.place.compacted = compact.revision,
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the same call on both sides at the same time and compares the answers. Returns whether it was
    /// accepted.
    async fn both(&mut self, call: &Call) -> Result<bool, Parted> {
        let ((reference, at), (subject, _)) =
            tokio::join!(self.reference.call(call), self.subject.call(call));
        if self.traced {
            eprintln!("{} => {reference:?}", terse(call));
        }
        let gone = reference.as_ref().is_err_and(|refusal| {
            refusal.starts_with("Unavailable: ") || refusal.starts_with("Unknown: transport")
        });
        if gone {
            return Err(parted(
                format!("the reference itself is gone, {}", terse(call)),
                &reference,
                &subject,
            ));
        }
        if reference != subject && !normal::either_refusal(call, &reference, &subject) {
            return Err(parted(terse(call), &reference, &subject));
        }
        self.place.now = self.place.now.max(at);
        Ok(reference.is_ok())
    }

    /// Whether two servers of different releases must agree on the hash at this revision. Waits until the
    /// last compaction has removed its records, because the hash depends on that.
    async fn may_hash(&mut self, at: i64) -> Result<bool, Parted> {
        if self.place.compacted < 0 {
            return Ok(true);
        }
        let again = CompactionRequest { revision: self.place.compacted, physical: true };
        self.both(&Call::Compact(again)).await?;
        if !reference().has((3, 6, 0)) && at == self.place.compacted {
            return Ok(false);
        }
        let is_told_apart = reference().has((3, 5, 16));
        if is_told_apart || (at > 0 && (at < self.place.compacted || at > self.place.now)) {
            return Ok(true);
        }
        let count = RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            count_only: true,
            revision: at.max(0),
            ..Default::default()
        };
        let (answer, _) = self.reference.call(&Call::Range(count)).await;
        Ok(answer.is_ok_and(|answer| answer.contains("count: ")))
    }

    /// Each of these calls is one of the data API, which needs no meeting.
    async fn alarmed(&mut self, alarm: AlarmRequest, calls: &[Call]) -> Result<(), Parted> {
        let alarm_call =
            |action: i32| Call::Operation(operation::Operation::Alarm(AlarmRequest { action, ..alarm }));
        for action in [1, 1, 0] {
            self.both(&alarm_call(action)).await?;
        }
        self.both(&Call::Operation(operation::Operation::Status(StatusRequest {}))).await?;
        let mut outcome = Ok(());
        for call in calls {
            outcome = Box::pin(self.step(call)).await;
            if outcome.is_err() {
                break;
            }
        }
        self.both(&alarm_call(2)).await?;
        outcome
    }

    /// Asks for the progress of the stream when all watchers have got all events. The answer must come before
    /// later events.
    async fn progress(&mut self) -> Result<(), Parted> {
        self.meet().await?;
        if !self.watchers.values().any(|watcher| !hears_nothing(&watcher.create)) {
            // No watcher would get later events.
            return Ok(());
        }
        if !self.ended.is_empty() {
            // See DIFFERENCES: the reference waits for these watchers.
            return Ok(());
        }
        for side in [&mut self.reference, &mut self.subject] {
            side.progress.clear();
            side.control(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
        }
        self.meet().await?;
        let (reference, subject) = (&self.reference.progress, &self.subject.progress);
        if reference != subject {
            return Err(parted("how far the stream is".to_owned(), reference, subject));
        }
        Ok(())
    }

    async fn watch(&mut self, create: WatchCreateRequest) -> Result<(), Parted> {
        let request = RequestUnion::CreateRequest(create.clone());
        let (reference, subject) =
            tokio::join!(self.reference.control(request.clone()), self.subject.control(request));
        let created = self.same_control(&terse(&create), &reference, &subject)?;
        let Some(created) = created else { return Ok(()) };
        if !created.canceled {
            let doomed = 0 < create.start_revision && create.start_revision < self.place.compacted;
            self.watchers.insert(created.watch_id, Watcher { create, doomed });
        }
        Ok(())
    }

    async fn cancel(&mut self, cancel: WatchCancelRequest) -> Result<(), Parted> {
        self.meet().await?;
        let request = RequestUnion::CancelRequest(cancel);
        let (reference, subject) =
            tokio::join!(self.reference.control(request.clone()), self.subject.control(request));
        self.same_control(&terse(&cancel), &reference, &subject)?;
        self.watchers.remove(&cancel.watch_id);
        self.ended.remove(&cancel.watch_id);
        for side in [&mut self.reference, &mut self.subject] {
            side.told.remove(&cancel.watch_id);
            side.reached.remove(&cancel.watch_id);
        }
        Ok(())
    }

    fn same_control(
        &self,
        what: &str,
        reference: &[WatchResponse],
        subject: &[WatchResponse],
    ) -> Result<Option<WatchResponse>, Parted> {
        if reference != subject {
            return Err(parted(what.to_owned(), &reference, &subject));
        }
        assert!(reference.len() <= 1, "one request has one answer at most: {reference:?}");
        Ok(reference.first().cloned())
    }

    /// Waits until every watcher has got all events on both sides, and compares them.
    async fn meet(&mut self) -> Result<(), Parted> {
        let mut until: BTreeMap<i64, i64> = BTreeMap::new();
        let mut keys: BTreeMap<Bytes, Vec<i64>> = BTreeMap::new();
        for (id, watcher) in &self.watchers {
            if watcher.doomed {
                until.insert(*id, i64::MAX);
            } else if !hears_nothing(&watcher.create) {
                let key = &watcher.create.key;
                let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key.clone() };
                keys.entry(key).or_default().push(*id);
            }
        }
        // All puts are in one revision, so that each watcher gets exactly the event for which it waits.
        let op = |request: Request| RequestOp { request: Some(request) };
        let put = |key: &Bytes| {
            let value = Bytes::from_static(b"meeting");
            op(Request::RequestPut(PutRequest { key: key.clone(), value, ..Default::default() }))
        };
        let delete = |key: &Bytes| {
            op(Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), ..Default::default() }))
        };
        let puts = TxnRequest { success: keys.keys().map(put).collect(), ..Default::default() };
        let deletes = TxnRequest { success: keys.keys().map(delete).collect(), ..Default::default() };
        if !keys.is_empty() {
            let latest = self.watchers.values().map(|watcher| watcher.create.start_revision).max();
            loop {
                self.both(&Call::Txn(puts.clone())).await?;
                self.puts.insert(self.place.now);
                if Some(self.place.now) >= latest {
                    break;
                }
            }
            let put_at = self.place.now;
            self.both(&Call::Txn(deletes)).await?;
            for id in keys.into_values().flatten() {
                let no_deletes = self.watchers[&id].create.filters.contains(&1);
                until.insert(id, if no_deletes { put_at } else { self.place.now });
            }
        }
        for (id, at) in until {
            if self.traced {
                eprintln!("waiting until {id} has heard of {at}: {}", terse(&self.watchers[&id].create));
            }
            tokio::join!(self.reference.hear_until(id, at), self.subject.hear_until(id, at));
        }
        for (id, watcher) in &mut self.watchers {
            let reference = self.reference.told.remove(id).unwrap_or_default();
            let subject = self.subject.told.remove(id).unwrap_or_default();
            if reference != subject {
                let what = format!("what watcher {id} was told, {}", terse(&watcher.create));
                return Err(parted(what, &reference, &subject));
            }
        }
        // A watcher that a compaction ended stays known to the servers, and gets no more events.
        let doomed = self.watchers.extract_if(.., |_, watcher| watcher.doomed);
        self.ended.extend(doomed.map(|(id, _)| id));
        Ok(())
    }
}

fn parted(what: String, reference: &impl std::fmt::Debug, subject: &impl std::fmt::Debug) -> Parted {
    Parted { index: 0, what, reference: format!("{reference:#?}"), subject: format!("{subject:#?}") }
}
