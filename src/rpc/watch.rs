//! The Watch service: one stream, many watchers.
//!
//! A stream is a [`WatchCall`], which is asked for its next response whenever the connection has room for
//! one. The call then handles one [`Wake`] after another until there is a response. So nothing is read or
//! rendered before the client can receive it, and a client that does not read costs the memory of its queue
//! in the hub and of one response.
//!
//! Published events come through a [`WatchStream`], which also reads history for unsynced watchers. While
//! there are unsynced watchers, every second turn reads history.

mod shares;

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{OptionFuture, ready},
    stream::{self, Stream},
};
use prost::Message;
use tokio::{
    task::{self, coop},
    time::{Interval, MissedTickBehavior, interval_at},
};
use tonic::{Code, Request, Response, Status, Streaming};

use self::shares::{Sharing, Step};
use super::{
    in_parts::{LargeMessage, Slot, Slotted},
    render,
    rope::{self, Rope},
    session,
    status::Refusal,
};
use crate::{
    auth::AuthError,
    chance::Chance,
    clock,
    limits::{
        REQUEST_OVERHEAD_BYTES, WATCH_MERGED_FROM, WATCH_MERGED_REVS, WATCH_SEND_BYTES, WATCH_WHOLE_EVENTS,
    },
    node::{AuthChanges, CaughtUp, ManyEvents, Memory, Node, NotCreated, Session, WatchStream},
    pb::{
        etcdserverpb::{
            WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request::FilterType,
            watch_request::RequestUnion, watch_server,
        },
        mvccpb,
    },
    types::{Event, EventKind, KeyRange, Rev},
    watch::{Batch, Delivery, Share, WatchId, WatcherSpec},
};

/// Minimum interval between progress notifications.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

pub(crate) struct Watch {
    node: Node,
}

impl Watch {
    pub(crate) fn new(node: Node) -> Watch {
        Watch { node }
    }
}

#[tonic::async_trait]
impl watch_server::Watch for Watch {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let session = session(&self.node, &request).await;
        let call = WatchCall::new(self.node.clone(), &session, request.into_inner());
        let slot = Slot::default();
        let responses = stream::unfold((call, 0, slot.clone()), |(mut call, handed, slot)| async move {
            if handed >= WATCH_SEND_BYTES {
                // The gRPC library sends what it has collected once the stream pauses.
                task::yield_now().await;
            }
            let response = loop {
                match call.next().await {
                    Ok(Outgoing::Whole(response)) => break Ok(response),
                    Ok(Outgoing::Encoded(messages)) => slot.send(Slotted::Encoded(messages)).await,
                    Ok(Outgoing::InParts(message)) => slot.send(Slotted::Large(message)).await,
                    Err(status) => break Err(status),
                }
            };
            let bytes = response.as_ref().map_or(0, value_bytes);
            Some((response, (call, if handed >= WATCH_SEND_BYTES { bytes } else { handed + bytes }, slot)))
        });
        let mut response = Response::<Self::WatchStream>::new(Box::pin(responses));
        response.extensions_mut().insert(slot);
        Ok(response)
    }
}

/// A response on its way to the client.
enum Outgoing {
    Whole(WatchResponse),
    /// Responses to some watchers, encoded.
    Encoded(Bytes),
    /// It has more events than are encoded in one go.
    InParts(LargeMessage),
}

/// Why a call wakes up.
enum Wake {
    Request(WatchRequest),
    /// The client sends no more requests, but still receives responses.
    HalfClosed,
    /// The client has disconnected, or sent an invalid message.
    Broken(Status),
    Delivery(Delivery),
    ProgressTick,
    Stopping,
    /// Users or roles have changed.
    AuthChanged,
    /// Nothing else is to be done, so history is read.
    Stride,
}

struct WatchCall<R> {
    node: Node,
    /// `None` once the client has half-closed.
    requests: Option<R>,
    stream: WatchStream,
    /// Responses that were not asked for yet. Nothing else is done until there are none.
    outbox: VecDeque<Outgoing>,
    /// Published revisions that some watchers have yet to be sent. Nothing else is done meanwhile.
    sharing: Option<Sharing>,
    /// What came out of the queue behind them.
    held_back: Option<Delivery>,
    /// Events that the last turn has put into the outbox.
    events: usize,
    /// The last turn read history, so this turn handles everything else.
    strode: bool,
    /// The ticks of progress notifications, once any watcher has asked for them.
    progress: Option<Interval>,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    auth_changes: AuthChanges,
}

impl<R> WatchCall<R>
where
    R: Stream<Item = Result<WatchRequest, Status>> + Unpin,
{
    fn new(node: Node, session: &Session, requests: R) -> WatchCall<R> {
        WatchCall {
            node,
            requests: Some(requests),
            stream: session.watch(),
            outbox: VecDeque::new(),
            sharing: None,
            held_back: None,
            events: 0,
            strode: false,
            progress: None,
            stopping: Box::pin(session.stopping()),
            auth_changes: session.auth_changes(),
        }
    }

    /// The next response; an error ends the stream.
    async fn next(&mut self) -> Result<Outgoing, Status> {
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Ok(response);
            }
            let start = clock::now();
            if let Some(sharing) = self.sharing.take() {
                self.share(sharing).await?;
                self.observe_send(start);
                continue;
            }
            let wake = self.wake().await;
            let start = clock::now();
            match wake {
                Wake::Request(request) => {
                    self.request(request);
                    self.node.metrics().observe_watch_control(clock::since(start));
                }
                Wake::AuthChanged => self.judge_again().await,
                Wake::HalfClosed => self.requests = None,
                Wake::Broken(status) if status.code() == Code::Cancelled => {
                    return Err(Refusal::WatchCanceled.into());
                }
                Wake::Broken(status) => {
                    self.node.metrics().stream_failures.with_label_values(&["receive", "watch"]).inc();
                    return Err(status);
                }
                Wake::Delivery(delivery) => self.delivery(delivery),
                Wake::ProgressTick => {
                    self.stream.tick();
                    self.node.metrics().observe_watch_progress(clock::since(start));
                }
                Wake::Stopping => return Err(Refusal::Stopped.into()),
                Wake::Stride => {
                    // Reading history never waits, so this lets the other tasks of this thread run.
                    coop::consume_budget().await;
                    self.stride().await?;
                    self.observe_send(start);
                }
            }
        }
    }

    /// Counts the events that the turn that began at `start` has put into the outbox.
    fn observe_send(&mut self, start: Instant) {
        let events = mem::take(&mut self.events);
        if events > 0 {
            self.node.metrics().observe_watch_send(clock::since(start), events);
        }
    }

    async fn wake(&mut self) -> Wake {
        if let Some(delivery) = self.held_back.take() {
            return Wake::Delivery(delivery);
        }
        let behind = self.stream.is_behind();
        if behind && !mem::replace(&mut self.strode, true) {
            return Wake::Stride;
        }
        self.strode = false;
        tokio::select! {
            biased;
            () = &mut self.stopping => Wake::Stopping,
            () = self.auth_changes.changed() => Wake::AuthChanged,
            Some(request) = OptionFuture::from(self.requests.as_mut().map(StreamExt::next)) => match request {
                Some(Ok(request)) => Wake::Request(request),
                Some(Err(status)) => Wake::Broken(status),
                None => Wake::HalfClosed,
            },
            Some(delivery) = self.stream.recv() => Wake::Delivery(delivery),
            Some(_) = OptionFuture::from(self.progress.as_mut().map(Interval::tick)) => Wake::ProgressTick,
            () = ready(()), if behind => Wake::Stride,
        }
    }

    fn request(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(WatchId(cancel.watch_id)),
            Some(RequestUnion::ProgressRequest(_)) => self.stream.ask_for_progress(),
            None => tracing::info!("ignored a watch request without content"),
        }
    }

    fn create(&mut self, create: WatchCreateRequest) {
        let filters = |filter: FilterType| create.filters.contains(&filter.into());
        let spec = WatcherSpec {
            id: create.watch_id,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            range: range(create.key, create.range_end),
            start_rev: create.start_revision,
            prev_kv: create.prev_kv,
            progress_notify: create.progress_notify,
            fragment: create.fragment,
        };
        let (created, published) = self.stream.create(spec);
        let response = match created {
            Ok(id) => {
                if create.progress_notify && self.progress.is_none() {
                    self.progress = Some(progress_ticker(
                        self.node.config().watch_progress_notify_interval,
                        self.node.chance(),
                    ));
                }
                self.response(id, published)
            }
            Err(refusal) => WatchResponse {
                canceled: true,
                cancel_reason: match refusal {
                    NotCreated::Refused(refused) => refused.to_string(),
                    NotCreated::Denied(denied) => cancel_reason(denied),
                },
                ..self.response(WatchId::NONE, published)
            },
        };
        self.tell(WatchResponse { created: true, ..response });
    }

    /// Ends the watchers that the client may not have any more.
    async fn judge_again(&mut self) {
        for (id, denied) in self.stream.judge_again().await {
            let response = WatchResponse {
                canceled: true,
                cancel_reason: cancel_reason(denied),
                ..self.response(id, self.node.rev())
            };
            self.tell(response);
        }
    }

    fn cancel(&mut self, id: WatchId) {
        if let Some(published) = self.stream.cancel(id) {
            let response = self.response(id, published);
            self.tell(WatchResponse { canceled: true, ..response });
        }
    }

    fn delivery(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Batch(batch) => self.batch(*batch),
            Delivery::Progress { rev, id } => self.tell(self.response(id, rev)),
            Delivery::StreamProgress { rev } => self.tell(self.response(WatchId::NONE, rev)),
            Delivery::Lagging => self.stream.fell_behind(),
        }
    }

    /// Begins to send a revision. If the client is behind, those that come next are sent with it.
    fn batch(&mut self, batch: Batch) {
        let mut batches = vec![batch];
        if self.stream.queued() >= WATCH_MERGED_FROM {
            while batches.len() < WATCH_MERGED_REVS {
                match self.stream.try_recv() {
                    Some(Delivery::Batch(next)) if next.has_watchers_of(&batches[0]) => {
                        batches.push(*next);
                    }
                    other => {
                        self.held_back = other;
                        break;
                    }
                }
            }
        }
        let last = batches.last().expect("there is a first");
        let header = render::header(&self.node, last.rev);
        self.sharing = Some(Sharing::new(batches, header));
    }

    /// Sends the revisions to some of their watchers.
    async fn share(&mut self, mut sharing: Sharing) -> Result<(), Status> {
        match sharing.step(self.fragment_bytes_max()) {
            Step::Encoded(messages, events) => {
                self.events += events;
                self.outbox.push_back(Outgoing::Encoded(messages));
            }
            Step::Apart(position) => {
                for (batch, share) in sharing.shares(position) {
                    self.share_apart(batch.rev, &share).await?;
                }
            }
            Step::Over => return Ok(()),
        }
        self.sharing = Some(sharing);
        Ok(())
    }

    /// Sends a watcher its events of a revision.
    async fn share_apart(&mut self, rev: Rev, share: &Share<'_>) -> Result<(), Status> {
        let response = self.response(share.id, rev);
        if share.events().len() > WATCH_WHOLE_EVENTS {
            let events = self.stream.published(share.picked(), share.prev_kv);
            return self.push_many(&response, events, share.fragment).await;
        }
        let events = if share.prev_kv && share.events().any(lacks_prev) {
            // Events have only the previous pairs that were in memory, and none if they were applied before any
            // watcher asked for them.
            let mut events: Vec<Event> = share.events().cloned().collect();
            self.stream.fill_prev(&mut events).await?;
            events.into_iter().map(|event| render::event(event, true)).collect()
        } else {
            share.events().map(|event| render::event(event.clone(), share.prev_kv)).collect()
        };
        self.push_events(WatchResponse { events, ..response }, share.fragment);
        Ok(())
    }

    /// Reads one stride of history.
    async fn stride(&mut self) -> Result<(), Status> {
        match self.stream.catch_up().await? {
            Some(CaughtUp::Events { id, spec, rev, events }) => {
                let events = events.into_iter().map(|event| render::event(event, spec.prev_kv)).collect();
                self.push_events(WatchResponse { events, ..self.response(id, rev) }, spec.fragment);
            }
            Some(CaughtUp::ManyEvents { id, spec, rev, events }) => {
                self.push_many(&self.response(id, rev), events, spec.fragment).await?;
            }
            Some(CaughtUp::Compacted { id, compacted }) => self.tell(WatchResponse {
                canceled: true,
                compact_revision: compacted.0,
                ..self.response(id, Rev(0))
            }),
            None => {}
        }
        Ok(())
    }

    fn push_events(&mut self, response: WatchResponse, fragment: bool) {
        self.events += response.events.len();
        let bytes_max = self.fragment_bytes_max();
        if fragment && response.events.len() > 1 && response.encoded_len() >= bytes_max {
            self.outbox.extend(fragments(response, bytes_max).into_iter().map(Outgoing::Whole));
        } else {
            self.tell(response);
        }
    }

    /// Adds events to a response, or to fragments of one, that are too many to be in memory as such. First their bytes
    /// are counted, and when they are sent they are read once more.
    async fn push_many(
        &mut self,
        response: &WatchResponse,
        mut events: ManyEvents,
        fragment: bool,
    ) -> Result<(), Status> {
        self.events += events.len();
        // A field that is false takes no bytes.
        let part = WatchResponse { fragment, ..response.clone() };
        let room =
            if fragment { self.fragment_bytes_max().saturating_sub(part.encoded_len()) } else { usize::MAX };
        // The number of events of each part, and their bytes.
        let mut parts = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        let mut counted = events.clone();
        while let Some(some) = counted.next().await? {
            for event in some {
                let event_bytes = rope::event_bytes(&render::event(event, true));
                if count > 0 && bytes + event_bytes >= room {
                    parts.push((mem::take(&mut count), mem::take(&mut bytes)));
                }
                count += 1;
                bytes += event_bytes;
            }
            task::yield_now().await;
        }
        parts.push((count, bytes));
        let last = parts.len() - 1;
        let is_waited_for = events.is_waited_for();
        let parts = parts.into_iter().enumerate().map(|(number, (count, bytes))| {
            let part = WatchResponse { fragment: number < last, ..part.clone() };
            rope::watch(&part, events.split_off(count), bytes)
        });
        let parts: Vec<Rope> = parts.collect();
        let bytes = parts.iter().map(Rope::len).sum();
        let mut message = LargeMessage::new(parts, Memory::default())?;
        if is_waited_for {
            message = message.given_up_when_slow(bytes);
        }
        self.outbox.push_back(Outgoing::InParts(message));
        Ok(())
    }

    fn fragment_bytes_max(&self) -> usize {
        self.node.config().max_request_bytes + REQUEST_OVERHEAD_BYTES
    }

    fn tell(&mut self, response: WatchResponse) {
        self.outbox.push_back(Outgoing::Whole(response));
    }

    /// A response without content.
    fn response(&self, id: WatchId, rev: Rev) -> WatchResponse {
        let header = Some(render::header(&self.node, rev));
        WatchResponse { header, watch_id: id.0, ..WatchResponse::default() }
    }
}

/// As etcd, the text of a gRPC error with its code. What a client could not recognise is a denial.
fn cancel_reason(denied: AuthError) -> String {
    let (code, text) = match denied {
        AuthError::InvalidToken | AuthError::OldRevision | AuthError::UserEmpty => {
            Refusal::from(denied).wire()
        }
        _ => Refusal::PermissionDenied.wire(),
    };
    format!("rpc error: code = {code:?} desc = {text}")
}

/// As for a range, except that an empty key means the first possible key.
fn range(key: Bytes, range_end: Bytes) -> KeyRange {
    let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
    KeyRange::parse(key, range_end)
}

/// Nearly all of a response's bytes, where there are many.
fn value_bytes(response: &WatchResponse) -> usize {
    let of = |kv: &Option<mvccpb::KeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    response.events.iter().map(|event| of(&event.kv) + of(&event.prev_kv)).sum()
}

fn lacks_prev(event: &Event) -> bool {
    let creates = event.kind == EventKind::Put && event.kv.version == 1;
    event.prev_kv.is_none() && !creates
}

/// Splits a response into parts of less than `bytes_max`, unless a single event is larger.
fn fragments(response: WatchResponse, bytes_max: usize) -> Vec<WatchResponse> {
    let empty = WatchResponse { fragment: true, events: Vec::new(), ..response.clone() };
    let mut parts = vec![empty.clone()];
    let mut bytes = empty.encoded_len();
    for event in response.events {
        let event_bytes = rope::event_bytes(&event);
        let part = parts.last_mut().expect("there is a first part");
        if !part.events.is_empty() && bytes + event_bytes >= bytes_max {
            bytes = empty.encoded_len() + event_bytes;
            parts.push(WatchResponse { events: vec![event], ..empty.clone() });
        } else {
            bytes += event_bytes;
            part.events.push(event);
        }
    }
    parts.last_mut().expect("there is a first part").fragment = false;
    parts
}

fn progress_ticker(interval: Duration, chance: &Chance) -> Interval {
    let interval = interval.max(PROGRESS_INTERVAL_MIN);
    // A random offset, because watchers that are created together need not be notified together.
    ticker(chance.part_of(interval, 1.0..1.1))
}

/// An interval whose first tick comes after a whole period.
fn ticker(period: Duration) -> Interval {
    let mut ticker = interval_at((clock::now() + period).into(), period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

#[cfg(test)]
mod tests;
