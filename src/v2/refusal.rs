//! Refusals with etcd's codes.

use thiserror::Error;

#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}: {cause}", code.message())]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) cause: String,
    /// The index of the store; 0 for a request that did not reach it.
    pub(crate) index: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    KeyNotFound,
    CompareFailed,
    NotFile,
    NotDir,
    KeyExists,
    RootReadOnly,
    DirNotEmpty,
    Unauthorized,
    PrevValueRequired,
    TtlNotANumber,
    IndexNotANumber,
    InvalidField,
    InvalidForm,
    RefreshValue,
    RefreshTtlRequired,
    RaftInternal,
    IndexCleared,
}

impl Refusal {
    /// Of a request that did not reach the store.
    pub(crate) fn of_request(code: Code, cause: impl Into<String>) -> Refusal {
        Refusal { code, cause: cause.into(), index: 0 }
    }
}

impl Code {
    pub(crate) fn number(self) -> u16 {
        self.row().0
    }

    pub(crate) fn message(self) -> &'static str {
        self.row().1
    }

    pub(crate) fn http_status(self) -> u16 {
        self.row().2
    }

    fn row(self) -> (u16, &'static str, u16) {
        match self {
            Code::KeyNotFound => (100, "Key not found", 404),
            Code::CompareFailed => (101, "Compare failed", 412),
            Code::NotFile => (102, "Not a file", 403),
            Code::NotDir => (104, "Not a directory", 400),
            Code::KeyExists => (105, "Key already exists", 412),
            Code::RootReadOnly => (107, "Root is read only", 400),
            Code::DirNotEmpty => (108, "Directory not empty", 403),
            Code::Unauthorized => (110, "The request requires user authentication", 401),
            Code::PrevValueRequired => (201, "PrevValue is Required in POST form", 400),
            Code::TtlNotANumber => (202, "The given TTL in POST form is not a number", 400),
            Code::IndexNotANumber => (203, "The given index in POST form is not a number", 400),
            Code::InvalidField => (209, "Invalid field", 400),
            Code::InvalidForm => (210, "Invalid POST form", 400),
            Code::RefreshValue => (211, "Value provided on refresh", 400),
            Code::RefreshTtlRequired => (212, "A TTL must be provided on refresh", 400),
            Code::RaftInternal => (300, "Raft Internal Error", 500),
            Code::IndexCleared => (401, "The event in requested index is outdated and cleared", 400),
        }
    }
}
