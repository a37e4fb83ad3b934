//! openraft's append requests as a stream to one peer, and the answers to them.
//!
//! Requests are taken out of the log only while the stream has room. The pipeline remembers where in
//! the log each unanswered request ends, and answers come in the order of the requests. The pipeline
//! ends with the first answer that is no success, or when the stream ends; openraft then begins
//! another one, from where the peer's log is known to match.
//!
//! An answer says that the peer followed this leader when the request was sent, and reads are served
//! because of that. openraft 0.10.0-alpha.37 takes an answer to be one to all requests that end at the
//! same entry or before it, and a request that only tells what is committed ends where the one before
//! it ended. If such a request had been sent by a leader that stood still in between, the answer to the
//! earlier one would count as given now, although the peer follows another leader. So openraft is told of
//! an answer only when no later request ends at the same entry.

use std::{collections::VecDeque, error::Error};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::{
    entry::RaftEntry,
    error::{RPCError, Unreachable},
    raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult},
};

use super::{
    message::{self, Unreadable},
    plausible,
    typ::{LogId, TypeConfig, Vote},
};
use crate::link::Appends;

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// One stream to one peer.
pub(super) struct Pipeline<S> {
    stream: Appends,
    requests: S,
    unanswered: VecDeque<Sent>,
    is_over: bool,
}

/// What a request that was sent covers of the log.
struct Sent {
    vote: Vote,
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl Sent {
    fn of(request: &AppendEntriesRequest<TypeConfig>) -> Sent {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id()).or(previous);
        assert!(previous <= last, "the entries of a request follow the entry before them");
        Sent { vote: request.vote, previous, last }
    }
}

impl<S> Pipeline<S> {
    /// A pipeline over `stream`, which `first` was sent on.
    pub(super) fn new(stream: Appends, first: &AppendEntriesRequest<TypeConfig>, requests: S) -> Pipeline<S> {
        Pipeline { stream, requests, unanswered: VecDeque::from([Sent::of(first)]), is_over: false }
    }

    fn send(&mut self, request: &AppendEntriesRequest<TypeConfig>) {
        let is_led_on = self.unanswered.back().is_none_or(|before| before.vote == request.vote);
        assert!(is_led_on, "all requests of one stream are of one leader and term");
        self.unanswered.push_back(Sent::of(request));
        self.stream.send(message::encode_append(request));
    }

    /// The last answer.
    fn fail(&mut self, error: &(impl Error + 'static)) -> Answer {
        self.is_over = true;
        Err(RPCError::Unreachable(Unreachable::new(error)))
    }

    /// Judges the answer to the oldest request. `None` if openraft must not see it.
    fn settle(&mut self, answer: Bytes) -> Option<Answer> {
        let oldest = self.unanswered.pop_front().expect("the stream gives one answer to each request");
        let Ok(reply) = message::decode_append_reply(answer) else { return Some(self.fail(&Unreadable)) };
        let sent = (oldest.previous.as_ref(), oldest.last.as_ref());
        if let Err(error) = plausible::append_answer(&oldest.vote, sent, &reply) {
            return Some(self.fail(&error));
        }
        let is_whole = match &reply {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(last) => *last == oldest.last,
            // A request that begins with the first entry cannot be in conflict.
            AppendEntriesResponse::Conflict if oldest.previous.is_none() => {
                return Some(self.fail(&Unreadable));
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
        };
        self.is_over = !is_whole || self.stream.has_moved();
        let is_for_later_too = self.unanswered.front().is_some_and(|next| next.last == oldest.last);
        if is_whole && is_for_later_too {
            return None;
        }
        Some(Ok(reply.into_stream_result(oldest.previous, oldest.last)))
    }
}

impl<S> Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    /// The next answer. `None` once there is nothing more to send and everything is answered.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        while !self.is_over {
            tokio::select! { biased;
                answer = self.stream.answer() => return match answer {
                    Ok(Some(answer)) => match self.settle(answer) {
                        Some(answer) => Some(answer),
                        None => continue,
                    },
                    Ok(None) => {
                        self.is_over = true;
                        None
                    }
                    Err(error) => Some(self.fail(&error)),
                },
                request = self.requests.next(), if self.stream.has_room() => match request {
                    Some(request) => self.send(&request),
                    None => self.stream.close(),
                },
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
        limits,
        link::tests::{FarEnd, stream_to_peer},
        raft::{codec, typ::Entry},
        wal::LogPosition,
    };

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

    fn answer(peer: &FarEnd, reply: AppendEntriesResponse<TypeConfig>) {
        peer.answer(message::encode_append_reply(&reply));
    }

    /// Takes what arrived at the peer.
    fn take(peer: &mut FarEnd) -> usize {
        let messages = peer.arrived();
        for message in &messages {
            message::decode_append(message.clone()).expect("it can be read");
        }
        messages.len()
    }

    /// Lets the pipeline send what there is room for; no answer has come.
    fn fill<S>(pipeline: &mut Pipeline<S>)
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
    {
        assert!(pipeline.next().now_or_never().is_none());
    }

    /// The log from entry 1 on, without an end, and a peer at the other end of the stream.
    async fn endless() -> (Pipeline<impl Stream<Item = AppendEntriesRequest<TypeConfig>>>, FarEnd) {
        with_peer(stream::iter((2..).map(request))).await
    }

    async fn with_peer<S>(requests: S) -> (Pipeline<S>, FarEnd) {
        let first = request(1);
        let (stream, peer) = stream_to_peer(message::encode_append(&first)).await;
        (Pipeline::new(stream, &first, requests), peer)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_answer_gets_no_more_than_there_is_room_for() {
        let (mut pipeline, mut peer) = endless().await;
        let answer = pipeline.next().await.expect("an error is an answer");
        assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
        assert_eq!(take(&mut peer), limits::APPENDS_IN_FLIGHT);
        assert!(pipeline.next().await.is_none(), "it is over");
    }

    #[tokio::test]
    async fn answers_make_room_and_come_in_order() {
        let (mut pipeline, mut peer) = endless().await;
        let mut arrived = 0;
        for index in 1..500 {
            fill(&mut pipeline);
            answer(&peer, AppendEntriesResponse::Success);
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), Ok(Some(at(index))));
            arrived += take(&mut peer);
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
        for (reply, expected) in cases {
            let (mut pipeline, peer) = endless().await;
            fill(&mut pipeline);
            answer(&peer, AppendEntriesResponse::Success);
            answer(&peer, reply);
            answer(&peer, AppendEntriesResponse::Success);
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), Ok(Some(at(1))));
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), expected);
            assert!(pipeline.next().await.is_none(), "{expected:?}");
        }
    }

    /// Or a leader that stood still, and was replaced meanwhile, would serve reads that are not current.
    #[tokio::test]
    async fn an_answer_is_none_to_a_later_request_that_ends_at_the_same_entry() {
        let higher = Vote { leader_id: LeaderId { term: 2, voted_for: 9 }, committed: true };
        for (second, expected) in [
            (AppendEntriesResponse::Success, Ok(Some(at(1)))),
            (AppendEntriesResponse::HigherVote(higher), Err(StreamAppendError::HigherVote(higher))),
        ] {
            let (prev_log_id, leader_commit) = (Some(at(1)), Some(at(1)));
            let update =
                AppendEntriesRequest { prev_log_id, entries: Vec::new(), leader_commit, ..request(1) };
            let (mut pipeline, peer) = with_peer(stream::iter([update]).chain(stream::pending())).await;
            fill(&mut pipeline);
            answer(&peer, AppendEntriesResponse::Success);
            assert!(pipeline.next().now_or_never().is_none(), "the update is not answered");
            answer(&peer, second);
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), expected);
        }
    }

    #[tokio::test]
    async fn it_ends_with_the_last_answer() {
        let (mut pipeline, mut peer) = with_peer(stream::iter([request(2)])).await;
        fill(&mut pipeline);
        for index in 1..=2 {
            answer(&peer, AppendEntriesResponse::Success);
            assert_eq!(pipeline.next().await.expect("answered").expect("reached"), Ok(Some(at(index))));
        }
        assert!(pipeline.next().await.is_none());
        assert_eq!(take(&mut peer), 2);
        assert!(peer.is_closed().await, "the peer is told that no message follows");
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_an_error() {
        let (mut pipeline, peer) = endless().await;
        peer.refuse();
        assert!(pipeline.next().await.expect("an error is an answer").is_err());
        let (mut pipeline, mut peer) = endless().await;
        peer.hang_up();
        assert!(pipeline.next().await.expect("an error is an answer").is_err());
        let (mut pipeline, peer) = with_peer(stream::pending()).await;
        peer.answer(Bytes::new());
        assert!(pipeline.next().await.expect("an error is an answer").is_err(), "not an answer");
    }
}
