//! Watches, over one stream.

use std::{collections::VecDeque, future::pending};

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{call::Client, error::ClientError, methods::WATCH};
use crate::{
    limits,
    pb::etcdserverpb::{
        WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
    },
};

/// The id in answers that are for all watches of a stream.
const ALL: i64 = -1;

/// One or more watches. A stream that breaks is opened again, perhaps to another member, and each watch goes on behind
/// the last event that was seen.
pub(in crate::ctl) struct Watcher<'a> {
    client: &'a Client,
    watches: Vec<Watch>,
    stream: Option<Stream>,
    /// A stream has been open before.
    is_resumed: bool,
}

struct Watch {
    /// What is asked for when the stream is opened again.
    request: WatchCreateRequest,
    id: Option<i64>,
    is_over: bool,
}

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    /// Watches that were asked for, in the order in which the server will answer.
    creating: VecDeque<usize>,
}

/// Something that a watch has seen.
pub(in crate::ctl) struct Seen {
    /// The watches that saw it, by the numbers that [`Watcher::add`] gave them.
    pub(in crate::ctl) watches: Vec<usize>,
    pub(in crate::ctl) response: WatchResponse,
}

impl<'a> Watcher<'a> {
    pub(in crate::ctl) fn new(client: &'a Client) -> Watcher<'a> {
        Watcher { client, watches: Vec::new(), stream: None, is_resumed: false }
    }

    /// Begins a watch, and returns its number.
    pub(in crate::ctl) async fn add(&mut self, request: WatchCreateRequest) -> usize {
        let number = self.watches.len();
        if let Some(stream) = &mut self.stream {
            stream.creating.push_back(number);
            // A stream that has broken is found by `next`.
            let _ = stream.requests.send(creation(&request)).await;
        }
        self.watches.push(Watch { request, id: None, is_over: false });
        number
    }

    /// Asks how far the server is: the answer is for all watches.
    pub(in crate::ctl) async fn request_progress(&mut self) {
        if let Some(stream) = &mut self.stream {
            let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
            // A stream that has broken is found by `next`.
            let _ = stream.requests.send(WatchRequest { request_union: Some(request) }).await;
        }
    }

    /// What is seen next. The future may be dropped, and nothing is lost then. The error ends all watches; one that
    /// only ends one watch is an answer.
    pub(in crate::ctl) async fn next(&mut self) -> Result<Seen, ClientError> {
        const NO_LEADER: &str = "etcdserver: no leader";
        loop {
            if self.watches.iter().all(|watch| watch.is_over) {
                return pending().await;
            }
            let failure = match self.receive().await {
                Ok(Some(response)) => match self.sort(response) {
                    Some(seen) => return Ok(seen),
                    None => continue,
                },
                Ok(None) => None,
                Err(error) => Some(error),
            };
            self.stream = None;
            match failure {
                Some(error) if !error.is_passing() || error.says(NO_LEADER) => return Err(error),
                Some(_) | None => time::sleep(limits::CTL_STREAM_PAUSE).await,
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<WatchResponse>, ClientError> {
        if self.stream.is_none() {
            self.open().await?;
        }
        match &mut self.stream {
            Some(stream) => stream.answers.message().await.map_err(ClientError::of),
            None => Ok(None),
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        if self.is_resumed {
            // The token may have ended meanwhile.
            self.client.log_in_again().await?;
        }
        self.watches.iter_mut().for_each(|watch| watch.id = None);
        let creating: VecDeque<usize> =
            (0..self.watches.len()).filter(|number| !self.watches[*number].is_over).collect();
        let mut creations = creating.iter().map(|number| creation(&self.watches[*number].request));
        let (requests, queue) = mpsc::channel(1);
        // A server answers once it has the first request, so that one is sent before the answer is waited for.
        if let Some(first) = creations.next() {
            // The queue is empty.
            let _ = requests.try_send(first);
        }
        let answers = self.client.duplex(&WATCH, ReceiverStream::new(queue), true).await?;
        for creation in creations {
            // A stream that has broken is found when it is read.
            let _ = requests.send(creation).await;
        }
        self.stream = Some(Stream { requests, answers, creating });
        self.is_resumed = true;
        Ok(())
    }

    /// Notes what the answer says of a watch. `None`: there is nothing to show.
    fn sort(&mut self, response: WatchResponse) -> Option<Seen> {
        let stream = self.stream.as_mut()?;
        if response.created {
            let number = stream.creating.pop_front()?;
            let watch = &mut self.watches[number];
            watch.id = Some(response.watch_id);
            watch.is_over = response.canceled;
            let revision = response.header.map_or(0, |header| header.revision);
            if watch.request.start_revision == 0 {
                watch.request.start_revision = revision + 1;
            }
            return response.canceled.then(|| Seen { watches: vec![number], response });
        }
        if response.watch_id == ALL && response.events.is_empty() && !response.canceled {
            let live = |number: &usize| self.watches[*number].id.is_some() && !self.watches[*number].is_over;
            let watches = (0..self.watches.len()).filter(live).collect();
            return Some(Seen { watches, response });
        }
        let number = self.watches.iter().position(|watch| watch.id == Some(response.watch_id))?;
        let watch = &mut self.watches[number];
        watch.is_over |= response.canceled;
        let seen =
            response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
        let told = response.header.map(|header| header.revision).filter(|_| response.events.is_empty());
        if let Some(revision) = seen.or(told) {
            watch.request.start_revision = watch.request.start_revision.max(revision + 1);
        }
        Some(Seen { watches: vec![number], response })
    }
}

fn creation(request: &WatchCreateRequest) -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(request.clone())) }
}

/// Why a watch has ended, if it has.
pub(in crate::ctl) fn watch_error(response: &WatchResponse) -> Option<String> {
    const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
    const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
    match (response.compact_revision, response.canceled, &*response.cancel_reason) {
        (1.., _, _) => Some(COMPACTED.to_owned()),
        (_, true, "") => Some(FUTURE.to_owned()),
        (_, true, reason) => Some(reason.to_owned()),
        (_, false, _) => None,
    }
}
