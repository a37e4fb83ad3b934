//! Transactions that compare and then write.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;

use super::{Row, Turn, VALUE_BYTES, Writes, connections_for, key, put, verify};
use crate::{
    Failure,
    client::{Connection, RANGE, TXN},
    figures::Figure,
    load::Work,
    pb::etcdserverpb::{
        Compare, RangeRequest, RequestOp, TxnRequest, compare, request_op, response_op::Response,
    },
};

/// Compare-and-swap on some keys: a put if the revision of a key is the one that was seen last, and else a read.
pub(crate) struct Cas {
    pub(crate) keys: usize,
    pub(crate) clients: usize,
}

impl Row for Cas {
    fn name(&self) -> String {
        format!("compare-and-swap over {} keys, {} clients", self.keys, self.clients)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let swaps = Swaps { keys: self.keys, swapped: AtomicI64::new(0) };
        let crowd = (self.clients, connections_for(self.clients));
        let figures = turn.load(&swaps, crowd, Writes::Some)?;
        if !turn.server.is_floor() {
            let swapped = swaps.swapped.load(Ordering::Relaxed);
            let connection = turn.connect()?;
            let everything =
                RangeRequest { key: key(0), range_end: key(self.keys), ..RangeRequest::default() };
            let kvs = turn.runtime.block_on(connection.call(&RANGE, &everything))?.kvs;
            let versions: i64 = kvs.iter().map(|kv| kv.version).sum();
            verify(versions == swapped, || {
                format!("{swapped} swaps were told to have succeeded, and {versions} have")
            })?;
        }
        Ok(figures)
    }

    fn has_floor(&self) -> bool {
        true
    }
}

/// Transactions of many puts, as a store is filled.
pub(crate) struct Bulk {
    pub(crate) puts: usize,
    pub(crate) clients: usize,
}

impl Row for Bulk {
    fn name(&self) -> String {
        format!("transactions of {} puts, {} clients", self.puts, self.clients)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let fill = Fill { puts: self.puts, next: AtomicUsize::new(0) };
        let figures = turn.load(&fill, (self.clients, connections_for(self.clients)), Writes::Each)?;
        if !turn.server.is_floor() {
            let put = fill.next.load(Ordering::Relaxed) * self.puts;
            let connection = turn.connect()?;
            let all = RangeRequest {
                key: key(0),
                range_end: key(put),
                count_only: true,
                ..RangeRequest::default()
            };
            let count = turn.runtime.block_on(connection.call(&RANGE, &all))?.count;
            verify(count == put as i64, || format!("{put} keys were put, and there are {count}"))?;
        }
        Ok(figures)
    }

    fn has_floor(&self) -> bool {
        true
    }
}

/// New keys, over all clients.
struct Fill {
    puts: usize,
    next: AtomicUsize,
}

impl Work for Fill {
    type Memory = ();

    fn begin(&self, _: usize) {}

    async fn operate(&self, connection: &Connection, (): &mut ()) -> Result<(), Failure> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) * self.puts;
        let put = |number| request_op::Request::RequestPut(put(key(number), VALUE_BYTES));
        let success = (first..first + self.puts).map(|number| RequestOp { request: Some(put(number)) });
        let request = TxnRequest { success: success.collect(), ..TxnRequest::default() };
        let answer = connection.call(&TXN, &request).await?;
        verify(answer.succeeded, || "a transaction without a condition succeeds".to_owned())
    }
}

struct Swaps {
    keys: usize,
    /// Those of which a client was told that they have succeeded.
    swapped: AtomicI64,
}

/// The key of a client, and the revision at which it has seen it.
pub(super) struct Seen {
    pub(super) key: Bytes,
    pub(super) mod_revision: i64,
}

impl Work for Swaps {
    type Memory = Seen;

    fn begin(&self, client: usize) -> Seen {
        Seen { key: key(client % self.keys), mod_revision: 0 }
    }

    async fn operate(&self, connection: &Connection, seen: &mut Seen) -> Result<(), Failure> {
        let is_swapped = swap(connection, seen, VALUE_BYTES).await?;
        self.swapped.fetch_add(i64::from(is_swapped), Ordering::Relaxed);
        Ok(())
    }
}

/// Whether it has succeeded. If not, the revision that is there is seen now.
pub(super) async fn swap(
    connection: &Connection,
    seen: &mut Seen,
    value_bytes: usize,
) -> Result<bool, Failure> {
    let compare = Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: seen.key.clone(),
        target_union: Some(compare::TargetUnion::ModRevision(seen.mod_revision)),
        ..Compare::default()
    };
    let op = |request| vec![RequestOp { request: Some(request) }];
    let read = RangeRequest { key: seen.key.clone(), ..RangeRequest::default() };
    let request = TxnRequest {
        compare: vec![compare],
        success: op(request_op::Request::RequestPut(put(seen.key.clone(), value_bytes))),
        failure: op(request_op::Request::RequestRange(read)),
    };
    let answer = connection.call(&TXN, &request).await?;
    if answer.succeeded {
        seen.mod_revision = answer.header.map_or(0, |header| header.revision);
        return Ok(true);
    }
    let read = answer.responses.into_iter().next().and_then(|response| response.response);
    let Some(Response::ResponseRange(read)) = read else {
        return Err("a swap that failed reads the key".into());
    };
    seen.mod_revision = read.kvs.first().map_or(0, |kv| kv.mod_revision);
    Ok(false)
}
