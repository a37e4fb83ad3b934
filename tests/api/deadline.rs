//! `grpc-timeout`: a call ends at its deadline, and a call without any time left is not executed.

use tonic::{Code, Request, Response, Status};

use crate::{
    client::{Client, accepted, refused, soon},
    pb::{etcdserverpb::*, v3electionpb::*, v3lockpb::*},
    server::{serve, subject_is_retcd},
};

const PASSED: &str = "context deadline exceeded";

/// A request with this `grpc-timeout` for the server only. The client library of the test obeys the first
/// value of the header; the server takes the last.
fn within<T>(timeout: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for timeout in ["1H", timeout] {
        let timeout = timeout.parse().expect("a header takes it");
        request.metadata_mut().append("grpc-timeout", timeout);
    }
    request
}

fn put(timeout: &str) -> Request<PutRequest> {
    within(timeout, PutRequest { key: "k".into(), value: timeout.to_owned().into(), ..Default::default() })
}

fn passed<T: std::fmt::Debug>(answer: Result<T, Status>) {
    refused(answer, Code::DeadlineExceeded, PASSED);
}

/// As [`passed`], for a call that was running. There etcd resets the stream, and the client's library reports
/// the error by its own clock. An answer from the server is as good for that client, and better for a client
/// whose clock is slow.
fn ended_at_deadline<T: std::fmt::Debug>(answer: Result<T, Status>) {
    if subject_is_retcd() {
        return passed(answer);
    }
    let status = answer.expect_err("the deadline has passed");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
}

#[tokio::test]
async fn a_put_without_time_left_is_not_executed() {
    let (_server, client) = serve();
    for timeout in ["0H", "0n", "1n", "00000001n"] {
        passed(client.kv().put(put(timeout)).await);
        assert_eq!(client.get("k").await, None, "{timeout}");
    }
    for timeout in ["9S", "9000m", "1M", "99999999H"] {
        accepted("put", client.kv().put(put(timeout)).await);
        assert_eq!(client.get("k").await.expect("it was put").value, timeout);
    }
}

#[tokio::test]
async fn a_malformed_timeout_is_refused_as_grpc_go_does() {
    let (_server, client) = serve();
    for (timeout, reason) in [
        ("S", r#"transport: timeout string is too short: "S""#),
        ("123456789S", r#"transport: timeout string is too long: "123456789S""#),
        ("1s", r#"transport: timeout unit is not recognized: "1s""#),
        ("-1S", r#"strconv.ParseUint: parsing "-1": invalid syntax"#),
    ] {
        let answer = client.kv().put(put(timeout)).await;
        refused(answer, Code::Internal, &format!("malformed grpc-timeout: {reason}"));
    }
    assert_eq!(client.get("k").await, None);
}

/// The end of a stream, after any messages.
async fn end_of<T: std::fmt::Debug>(
    answer: Result<Response<tonic::Streaming<T>>, Status>,
) -> Result<(), Status> {
    let mut stream = answer?.into_inner();
    while soon("the stream's end", stream.message()).await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn streams_end_at_their_deadline() {
    let (_server, client) = serve();
    let timeout = "300m";
    let create = WatchCreateRequest { key: "k".into(), ..Default::default() };
    let union = watch_request::RequestUnion::CreateRequest(create);
    let watch = tokio_stream::once(WatchRequest { request_union: Some(union) });
    let keep_alive = tokio_stream::once(LeaseKeepAliveRequest { id: 7 });
    let (mut watches, mut leases, mut election) = (client.watches(), client.leases(), client.election());
    // The streams of requests stay open.
    let watch = within(timeout, tokio_stream::StreamExt::chain(watch, tokio_stream::pending()));
    let keep_alive = within(timeout, tokio_stream::StreamExt::chain(keep_alive, tokio_stream::pending()));
    let observe = within(timeout, LeaderRequest { name: "nobody".into() });
    let (watch, keep_alive, observe) = tokio::join!(
        async { end_of(watches.watch(watch).await).await },
        async { end_of(leases.lease_keep_alive(keep_alive).await).await },
        async { end_of(election.observe(observe).await).await },
    );
    ended_at_deadline(watch);
    ended_at_deadline(keep_alive);
    ended_at_deadline(observe);
}

async fn wait_for_delete(client: &Client, key: &'static str) {
    let create = WatchCreateRequest {
        key: key.into(),
        start_revision: 1,
        filters: vec![watch_create_request::FilterType::Noput.into()],
        ..Default::default()
    };
    client.watch(create).await.events(1).await;
}

#[tokio::test]
async fn who_waits_for_a_lock_or_an_election_waits_until_the_deadline() {
    let (_server, client) = serve();
    for lease in [1, 2, 3] {
        client.grant(600, lease).await;
    }
    let lock = |lease| LockRequest { name: "job".into(), lease };
    let campaign = |lease| CampaignRequest { name: "race".into(), lease, value: "v".into() };
    accepted("lock", client.lock().lock(lock(1)).await);
    accepted("campaign", client.election().campaign(campaign(1)).await);

    ended_at_deadline(soon("the end", client.lock().lock(within("300m", lock(2)))).await);
    wait_for_delete(&client, "job/2").await;
    ended_at_deadline(soon("the end", client.election().campaign(within("300m", campaign(3)))).await);
    wait_for_delete(&client, "race/3").await;
    assert!(client.get("job/1").await.is_some() && client.get("race/1").await.is_some());
}
