//! Connections: how fast they are made, and what an idle one with a watch takes.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::{Row, Turn, key};
use crate::{
    Failure,
    client::{Connection, RANGE, WATCH},
    figures::{CPU, Figure, MEMORY_EACH, PER_SEC, figure},
    load,
    pb::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion},
    server::any_key,
};

/// Connections that are made, used for one read and closed.
pub(crate) struct New {
    pub(crate) at_once: usize,
}

impl Row for New {
    fn name(&self) -> String {
        format!("new connections with one read each, {} at once", self.at_once)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.connect()?;
        let (address, before) = (turn.server.addresses()[0], turn.server.usage()?);
        let start = std::time::Instant::now();
        let made = AtomicUsize::new(0);
        turn.runtime.block_on(load::each(self.at_once, self.at_once, async |_| {
            while start.elapsed() < turn.length {
                Connection::open(address).await?.call(&RANGE, &any_key()).await?;
                made.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }))?;
        let (made, took) = (made.into_inner() as f64, start.elapsed());
        let cpu = turn.server.usage()?.cpu - before.cpu;
        Ok(vec![figure(PER_SEC, made / took.as_secs_f64()), figure(CPU, cpu.as_secs_f64() * 1e6 / made)])
    }

    fn has_floor(&self) -> bool {
        true
    }
}

/// Connections with a watch each, on which nothing happens.
pub(crate) struct Idle {
    pub(crate) count: usize,
}

impl Row for Idle {
    fn name(&self) -> String {
        format!("{} idle connections with a watch each", self.count)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        const SETTLE: Duration = Duration::from_secs(1);
        turn.connect()?;
        let address = turn.server.addresses()[0];
        let server = &turn.server;
        turn.runtime.block_on(async {
            tokio::time::sleep(SETTLE).await;
            let before = server.usage()?.resident_bytes;
            let mut open = Vec::new();
            for number in 0..self.count {
                let connection = Connection::open(address).await?;
                let (mut sender, mut receiver) = connection.stream(&WATCH).await?;
                let create = WatchCreateRequest { key: key(number), ..WatchCreateRequest::default() };
                sender.send(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })?;
                receiver.next().await?;
                open.push((connection, sender, receiver));
            }
            tokio::time::sleep(SETTLE).await;
            let taken = server.usage()?.resident_bytes.saturating_sub(before);
            Ok(vec![figure(MEMORY_EACH, taken as f64 / 1024.0 / self.count as f64)])
        })
    }
}
