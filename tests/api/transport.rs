//! The layer below the API: compression, large metadata, and requests that are refused before any service
//! gets them.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, codec::CompressionEncoding, metadata::MetadataMap};

use crate::{
    client::{Client, accepted, refused},
    pb::etcdserverpb::{
        kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
        watch_client::WatchClient, watch_request::RequestUnion, *,
    },
    server::serve,
};

const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

fn is_compressed(metadata: &MetadataMap) -> bool {
    metadata.get("grpc-encoding").is_some_and(|encoding| encoding == "gzip")
}

#[tokio::test]
async fn a_compressed_request_gets_a_compressed_answer() {
    let (_server, client) = serve();
    let channel = client.channel();
    let mut kv = KvClient::new(channel.clone()).send_compressed(GZIP).accept_compressed(GZIP);
    let value = vec![7; 100_000];
    let put = PutRequest { key: "k".into(), value: value.clone().into(), ..Default::default() };
    let answer = accepted("put", kv.put(put).await);
    assert!(is_compressed(answer.metadata()));
    let range = || RangeRequest { key: "k".into(), ..Default::default() };
    let answer = accepted("range", kv.range(range()).await);
    assert!(is_compressed(answer.metadata()));
    assert_eq!(answer.into_inner().kvs[0].value, value);

    // An answer is not compressed only because the client accepts that.
    let mut kv = KvClient::new(channel.clone()).accept_compressed(GZIP);
    let answer = accepted("range", kv.range(range()).await);
    assert!(!is_compressed(answer.metadata()));

    let mut watches = WatchClient::new(channel.clone()).send_compressed(GZIP).accept_compressed(GZIP);
    let create = WatchCreateRequest { key: "k".into(), start_revision: 2, ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let (requests, stream) = tokio::sync::mpsc::channel(1);
    requests.send(create).await.expect("there is room");
    let answers = accepted("watch", watches.watch(ReceiverStream::new(stream)).await);
    assert!(is_compressed(answers.metadata()));
    let mut answers = answers.into_inner();
    assert!(accepted("created", answers.message().await).is_some_and(|answer| answer.created));
    let events = accepted("events", answers.message().await).expect("events").events;
    assert_eq!(events[0].kv.as_ref().expect("a key").value, value);

    let lease = client.grant(600, 0).await;
    let mut leases = LeaseClient::new(channel.clone()).send_compressed(GZIP).accept_compressed(GZIP);
    let keep = tokio_stream::iter([LeaseKeepAliveRequest { id: lease }; 3]);
    let mut kept = accepted("keep alive", leases.lease_keep_alive(keep).await).into_inner();
    for _ in 0..3 {
        assert_eq!(accepted("kept", kept.message().await).expect("an answer").ttl, 600);
    }

    let mut maintenance = MaintenanceClient::new(channel).send_compressed(GZIP).accept_compressed(GZIP);
    let mut parts = accepted("snapshot", maintenance.snapshot(SnapshotRequest {}).await);
    assert!(is_compressed(parts.metadata()));
    assert!(accepted("a part", parts.get_mut().message().await).is_some());
}

/// The limit applies to the uncompressed message.
#[tokio::test]
async fn a_message_is_not_inflated_beyond_its_limit() {
    let (_server, client) = serve();
    let mut kv = KvClient::new(client.channel()).send_compressed(GZIP).accept_compressed(GZIP);
    let put = |length| PutRequest { key: "k".into(), value: vec![0; length].into(), ..Default::default() };
    refused(kv.put(put(1_572_864)).await, Code::InvalidArgument, "etcdserver: request is too large");
    let text = "grpc: received message after decompression larger than max 2097152";
    // Older releases have another text.
    if client.has((3, 7, 0), "the words for what is too large when it is inflated").await {
        refused(kv.put(put(64 << 20)).await, Code::ResourceExhausted, text);
    }
    accepted("a put", kv.put(put(1 << 20)).await);
}

#[tokio::test]
async fn a_request_may_carry_a_megabyte_of_metadata() {
    let (_server, client) = serve();
    let mut request = Request::new(RangeRequest { key: "k".into(), ..Default::default() });
    for number in 0..16 {
        let name = format!("x-large-{number}").parse::<tonic::metadata::MetadataKey<_>>().expect("a name");
        request.metadata_mut().insert(name, "v".repeat(64 << 10).parse().expect("ASCII"));
    }
    accepted("range", client.kv().range(request).await);
}

#[tokio::test]
async fn an_unknown_method_is_refused_by_name() {
    let (_server, client) = serve();
    for (path, text) in [
        ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("/etcdserverpb.KV/Range/", "unknown service etcdserverpb.KV/Range"),
        ("/v3lockpb.Lock/Nope", "unknown method Nope for service v3lockpb.Lock"),
        ("/nope.KV/Range", "unknown service nope.KV"),
        ("/nope", "malformed method name: \"/nope\""),
    ] {
        refused(call(&client, path).await, Code::Unimplemented, text);
    }
}

async fn call(client: &Client, path: &'static str) -> Result<HashResponse, Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready().await.expect("the server is there");
    let codec = tonic_prost::ProstCodec::<HashRequest, HashResponse>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(grpc.unary(Request::new(HashRequest {}), path, codec).await?.into_inner())
}
