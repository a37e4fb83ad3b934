//! Questions to one peer and their answers, one at a time, on a stream that is kept between them.
//!
//! What is asked hundreds of times a second, heartbeats and read indexes, costs a fraction of a call this way: a
//! question travels without headers, and the peer judges the envelope of the first one only.

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::connection::{Call, CallError, Questions, Replies};
use crate::pb::retcd::peer::Envelope;

/// See the module. A peer may get a question twice, if the stream that is kept turns out to be broken.
pub(super) struct Exchange<Q, A> {
    /// Never locked: the mutex makes it `Sync`, which openraft wants of a network and a boxed stream is not.
    kept: Mutex<Option<Open<Q, A>>>,
}

struct Open<Q, A> {
    questions: mpsc::Sender<Q>,
    answers: Replies<A>,
}

impl<Q, A> Default for Exchange<Q, A> {
    fn default() -> Exchange<Q, A> {
        Exchange { kept: Mutex::new(None) }
    }
}

impl<Q: Send + 'static, A> Exchange<Q, A> {
    /// Asks, on a stream that `open` makes if there is none. The first question on a stream has the envelope.
    ///
    /// If this fails or is dropped, the stream ends with it, so that a late answer is not taken for that of a later question.
    pub(super) async fn ask(
        &mut self,
        envelope: Envelope,
        question: impl Fn(Option<Envelope>) -> Q,
        open: impl FnOnce(Questions<Q>) -> Call<Replies<A>>,
    ) -> Result<A, CallError> {
        if let Some(mut kept) = self.kept.get_mut().take()
            && kept.questions.try_send(question(None)).is_ok()
            && let Ok(answer) = kept.answer().await
        {
            *self.kept.get_mut() = Some(kept);
            return Ok(answer);
        }
        // There was none, or the peer has been started again since.
        let (questions, asked) = mpsc::channel(1);
        let first = questions.try_send(question(Some(envelope)));
        assert!(first.is_ok(), "an empty queue has room");
        let answers = open(ReceiverStream::new(asked).boxed()).await?;
        let mut opened = Open { questions, answers };
        let answer = opened.answer().await?;
        *self.kept.get_mut() = Some(opened);
        Ok(answer)
    }

    /// Ends the stream. The next question begins another.
    pub(super) fn end(&mut self) {
        *self.kept.get_mut() = None;
    }
}

impl<Q, A> Open<Q, A> {
    async fn answer(&mut self) -> Result<A, CallError> {
        let ended = || Err(CallError::unusable("the peer ended the stream".to_owned()));
        self.answers.next().await.unwrap_or_else(ended)
    }
}
