//! Requests of operators to one member.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::{parse, render, session, status::Refusal, wrong_kind};
use crate::{
    apply::{self, Alarm, Command},
    config::{ETCD_CLUSTER_VERSION, ETCD_VERSION},
    node::{Node, Session, Snapshot},
    pb::etcdserverpb::{
        AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
        DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
        MoveLeaderRequest, MoveLeaderResponse, ResponseHeader, SnapshotRequest, SnapshotResponse,
        StatusRequest, StatusResponse, alarm_request::AlarmAction, downgrade_request::DowngradeAction,
        maintenance_server,
    },
    types::{MemberId, Rev},
};

#[derive(Clone)]
pub(crate) struct Maintenance {
    node: Node,
}

impl Maintenance {
    pub(crate) fn new(node: Node) -> Maintenance {
        Maintenance { node }
    }

    fn header(&self) -> ResponseHeader {
        self.header_at(self.node.rev())
    }

    fn header_at(&self, rev: Rev) -> ResponseHeader {
        render::header(&self.node, rev)
    }

    fn alarms(&self, rev: Rev, alarms: &[Alarm]) -> Response<AlarmResponse> {
        let alarms = alarms.iter().map(render::alarm).collect();
        Response::new(AlarmResponse { header: Some(self.header_at(rev)), alarms })
    }

    /// Raises or clears an alarm. A request with the type `NONE` does neither.
    async fn change_alarm(
        &self,
        session: &Session,
        request: &AlarmRequest,
        command: fn(Alarm) -> Command,
    ) -> Result<Response<AlarmResponse>, Status> {
        let Some(alarm) = parse::alarm(request) else {
            session.may_change_alarms()?;
            return Ok(self.alarms(self.node.rev(), &[]));
        };
        let outcome = session.propose(command(alarm)).await?;
        match outcome.result? {
            apply::Response::Alarm { alarms } => Ok(self.alarms(outcome.rev, &alarms)),
            other => Err(wrong_kind(&other)),
        }
    }

    /// A cluster can be downgraded by exactly one minor version.
    fn check_downgrade(&self, version: &str) -> Result<(), Refusal> {
        let target = parse::downgrade_target(version)?;
        let (major, minor) = cluster_version();
        if target == (major, minor - 1) { Ok(()) } else { Err(Refusal::InvalidDowngradeTargetVersion) }
    }
}

fn cluster_version() -> (u64, u64) {
    parse::downgrade_target(ETCD_CLUSTER_VERSION).expect("the cluster version is a version")
}

#[tonic::async_trait]
impl maintenance_server::Maintenance for Maintenance {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                session.read_barrier().await?;
                let mut alarms = session.alarms()?;
                if let Some(wanted) = parse::alarm(&request) {
                    alarms.retain(|alarm| alarm.kind == wanted.kind);
                } else if request.alarm != i32::from(AlarmType::None) {
                    alarms.clear();
                }
                Ok(self.alarms(self.node.rev(), &alarms))
            }
            Ok(AlarmAction::Activate) => self.change_alarm(&session, &request, Command::AlarmActivate).await,
            Ok(AlarmAction::Deactivate) => {
                self.change_alarm(&session, &request, Command::AlarmDeactivate).await
            }
            Err(_) => {
                session.may_change_alarms()?;
                Ok(self.alarms(self.node.rev(), &[]))
            }
        }
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let header = self.header();
        let status = session(&self.node, &request).await.status()?;
        Ok(Response::new(StatusResponse {
            header: Some(header),
            version: ETCD_VERSION.to_owned(),
            // Never 0, because clients divide by this size.
            db_size: status.db_size.max(1),
            db_size_in_use: status.db_size_in_use,
            db_size_quota: status.quota,
            leader: status.leader.0,
            raft_index: status.raft_index,
            raft_term: status.raft_term,
            raft_applied_index: status.raft_applied_index,
            errors: status.errors,
            is_learner: status.is_learner,
            storage_version: ETCD_CLUSTER_VERSION.to_owned(),
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        session(&self.node, &request).await.defragment().await?.map_err(Status::unknown)?;
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let (rev, hash) = session(&self.node, &request).await.hash().await?;
        Ok(Response::new(HashResponse { header: Some(self.header_at(rev)), hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let session = session(&self.node, &request).await;
        let hash = session.hash_kv(request.into_inner().revision).await?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.header_at(hash.rev_current)),
            hash: hash.hash,
            compact_revision: hash.rev_compacted.0,
            hash_revision: hash.rev_hashed.0,
        }))
    }

    type SnapshotStream = BoxStream<'static, Result<SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let snapshot = session(&self.node, &request).await.snapshot().await?;
        let total_bytes = snapshot.total_bytes;
        tracing::info!(total_bytes, "sending database snapshot to client");
        let image = stream::try_unfold(snapshot, |mut snapshot: Snapshot| async move {
            Ok(snapshot.next().await?.map(|piece| (piece, snapshot)))
        });
        Ok(Response::new(snapshot_messages(total_bytes, image.boxed()).boxed()))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let session = session(&self.node, &request).await;
        session.move_leader(MemberId(request.into_inner().target_id)).await?;
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        session.may_downgrade()?;
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => {
                session.before_downgrade().await?;
                self.check_downgrade(&request.version)?;
            }
            Ok(DowngradeAction::Enable) => {
                session.before_downgrade().await?;
                self.check_downgrade(&request.version)?;
                return Err(Status::unimplemented(
                    "retcd: a downgrade cannot be started, because etcd cannot read the data of retcd",
                ));
            }
            // No downgrade is in progress, so there is nothing to cancel, which is not an error.
            Ok(DowngradeAction::Cancel) => session.before_downgrade().await?,
            Err(_) => return Err(Refusal::UnknownDowngradeAction.into()),
        }
        let (major, minor) = cluster_version();
        let version = format!("{major}.{minor}");
        Ok(Response::new(DowngradeResponse { header: Some(self.header()), version }))
    }
}

/// The messages that send an image, one for each of its pieces, and after them one message with the SHA-256
/// of the image.
fn snapshot_messages(
    total_bytes: u64,
    image: BoxStream<'static, Result<Bytes, Status>>,
) -> impl stream::Stream<Item = Result<SnapshotResponse, Status>> + Send {
    let outgoing = Outgoing { image, remaining_bytes: total_bytes, digest: Some(Sha256::new()) };
    stream::try_unfold(outgoing, |mut outgoing| async move {
        Ok(outgoing.next().await?.map(|message| (message, outgoing)))
    })
}

struct Outgoing {
    image: BoxStream<'static, Result<Bytes, Status>>,
    remaining_bytes: u64,
    /// `None` once the digest was sent.
    digest: Option<Sha256>,
}

impl Outgoing {
    async fn next(&mut self) -> Result<Option<SnapshotResponse>, Status> {
        let Some(blob) = self.image.next().await.transpose()? else { return self.last() };
        self.digest.as_mut().expect("the digest is sent after the last piece").update(&blob);
        self.remaining_bytes = self
            .remaining_bytes
            .checked_sub(blob.len() as u64)
            .ok_or_else(|| Status::data_loss("the image is longer than announced"))?;
        Ok(Some(message(self.remaining_bytes, blob)))
    }

    fn last(&mut self) -> Result<Option<SnapshotResponse>, Status> {
        if self.remaining_bytes > 0 {
            return Err(Status::data_loss("the image is shorter than announced"));
        }
        Ok(self.digest.take().map(|digest| message(0, Bytes::copy_from_slice(&digest.finalize()))))
    }
}

fn message(remaining_bytes: u64, blob: Bytes) -> SnapshotResponse {
    SnapshotResponse { header: None, remaining_bytes, blob, version: ETCD_CLUSTER_VERSION.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::IMAGE_PIECE_BYTES;

    fn messages(total: u64, pieces: Vec<Vec<u8>>) -> Vec<Result<SnapshotResponse, Status>> {
        let image = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a plain runtime");
        runtime.block_on(snapshot_messages(total, image).collect())
    }

    #[test]
    fn an_image_comes_in_its_pieces_and_its_hash_last() {
        let image: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        let pieces: Vec<Vec<u8>> = image.chunks(IMAGE_PIECE_BYTES).map(<[u8]>::to_vec).collect();
        let messages: Vec<SnapshotResponse> =
            messages(100_000, pieces).into_iter().collect::<Result<_, _>>().expect("the image is whole");

        let (last, data) = messages.split_last().expect("there are messages");
        let mut received = Vec::new();
        for message in data {
            assert!(message.blob.len() <= IMAGE_PIECE_BYTES);
            received.extend_from_slice(&message.blob);
            assert_eq!(message.remaining_bytes, (image.len() - received.len()) as u64);
            assert_eq!((message.version.as_str(), message.header), ("3.7.0", None));
        }
        assert_eq!(received, image);
        assert_eq!(&last.blob[..], &Sha256::digest(&image)[..]);
        assert_eq!(last.remaining_bytes, 0);
    }

    #[test]
    fn an_image_of_another_length_than_announced_is_never_vouched_for() {
        for total in [3, 5] {
            let messages = messages(total, vec![vec![7; 4]]);
            assert!(messages.last().expect("there is an answer").is_err(), "announced {total}, sent 4");
        }
    }
}
