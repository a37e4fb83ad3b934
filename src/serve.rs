//! Listeners, and the reactors that own the accepted connections.
//!
//! ```text
//! listener --- accept ---> reactor 0 (one thread, one runtime, its connections)
//!                    \---> reactor 1
//! ```
//!
//! A connection belongs to one reactor from accept to close, and a reactor is one thread. Only the command of
//! a request is passed to another thread, the core, which returns the outcome. A TLS handshake is a task of the
//! reactor, too: it takes as long as the client likes, and meanwhile the other connections are served.

use std::{panic, sync::Arc, thread::JoinHandle};

use futures_util::future;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    runtime,
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    task::{JoinError, JoinSet},
    time,
};

use crate::{
    console, gateway,
    http::{self, Load, Methods, PeerServices, Protocols, V2Gate},
    limits,
    node::Node,
    profile, rpc,
    sockets::{Accepted, Bound, Listener, Places, Registered},
    threads,
};

/// A listener for clients, and the protocols that are served on it.
pub(crate) struct Port {
    pub(crate) listener: Listener,
    pub(crate) protocols: Protocols,
}

/// An accepted connection that is passed to its reactor.
type Handover = (Accepted, Protocols);

/// The running reactors.
pub(crate) struct Front {
    handovers: Vec<mpsc::Sender<Handover>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<watch::Sender<bool>>,
}

impl Front {
    pub(crate) fn start(node: &Node) -> Front {
        let (stop, stopping) = watch::channel(false);
        let load = Load::new();
        let v2 = V2Gate::new();
        let shared = gateway::Shared::new(node.config(), load.clone());
        let (mut handovers, mut threads) = (Vec::new(), Vec::new());
        for number in 0..node.config().reactors {
            let (handover, connections) = mpsc::channel(limits::ACCEPT_QUEUE);
            let (node, load, stopping) = (node.clone(), load.clone(), stopping.clone());
            let (v2, shared) = (v2.clone(), shared.clone());
            let name = format!("retcd-reactor-{number}");
            let thread =
                threads::spawn(&name, move || reactor(&node, load, &v2, shared, connections, stopping));
            handovers.push(handover);
            threads.push(thread);
        }
        Front { handovers, threads, stop: Arc::new(stop) }
    }

    /// Accepts connections at `port` and passes them to the reactors in turn, until dropped.
    pub(crate) async fn accept(&self, port: Port) {
        for turn in 0.. {
            let connection = (port.listener.accept().await, port.protocols);
            if deal(&self.handovers, turn % self.handovers.len(), connection).await.is_err() {
                return;
            }
        }
    }

    /// Gives the connections a moment to finish the requests in progress, and closes them.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        drop(self.handovers);
        for thread in self.threads {
            threads::join(thread);
        }
    }
}

/// All reactors have ended.
#[derive(Debug)]
struct Gone;

/// Passes a connection to the reactor with the shortest queue; among equal ones, to the first from `turn` on.
/// So a busy reactor gets only as many connections as it accepts, and the others get the rest.
async fn deal<T>(reactors: &[mpsc::Sender<T>], turn: usize, mut connection: T) -> Result<(), Gone> {
    loop {
        let (before, from) = reactors.split_at(turn);
        let in_turn = from.iter().chain(before).filter(|reactor| !reactor.is_closed());
        // Reversed, because `max_by_key` finds the last of equal ones.
        let emptiest = in_turn.rev().max_by_key(|reactor| reactor.capacity()).ok_or(Gone)?;
        connection = match emptiest.try_send(connection) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(connection)) => connection,
            Err(TrySendError::Full(connection)) => {
                let open = reactors.iter().filter(|reactor| !reactor.is_closed());
                let mut rooms = open.map(|reactor| Box::pin(reactor.reserve())).peekable();
                if rooms.peek().is_none() {
                    return Err(Gone);
                }
                // A reactor that has ended meanwhile is left out the next time.
                if let (Ok(room), ..) = future::select_all(rooms).await {
                    room.send(connection);
                    return Ok(());
                }
                connection
            }
        };
    }
}

/// Serves peers on `sockets`, on the current runtime, until that ends.
pub(crate) async fn serve_peers(node: Node, sockets: Vec<Bound>, places: Places) {
    let methods = Methods { services: rpc::PEER_SERVICES, client_streams: rpc::PEER_CLIENT_STREAMS };
    let services = PeerServices::new(rpc::peer_routes(&node), methods);
    let ports = sockets.into_iter().map(async |socket| {
        let listener = match socket.listen(places.clone()) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "failed to serve peers on one of --listen-peer-urls");
                return;
            }
        };
        tracing::info!(address = %listener.address(), "serving peer traffic");
        let mut handshakes = JoinSet::new();
        let mut door = None;
        let next = async || {
            services.has_room().await;
            listener.accept().await
        };
        // Not dropped while it waits: it may hold a connection that waits for a place.
        let mut accept = Box::pin(next());
        loop {
            tokio::select! { biased;
                Some(opened) = handshakes.join_next() => {
                    if let Some(io) = finished(opened) {
                        services.serve(io);
                    }
                }
                accepted = &mut accept => {
                    accept.set(next());
                    match accepted.register() {
                        Ok(Registered::Open(io)) => services.serve(io),
                        Ok(Registered::Handshake(handshake)) => {
                            let door = door.get_or_insert_with(Door::open);
                            handshakes.spawn_on(handshake, &door.runtime);
                        }
                        Err(error) => tracing::warn!(%error, "cannot serve a connection of a peer"),
                    }
                }
            }
        }
    });
    let tunnels = async {
        while let Some(io) = node.next_tunnel().await {
            services.serve(io);
        }
    };
    future::join(future::join_all(ports), tunnels).await;
}

/// The thread of the TLS handshakes of peers. Their arithmetic takes longer than a message of consensus may wait
/// for the core thread. The connections belong to the core thread all the same, and are served there afterwards.
struct Door {
    runtime: runtime::Handle,
    /// Dropping it ends the thread.
    _open: oneshot::Sender<()>,
}

impl Door {
    fn open() -> Door {
        let runtime = runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime needs nothing but memory");
        let handle = runtime.handle().clone();
        let (open, closed) = oneshot::channel();
        // It ends with the process, or when nobody makes handshakes any more.
        drop(threads::spawn("retcd-handshake", move || drop(runtime.block_on(closed))));
        Door { runtime: handle, _open: open }
    }
}

/// The connection that a handshake has made, unless it was refused.
fn finished<T>(handshake: Result<Option<T>, JoinError>) -> Option<T> {
    handshake.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => panic::resume_unwind(panic),
        // Nobody aborts a handshake whose result is still asked for.
        Err(_) => None,
    })
}

/// Runs one reactor until it is stopped.
fn reactor(
    node: &Node,
    load: Arc<Load>,
    v2: &Arc<V2Gate>,
    shared: gateway::Shared,
    mut connections: mpsc::Receiver<Handover>,
    mut stopping: watch::Receiver<bool>,
) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs nothing but memory and a few descriptors");
    runtime.block_on(async {
        let (node, hand_out) = node.for_reactor();
        tokio::spawn(hand_out);
        let methods = Methods { services: rpc::SERVICES, client_streams: rpc::CLIENT_STREAMS };
        let grpc = rpc::routes(&node);
        let json = gateway::routes(node.config(), grpc.clone().into_axum_router(), shared);
        let mut more = http::v2_routes(&node, v2).merge(json);
        if node.config().console {
            more = more.merge(console::router(&node));
        }
        if node.config().pprof {
            more = more.merge(profile::router());
        }
        let services = http::Services::new(&node, grpc, methods, more, load);
        let graceful = GracefulShutdown::new();
        // Handshakes that are not finished end with the reactor.
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! { biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                Some(opened) = handshakes.join_next() => {
                    if let Some((io, protocols)) = finished(opened) {
                        services.serve(io, protocols, &graceful);
                    }
                }
                connection = connections.recv() => match connection {
                    Some((connection, protocols)) => match connection.register() {
                        Ok(Registered::Open(io)) => services.serve(io, protocols, &graceful),
                        Ok(Registered::Handshake(handshake)) => {
                            handshakes.spawn(async move { Some((handshake.await?, protocols)) });
                        }
                        Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                    },
                    None => break,
                },
            }
        }
        // Streams do not end by themselves, so the remaining connections are closed.
        let _ = time::timeout(limits::DRAIN_TIMEOUT, graceful.shutdown()).await;
    });
    // Blocking work whose caller has ended must not delay the end of the process.
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_reactor_that_takes_nothing_holds_up_nobody() {
        let (stuck, mut waiting) = mpsc::channel(limits::ACCEPT_QUEUE);
        let (quick, mut served) = mpsc::channel(limits::ACCEPT_QUEUE);
        let reactors = [stuck, quick];
        let count = 3 * limits::ACCEPT_QUEUE;
        let mut taken = 0;
        for number in 0..count {
            deal(&reactors, number % 2, number).now_or_never().expect("there is room").expect("both run");
            while served.try_recv().is_ok() {
                taken += 1;
            }
        }
        assert_eq!((taken, waiting.len()), (count - 1, 1), "only the first of its own waits there");
        assert_eq!(waiting.recv().await, Some(0));
    }

    #[tokio::test]
    async fn connections_are_dealt_out_in_turn() {
        let (reactors, mut queues): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel(4)).unzip();
        for number in 0..9 {
            deal(&reactors, number % 3, number).await.expect("all run");
        }
        for (number, queue) in queues.iter_mut().enumerate() {
            let dealt: Vec<usize> = (0..3).map(|_| queue.try_recv().expect("dealt")).collect();
            assert_eq!(dealt, [number, number + 3, number + 6]);
        }
    }

    #[tokio::test]
    async fn when_all_are_full_the_first_to_have_room_gets_it() {
        let (reactors, mut queues): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(1)).unzip();
        for number in 0..2 {
            deal(&reactors, number, number).await.expect("both run");
        }
        let mut next = Box::pin(deal(&reactors, 0, 2));
        assert!((&mut next).now_or_never().is_none(), "both are full");
        queues[1].recv().await.expect("one is taken");
        next.await.expect("there is room now");
        assert_eq!(queues[1].recv().await, Some(2));
        drop(queues);
        assert!(deal(&reactors, 0, 3).await.is_err(), "both have ended");
    }
}
