//! The log on its way to one peer.
//!
//! ```text
//! openraft's requests --- as many as there is room for ---> outgoing queue ---> tonic ---> peer
//!            answers <--- the oldest unanswered request is what each one is to <---------- peer
//! ```
//!
//! Think of a conveyor belt of fixed length. Requests are taken out of the log only when there is
//! room on it, so a peer that does not take them holds up nobody but itself, and costs no more
//! memory than the belt. Answers come in the order of the requests. The belt stops for good with
//! the first answer that is no success, or when the oldest request has lain on it for too long;
//! openraft then begins another one, from where the peer was known to be.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use openraft::{
    entry::RaftEntry,
    error::{RPCError, Unreachable},
    raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult},
};
use tokio::{
    sync::mpsc,
    time::{self, Instant, Sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    message::{self, Unreadable},
    peers::Peers,
    typ::{LogId, Peer, TypeConfig},
};
use crate::{
    limits,
    pb::retcd::peer::{AppendPiece, Envelope, RaftReply},
};

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// The side of the belt where requests are put, with those that wait for their answers.
pub(super) struct Outgoing {
    /// `None` once there will be no more of them.
    queue: Option<mpsc::Sender<AppendPiece>>,
    unanswered: VecDeque<Unanswered>,
    bytes: usize,
}

struct Unanswered {
    previous: Option<LogId>,
    last: Option<LogId>,
    bytes: usize,
    since: Instant,
}

/// What is to be sent, beginning with `first`.
pub(super) fn outgoing(
    envelope: Envelope,
    first: &AppendEntriesRequest<TypeConfig>,
) -> (Outgoing, ReceiverStream<AppendPiece>) {
    let (queue, pieces) = mpsc::channel(limits::APPENDS_IN_FLIGHT);
    let mut outgoing = Outgoing { queue: Some(queue), unanswered: VecDeque::new(), bytes: 0 };
    outgoing.send(Some(envelope), first);
    (outgoing, ReceiverStream::new(pieces))
}

impl Outgoing {
    fn has_room(&self) -> bool {
        self.queue.is_some()
            && self.unanswered.len() < limits::APPENDS_IN_FLIGHT
            && self.bytes < limits::APPENDS_IN_FLIGHT_BYTES
    }

    fn send(&mut self, envelope: Option<Envelope>, request: &AppendEntriesRequest<TypeConfig>) {
        let message = message::encode_append(request);
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id()).or(previous);
        let bytes = message.len();
        self.unanswered.push_back(Unanswered { previous, last, bytes, since: Instant::now() });
        self.bytes += bytes;
        if let Some(queue) = &self.queue {
            // There is room for whatever is unanswered. A stream that has broken says so where the
            // answers are waited for.
            let _ = queue.try_send(AppendPiece { envelope, message });
        }
    }

    fn answered(&mut self) -> Option<Unanswered> {
        let oldest = self.unanswered.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest)
    }

    fn oldest(&self) -> Option<Instant> {
        self.unanswered.front().map(|oldest| oldest.since)
    }
}

/// One stream to one peer.
pub(super) struct Pipeline<S, A> {
    peers: Arc<Peers>,
    target: u64,
    peer: Peer,
    /// How long a request may go without its answer.
    patience: Duration,
    requests: S,
    outgoing: Outgoing,
    answers: A,
    /// Goes off now and then, to see whether an answer is overdue.
    alarm: Pin<Box<Sleep>>,
    is_over: bool,
}

impl<S, A> Pipeline<S, A> {
    pub(super) fn new(
        peers: Arc<Peers>,
        target: u64,
        peer: Peer,
        patience: Duration,
        requests: S,
        outgoing: Outgoing,
        answers: A,
    ) -> Pipeline<S, A> {
        let alarm = Box::pin(time::sleep(patience));
        Pipeline { peers, target, peer, patience, requests, outgoing, answers, alarm, is_over: false }
    }

    fn unreachable(&self, reason: &str) -> Answer {
        Err(RPCError::Unreachable(Unreachable::from_string(reason)))
    }

    /// Takes the answer to the oldest request.
    fn settle(&mut self, reply: RaftReply) -> Answer {
        let (Some(oldest), Ok(reply)) =
            (self.outgoing.answered(), message::decode_append_reply(reply.message))
        else {
            return self.unreachable(&Unreadable.to_string());
        };
        match &reply {
            AppendEntriesResponse::Success => self.is_over = false,
            AppendEntriesResponse::PartialSuccess(last) => self.is_over = *last != oldest.last,
            // Nothing comes before nothing: that cannot be in conflict.
            AppendEntriesResponse::Conflict if oldest.previous.is_none() => {
                return self.unreachable(&Unreadable.to_string());
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(reply.into_stream_result(oldest.previous, oldest.last))
    }

    /// Fails if the oldest request has waited for too long, else sets the alarm anew.
    fn check_oldest(&mut self) -> Result<(), RPCError<TypeConfig>> {
        let now = Instant::now();
        let due = self.outgoing.oldest().unwrap_or(now) + self.patience;
        if due <= now {
            let error = self.peers.silent(self.target, &self.peer, self.patience);
            return Err(RPCError::Unreachable(Unreachable::new(&error)));
        }
        self.alarm.as_mut().reset(due);
        Ok(())
    }
}

impl<S, A> Pipeline<S, A>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
    A: Stream<Item = Result<RaftReply, Status>> + Unpin,
{
    /// The next answer. `None` once there is nothing more to send and everything is answered.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        // Whatever comes next is the end, unless it is found to be a success.
        if std::mem::replace(&mut self.is_over, true) {
            return None;
        }
        while self.outgoing.queue.is_some() || self.outgoing.oldest().is_some() {
            tokio::select! { biased;
                answer = self.answers.next() => return Some(match answer {
                    Some(Ok(reply)) => self.settle(reply),
                    Some(Err(status)) => {
                        let error = self.peers.refused(self.target, &self.peer, &status);
                        Err(RPCError::Unreachable(Unreachable::new(&error)))
                    }
                    None => self.unreachable("the peer ended the stream"),
                }),
                request = self.requests.next(), if self.outgoing.has_room() => match request {
                    Some(request) => self.outgoing.send(None, &request),
                    None => self.outgoing.queue = None,
                },
                () = &mut self.alarm => if let Err(error) = self.check_oldest() {
                    return Some(Err(error));
                },
            }
        }
        None
    }
}
