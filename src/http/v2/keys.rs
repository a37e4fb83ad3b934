//! `/v2/keys`: parameters become commands and questions.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, Method, header};

use super::{
    Asked, Front,
    caller::NotKnown,
    form::{self, Form},
    gate::{BodyError, Received},
    json, listing,
    reply::{self, allow},
    watch,
};
use crate::{
    node::{V2Error, wall_nanos},
    v2::{Change, Code, Condition, Happened, Key, Refusal, Who, Written},
};

/// What is asked, without who asks.
#[derive(Debug)]
enum Question {
    Get { recursive: bool, quorum: bool },
    Wait { recursive: bool, stream: bool, from: u64 },
    Change { change: Change, without_nodes: bool },
}

pub(super) async fn serve(front: &Front, asked: Asked, path: &str) -> Response {
    if let Err(response) = allow(&asked.method, "HEAD,GET,PUT,POST,DELETE") {
        return response;
    }
    let (cluster, _) = front.node.ids();
    let response = match answer(front, asked, path).await {
        Ok(response) => response,
        Err(error) => reply::failed(error),
    };
    reply::with_cluster(response, cluster)
}

async fn answer(front: &Front, asked: Asked, path: &str) -> Result<Response, V2Error> {
    let Asked { method, parts, body, .. } = asked;
    let has_form = matches!(method, Method::POST | Method::PUT)
        && form::is_form(content_type(&parts.headers)).map_err(invalid_form)?;
    let body = if has_form { Some(body.map_err(not_received)?) } else { None };
    let text = body.as_ref().map(|Received { bytes, .. }| form::lossy(bytes));
    let form = Form::parse(text.as_deref(), parts.uri.query().unwrap_or_default()).map_err(invalid_form)?;
    drop(text);
    let key = Key::of(path).map_err(|bad| invalid_form(bad.to_string()))?;
    let at = wall_nanos();
    let question = parse(&method, &form, at)?;
    drop(form);
    let who = match front.who(&parts).await {
        Ok(who) => who,
        Err(NotKnown::Denied) => {
            return Err(Refusal::of_request(Code::Unauthorized, "Insufficient credentials").into());
        }
        Err(NotKnown::Failed(error)) => return Err(error.into()),
    };
    match question {
        Question::Get { recursive, quorum } => get(front, &who, &key, recursive, quorum).await,
        Question::Wait { recursive, stream, from } => watch::wait(front, &who, &key, recursive, stream, from),
        Question::Change { change, without_nodes } => {
            let Happened { event, .. } = front.session.v2_change(who, key, at, change).await?;
            let code = if event.created() { 201 } else { 200 };
            let response = reply::json(code, json::event(&event, !without_nodes));
            Ok(reply::with_marks(response, event.index(), front.session.raft_mark()))
        }
    }
}

async fn get(
    front: &Front,
    who: &Who,
    key: &Key,
    recursive: bool,
    quorum: bool,
) -> Result<Response, V2Error> {
    if quorum {
        front.session.read_barrier().await?;
    }
    let (found, index) = front.session.v2_list(who, key, recursive)?;
    let response = reply::json(200, listing::body(found, wall_nanos()));
    Ok(reply::with_marks(response, index, front.session.raft_mark()))
}

pub(super) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn invalid_form(cause: String) -> V2Error {
    Refusal::of_request(Code::InvalidForm, cause).into()
}

fn not_received(error: BodyError) -> V2Error {
    let (code, cause) = match error {
        BodyError::TooLarge => (Code::InvalidForm, "http: POST too large"),
        BodyError::Incomplete => (Code::InvalidForm, "unexpected EOF"),
        BodyError::NoRoom => (Code::RaftInternal, "etcdserver: too many requests"),
    };
    Refusal::of_request(code, cause).into()
}

/// In etcd's order of checks, which decides what a request with several mistakes is told.
fn parse(method: &Method, form: &Form, at: i64) -> Result<Question, Refusal> {
    let refuse = |code, cause: &str| Refusal::of_request(code, cause);
    let index = |name: &str| match form.first(name).map(form::parse_uint) {
        None => Ok(0),
        Some(Some(index)) if form.first(name) != Some("") => Ok(index),
        Some(_) => Err(refuse(Code::IndexNotANumber, &format!("invalid value for \"{name}\""))),
    };
    let flag = |name: &str| match form.first(name).map(form::parse_bool) {
        None => Ok(false),
        Some(Some(flag)) => Ok(flag),
        Some(None) => Err(refuse(Code::InvalidField, &format!("invalid value for \"{name}\""))),
    };
    // These two have no quotation marks in etcd's text.
    let optional_flag = |name: &str| match form.first(name) {
        None => Ok(None),
        Some(given) => match form::parse_bool(given) {
            Some(flag) => Ok(Some(flag)),
            None => Err(refuse(Code::InvalidField, &format!("invalid value for {name}"))),
        },
    };
    let prev_index = index("prevIndex")?;
    let from = index("waitIndex")?;
    let recursive = flag("recursive")?;
    // Listings are always sorted.
    flag("sorted")?;
    let wait = flag("wait")?;
    let dir = flag("dir")?;
    let quorum = flag("quorum")?;
    let stream = flag("stream")?;
    if wait && method != Method::GET {
        return Err(refuse(Code::InvalidField, "\"wait\" can only be used with GET requests"));
    }
    let prev_value = form.first("prevValue");
    if prev_value == Some("") {
        return Err(refuse(Code::PrevValueRequired, "\"prevValue\" cannot be empty"));
    }
    let without_nodes = flag("noValueOnSuccess")?;
    let ttl = match form.first("ttl").filter(|ttl| !ttl.is_empty()) {
        None => None,
        Some(ttl) => {
            let ttl = form::parse_uint(ttl);
            Some(ttl.ok_or_else(|| refuse(Code::TtlNotANumber, "invalid value for \"ttl\""))?)
        }
    };
    let prev_exist = optional_flag("prevExist")?;
    let refresh = optional_flag("refresh")? == Some(true);
    let value = form.first("value").unwrap_or_default();
    if refresh && !value.is_empty() {
        return Err(refuse(Code::RefreshValue, "A value was provided on a refresh"));
    }
    if refresh && ttl.is_none() {
        return Err(refuse(Code::RefreshTtlRequired, "No TTL value set"));
    }
    let condition =
        Condition { value: prev_value.map(Arc::from), index: (prev_index > 0).then_some(prev_index) };
    let is_conditional = condition.value.is_some() || condition.index.is_some();
    let written =
        || Written { value: value.into(), dir, expires: ttl.and_then(|ttl| expiration(at, ttl)), refresh };
    let change = match *method {
        Method::PUT => match prev_exist {
            Some(false) => Change::Create { written: written(), in_order: false },
            _ if is_conditional => Change::CompareAndSwap { condition, written: written() },
            Some(true) => Change::Update(written()),
            None => Change::Set(written()),
        },
        Method::POST => Change::Create { written: written(), in_order: true },
        Method::DELETE if is_conditional => Change::CompareAndDelete(condition),
        Method::DELETE => Change::Delete { dir, recursive },
        _ if wait && !quorum => return Ok(Question::Wait { recursive, stream, from }),
        _ => return Ok(Question::Get { recursive, quorum: quorum && method == Method::GET }),
    };
    let without_nodes = without_nodes && !matches!(*method, Method::DELETE);
    Ok(Question::Change { change, without_nodes })
}

/// `None` if the time is beyond what can be said in nanoseconds: the node stays, as in etcd.
fn expiration(at: i64, ttl_secs: u64) -> Option<i64> {
    let nanos = i64::try_from(ttl_secs).ok()?.checked_mul(1_000_000_000)?;
    at.checked_add(nanos)
}
