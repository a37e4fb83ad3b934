//! Sends spans to a collector, over OTLP on gRPC.
//!
//! A collector that does not answer costs spans, and nothing else: they are sent once, and those that are not taken are
//! counted as dropped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle, time};
use tonic::{
    Request,
    codec::CompressionEncoding,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use crate::{
    config::TraceSettings,
    limits,
    pb::otlp::{
        AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
        ScopeSpans, Span as PbSpan, SpanKind, Status, StatusCode, any_value::Value,
        trace_service_client::TraceServiceClient,
    },
    telemetry::{Attribute, Span, Tracer},
};

/// The task that sends spans.
pub(crate) struct Exporter {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Exporter {
    /// Must be called on a tokio runtime. The error says what is wrong with the address.
    pub(crate) fn start(settings: &TraceSettings, tracer: Arc<Tracer>) -> Result<Exporter, String> {
        let address = &settings.address;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
            format!("--distributed-tracing-address {address:?} is not \"host:port\": {error}")
        })?;
        let sending = &settings.sending;
        let timeout = sending.timeout.unwrap_or(limits::TRACE_EXPORT_TIMEOUT);
        let channel = endpoint.connect_timeout(timeout).timeout(timeout).connect_lazy();
        let client = TraceServiceClient::new(channel);
        let (stop, stopping) = oneshot::channel();
        let sender = Sender {
            client: match sending.is_compressed {
                true => client.send_compressed(CompressionEncoding::Gzip),
                false => client,
            },
            headers: MetadataMap::from_headers(sending.headers.clone()),
            interval: sending.interval.unwrap_or(limits::TRACE_EXPORT_INTERVAL),
            resource: resource(settings),
            address: address.clone(),
            tracer,
            is_failing: false,
        };
        Ok(Exporter { task: tokio::spawn(sender.run(stopping)), stop })
    }

    /// Sends what is left, for a moment at most.
    pub(crate) async fn stop(self) {
        // The task has ended already only if it has panicked.
        let _ = self.stop.send(());
        if time::timeout(limits::TRACE_FLUSH_TIMEOUT, self.task).await.is_err() {
            tracing::warn!("spans are lost: the collector of traces did not answer in time");
        }
    }
}

struct Sender {
    client: TraceServiceClient<Channel>,
    headers: MetadataMap,
    interval: Duration,
    resource: Resource,
    address: String,
    tracer: Arc<Tracer>,
    is_failing: bool,
}

impl Sender {
    async fn run(mut self, mut stopping: oneshot::Receiver<()>) {
        loop {
            let is_last = tokio::select! { biased;
                _ = &mut stopping => true,
                () = time::sleep(self.interval) => false,
            };
            let spans = self.tracer.take();
            let mut spans = spans.into_iter().peekable();
            while spans.peek().is_some() {
                let batch: Vec<Span> = spans.by_ref().take(limits::TRACE_BATCH_SPANS).collect();
                self.send(batch).await;
            }
            if is_last {
                return;
            }
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let scope_spans = ScopeSpans {
            scope: Some(InstrumentationScope {
                name: env!("CARGO_PKG_NAME").to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            spans: spans.into_iter().map(encode).collect(),
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![scope_spans],
            }],
        };
        let mut request = Request::new(request);
        *request.metadata_mut() = self.headers.clone();
        let metrics = self.tracer.metrics();
        match self.client.export(request).await {
            Ok(answer) => {
                let refused = answer.into_inner().partial_success.map_or(0, |part| part.rejected_spans);
                let refused = u64::try_from(refused).unwrap_or(0).min(count);
                metrics.exported.inc_by(count - refused);
                metrics.dropped.inc_by(refused);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(address = self.address, "the collector of traces answers again");
                }
            }
            Err(status) => {
                metrics.dropped.inc_by(count);
                // Once, and not for every batch.
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(
                        address = self.address,
                        error = %status.message(),
                        "cannot send spans to the collector of traces; they are dropped until it answers. Look at \
                         --distributed-tracing-address"
                    );
                }
            }
        }
    }
}

/// Whose spans they are.
fn resource(settings: &TraceSettings) -> Resource {
    // The flags come before the environment.
    let mut attributes: BTreeMap<&str, &str> = BTreeMap::new();
    attributes.extend(settings.sending.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    attributes.insert("service.name", &settings.service_name);
    if !settings.instance_id.is_empty() {
        attributes.insert("service.instance.id", &settings.instance_id);
    }
    Resource { attributes: attributes.into_iter().map(|(key, value)| text(key, value.to_owned())).collect() }
}

fn encode(span: Span) -> PbSpan {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    PbSpan {
        trace_id: span.trace.0.to_vec().into(),
        span_id: span.id.0.to_vec().into(),
        parent_span_id: span.parent.map(|parent| parent.0.to_vec().into()).unwrap_or_default(),
        name: span.name,
        kind: if span.is_call { SpanKind::Server } else { SpanKind::Internal }.into(),
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.start + span.took),
        attributes: span.attributes.into_iter().map(attribute).collect(),
        status: span.error.map(|message| Status { message, code: StatusCode::Error.into() }),
    }
}

fn attribute((key, value): (&'static str, Attribute)) -> KeyValue {
    match value {
        Attribute::Text(value) => text(key, value),
        Attribute::Number(number) => key_value(key, Value::IntValue(number)),
    }
}

fn text(key: &str, value: String) -> KeyValue {
    key_value(key, Value::StringValue(value))
}

fn key_value(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
