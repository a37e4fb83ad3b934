//! Tunnels: connections that a member makes so that the other side can make requests on them.
//!
//! ```text
//! member A ---- dials ----> the peer port of B:  Tunnel(bytes each way)
//! member A serves peers <======== HTTP/2 in those bytes ======== member B, as if it had dialled A
//! ```
//!
//! Every member keeps one unused tunnel to each other member, on a connection of its own. Nothing is sent
//! over it until the other member uses it, which it does when this member's peer port does not answer
//! (`way.rs`); then this member opens the next tunnel. For the calls on it and for the services that
//! answer them, a tunnel is a connection like any other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time,
};

use super::{
    connection::{CallError, Link},
    peer::Peer,
    peers::Peers,
};
use crate::{limits, pb::retcd::peer::TunnelPiece, sockets::Io};

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the member closed the tunnel before it used it")]
    Closed,
    #[error("where the member is reached is not known")]
    Unknown,
}

/// The side that offers its services.
impl Peers {
    /// Keeps an unused tunnel to every other member, for as long as this runs. Tunnels that are used go to
    /// `serve`.
    pub(crate) async fn keep_tunnels(self: Arc<Peers>, serve: mpsc::Sender<Io>) {
        let mut addresses = self.addresses();
        // A set of one task ends that task when it is dropped.
        let mut kept: BTreeMap<u64, JoinSet<()>> = BTreeMap::new();
        loop {
            {
                let members = addresses.borrow_and_update();
                kept.retain(|member, _| members.contains_key(member));
                for &member in members.keys().filter(|member| **member != self.own()) {
                    kept.entry(member).or_insert_with(|| {
                        let mut task = JoinSet::new();
                        task.spawn(self.clone().keep_tunnel(member, serve.clone()));
                        task
                    });
                }
            }
            if addresses.changed().await.is_err() {
                return;
            }
        }
    }

    async fn keep_tunnel(self: Arc<Peers>, target: u64, serve: mpsc::Sender<Io>) {
        let mut link: Option<(Peer, Arc<dyn Link>)> = None;
        let places = Arc::new(Semaphore::new(limits::TUNNELS_USED));
        // The tunnels in use end with this task.
        let mut used = JoinSet::new();
        loop {
            while used.try_join_next().is_some() {}
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.offer(target, &mut link).await {
                Ok((io, carry)) => {
                    used.spawn(async move {
                        carry.await;
                        drop(place);
                    });
                    // The receiver is gone when this member stops.
                    let _ = serve.send(io).await;
                }
                Err(error) => {
                    tracing::debug!("peer-id" = format_args!("{target:x}"), %error, "no tunnel to a peer");
                    time::sleep(self.ways().silence_max()).await;
                }
            }
        }
    }

    /// Opens a tunnel and waits until the other member uses it. Returns the connection to serve, and a future
    /// that has to run while it is served.
    async fn offer(
        &self,
        target: u64,
        link: &mut Option<(Peer, Arc<dyn Link>)>,
    ) -> Result<(Io, impl Future<Output = ()> + Send + use<>), TunnelError> {
        let peer = self.address(target).ok_or(TunnelError::Unknown)?;
        let link = match link {
            Some((known, link)) if *known == peer => link,
            // Not through a tunnel of the other member: if neither port is reached, no tunnel helps.
            _ => &mut link.insert((peer.clone(), self.connector().connect(&peer)?)).1,
        };
        let (io, (reader, writer)) = pipe();
        let envelope = TunnelPiece { envelope: Some(self.envelope(target)), data: Bytes::new() };
        let pieces = stream::once(async { envelope }).chain(pieces_of(reader));
        let patience = self.ways().silence_max();
        let answer = time::timeout(patience, link.tunnel(pieces.boxed())).await;
        let mut answer = answer.map_err(|_| TunnelError::Silent(patience))??;
        let first = answer.next().await.ok_or(TunnelError::Closed)??;
        let data = stream::once(async { Ok(first) }).chain(answer);
        Ok((io, write_to(writer, data.map(|piece: Result<TunnelPiece, CallError>| Some(piece.ok()?.data)))))
    }
}

/// The side that uses the services of the other.
impl Peers {
    /// Takes a tunnel that a member has opened, to be used when the member's peer port does not answer.
    /// Returns what is sent to the member.
    pub(crate) fn take_tunnel<S>(&self, from: u64, data: S) -> impl Stream<Item = Bytes> + Send + use<S>
    where
        S: Stream<Item = Option<Bytes>> + Send + 'static,
    {
        let way = self.ways().to(from);
        let (io, (reader, writer)) = pipe();
        let number = way.offer(io);
        let end = way.tunnels_end();
        tokio::spawn(async move {
            write_to(writer, data).await;
            way.withdraw(number);
        });
        pieces_of(reader).map(|piece| piece.data).take_until(end)
    }
}

/// A connection in memory: one end as it is served or used, and the halves of the other end.
fn pipe() -> (Io, (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>)) {
    let (near, far) = tokio::io::duplex(limits::TUNNEL_BYTES);
    (Io::in_memory(near), tokio::io::split(far))
}

/// The bytes that the near end of a pipe writes.
fn pieces_of(reader: ReadHalf<DuplexStream>) -> impl Stream<Item = TunnelPiece> + Send {
    stream::unfold(reader, async |mut reader| {
        let mut data = BytesMut::with_capacity(limits::TUNNEL_PIECE_BYTES);
        let count = reader.read_buf(&mut data).await.ok()?;
        (count > 0).then(|| (TunnelPiece { envelope: None, data: data.freeze() }, reader))
    })
}

/// Writes `data` for the near end of a pipe to read, until the data end or there is an error (`None`).
async fn write_to(mut writer: WriteHalf<DuplexStream>, data: impl Stream<Item = Option<Bytes>>) {
    let mut data = std::pin::pin!(data);
    while let Some(Some(bytes)) = data.next().await {
        // The near end is gone if the connection was closed.
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}
