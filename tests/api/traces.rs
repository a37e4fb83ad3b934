//! Traces: what a collector gets, of which calls, and that one that does not answer holds up nobody.

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    metadata::{MetadataMap, MetadataValue},
    transport::Server as Transport,
};

use crate::{
    client::soon,
    http,
    pb::{
        etcdserverpb::{PutRequest, RangeRequest},
        otlp::{
            ExportTraceServiceRequest, ExportTraceServiceResponse, Span,
            any_value::Value,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    server::{Launch, PATIENCE, Server, subject_is_retcd},
};

/// Keeps what it gets.
struct Collector {
    got: mpsc::UnboundedSender<ExportTraceServiceRequest>,
    /// What the calls say beside the spans.
    metadata: mpsc::UnboundedSender<MetadataMap>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.metadata.send(request.metadata().clone()).ok();
        self.got.send(request.into_inner()).ok();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector, and its address.
async fn collect() -> (mpsc::UnboundedReceiver<ExportTraceServiceRequest>, String) {
    let (arrived, _, address) = collect_with_metadata().await;
    (arrived, address)
}

async fn collect_with_metadata()
-> (mpsc::UnboundedReceiver<ExportTraceServiceRequest>, mpsc::UnboundedReceiver<MetadataMap>, String) {
    let (got, arrived) = mpsc::unbounded_channel();
    let (metadata, told) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let service = TraceServiceServer::new(Collector { got, metadata });
    let service = service.accept_compressed(CompressionEncoding::Gzip);
    tokio::spawn(
        Transport::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (arrived, told, address)
}

fn traced(launch: Launch, address: &str, rate: u32) -> Launch {
    launch
        .argument("--enable-distributed-tracing")
        .flag("distributed-tracing-address", address)
        .flag("distributed-tracing-service-name", "store")
        .flag("distributed-tracing-instance-id", "one")
        .flag("distributed-tracing-sampling-rate", rate)
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A put whose client traces it, or says that it does not.
async fn put(server: &Server, key: &str, flags: &str) {
    let mut request = Request::new(PutRequest { key: key.to_owned().into(), ..PutRequest::default() });
    let parent = format!("00-{TRACE}-{PARENT}-{flags}");
    request.metadata_mut().insert("traceparent", MetadataValue::try_from(parent).expect("ASCII"));
    server.client().kv().put(request).await.expect("a put");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The spans that arrive, until there is one with this name.
async fn spans_until(
    arrived: &mut mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    name: &str,
) -> (Vec<Span>, BTreeMap<String, String>) {
    let mut spans = Vec::new();
    let mut resource = BTreeMap::new();
    while !spans.iter().any(|span: &Span| span.name == name) {
        let request = soon("spans", arrived.recv()).await.expect("the collector runs");
        for of_resource in request.resource_spans {
            for attribute in of_resource.resource.expect("whose spans they are").attributes {
                if let Some(Value::StringValue(text)) = attribute.value.and_then(|value| value.value) {
                    resource.insert(attribute.key, text);
                }
            }
            spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    (spans, resource)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_client_traces_has_a_span_with_the_stages_of_its_write() {
    let (mut arrived, address) = collect().await;
    for launch in [Launch::subject(), Launch::reference()] {
        let is_reference = launch.is_reference();
        let server = traced(launch, &address, 0).start();
        put(&server, "not traced", "00").await;
        server.client().put("not traced", "v").await;
        put(&server, "traced", "01").await;
        let (spans, resource) = spans_until(&mut arrived, "etcdserverpb.KV/Put").await;
        assert_eq!(resource.get("service.name").map(String::as_str), Some("store"), "{resource:?}");
        assert_eq!(resource.get("service.instance.id").map(String::as_str), Some("one"), "{resource:?}");
        let puts: Vec<&Span> = spans.iter().filter(|span| span.name == "etcdserverpb.KV/Put").collect();
        assert_eq!(puts.len(), 1, "{spans:#?}");
        let put = puts[0];
        assert_eq!((hex(&put.trace_id).as_str(), hex(&put.parent_span_id).as_str()), (TRACE, PARENT));
        assert_eq!(put.kind, 2, "that of a server");
        assert!(put.start_time_unix_nano < put.end_time_unix_nano);
        assert!(put.status.as_ref().is_none_or(|status| status.code != 2), "{put:?}");
        if is_reference {
            continue;
        }
        let stages: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == put.span_id).collect();
        let names: Vec<&str> = stages.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["queue", "fsync", "quorum", "apply"]);
        for stage in stages {
            assert_eq!(stage.trace_id, put.trace_id);
            assert!(stage.start_time_unix_nano >= put.start_time_unix_nano, "{stage:?} of {put:?}");
            assert!(stage.end_time_unix_nano <= put.end_time_unix_nano, "{stage:?} of {put:?}");
        }
    }
}

/// etcd takes these variables because its library does. What its flags say comes before them.
#[tokio::test(flavor = "multi_thread")]
async fn how_spans_are_sent_is_said_by_variables_of_opentelemetry() {
    for launch in [Launch::subject(), Launch::reference()] {
        let is_reference = launch.is_reference();
        let (mut arrived, mut told, address) = collect_with_metadata().await;
        let launch = launch
            .environment("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .environment("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc,tenant=one")
            .environment("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
            .environment("OTEL_BSP_SCHEDULE_DELAY", "100")
            .environment("OTEL_SERVICE_NAME", "not this")
            .environment("OTEL_RESOURCE_ATTRIBUTES", "zone=eu%2Cwest,service.name=not this");
        let server = traced(launch, &address, 0).start();
        put(&server, "traced", "01").await;
        let (_, resource) = spans_until(&mut arrived, "etcdserverpb.KV/Put").await;
        let metadata = told.recv().await.expect("a call was made");
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(text("authorization"), Some("Bearer abc"), "etcd: {is_reference}: {metadata:?}");
        assert_eq!((text("tenant"), text("grpc-encoding")), (Some("one"), Some("gzip")), "{metadata:?}");
        assert_eq!(resource.get("zone").map(String::as_str), Some("eu,west"), "{resource:?}");
        assert_eq!(resource.get("service.name").map(String::as_str), Some("store"), "{resource:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_sampled_and_what_is_left_is_sent_at_the_end() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd waits longer before it sends spans");
        return;
    }
    let (mut arrived, address) = collect().await;
    let mut server = traced(Launch::subject(), &address, 1_000_000).start();
    let client = server.client();
    client.range(RangeRequest { key: "k".into(), ..RangeRequest::default() }).await;
    // A request that is refused has a span too.
    client.try_put(PutRequest::default()).await.expect_err("it has no key");
    server.stop();
    let (spans, _) = spans_until(&mut arrived, "etcdserverpb.KV/Put").await;
    let range = spans.iter().find(|span| span.name == "etcdserverpb.KV/Range").expect("a span");
    assert!(range.parent_span_id.is_empty() && range.trace_id.len() == 16);
    let put = spans.iter().find(|span| span.name == "etcdserverpb.KV/Put").expect("a span");
    assert_ne!(put.trace_id, range.trace_id);
    let code = put.attributes.iter().find(|attribute| attribute.key == "rpc.grpc.status_code");
    let code = code.and_then(|code| code.value.clone()?.value);
    assert_eq!(code, Some(Value::IntValue(3)), "an invalid argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_spans_alone() {
    if !subject_is_retcd() {
        eprintln!("left out: the metric is retcd's");
        return;
    }
    // Nobody listens there.
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").to_string()
    };
    let server = traced(Launch::subject(), &address, 1_000_000).start();
    server.client().put("k", "v").await;
    server.wait_for_line("cannot send spans to the collector of traces");
    let start = time::Instant::now();
    while http::metric(&server, "retcd_trace_spans_dropped_total").is_none_or(|count| count < 5.0) {
        assert!(start.elapsed() < PATIENCE, "spans are not counted");
        time::sleep(Duration::from_millis(20)).await;
    }
    server.client().put("k", "w").await;
}
