//! The gRPC code and etcd's exact text for each error.
//!
//! Clients recognise an error by its text and not by its code, so every text here is exactly etcd's. There is
//! one table, [`Refusal::wire`], and each error of the layers below has a conversion to one of its rows.

use tonic::{Code, Status};

use crate::{
    apply::ApplyError,
    auth::AuthError,
    limits::{SNAPSHOT_IDLE_MAX, SNAPSHOT_IMAGES_MAX},
    mvcc::RevError,
    node::{
        ChangeError, ChangeRefusal, MoveLeaderError, PasswordError, ProposeError, ReadError, StorageError,
    },
};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "the table is all of etcd's; some have no cause here yet"))]
pub(crate) enum Refusal {
    // The request is invalid.
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidClientApiVersion,
    InvalidSortOption,
    BadMemberUrls,
    RequestTooLarge,
    WrongDowngradeVersionFormat,
    InvalidDowngradeTargetVersion,
    UnknownDowngradeAction,
    StreamCustomSort,
    StreamRevisionFilters,
    MalformedMessage,
    // The revision or the key does not exist, or there is no space.
    Compacted,
    FutureRevision,
    NoSpace,
    Corrupt,
    Unreadable,
    AnswerTooLarge,
    ExecutedAnswerTooLarge,
    // Leases.
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    NotPrimaryLessor,
    // Members.
    MemberNotFound,
    MemberExists,
    PeerUrlExists,
    NotEnoughStartedMembers,
    MemberNotLearner,
    LearnerNotReady,
    TooManyLearners,
    ClusterIdMismatch,
    Unhealthy,
    BadLeaderTransferee,
    ClusterVersionUnavailable,
    DowngradeInProcess,
    NoInflightDowngrade,
    // Auth.
    UserEmpty,
    RoleEmpty,
    AuthFailed,
    PasswordTooLong,
    PermissionNotGiven,
    InvalidAuthManagement,
    AuthOldRevision,
    RootUserNotExist,
    RootRoleNotExist,
    UserAlreadyExists,
    UserNotFound,
    RoleAlreadyExists,
    RoleNotFound,
    RoleNotGranted,
    PermissionNotGranted,
    AuthNotEnabled,
    NoPasswordUser,
    VerifyOnly,
    TokenNotSigned,
    PermissionDenied,
    InvalidAuthToken,
    // The server cannot answer, now or at all.
    NoLeader,
    NotLeader,
    LeaderChanged,
    NotCapable,
    NotSupportedForLearner,
    TooManyRequests,
    Stopped,
    Timeout,
    TimeoutLeaderLost,
    TimeoutConnectionLost,
    TimeoutWaitAppliedIndex,
    TimeoutLeaderTransfer,
    WatchCanceled,
    Canceled,
    DeadlineExceeded,
    DeadlinePassed,
    // The lock and election recipes.
    SessionExpired,
    MissingLeaderKey,
    ElectionNoLeader,
    ElectionNotLeader,
}

impl Refusal {
    /// The code and the text that etcd answers with.
    ///
    /// Some codes are `Unknown` where another one would be expected. etcd has no gRPC status for these
    /// errors, and its clients recognise them by their text.
    pub(crate) fn wire(self) -> (Code, &'static str) {
        use Code::*;
        match self {
            Refusal::EmptyKey => (InvalidArgument, "etcdserver: key is not provided"),
            Refusal::KeyNotFound => (InvalidArgument, "etcdserver: key not found"),
            Refusal::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
            Refusal::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
            Refusal::TooManyOps => (InvalidArgument, "etcdserver: too many operations in txn request"),
            Refusal::DuplicateKey => (InvalidArgument, "etcdserver: duplicate key given in txn request"),
            Refusal::InvalidClientApiVersion => (InvalidArgument, "etcdserver: invalid client api version"),
            Refusal::InvalidSortOption => (InvalidArgument, "etcdserver: invalid sort option"),
            Refusal::BadMemberUrls => (InvalidArgument, "etcdserver: given member URLs are invalid"),
            Refusal::RequestTooLarge => (InvalidArgument, "etcdserver: request is too large"),
            Refusal::WrongDowngradeVersionFormat => {
                (InvalidArgument, "etcdserver: wrong downgrade target version format")
            }
            Refusal::InvalidDowngradeTargetVersion => {
                (InvalidArgument, "etcdserver: invalid downgrade target version")
            }
            Refusal::UnknownDowngradeAction => (Unknown, "etcdserver: unknown method"),
            Refusal::StreamCustomSort => (Unimplemented, "RangeStream does not support custom sort orders"),
            Refusal::StreamRevisionFilters => {
                (Unimplemented, "RangeStream does not support revision filters")
            }
            Refusal::MalformedMessage => {
                (Internal, "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data")
            }

            Refusal::Compacted => (OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            Refusal::FutureRevision => {
                (OutOfRange, "etcdserver: mvcc: required revision is a future revision")
            }
            Refusal::NoSpace => (ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            Refusal::Corrupt => (DataLoss, "etcdserver: corrupt cluster"),

            Refusal::LeaseNotFound => (NotFound, "etcdserver: requested lease not found"),
            Refusal::LeaseExists => (FailedPrecondition, "etcdserver: lease already exists"),
            Refusal::LeaseTtlTooLarge => (OutOfRange, "etcdserver: too large lease TTL"),
            Refusal::NotPrimaryLessor => (Unknown, "not a primary lessor"),

            Refusal::MemberNotFound => (NotFound, "etcdserver: member not found"),
            Refusal::MemberExists => (FailedPrecondition, "etcdserver: member ID already exist"),
            Refusal::PeerUrlExists => (FailedPrecondition, "etcdserver: Peer URLs already exists"),
            Refusal::NotEnoughStartedMembers => {
                (Unknown, "etcdserver: re-configuration failed due to not enough started members")
            }
            Refusal::MemberNotLearner => {
                (FailedPrecondition, "etcdserver: can only promote a learner member")
            }
            Refusal::LearnerNotReady => (
                FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            Refusal::TooManyLearners => {
                (FailedPrecondition, "etcdserver: too many learner members in cluster")
            }
            Refusal::ClusterIdMismatch => (FailedPrecondition, "etcdserver: cluster ID mismatch"),
            Refusal::Unhealthy => (Unavailable, "etcdserver: unhealthy cluster"),
            Refusal::BadLeaderTransferee => (FailedPrecondition, "etcdserver: bad leader transferee"),
            Refusal::ClusterVersionUnavailable => {
                (FailedPrecondition, "etcdserver: cluster version not found during downgrade")
            }
            Refusal::DowngradeInProcess => {
                (FailedPrecondition, "etcdserver: cluster has a downgrade job in progress")
            }
            Refusal::NoInflightDowngrade => (FailedPrecondition, "etcdserver: no inflight downgrade job"),

            Refusal::UserEmpty => (InvalidArgument, "etcdserver: user name is empty"),
            Refusal::RoleEmpty => (InvalidArgument, "etcdserver: role name is empty"),
            Refusal::AuthFailed => {
                (InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
            }
            Refusal::PasswordTooLong => (Unknown, "bcrypt: password length exceeds 72 bytes"),
            Refusal::PermissionNotGiven => (InvalidArgument, "etcdserver: permission not given"),
            Refusal::InvalidAuthManagement => (InvalidArgument, "etcdserver: invalid auth management"),
            Refusal::AuthOldRevision => (InvalidArgument, "etcdserver: revision of auth store is old"),
            Refusal::RootUserNotExist => (FailedPrecondition, "etcdserver: root user does not exist"),
            Refusal::RootRoleNotExist => {
                (FailedPrecondition, "etcdserver: root user does not have root role")
            }
            Refusal::UserAlreadyExists => (FailedPrecondition, "etcdserver: user name already exists"),
            Refusal::UserNotFound => (FailedPrecondition, "etcdserver: user name not found"),
            Refusal::RoleAlreadyExists => (FailedPrecondition, "etcdserver: role name already exists"),
            Refusal::RoleNotFound => (FailedPrecondition, "etcdserver: role name not found"),
            Refusal::RoleNotGranted => (FailedPrecondition, "etcdserver: role is not granted to the user"),
            Refusal::PermissionNotGranted => {
                (FailedPrecondition, "etcdserver: permission is not granted to the role")
            }
            Refusal::AuthNotEnabled => (FailedPrecondition, "etcdserver: authentication is not enabled"),
            Refusal::NoPasswordUser => {
                (Unknown, "auth: authentication failed, password was given for no password user")
            }
            Refusal::VerifyOnly => (Unknown, "auth: token signing attempted with verify-only key"),
            Refusal::TokenNotSigned => (Unknown, "auth: failed to sign token"),
            Refusal::PermissionDenied => (PermissionDenied, "etcdserver: permission denied"),
            Refusal::InvalidAuthToken => (Unauthenticated, "etcdserver: invalid auth token"),

            Refusal::NoLeader => (Unavailable, "etcdserver: no leader"),
            Refusal::NotLeader => (FailedPrecondition, "etcdserver: not leader"),
            Refusal::LeaderChanged => (Unavailable, "etcdserver: leader changed"),
            Refusal::NotCapable => (FailedPrecondition, "etcdserver: not capable"),
            Refusal::NotSupportedForLearner => {
                (FailedPrecondition, "etcdserver: rpc not supported for learner")
            }
            Refusal::TooManyRequests => (Unknown, "etcdserver: too many requests"),
            Refusal::Stopped => (Unavailable, "etcdserver: server stopped"),
            Refusal::Timeout => (Unavailable, "etcdserver: request timed out"),
            Refusal::TimeoutLeaderLost => {
                (Unavailable, "etcdserver: request timed out, possibly due to previous leader failure")
            }
            Refusal::TimeoutConnectionLost => {
                (Unavailable, "etcdserver: request timed out, possibly due to connection lost")
            }
            Refusal::TimeoutWaitAppliedIndex => {
                (Unavailable, "etcdserver: request timed out, waiting for the applied index took too long")
            }
            Refusal::TimeoutLeaderTransfer => {
                (Unknown, "etcdserver: request timed out, leader transfer took too long")
            }
            Refusal::Unreadable => (
                Unknown,
                "retcd: the request was executed, but its answer needs a record that this member cannot read \
                 from its disk; the member's log names the file",
            ),
            // etcd refuses with this code to send an answer of more than 2 GiB.
            Refusal::AnswerTooLarge => (
                ResourceExhausted,
                "retcd: the answer takes more than 128 MiB of memory, the limit for answers that are sorted by \
                 something else than the key and for those of transactions and deletions; ask for fewer keys, or \
                 for a range in the order of the keys, which has no limit",
            ),
            Refusal::ExecutedAnswerTooLarge => (
                ResourceExhausted,
                "retcd: the request was executed, but its answer takes more than 128 MiB of memory, the limit for \
                 answers of transactions and deletions",
            ),
            Refusal::WatchCanceled => (Cancelled, "etcdserver: watch canceled"),
            Refusal::Canceled => (Cancelled, "etcdserver: request canceled"),
            Refusal::DeadlineExceeded => (DeadlineExceeded, "etcdserver: context deadline exceeded"),
            Refusal::DeadlinePassed => (DeadlineExceeded, "context deadline exceeded"),

            Refusal::SessionExpired => (Unknown, "mutex: session is expired"),
            Refusal::MissingLeaderKey => (Unknown, "\"leader\" field must be provided"),
            Refusal::ElectionNoLeader => (Unknown, "election: no leader"),
            Refusal::ElectionNotLeader => (Unknown, "election: not leader"),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let (code, text) = refusal.wire();
        Status::new(code, text)
    }
}

impl From<ApplyError> for Refusal {
    fn from(error: ApplyError) -> Refusal {
        match error {
            ApplyError::Compacted { .. } => Refusal::Compacted,
            ApplyError::FutureRevision { .. } => Refusal::FutureRevision,
            ApplyError::LeaseNotFound => Refusal::LeaseNotFound,
            ApplyError::LeaseExists => Refusal::LeaseExists,
            ApplyError::LeaseTtlTooLarge => Refusal::LeaseTtlTooLarge,
            ApplyError::KeyNotFound => Refusal::KeyNotFound,
            ApplyError::NoSpace => Refusal::NoSpace,
            ApplyError::Corrupt => Refusal::Corrupt,
            ApplyError::Auth(error) => error.into(),
        }
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Refusal {
        match error {
            AuthError::UserEmpty => Refusal::UserEmpty,
            AuthError::UserAlreadyExists => Refusal::UserAlreadyExists,
            AuthError::UserNotFound => Refusal::UserNotFound,
            AuthError::RoleEmpty => Refusal::RoleEmpty,
            AuthError::RoleAlreadyExists => Refusal::RoleAlreadyExists,
            AuthError::RoleNotFound => Refusal::RoleNotFound,
            AuthError::RoleNotGranted => Refusal::RoleNotGranted,
            AuthError::PermissionNotGranted => Refusal::PermissionNotGranted,
            AuthError::InvalidAuthManagement => Refusal::InvalidAuthManagement,
            AuthError::RootUserNotExist => Refusal::RootUserNotExist,
            AuthError::RootRoleNotExist => Refusal::RootRoleNotExist,
            AuthError::PermissionDenied => Refusal::PermissionDenied,
            AuthError::NotEnabled => Refusal::AuthNotEnabled,
            AuthError::LoginFailed => Refusal::AuthFailed,
            AuthError::NoPasswordUser => Refusal::NoPasswordUser,
            AuthError::VerifyOnly => Refusal::VerifyOnly,
            AuthError::TokenNotSigned => Refusal::TokenNotSigned,
            AuthError::InvalidToken => Refusal::InvalidAuthToken,
            AuthError::OldRevision => Refusal::AuthOldRevision,
        }
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Refusal {
        match error {
            ProposeError::TooManyRequests => Refusal::TooManyRequests,
            ProposeError::RequestTooLarge => Refusal::RequestTooLarge,
            ProposeError::NoLeader => Refusal::NoLeader,
            ProposeError::LeaderChanged => Refusal::LeaderChanged,
            ProposeError::Leaderless => Refusal::DeadlinePassed,
            ProposeError::Timeout => Refusal::Timeout,
            ProposeError::TimeoutLeaderLost => Refusal::TimeoutLeaderLost,
            ProposeError::TimeoutConnectionLost => Refusal::TimeoutConnectionLost,
            ProposeError::Stopped => Refusal::Stopped,
            ProposeError::Auth(error) => error.into(),
            ProposeError::NoSpace => Refusal::NoSpace,
            ProposeError::Unreadable => Refusal::Unreadable,
            ProposeError::AnswerTooLarge => Refusal::ExecutedAnswerTooLarge,
        }
    }
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Status {
        Refusal::from(error).into()
    }
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Status {
        Refusal::from(error).into()
    }
}

impl From<ProposeError> for Status {
    fn from(error: ProposeError) -> Status {
        Refusal::from(error).into()
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Status {
        match error {
            ReadError::Rev(RevError::Compacted { .. }) => Refusal::Compacted.into(),
            ReadError::Rev(RevError::Future { .. }) => Refusal::FutureRevision.into(),
            ReadError::Storage(error) => error.into(),
            ReadError::Shared(error) => Status::unknown(error.to_string()),
            ReadError::TooManyRequests => Refusal::TooManyRequests.into(),
            ReadError::AnswerTooLarge => Refusal::AnswerTooLarge.into(),
            ReadError::TooManySnapshots => Status::resource_exhausted(format!(
                "retcd: {SNAPSHOT_IMAGES_MAX} snapshots are being sent already, each of another revision; try again \
                 when one of them is done, or ask another member"
            )),
            ReadError::SnapshotGivenUp => Status::aborted(format!(
                "retcd: nothing of this snapshot was read for {} s and others wait for its place; try again",
                SNAPSHOT_IDLE_MAX.as_secs()
            )),
            ReadError::Stopped => Refusal::Stopped.into(),
            ReadError::Auth(error) => error.into(),
        }
    }
}

impl From<PasswordError> for Status {
    fn from(error: PasswordError) -> Status {
        match error {
            PasswordError::TooLong => Refusal::PasswordTooLong.into(),
            PasswordError::Refused(error) => error.into(),
            PasswordError::Failed(_) => Status::unknown(error.to_string()),
        }
    }
}

impl From<StorageError> for Status {
    fn from(error: StorageError) -> Status {
        Status::unknown(error.to_string())
    }
}

impl From<ChangeError> for Status {
    fn from(error: ChangeError) -> Status {
        let refusal = match error {
            ChangeError::Propose(error) => error.into(),
            ChangeError::Refused(refusal) => match refusal {
                ChangeRefusal::NotLeader => Refusal::NotLeader,
                ChangeRefusal::NotFound => Refusal::MemberNotFound,
                ChangeRefusal::Exists => Refusal::MemberExists,
                ChangeRefusal::UrlExists => Refusal::PeerUrlExists,
                ChangeRefusal::TooManyLearners => Refusal::TooManyLearners,
                ChangeRefusal::NotEnoughStarted => Refusal::NotEnoughStartedMembers,
                ChangeRefusal::Unhealthy => Refusal::Unhealthy,
                ChangeRefusal::NotLearner => Refusal::MemberNotLearner,
                ChangeRefusal::LearnerNotReady => Refusal::LearnerNotReady,
                ChangeRefusal::TooManyUrls => Refusal::RequestTooLarge,
                ChangeRefusal::Denied => Refusal::PermissionDenied,
            },
        };
        refusal.into()
    }
}

impl From<MoveLeaderError> for Status {
    fn from(error: MoveLeaderError) -> Status {
        match error {
            MoveLeaderError::Auth(error) => error.into(),
            MoveLeaderError::NotLeader => Refusal::NotLeader.into(),
            MoveLeaderError::BadTransferee => Refusal::BadLeaderTransferee.into(),
            MoveLeaderError::Timeout => Refusal::TimeoutLeaderTransfer.into(),
        }
    }
}

/// A refusal as the lock and election services return it. In etcd these services use a client of its API,
/// whose errors have the text but not the code.
pub(crate) fn from_recipe(status: Status) -> Status {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => status,
        _ => Status::unknown(status.message()),
    }
}

/// etcd's status for an error that our gRPC library detects itself, after the method was found.
pub(crate) fn from_transport(message: &str, is_unary: bool) -> Option<Status> {
    match message {
        "Missing request message." if is_unary => Some(Status::unknown("EOF")),
        "Missing request message." => Some(Status::internal(
            "cardinality violation: received no request message from non-client-streaming RPC",
        )),
        _ if message.starts_with("failed to decode Protobuf message: ") => Some(Status::internal(
            "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd's codes and texts, written independently of the table.
    const WIRE: &str = r#"
Cancelled: etcdserver: request canceled
Cancelled: etcdserver: watch canceled
DataLoss: etcdserver: corrupt cluster
DeadlineExceeded: context deadline exceeded
DeadlineExceeded: etcdserver: context deadline exceeded
FailedPrecondition: etcdserver: Peer URLs already exists
FailedPrecondition: etcdserver: authentication is not enabled
FailedPrecondition: etcdserver: bad leader transferee
FailedPrecondition: etcdserver: can only promote a learner member
FailedPrecondition: etcdserver: can only promote a learner member which is in sync with leader
FailedPrecondition: etcdserver: cluster ID mismatch
FailedPrecondition: etcdserver: cluster has a downgrade job in progress
FailedPrecondition: etcdserver: cluster version not found during downgrade
FailedPrecondition: etcdserver: lease already exists
FailedPrecondition: etcdserver: member ID already exist
FailedPrecondition: etcdserver: no inflight downgrade job
FailedPrecondition: etcdserver: not capable
FailedPrecondition: etcdserver: not leader
FailedPrecondition: etcdserver: permission is not granted to the role
FailedPrecondition: etcdserver: role is not granted to the user
FailedPrecondition: etcdserver: role name already exists
FailedPrecondition: etcdserver: role name not found
FailedPrecondition: etcdserver: root user does not exist
FailedPrecondition: etcdserver: root user does not have root role
FailedPrecondition: etcdserver: rpc not supported for learner
FailedPrecondition: etcdserver: too many learner members in cluster
FailedPrecondition: etcdserver: user name already exists
FailedPrecondition: etcdserver: user name not found
Internal: grpc: error unmarshalling request: proto: cannot parse invalid wire-format data
InvalidArgument: etcdserver: authentication failed, invalid user ID or password
InvalidArgument: etcdserver: duplicate key given in txn request
InvalidArgument: etcdserver: given member URLs are invalid
InvalidArgument: etcdserver: invalid auth management
InvalidArgument: etcdserver: invalid client api version
InvalidArgument: etcdserver: invalid downgrade target version
InvalidArgument: etcdserver: invalid sort option
InvalidArgument: etcdserver: key is not provided
InvalidArgument: etcdserver: key not found
InvalidArgument: etcdserver: lease is provided
InvalidArgument: etcdserver: permission not given
InvalidArgument: etcdserver: request is too large
InvalidArgument: etcdserver: revision of auth store is old
InvalidArgument: etcdserver: role name is empty
InvalidArgument: etcdserver: too many operations in txn request
InvalidArgument: etcdserver: user name is empty
InvalidArgument: etcdserver: value is provided
InvalidArgument: etcdserver: wrong downgrade target version format
NotFound: etcdserver: member not found
NotFound: etcdserver: requested lease not found
OutOfRange: etcdserver: mvcc: required revision has been compacted
OutOfRange: etcdserver: mvcc: required revision is a future revision
OutOfRange: etcdserver: too large lease TTL
PermissionDenied: etcdserver: permission denied
ResourceExhausted: etcdserver: mvcc: database space exceeded
Unauthenticated: etcdserver: invalid auth token
Unavailable: etcdserver: leader changed
Unavailable: etcdserver: no leader
Unavailable: etcdserver: request timed out
Unavailable: etcdserver: request timed out, possibly due to connection lost
Unavailable: etcdserver: request timed out, possibly due to previous leader failure
Unavailable: etcdserver: request timed out, waiting for the applied index took too long
Unavailable: etcdserver: server stopped
Unavailable: etcdserver: unhealthy cluster
Unimplemented: RangeStream does not support custom sort orders
Unimplemented: RangeStream does not support revision filters
Unknown: "leader" field must be provided
Unknown: auth: authentication failed, password was given for no password user
Unknown: auth: token signing attempted with verify-only key
Unknown: auth: failed to sign token
Unknown: bcrypt: password length exceeds 72 bytes
Unknown: election: no leader
Unknown: election: not leader
Unknown: etcdserver: re-configuration failed due to not enough started members
Unknown: etcdserver: request timed out, leader transfer took too long
Unknown: etcdserver: too many requests
Unknown: etcdserver: unknown method
Unknown: mutex: session is expired
Unknown: not a primary lessor"#;

    /// Every refusal. The variants of an enum without fields are numbered from 0, so the number of the last
    /// one shows whether one is missing.
    const ALL: [Refusal; Refusal::ElectionNotLeader as usize + 1] = {
        use Refusal::*;
        [
            EmptyKey,
            KeyNotFound,
            ValueProvided,
            LeaseProvided,
            TooManyOps,
            DuplicateKey,
            InvalidClientApiVersion,
            InvalidSortOption,
            BadMemberUrls,
            RequestTooLarge,
            WrongDowngradeVersionFormat,
            InvalidDowngradeTargetVersion,
            UnknownDowngradeAction,
            StreamCustomSort,
            StreamRevisionFilters,
            MalformedMessage,
            Compacted,
            FutureRevision,
            NoSpace,
            Corrupt,
            Unreadable,
            AnswerTooLarge,
            ExecutedAnswerTooLarge,
            LeaseNotFound,
            LeaseExists,
            LeaseTtlTooLarge,
            NotPrimaryLessor,
            MemberNotFound,
            MemberExists,
            PeerUrlExists,
            NotEnoughStartedMembers,
            MemberNotLearner,
            LearnerNotReady,
            TooManyLearners,
            ClusterIdMismatch,
            Unhealthy,
            BadLeaderTransferee,
            ClusterVersionUnavailable,
            DowngradeInProcess,
            NoInflightDowngrade,
            UserEmpty,
            RoleEmpty,
            AuthFailed,
            PasswordTooLong,
            PermissionNotGiven,
            InvalidAuthManagement,
            AuthOldRevision,
            RootUserNotExist,
            RootRoleNotExist,
            UserAlreadyExists,
            UserNotFound,
            RoleAlreadyExists,
            RoleNotFound,
            RoleNotGranted,
            PermissionNotGranted,
            AuthNotEnabled,
            NoPasswordUser,
            VerifyOnly,
            TokenNotSigned,
            PermissionDenied,
            InvalidAuthToken,
            NoLeader,
            NotLeader,
            LeaderChanged,
            NotCapable,
            NotSupportedForLearner,
            TooManyRequests,
            Stopped,
            Timeout,
            TimeoutLeaderLost,
            TimeoutConnectionLost,
            TimeoutWaitAppliedIndex,
            TimeoutLeaderTransfer,
            WatchCanceled,
            Canceled,
            DeadlineExceeded,
            DeadlinePassed,
            SessionExpired,
            MissingLeaderKey,
            ElectionNoLeader,
            ElectionNotLeader,
        ]
    };

    #[test]
    fn every_refusal_speaks_etcds_words() {
        // etcd ends when it cannot read its disk.
        let mut ours: Vec<String> = ALL
            .iter()
            // Those that etcd has no words for.
            .filter(|refusal| !refusal.wire().1.starts_with("retcd: "))
            .map(|refusal| {
                let status = Status::from(*refusal);
                format!("{:?}: {}", status.code(), status.message())
            })
            .collect();
        let mut theirs: Vec<String> = WIRE.trim_start().lines().map(str::to_owned).collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn the_list_above_has_each_refusal_once() {
        for (place, refusal) in ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, place);
        }
    }

    #[test]
    fn recipes_keep_the_text_and_lose_the_code() {
        let status = from_recipe(Refusal::LeaseNotFound.into());
        assert_eq!((status.code(), status.message()), (Code::Unknown, Refusal::LeaseNotFound.wire().1));
        assert_eq!(from_recipe(Status::cancelled("context canceled")).code(), Code::Cancelled);
    }
}
