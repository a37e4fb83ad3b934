//! Watchers that continue at their revision, whatever happens to their streams.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    clients::Shared,
    judges::{
        history::{Batch, Watched},
        wire,
    },
    pb::etcdserverpb::{
        WatchCreateRequest, WatchRequest, WatchResponse, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
};

/// The pause before a member that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long the moving watcher stays at a member.
const STAY: Duration = Duration::from_millis(700);

/// How long a stream that is cut goes unnoticed, because nothing is sent on it.
const SILENCE: Duration = Duration::from_secs(8);

pub(super) struct Watcher {
    number: usize,
    member: usize,
    keeps_to_member: bool,
    prefix: &'static str,
    shared: Arc<Shared>,
    /// Up to where it has seen everything; `None` before it knows its first revision.
    seen: Option<i64>,
    /// One record for each time that its history was compacted.
    records: Vec<Watched>,
}

/// A revision that does not exist when its watcher begins.
const FUTURE: i64 = 150;

/// One of all keys from the first revision on, which the judges need, one for each member, one that moves, and one that
/// waits for a revision to come.
pub(super) fn all(shared: &Arc<Shared>) -> Vec<Watcher> {
    let watcher = |number: usize, keeps_to_member, prefix| Watcher {
        number,
        member: number % shared.members,
        keeps_to_member,
        prefix,
        shared: shared.clone(),
        seen: None,
        records: Vec::new(),
    };
    let mut watchers: Vec<Watcher> = (0..shared.members).map(|number| watcher(number, true, "")).collect();
    watchers.push(watcher(watchers.len(), true, "b/"));
    watchers.push(watcher(watchers.len(), false, ""));
    for watcher in &mut watchers {
        watcher.begin(2);
    }
    let mut patient = watcher(watchers.len(), true, "");
    patient.begin(FUTURE);
    watchers.push(patient);
    watchers
}

impl Watcher {
    /// Watches until it has got all events up to the last revision.
    pub(super) async fn run(mut self) -> Vec<Watched> {
        let stay = if self.keeps_to_member { SILENCE } else { STAY };
        while !self.is_done() {
            let left = time::timeout(stay, self.follow()).await;
            if !self.keeps_to_member {
                self.member = (self.member + 1) % self.shared.members;
            }
            if let Ok(Err(_)) = left {
                time::sleep(RETRY_PAUSE).await;
            }
        }
        self.records
    }

    fn is_done(&self) -> bool {
        self.shared.last_revision.borrow().is_some_and(|last| self.seen.is_some_and(|seen| seen >= last))
    }

    /// Watches as long as the stream is open and needed.
    async fn follow(&mut self) -> Result<(), Status> {
        let mut client = WatchClient::new(self.shared.wire(self.member));
        let create = WatchCreateRequest {
            key: wire::start_of(self.prefix).into(),
            range_end: wire::end_of(self.prefix).into(),
            start_revision: self.seen.map_or(0, |seen| seen + 1),
            progress_notify: true,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        // The stream stays open as long as this end of its requests.
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(create).expect("there is room for one");
        let mut responses = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
        let mut last_revision = self.shared.last_revision.subscribe();
        while !self.is_done() {
            tokio::select! { biased;
                response = responses.message() => match response? {
                    Some(response) if response.canceled && response.compact_revision > 0 => {
                        self.begin_anew(&response);
                        return Ok(());
                    }
                    // The member stops, or cannot serve watches now.
                    Some(response) if response.canceled => {
                        return Err(Status::unavailable(response.cancel_reason));
                    }
                    Some(response) => self.take(response),
                    None => return Err(Status::unavailable("the stream ended")),
                },
                _ = last_revision.changed() => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, response: WatchResponse) {
        if response.created {
            return;
        }
        let received = self.shared.now();
        let header_revision = response.header.expect("every answer has a header").revision;
        let is_progress = response.events.is_empty();
        let events: Vec<_> = response.events.into_iter().map(wire::change).collect();
        let last = events.last().map_or(header_revision, |event| event.stored.mod_revision);
        // If a member sends old events, the watcher does not go back; the judges report that.
        self.seen = Some(self.seen.map_or(last, |seen| seen.max(last)));
        let record = self.records.last_mut().expect("it has begun");
        record.batches.push(Batch { received, header_revision, events, is_progress });
    }

    /// The next revision was compacted, so the watcher continues at the compacted revision.
    fn begin_anew(&mut self, response: &WatchResponse) {
        let compacted = response.compact_revision;
        let record = self.records.last_mut().expect("history is missed by who had begun");
        record.compacted = Some(compacted);
        self.begin(compacted);
    }

    fn begin(&mut self, from_revision: i64) {
        self.seen = Some(from_revision - 1);
        self.records.push(Watched {
            watcher: self.number,
            member: self.member,
            prefix: self.prefix.to_owned(),
            from_revision,
            batches: Vec::new(),
            compacted: None,
        });
    }
}
