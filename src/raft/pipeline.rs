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

use std::{
    collections::VecDeque,
    error::Error,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt};
use openraft::{
    entry::RaftEntry,
    error::{RPCError, Unreachable},
    raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult},
};
use tokio::{
    sync::mpsc,
    time::{self, Sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    message::{self, Unreadable},
    typ::{LogId, TypeConfig},
};
use crate::{
    clock, limits,
    link::{Peer, Peers},
    pb::retcd::peer::{AppendPiece, Envelope, RaftReply},
    telemetry::PeerMetrics,
};

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

#[derive(Debug, thiserror::Error)]
#[error("the peer ended the stream")]
struct Ended;

/// The side of the belt where requests are put, with those that wait for their answers.
pub(super) struct Outgoing {
    /// `None` once there will be no more of them.
    queue: Option<mpsc::Sender<AppendPiece>>,
    unanswered: VecDeque<Unanswered>,
    bytes: usize,
    metrics: Arc<PeerMetrics>,
}

struct Unanswered {
    previous: Option<LogId>,
    last: Option<LogId>,
    bytes: usize,
    since: Instant,
    /// How long it and what was ahead of it may take on a slow way.
    way: Duration,
}

/// How long so many bytes may take to get to a peer's disk, beyond the patience for any message.
pub(super) fn way_of(bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / limits::PEER_BYTES_PER_SEC_MIN as f64)
}

/// What is to be sent, beginning with `first`.
pub(super) fn outgoing(
    envelope: Envelope,
    first: &AppendEntriesRequest<TypeConfig>,
    metrics: Arc<PeerMetrics>,
) -> (Outgoing, ReceiverStream<AppendPiece>) {
    let (queue, pieces) = mpsc::channel(limits::APPENDS_IN_FLIGHT);
    let mut outgoing = Outgoing { queue: Some(queue), unanswered: VecDeque::new(), bytes: 0, metrics };
    outgoing.send(Some(envelope), first);
    (outgoing, ReceiverStream::new(pieces))
}

impl Outgoing {
    /// How long what was put on the belt may take to arrive.
    pub(super) fn way(&self) -> Duration {
        way_of(self.bytes)
    }
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
        self.bytes += bytes;
        let way = way_of(self.bytes);
        self.unanswered.push_back(Unanswered { previous, last, bytes, since: clock::now(), way });
        assert!(self.unanswered.len() <= limits::APPENDS_IN_FLIGHT, "the belt is of a fixed length");
        self.metrics.sent(bytes);
        if let Some(queue) = &self.queue {
            // There is room for whatever is unanswered. A stream that has broken says so where the
            // answers are waited for.
            let _ = queue.try_send(AppendPiece { envelope, message });
        }
    }

    fn answered(&mut self) -> Option<Unanswered> {
        let oldest = self.unanswered.pop_front()?;
        self.bytes -= oldest.bytes;
        assert!(
            self.bytes == 0 || !self.unanswered.is_empty(),
            "bytes in flight belong to unanswered requests"
        );
        Some(oldest)
    }

    /// When the oldest request should be answered, given the patience for a small one.
    fn due(&self, patience: Duration) -> Option<Instant> {
        self.unanswered.front().map(|oldest| oldest.since + oldest.way + patience)
    }
}

/// One stream to one peer.
pub(super) struct Pipeline<S, A> {
    peers: Arc<Peers>,
    target: u64,
    peer: Peer,
    /// How long a small request may go without its answer.
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

    /// The last answer.
    fn fail(&mut self, error: &(impl Error + 'static)) -> Answer {
        self.is_over = true;
        Err(RPCError::Unreachable(Unreachable::new(error)))
    }

    /// Takes the answer to the oldest request.
    fn settle(&mut self, reply: RaftReply) -> Answer {
        self.outgoing.metrics.received(reply.message.len());
        let reply = message::decode_append_reply(reply.message);
        let (Some(oldest), Ok(reply)) = (self.outgoing.answered(), reply) else {
            return self.fail(&Unreadable);
        };
        self.is_over = match &reply {
            AppendEntriesResponse::Success => self.has_moved(),
            AppendEntriesResponse::PartialSuccess(last) => *last != oldest.last,
            // Nothing comes before nothing: that cannot be in conflict.
            AppendEntriesResponse::Conflict if oldest.previous.is_none() => return self.fail(&Unreadable),
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => true,
        };
        Ok(reply.into_stream_result(oldest.previous, oldest.last))
    }

    /// The peer is to be reached elsewhere. Whoever begins the next stream goes there.
    fn has_moved(&self) -> bool {
        self.peers.moved_from(self.target, &self.peer).is_some()
    }

    /// Whether the oldest request has waited for too long. If not, the alarm is set anew.
    fn is_overdue(&mut self) -> bool {
        let now = clock::now();
        let due = self.outgoing.due(self.patience).unwrap_or(now + self.patience);
        self.alarm.as_mut().reset(due.into());
        due <= now
    }
}

impl<S, A> Pipeline<S, A>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
    A: Stream<Item = Result<RaftReply, Status>> + Unpin,
{
    /// The next answer. `None` once there is nothing more to send and everything is answered.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        while !self.is_over && (self.outgoing.queue.is_some() || !self.outgoing.unanswered.is_empty()) {
            tokio::select! { biased;
                answer = self.answers.next() => return Some(match answer {
                    Some(Ok(reply)) => self.settle(reply),
                    Some(Err(status)) => {
                        let error = self.peers.refused(self.target, &self.peer, &status);
                        self.fail(&error)
                    }
                    None => self.fail(&Ended),
                }),
                request = self.requests.next(), if self.outgoing.has_room() => match request {
                    Some(request) => self.outgoing.send(None, &request),
                    None => self.outgoing.queue = None,
                },
                () = &mut self.alarm => {
                    if self.is_overdue() {
                        let error = self.peers.silent(self.target, &self.peer, self.patience);
                        return Some(self.fail(&error));
                    }
                    self.is_over = self.has_moved();
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};
    use openraft::{raft::StreamAppendError, vote::leader_id_std::LeaderId};

    use super::*;
    use crate::{
        apply::{Command, Request},
        config::Config,
        raft::{
            codec,
            typ::{Batch, Entry, Vote},
        },
        telemetry::Metrics,
        types::{Caller, LeaseId},
        wal::LogPosition,
    };

    /// Only waited for where no answer comes.
    const PATIENCE: Duration = Duration::from_millis(200);

    fn at(index: u64) -> LogId {
        codec::log_id(LogPosition { term: 1, index })
    }

    /// One entry, and the one before it.
    fn request(index: u64) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote { leader_id: LeaderId { term: 1, voted_for: 7 }, committed: true },
            prev_log_id: Some(at(index - 1)),
            entries: vec![Entry { log_id: at(index), payload: openraft::EntryPayload::Blank }],
            leader_commit: None,
        }
    }

    fn reply(reply: AppendEntriesResponse<TypeConfig>) -> Result<RaftReply, Status> {
        Ok(RaftReply { message: message::encode_append_reply(&reply) })
    }

    type Fed<S> = Pipeline<S, ReceiverStream<Result<RaftReply, Status>>>;

    struct FarEnd {
        arriving: ReceiverStream<AppendPiece>,
        answers: mpsc::Sender<Result<RaftReply, Status>>,
    }

    impl FarEnd {
        fn answer(&self, answer: AppendEntriesResponse<TypeConfig>) {
            self.answers.try_send(reply(answer)).expect("there is room for an answer");
        }

        /// How many messages have arrived and were not taken.
        fn arrived(&mut self) -> usize {
            let mut count = 0;
            while let Some(Some(piece)) = self.arriving.next().now_or_never() {
                message::decode_append(piece.message).expect("it can be read");
                count += 1;
            }
            count
        }
    }

    /// Lets the pipeline send what there is room for; no answer has come.
    fn fill<S>(pipeline: &mut Fed<S>)
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
    {
        assert!(pipeline.next().now_or_never().is_none());
    }

    /// The log from entry 1 on, without an end, and a peer at the other end of the stream.
    fn endless() -> (Fed<impl Stream<Item = AppendEntriesRequest<TypeConfig>>>, FarEnd) {
        with_peer(stream::iter((2..).map(request)))
    }

    fn with_peer<S>(requests: S) -> (Fed<S>, FarEnd) {
        let metrics = Metrics::new(&Config::of_flags(&[]));
        let peers = Arc::new(Peers::new(1, 7, None, Arc::new(metrics)));
        let (outgoing, arriving) = outgoing(peers.envelope(8), &request(1), peers.metrics_of(8));
        let (answers, answers_in) = mpsc::channel(2 * limits::APPENDS_IN_FLIGHT);
        let answers_in = ReceiverStream::new(answers_in);
        let pipeline = Pipeline::new(peers, 8, Peer::default(), PATIENCE, requests, outgoing, answers_in);
        (pipeline, FarEnd { arriving, answers })
    }

    #[tokio::test]
    async fn a_peer_that_does_not_answer_gets_no_more_than_there_is_room_for() {
        let (mut pipeline, mut peer) = endless();
        let answer = pipeline.next().await.expect("an error is an answer");
        assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
        assert_eq!(peer.arrived(), limits::APPENDS_IN_FLIGHT);
        assert!(pipeline.next().await.is_none(), "it is over");
    }

    #[tokio::test]
    async fn large_messages_fill_it_sooner() {
        let revoke = Command::LeaseRevoke { id: LeaseId(i64::MAX) }.by(Caller::Nobody);
        let commands: Arc<[Request]> = vec![revoke; 50_000].into();
        let payload = openraft::EntryPayload::Normal(Batch { commands, tag: None, began: None });
        let large = move |index| {
            let entries = vec![Entry { log_id: at(index), payload: payload.clone() }];
            AppendEntriesRequest { entries, ..request(index) }
        };
        let bytes = message::encode_append(&large(2)).len();
        let (mut pipeline, mut peer) = with_peer(stream::iter((2..).map(large)));
        fill(&mut pipeline);
        assert_eq!(peer.arrived(), 1 + limits::APPENDS_IN_FLIGHT_BYTES.div_ceil(bytes));
    }

    /// Or an entry that takes longer than the patience for a small one would be sent for ever.
    #[test]
    fn a_large_message_may_take_longer() {
        let metrics = Metrics::new(&Config::of_flags(&[]));
        let peers = Peers::new(1, 7, None, Arc::new(metrics));
        let (mut outgoing, _arriving) = outgoing(peers.envelope(8), &request(1), peers.metrics_of(8));
        let small = outgoing.unanswered[0].way;
        assert!(small < Duration::from_millis(1));
        assert_eq!(outgoing.due(PATIENCE), Some(outgoing.unanswered[0].since + small + PATIENCE));
        let revoke = Command::LeaseRevoke { id: LeaseId(i64::MAX) }.by(Caller::Nobody);
        let commands: Arc<[Request]> = vec![revoke; 100_000].into();
        let payload = openraft::EntryPayload::Normal(Batch { commands, tag: None, began: None });
        let entries = vec![Entry { log_id: at(2), payload }];
        outgoing.send(None, &AppendEntriesRequest { entries, ..request(2) });
        outgoing.answered().expect("the small one");
        let large = &outgoing.unanswered[0];
        assert!(large.bytes > 1_000_000 && large.way >= way_of(large.bytes));
        assert_eq!(outgoing.due(PATIENCE), Some(large.since + large.way + PATIENCE));
    }

    #[tokio::test]
    async fn answers_make_room_and_come_in_order() {
        let (mut pipeline, mut peer) = endless();
        let mut arrived = 0;
        for index in 1..500 {
            fill(&mut pipeline);
            peer.answer(AppendEntriesResponse::Success);
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), Ok(Some(at(index))));
            arrived += peer.arrived();
            assert!(arrived <= index as usize + limits::APPENDS_IN_FLIGHT);
        }
    }

    #[tokio::test]
    async fn the_first_answer_that_is_no_success_is_the_last() {
        let higher = Vote { leader_id: LeaderId { term: 2, voted_for: 9 }, committed: true };
        let cases = [
            (AppendEntriesResponse::Conflict, Err(StreamAppendError::Conflict(at(1)))),
            (AppendEntriesResponse::HigherVote(higher), Err(StreamAppendError::HigherVote(higher))),
            (AppendEntriesResponse::PartialSuccess(Some(at(1))), Ok(Some(at(1)))),
        ];
        for (answer, expected) in cases {
            let (mut pipeline, peer) = endless();
            fill(&mut pipeline);
            peer.answer(AppendEntriesResponse::Success);
            peer.answer(answer);
            peer.answer(AppendEntriesResponse::Success);
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), Ok(Some(at(1))));
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), expected);
            assert!(pipeline.next().await.is_none(), "{expected:?}");
        }
    }

    #[tokio::test]
    async fn it_ends_with_the_last_answer() {
        let (mut pipeline, mut peer) = with_peer(stream::iter([request(2)]));
        fill(&mut pipeline);
        for index in 1..=2 {
            peer.answer(AppendEntriesResponse::Success);
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), Ok(Some(at(index))));
        }
        assert!(pipeline.next().await.is_none());
        assert_eq!(peer.arrived(), 2);
        assert!(peer.arriving.next().await.is_none(), "the peer is told that nothing comes any more");
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_an_error() {
        let (mut pipeline, peer) = endless();
        peer.answers.try_send(Err(Status::unavailable("gone"))).expect("there is room");
        assert!(pipeline.next().await.expect("an error is an answer").is_err());
        let (mut pipeline, peer) = endless();
        drop(peer.answers);
        assert!(pipeline.next().await.expect("an error is an answer").is_err());
        let (mut pipeline, peer) = with_peer(stream::pending());
        peer.answers.try_send(Ok(RaftReply::default())).expect("there is room");
        assert!(pipeline.next().await.expect("an error is an answer").is_err(), "not an answer");
    }
}
