//! Judge: a read at a past revision is of the state at that revision.
//!
//! "If revision is less or equal to zero, the range is over the newest key-value store. If the revision has been compacted,
//! ErrCompacted is returned" (etcd's rpc.proto, RangeRequest). A compaction keeps what is needed to read at its own
//! revision and at every later one.

use std::sync::Arc;

use tonic::Code;

use super::{
    clients::{Shared, within},
    dice::Dice,
    judges::{
        history::{Change, ChangeKind, Stored},
        wire,
    },
    pb::etcdserverpb::{RangeRequest, kv_client::KvClient},
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
