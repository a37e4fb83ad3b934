//! Calls: who makes them, how long they may take, and when one is made again.

use std::{cell::RefCell, future::Future, time::Duration};

use prost::Message;
use tokio::time::{self, Instant};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codegen::{
        http::uri::{PathAndQuery, Uri},
        tokio_stream::Stream,
    },
    metadata::{AsciiMetadataValue, MetadataValue},
};
use tonic_prost::ProstCodec;

use super::{
    connection::{Broken, Connection, Keepalive},
    error::{ClientError, broken, is_etcds, shown},
    log,
    methods::{AUTHENTICATE, Method, Retry},
    pool::{Picked, Pool},
};
use crate::{
    ctl::settings::{Dial, Login},
    limits,
    pb::etcdserverpb::AuthenticateRequest,
};

/// What the client says of itself.
const API_VERSION: &str = "3.7";

/// By when a command has to be done.
#[derive(Clone, Copy, Debug)]
pub(in crate::ctl) struct Deadline(Option<Instant>);

impl Deadline {
    pub(in crate::ctl) fn within(time: Duration) -> Deadline {
        Deadline(Instant::now().checked_add(time))
    }

    pub(in crate::ctl) fn never() -> Deadline {
        Deadline(None)
    }

    fn left(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// `None`: the time is over.
    pub(in crate::ctl) async fn bound<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.0 {
            Some(end) => time::timeout_at(end, work).await.ok(),
            None => Some(work.await),
        }
    }
}

pub(in crate::ctl) struct Client {
    pool: Pool,
    dial: Dial,
    /// What the server gave to whoever logged in.
    token: RefCell<Option<AsciiMetadataValue>>,
}

impl Client {
    /// Logs in, if there is somebody to log in. Nothing is asked of the cluster otherwise.
    pub(in crate::ctl) async fn open(dial: &Dial) -> Result<Client, ClientError> {
        if dial.endpoints.is_empty() {
            return Err(ClientError::NoEndpoints);
        }
        if dial.answer_bytes_max < dial.request_bytes_max {
            return Err(ClientError::Limits { send: dial.request_bytes_max, receive: dial.answer_bytes_max });
        }
        let keepalive = Keepalive { interval: dial.keepalive_interval, timeout: dial.keepalive_timeout };
        let pool = Pool::new(&dial.endpoints, dial.trust.clone(), keepalive);
        let client = Client { pool, dial: dial.clone(), token: RefCell::new(None) };
        match &dial.login {
            Login::Nobody => {}
            Login::Token(token) => client.show(token)?,
            Login::Password { .. } => client.log_in(Deadline::within(dial.dial_timeout)).await?,
        }
        Ok(client)
    }

    /// One request, one answer.
    pub(in crate::ctl) async fn call<Q, R>(
        &self,
        method: &Method<Q, R>,
        request: &Q,
        deadline: Deadline,
    ) -> Result<R, ClientError>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        self.check_len(request.encoded_len())?;
        self.retried(method.path, method.retry, deadline, |picked| {
            let mut grpc = self.grpc(picked);
            let request = self.request(request.clone(), deadline);
            async move {
                ready(&mut grpc).await?;
                Ok(grpc.unary(request, path(method), ProstCodec::<Q, R>::default()).await?.into_inner())
            }
        })
        .await
    }

    /// One request, many answers. A failure to begin is handled as that of a call; later ones are the caller's.
    pub(in crate::ctl) async fn stream<Q, R>(
        &self,
        method: &Method<Q, R>,
        request: &Q,
        deadline: Deadline,
    ) -> Result<Streaming<R>, ClientError>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        self.check_len(request.encoded_len())?;
        self.retried(method.path, method.retry, deadline, |picked| {
            let mut grpc = self.grpc(picked);
            let request = self.request(request.clone(), deadline);
            async move {
                ready(&mut grpc).await?;
                let codec = ProstCodec::<Q, R>::default();
                Ok(grpc.server_streaming(request, path(method), codec).await?.into_inner())
            }
        })
        .await
    }

    /// Many requests, many answers. The requests cannot be sent again, so nothing is retried: whoever calls this
    /// begins anew.
    pub(in crate::ctl) async fn duplex<Q, R>(
        &self,
        method: &Method<Q, R>,
        requests: impl Stream<Item = Q> + Send + 'static,
        needs_leader: bool,
    ) -> Result<Streaming<R>, ClientError>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let picked = self.pool.pick().await;
        let mut grpc = self.grpc(&picked);
        let mut request = self.request(requests, Deadline::never());
        if needs_leader {
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        }
        let answers = async {
            ready(&mut grpc).await?;
            grpc.streaming(request, path(method), ProstCodec::<Q, R>::default()).await
        };
        answers.await.map(tonic::Response::into_inner).map_err(ClientError::of)
    }

    /// Makes a call until it has an answer that another call would not change.
    async fn retried<R, F>(
        &self,
        path: &str,
        retry: Retry,
        deadline: Deadline,
        send: impl Fn(&Picked<'_>) -> F,
    ) -> Result<R, ClientError>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let work = async {
            let mut attempt = 0;
            loop {
                let picked = self.pool.pick().await;
                let status = match send(&picked).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) => status,
                };
                log::failed_attempt(
                    &picked.endpoint.text,
                    path,
                    attempt,
                    &ClientError::Status(status.clone()),
                );
                attempt += 1;
                if attempt >= limits::CTL_ATTEMPTS_MAX || !self.may_repeat(retry, &status, deadline).await? {
                    return Err(ClientError::Status(shown(status)));
                }
                // Once a majority of the members has been asked.
                if attempt % (self.pool.len() / 2 + 1) == 0 {
                    time::sleep(limits::CTL_RETRY_PAUSE).await;
                }
            }
        };
        match deadline.bound(work).await {
            Some(Err(ClientError::Status(status))) if is_over(&status, deadline) => {
                Err(ClientError::DeadlineExceeded)
            }
            Some(done) => done,
            None => {
                self.log_trouble(path);
                Err(ClientError::DeadlineExceeded)
            }
        }
    }

    /// Nothing was sent: there was no connection.
    fn log_trouble(&self, path: &str) {
        if let Some(trouble) = self.pool.trouble() {
            let text = format!("latest balancer error: connection error: desc = {trouble:?}");
            let error = ClientError::Status(Status::deadline_exceeded(text));
            log::failed_attempt(self.dial.endpoints.first().map_or("", String::as_str), path, 0, &error);
        }
    }

    /// Whether the same request may be sent again, and may then get another answer.
    async fn may_repeat(
        &self,
        retry: Retry,
        status: &Status,
        deadline: Deadline,
    ) -> Result<bool, ClientError> {
        const USER_EMPTY: &str = "etcdserver: user name is empty";
        const INVALID_TOKEN: &str = "etcdserver: invalid auth token";
        const OLD_REVISION: &str = "etcdserver: revision of auth store is old";
        const LEARNER: &str = "etcdserver: rpc not supported for learner";
        let has_password = matches!(self.dial.login, Login::Password { .. });
        if is_unsent(status) {
            return Ok(true);
        }
        match status.message() {
            USER_EMPTY | INVALID_TOKEN if has_password => {
                self.renew(deadline).await?;
                Ok(true)
            }
            OLD_REVISION if !matches!(self.dial.login, Login::Token(_)) => {
                self.renew(deadline).await?;
                Ok(true)
            }
            LEARNER => Ok(self.pool.len() > 1),
            _ => Ok(retry == Retry::Always && shown(status.clone()).code() == Code::Unavailable),
        }
    }

    /// Before a stream is opened again.
    pub(super) async fn log_in_again(&self) -> Result<(), ClientError> {
        self.renew(Deadline::within(self.dial.dial_timeout)).await
    }

    /// Boxed, because logging in is a call too.
    async fn renew(&self, deadline: Deadline) -> Result<(), ClientError> {
        match self.dial.login {
            Login::Password { .. } => Box::pin(self.log_in(deadline)).await,
            Login::Nobody | Login::Token(_) => Ok(()),
        }
    }

    async fn log_in(&self, deadline: Deadline) -> Result<(), ClientError> {
        const NOT_ENABLED: &str = "etcdserver: authentication is not enabled";
        let Login::Password { name, password } = &self.dial.login else { return Ok(()) };
        *self.token.borrow_mut() = None;
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        match self.call(&AUTHENTICATE, &request, deadline).await {
            Ok(answer) => self.show(&answer.token),
            // Whoever has a password may ask a cluster that needs none.
            Err(error) if error.says(NOT_ENABLED) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn show(&self, token: &str) -> Result<(), ClientError> {
        let token = token
            .parse()
            .map_err(|_| ClientError::Refused("the token cannot be sent in a header".to_owned()))?;
        *self.token.borrow_mut() = Some(token);
        Ok(())
    }

    fn grpc(&self, picked: &Picked<'_>) -> Grpc<Connection> {
        let scheme = "http";
        let origin =
            Uri::builder().scheme(scheme).authority(picked.endpoint.authority()).path_and_query("/").build();
        Grpc::with_origin(picked.connection.clone(), origin.unwrap_or_default())
            .max_decoding_message_size(self.dial.answer_bytes_max)
            .max_encoding_message_size(usize::MAX)
    }

    fn request<Q>(&self, message: Q, deadline: Deadline) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(left) = deadline.left() {
            request.set_timeout(left);
        }
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", MetadataValue::from_static(API_VERSION));
        if let Some(token) = self.token.borrow().clone() {
            metadata.insert("token", token);
        }
        request
    }

    /// The text is that of Go's gRPC.
    fn check_len(&self, len: usize) -> Result<(), ClientError> {
        let max = self.dial.request_bytes_max;
        if len > max {
            let text = format!("trying to send message larger than max ({len} vs. {max})");
            return Err(ClientError::Status(Status::resource_exhausted(text)));
        }
        Ok(())
    }
}

async fn ready(grpc: &mut Grpc<Connection>) -> Result<(), Status> {
    grpc.ready().await.map_err(|broken| Status::from_error(Box::new(broken)))
}

fn path<Q, R>(method: &Method<Q, R>) -> PathAndQuery {
    PathAndQuery::from_static(method.path)
}

/// The request has not left this process, so any request may be sent again.
fn is_unsent(status: &Status) -> bool {
    broken(status).is_some_and(Broken::is_unsent)
}

/// The server has noticed first that the time is over.
fn is_over(status: &Status, deadline: Deadline) -> bool {
    let is_late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    is_late && !is_etcds(status) && deadline.left().is_some_and(|left| left < limits::CTL_DEADLINE_SLACK)
}
