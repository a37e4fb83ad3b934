//! The simulated network: calls between hosts, as parcels that arrive at times that the seed says.
//!
//! ```text
//! client: Wire (a tonic channel) -- request, frames --> parcels, by time --> the services of the other host
//!         response, frames <--------------------------- parcels <-----------
//! ```
//!
//! What a call does is what HTTP/2 over TCP does: the frames of a call arrive in their order or not at all, two
//! calls overtake each other, a lost packet is a delay, and a connection that is cut breaks the call after a silence.
//! Nothing arrives twice, because the transport of production delivers nothing twice.

use std::{
    collections::BTreeMap,
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream};
use http::{Request, Response, request, response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::AbortHandle,
};
use tonic::{body::Body, service::Routes};
use tower::Service;

use super::{
    dice::Dice,
    logins::{Tokens, User},
    trace::Trace,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// How long the system takes to notice that a connection is cut.
const SILENCE: Duration = Duration::from_millis(1500);

/// How late a packet is that was lost and sent again.
const RETRANSMISSION: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1200));

/// A process that goes on after a pause has read what came in on a connection as long before its timers wake anybody, or
/// after that.
const BACKLOG_READ: Duration = Duration::from_millis(2);

/// The header of an answer that is an error.
const GRPC_STATUS: &str = "grpc-status";
const UNAUTHENTICATED: &str = "16";

/// Which of the services of a host is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Port {
    Client,
    Peer,
}

/// How a way from one host to another is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Road {
    pub(super) is_cut: bool,
    /// Added to every packet.
    pub(super) delay: Duration,
    /// How many of a thousand packets are lost and sent again.
    pub(super) lost: u32,
    /// How many of a thousand packets break their connection.
    pub(super) broken: u32,
}

/// Counted for the summary of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) parcels: u64,
    pub(super) lost: u64,
    pub(super) cut: u64,
    pub(super) broken: u64,
    /// Snapshots that a member began to receive.
    pub(super) snapshots: u64,
}

#[derive(Clone)]
pub(super) struct Network(Arc<Mutex<Inner>>);

struct Inner {
    now: Duration,
    dice: Dice,
    trace: Trace,
    /// Of every packet.
    latency: (Duration, Duration),
    next: u64,
    queue: BTreeMap<(Duration, u64), Parcel>,
    calls: BTreeMap<u64, Call>,
    roads: BTreeMap<(usize, usize), Road>,
    hosts: Vec<Place>,
    counts: Counts,
}

/// What can be reached at a host.
#[derive(Default)]
struct Place {
    /// `None` while no process runs there.
    process: Option<Handle>,
    ports: BTreeMap<Port, Routes>,
    /// When the process reads what has arrived before, by the host at the other end; empty unless it is paused. It
    /// waits in the buffers of the system until then, and the process reads one connection after the other, in any
    /// order.
    reads_at: Vec<Duration>,
}

struct Call {
    from: usize,
    to: usize,
    port: Port,
    /// When the last packet of each direction arrives.
    there_at: Duration,
    back_at: Duration,
    /// A packet was lost for good: what follows it in its direction does not arrive, and both sides will notice.
    is_torn: bool,
    /// At the client.
    answer: Option<oneshot::Sender<Result<response::Parts, Broken>>>,
    answered: Option<Frames>,
    pump: Option<AbortHandle>,
    /// At the server.
    asked: Option<Frames>,
    handler: Option<AbortHandle>,
}

struct Parcel {
    call: u64,
    content: Content,
}

enum Content {
    /// To the server.
    Request(Box<request::Parts>),
    Asked(Frame<Bytes>),
    AskedAll,
    /// The client does not wait any more.
    Reset,
    /// To the client.
    Refused,
    Response(Box<response::Parts>),
    Answered(Frame<Bytes>),
    AnsweredAll,
    /// To both, by their own systems.
    Break,
}

impl Content {
    fn goes_back(&self) -> bool {
        matches!(self, Content::Refused | Content::Response(_) | Content::Answered(_) | Content::AnsweredAll)
    }
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("connection refused")]
    Refused,
    #[error("connection reset")]
    Reset,
}

impl Network {
    pub(super) fn new(hosts: usize, latency: (Duration, Duration), dice: Dice, trace: Trace) -> Network {
        Network(Arc::new(Mutex::new(Inner {
            now: Duration::ZERO,
            dice,
            trace,
            latency,
            next: 0,
            queue: BTreeMap::new(),
            calls: BTreeMap::new(),
            roads: BTreeMap::new(),
            hosts: (0..hosts).map(|_| Place::default()).collect(),
            counts: Counts::default(),
        })))
    }

    pub(super) fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    /// From here on a process runs at `host`, and serves nothing yet.
    pub(super) fn process_began(&self, host: usize, process: Handle) {
        self.0.lock().hosts[host] = Place { process: Some(process), ..Place::default() };
    }

    /// The process at `host` has ended. The others notice at once if the system of the host still runs, and after a
    /// silence if that has lost its power.
    pub(super) fn process_ended(&self, host: usize, has_power: bool) {
        let mut inner = self.0.lock();
        let gone = mem::take(&mut inner.hosts[host]);
        let own: Vec<u64> = inner
            .calls
            .iter()
            .filter(|(_, call)| call.from == host || call.to == host)
            .map(|(id, _)| *id)
            .collect();
        for id in own {
            let at = inner.now + if has_power { inner.draw_latency() } else { SILENCE };
            inner.put(at, id, Content::Break);
        }
        drop(inner);
        // What is dropped may call the network.
        drop(gone);
    }

    /// Forgets who can be reached, and everything that is under way.
    pub(super) fn clear(&self) {
        let mut inner = self.0.lock();
        let places: Vec<Place> = inner.hosts.iter_mut().map(mem::take).collect();
        let all = (mem::take(&mut inner.queue), mem::take(&mut inner.calls), places);
        drop(inner);
        // What is dropped may call the network.
        drop(all);
    }

    pub(super) fn serve(&self, host: usize, port: Port, routes: Routes) {
        self.0.lock().hosts[host].ports.insert(port, routes);
    }

    /// Changes the way from one host to another.
    pub(super) fn change_road(&self, from: usize, to: usize, change: impl FnOnce(&mut Road)) {
        change(self.0.lock().roads.entry((from, to)).or_default());
    }

    pub(super) fn heal(&self) {
        self.0.lock().roads.clear();
    }

    /// The process at `host` reads nothing until then.
    pub(super) fn pause(&self, host: usize, until: Duration) {
        let mut inner = self.0.lock();
        inner.end_pause(host);
        let (first, last) = (until.saturating_sub(BACKLOG_READ), until + BACKLOG_READ);
        inner.hosts[host].reads_at =
            (0..inner.hosts.len()).map(|_| inner.dice.between(first, last)).collect();
    }

    /// The process at `host` goes on before its time.
    pub(super) fn awake(&self, host: usize) {
        self.0.lock().end_pause(host);
    }

    /// Sets the time, and hands over what has arrived by then.
    pub(super) fn arrive(&self, now: Duration) {
        let mut inner = self.0.lock();
        assert!(now >= inner.now, "time does not go back");
        inner.now = now;
        while let Some(entry) = inner.queue.first_entry()
            && entry.key().0 <= now
        {
            let (at, _) = *entry.key();
            let parcel = entry.remove();
            if let Some(read_at) = inner.read_later(at, &parcel) {
                inner.put(read_at, parcel.call, parcel.content);
                continue;
            }
            let dropped = inner.deliver(self, parcel);
            // What is dropped may call the network.
            parking_lot::MutexGuard::unlocked(&mut inner, || drop(dropped));
        }
    }

    /// A channel for calls of `from` to `to`.
    pub(super) fn wire(&self, from: usize, to: usize, port: Port) -> Wire {
        Wire { network: self.clone(), from, to, port, login: None }
    }

    fn open(&self, from: usize, to: usize, port: Port, head: request::Parts) -> (u64, Opened) {
        let mut inner = self.0.lock();
        let id = inner.next;
        inner.next += 1;
        inner.counts.calls += 1;
        let (answer, response) = oneshot::channel();
        let (answered, frames) = mpsc::unbounded_channel();
        let now = inner.now;
        inner.calls.insert(
            id,
            Call {
                from,
                to,
                port,
                there_at: now,
                back_at: now,
                is_torn: false,
                answer: Some(answer),
                answered: Some(answered),
                pump: None,
                asked: None,
                handler: None,
            },
        );
        inner.send(id, Content::Request(Box::new(head)));
        (id, Opened { response, frames })
    }

    fn send(&self, call: u64, content: Content) {
        self.0.lock().send(call, content);
    }

    /// The client of a call does not wait any more.
    fn close(&self, call: u64) {
        let mut guard = self.0.lock();
        let inner = &mut *guard;
        let Some(known) = inner.calls.get_mut(&call) else { return };
        // A process that has ended says nothing any more: `process_ended` has broken its calls.
        if inner.hosts[known.from].process.is_none() {
            return;
        }
        let dropped = (known.answer.take(), known.answered.take());
        if let Some(pump) = known.pump.take() {
            pump.abort();
        }
        inner.send(call, Content::Reset);
        drop(guard);
        drop(dropped);
    }
}

struct Opened {
    response: oneshot::Receiver<Result<response::Parts, Broken>>,
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
}

impl Inner {
    fn draw_latency(&mut self) -> Duration {
        let (least, most) = self.latency;
        self.dice.between(least, most)
    }

    fn put(&mut self, at: Duration, call: u64, content: Content) {
        let number = self.next;
        self.next += 1;
        self.queue.insert((at, number), Parcel { call, content });
    }

    /// Sends a packet of a call, which may get lost.
    fn send(&mut self, id: u64, content: Content) {
        let latency = self.draw_latency();
        let dice = self.dice.clone();
        let Some(call) = self.calls.get_mut(&id).filter(|call| !call.is_torn) else { return };
        let goes_back = content.goes_back();
        let (from, to) = if goes_back { (call.to, call.from) } else { (call.from, call.to) };
        let road = self.roads.get(&(from, to)).copied().unwrap_or_default();
        self.trace.detail(self.now, format_args!("call {id} from {from} to {to} sends {content}"));
        let breaks = dice.of_thousand(road.broken);
        self.counts.parcels += 1;
        if road.is_cut {
            call.is_torn = true;
            self.counts.cut += 1;
            self.put(self.now + SILENCE, id, Content::Break);
            return;
        }
        if breaks {
            call.is_torn = true;
            self.counts.broken += 1;
            self.put(self.now, id, Content::Break);
            return;
        }
        let mut at = self.now + latency + road.delay;
        if self.dice.of_thousand(road.lost) {
            self.counts.lost += 1;
            at += self.dice.between(RETRANSMISSION.0, RETRANSMISSION.1);
        }
        if let Some(call) = self.calls.get_mut(&id) {
            let last = if goes_back { &mut call.back_at } else { &mut call.there_at };
            at = at.max(*last);
            *last = at;
        }
        self.put(at, id, content);
    }

    /// What waits for a process that was paused arrives now. It comes before what is still under way, so the frames of
    /// a call stay in order.
    fn end_pause(&mut self, host: usize) {
        let reads_at = mem::take(&mut self.hosts[host].reads_at);
        let waiting: Vec<_> = self.queue.extract_if(.., |(at, _), _| reads_at.contains(at)).collect();
        for (_, Parcel { call, content }) in waiting {
            self.put(self.now, call, content);
        }
    }

    /// When a parcel is read that arrives at `at`, if that is later.
    fn read_later(&mut self, at: Duration, parcel: &Parcel) -> Option<Duration> {
        let call = self.calls.get_mut(&parcel.call)?;
        let (to, other, last) = match &parcel.content {
            // The systems break connections.
            Content::Break => return None,
            content if content.goes_back() => (call.from, call.to, &mut call.back_at),
            _ => (call.to, call.from, &mut call.there_at),
        };
        let read_at = *self.hosts[to].reads_at.get(other).filter(|read_at| at < **read_at)?;
        *last = (*last).max(read_at);
        Some(read_at)
    }

    /// Hands over a parcel. Returns what is to be dropped without the lock.
    fn deliver(&mut self, network: &Network, parcel: Parcel) -> Option<Call> {
        let Parcel { call: id, content } = parcel;
        let call = self.calls.get_mut(&id)?;
        self.trace.parcel(self.now, id, (call.from, call.to), &content);
        match content {
            Content::Request(head) => {
                let place = &self.hosts[call.to];
                let (Some(process), Some(routes)) = (&place.process, place.ports.get(&call.port)) else {
                    self.send(id, Content::Refused);
                    return None;
                };
                if head.uri.path().ends_with("/Snapshot") && call.port == Port::Peer {
                    self.counts.snapshots += 1;
                }
                let (asked, frames) = mpsc::unbounded_channel();
                let request = Request::from_parts(*head, body_of(frames, None));
                let handled = handle(network.clone(), id, routes.clone(), request);
                call.asked = Some(asked);
                call.handler = Some(process.spawn(handled).abort_handle());
            }
            Content::Asked(frame) => {
                if let Some(asked) = &call.asked {
                    let _ = asked.send(Ok(frame));
                }
            }
            Content::AskedAll => call.asked = None,
            Content::Reset => return self.end(id),
            Content::Refused => {
                if let Some(answer) = call.answer.take() {
                    let _ = answer.send(Err(Broken::Refused));
                }
                return self.end(id);
            }
            Content::Response(head) => {
                if let Some(answer) = call.answer.take() {
                    let _ = answer.send(Ok(*head));
                }
            }
            Content::Answered(frame) => {
                if let Some(answered) = &call.answered {
                    let _ = answered.send(Ok(frame));
                }
            }
            Content::AnsweredAll => {
                call.answered = None;
                return self.end(id);
            }
            Content::Break => {
                if let Some(answer) = call.answer.take() {
                    let _ = answer.send(Err(Broken::Reset));
                }
                if let Some(answered) = &call.answered {
                    let _ = answered.send(Err(Broken::Reset.into()));
                }
                if let Some(asked) = &call.asked {
                    let _ = asked.send(Err(Broken::Reset.into()));
                }
                return self.end(id);
            }
        }
        None
    }

    /// A call is over: its handler is dropped, as a server drops one whose stream was reset.
    fn end(&mut self, id: u64) -> Option<Call> {
        let mut call = self.calls.remove(&id)?;
        for task in [call.handler.take(), call.pump.take()].into_iter().flatten() {
            task.abort();
        }
        Some(call)
    }
}

/// Runs at the server.
async fn handle(network: Network, id: u64, mut routes: Routes, request: Request<Body>) {
    let answer = Service::call(&mut routes, request).await;
    let (head, mut body) = match answer {
        Ok(answer) => answer.into_parts(),
        Err(never) => match never {},
    };
    network.send(id, Content::Response(Box::new(head)));
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                // Nothing follows trailers, and a server does not ask for more.
                let is_last = frame.is_trailers();
                network.send(id, Content::Answered(frame));
                if is_last {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    network.send(id, Content::AnsweredAll);
}

/// A connection to one port of a host, for tonic's clients.
#[derive(Clone)]
pub(super) struct Wire {
    network: Network,
    from: usize,
    to: usize,
    port: Port,
    login: Option<(Arc<Tokens>, User)>,
}

impl Wire {
    /// For calls of this user.
    pub(super) fn by(self, tokens: Arc<Tokens>, user: User) -> Wire {
        Wire { login: Some((tokens, user)), ..self }
    }
}

/// Closes a call when its client does not wait any more.
struct Guard {
    network: Network,
    call: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.network.close(self.call);
    }
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Wire { network, from, to, port, login } = self.clone();
        Box::pin(async move {
            let token = login.as_ref().and_then(|(tokens, user)| tokens.of(*user));
            if let Some(token) = token.clone() {
                request.headers_mut().insert("token", token);
            }
            let (head, body) = request.into_parts();
            let (call, opened) = network.open(from, to, port, head);
            let guard = Guard { network: network.clone(), call };
            let pump = tokio::spawn(pump(network.clone(), call, body));
            if let Some(known) = network.0.lock().calls.get_mut(&call) {
                known.pump = Some(pump.abort_handle());
            }
            let head =
                opened.response.await.unwrap_or(Err(Broken::Reset)).map_err(|broken| match broken {
                    Broken::Refused => BoxError::from(tonic::ConnectError(Box::new(broken))),
                    Broken::Reset => BoxError::from(broken),
                })?;
            if let (Some((tokens, user)), Some(token)) = (login, token)
                && head.headers.get(GRPC_STATUS).is_some_and(|status| status == UNAUTHENTICATED)
            {
                tokens.forget(user, &token);
            }
            Ok(Response::from_parts(head, body_of(opened.frames, Some(guard))))
        })
    }
}

/// Runs at the client.
async fn pump(network: Network, call: u64, mut body: Body) {
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => network.send(call, Content::Asked(frame)),
            Err(_) => break,
        }
    }
    network.send(call, Content::AskedAll);
}

/// A body of what arrives. `guard` lives as long as the body.
fn body_of(frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>, guard: Option<Guard>) -> Body {
    let frames = stream::unfold((frames, guard), |(mut frames, guard)| async move {
        let frame = frames.recv().await?;
        Some((frame, (frames, guard)))
    });
    Body::new(StreamBody::new(Synced(frames.boxed())))
}

/// A boxed stream under a name of its own.
struct Synced<T>(Pin<Box<dyn Stream<Item = T> + Send>>);

impl<T> Stream for Synced<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(context)
    }
}

/// What the trace has of a parcel.
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = |f: &mut fmt::Formatter<'_>, name: &str, frame: &Frame<Bytes>| match frame.data_ref() {
            Some(data) => write!(f, "{name} {} bytes {:08x}", data.len(), crc32c::crc32c(data)),
            None => write!(f, "{name} trailers"),
        };
        match self {
            Content::Request(head) => write!(f, "request {}", head.uri.path()),
            Content::Asked(asked) => frame(f, "asked", asked),
            Content::AskedAll => f.write_str("asked all"),
            Content::Reset => f.write_str("reset"),
            Content::Refused => f.write_str("refused"),
            Content::Response(head) => write!(f, "response {}", head.status.as_u16()),
            Content::Answered(answered) => frame(f, "answered", answered),
            Content::AnsweredAll => f.write_str("answered all"),
            Content::Break => f.write_str("broken"),
        }
    }
}
