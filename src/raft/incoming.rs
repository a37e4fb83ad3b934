//! What other members ask of consensus.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::{
    async_runtime::watch::WatchReceiver,
    base::BoxStream,
    raft::{AppendEntriesResponse, SnapshotResponse},
};
use parking_lot::Mutex;

use super::{
    codec,
    consensus::{Consensus, ConsensusError, NotProposed},
    message,
    snapshot::Header,
    stages::Began,
    typ::TypeConfig,
};
use crate::{
    clock, limits,
    link::{MessageKind, Piece},
};

impl Consensus {
    /// As [`Consensus::propose_tagged`], for an encoded batch of a peer.
    pub(crate) async fn propose_encoded(
        &self,
        term: u64,
        batch: Bytes,
        tag: (u64, u64),
    ) -> Result<Result<(), NotProposed>, message::Unreadable> {
        if batch.len() > limits::COMMAND_BYTES_MAX {
            // The followers could not be sent it: a message between members is bounded.
            return Err(message::Unreadable);
        }
        let batch = codec::batch(batch, None).ok_or(message::Unreadable)?;
        let now = clock::now();
        let began = Some(Began { queued: now, taken: now });
        Ok(self.propose_tagged(term, batch.commands, tag, began).await)
    }

    /// Answers a peer's message.
    pub(crate) async fn handle(&self, kind: MessageKind, bytes: Bytes) -> Result<Bytes, ConsensusError> {
        let fail = |error: &dyn std::fmt::Display| ConsensusError(error.to_string());
        match kind {
            MessageKind::Append => {
                let request = message::decode_append(bytes).map_err(|error| fail(&error))?;
                let reply = self.raft.append_entries(request).await.map_err(|error| fail(&error))?;
                note_leader(&self.heard, &reply);
                Ok(message::encode_append_reply(&reply))
            }
            MessageKind::Vote => {
                let request = message::decode_vote(bytes).map_err(|error| fail(&error))?;
                let reply = self.raft.vote(request).await.map_err(|error| fail(&error))?;
                Ok(message::encode_vote_reply(&reply))
            }
            MessageKind::PreVote => {
                let request = message::decode_vote(bytes).map_err(|error| fail(&error))?;
                let reply = self.raft.pre_vote(request).await.map_err(|error| fail(&error))?;
                Ok(message::encode_vote_reply(&reply))
            }
            MessageKind::TransferLeader => {
                let request = message::decode_transfer(bytes).map_err(|error| fail(&error))?;
                let reply = self.raft.handle_transfer_leader(request).await.map_err(|error| fail(&error))?;
                Ok(message::encode_transfer_reply(reply.err().map(|error| error.to_string())))
            }
        }
    }

    /// Takes the log as its leader sends it. A message is taken before the messages ahead of it are on
    /// the disk; answers come in the order of the messages, each once its entries are on the disk. A message
    /// that is refused is the last one to be answered.
    pub(crate) fn append<S>(
        &self,
        messages: S,
    ) -> impl Stream<Item = Result<Bytes, ConsensusError>> + Send + use<S>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let was_unreadable = Arc::new(AtomicBool::new(false));
        let requests = messages.scan(was_unreadable.clone(), |was_unreadable, bytes| {
            let request = message::decode_append(bytes).ok();
            was_unreadable.store(request.is_none(), Ordering::Relaxed);
            future::ready(request)
        });
        let heard = self.heard.clone();
        // Boxed, for openraft's type names the borrow of its handle, though it holds none.
        let results: BoxStream<'static, _> = Box::pin(self.raft.stream_append(requests));
        let answers = results.map(move |answer| {
            let reply = answer.map_err(|error| ConsensusError(error.to_string()))?.into();
            note_leader(&heard, &reply);
            Ok(message::encode_append_reply(&reply))
        });
        let refusal = stream::once(async move { was_unreadable.load(Ordering::Relaxed) });
        answers.chain(refusal.filter_map(|was_unreadable| {
            let error = || Err(ConsensusError(message::Unreadable.to_string()));
            future::ready(was_unreadable.then(error))
        }))
    }

    /// Receives a snapshot beside the state that is served meanwhile, and installs it.
    pub(crate) async fn receive_snapshot(
        &self,
        header: Bytes,
        pieces: impl Stream<Item = Result<Piece, String>> + Unpin,
    ) -> Result<Bytes, ConsensusError> {
        let fail = |error: &dyn std::fmt::Display| ConsensusError(error.to_string());
        let header = Header::decode(header).map_err(|error| fail(&error))?;
        let vote = header.vote;
        let known = self.raft.metrics().borrow_watched().vote;
        if vote < known {
            // The sender does not lead any more. It learns that now, and not after it has sent everything.
            return Ok(message::encode_snapshot_reply(&SnapshotResponse::new(known)));
        }
        let snapshot = self.inbox.receive(header, pieces).await.map_err(ConsensusError)?;
        let reply = self.raft.install_full_snapshot(vote, snapshot).await;
        reply.map(|reply| message::encode_snapshot_reply(&reply)).map_err(|error| fail(&error))
    }
}

/// Notes the time if the message was one of a leader that this member follows.
fn note_leader(heard: &Mutex<Option<Instant>>, reply: &AppendEntriesResponse<TypeConfig>) {
    if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
        *heard.lock() = Some(clock::now());
    }
}
