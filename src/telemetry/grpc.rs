//! The counters of each gRPC method. They are looked up by label once, and not at every call.
//!
//! The series of all methods exist from the start with the value 0, because dashboards expect them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use GrpcKind::{BidiStream as BIDI_STREAM, ServerStream as SERVER_STREAM, Unary as UNARY};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcKind {
    Unary,
    ServerStream,
    BidiStream,
}

impl GrpcKind {
    fn as_str(self) -> &'static str {
        match self {
            GrpcKind::Unary => "unary",
            GrpcKind::ServerStream => "server_stream",
            GrpcKind::BidiStream => "bidi_stream",
        }
    }
}

const METHODS: &[(&str, GrpcKind, &[&str])] = &[
    ("etcdserverpb.KV", UNARY, &["Range", "Put", "DeleteRange", "Txn", "Compact"]),
    ("etcdserverpb.KV", SERVER_STREAM, &["RangeStream"]),
    ("etcdserverpb.Watch", BIDI_STREAM, &["Watch"]),
    ("etcdserverpb.Lease", UNARY, &["LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases"]),
    ("etcdserverpb.Lease", BIDI_STREAM, &["LeaseKeepAlive"]),
    (
        "etcdserverpb.Cluster",
        UNARY,
        &["MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"],
    ),
    (
        "etcdserverpb.Maintenance",
        UNARY,
        &["Alarm", "Status", "Defragment", "Hash", "HashKV", "MoveLeader", "Downgrade"],
    ),
    ("etcdserverpb.Maintenance", SERVER_STREAM, &["Snapshot"]),
    (
        "etcdserverpb.Auth",
        UNARY,
        &[
            "AuthEnable",
            "AuthDisable",
            "AuthStatus",
            "Authenticate",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
        ],
    ),
    ("v3lockpb.Lock", UNARY, &["Lock", "Unlock"]),
    ("v3electionpb.Election", UNARY, &["Campaign", "Proclaim", "Leader", "Resign"]),
    ("v3electionpb.Election", SERVER_STREAM, &["Observe"]),
    ("grpc.health.v1.Health", UNARY, &["Check", "List"]),
    ("grpc.health.v1.Health", SERVER_STREAM, &["Watch"]),
];

/// The names of the gRPC codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

const CODE_UNKNOWN: usize = 2;

/// The default buckets of Prometheus' Go library, for which the dashboards of gRPC servers are made.
const HANDLING_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub(crate) struct GrpcMethod {
    pub(crate) kind: GrpcKind,
    pub(crate) started: IntCounter,
    /// Messages from clients, and messages to clients.
    pub(crate) received: IntCounter,
    pub(crate) sent: IntCounter,
    handled: [IntCounter; CODES.len()],
    /// Only with `--metrics extensive`.
    handling: Option<Histogram>,
}

impl GrpcMethod {
    /// To be called when a call has ended with this gRPC code.
    pub(crate) fn handled(&self, code: i32, took: Duration) {
        let counter = usize::try_from(code).ok().and_then(|code| self.handled.get(code));
        counter.unwrap_or(&self.handled[CODE_UNKNOWN]).inc();
        if let Some(handling) = &self.handling {
            handling.observe(took.as_secs_f64());
        }
    }
}

/// Every method, by its path: `/etcdserverpb.KV/Put`.
pub(super) fn methods(registry: &Registry, extensive: bool) -> BTreeMap<String, Arc<GrpcMethod>> {
    const LABELS: [&str; 3] = ["grpc_method", "grpc_service", "grpc_type"];
    let counters = |name: &str, help: &str, labels: &[&str]| {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a sound name");
        registry.register(Box::new(counters.clone())).expect("registered once");
        counters
    };
    let started = counters("grpc_server_started_total", "Calls that began.", &LABELS);
    let received = counters("grpc_server_msg_received_total", "Messages received from clients.", &LABELS);
    let sent = counters("grpc_server_msg_sent_total", "Messages sent to clients.", &LABELS);
    let handled = counters(
        "grpc_server_handled_total",
        "Calls that ended, by gRPC code.",
        &["grpc_code", "grpc_method", "grpc_service", "grpc_type"],
    );
    let handling = extensive.then(|| {
        let opts = HistogramOpts::new("grpc_server_handling_seconds", "Duration of calls.");
        let handling = HistogramVec::new(opts.buckets(HANDLING_BUCKETS.to_vec()), &LABELS);
        let handling = handling.expect("sound buckets");
        registry.register(Box::new(handling.clone())).expect("registered once");
        handling
    });

    let all =
        METHODS.iter().flat_map(|(service, kind, names)| names.iter().map(move |name| (service, kind, name)));
    let method = |(service, kind, name): (&&'static str, &GrpcKind, &&'static str)| {
        let labels = [*name, *service, kind.as_str()];
        let method = GrpcMethod {
            kind: *kind,
            started: started.with_label_values(&labels),
            received: received.with_label_values(&labels),
            sent: sent.with_label_values(&labels),
            handled: CODES.map(|code| handled.with_label_values(&[code, *name, *service, kind.as_str()])),
            handling: handling.as_ref().map(|handling| handling.with_label_values(&labels)),
        };
        (format!("/{service}/{name}"), Arc::new(method))
    };
    all.map(method).collect()
}
