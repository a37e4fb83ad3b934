//! Whether the other members answer, and why one does not.
//!
//! Asked while there is no leader, for somebody who has to find out what to do about it. So a reason
//! names what a person can change: `connection refused`, not the layers above the socket that it
//! came through.

use std::{error::Error, io, time::Duration};

use tokio::time;
use tonic::{Code, Status};

use super::{
    peers::{PROTOCOL_VERSION, PeerError, Peers},
    typ::Peer,
};
use crate::pb::retcd::peer::{HelloRequest, MembersReply, MembersRequest};

/// What somebody outside is told by a member about its cluster.
#[derive(Clone, Debug)]
pub(crate) struct ToldMembers {
    pub(crate) cluster: u64,
    /// Ids and peer URLs.
    pub(crate) members: Vec<(u64, Vec<String>)>,
}

impl Peers {
    /// Whether `target` answers, and takes this member for a member of its cluster.
    pub(crate) async fn greet(&self, target: u64, peer: &Peer, patience: Duration) -> Result<(), PeerError> {
        let mut client = self.channel(target, peer)?;
        let request = HelloRequest { envelope: Some(self.envelope(target)), was_removed: false };
        self.answer(target, peer, patience, client.hello(request)).await.map(drop)
    }

    /// Whether this very member answers at `urls`, as seen from here.
    pub(crate) async fn greet_own(&self, urls: &[String], patience: Duration) -> Result<(), String> {
        let peer = Peer { peer_urls: urls.to_vec(), is_learner: false };
        let mut client = Peers::client(Peers::connect(&peer).map_err(|error| error.to_string())?);
        let request = HelloRequest { envelope: Some(self.envelope(self.own())), was_removed: false };
        answered(patience, client.hello(request)).await.map(drop)
    }

    /// Tells `target` that it was removed from the cluster, so that it looks for itself.
    pub(crate) async fn tell_removed(
        &self,
        target: u64,
        peer: &Peer,
        patience: Duration,
    ) -> Result<(), String> {
        let mut client = Peers::client(Peers::connect(peer).map_err(|error| error.to_string())?);
        let request = HelloRequest { envelope: Some(self.envelope(target)), was_removed: true };
        answered(patience, client.hello(request)).await.map(drop)
    }

    /// Who belongs to the cluster of whoever listens at `urls`.
    pub(crate) async fn ask_members(urls: &[String], patience: Duration) -> Result<ToldMembers, String> {
        let peer = Peer { peer_urls: urls.to_vec(), is_learner: false };
        let mut client = Peers::client(Peers::connect(&peer).map_err(|error| error.to_string())?);
        let request = MembersRequest { version: PROTOCOL_VERSION };
        let MembersReply { cluster, members, .. } = answered(patience, client.members(request)).await?;
        let members = members.into_iter().map(|member| (member.id, member.peer_urls)).collect();
        Ok(ToldMembers { cluster, members })
    }
}

async fn answered<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, String> {
    match time::timeout(patience, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(reason(&status)),
        Err(_) => Err(format!("no answer within {patience:?}")),
    }
}

/// Why a call to a peer failed, for a person.
pub(super) fn reason(status: &Status) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    let mut innermost = None;
    while let Some(error) = cause {
        innermost = error.downcast_ref::<io::Error>().or(innermost);
        cause = error.source();
    }
    match innermost {
        Some(error) => plain(error),
        None if status.code() == Code::Unimplemented => {
            "whoever answers there does not speak the protocol of this version of retcd between members"
                .to_owned()
        }
        None => status.message().to_owned(),
    }
}

/// The words of the system, without its numbers, as etcd has them.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    match error.kind() {
        io::ErrorKind::TimedOut if error.raw_os_error().is_none() => "no connection in time".to_owned(),
        _ => {
            let mut letters = text.chars();
            letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_what_the_system_said() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(plain(&refused), "connection refused");
        assert_eq!(plain(&io::Error::from(io::ErrorKind::TimedOut)), "no connection in time");
        assert_eq!(
            plain(&io::Error::other("failed to lookup address information: Name or service not known")),
            "failed to lookup address information: Name or service not known"
        );
        assert_eq!(reason(&Status::failed_precondition("cluster ID mismatch")), "cluster ID mismatch");
        let wrapped = Status::from_error(Box::new(io::Error::from_raw_os_error(113)));
        assert_eq!(reason(&wrapped), "no route to host");
    }
}
