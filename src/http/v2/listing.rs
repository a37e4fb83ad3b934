//! A node and what is below it, as JSON that is made while it is sent.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;

use super::json::{self, Fields};
use crate::{
    limits::V2_LISTING_PIECE_BYTES,
    v2::{Key, Listed, Listing, ttl_secs},
};

/// A short answer has its length before it, a long one is sent in pieces.
pub(super) fn body(listing: Listing, now: i64) -> Body {
    let mut writer = Writer::new(listing, now);
    let Some(first) = writer.next() else { return Body::empty() };
    if writer.is_done {
        return Body::from(first);
    }
    Body::from_stream(stream::unfold((Some(first), writer), async |(first, mut writer)| {
        let piece = match first {
            Some(first) => first,
            None => {
                // Other tasks of this thread go on between two pieces.
                tokio::task::yield_now().await;
                writer.next()?
            }
        };
        Some((Ok::<_, std::convert::Infallible>(piece), (None, writer)))
    }))
}

struct Writer {
    listing: Listing,
    now: i64,
    /// For each directory that is open, whether a child was written, and whether it has any other field.
    open: Vec<Open>,
    has_begun: bool,
    is_done: bool,
}

struct Open {
    has_children: bool,
    is_bare: bool,
}

impl Writer {
    fn new(listing: Listing, now: i64) -> Writer {
        Writer { listing, now, open: Vec::new(), has_begun: false, is_done: false }
    }

    fn write(&mut self, listed: Listed, out: &mut String) {
        match listed {
            Listed::Leaf { key, node } => {
                self.begin_child(out);
                let mut fields = Fields::begin(out);
                let expires = node.expires.map(|at| (at, ttl_secs(at, self.now)));
                let value = node.value.as_deref();
                json::node_head(&mut fields, key.as_str(), value, value.is_none(), expires);
                json::node_tail(&mut fields, node.modified, node.created);
                fields.end();
            }
            Listed::Enter { key, node } => {
                self.begin_child(out);
                let is_bare = self.begin_dir(&key, node.expires, out);
                self.open.push(Open { has_children: false, is_bare });
            }
            Listed::Leave { node } => {
                let Some(Open { has_children, is_bare }) = self.open.pop() else { return };
                if has_children {
                    out.push(']');
                }
                let mut fields = Fields::resume(out, is_bare);
                json::node_tail(&mut fields, node.modified, node.created);
                fields.end();
            }
        }
    }

    fn begin_dir(&self, key: &Key, expires: Option<i64>, out: &mut String) -> bool {
        let mut fields = Fields::begin(out);
        json::node_head(
            &mut fields,
            key.as_str(),
            None,
            true,
            expires.map(|at| (at, ttl_secs(at, self.now))),
        );
        fields.is_empty()
    }

    fn begin_child(&mut self, out: &mut String) {
        let Some(parent) = self.open.last_mut() else { return };
        if std::mem::replace(&mut parent.has_children, true) {
            out.push(',');
        } else {
            out.push_str(if parent.is_bare { "\"nodes\":[" } else { ",\"nodes\":[" });
        }
    }
}

impl Iterator for Writer {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        let mut out = String::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            out.push_str("{\"action\":\"get\",\"node\":");
        }
        while out.len() < V2_LISTING_PIECE_BYTES {
            match self.listing.next() {
                Some(listed) => self.write(listed, &mut out),
                None => {
                    out.push_str("}\n");
                    self.is_done = true;
                    break;
                }
            }
        }
        Some(out.into())
    }
}
