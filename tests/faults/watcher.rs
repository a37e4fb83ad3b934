//! Watchers that continue at their revision, whatever happens to their streams.
//!
//! There is one watcher for each member, one of them for a group of keys; and one that moves from member to
//! member, and begins at each with a revision that the member may not have yet.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    history::{Batch, Watched},
    load::{self, Shared},
    pb::etcdserverpb::{
        WatchCreateRequest, WatchRequest, WatchResponse, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
    wire,
};

/// The pause before a member that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long the moving watcher stays at a member.
const STAY: Duration = Duration::from_millis(700);

pub(crate) struct Watcher {
    number: usize,
    /// The next member.
    member: usize,
    keeps_to_member: bool,
    prefix: &'static str,
    shared: Arc<Shared>,
    /// Its part of the history; `None` before it knows its first revision.
    seen: Option<i64>,
    /// One record for each time that its history was compacted.
    records: Vec<Watched>,
}

pub(crate) fn all(shared: &Arc<Shared>) -> Vec<Watcher> {
    let watcher = |number, keeps_to_member, prefix| {
        let member = number % load::MEMBERS;
        Watcher {
            number,
            member,
            keeps_to_member,
            prefix,
            shared: shared.clone(),
            seen: None,
            records: Vec::new(),
        }
    };
    vec![
        watcher(0, true, ""),
        watcher(1, true, ""),
        watcher(2, true, ""),
        watcher(3, true, "b/"),
        watcher(4, true, "c/"),
        watcher(5, true, "d/"),
        watcher(6, false, ""),
    ]
}

impl Watcher {
    /// Watches until it has got all events up to the last revision.
    pub(crate) async fn run(mut self) -> Vec<Watched> {
        let stay = if self.keeps_to_member { Duration::MAX } else { STAY };
        while !self.is_done() {
            let left = time::timeout(stay, self.follow()).await;
            if !self.keeps_to_member {
                self.member = (self.member + 1) % load::MEMBERS;
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
        let mut client = WatchClient::new(load::connect(&self.shared.endpoint(self.member)));
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
                    Some(response) if response.canceled => {
                        self.begin_anew(response);
                        return Ok(());
                    }
                    Some(response) => self.take(response),
                    None => return Err(Status::unavailable("the stream ended")),
                },
                _ = last_revision.changed() => {}
            }
            self.shared.sees(self.number, self.member, self.seen);
        }
        Ok(())
    }

    fn take(&mut self, response: WatchResponse) {
        let received = self.shared.now();
        let header_revision = response.header.expect("every answer has a header").revision;
        let Some(seen) = self.seen else {
            assert!(response.created, "a watch is created before anything else");
            self.begin(header_revision + 1);
            return;
        };
        if response.created {
            return;
        }
        let is_progress = response.events.is_empty();
        let events: Vec<_> = response.events.into_iter().map(wire::change).collect();
        let last = events.last().map_or(header_revision, |event| event.stored.mod_revision);
        // If a member sends old events, the watcher does not go back; the checkers report that.
        self.seen = Some(seen.max(last));
        let record = self.records.last_mut().expect("it has begun");
        record.batches.push(Batch { received, header_revision, events, is_progress });
    }

    /// The next revision was compacted, so the watcher continues at the compacted revision.
    fn begin_anew(&mut self, response: WatchResponse) {
        let compacted = response.compact_revision;
        assert!(compacted > 0, "nobody canceled watcher {}: {}", self.number, response.cancel_reason);
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
