//! Why the node did not do what it was asked.
//!
//! An [`ApplyError`](crate::apply::ApplyError) is not here: it is an answer on which all replicas
//! agree. The errors here are of this member alone.

use std::{path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{auth::AuthError, mvcc::RevError, raft::TokenKeyError};

/// What a read can fail with on its own, for those above who may not look into storage.
pub(crate) use crate::storage::StorageError;

/// A proposal or a read barrier failed, or its outcome is unknown.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ProposeError {
    #[error("too many requests")]
    TooManyRequests,
    #[error("request is too large")]
    RequestTooLarge,
    #[error("database space exceeded")]
    NoSpace,
    #[error("no leader")]
    NoLeader,
    #[error("leader changed")]
    LeaderChanged,
    /// No leader was known until the request timed out. The command may still be executed, if a leader is
    /// elected while other commands of its batch are waited for.
    #[error("no leader came in time")]
    Leaderless,
    /// The command may or may not have been executed.
    #[error("request timed out")]
    Timeout,
    /// As [`ProposeError::Timeout`]; it was made shortly before this member began to lead.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderLost,
    /// As [`ProposeError::Timeout`]; this member lost its connection to the leader meanwhile.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    #[error("server stopped")]
    Stopped,
    /// The caller may not ask for that.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The command was executed, and this node cannot read from its own disk what the answer needs.
    #[error("executed, but the answer cannot be read from the disk")]
    Unreadable,
    /// The command was executed, and no answer may take so much memory.
    #[error("executed, but the answer takes too much memory")]
    AnswerTooLarge,
}

impl ProposeError {
    /// Whether the command may have been executed in spite of the error, or may still be.
    pub(crate) fn is_uncertain(&self) -> bool {
        match self {
            ProposeError::TooManyRequests
            | ProposeError::RequestTooLarge
            | ProposeError::NoSpace
            | ProposeError::Auth(_)
            | ProposeError::NoLeader => false,
            ProposeError::LeaderChanged
            | ProposeError::Leaderless
            | ProposeError::Timeout
            | ProposeError::TimeoutLeaderLost
            | ProposeError::TimeoutConnectionLost
            | ProposeError::Unreadable
            | ProposeError::AnswerTooLarge
            | ProposeError::Stopped => true,
        }
    }
}

/// A read found no answer.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Rev(#[from] RevError),
    /// The caller may not read that.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// This node cannot read its own disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The same, for all who waited for one run.
    #[error(transparent)]
    Shared(Arc<StorageError>),
    /// The maximum number of runs is waiting already.
    #[error("too many requests")]
    TooManyRequests,
    /// No answer may take so much memory.
    #[error("the answer takes too much memory")]
    AnswerTooLarge,
    /// As many images of the database are being sent as may be on the disk.
    #[error("too many snapshots are being sent")]
    TooManySnapshots,
    /// The client read nothing of its image for so long that another took its place.
    #[error("the snapshot was not read")]
    SnapshotGivenUp,
    #[error("server stopped")]
    Stopped,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum MoveLeaderError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("not leader")]
    NotLeader,
    #[error("bad leader transferee")]
    BadTransferee,
    #[error("request timed out, leader transfer took too long")]
    Timeout,
}

/// The node could not be started. The text says what happened and what to do.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    TokenKeys(#[from] TokenKeyError),
    #[error("{0}")]
    Refused(String),
    #[error(
        "the data directory {} is in use by another process; stop it, or choose another --data-dir",
        data_dir.display()
    )]
    InUse { data_dir: PathBuf },
}
