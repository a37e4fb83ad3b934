//! `/v2/members` and `/v2/machines`.

use axum::response::Response;
use http::{Method, request::Parts};
use serde::Deserialize;

use super::{
    Asked, Front,
    caller::NotKnown,
    gate::BodyError,
    json::{self, Fields},
    keys::content_type,
    reply::{self, allow, message},
};
use crate::{
    node::{Change, ChangeError, ChangeRefusal, Member, V2Error},
    types::MemberId,
    v2::Who,
};

#[derive(Deserialize)]
struct PeerUrls {
    #[serde(rename = "peerURLs", default)]
    peer_urls: Option<Vec<String>>,
}

pub(super) fn machines(front: &Front, asked: &Asked) -> Response {
    if let Err(response) = allow(&asked.method, "GET,HEAD") {
        return response;
    }
    match front.session.v2_members() {
        Ok(members) => {
            let mut urls: Vec<String> = members.into_iter().flat_map(|member| member.client_urls).collect();
            urls.sort();
            reply::plain(urls.join(", "))
        }
        Err(error) => reply::internal(&error.into()),
    }
}

pub(super) async fn serve(front: &Front, asked: Asked, id: &str) -> Response {
    if let Err(response) = allow(&asked.method, "GET,POST,DELETE,PUT") {
        return response;
    }
    if asked.method != Method::GET
        && let Err(response) = front.require_root(&asked.parts).await
    {
        return response;
    }
    let (cluster, _) = front.node.ids();
    let response = answer(front, asked, id).await.unwrap_or_else(|response| response);
    reply::with_cluster(response, cluster)
}

async fn answer(front: &Front, asked: Asked, id: &str) -> Result<Response, Response> {
    match asked.method {
        Method::GET => list(front, id),
        Method::POST => {
            let urls = peer_urls(asked)?;
            let added = front.session.member_add(urls, false).await;
            added.map(|member| reply::json(201, line(&member))).map_err(|error| refused(error, id))
        }
        Method::DELETE => {
            let id = member_id(id)?;
            let changed = front.session.change(Change::Remove { id: id.0 }).await;
            changed.map(|()| reply::status(204, "")).map_err(|error| refused(error, &id.to_string()))
        }
        _ => {
            let id = member_id(id)?;
            let peer_urls = peer_urls(asked)?;
            let changed = front.session.change(Change::Update { id: id.0, peer_urls }).await;
            changed.map(|()| reply::status(204, "")).map_err(|error| refused(error, &id.to_string()))
        }
    }
}

fn list(front: &Front, id: &str) -> Result<Response, Response> {
    let members = front.session.v2_members().map_err(|error| reply::internal(&error.into()))?;
    match id {
        "" => {
            let mut out = String::new();
            let mut fields = Fields::begin(&mut out);
            json::list(fields.name("members"), &members, write);
            fields.end();
            out.push('\n');
            Ok(reply::json(200, out))
        }
        "leader" => {
            let leader = front.node.leadership().leader;
            let member = members.iter().find(|member| leader == Some(member.id.0));
            member.map(|member| reply::json(200, line(member))).ok_or_else(|| message(503, "During election"))
        }
        _ => Err(message(404, "Not found")),
    }
}

fn line(member: &Member) -> String {
    let mut out = String::new();
    write(&mut out, member);
    out.push('\n');
    out
}

fn write(out: &mut String, member: &Member) {
    let mut fields = Fields::begin(out);
    fields.text("id", &member.id.to_string());
    fields.text("name", &member.name);
    fields.texts("peerURLs", &member.peer_urls);
    fields.texts("clientURLs", &member.client_urls);
    fields.end();
}

fn member_id(id: &str) -> Result<MemberId, Response> {
    if id.is_empty() {
        return Err(reply::text(405, "Method Not Allowed"));
    }
    let number = u64::from_str_radix(id, 16).ok().filter(|_| !id.starts_with('+'));
    number.map(MemberId).ok_or_else(|| message(404, &format!("No such member: {id}")))
}

fn refused(error: ChangeError, id: &str) -> Response {
    match error {
        ChangeError::Refused(ChangeRefusal::NotFound) => message(404, &format!("No such member: {id}")),
        ChangeError::Refused(ChangeRefusal::Exists) => message(409, "membership: ID exists"),
        ChangeError::Refused(ChangeRefusal::UrlExists) => message(409, "membership: peerURL exists"),
        ChangeError::Refused(refusal) => {
            tracing::warn!(%refusal, "a change of the members was refused");
            message(500, "Internal Server Error")
        }
        ChangeError::Propose(error) => reply::internal(&V2Error::from(error)),
    }
}

fn peer_urls(asked: Asked) -> Result<Vec<String>, Response> {
    let given = content_type(&asked.parts.headers);
    let media_type = match given.split_once(';') {
        Some((media_type, _)) => media_type.to_lowercase().trim().to_owned(),
        None => given.to_owned(),
    };
    if media_type != "application/json" {
        let text = format!("Bad Content-Type {media_type}, accept application/json");
        return Err(message(415, &text));
    }
    let received = asked.body.map_err(not_received)?;
    let PeerUrls { peer_urls } = match serde_json::from_slice(&received.bytes) {
        Ok(request) => request,
        Err(_) if received.bytes.is_empty() => return Err(message(400, "unexpected end of JSON input")),
        Err(error) => return Err(message(400, &format!("invalid JSON: {error}"))),
    };
    let mut urls = peer_urls.unwrap_or_default();
    if urls.is_empty() {
        return Err(message(400, "no valid URLs given"));
    }
    for url in &mut urls {
        *url = url.trim().to_owned();
        check_url(url).map_err(|text| message(400, &text))?;
    }
    urls.sort();
    Ok(urls)
}

pub(super) fn not_received(error: BodyError) -> Response {
    match error {
        BodyError::TooLarge => message(400, "http: request body too large"),
        BodyError::Incomplete => message(400, "unexpected EOF"),
        BodyError::NoRoom => message(500, "Internal Server Error"),
    }
}

fn check_url(url: &str) -> Result<(), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    match scheme {
        "http" | "https" => {}
        "unix" | "unixs" => return Ok(()),
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {url}")),
    }
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
        (!name.contains(':') || name.ends_with(']')) && port.bytes().all(|digit| digit.is_ascii_digit())
    });
    if !has_port {
        return Err(format!("URL address does not have the form \"host:port\": {url}"));
    }
    if path.is_some() {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(())
}

impl Front {
    /// Refuses whoever is not root, while authentication is enabled.
    pub(super) async fn require_root(&self, request: &Parts) -> Result<Who, Response> {
        let who = match self.who(request).await {
            Ok(who) => who,
            Err(NotKnown::Denied) => return Err(message(401, "Insufficient credentials")),
            Err(NotKnown::Failed(error)) => return Err(reply::internal(&error.into())),
        };
        match self.session.v2_ask(|store| store.is_root(&who)) {
            Ok(true) => Ok(who),
            Ok(false) => Err(message(401, "Insufficient credentials")),
            Err(error) => Err(reply::internal(&error.into())),
        }
    }
}
