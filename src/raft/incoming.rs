//! What other members ask of consensus.
//!
//! A message is decoded and judged before openraft gets it: see `plausible`.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream};
use openraft::{
    async_runtime::watch::WatchReceiver,
    base::BoxStream,
    error::{Fatal, RaftError},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse},
};
use parking_lot::Mutex;
use thiserror::Error;

use super::{
    codec,
    consensus::{Consensus, NotProposed},
    expected_log::{ExpectedLog, Tail},
    message::{self, Unreadable},
    plausible::{self, Implausible, Known},
    snapshot::Header,
    stages::Began,
    typ::{TypeConfig, Vote},
};
use crate::{
    apply::{Request, admission},
    clock,
    link::{MessageKind, Piece},
};

/// Why a peer's message got no answer of consensus.
#[derive(Debug, Error)]
pub(crate) enum MessageError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Implausible(#[from] Implausible),
    /// The snapshot did not arrive, or cannot be kept.
    #[error("{0}")]
    NotReceived(String),
    #[error("consensus: {0}")]
    Stopped(#[from] RaftError<TypeConfig>),
}

impl From<Fatal<TypeConfig>> for MessageError {
    fn from(fatal: Fatal<TypeConfig>) -> MessageError {
        MessageError::Stopped(RaftError::Fatal(fatal))
    }
}

impl Consensus {
    /// As [`Consensus::propose_tagged`], for an encoded batch of a peer.
    pub(crate) async fn propose_encoded(
        &self,
        term: u64,
        batch: Bytes,
        tag: (u64, u64),
    ) -> Result<Result<(), NotProposed>, MessageError> {
        let batch = codec::batch_of_peer(batch).ok_or(Unreadable)?;
        let now = clock::now();
        let began = Some(Began { queued: now, taken: now });
        Ok(self.propose_tagged(term, batch.commands, tag, began).await)
    }

    /// Whether an encoded batch of a peer adds data. One that cannot be decoded adds nothing, and is refused when
    /// it is proposed.
    pub(crate) fn adds_data(batch: Bytes) -> bool {
        let batch = codec::batch_of_peer(batch);
        let cost = |request: &Request| admission::quota_cost(&request.command);
        batch.is_some_and(|batch| batch.commands.iter().any(|request| cost(request) > 0))
    }

    /// Answers a message of member `from`.
    pub(crate) async fn handle(
        &self,
        from: u64,
        kind: MessageKind,
        bytes: Bytes,
    ) -> Result<Bytes, MessageError> {
        match kind {
            MessageKind::Append => {
                let request = self.append_of(from, bytes).await?;
                let reply = self.raft.append_entries(request).await?;
                note_leader(&self.heard, &reply);
                Ok(message::encode_append_reply(&reply))
            }
            MessageKind::Vote | MessageKind::PreVote => {
                let request = message::decode_vote(bytes)?;
                self.known().candidate(from, &request.vote, request.last_log_id.as_ref())?;
                let reply = match kind {
                    MessageKind::PreVote => self.raft.pre_vote(request).await?,
                    _ => self.raft.vote(request).await?,
                };
                Ok(message::encode_vote_reply(&reply))
            }
            MessageKind::TransferLeader => {
                let request = message::decode_transfer(bytes)?;
                self.known().transfer(from, request.from_leader(), request.last_log_id())?;
                let reply = self.raft.handle_transfer_leader(request).await?;
                Ok(message::encode_transfer_reply(reply.err().map(|error| error.to_string())))
            }
        }
    }

    /// Takes the log as leader `from` sends it. A message is taken before the messages ahead of it are on
    /// the disk; answers come in the order of the messages, each once its entries are on the disk. A message
    /// that is refused is the last one to be answered.
    pub(crate) fn append<S>(
        &self,
        from: u64,
        messages: S,
    ) -> impl Stream<Item = Result<Bytes, MessageError>> + Send + use<S>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let refusal = Arc::new(Mutex::new(None));
        let judged = (self.clone(), Box::pin(messages), refusal.clone());
        let requests = stream::unfold(judged, move |(consensus, mut messages, refused)| async move {
            match consensus.append_of(from, messages.next().await?).await {
                Ok(request) => Some((request, (consensus, messages, refused))),
                Err(error) => {
                    *refused.lock() = Some(error);
                    None
                }
            }
        });
        let heard = self.heard.clone();
        // Boxed, because openraft's type names the borrow of its handle, though it holds none.
        let results: BoxStream<'static, _> = Box::pin(self.raft.stream_append(requests));
        let answers = results.map(move |answer| {
            let reply = answer?.into();
            note_leader(&heard, &reply);
            Ok(message::encode_append_reply(&reply))
        });
        let refusal = stream::once(async move { refusal.lock().take() });
        answers.chain(refusal.filter_map(|refusal| future::ready(refusal.map(Err))))
    }

    /// An append of member `from`, as far as it can be believed. It has to be given to consensus at once,
    /// because the next one is judged by the effect of this one.
    async fn append_of(
        &self,
        from: u64,
        bytes: Bytes,
    ) -> Result<AppendEntriesRequest<TypeConfig>, MessageError> {
        let mut request = message::decode_append(bytes)?;
        let mut expected = self.expected.lock().await;
        let known = self.known();
        known.append(from, &mut request)?;
        if known.is_stale(&request.vote) || !self.follow_leader(&mut expected, &request.vote).await? {
            request.leader_commit = None;
            return Ok(request);
        }
        expected.append(known.committed, &mut request)?;
        Ok(request)
    }

    /// Asks consensus for its log, unless the effect of a message of `leader` on the log is known. False if
    /// consensus has accepted a later leader or candidate.
    async fn follow_leader(&self, expected: &mut ExpectedLog, leader: &Vote) -> Result<bool, MessageError> {
        if expected.follows(leader) {
            return Ok(true);
        }
        let state = self.raft.with_raft_state(|state| (*state.vote_ref(), Tail::of(state)));
        let (vote, tail) = state.await?;
        if plausible::is_behind(leader, &vote) {
            return Ok(false);
        }
        expected.begin(leader, tail);
        Ok(true)
    }

    /// What a message is judged by.
    fn known(&self) -> Known {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Known {
            own: self.id,
            vote: metrics.vote,
            last_index: metrics.last_log_index.unwrap_or(0),
            committed: metrics.local_committed.as_ref().map(codec::position),
        }
    }

    /// Receives a snapshot of leader `from` beside the state that is served meanwhile, and installs it.
    pub(crate) async fn receive_snapshot(
        &self,
        from: u64,
        header: Bytes,
        pieces: impl Stream<Item = Result<Piece, String>> + Unpin,
    ) -> Result<Bytes, MessageError> {
        let header = Header::decode(header)?;
        let vote = header.vote;
        let known = self.known();
        known.snapshot(from, &vote, header.meta())?;
        if vote < known.vote {
            // From a leader that has been deposed. It need not send all of it to learn that.
            return Ok(message::encode_snapshot_reply(&SnapshotResponse::new(known.vote)));
        }
        let snapshot = self.inbox.receive(header, pieces).await.map_err(MessageError::NotReceived)?;
        // This member's log went on meanwhile.
        {
            let mut expected = self.expected.lock().await;
            let known = self.known();
            known.snapshot(from, &vote, &snapshot.meta)?;
            if let Some(last) = &snapshot.meta.last_log_id
                && !known.is_stale(&vote)
                && self.follow_leader(&mut expected, &vote).await?
            {
                expected.snapshot(codec::position(last))?;
            }
        }
        let reply = self.raft.install_full_snapshot(vote, snapshot).await?;
        Ok(message::encode_snapshot_reply(&reply))
    }
}

/// Notes the time if the message was one of a leader that this member follows.
fn note_leader(heard: &Mutex<Option<Instant>>, reply: &AppendEntriesResponse<TypeConfig>) {
    if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
        *heard.lock() = Some(clock::now());
    }
}

#[cfg(test)]
mod tests;
