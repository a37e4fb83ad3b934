//! The operations on keys: range, put, delete, transaction, compaction.
//!
//! A read is answered from the state of this member: after a barrier, unless the client asked for a
//! serializable read. Every request that may write goes through the log, and is answered with its outcome
//! on this member.

use std::{future::Future, time::Duration};

use futures_util::stream::{self, BoxStream};
use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    in_parts::Answer,
    parse::{self, Access},
    render, rope, session, slow,
    slow::Timer,
    status::Refusal,
    wrong_kind,
};
use crate::{
    apply::{self, Command, Outcome},
    clock,
    limits::ANSWER_FRAME_BYTES,
    mvcc::Range,
    node::{Found, Memory, Node, Session},
    pb::etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
        PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
        TxnResponse, kv_server,
    },
    telemetry::RequestKind,
    types::Rev,
};

#[derive(Clone)]
pub(crate) struct Kv {
    node: Node,
    txn_ops_max: usize,
    slow_after: Duration,
    /// Approximate size of a chunk of a streamed range.
    chunk_bytes: usize,
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// The methods whose handlers log slow calls themselves, with the content of the request.
pub(crate) const TIMED: [&str; 4] = [RANGE, PUT, DELETE_RANGE, TXN];

impl Kv {
    pub(crate) fn new(node: Node) -> Kv {
        let config = node.config();
        Kv {
            txn_ops_max: config.max_txn_ops,
            slow_after: config.warning_unary_request_duration,
            chunk_bytes: config.max_request_bytes.min(ANSWER_FRAME_BYTES),
            node,
        }
    }

    /// Also returns the number of keys in the range.
    async fn do_range(
        &self,
        session: &Session,
        request: &RangeRequest,
    ) -> Result<(Answer<RangeResponse>, i64), Status> {
        let query = parse::range(request)?;
        let read = async {
            self.barrier(session, request.serializable).await?;
            Ok(session.range(&query).await?)
        };
        let Found { rev, result, memory, tail } = self.timed(RequestKind::Range, read).await?;
        let (header, count) = (self.header(rev), result.count);
        let answer = match tail {
            None if !memory.is_counted() => Answer::Whole(render::range(header, result)),
            tail => Answer::in_parts(rope::range(header, result, tail), memory)?,
        };
        Ok((answer, count))
    }

    async fn do_put(&self, session: &Session, request: &PutRequest) -> Result<Answer<PutResponse>, Status> {
        let put = parse::put(request)?;
        let (outcome, memory) = session.write_with_quota(Command::Put(put)).await?;
        let header = self.header(outcome.rev);
        match outcome.result? {
            apply::Response::Put { prev_kv } if memory.is_counted() => {
                Answer::in_parts(rope::put(header, prev_kv), memory)
            }
            apply::Response::Put { prev_kv } => Ok(Answer::Whole(render::put(header, prev_kv))),
            other => Err(wrong_kind(&other)),
        }
    }

    /// Also returns the number of keys that were deleted.
    async fn do_delete_range(
        &self,
        session: &Session,
        request: &DeleteRangeRequest,
    ) -> Result<(Answer<DeleteRangeResponse>, i64), Status> {
        let delete = parse::delete_range(request)?;
        let (outcome, memory) = session.write(Command::DeleteRange(delete)).await?;
        let header = self.header(outcome.rev);
        let (answer, deleted) = match outcome.result? {
            apply::Response::DeleteRange { deleted, prev_kvs } if memory.is_counted() => {
                (Answer::in_parts(rope::delete_range(header, deleted, prev_kvs), memory)?, deleted)
            }
            apply::Response::DeleteRange { deleted, prev_kvs } => {
                (Answer::Whole(render::delete_range(header, deleted, prev_kvs)), deleted)
            }
            other => return Err(wrong_kind(&other)),
        };
        Ok((answer, deleted))
    }

    /// Also returns whether the comparisons held.
    async fn do_txn(
        &self,
        session: &Session,
        request: &TxnRequest,
    ) -> Result<(Answer<TxnResponse>, bool), Status> {
        let (txn, access) = parse::txn(request, self.txn_ops_max)?;
        let (outcome, memory): (Outcome, Memory) = match access {
            Access::Read { serializable } => {
                let read = async {
                    self.barrier(session, serializable).await?;
                    Ok(session.read_txn(&txn).await?)
                };
                self.timed(RequestKind::ReadonlyTxn, read).await?
            }
            Access::Write => session.write_with_quota(Command::Txn(txn)).await?,
        };
        let header = self.header(outcome.rev);
        let result = match outcome.result? {
            apply::Response::Txn(result) => result,
            other => return Err(wrong_kind(&other)),
        };
        let succeeded = result.succeeded;
        let answer = match memory.is_counted() {
            true => Answer::in_parts(rope::txn(header, result), memory)?,
            false => Answer::Whole(render::txn(header, result)),
        };
        Ok((answer, succeeded))
    }

    /// Counts the duration of a read, including its barrier.
    async fn timed<A>(
        &self,
        kind: RequestKind,
        read: impl Future<Output = Result<A, Status>>,
    ) -> Result<A, Status> {
        let start = clock::now();
        let answer = read.await;
        self.node.metrics().observe_request(kind, answer.is_ok(), clock::since(start));
        answer
    }

    /// Waits until a read on this member sees every write that was answered before the request arrived.
    async fn barrier(&self, session: &Session, serializable: bool) -> Result<(), Status> {
        if !serializable {
            if self.node.leadership().is_learner {
                return Err(Refusal::NotSupportedForLearner.into());
            }
            session.read_barrier().await?;
        }
        Ok(())
    }

    fn header(&self, rev: Rev) -> ResponseHeader {
        render::header(&self.node, rev)
    }
}

#[tonic::async_trait]
impl kv_server::Kv for Kv {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let timer = Timer::start(&request, self.slow_after);
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        let answer = self.do_range(&session, &request).await;
        let stats = |(answer, count): &(Answer<_>, i64)| slow::range(&request, *count, answer.size());
        timer
            .finish(RANGE, answer, stats)
            .map(|answer| Answer::into_response(answer.map(|(answer, _)| answer)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let timer = Timer::start(&request, self.slow_after);
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        let answer = self.do_put(&session, &request).await;
        let stats = |answer: &Answer<_>| slow::put(&request, answer.size());
        timer.finish(PUT, answer, stats).map(Answer::into_response)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let timer = Timer::start(&request, self.slow_after);
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        let answer = self.do_delete_range(&session, &request).await;
        let stats =
            |(answer, deleted): &(Answer<_>, i64)| slow::delete_range(&request, *deleted, answer.size());
        timer
            .finish(DELETE_RANGE, answer, stats)
            .map(|answer| Answer::into_response(answer.map(|(answer, _)| answer)))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let timer = Timer::start(&request, self.slow_after);
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        let answer = self.do_txn(&session, &request).await;
        let stats = |(answer, succeeded): &(Answer<_>, bool)| slow::txn(&request, *succeeded, answer.size());
        timer.finish(TXN, answer, stats).map(|answer| Answer::into_response(answer.map(|(answer, _)| answer)))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        let outcome = session.compact(Rev(request.revision), request.physical).await?;
        outcome.result?;
        Ok(Response::new(CompactionResponse { header: Some(self.header(outcome.rev)) }))
    }

    type RangeStreamStream = BoxStream<'static, Result<RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        let query = parse::range_stream(&request)?;
        self.barrier(&session, request.serializable).await?;
        let node = self.node.clone();
        let read = move |query: Range, counted: bool| {
            let (session, node) = (session.clone(), node.clone());
            async move {
                let (rev, result) = session.range_piece(&query, counted).await?;
                Ok((render::header(&node, rev), result))
            }
        };
        let chunks = Chunks::new(query, self.chunk_bytes, read);
        Ok(Response::new(Box::pin(stream::try_unfold(chunks, Chunks::next))))
    }
}

/// A range in chunks of about equal size, all read at the revision of the first.
struct Chunks<R> {
    read: R,
    query: Range,
    /// The number of keys that the client may still get.
    left: i64,
    bytes: usize,
    /// The header of the first chunk, and the number of all keys in the range.
    first: Option<(ResponseHeader, i64)>,
    done: bool,
}

/// Keys of the first chunk. The number of keys in a further chunk follows from the size of the one before.
const FIRST_CHUNK_KEYS: i64 = 10;

type Read = Result<(ResponseHeader, crate::mvcc::RangeResult), Status>;

impl<R, F> Chunks<R>
where
    R: FnMut(Range, bool) -> F,
    F: Future<Output = Read>,
{
    fn new(mut query: Range, bytes: usize, read: R) -> Chunks<R> {
        let left = if query.limit > 0 { query.limit } else { i64::MAX };
        query.limit = left.min(FIRST_CHUNK_KEYS);
        Chunks { read, query, left, bytes, first: None, done: false }
    }

    /// A function for `try_unfold`.
    async fn next(mut self) -> Result<Option<(RangeStreamResponse, Self)>, Status> {
        if self.done {
            return Ok(None);
        }
        let chunk = self.read_chunk().await?;
        Ok(Some((RangeStreamResponse { range_response: Some(chunk) }, self)))
    }

    async fn read_chunk(&mut self) -> Result<RangeResponse, Status> {
        // Only the first chunk has to count all keys of the range.
        let (header, result) = (self.read)(self.query.clone(), self.first.is_none()).await?;
        let (header, count) = *self.first.get_or_insert((header, result.count));
        if self.query.rev <= 0 {
            self.query.rev = header.revision;
        }
        self.left -= result.kvs.len() as i64;
        let more = result.more;
        let mut chunk = render::range(header, result);
        self.done = !more || self.left == 0;
        if self.done {
            // The last chunk has `header`, `more` and `count` of the whole range.
            return Ok(RangeResponse { more, count, ..chunk });
        }
        (chunk.header, chunk.more, chunk.count) = (None, false, 0);
        self.go_on_after(&chunk);
        Ok(chunk)
    }

    fn go_on_after(&mut self, chunk: &RangeResponse) {
        let last = chunk.kvs.last().expect("a chunk that was cut short has keys");
        self.query.range = self.query.range.after(&last.key);
        let bytes = chunk.encoded_len();
        if bytes < self.bytes / 2 {
            self.query.limit *= 2;
        } else if bytes > self.bytes * 2 {
            self.query.limit = (self.query.limit / 2).max(1);
        }
        self.query.limit = self.query.limit.min(self.left);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt, StreamExt, future::ready};

    use super::*;
    use crate::{
        mvcc::RangeResult,
        types::{KeyRange, KeyValue},
    };

    /// `count` keys with values of `value_bytes`, in a store whose revision rises with each read.
    struct Tape {
        kvs: Vec<KeyValue>,
        rev: i64,
        asked: Vec<(i64, i64)>,
    }

    impl Tape {
        fn new(count: usize, value_bytes: usize) -> Tape {
            let kv = |number| KeyValue {
                key: format!("k{number:04}").into(),
                value: vec![7; value_bytes].into(),
                ..KeyValue::default()
            };
            Tape { kvs: (0..count).map(kv).collect(), rev: 100, asked: Vec::new() }
        }

        fn read(&mut self, query: &Range) -> Read {
            self.asked.push((query.rev, query.limit));
            self.rev += 1;
            let all: Vec<_> = self.kvs.iter().filter(|kv| query.range.contains(&kv.key)).cloned().collect();
            let limit = query.limit as usize;
            let result = RangeResult {
                more: all.len() > limit,
                count: all.len() as i64,
                kvs: all.into_iter().take(limit).collect(),
            };
            Ok((ResponseHeader { revision: self.rev, member_id: 9, ..Default::default() }, result))
        }
    }

    fn chunks(tape: &mut Tape, query: Range, bytes: usize) -> Vec<RangeResponse> {
        let chunks = Chunks::new(query, bytes, |query: Range, _| ready(tape.read(&query)));
        let stream = stream::try_unfold(chunks, Chunks::next);
        let chunks: Vec<_> = stream.collect().now_or_never().expect("reading never waits");
        let response = |chunk: Result<RangeStreamResponse, Status>| {
            chunk.expect("reading succeeds").range_response.expect("a chunk has a response")
        };
        chunks.into_iter().map(response).collect()
    }

    fn all() -> Range {
        Range::of(KeyRange::all())
    }

    fn check(tape: &mut Tape, query: Range, keys: usize, more: bool) -> Vec<RangeResponse> {
        let count = tape.kvs.iter().filter(|kv| query.range.contains(&kv.key)).count() as i64;
        let expected: Vec<Bytes> = tape.kvs.iter().take(keys).map(|kv| kv.key.clone()).collect();
        let chunks = chunks(tape, query, 1000);
        let got: Vec<Bytes> = chunks.iter().flat_map(|chunk| &chunk.kvs).map(|kv| kv.key.clone()).collect();
        assert_eq!(got, expected);
        let (last, before) = chunks.split_last().expect("there is at least one");
        for chunk in before {
            assert_eq!((chunk.header, chunk.more, chunk.count), (None, false, 0));
        }
        let header = last.header.expect("the last one has a header");
        assert_eq!((header.revision, header.member_id), (101, 9), "the first chunk's header");
        assert_eq!((last.more, last.count), (more, count));
        chunks
    }

    #[test]
    fn a_stream_delivers_the_range_once_and_sums_up_at_the_end() {
        for count in [0, 1, 9, 10, 11, 30, 31, 500] {
            check(&mut Tape::new(count, 1), all(), count, false);
        }
    }

    #[test]
    fn a_limit_holds_for_the_stream_and_not_for_its_chunks() {
        for limit in [1, 9, 10, 11, 25, 99] {
            let query = Range { limit, ..all() };
            check(&mut Tape::new(100, 1), query, limit as usize, true);
        }
        check(&mut Tape::new(100, 1), Range { limit: 100, ..all() }, 100, false);
        check(&mut Tape::new(100, 1), Range { limit: -1, ..all() }, 100, false);
    }

    #[test]
    fn all_chunks_are_read_at_the_revision_of_the_first() {
        let mut tape = Tape::new(40, 1);
        check(&mut tape, all(), 40, false);
        let revs: Vec<i64> = tape.asked.iter().map(|(rev, _)| *rev).collect();
        assert_eq!(revs, [0, 101, 101]);

        let mut tape = Tape::new(40, 1);
        check(&mut tape, Range { rev: 55, ..all() }, 40, false);
        assert!(tape.asked.iter().all(|(rev, _)| *rev == 55));
    }

    #[test]
    fn chunks_grow_while_they_are_light_and_shrink_when_they_are_heavy() {
        let limits = |value_bytes| {
            let mut tape = Tape::new(400, value_bytes);
            chunks(&mut tape, all(), 1000);
            tape.asked.iter().map(|(_, limit)| *limit).take(6).collect::<Vec<_>>()
        };
        assert_eq!(limits(1), [10, 20, 40, 80, 80, 80]);
        assert_eq!(limits(300), [10, 5, 5, 5, 5, 5]);
        assert_eq!(limits(5000), [10, 5, 2, 1, 1, 1]);
    }

    #[test]
    fn a_span_ends_where_it_ends() {
        let span = KeyRange::Span(Bytes::from_static(b"k0000"), Bytes::from_static(b"k0025"));
        check(&mut Tape::new(100, 1), Range::of(span), 25, false);
    }

    #[test]
    fn only_counting_takes_one_chunk() {
        let query = Range { count_only: true, ..all() };
        let read = |_: Range, _| {
            let result = RangeResult { kvs: Vec::new(), more: false, count: 3 };
            ready(Ok((ResponseHeader { revision: 4, ..Default::default() }, result)))
        };
        let stream = stream::try_unfold(Chunks::new(query, 1000, read), Chunks::next);
        let chunks: Vec<_> = stream.collect().now_or_never().expect("reading never waits");
        assert_eq!(chunks.len(), 1);
        let chunk = chunks[0].as_ref().expect("it succeeds").range_response.as_ref().expect("a response");
        assert_eq!((chunk.count, chunk.header.map(|header| header.revision)), (3, Some(4)));
    }
}
