//! What the page asks for beside etcd's API, as JSON: the members and the last minutes.

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tonic::{Code, Extensions, Request, Status, metadata::MetadataMap};

use super::assets;
use crate::{
    node::{MemberHealth, MemberStatus, Node, Session},
    rpc,
    telemetry::{Note, Sample},
};

/// The console's paths.
pub(crate) fn router(node: &Node) -> Router {
    Router::new()
        .route("/", get(front))
        .route("/console", get(async || assets::serve("index.html")))
        .route("/console/", get(async || Redirect::permanent("/console")))
        .route("/console/{file}", get(async |Path(file): Path<String>| assets::serve(&file)))
        .route("/console/data/members", get(members))
        .route("/console/data/samples", get(samples))
        .with_state(node.clone())
}

/// A browser that opens the address of the server is shown the console. Everything else gets what etcd answers.
async fn front(headers: HeaderMap) -> Response {
    let wants_html = headers.get(header::ACCEPT).is_some_and(|accept| {
        accept.to_str().is_ok_and(|accept| accept.split(',').any(|kind| kind.trim().starts_with("text/html")))
    });
    if wants_html {
        Redirect::temporary("/console").into_response()
    } else {
        (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
    }
}

/// What a data endpoint answers: a refusal has the code and the words that gRPC would have, as in the JSON gateway.
async fn answer(ask: impl Future<Output = Result<Value, Status>>) -> Response {
    match ask.await {
        Ok(value) => json(StatusCode::OK, &value),
        Err(status) => {
            let code = status.code();
            let http = match code {
                Code::Unauthenticated => StatusCode::UNAUTHORIZED,
                Code::PermissionDenied => StatusCode::FORBIDDEN,
                Code::InvalidArgument => StatusCode::BAD_REQUEST,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            json(http, &json!({ "code": i32::from(code), "message": status.message() }))
        }
    }
}

fn json(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// As whoever the token in the headers belongs to. The certificate of a connection says nothing here, as in the gateway.
async fn session(node: &Node, headers: HeaderMap) -> Session {
    let metadata = MetadataMap::from_headers(headers);
    rpc::session(node, &Request::from_parts(metadata, Extensions::default(), ())).await
}

async fn members(State(node): State<Node>, headers: HeaderMap) -> Response {
    answer(async {
        let session = session(&node, headers).await;
        let alarms = session.alarms()?;
        let members = session.members_health().await?;
        let alarms = alarms
            .into_iter()
            .map(|alarm| json!({ "member": alarm.member.to_string(), "alarm": alarm.kind.as_str() }));
        Ok(json!({
            "members": members.iter().map(member_json).collect::<Vec<Value>>(),
            "alarms": alarms.collect::<Vec<Value>>(),
        }))
    })
    .await
}

fn member_json(health: &MemberHealth) -> Value {
    let MemberHealth { member, is_this, status } = health;
    json!({
        "id": member.id.to_string(),
        "name": member.name,
        "is_this": is_this,
        "is_learner": member.is_learner,
        "client_urls": member.client_urls,
        "peer_urls": member.peer_urls,
        "status": status.as_ref().ok().map(status_json),
        "problem": status.as_ref().err(),
    })
}

fn status_json(status: &MemberStatus) -> Value {
    json!({
        "version": status.version,
        "revision": status.rev,
        "term": status.term,
        "leader": format!("{:x}", status.leader),
        "db_bytes": status.db_bytes,
        "db_in_use_bytes": status.db_in_use_bytes,
        "quota": status.quota_bytes,
        "errors": status.errors,
    })
}

async fn samples(State(node): State<Node>, headers: HeaderMap) -> Response {
    answer(async {
        // Whoever may ask for the status of a member may see this.
        session(&node, headers).await.status()?;
        let (samples, notes) = node.metrics().history.read();
        Ok(json!({
            "recent": samples.iter().map(sample_json).collect::<Vec<Value>>(),
            "day": notes.iter().map(note_json).collect::<Vec<Value>>(),
        }))
    })
    .await
}

fn sample_json(sample: &Sample) -> Value {
    json!({
        "at_ms": sample.at.as_millis() as u64,
        "revision": sample.rev,
        "puts_per_s": sample.puts_per_s,
        "ranges_per_s": sample.ranges_per_s,
        "fsync_p99_ms": sample.fsync_p99_ms,
        "watchers": sample.watchers,
        "db_bytes": sample.db_bytes,
        "db_in_use_bytes": sample.db_in_use_bytes,
    })
}

fn note_json(note: &Note) -> Value {
    json!({ "at_ms": note.at.as_millis() as u64, "revision": note.rev })
}
