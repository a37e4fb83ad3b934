//! `/v2/stats`: what this member has done and how it stands to the others.

use std::time::Duration;

use axum::response::Response;

use super::{
    Asked, Front,
    json::{self, Fields},
    reply::{self, allow, message},
};
use crate::{
    node::{Since, wall_nanos},
    telemetry::{GoDuration, RoundTrips},
    v2::{Counts, Tally},
};

pub(super) fn store(front: &Front, asked: &Asked) -> Response {
    if let Err(response) = allow(&asked.method, "GET") {
        return response;
    }
    let counts = match front.session.v2_counts() {
        Ok(counts) => counts,
        Err(error) => return reply::internal(&error.into()),
    };
    let Counts { gets, sets, deletes, updates, creates, swaps, compared_deletes, expired, watchers } = counts;
    let mut out = String::new();
    let mut fields = Fields::begin(&mut out);
    for (name, Tally { success, fail }) in [
        ("gets", gets),
        ("sets", sets),
        ("delete", deletes),
        ("update", updates),
        ("create", creates),
        ("compareAndSwap", swaps),
        ("compareAndDelete", compared_deletes),
    ] {
        fields.number(&format!("{name}Success"), success);
        fields.number(&format!("{name}Fail"), fail);
    }
    fields.number("expireCount", expired);
    fields.number("watchers", watchers);
    fields.end();
    reply::json(200, out)
}

pub(super) fn own(front: &Front, asked: &Asked) -> Response {
    if let Err(response) = allow(&asked.method, "GET") {
        return response;
    }
    let (_, own) = front.node.ids();
    let leadership = front.node.leadership();
    let Since { start, leader } = front.session.since();
    let state = match leadership.leader {
        Some(_) if leadership.is_leader => "StateLeader",
        Some(_) => "StateFollower",
        None => "StateCandidate",
    };
    let traffic = front.session.peer_traffic();
    let mut out = String::new();
    let mut fields = Fields::begin(&mut out);
    fields.text("name", &front.node.config().name);
    fields.text("id", &own.to_string());
    fields.text("state", state);
    fields.text("startTime", &json::time(start));
    let mut info = Fields::begin(fields.name("leaderInfo"));
    info.text("leader", &leader.map_or("0".to_owned(), |(id, _)| id.to_string()));
    let since = leader.map_or(start, |(_, since)| since);
    let uptime = Duration::from_nanos(wall_nanos().saturating_sub(since).max(0).unsigned_abs());
    info.text("uptime", &GoDuration(uptime).to_string());
    info.text("startTime", &json::time(since));
    info.end();
    fields.number("recvAppendRequestCnt", traffic.received);
    fields.number("sendAppendRequestCnt", traffic.sent);
    fields.end();
    reply::json(200, out)
}

pub(super) fn leader(front: &Front, asked: &Asked) -> Response {
    if let Err(response) = allow(&asked.method, "GET") {
        return response;
    }
    if !front.node.leadership().is_leader {
        return message(403, "not current leader");
    }
    let (_, own) = front.node.ids();
    let mut out = String::new();
    let mut fields = Fields::begin(&mut out);
    fields.text("leader", &own.to_string());
    let mut followers = Fields::begin(fields.name("followers"));
    for (id, round_trips) in front.session.round_trips() {
        let mut follower = Fields::begin(followers.name(&id.to_string()));
        latency(follower.name("latency"), &round_trips);
        let mut counts = Fields::begin(follower.name("counts"));
        counts.number("fail", round_trips.failures);
        counts.number("success", round_trips.count);
        counts.end();
        follower.end();
    }
    followers.end();
    fields.end();
    reply::json(200, out)
}

fn latency(out: &mut String, round_trips: &RoundTrips) {
    let mut fields = Fields::begin(out);
    let RoundTrips { current, average, deviation, minimum, maximum, .. } = round_trips;
    for (name, secs) in [
        ("current", current),
        ("average", average),
        ("standardDeviation", deviation),
        ("minimum", minimum),
        ("maximum", maximum),
    ] {
        fields.number(name, secs * 1000.0);
    }
    fields.end();
}
