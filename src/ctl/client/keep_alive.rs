//! Keeping a lease alive.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{call::Client, error::ClientError, methods::LEASE_KEEP_ALIVE};
use crate::{
    limits,
    pb::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse},
};

/// One lease. A stream that breaks is opened again, perhaps to another member, for as long as the lease can be alive.
pub(in crate::ctl) struct KeepAlive<'a> {
    client: &'a Client,
    id: i64,
    stream: Option<Stream>,
    /// When it is renewed again.
    due: Instant,
    /// When it has ended, if it is not renewed.
    end: Instant,
}

struct Stream {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl<'a> KeepAlive<'a> {
    pub(in crate::ctl) fn new(client: &'a Client, id: i64) -> KeepAlive<'a> {
        let now = Instant::now();
        KeepAlive { client, id, stream: None, due: now, end: now + limits::CTL_FIRST_KEEP_ALIVE }
    }

    /// A lease that was granted just now.
    pub(in crate::ctl) fn granted(client: &'a Client, id: i64, life: Duration) -> KeepAlive<'a> {
        let now = Instant::now();
        KeepAlive { client, id, stream: None, due: now + life / 3, end: now + life }
    }

    /// The answer to the next renewal, which takes place after a third of the time that the lease has. The error is
    /// that the lease has ended.
    pub(in crate::ctl) async fn next(&mut self) -> Result<LeaseKeepAliveResponse, ClientError> {
        time::sleep_until(self.due).await;
        let renewed = time::timeout_at(self.end, self.renew()).await;
        renewed.unwrap_or(Err(ClientError::DeadlineExceeded))
    }

    /// Renews it now.
    pub(in crate::ctl) async fn renew(&mut self) -> Result<LeaseKeepAliveResponse, ClientError> {
        loop {
            match self.try_renew().await {
                Ok(answer) if answer.ttl <= 0 => {
                    return Err(ClientError::Status(Status::not_found(
                        "etcdserver: requested lease not found",
                    )));
                }
                Ok(answer) => {
                    let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
                    let now = Instant::now();
                    (self.due, self.end) = (now + ttl / 3, now + ttl);
                    return Ok(answer);
                }
                Err(error) => {
                    self.stream = None;
                    if !error.is_passing() {
                        return Err(error);
                    }
                    time::sleep(limits::CTL_STREAM_PAUSE).await;
                }
            }
        }
    }

    async fn try_renew(&mut self) -> Result<LeaseKeepAliveResponse, ClientError> {
        let gone = || ClientError::Status(Status::unavailable("the stream has ended"));
        let request = LeaseKeepAliveRequest { id: self.id };
        if self.stream.is_none() {
            let (requests, queue) = mpsc::channel(1);
            // Sent before the call: some servers answer with headers only once they have a request.
            requests.try_send(request).map_err(|_| gone())?;
            let answers = self.client.duplex(&LEASE_KEEP_ALIVE, ReceiverStream::new(queue), true).await?;
            self.stream = Some(Stream { requests, answers });
        } else if let Some(stream) = &self.stream {
            stream.requests.send(request).await.map_err(|_| gone())?;
        }
        let Some(stream) = &mut self.stream else { return Err(gone()) };
        stream.answers.message().await.map_err(ClientError::of)?.ok_or_else(gone)
    }
}
