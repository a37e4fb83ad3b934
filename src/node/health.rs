//! How the members of the cluster are, as this member sees them.

use std::{sync::Arc, time::Instant};

use futures_util::future;
use tokio::sync::Mutex;

use super::{Member, Node};
use crate::{clock, limits, link::MemberStatus};

/// A member, and what it says of itself.
#[derive(Clone, Debug)]
pub(crate) struct MemberHealth {
    pub(crate) member: Member,
    /// Whether it is the member that was asked.
    pub(crate) is_this: bool,
    /// The error says why there is no answer.
    pub(crate) status: Result<MemberStatus, String>,
}

/// The last answers of all members. Whoever asks while the members are being asked gets the same answers, and so
/// does whoever asks shortly after: however many ask, each member is asked once a second.
#[derive(Debug, Default)]
pub(super) struct LastHealth(Mutex<Option<(Instant, Arc<[MemberHealth]>)>>);

impl Node {
    pub(super) async fn members_health(&self) -> Arc<[MemberHealth]> {
        let mut last = self.shared.last_health.0.lock().await;
        if let Some((at, health)) = &*last
            && clock::since(*at) < limits::MEMBER_STATUS_INTERVAL
        {
            return health.clone();
        }
        let asked = self.members().into_iter().map(|member| self.member_health(member));
        let health: Arc<[MemberHealth]> = future::join_all(asked).await.into();
        *last = Some((clock::now(), health.clone()));
        health
    }

    async fn member_health(&self, member: Member) -> MemberHealth {
        let (_, own) = self.ids();
        let is_this = member.id == own;
        let status = if is_this {
            Ok(self.own_status())
        } else if let Some(peer) = self.shared.consensus.peer(member.id.0) {
            let answer = self.shared.peers.ask_status(member.id.0, &peer, limits::MEMBER_STATUS_TIMEOUT);
            answer.await.map_err(|error| error.reason().to_owned())
        } else {
            Err("this member does not know yet where it is reached".to_owned())
        };
        MemberHealth { member, is_this, status }
    }

    pub(super) fn own_status(&self) -> MemberStatus {
        let status = self.status();
        MemberStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rev: self.rev().0,
            term: status.raft_term,
            leader: status.leader.0,
            db_bytes: status.db_size,
            db_in_use_bytes: status.db_size_in_use,
            quota_bytes: status.quota,
            errors: status.errors,
        }
    }
}
