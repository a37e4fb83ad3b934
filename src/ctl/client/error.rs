//! Why a call has failed, in the words that etcd's client has for it.

use std::{error::Error, fmt};

use tonic::{Code, Status};

use super::connection::Broken;
use crate::cli::{Exit, Failure};

#[derive(Clone, Debug)]
pub(in crate::ctl) enum ClientError {
    /// The time that the command had is over.
    DeadlineExceeded,
    NoEndpoints,
    /// The flags contradict each other.
    Limits {
        send: usize,
        receive: usize,
    },
    /// What a server answered, or what became of the connection.
    Status(Status),
    /// The request is not sent: it is not one.
    Refused(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::DeadlineExceeded => f.write_str("context deadline exceeded"),
            ClientError::NoEndpoints => f.write_str("etcdclient: no available endpoints"),
            ClientError::Limits { send, receive } => write!(
                f,
                "gRPC message recv limit ({receive} bytes) must be greater than send limit ({send} bytes)"
            ),
            ClientError::Status(status) if is_etcds(status) => f.write_str(status.message()),
            ClientError::Status(status) => f.write_str(&ClientError::in_full(status)),
            ClientError::Refused(text) => f.write_str(text),
        }
    }
}

impl Error for ClientError {}

/// The exit code of most commands when a cluster refuses what they ask, or cannot be reached.
impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Exit::Error.because(error)
    }
}

impl ClientError {
    /// What a stream has ended with.
    pub(in crate::ctl) fn of(status: Status) -> ClientError {
        ClientError::Status(shown(status))
    }

    /// Whether another attempt may succeed although nothing but time has changed.
    pub(in crate::ctl) fn is_passing(&self) -> bool {
        let passes = |status: &Status| matches!(status.code(), Code::Unavailable | Code::Internal);
        matches!(self, ClientError::Status(status) if passes(status))
    }

    /// Whether the server is too old for the method.
    pub(in crate::ctl) fn is_unimplemented(&self) -> bool {
        matches!(self, ClientError::Status(status) if status.code() == Code::Unimplemented)
    }

    /// A status with its code.
    pub(super) fn in_full(status: &Status) -> String {
        format!("rpc error: code = {} desc = {}", code_name(status.code()), status.message())
    }

    /// Whether it is this answer of etcd.
    pub(in crate::ctl) fn says(&self, message: &str) -> bool {
        matches!(self, ClientError::Status(status) if status.message() == message)
    }
}

/// Whether the server has refused the request in words of etcd, which are shown as they are.
pub(super) fn is_etcds(status: &Status) -> bool {
    status.message().starts_with("etcdserver: ")
}

/// A connection that broke has no code of its own. To whoever called, the server is not available.
pub(super) fn shown(status: Status) -> Status {
    match broken(&status).is_some() || is_cut_off(&status) {
        true => Status::unavailable("error reading from server: EOF"),
        false => status,
    }
}

/// The connection has broken in the middle of an answer.
fn is_cut_off(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<hyper::Error>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The connection that has failed a request, if that is what became of it.
pub(super) fn broken(status: &Status) -> Option<&Broken> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(broken) = error.downcast_ref() {
            return Some(broken);
        }
        source = error.source();
    }
    None
}

/// Go's names.
fn code_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    }
}
