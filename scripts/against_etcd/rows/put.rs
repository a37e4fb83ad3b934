//! Puts of single keys.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{KEYS, Point, Row, Turn, VALUE_BYTES, Writes, clients, connections_for, key, on, put};
use crate::{
    Failure,
    client::{Connection, PUT},
    figures::Figure,
    load::{self, Work},
};

/// Each client puts when its last put is answered.
pub(crate) struct Closed {
    pub(crate) clients: usize,
    pub(crate) members: usize,
    pub(crate) value_bytes: usize,
}

impl Row for Closed {
    fn name(&self) -> String {
        let size = match self.value_bytes {
            VALUE_BYTES => String::new(),
            bytes => format!(", values of {} KiB", bytes >> 10),
        };
        format!("put, {}{size}{}", clients(self.clients), on(self.members))
    }

    fn members(&self) -> usize {
        self.members
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.fill(KEYS, VALUE_BYTES)?;
        let crowd = (self.clients, connections_for(self.clients));
        turn.load(&Puts::of(self.value_bytes), crowd, Writes::Each)
    }

    fn has_floor(&self) -> bool {
        self.members == 1
    }

    fn point(&self) -> Option<Point> {
        let is_usual = self.members == 1 && self.value_bytes == VALUE_BYTES;
        is_usual.then_some(Point { plot: "put", clients: self.clients })
    }
}

/// As many a second as asked for, whatever the server does.
pub(crate) struct Paced {
    pub(crate) per_sec: u32,
}

impl Row for Paced {
    fn name(&self) -> String {
        format!("put, {} a second", self.per_sec)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.fill(KEYS, VALUE_BYTES)?;
        let (puts, length) = (Puts::of(VALUE_BYTES), turn.length);
        turn.loaded(Writes::Each, |turn| {
            load::open(&turn.server.addresses(), &puts, self.per_sec, |elapsed| elapsed < length)
        })
    }

    fn has_floor(&self) -> bool {
        true
    }
}

/// All keys in turn, over all clients.
pub(super) struct Puts {
    value_bytes: usize,
    next: AtomicUsize,
}

impl Puts {
    pub(super) fn of(value_bytes: usize) -> Puts {
        Puts { value_bytes, next: AtomicUsize::new(0) }
    }
}

impl Work for Puts {
    type Memory = ();

    fn begin(&self, _: usize) {}

    async fn operate(&self, connection: &Connection, (): &mut ()) -> Result<(), Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % KEYS;
        connection.call(&PUT, &put(key(number), self.value_bytes)).await.map(drop)
    }
}
