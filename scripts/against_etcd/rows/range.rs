//! Reads of one key and of many.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{KEYS, Point, Row, Turn, VALUE_BYTES, Writes, clients, connections_for, key, on, verify};
use crate::{
    Failure,
    client::{Connection, RANGE},
    figures::Figure,
    load::Work,
    pb::etcdserverpb::RangeRequest,
};

pub(crate) struct OneKey {
    pub(crate) clients: usize,
    pub(crate) is_serializable: bool,
    pub(crate) members: usize,
}

impl Row for OneKey {
    fn name(&self) -> String {
        let kind = if self.is_serializable { "serializable" } else { "linearizable" };
        format!("range of one key, {kind}, {}{}", clients(self.clients), on(self.members))
    }

    fn members(&self) -> usize {
        self.members
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.fill(KEYS, VALUE_BYTES)?;
        let reads = Reads { keys: 1, is_serializable: self.is_serializable, next: AtomicUsize::new(0) };
        turn.load(&reads, (self.clients, connections_for(self.clients)), Writes::None)
    }

    fn has_floor(&self) -> bool {
        self.members == 1
    }

    fn point(&self) -> Option<Point> {
        (!self.is_serializable && self.members == 1).then_some(Point { plot: "range", clients: self.clients })
    }
}

/// Ranges of neighbouring keys.
pub(crate) struct Prefix {
    pub(crate) keys: usize,
    pub(crate) clients: usize,
}

impl Row for Prefix {
    fn name(&self) -> String {
        format!("range of {} keys, {} clients", self.keys, self.clients)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.fill(KEYS, VALUE_BYTES)?;
        let reads = Reads { keys: self.keys, is_serializable: false, next: AtomicUsize::new(0) };
        turn.load(&reads, (self.clients, connections_for(self.clients)), Writes::None)
    }

    fn has_floor(&self) -> bool {
        true
    }
}

/// All stretches of so many keys in turn, over all clients.
struct Reads {
    keys: usize,
    is_serializable: bool,
    next: AtomicUsize,
}

impl Work for Reads {
    type Memory = ();

    fn begin(&self, _: usize) {}

    async fn operate(&self, connection: &Connection, (): &mut ()) -> Result<(), Failure> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % (KEYS / self.keys) * self.keys;
        let mut request =
            RangeRequest { key: key(first), serializable: self.is_serializable, ..RangeRequest::default() };
        if self.keys > 1 {
            request.range_end = key(first + self.keys);
            // Of no effect, but for the floor, which answers with so many keys.
            request.limit = self.keys as i64;
        }
        let kvs = connection.call(&RANGE, &request).await?.kvs;
        let is_right = kvs.len() == self.keys && kvs.iter().all(|kv| kv.value.len() == VALUE_BYTES);
        verify(is_right && kvs[0].key == request.key, || {
            format!("the {} keys from {first} are not what was put there: {} are", self.keys, kvs.len())
        })
    }
}
