//! Judge: a read at a past revision is of the state at that revision.
//!
//! "If revision is less or equal to zero, the range is over the newest key-value store. If the revision has been compacted,
//! ErrCompacted is returned" (etcd's rpc.proto, RangeRequest). A compaction keeps what is needed to read at its own
//! revision and at every later one, and the deletions of its own revision, for watchers that begin there.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    clients::{Shared, within},
    dice::Dice,
    judges::{
        history::{Change, ChangeKind, Stored},
        wire,
    },
    pb::etcdserverpb::{
        RangeRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
};

/// How many keys are read, each at a revision of its own.
const READS: usize = 60;

/// Reads keys at revisions from `from` to `until`, at any member. `changes` are all that there were.
pub(super) async fn check(
    shared: Arc<Shared>,
    dice: Dice,
    changes: Vec<Change>,
    (from, until): (i64, i64),
) -> Result<usize, String> {
    let mut judged = 0;
    for _ in 0..READS {
        let revision = dice.within(from as u64..until as u64 + 1) as i64;
        let key = &dice.one_of(&changes).key;
        let last =
            changes.iter().filter(|change| change.key == *key && change.stored.mod_revision <= revision);
        let last = last.max_by_key(|change| change.stored.mod_revision);
        let expected =
            last.filter(|change| change.kind == ChangeKind::Put).map(|change| change.stored.clone());
        let member = dice.below(shared.members as u64) as usize;
        let request = RangeRequest { key: key.clone().into(), revision, ..RangeRequest::default() };
        let found: Vec<Stored> = match within(KvClient::new(shared.wire(member)).range(request)).await {
            Ok(found) => wire::all(found.into_inner().kvs),
            // Somebody has compacted more meanwhile.
            Err(status) if status.code() == Code::OutOfRange => continue,
            Err(status) => {
                return Err(format!("m{member} did not read {key} at revision {revision}: {status}"));
            }
        };
        if found != Vec::from_iter(expected.clone()) {
            return Err(format!(
                "m{member} has {found:?} for {key} at revision {revision}; it was {expected:?}, compacted up to {from}"
            ));
        }
        judged += 1;
    }
    Ok(judged)
}

/// Watches from a revision on, which is a deletion of this key, up to which history was compacted, and the last revision.
pub(super) async fn watch_deletion(
    shared: Arc<Shared>,
    member: usize,
    revision: i64,
    key: String,
) -> Result<(), String> {
    let watching = async {
        let create = WatchCreateRequest {
            key: wire::start_of("").into(),
            range_end: wire::end_of("").into(),
            start_revision: revision,
            ..WatchCreateRequest::default()
        };
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(create).expect("there is room for one");
        let mut client = WatchClient::new(shared.wire(member));
        let mut responses = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
        loop {
            let response = responses.message().await?;
            let response = response.ok_or_else(|| Status::unavailable("the stream ended"))?;
            if !response.created || response.canceled {
                return Ok(response);
            }
        }
    };
    let response = within(watching).await.map_err(|status| {
        format!(
            "m{member} did not tell a watcher of revision {revision}, which is compacted, of it: {status}"
        )
    })?;
    let events: Vec<Change> = response.events.iter().cloned().map(wire::change).collect();
    let is_right = matches!(&events[..], [event]
        if event.kind == ChangeKind::Delete && event.key == key && event.stored.mod_revision == revision);
    is_right.then_some(()).ok_or_else(|| {
        format!("m{member} told of {response:?} instead of the deletion of {key} at {revision}")
    })
}
