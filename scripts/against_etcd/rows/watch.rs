//! Events for many watchers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::{Row, Turn, VALUE_BYTES, key, put, verify};
use crate::{
    Failure,
    client::{Connection, PUT, Receiver, Sender, WATCH},
    figures::{CPU, Figure, P50, P99, PER_SEC, figure},
    load::Done,
    pb::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion},
};

const STREAMS: usize = 8;
const WRITERS: usize = 16;
const FIRST: usize = 0;
const KEYS: usize = 1000;

/// All watchers are on one prefix, so each put is an event for each of them.
pub(crate) struct FanOut {
    pub(crate) watchers: usize,
}

impl Row for FanOut {
    fn name(&self) -> String {
        format!("watch fan-out, {} watchers on one prefix, events", self.watchers)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let address = turn.server.addresses()[0];
        turn.connect()?;
        let length = turn.length;
        let each = self.watchers.div_ceil(STREAMS);
        let server = &turn.server;
        let (done, cpu) = turn.runtime.block_on(async {
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                streams.push(Stream::open(Connection::open(address).await?, each).await?);
            }
            let before = server.usage()?;
            let (tell_puts, puts) = watch::channel(None);
            let start = Instant::now();
            let write = async {
                let made = write(Connection::open(address).await?, start + length).await?;
                tell_puts.send(Some(made.len()))?;
                Ok::<_, Failure>(made)
            };
            let read = try_join_all(streams.iter_mut().map(|stream| stream.read(puts.clone())));
            let (made, read) = tokio::try_join!(write, read)?;
            let took = start.elapsed();
            let mut latencies = Vec::new();
            for (revision, arrived) in read.into_iter().flatten() {
                // Events are counted from when the put was sent.
                let sent = made.get(&revision).ok_or("an event has the revision of no put")?;
                latencies.push(arrived.saturating_duration_since(*sent));
            }
            verify(latencies.len() == made.len() * each * STREAMS, || {
                format!("{} puts for {} watchers are {} events", made.len(), each * STREAMS, latencies.len())
            })?;
            Ok::<_, Failure>((Done::new(latencies, took), server.usage()?.cpu - before.cpu))
        })?;
        Ok(vec![
            figure(PER_SEC, done.per_sec()),
            figure(P50, done.percentile(0.5)),
            figure(P99, done.percentile(0.99)),
            figure(CPU, cpu.as_secs_f64() * 1e6 / done.count() as f64),
        ])
    }
}

/// Watchers that begin in the past, and get the whole history.
pub(crate) struct CatchUp {
    pub(crate) watchers: usize,
    pub(crate) revisions: usize,
}

impl Row for CatchUp {
    fn name(&self) -> String {
        format!("watch catch-up, {} watchers of {} revisions, events", self.watchers, self.revisions)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        let first = turn.revision()? + 1;
        let mut left = self.revisions;
        while left > 0 {
            let keys = left.min(KEYS);
            turn.fill(keys, VALUE_BYTES)?;
            left -= keys;
        }
        let address = turn.server.addresses()[0];
        let server = &turn.server;
        let (took, cpu) = turn.runtime.block_on(async {
            let before = server.usage()?;
            let start = Instant::now();
            let streams = (0..self.watchers).map(async |_| {
                let mut stream = Stream::open_at(Connection::open(address).await?, 1, first).await?;
                let (_all, puts) = watch::channel(Some(self.revisions));
                let events = stream.read(puts).await?;
                // They come in order, so none is missing.
                let last = events.last().map_or(0, |(revision, _)| *revision);
                verify(last == first - 1 + self.revisions as i64, || {
                    format!("the last event is that of {last}")
                })
            });
            try_join_all(streams).await?;
            Ok::<_, Failure>((start.elapsed(), server.usage()?.cpu - before.cpu))
        })?;
        let events = (self.watchers * self.revisions) as f64;
        Ok(vec![figure(PER_SEC, events / took.as_secs_f64()), figure(CPU, cpu.as_secs_f64() * 1e6 / events)])
    }
}

/// When the put with each revision was sent.
async fn write(connection: Connection, end: Instant) -> Result<HashMap<i64, Instant>, Failure> {
    let writers = (0..WRITERS).map(async |writer| {
        let mut made = Vec::new();
        let mut number = writer;
        while Instant::now() < end {
            let sent = Instant::now();
            let answer = connection.call(&PUT, &put(key(FIRST + number % KEYS), VALUE_BYTES)).await?;
            made.push((answer.header.ok_or("an answer has a header")?.revision, sent));
            number += WRITERS;
        }
        Ok::<_, Failure>(made)
    });
    Ok(try_join_all(writers).await?.into_iter().flatten().collect())
}

/// A stream with some watchers.
struct Stream {
    // The server ends the stream when this is dropped.
    _sender: Sender<WatchRequest>,
    receiver: Receiver<WatchResponse>,
    /// The last revision that each watcher has got.
    watchers: HashMap<i64, i64>,
}

impl Stream {
    async fn open(connection: Connection, watchers: usize) -> Result<Stream, Failure> {
        Stream::open_at(connection, watchers, 0).await
    }

    /// With the events from this revision on; 0: from now on.
    async fn open_at(
        connection: Connection,
        watchers: usize,
        start_revision: i64,
    ) -> Result<Stream, Failure> {
        let (mut sender, mut receiver) = connection.stream(&WATCH).await?;
        let mut created = HashMap::new();
        for _ in 0..watchers {
            let create = WatchCreateRequest {
                key: key(FIRST),
                range_end: key(FIRST + KEYS),
                start_revision,
                ..WatchCreateRequest::default()
            };
            sender.send(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })?;
        }
        for _ in 0..watchers {
            let answer = receiver.next().await?;
            verify(answer.created, || "a watcher was not created".to_owned())?;
            created.insert(answer.watch_id, 0);
        }
        Ok(Stream { _sender: sender, receiver, watchers: created })
    }

    /// Reads until every watcher has the events of all puts, as soon as it is known how many these are. Returns the
    /// revision of each event, and when it arrived.
    async fn read(
        &mut self,
        mut puts: watch::Receiver<Option<usize>>,
    ) -> Result<Vec<(i64, Instant)>, Failure> {
        const SILENCE: Duration = Duration::from_secs(30);
        let mut events = Vec::new();
        let mut known = *puts.borrow_and_update();
        loop {
            if known.is_some_and(|puts: usize| events.len() >= puts * self.watchers.len()) {
                return Ok(events);
            }
            tokio::select! { biased;
                answer = self.receiver.next() => {
                    let (answer, now) = (answer?, Instant::now());
                    let last = self.watchers.get_mut(&answer.watch_id).ok_or("nobody has this watcher")?;
                    for event in &answer.events {
                        let revision = event.kv.as_ref().ok_or("an event has a key")?.mod_revision;
                        verify(revision > *last, || format!("revision {revision} comes after {last}"))?;
                        *last = revision;
                        events.push((revision, now));
                    }
                }
                told = puts.changed(), if known.is_none() => {
                    told?;
                    known = *puts.borrow();
                }
                () = tokio::time::sleep(SILENCE) => return Err("events are missing".into()),
            }
        }
    }
}
