//! What is done around every call: checks of the headers, counting, and the log line of a slow call.
//!
//! Every request passes here, so a successful unary call causes no allocation and no lookup by label: the
//! counters of each method are looked up once.
//!
//! A call is counted once when it begins and once when it ends. If the client cancels it or disconnects,
//! the call ends as `Canceled`. A call with a [`Deadline`] ends there at the latest.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    str,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tonic::{Code, Status, body::Body, codegen::Service, server::NamedService};

use super::{
    deadline::{Deadline, MalformedTimeout},
    in_parts::{PartsBody, Slot},
    slow,
    slow::{Remote, Stats},
    status::{self, Refusal},
};
use crate::{
    clock,
    limits::CLIENT_VERSIONS_MAX,
    node::Node,
    telemetry::{Active, Attribute, GrpcKind, GrpcMethod, Metrics, Tracer},
};

/// What all services of one reactor share.
pub(crate) struct Interceptor {
    node: Node,
    slow_after: Duration,
    client_versions: Mutex<ClientVersions>,
    /// `None`: nothing is traced.
    tracer: Option<Arc<Tracer>>,
}

/// The methods that a learner serves. Of the ranges it only serves serializable ones.
const LEARNER_METHODS: [&str; 3] =
    ["/etcdserverpb.KV/Range", "/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot"];

/// Election timeouts without a leader after which a stream that requires one ends.
const LEADERLESS_TICKS_MAX: u32 = 3;

impl Interceptor {
    pub(crate) fn new(node: Node) -> Interceptor {
        let slow_after = node.config().warning_unary_request_duration;
        let client_versions = Mutex::new(ClientVersions::new(node.metrics()));
        let tracer = node.metrics().tracer.clone();
        Interceptor { node, slow_after, client_versions, tracer }
    }

    /// The span of a call, if it is to be traced.
    fn trace(&self, headers: &HeaderMap) -> Option<Box<Active>> {
        self.tracer.as_ref()?.begin(headers.get("traceparent").map(HeaderValue::as_bytes))
    }

    fn check(&self, path: &str, headers: &HeaderMap, kind: GrpcKind) -> Result<(), Refusal> {
        if self.node.leadership().is_learner && !LEARNER_METHODS.contains(&path) {
            return Err(Refusal::NotSupportedForLearner);
        }
        let version = match headers.get("client-api-version").map(HeaderValue::as_bytes) {
            Some(version) => str::from_utf8(version).map_err(|_| Refusal::InvalidClientApiVersion)?,
            None => "unknown",
        };
        self.client_versions.lock().requested(self.node.metrics(), version, kind);
        if requires_leader(headers) && !self.node.has_leader() {
            return Err(Refusal::NoLeader);
        }
        Ok(())
    }
}

fn requires_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}

/// Checks at intervals whether there is a leader, for a stream that requires one.
struct LeaderWatch {
    node: Node,
    ticks: Interval,
    leaderless: u32,
}

impl LeaderWatch {
    fn new(node: &Node) -> LeaderWatch {
        let period = node.config().election_timeout;
        let mut ticks = interval_at((clock::now() + period).into(), period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        LeaderWatch { node: node.clone(), ticks, leaderless: 0 }
    }

    /// Ready once there was no leader for [`LEADERLESS_TICKS_MAX`] intervals.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.ticks.poll_tick(cx));
            self.leaderless = if self.node.has_leader() { 0 } else { self.leaderless + 1 };
            if self.leaderless >= LEADERLESS_TICKS_MAX {
                return Poll::Ready(());
            }
        }
    }
}

/// The counters of requests by the client's version of the API. The list is short, so it is searched from
/// the beginning. Its length is bounded, because a client can claim any version.
struct ClientVersions {
    known: Vec<ClientVersion>,
}

struct ClientVersion {
    version: String,
    unary: IntCounter,
    stream: IntCounter,
}

impl ClientVersion {
    fn new(metrics: &Metrics, version: &str) -> ClientVersion {
        ClientVersion {
            version: version.to_owned(),
            unary: metrics.client_requests.with_label_values(&["unary", version]),
            stream: metrics.client_requests.with_label_values(&["stream", version]),
        }
    }
}

impl ClientVersions {
    fn new(metrics: &Metrics) -> ClientVersions {
        ClientVersions { known: vec![ClientVersion::new(metrics, "unknown")] }
    }

    fn requested(&mut self, metrics: &Metrics, version: &str, kind: GrpcKind) {
        let place = self.known.iter().position(|known| known.version == version).unwrap_or_else(|| {
            if self.known.len() == CLIENT_VERSIONS_MAX {
                return 0;
            }
            self.known.push(ClientVersion::new(metrics, version));
            self.known.len() - 1
        });
        let known = &self.known[place];
        match kind {
            GrpcKind::Unary => known.unary.inc(),
            GrpcKind::ServerStream | GrpcKind::BidiStream => known.stream.inc(),
        }
    }
}

/// A service with the interceptor around it.
#[derive(Clone)]
pub(crate) struct Intercepted<S> {
    service: S,
    table: Arc<Table>,
}

/// The methods of one service.
struct Table {
    interceptor: Arc<Interceptor>,
    methods: Vec<Method>,
}

struct Method {
    path: String,
    counters: Arc<GrpcMethod>,
    /// The handler of the method writes the log line itself, because it knows more about the call.
    tells_itself: bool,
}

impl<S: NamedService> Intercepted<S> {
    pub(crate) fn new(service: S, interceptor: Arc<Interceptor>) -> Intercepted<S> {
        let methods = interceptor.node.metrics().grpc_methods(S::NAME).map(|(path, counters)| Method {
            path: path.to_owned(),
            counters: Arc::clone(counters),
            tells_itself: super::kv::TIMED.contains(&path),
        });
        let methods = methods.collect();
        Intercepted { service, table: Arc::new(Table { interceptor, methods }) }
    }
}

impl<S: NamedService> NamedService for Intercepted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Intercepted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Call<S::Future> {
        let start = clock::now();
        let deadline = match Deadline::parse(request.headers(), start) {
            Ok(deadline) => deadline,
            Err(error) => return Call { state: State::Malformed(error), open: None, deadline: None },
        };
        let path = request.uri().path();
        let Some(number) = self.table.methods.iter().position(|method| method.path == path) else {
            // The service has no such method either, and answers with that error.
            return Call { state: State::Running(self.service.call(request)), open: None, deadline };
        };
        let table = Arc::clone(&self.table);
        let requires_leader = requires_leader(request.headers());
        let remote = Remote::of(request.extensions());
        let trace = table.interceptor.trace(request.headers());
        let open = Open { table, number, start, remote, code: Code::Cancelled, requires_leader, trace };
        let counters = &open.method().counters;
        counters.started.inc();
        match counters.kind {
            GrpcKind::Unary | GrpcKind::ServerStream => counters.received.inc(),
            GrpcKind::BidiStream => {
                let counters = Arc::clone(counters);
                let messages = MessageCounter::default();
                request = request.map(|body| Body::new(Requests { body, messages, counters }));
            }
        }
        let state = match self.table.interceptor.check(request.uri().path(), request.headers(), counters.kind)
        {
            Ok(()) => State::Running(self.service.call(request)),
            Err(refusal) => State::Refused(refusal),
        };
        Call { state, open: Some(open), deadline }
    }
}

/// A call in progress.
pub(crate) struct Call<F> {
    state: State<F>,
    /// `None` once the call was counted as ended, or is owned by the body of its answer.
    open: Option<Open>,
    deadline: Option<Deadline>,
}

enum State<F> {
    Malformed(MalformedTimeout),
    Refused(Refusal),
    Running(F),
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(deadline) = &mut this.deadline
            && deadline.poll_passed(cx).is_ready()
        {
            // This drops the handler, and with it everything that waits for the handler.
            this.state = State::Refused(Refusal::DeadlinePassed);
        }
        let response = match &mut this.state {
            State::Malformed(error) => error.clone().into_http(),
            State::Refused(refusal) => Status::from(*refusal).into_http(),
            State::Running(call) => {
                let polled = match this.open.as_mut().and_then(|open| open.trace.as_mut()) {
                    Some(trace) => trace.during(|| Pin::new(call).poll(cx)),
                    None => Pin::new(call).poll(cx),
                };
                match polled {
                    Poll::Ready(Ok(response)) => response,
                    Poll::Pending => return Poll::Pending,
                }
            }
        };
        let Some(open) = this.open.take() else { return Poll::Ready(Ok(response)) };
        Poll::Ready(Ok(open.answered(response, this.deadline.take())))
    }
}

/// A call that was counted as begun. Dropping this counts it as ended.
struct Open {
    table: Arc<Table>,
    number: usize,
    start: Instant,
    remote: Remote,
    /// The code with which the call ends if it ends now.
    code: Code,
    requires_leader: bool,
    trace: Option<Box<Active>>,
}

impl Open {
    fn method(&self) -> &Method {
        &self.table.methods[self.number]
    }

    /// The names are those of OpenTelemetry for gRPC.
    fn end_trace(&self, trace: Active) {
        let Some(tracer) = &self.table.interceptor.tracer else { return };
        let name = self.method().path.trim_start_matches('/');
        let (service, method) = name.split_once('/').unwrap_or((name, ""));
        let text = |text: &str| Attribute::Text(text.to_owned());
        let mut attributes = vec![
            ("rpc.system", text("grpc")),
            ("rpc.service", text(service)),
            ("rpc.method", text(method)),
            ("rpc.grpc.status_code", Attribute::Number(i64::from(self.code as i32))),
        ];
        if let Remote::Tcp(address) = self.remote {
            attributes.push(("network.peer.address", Attribute::Text(address.ip().to_string())));
            attributes.push(("network.peer.port", Attribute::Number(i64::from(address.port()))));
        }
        // Other codes say what the client did wrong.
        let is_ours = matches!(
            self.code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        );
        trace.end(tracer, name.to_owned(), attributes, is_ours.then(|| self.code.description().to_owned()));
    }

    /// To be called with the answer, or with the beginning of a stream of answers.
    fn answered(mut self, mut response: Response<Body>, deadline: Option<Deadline>) -> Response<Body> {
        if let Some(code) = code_in(response.headers()) {
            // The headers contain an error, so the answer has no body.
            let reworded = transport_status(code, response.headers(), self.method().counters.kind);
            self.code = reworded.as_ref().map_or(code, Status::code);
            return reworded.map_or(response, Status::into_http);
        }
        match self.method().counters.kind {
            GrpcKind::Unary => match PartsBody::take_from(&mut response) {
                None => {
                    self.method().counters.sent.inc();
                    self.code = Code::Ok;
                    response
                }
                Some(body) => {
                    let messages = MessageCounter::default();
                    let body = Answers { body: Some(body), messages, leader: None, deadline, open: self };
                    response.map(|_placeholder| Body::new(body))
                }
            },
            // The code of a stream is known when the stream ends.
            GrpcKind::ServerStream | GrpcKind::BidiStream => {
                let slot = Slot::take_from(&mut response);
                response.map(|body| {
                    let body = match slot {
                        Some(slot) => Body::new(slot.between(body)),
                        None => body,
                    };
                    let messages = MessageCounter::default();
                    let leader = self.requires_leader.then(|| LeaderWatch::new(&self.table.interceptor.node));
                    Body::new(Answers { body: Some(body), messages, leader, deadline, open: self })
                })
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(trace) = self.trace.take() {
            self.end_trace(*trace);
        }
        let took = clock::since(self.start);
        let method = self.method();
        method.counters.handled(self.code as i32, took);
        let slow_after = self.table.interceptor.slow_after;
        let is_timed = method.counters.kind == GrpcKind::Unary && !method.tells_itself;
        if is_timed && slow::is_worth_a_line(took, slow_after) {
            slow::log(&method.path, self.remote, took, slow_after, &Stats::NONE);
        }
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// etcd's status for an error that the gRPC library detected itself, with texts of its own.
fn transport_status(code: Code, headers: &HeaderMap, kind: GrpcKind) -> Option<Status> {
    if code != Code::Internal {
        return None;
    }
    status::from_transport(Status::from_header_map(headers)?.message(), kind == GrpcKind::Unary)
}

/// The body of a stream of answers, or of an answer in parts. It counts the messages, and records the code at the end. It ends the
/// stream at the deadline, and when there is no leader although the stream requires one.
struct Answers {
    /// `None` once [`Answers::end`] has ended the stream.
    body: Option<Body>,
    messages: MessageCounter,
    leader: Option<LeaderWatch>,
    deadline: Option<Deadline>,
    open: Open,
}

impl Answers {
    /// Ends the stream. Dropping the inner body ends the handler that produces the answers.
    fn end(&mut self, refusal: Refusal) -> Frame<Bytes> {
        self.body = None;
        let status = Status::from(refusal);
        self.open.code = status.code();
        let mut trailers = HeaderMap::new();
        // The status consists of a number and one of our texts, which are valid header values.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl http_body::Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Some(leader) = &mut this.leader
            && leader.poll_lost(cx).is_ready()
        {
            return Poll::Ready(Some(Ok(this.end(Refusal::NoLeader))));
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.poll_passed(cx).is_ready()
        {
            return Poll::Ready(Some(Ok(this.end(Refusal::DeadlinePassed))));
        }
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.open.method().counters.sent.inc_by(this.messages.count(data));
                }
                if let Some(trailers) = frame.trailers_ref() {
                    this.open.code = code_in(trailers).unwrap_or(Code::Unknown);
                }
            }
            Some(Err(status)) => this.open.code = status.code(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

/// The body of a client's stream, whose messages are counted.
struct Requests {
    body: Body,
    messages: MessageCounter,
    counters: Arc<GrpcMethod>,
}

impl http_body::Body for Requests {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.counters.received.inc_by(this.messages.count(data));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Finds the messages in a gRPC body, however it is cut into pieces. Each has one byte of flags
/// and four of length before it.
#[derive(Debug, Default)]
struct MessageCounter {
    prefix: [u8; 5],
    /// Bytes of the prefix that have been seen.
    prefix_len: usize,
    /// Bytes of the message itself that are still to come.
    left: usize,
}

impl MessageCounter {
    /// How many messages begin in this piece; one does when its prefix is complete.
    fn count(&mut self, mut piece: &[u8]) -> u64 {
        let mut messages = 0;
        loop {
            let skipped = self.left.min(piece.len());
            self.left -= skipped;
            piece = &piece[skipped..];
            if piece.is_empty() {
                return messages;
            }
            let taken = (self.prefix.len() - self.prefix_len).min(piece.len());
            self.prefix[self.prefix_len..][..taken].copy_from_slice(&piece[..taken]);
            self.prefix_len += taken;
            piece = &piece[taken..];
            if self.prefix_len == self.prefix.len() {
                let [_flags, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.prefix_len = 0;
                messages += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, Invocation};

    proptest! {
        #[test]
        fn messages_are_counted_however_the_body_is_cut(
            lengths in prop::collection::vec(0usize..20, 0..10),
            cuts in prop::collection::vec(1usize..12, 1..20),
        ) {
            let mut body = Vec::new();
            for length in &lengths {
                body.push(0);
                body.extend((*length as u32).to_be_bytes());
                body.extend(vec![0xff; *length]);
            }
            let mut counter = MessageCounter::default();
            let mut counted = 0;
            let mut rest = &body[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                counted += counter.count(piece);
                rest = after;
            }
            prop_assert_eq!(counted, lengths.len() as u64);
        }
    }

    #[test]
    fn made_up_versions_of_the_client_do_not_add_up() {
        let Ok(Invocation::Serve(config)) = Config::load(&[], &[]) else { panic!("no flags are sound") };
        let metrics = Metrics::new(&config);
        let mut versions = ClientVersions::new(&metrics);
        for number in 0..2 * CLIENT_VERSIONS_MAX {
            versions.requested(&metrics, &format!("3.{number}"), GrpcKind::Unary);
        }
        versions.requested(&metrics, "3.0", GrpcKind::BidiStream);
        assert_eq!(versions.known.len(), CLIENT_VERSIONS_MAX);
        let of = |kind, version: &str| metrics.client_requests.with_label_values(&[kind, version]).get();
        assert_eq!((of("unary", "3.0"), of("stream", "3.0")), (1, 1));
        assert_eq!(of("unary", "unknown"), CLIENT_VERSIONS_MAX as u64 + 1);
    }
}
