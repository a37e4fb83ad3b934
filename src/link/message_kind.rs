//! The kinds of messages that consensus sends as single calls.

use crate::pb::retcd::peer::RaftKind;

/// Tells the receiver how to decode the bytes of a message, which this room does not look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Append,
    Vote,
    PreVote,
    TransferLeader,
}

impl From<RaftKind> for MessageKind {
    fn from(kind: RaftKind) -> MessageKind {
        match kind {
            RaftKind::Append => MessageKind::Append,
            RaftKind::Vote => MessageKind::Vote,
            RaftKind::PreVote => MessageKind::PreVote,
            RaftKind::TransferLeader => MessageKind::TransferLeader,
        }
    }
}

impl From<MessageKind> for RaftKind {
    fn from(kind: MessageKind) -> RaftKind {
        match kind {
            MessageKind::Append => RaftKind::Append,
            MessageKind::Vote => RaftKind::Vote,
            MessageKind::PreVote => RaftKind::PreVote,
            MessageKind::TransferLeader => RaftKind::TransferLeader,
        }
    }
}
