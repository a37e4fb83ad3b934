//! Messages that no member sends, on the peer port of one.
//!
//! The ids that an envelope needs are told to every process that asks for the members, so any process
//! can send these messages. Each of them once stopped a member, and some of them every start after that.
//! A member refuses them, serves on, and starts again.

use std::{
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use futures_util::stream;
use prost::Message;
use tokio::time;
use tonic::{Code, Status, transport::Endpoint};

use crate::{
    cluster::{Cluster, Member},
    pb::retcd::{
        peer::{AppendPiece, Envelope, MembersRequest, RaftKind, RaftRequest, peer_client::PeerClient},
        raft::{AppendRequest, Entry, LogId, Membership, Vote, VoteRequest},
    },
    raw,
};

/// Of the protocol between members.
const VERSION: u32 = 3;

/// `EntryKind` of the log.
const BLANK: u32 = 0;
const MEMBERSHIP: u32 = 2;

/// How long a call may hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process can find out before it lies.
struct Seen {
    leader: u64,
    target: u64,
    term: u64,
    last: u64,
}

impl Seen {
    fn leader_vote(&self, term: u64) -> Option<Vote> {
        Some(Vote { term, voted_for: self.leader, committed: true })
    }

    fn append(&self, entries: Vec<Entry>) -> AppendRequest {
        AppendRequest {
            vote: self.leader_vote(self.term),
            previous: Some(LogId { term: self.term, index: self.last }),
            entries,
            committed: None,
        }
    }
}

fn blank(term: u64, index: u64) -> Entry {
    Entry { term, index, kind: BLANK, payload: Vec::new().into() }
}

async fn client_of(member: &Member) -> PeerClient<tonic::transport::Channel> {
    let url = format!("http://127.0.0.1:{}", member.peer_port);
    let channel = Endpoint::from_shared(url).expect("a loopback address is a URL").connect().await;
    PeerClient::new(channel.expect("the member listens to its peers"))
}

async fn envelope(member: &Member, from: u64) -> Envelope {
    let reply = client_of(member).await.members(MembersRequest { version: VERSION }).await;
    let reply = reply.expect("everybody is told the members").into_inner();
    Envelope { version: VERSION, cluster: reply.cluster, from, to: member.id().await, base: reply.base }
}

/// Sends one message in the name of `from`.
async fn send(member: &Member, from: u64, kind: RaftKind, message: Vec<u8>) -> Result<(), Status> {
    let envelope = Some(envelope(member, from).await);
    let request = RaftRequest { envelope, kind: kind.into(), message: message.into() };
    let mut client = client_of(member).await;
    let answered = async { client.raft(stream::iter([request])).await?.into_inner().message().await };
    let answered = time::timeout(PATIENCE, answered).await;
    answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("the call hangs"))).map(drop)
}

async fn see(cluster: &Cluster) -> (usize, Seen) {
    let leader = cluster.leader().await;
    let target = (leader + 1) % cluster.members.len();
    cluster.members[target].put("before", "v").await;
    let status = cluster.members[target].try_status().await.expect("it says how it is");
    let seen = Seen {
        leader: cluster.members[leader].id().await,
        target: cluster.members[target].id().await,
        term: status.raft_term,
        last: status.raft_index,
    };
    (target, seen)
}

fn assert_refused(answer: Result<(), Status>) {
    let refusal = answer.expect_err("it is refused");
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
}

/// The member serves, and does so after its next start.
async fn assert_outlived(cluster: &mut Cluster, target: usize) {
    cluster.members[target].put("after", "v").await;
    cluster.members[target].kill();
    cluster.members[target].start();
    cluster.members[target].put("after a start", "v").await;
    cluster.assert_equal().await;
}

/// One lie, in the name of the leader, to another member of three.
async fn lie(kind: RaftKind, message: impl FnOnce(&Seen) -> Vec<u8>) {
    let mut cluster = Cluster::found(3);
    let (target, seen) = see(&cluster).await;
    assert_refused(send(&cluster.members[target], seen.leader, kind, message(&seen)).await);
    cluster.members[target].wait_for_line("refused a request of a peer");
    assert_outlived(&mut cluster, target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_of_a_term_that_no_election_reaches() {
    lie(RaftKind::Append, |seen| {
        AppendRequest { vote: seen.leader_vote(u64::MAX), ..AppendRequest::default() }.encode_to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_of_a_term_that_no_election_reaches() {
    lie(RaftKind::Vote, |seen| {
        let vote = Some(Vote { term: u64::MAX, voted_for: seen.leader, committed: false });
        let last = Some(LogId { term: seen.term, index: seen.last + 1000 });
        VoteRequest { vote, last, leadership_transfer: true }.encode_to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_with_a_gap() {
    lie(RaftKind::Append, |seen| {
        let entries = vec![blank(seen.term, 500), blank(seen.term, 3)];
        AppendRequest { previous: None, ..seen.append(entries) }.encode_to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_whose_terms_fall() {
    lie(RaftKind::Append, |seen| {
        let (term, next) = (seen.term + 1, seen.last + 1);
        let entries = vec![blank(term, next), blank(0, next + 1)];
        AppendRequest { vote: seen.leader_vote(term), ..seen.append(entries) }.encode_to_vec()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_later_term_than_its_leader() {
    lie(RaftKind::Append, |seen| seen.append(vec![blank(u64::MAX, seen.last + 1)]).encode_to_vec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_that_nobody_votes_in() {
    lie(RaftKind::Append, |seen| {
        let payload = Membership::default().encode_to_vec().into();
        let entry = Entry { kind: MEMBERSHIP, payload, ..blank(seen.term, seen.last + 1) };
        seen.append(vec![entry]).encode_to_vec()
    })
    .await;
}

/// It would make the member a leader that nobody elected.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_the_name_of_the_member_itself() {
    let mut cluster = Cluster::found(3);
    let (target, seen) = see(&cluster).await;
    let vote = Some(Vote { term: seen.term + 1, voted_for: seen.target, committed: true });
    let message = AppendRequest { vote, ..AppendRequest::default() }.encode_to_vec();
    assert_refused(send(&cluster.members[target], seen.target, RaftKind::Append, message).await);
    assert_outlived(&mut cluster, target).await;
}

/// The same lies in a stream of appends, whose first message is honest.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_a_stream_of_appends() {
    let mut cluster = Cluster::found(3);
    let (target, seen) = see(&cluster).await;
    let member = &cluster.members[target];
    let honest = AppendRequest { previous: None, ..seen.append(Vec::new()) };
    let gap = seen.append(vec![blank(seen.term, seen.last + 2)]);
    let first = AppendPiece {
        envelope: Some(envelope(member, seen.leader).await),
        message: honest.encode_to_vec().into(),
    };
    let second = AppendPiece { envelope: None, message: gap.encode_to_vec().into() };
    let mut client = client_of(member).await;
    let answers = client.append(tokio_stream::iter([first, second])).await;
    let mut answers = answers.expect("the first message is accepted").into_inner();
    let answer = time::timeout(PATIENCE, answers.message()).await.expect("it answers");
    assert!(answer.expect("the first message is believed").is_some());
    let answer = time::timeout(PATIENCE, answers.message()).await.expect("it answers");
    assert_refused(answer.map(drop));
    assert_outlived(&mut cluster, target).await;
}

/// While a member follows a leader, only members may speak to it, and no other id becomes a series.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_no_member() {
    const STRANGER: u64 = 0xabad_1dea;
    let mut cluster = Cluster::found(3);
    let (target, seen) = see(&cluster).await;
    let vote = Some(Vote { term: seen.term + 1, voted_for: STRANGER, committed: true });
    let message = AppendRequest { vote, ..AppendRequest::default() }.encode_to_vec();
    let member = &cluster.members[target];
    assert_refused(send(member, STRANGER, RaftKind::Append, message).await);
    let metrics = crate::serving::metrics(member).await;
    assert!(metrics.contains(&format!("{:x}", seen.leader)), "members are counted");
    assert!(!metrics.contains(&format!("{STRANGER:x}")), "others are not");
    assert_outlived(&mut cluster, target).await;
}

/// A member without peers hears no leader but itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_member_listens_to_nobody() {
    let mut cluster = Cluster::found(1);
    let vote = Some(Vote { term: u64::MAX, voted_for: 7, committed: true });
    let message = AppendRequest { vote, ..AppendRequest::default() }.encode_to_vec();
    assert_refused(send(&cluster.members[0], 7, RaftKind::Append, message).await);
    assert_outlived(&mut cluster, 0).await;
}

/// Clients that connect to the leader's peer port, send pings and connect again when they are closed: writes go
/// on, and a member that starts meanwhile gets through to the leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_at_the_peer_port_of_the_leader() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader().await;
    let other = (leader + 1) % cluster.members.len();
    let is_over = Arc::new(AtomicBool::new(false));
    let port = cluster.members[leader].peer_port;
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let is_over = is_over.clone();
            thread::spawn(move || ping_until(port, &is_over))
        })
        .collect();
    for number in 0..100 {
        cluster.members[other].put(&format!("during/{number}"), "v").await;
    }
    cluster.members[other].kill();
    cluster.members[other].start();
    cluster.members[other].put("after a start", "v").await;
    is_over.store(true, Ordering::Relaxed);
    let closed: usize = floods.into_iter().map(|flood| flood.join().expect("it has not panicked")).sum();
    assert!(closed > 0, "connections were closed: {closed}");
    cluster.assert_equal().await;
}

/// How many connections were closed.
fn ping_until(port: u16, is_over: &AtomicBool) -> usize {
    let pings = raw::frame(raw::PING, 0, 0, &[0; 8]).repeat(64);
    let mut closed = 0;
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket of TCP");
        let mut sent = stream.write_all(&raw::greeting());
        while sent.is_ok() && !is_over.load(Ordering::Relaxed) {
            sent = stream.write_all(&pings);
        }
        closed += usize::from(sent.is_err());
    }
    closed
}
