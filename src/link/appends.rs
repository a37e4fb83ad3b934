//! The log on its way to one peer: a window of messages that the peer has not answered.
//!
//! ```text
//! messages --- as many as there is room for ---> queue ---> Link ---> peer
//! answers <--- each is to the oldest unanswered message <------------ peer
//! ```
//!
//! A message is accepted only while there is room in the window, so a peer that does not answer holds
//! up nobody but itself, and takes no more memory than the window. Answers come in the order of the
//! messages. The stream ends with an error when the oldest message has waited for too long, and
//! without one when the peer is to be reached at another address.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    sync::mpsc,
    time::{self, Sleep},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    calls::PeerError,
    connection::{Link, Replies},
    peer::Peer,
    peers::Peers,
};
use crate::{
    clock, limits,
    pb::retcd::peer::{AppendPiece, Envelope, RaftReply},
    telemetry::PeerMetrics,
};

/// Why there are no more answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the peer ended the stream")]
    Ended,
    #[error("the peer sent an answer without a message")]
    Unasked,
}

/// A stream of appends to one peer.
pub(crate) struct Appends {
    peers: Arc<Peers>,
    target: u64,
    peer: Peer,
    /// How long a small message may go without its answer.
    patience: Duration,
    window: Window,
    answers: Replies<RaftReply>,
    /// Ends now and then, to see whether an answer is overdue.
    alarm: Pin<Box<Sleep>>,
}

impl Appends {
    pub(super) async fn open(
        peers: Arc<Peers>,
        target: u64,
        peer: &Peer,
        link: &dyn Link,
        first: Bytes,
        patience: Duration,
    ) -> Result<Appends, PeerError> {
        let (window, pieces) = Window::open(peers.envelope(target), first, peers.metrics_of(target));
        let answers = link.append(pieces.boxed());
        // The peer has all of the first message when it accepts the stream.
        let answers = peers.answer(target, peer, patience + window.transit(), answers).await?;
        let (peer, alarm) = (peer.clone(), Box::pin(time::sleep(patience)));
        Ok(Appends { peers, target, peer, patience, window, answers, alarm })
    }

    pub(crate) fn has_room(&self) -> bool {
        self.window.has_room()
    }

    /// Sends a message. There must be room for it.
    pub(crate) fn send(&mut self, message: Bytes) {
        self.window.send(None, message);
    }

    /// No message follows. The answers that are missing still come.
    pub(crate) fn close(&mut self) {
        self.window.queue = None;
    }

    /// Whether the peer is to be reached at another address. The next stream goes there.
    pub(crate) fn has_moved(&self) -> bool {
        self.peers.moved_from(self.target, &self.peer).is_some()
    }

    /// The answer to the oldest message. `None` once everything is answered after [`close`](Self::close),
    /// or when the peer has moved. Nothing is lost if the future is dropped.
    pub(crate) async fn answer(&mut self) -> Result<Option<Bytes>, AppendError> {
        loop {
            if self.window.is_done() {
                return Ok(None);
            }
            tokio::select! { biased;
                answer = self.answers.next() => return match answer {
                    Some(Ok(reply)) => {
                        self.window.answered(reply.message.len()).ok_or(AppendError::Unasked)?;
                        Ok(Some(reply.message))
                    }
                    Some(Err(error)) => Err(self.peers.failed(self.target, &self.peer, error).into()),
                    None => Err(AppendError::Ended),
                },
                () = &mut self.alarm => {
                    if self.is_overdue() {
                        return Err(self.peers.silent(self.target, &self.peer, self.patience).into());
                    }
                    if self.has_moved() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Whether the oldest message has waited for too long. If not, the alarm is set again.
    fn is_overdue(&mut self) -> bool {
        let now = clock::now();
        let due = self.window.due(self.patience).unwrap_or(now + self.patience);
        self.alarm.as_mut().reset(due.into());
        due <= now
    }
}

/// The messages that are not answered, and the queue to the transport.
struct Window {
    /// `None` once no message follows.
    queue: Option<mpsc::Sender<AppendPiece>>,
    unanswered: VecDeque<Unanswered>,
    bytes: usize,
    metrics: Arc<PeerMetrics>,
}

struct Unanswered {
    bytes: usize,
    since: Instant,
    /// How long this message and the ones before it may take on a slow network and disk.
    transit: Duration,
}

/// How long so many bytes may take to get to a peer's disk, beyond the patience for any message.
fn transit_of(bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / limits::PEER_BYTES_PER_SEC_MIN as f64)
}

impl Window {
    /// What is to be sent, beginning with `first`.
    fn open(
        envelope: Envelope,
        first: Bytes,
        metrics: Arc<PeerMetrics>,
    ) -> (Window, ReceiverStream<AppendPiece>) {
        let (queue, pieces) = mpsc::channel(limits::APPENDS_IN_FLIGHT);
        let mut window = Window { queue: Some(queue), unanswered: VecDeque::new(), bytes: 0, metrics };
        window.send(Some(envelope), first);
        (window, ReceiverStream::new(pieces))
    }

    /// How long everything in the window may take to arrive.
    fn transit(&self) -> Duration {
        transit_of(self.bytes)
    }

    fn has_room(&self) -> bool {
        self.queue.is_some()
            && self.unanswered.len() < limits::APPENDS_IN_FLIGHT
            && self.bytes < limits::APPENDS_IN_FLIGHT_BYTES
    }

    fn is_done(&self) -> bool {
        self.queue.is_none() && self.unanswered.is_empty()
    }

    fn send(&mut self, envelope: Option<Envelope>, message: Bytes) {
        assert!(self.has_room(), "a message is sent only while there is room in the window");
        let bytes = message.len();
        self.bytes += bytes;
        self.unanswered.push_back(Unanswered { bytes, since: clock::now(), transit: transit_of(self.bytes) });
        assert!(self.unanswered.len() <= limits::APPENDS_IN_FLIGHT, "the window has a fixed length");
        self.metrics.sent(bytes);
        if let Some(queue) = &self.queue {
            // The queue has a place for every unanswered message. If the stream has broken, that is
            // said where answers are awaited.
            let _ = queue.try_send(AppendPiece { envelope, message });
        }
    }

    /// Removes the oldest message. `None` if all messages were answered before.
    fn answered(&mut self, reply_bytes: usize) -> Option<()> {
        self.metrics.received(reply_bytes);
        let oldest = self.unanswered.pop_front()?;
        assert!(oldest.bytes <= self.bytes, "the bytes of an unanswered message are counted");
        self.bytes -= oldest.bytes;
        assert!(
            self.bytes == 0 || !self.unanswered.is_empty(),
            "bytes in the window belong to unanswered messages"
        );
        Some(())
    }

    /// When the oldest message should be answered, given the patience for a small one.
    fn due(&self, patience: Duration) -> Option<Instant> {
        self.unanswered.front().map(|oldest| oldest.since + oldest.transit + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, telemetry::Metrics};

    /// Otherwise an entry that takes longer than the patience for a small one would be sent again and
    /// again.
    #[test]
    fn a_large_message_may_take_longer() {
        let metrics = Arc::new(Metrics::new(&Config::of_flags(&[])).peer(7, 8));
        let patience = Duration::from_millis(200);
        let (mut window, _pieces) = Window::open(Envelope::default(), Bytes::from_static(b"a"), metrics);
        let small = window.unanswered[0].transit;
        assert!(small < Duration::from_millis(1));
        assert_eq!(window.due(patience), Some(window.unanswered[0].since + small + patience));
        let bytes = limits::PEER_BYTES_PER_SEC_MIN / 4;
        window.send(None, vec![0; bytes].into());
        window.answered(0).expect("the small one");
        let large = &window.unanswered[0];
        assert!(large.transit >= transit_of(bytes) && transit_of(bytes) > patience);
        assert_eq!(window.due(patience), Some(large.since + large.transit + patience));
    }
}
