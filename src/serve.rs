//! The front: sockets, and the reactors that own them.
//!
//! ```text
//! listener --- accept ---> reactor 0 (one thread, one runtime, its connections)
//!                    \---> reactor 1
//! ```
//!
//! A connection belongs to one reactor from accept to close, and a reactor is one thread. No
//! request is ever moved between threads but for its command, on the way to the core and back.

use std::{
    io,
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::Arc,
    thread::{self, JoinHandle},
};

use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{mpsc, watch},
    time,
};

use crate::{
    http::{self, Protocols},
    limits,
    node::Node,
    rpc,
};

/// A socket that clients can connect to, and what is spoken on it.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) protocols: Protocols,
}

/// Binds `address`. The error is a line for a person.
pub(crate) async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("another process (a running etcd or retcd?) uses that port; stop it or set --{flag}")
            }
            io::ErrorKind::PermissionDenied => format!("ports below 1024 need privileges; set --{flag}"),
            _ => format!("set --{flag} to an address of this machine"),
        };
        format!("cannot listen on {address}: {error}; {remedy}")
    })
}

/// An accepted connection on its way to its reactor.
type Handover = (StdTcpStream, Protocols);

/// The reactors, at work.
pub(crate) struct Front {
    reactors: Vec<(mpsc::Sender<Handover>, JoinHandle<()>)>,
    stop: Arc<watch::Sender<bool>>,
}

impl Front {
    pub(crate) fn start(node: &Node) -> Front {
        let (stop, stopping) = watch::channel(false);
        let reactors = (0..node.config().reactors)
            .map(|number| {
                let (handover, connections) = mpsc::channel(limits::ACCEPT_QUEUE);
                let (node, stopping) = (node.clone(), stopping.clone());
                let thread = thread::Builder::new()
                    .name(format!("retcd-reactor-{number}"))
                    .spawn(move || reactor(&node, connections, stopping))
                    .expect("the system can start a thread");
                (handover, thread)
            })
            .collect();
        Front { reactors, stop: Arc::new(stop) }
    }

    /// Accepts on `listener` and deals the connections out in turn, until dropped.
    pub(crate) async fn accept(&self, listener: Listener) {
        for (handover, _) in self.reactors.iter().cycle() {
            let stream = loop {
                match listener.socket.accept().await.and_then(|(stream, _)| stream.into_std()) {
                    Ok(stream) => break stream,
                    Err(error) => {
                        // Out of descriptors, most likely: the connections that are open go on.
                        tracing::warn!(%error, "cannot accept a connection");
                        time::sleep(limits::DRAIN_TIMEOUT).await;
                    }
                }
            };
            if handover.send((stream, listener.protocols)).await.is_err() {
                return;
            }
        }
    }

    /// Lets the connections finish what they are answering, for a moment, and closes them.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        for (handover, thread) in self.reactors {
            drop(handover);
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// One reactor, until told to stop.
fn reactor(node: &Node, mut connections: mpsc::Receiver<Handover>, mut stopping: watch::Receiver<bool>) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs nothing but memory and a few descriptors");
    runtime.block_on(async {
        let (node, hand_out) = node.for_reactor();
        tokio::spawn(hand_out);
        let services = http::Services::new(&node, rpc::routes(&node));
        let graceful = GracefulShutdown::new();
        loop {
            tokio::select! { biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                connection = connections.recv() => match connection {
                    Some((stream, protocols)) => match TcpStream::from_std(stream) {
                        Ok(stream) => services.serve(stream, protocols, &graceful),
                        Err(error) => tracing::warn!(%error, "cannot take over a connection"),
                    },
                    None => break,
                },
            }
        }
        // Streams never end by themselves; whoever is left is cut off.
        let _ = time::timeout(limits::DRAIN_TIMEOUT, graceful.shutdown()).await;
    });
    // Blocking work that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
}
