//! The log line about a slow request.
//!
//! The message `request stats` and its fields are etcd's, because operators filter logs by them. Requests are
//! described without their values, which may be large or secret.

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use prost::Message;
use tonic::{Request, Response, Status, transport::server::TcpConnectInfo};

use crate::{
    clock,
    pb::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request as PbOp,
    },
    telemetry::GoDuration,
};

/// The numbers and the content of a request in its log line; -1 means "not counted".
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) request_count: i64,
    pub(crate) request_size: i64,
    pub(crate) response_count: i64,
    pub(crate) response_size: i64,
    pub(crate) content: String,
}

impl Stats {
    /// For requests of which only the duration is logged.
    pub(crate) const NONE: Stats = Stats {
        request_count: -1,
        request_size: -1,
        response_count: -1,
        response_size: -1,
        content: String::new(),
    };
}

/// Times one request.
#[derive(Debug)]
pub(crate) struct Timer {
    start: Instant,
    remote: Remote,
    slow_after: Duration,
}

/// The client's address in the log line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Remote {
    Tcp(SocketAddr),
    /// A client on a Unix socket has no address.
    Unix,
    Unknown,
}

impl Remote {
    pub(crate) fn of(extensions: &http::Extensions) -> Remote {
        match extensions.get::<TcpConnectInfo>() {
            Some(info) => info.remote_addr.map_or(Remote::Unix, Remote::Tcp),
            None => Remote::Unknown,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Tcp(address) => address.fmt(f),
            Remote::Unix => f.write_str("@"),
            Remote::Unknown => f.write_str("No remote client info."),
        }
    }
}

impl Timer {
    pub(crate) fn start<T>(request: &Request<T>, slow_after: Duration) -> Timer {
        Timer { start: clock::now(), remote: Remote::of(request.extensions()), slow_after }
    }

    /// Logs the request if it is worth a line, and returns the answer. `stats` is called only in that case.
    pub(crate) fn finish<A>(
        self,
        method: &str,
        answer: Result<A, Status>,
        stats: impl FnOnce(&A) -> Stats,
    ) -> Result<Response<A>, Status> {
        let spent = clock::since(self.start);
        if is_worth_a_line(spent, self.slow_after) {
            let stats = answer.as_ref().map_or(Stats::NONE, stats);
            log(method, self.remote, spent, self.slow_after, &stats);
        }
        answer.map(Response::new)
    }
}

/// Whether a request is logged: slow ones with a warning, and at level debug every one.
pub(crate) fn is_worth_a_line(spent: Duration, slow_after: Duration) -> bool {
    spent > slow_after || tracing::enabled!(tracing::Level::DEBUG)
}

pub(crate) fn log(method: &str, remote: Remote, spent: Duration, slow_after: Duration, stats: &Stats) {
    let start = SystemTime::UNIX_EPOCH + clock::wall().saturating_sub(spent);
    let start = humantime::format_rfc3339_micros(start);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                "start time" = %start,
                "time spent" = %GoDuration(spent),
                "remote" = %remote,
                "response type" = method,
                "request count" = stats.request_count,
                "request size" = stats.request_size,
                "response count" = stats.response_count,
                "response size" = stats.response_size,
                "request content" = stats.content,
                "request stats"
            )
        };
    }
    if spent > slow_after { line!(warn) } else { line!(debug) }
}

pub(crate) fn range(request: &RangeRequest, count: i64, response_size: i64) -> Stats {
    Stats {
        request_count: 0,
        request_size: size(request),
        response_count: count,
        response_size,
        content: text(|out| describe_range(out, request)),
    }
}

pub(crate) fn put(request: &PutRequest, response_size: i64) -> Stats {
    Stats {
        request_count: 1,
        request_size: size(request),
        response_count: 0,
        response_size,
        content: text(|out| describe_put(out, request)),
    }
}

pub(crate) fn delete_range(request: &DeleteRangeRequest, deleted: i64, response_size: i64) -> Stats {
    Stats {
        request_count: 0,
        request_size: size(request),
        response_count: deleted,
        response_size,
        content: text(|out| describe_delete_range(out, request)),
    }
}

/// Counts the operations of the branch that was taken.
pub(crate) fn txn(request: &TxnRequest, succeeded: bool, response_size: i64) -> Stats {
    let branch = if succeeded { &request.success } else { &request.failure };
    Stats {
        request_count: branch.len() as i64,
        request_size: branch.iter().map(size).sum(),
        response_count: 0,
        response_size,
        content: text(|out| describe_txn(out, request)),
    }
}

fn size(message: &impl Message) -> i64 {
    message.encoded_len() as i64
}

fn text(describe: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut out = String::new();
    describe(&mut out).expect("writing to a string does not fail");
    out
}

fn describe_key(out: &mut String, key: &[u8], range_end: &[u8]) -> fmt::Result {
    write!(out, "key:\"{}\" ", key.escape_ascii())?;
    if !range_end.is_empty() {
        write!(out, "range_end:\"{}\" ", range_end.escape_ascii())?;
    }
    Ok(())
}

fn describe_range(out: &mut String, request: &RangeRequest) -> fmt::Result {
    describe_key(out, &request.key, &request.range_end)?;
    for (name, number) in [("limit", request.limit), ("revision", request.revision)] {
        if number != 0 {
            write!(out, "{name}:{number} ")?;
        }
    }
    for (name, is_set) in [
        ("serializable", request.serializable),
        ("keys_only", request.keys_only),
        ("count_only", request.count_only),
    ] {
        if is_set {
            write!(out, "{name}:true ")?;
        }
    }
    Ok(())
}

fn describe_put(out: &mut String, request: &PutRequest) -> fmt::Result {
    describe_key(out, &request.key, b"")?;
    write!(out, "value_size:{} ", request.value.len())?;
    if request.lease != 0 {
        write!(out, "lease:{} ", request.lease)?;
    }
    Ok(())
}

fn describe_delete_range(out: &mut String, request: &DeleteRangeRequest) -> fmt::Result {
    describe_key(out, &request.key, &request.range_end)
}

fn describe_txn(out: &mut String, request: &TxnRequest) -> fmt::Result {
    for compare in &request.compare {
        write!(out, "compare:<")?;
        describe_key(out, &compare.key, &compare.range_end)?;
        write!(out, "> ")?;
    }
    for (name, branch) in [("success", &request.success), ("failure", &request.failure)] {
        for op in branch {
            write!(out, "{name}:<")?;
            describe_op(out, op)?;
            write!(out, "> ")?;
        }
    }
    Ok(())
}

fn describe_op(out: &mut String, op: &RequestOp) -> fmt::Result {
    match &op.request {
        Some(PbOp::RequestRange(request)) => {
            write!(out, "request_range:<")?;
            describe_range(out, request)?;
        }
        Some(PbOp::RequestPut(request)) => {
            write!(out, "request_put:<")?;
            describe_put(out, request)?;
        }
        Some(PbOp::RequestDeleteRange(request)) => {
            write!(out, "request_delete_range:<")?;
            describe_delete_range(out, request)?;
        }
        Some(PbOp::RequestTxn(request)) => {
            write!(out, "request_txn:<")?;
            // The transaction was executed, so it can be decoded, and its depth is within the limit.
            if let Ok(request) = TxnRequest::decode(request.clone()) {
                describe_txn(out, &request)?;
            }
        }
        None => return Ok(()),
    }
    write!(out, "> ")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn requests_are_described_without_their_values() {
        let put = PutRequest {
            key: Bytes::from_static(b"a\xff\"b"),
            value: Bytes::from_static(b"secret"),
            lease: -3,
            ..Default::default()
        };
        let get = RangeRequest {
            key: Bytes::from_static(b"k"),
            range_end: Bytes::from_static(b"\0"),
            limit: 5,
            serializable: true,
            ..Default::default()
        };
        let request = TxnRequest {
            compare: vec![crate::pb::etcdserverpb::Compare {
                key: Bytes::from_static(b"c"),
                ..Default::default()
            }],
            success: vec![RequestOp { request: Some(PbOp::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(PbOp::RequestRange(get)) }],
        };
        let stats = txn(&request, true, 2);
        assert_eq!(
            stats.content,
            "compare:<key:\"c\" > \
             success:<request_put:<key:\"a\\xff\\\"b\" value_size:6 lease:-3 > > \
             failure:<request_range:<key:\"k\" range_end:\"\\x00\" limit:5 serializable:true > > "
        );
        assert_eq!((stats.request_count, stats.request_size), (1, size(&request.success[0])));
    }
}
