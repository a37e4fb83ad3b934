//! Waiting for events.

use std::convert::Infallible;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;

use super::{Front, json, reply};
use crate::{
    node::{V2Error, V2Watch},
    v2::{Key, Who},
};

/// The head of the answer is sent at once. Without `stream` the body ends with the first event.
pub(super) fn wait(
    front: &Front,
    who: &Who,
    key: &Key,
    recursive: bool,
    stream: bool,
    from: u64,
) -> Result<Response, V2Error> {
    let watch = front.session.v2_watch(who, key, recursive, from)?;
    let start = watch.start;
    let session = front.session.clone();
    let events = stream::unfold(Some(watch), move |watch: Option<V2Watch>| {
        let stopping = session.stopping();
        async move {
            let mut watch = watch?;
            let event = tokio::select! { biased;
                event = watch.next() => event?,
                // A member that stops does not wait for those who wait.
                () = stopping => return None,
            };
            let line = Bytes::from(json::event(&event, true));
            Some((Ok::<_, Infallible>(line), stream.then_some(watch)))
        }
    });
    let response = reply::json(200, Body::from_stream(events));
    Ok(reply::with_marks(response, start, front.session.raft_mark()))
}
