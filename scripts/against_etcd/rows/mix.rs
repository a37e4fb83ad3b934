//! What Kubernetes does to its store, roughly.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    KEYS, Row, Turn, Writes, connections_for, key, on, put,
    txn::{Seen, swap},
    verify,
};
use crate::{
    Failure,
    client::{Connection, PUT, RANGE},
    figures::Figure,
    load::Work,
    pb::etcdserverpb::RangeRequest,
};

/// Objects are about this large.
const OBJECT_BYTES: usize = 1024;

/// Of ten operations seven are reads of an object, two are puts and one is a compare-and-swap.
pub(crate) struct Kubernetes {
    pub(crate) clients: usize,
    pub(crate) members: usize,
}

impl Row for Kubernetes {
    fn name(&self) -> String {
        let (clients, on) = (self.clients, on(self.members));
        format!("mix: 70 % reads, 20 % puts, 10 % compare-and-swap, 1 KiB, {clients} clients{on}")
    }

    fn members(&self) -> usize {
        self.members
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.fill(KEYS, OBJECT_BYTES)?;
        let before = turn.revision()?;
        let mix = Mix::default();
        let crowd = (self.clients, connections_for(self.clients));
        let figures = turn.load(&mix, crowd, Writes::Some)?;
        turn.verify_writes(before, mix.written.load(Ordering::Relaxed))?;
        Ok(figures)
    }

    fn has_floor(&self) -> bool {
        self.members == 1
    }
}

#[derive(Default)]
struct Mix {
    next: AtomicUsize,
    written: AtomicUsize,
}

impl Work for Mix {
    type Memory = Seen;

    fn begin(&self, client: usize) -> Seen {
        Seen { key: key(client), mod_revision: 0 }
    }

    async fn operate(&self, connection: &Connection, seen: &mut Seen) -> Result<(), Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // Far apart, so that neighbours in time are none in the store.
        let key = key(number * 7919 % KEYS);
        let is_written = match number % 10 {
            0 => swap(connection, seen, OBJECT_BYTES).await?,
            3 | 6 => {
                connection.call(&PUT, &put(key, OBJECT_BYTES)).await?;
                true
            }
            _ => {
                let request = RangeRequest { key, ..RangeRequest::default() };
                let kvs = connection.call(&RANGE, &request).await?.kvs;
                verify(kvs.len() == 1, || format!("key {:?} is lost", request.key))?;
                false
            }
        };
        self.written.fetch_add(usize::from(is_written), Ordering::Relaxed);
        Ok(())
    }
}
