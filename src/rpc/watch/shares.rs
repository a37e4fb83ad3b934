//! The responses of published revisions: encoded once for all watchers that get the same events.
//!
//! A thousand watchers of one prefix differ in a number. So the events of a revision are encoded once, and each
//! watcher's message is a few bytes of its own and a copy of these. Where a client is behind, one message has the
//! events of several revisions, as it has where a watcher reads history.
//!
//! What is encoded at a time is bounded. The rest of the watchers waits as positions in a list.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{Message, encoding::int64};

use super::super::{in_parts, render, rope};
use crate::{
    limits::{WATCH_MERGED_REVS, WATCH_SEND_BYTES, WATCH_SHARED_BYTES, WATCH_WHOLE_EVENTS},
    pb::etcdserverpb::{ResponseHeader, WatchResponse},
    watch::{Batch, Share},
};

/// The tag of the field with the watcher's id.
const WATCH_ID: u32 = 2;

/// Revisions that follow each other, have events for the same watchers, and have not been sent to all of them.
pub(super) struct Sharing {
    /// One or more.
    batches: Vec<Batch>,
    /// The next watcher, as a position in each batch.
    next: usize,
    /// The header, as a field of a response.
    header: Vec<u8>,
    /// The events of the watcher before, as fields of a response.
    events: Vec<u8>,
    /// Whose events these are.
    events_of: Option<usize>,
}

/// What a step came to.
pub(super) enum Step {
    /// Messages, and how many events they have.
    Encoded(Bytes, usize),
    /// The events of the watcher at this position are not encoded here: they are too many or too large, need their
    /// previous pairs to be read, or have to be sent in fragments.
    Apart(usize),
    Over,
}

impl Sharing {
    /// `header` says the revision of the last batch.
    pub(super) fn new(batches: Vec<Batch>, header: ResponseHeader) -> Sharing {
        assert!((1..=WATCH_MERGED_REVS).contains(&batches.len()), "there is something to share");
        let header = WatchResponse { header: Some(header), ..WatchResponse::default() }.encode_to_vec();
        Sharing { batches, next: 0, header, events: Vec::new(), events_of: None }
    }

    /// The responses to as many watchers as fit a piece. `fragment_bytes` is what a response may not reach if the watcher
    /// wants fragments.
    pub(super) fn step(&mut self, fragment_bytes: usize) -> Step {
        let mut messages = BytesMut::new();
        let mut events = 0;
        while messages.len() < WATCH_SEND_BYTES && self.next < self.batches[0].watchers() {
            let Some(count) = self.encode(&mut messages, fragment_bytes) else {
                if messages.is_empty() {
                    self.next += 1;
                    return Step::Apart(self.next - 1);
                }
                break;
            };
            events += count;
            self.next += 1;
        }
        if messages.is_empty() { Step::Over } else { Step::Encoded(messages.freeze(), events) }
    }

    /// What the watcher at this position gets of each revision.
    pub(super) fn shares(&self, position: usize) -> impl Iterator<Item = (&Batch, Share<'_>)> {
        self.batches.iter().map(move |batch| (batch, batch.share(position)))
    }

    /// Adds the message to the next watcher. Returns the number of its events, or `None` if they are not encoded here.
    fn encode(&mut self, messages: &mut BytesMut, fragment_bytes: usize) -> Option<usize> {
        let count: usize = self.shares(self.next).map(|(_, share)| share.events().len()).sum();
        let is_as_before = self
            .events_of
            .is_some_and(|before| self.batches.iter().all(|batch| batch.is_alike(before, self.next)));
        if !is_as_before {
            self.events_of = None;
            let mut events = std::mem::take(&mut self.events);
            events.clear();
            let is_encoded = count <= WATCH_WHOLE_EVENTS
                && self.shares(self.next).all(|(_, share)| encode_events(&share, &mut events));
            self.events = events;
            if !is_encoded {
                return None;
            }
            self.events_of = Some(self.next);
        }
        let share = self.batches[0].share(self.next);
        let id = share.id.0;
        let id_bytes = if id == 0 { 0 } else { int64::encoded_len(WATCH_ID, &id) };
        let bytes = self.header.len() + id_bytes + self.events.len();
        if share.fragment && count > 1 && bytes >= fragment_bytes {
            return None;
        }
        messages.reserve(in_parts::PREFIX_BYTES + bytes);
        in_parts::put_prefix(messages, bytes);
        messages.put_slice(&self.header);
        if id != 0 {
            int64::encode(WATCH_ID, &id, messages);
        }
        messages.put_slice(&self.events);
        Some(count)
    }
}

/// Adds the events of a share. False if they are too large, or their previous pairs have to be read.
fn encode_events(share: &Share<'_>, fields: &mut Vec<u8>) -> bool {
    for event in share.events() {
        if share.prev_kv && super::lacks_prev(event) {
            return false;
        }
        let event = render::event(event.clone(), share.prev_kv);
        if fields.len() + rope::event_bytes(&event) > WATCH_SHARED_BYTES {
            return false;
        }
        rope::put_event(&event, fields);
    }
    true
}
