//! A small client of the v3 API: the generated stubs with short names, and watch and lease streams from which
//! a test reads one message after another.
//!
//! The plain methods panic when the server refuses; the `try_` methods return the refusal.

use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    pb::{
        etcdserverpb::{
            auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
            lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
            watch_request::RequestUnion, *,
        },
        mvccpb::{Event, KeyValue},
        v3electionpb::election_client::ElectionClient,
        v3lockpb::lock_client::LockClient,
    },
    server::PATIENCE,
};

#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
}

/// One bidirectional watch stream. A task of its own reads the responses, so that opening the stream does not
/// wait for the first of them.
pub(crate) struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    responses: mpsc::UnboundedReceiver<Result<WatchResponse, Status>>,
}

impl Client {
    pub(crate) fn connect(endpoint: &str) -> Client {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .expect("a loopback address is a URL")
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy();
        Client { channel }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn leases(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    pub(crate) fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel())
    }

    pub(crate) fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel())
    }

    pub(crate) fn election(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel())
    }

    pub(crate) fn watches(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    /// The release that the server reports, on which expectations may depend.
    pub(crate) async fn version(&self) -> (u32, u32, u32) {
        let version = self.status().await.version;
        let mut parts = version
            .split(['.', '-', '+'])
            .map(|part| part.parse().unwrap_or_else(|_| panic!("not a release: {version}")));
        let mut part = || parts.next().expect("a release has three parts");
        (part(), part(), part())
    }

    /// Whether the server is at least of this release. If it is older, this prints so, because the caller
    /// then leaves something out.
    pub(crate) async fn has(&self, release: (u32, u32, u32), what: &str) -> bool {
        let version = self.version().await;
        if version < release {
            eprintln!("skipped on {version:?}: {what} came with {release:?}");
        }
        version >= release
    }

    pub(crate) async fn try_range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.kv().range(request).await?.into_inner())
    }

    pub(crate) async fn range(&self, request: RangeRequest) -> RangeResponse {
        accepted("range", self.try_range(request).await)
    }

    pub(crate) async fn get(&self, key: impl Into<Bytes>) -> Option<KeyValue> {
        self.range(RangeRequest { key: key.into(), ..Default::default() }).await.kvs.into_iter().next()
    }

    pub(crate) async fn try_put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        Ok(self.kv().put(request).await?.into_inner())
    }

    /// Puts a key and returns the revision of the put.
    pub(crate) async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> i64 {
        let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        revision(&accepted("put", self.try_put(request).await).header)
    }

    pub(crate) async fn try_delete(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Status> {
        Ok(self.kv().delete_range(request).await?.into_inner())
    }

    /// Deletes one key and returns the store's revision after that.
    pub(crate) async fn delete(&self, key: impl Into<Bytes>) -> i64 {
        let request = DeleteRangeRequest { key: key.into(), ..Default::default() };
        revision(&accepted("delete", self.try_delete(request).await).header)
    }

    pub(crate) async fn try_txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.kv().txn(request).await?.into_inner())
    }

    pub(crate) async fn txn(&self, request: TxnRequest) -> TxnResponse {
        accepted("txn", self.try_txn(request).await)
    }

    pub(crate) async fn try_compact(
        &self,
        revision: i64,
        physical: bool,
    ) -> Result<CompactionResponse, Status> {
        Ok(self.kv().compact(CompactionRequest { revision, physical }).await?.into_inner())
    }

    pub(crate) async fn compact(&self, revision: i64) {
        accepted("compact", self.try_compact(revision, true).await);
    }

    pub(crate) async fn try_grant(&self, ttl: i64, id: i64) -> Result<LeaseGrantResponse, Status> {
        Ok(self.leases().lease_grant(LeaseGrantRequest { ttl, id }).await?.into_inner())
    }

    pub(crate) async fn grant(&self, ttl: i64, id: i64) -> i64 {
        accepted("lease grant", self.try_grant(ttl, id).await).id
    }

    pub(crate) async fn try_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Status> {
        Ok(self.leases().lease_revoke(LeaseRevokeRequest { id }).await?.into_inner())
    }

    pub(crate) async fn time_to_live(&self, id: i64) -> LeaseTimeToLiveResponse {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        accepted("time to live", self.leases().lease_time_to_live(request).await).into_inner()
    }

    /// Renews a lease once, on a stream of its own. Returns the TTL, or 0 if the lease does not exist.
    pub(crate) async fn keep_alive_once(&self, id: i64) -> LeaseKeepAliveResponse {
        let one = tokio_stream::once(LeaseKeepAliveRequest { id });
        let mut answers = accepted("keep alive", self.leases().lease_keep_alive(one).await).into_inner();
        accepted("keep alive", soon("a renewal", answers.message()).await)
            .expect("one request has one answer")
    }

    pub(crate) async fn status(&self) -> StatusResponse {
        accepted("status", self.maintenance().status(StatusRequest {}).await).into_inner()
    }

    pub(crate) async fn try_hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        Ok(self.maintenance().hash_kv(HashKvRequest { revision }).await?.into_inner())
    }

    pub(crate) async fn alarms(&self) -> Vec<AlarmMember> {
        let request = AlarmRequest { action: 0, member_id: 0, alarm: 0 };
        accepted("alarm", self.maintenance().alarm(request).await).into_inner().alarms
    }

    /// A whole snapshot, as a tool saves it.
    pub(crate) async fn snapshot(&self) -> Vec<SnapshotResponse> {
        let mut stream =
            accepted("snapshot", self.maintenance().snapshot(SnapshotRequest {}).await).into_inner();
        let mut parts = Vec::new();
        while let Some(part) = accepted("snapshot", soon("a snapshot's part", stream.message()).await) {
            parts.push(part);
        }
        parts
    }

    /// A watch stream without watchers.
    pub(crate) fn watch_stream(&self) -> WatchStream {
        let (requests, outgoing) = mpsc::channel(64);
        let (incoming, responses) = mpsc::unbounded_channel();
        let mut client = self.watches();
        tokio::spawn(async move {
            let stream = client.watch(ReceiverStream::new(outgoing)).await;
            let mut stream: Streaming<WatchResponse> = match stream {
                Ok(stream) => stream.into_inner(),
                Err(status) => {
                    incoming.send(Err(status)).ok();
                    return;
                }
            };
            while let Some(message) = stream.message().await.transpose() {
                let failed = message.is_err();
                if incoming.send(message).is_err() || failed {
                    return;
                }
            }
        });
        WatchStream { requests, responses }
    }

    /// A watch stream with one watcher, whose creation was confirmed.
    pub(crate) async fn watch(&self, create: WatchCreateRequest) -> WatchStream {
        let mut stream = self.watch_stream();
        let created = stream.create(create).await;
        assert!(!created.canceled, "the watch was refused: {}", created.cancel_reason);
        stream
    }
}

impl WatchStream {
    pub(crate) async fn send(&self, union: RequestUnion) {
        let request = WatchRequest { request_union: Some(union) };
        self.requests.send(request).await.expect("the watch stream is open");
    }

    /// Asks for a watcher and waits for the answer, which must be the stream's next message.
    pub(crate) async fn create(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.send(RequestUnion::CreateRequest(create)).await;
        let response = self.next().await;
        assert!(response.created, "expected a created response: {response:?}");
        response
    }

    pub(crate) async fn cancel(&mut self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    pub(crate) async fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    pub(crate) async fn next(&mut self) -> WatchResponse {
        match soon("a watch response", self.responses.recv()).await {
            Some(Ok(response)) => response,
            Some(Err(status)) => panic!("the watch stream broke: {status}"),
            None => panic!("the watch stream ended"),
        }
    }

    /// The next message, or the error with which the stream ended.
    pub(crate) async fn next_or_end(&mut self) -> Option<Result<WatchResponse, Status>> {
        soon("a watch response or the stream's end", self.responses.recv()).await
    }

    /// A message that has arrived already.
    pub(crate) fn arrived(&mut self) -> Option<Result<WatchResponse, Status>> {
        self.responses.try_recv().ok()
    }

    /// The next `count` events, in however many messages they arrive.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.canceled, "the watch was cancelled: {response:?}");
            events.extend(response.events);
        }
        assert_eq!(events.len(), count, "more events than expected: {events:?}");
        events
    }

    /// Ends the sending half of the stream, as a client does that has no more requests.
    pub(crate) fn close_sending(self) -> mpsc::UnboundedReceiver<Result<WatchResponse, Status>> {
        self.responses
    }
}

/// Waits for something that should happen soon, or fails with its name.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come within {PATIENCE:?}"))
}

/// Unwraps an answer that must not be a refusal.
#[track_caller]
pub(crate) fn accepted<T>(what: &str, result: Result<T, Status>) -> T {
    match result {
        Ok(value) => value,
        Err(status) => panic!("{what} was refused: {:?}: {}", status.code(), status.message()),
    }
}

/// Checks the code and the exact text of a refusal.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    match result {
        Ok(value) => panic!("expected {code:?} {text:?}, got {value:?}"),
        Err(status) => assert_eq!((status.code(), status.message()), (code, text)),
    }
}

/// The store's revision in a response header.
#[track_caller]
pub(crate) fn revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("the response has a header").revision
}

/// The end of the range of all keys with this prefix.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}
