//! A peer in memory in the place of the network, and the window of unanswered messages against it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future, stream::BoxStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Appends, DedicatedLink, Peer, Peers, Piece,
    appends::AppendError,
    connection::{Call, CallError, Connector, Link, Questions, Replies},
    exchange::Exchange,
    way::Way,
};
use crate::{
    config::Config,
    limits,
    pb::retcd::peer::{
        AppendPiece, ChangeReply, ChangeRequest, ContactsReply, ContactsRequest, Envelope, HelloReply,
        HelloRequest, HistoryReply, HistoryRequest, LeaseReply, LeaseRequest, MembersReply, MembersRequest,
        ProposeReply, ProposeRequest, RaftReply, RaftRequest, ReadIndexReply, ReadIndexRequest,
        SnapshotPiece, StatusReply, StatusRequest, TunnelPiece,
    },
    sockets::Dialer,
    telemetry::Metrics,
    tls::Trust,
};

/// More than anything takes here.
const SOON: Duration = Duration::from_secs(10);

/// Only waited for where no answer comes.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);

/// Hands every stream of appends to the test.
#[derive(Clone)]
struct InMemory(mpsc::UnboundedSender<FarEnd>);

impl Connector for InMemory {
    fn connect(&self, _: &Peer) -> Result<Arc<dyn Link>, CallError> {
        Ok(Arc::new(self.clone()))
    }

    fn reach(&self, _: Arc<Way>, peer: &Peer) -> Result<Arc<dyn Link>, CallError> {
        self.connect(peer)
    }
}

fn not_asked<T: Send + 'static>() -> Call<T> {
    future::ready(Err(CallError::unusable("the test does not answer this call".to_owned()))).boxed()
}

impl Link for InMemory {
    fn raft(&self, _: Questions<RaftRequest>) -> Call<Replies<RaftReply>> {
        not_asked()
    }

    fn append(&self, arriving: Questions<AppendPiece>) -> Call<Replies<RaftReply>> {
        let (answers, answered) = mpsc::channel(2 * limits::APPENDS_IN_FLIGHT);
        if self.0.send(FarEnd { arriving, answers: Some(answers) }).is_err() {
            return not_asked();
        }
        future::ready(Ok(ReceiverStream::new(answered).boxed())).boxed()
    }

    fn snapshot(&self, _: Questions<SnapshotPiece>) -> Call<RaftReply> {
        not_asked()
    }

    fn tunnel(&self, _: Questions<TunnelPiece>) -> Call<Replies<TunnelPiece>> {
        not_asked()
    }

    fn propose(&self, _: ProposeRequest) -> Call<ProposeReply> {
        not_asked()
    }

    fn read_index(&self, _: Questions<ReadIndexRequest>) -> Call<Replies<ReadIndexReply>> {
        not_asked()
    }

    fn lease(&self, _: LeaseRequest) -> Call<LeaseReply> {
        not_asked()
    }

    fn change(&self, _: ChangeRequest) -> Call<ChangeReply> {
        not_asked()
    }

    fn members(&self, _: MembersRequest) -> Call<MembersReply> {
        not_asked()
    }

    fn hello(&self, _: HelloRequest) -> Call<HelloReply> {
        not_asked()
    }

    fn contacts(&self, _: ContactsRequest) -> Call<ContactsReply> {
        not_asked()
    }

    fn status(&self, _: StatusRequest) -> Call<StatusReply> {
        not_asked()
    }

    fn history(&self, _: HistoryRequest) -> Call<HistoryReply> {
        not_asked()
    }
}

/// The peer's end of a stream of appends.
pub(crate) struct FarEnd {
    arriving: BoxStream<'static, AppendPiece>,
    answers: Option<mpsc::Sender<Result<RaftReply, CallError>>>,
}

impl FarEnd {
    /// The messages that have arrived and were not taken.
    pub(crate) fn arrived(&mut self) -> Vec<Bytes> {
        let mut messages = Vec::new();
        while let Some(Some(piece)) = self.arriving.next().now_or_never() {
            messages.push(piece.message);
        }
        messages
    }

    /// Whether this member has said that no message follows.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.arriving.next().await.is_none()
    }

    pub(crate) fn answer(&self, message: Bytes) {
        self.send(Ok(RaftReply { message }));
    }

    pub(crate) fn refuse(&self) {
        self.send(Err(CallError::unusable("gone".to_owned())));
    }

    fn send(&self, answer: Result<RaftReply, CallError>) {
        let answers = self.answers.as_ref().expect("the peer has not hung up");
        answers.try_send(answer).expect("there is room for an answer");
    }

    pub(crate) fn hang_up(&mut self) {
        self.answers = None;
    }
}

/// A stream to a peer in memory, on which `first` was sent.
pub(crate) async fn stream_to_peer(first: Bytes) -> (Appends, FarEnd) {
    let (_, stream, peer) = connected(first).await;
    (stream, peer)
}

async fn connected(first: Bytes) -> (Arc<Peers>, Appends, FarEnd) {
    let (streams, mut opened) = mpsc::unbounded_channel();
    let metrics = Arc::new(Metrics::new(&Config::of_flags(&[])));
    let peers = Arc::new(Peers::new(1, 7, None, Arc::new(InMemory(streams)), PATIENCE, metrics));
    let mut link = DedicatedLink::new(peers.clone(), 8, &Peer::default());
    let stream = link.append(first, PATIENCE).await.expect("the peer accepts the stream");
    (peers, stream, opened.recv().await.expect("the stream was opened"))
}

/// Peers of member `own`, none of which answers.
pub(crate) fn unreachable_peers(own: u64, metrics: Arc<Metrics>) -> Arc<Peers> {
    let (streams, _) = mpsc::unbounded_channel();
    Arc::new(Peers::new(1, own, None, Arc::new(InMemory(streams)), PATIENCE, metrics))
}

fn message(bytes: usize) -> Bytes {
    vec![7; bytes].into()
}

fn fill(stream: &mut Appends, bytes: usize) -> usize {
    let mut sent = 0;
    while stream.has_room() {
        stream.send(message(bytes));
        sent += 1;
    }
    sent
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_sent_one_window_and_given_up() {
    let (mut stream, mut peer) = stream_to_peer(message(1)).await;
    assert_eq!(fill(&mut stream, 1) + 1, limits::APPENDS_IN_FLIGHT);
    assert_eq!(peer.arrived().len(), limits::APPENDS_IN_FLIGHT);
    let error = stream.answer().await.expect_err("no answer comes");
    assert!(matches!(error, AppendError::Peer(_)), "{error}");
}

#[tokio::test]
async fn large_messages_fill_the_window_sooner() {
    let (mut stream, mut peer) = stream_to_peer(message(1)).await;
    let large = 1_000_000;
    assert_eq!(fill(&mut stream, large), limits::APPENDS_IN_FLIGHT_BYTES.div_ceil(large));
    peer.arrived();
    peer.answer(message(1));
    stream.answer().await.expect("answered");
    peer.answer(message(1));
    stream.answer().await.expect("answered");
    assert_eq!(fill(&mut stream, large), 1, "an answer makes room for as much as it answers");
}

#[tokio::test]
async fn a_stream_that_is_closed_ends_with_the_last_answer() {
    let (mut stream, mut peer) = stream_to_peer(message(1)).await;
    stream.send(message(2));
    stream.close();
    assert!(!stream.has_room());
    for number in 1..=2 {
        peer.answer(message(number));
        assert_eq!(stream.answer().await.expect("answered"), Some(message(number)));
    }
    assert_eq!(stream.answer().await.expect("no error"), None);
    assert_eq!(peer.arrived().len(), 2);
    assert!(peer.is_closed().await);
}

#[tokio::test]
async fn a_stream_that_breaks_is_an_error() {
    let (mut stream, peer) = stream_to_peer(message(1)).await;
    peer.refuse();
    assert!(matches!(stream.answer().await, Err(AppendError::Peer(_))));
    let (mut stream, mut peer) = stream_to_peer(message(1)).await;
    peer.hang_up();
    assert!(matches!(stream.answer().await, Err(AppendError::Ended)));
    let (mut stream, peer) = stream_to_peer(message(1)).await;
    peer.answer(message(1));
    peer.answer(message(1));
    stream.answer().await.expect("answered");
    assert!(matches!(stream.answer().await, Err(AppendError::Unasked)));
}

#[tokio::test]
async fn a_stream_ends_when_the_peer_moves() {
    let (peers, mut stream, peer) = connected(message(1)).await;
    assert!(!stream.has_moved());
    let moved = Peer { peer_urls: vec!["http://elsewhere:1".to_owned()], is_learner: false };
    peers.moved_to(BTreeMap::from([(8, moved)]));
    assert!(stream.has_moved());
    peer.answer(message(1));
    assert_eq!(stream.answer().await.expect("what was answered before counts"), Some(message(1)));
    assert_eq!(stream.answer().await.expect("no error"), None);
}

#[test]
fn a_part_is_split_into_pieces_that_fit_a_message() {
    let part = message(2 * limits::SNAPSHOT_PIECE_BYTES + 1);
    let pieces = Piece::of(part.clone());
    assert_eq!(pieces.iter().map(|piece| piece.is_continued).collect::<Vec<_>>(), [true, true, false]);
    assert!(pieces.iter().all(|piece| piece.crc32c == crc32c::crc32c(&piece.data)));
    assert_eq!(pieces.iter().flat_map(|piece| piece.data.to_vec()).collect::<Vec<_>>(), part);
    assert_eq!(Piece::of(Bytes::new()).len(), 1, "a part without content is a piece");
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_until_it_is_ended() {
    let (peers, _stream, _peer) = connected(Bytes::new()).await;
    let (send, data) = mpsc::channel(1);
    let mut sent = Box::pin(peers.take_tunnel(8, ReceiverStream::new(data)));
    let way = peers.ways().to(8);
    let nowhere = Dialer::new(&[], &Trust::of_the_system());
    let mut connection = way.clone().dial(&nowhere).await.expect("the tunnel is used");
    assert!(way.clone().dial(&nowhere).await.is_err(), "it is used once");
    connection.write_all(b"question").await.expect("it is taken");
    assert_eq!(sent.next().await.as_deref(), Some(&b"question"[..]));
    send.send(Some(Bytes::from_static(b"answer"))).await.expect("it is taken");
    let mut answer = [0; 6];
    connection.read_exact(&mut answer).await.expect("it arrives");
    assert_eq!(&answer, b"answer");
    way.end_tunnels();
    let end = time::timeout(SOON, sent.next()).await;
    assert_eq!(end, Ok(None), "the member is told that nothing comes any more");
    drop(send);
    assert_eq!(connection.read(&mut [0]).await.expect("the end arrives"), 0);
}

/// The peer's side of exchanges: each stream that is opened, with what was asked on it and a way to answer.
type Asked = (Questions<(bool, u32)>, mpsc::Sender<Result<u32, CallError>>);

async fn ask(
    exchange: &mut Exchange<(bool, u32), u32>,
    streams: &mpsc::UnboundedSender<Asked>,
    question: u32,
) -> Result<u32, CallError> {
    let open = |questions| {
        let (answers, answered) = mpsc::channel(2);
        streams.send((questions, answers)).expect("the test takes it");
        let replies: Replies<u32> = ReceiverStream::new(answered).boxed();
        future::ready(Ok(replies)).boxed()
    };
    exchange.ask(Envelope::default(), |envelope| (envelope.is_some(), question), open).await
}

#[tokio::test]
async fn questions_share_a_stream_and_the_first_has_the_envelope() {
    let (streams, mut opened) = mpsc::unbounded_channel::<Asked>();
    let mut exchange = Exchange::default();
    let peer = async {
        let (mut questions, answers) = opened.recv().await.expect("a stream");
        for number in 0..3 {
            assert_eq!(questions.next().await, Some((number == 0, number)));
            answers.send(Ok(10 + number)).await.expect("somebody waits");
        }
        assert_eq!(questions.next().await, None, "the stream ends with the exchange");
    };
    let asking = async {
        for number in 0..3 {
            assert_eq!(ask(&mut exchange, &streams, number).await, Ok(10 + number));
        }
        exchange.end();
    };
    tokio::join!(peer, asking);
    assert!(opened.try_recv().is_err(), "no other stream was opened");
}

#[tokio::test]
async fn a_question_that_was_given_up_takes_its_stream_with_it() {
    let (streams, mut opened) = mpsc::unbounded_channel::<Asked>();
    let mut exchange = Exchange::default();
    assert!(ask(&mut exchange, &streams, 1).now_or_never().is_none());
    let (_, late) = opened.try_recv().expect("a stream");
    assert!(late.is_closed(), "nobody waits for the late answer");
    let peer = async {
        let (mut questions, answers) = opened.recv().await.expect("another stream");
        assert_eq!(questions.next().await, Some((true, 2)));
        answers.send(Ok(20)).await.expect("somebody waits");
        (questions, answers)
    };
    let (kept, answer) = tokio::join!(peer, ask(&mut exchange, &streams, 2));
    assert_eq!(answer, Ok(20));
    assert!(ask(&mut exchange, &streams, 3).now_or_never().is_none());
    let (mut questions, late) = kept;
    assert_eq!(
        questions.next().now_or_never(),
        Some(Some((false, 3))),
        "it was asked on the stream that was kept"
    );
    assert!(late.is_closed(), "nobody waits for this late answer either");
    let peer = async {
        let (mut questions, answers) = opened.recv().await.expect("another stream");
        assert_eq!(questions.next().await, Some((true, 4)));
        answers.send(Ok(40)).await.expect("somebody waits");
    };
    let ((), answer) = tokio::join!(peer, ask(&mut exchange, &streams, 4));
    assert_eq!(answer, Ok(40));
}

#[tokio::test]
async fn a_stream_that_broke_between_questions_is_replaced_and_one_that_breaks_at_once_is_an_error() {
    let (streams, mut opened) = mpsc::unbounded_channel::<Asked>();
    let mut exchange = Exchange::default();
    let peer = async {
        let (_questions, answers) = opened.recv().await.expect("a stream");
        answers.send(Ok(1)).await.expect("somebody waits");
        drop((_questions, answers));
        let (mut questions, answers) = opened.recv().await.expect("another stream");
        assert_eq!(questions.next().await, Some((true, 2)));
        answers.send(Ok(2)).await.expect("somebody waits");
        answers.send(Err(CallError::unusable("restarting".to_owned()))).await.expect("there is room");
        let (_questions, answers) = opened.recv().await.expect("another stream");
        answers.send(Err(CallError::unusable("gone".to_owned()))).await.expect("somebody waits");
    };
    let asking = async {
        assert_eq!(ask(&mut exchange, &streams, 1).await, Ok(1));
        assert_eq!(ask(&mut exchange, &streams, 2).await, Ok(2));
        assert_eq!(ask(&mut exchange, &streams, 3).await, Err(CallError::unusable("gone".to_owned())));
    };
    tokio::join!(peer, asking);
}
