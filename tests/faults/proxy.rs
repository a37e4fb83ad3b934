//! The connections between members pass through a proxy, which can interrupt each direction separately.
//!
//! ```text
//! member 0 --dials--> [advertised port of 1] ==pump (0, 1)==> [peer port of 1] member 1
//!                                            <==pump (1, 0)==
//! ```
//!
//! A wire is a pair (from, to), whichever of the two members dialled; each member dials from an address of
//! its own. What is sent over a cut wire is held back, also the end of a connection, and a new connection
//! between two members with a cut wire is not answered. When the wire is repaired, the held bytes are
//! delivered late, as TCP does after retransmissions. This is harder for the members than a reset, because
//! they get old messages.
//!
//! A port can be cut too, for one member: as with a firewall, nothing that this member sends to the port
//! arrives, while connections that the port's owner has dialled work in both directions.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex},
    thread,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::{Builder, Handle},
    sync::{oneshot, watch},
};

use crate::shim;

const BUFFER_BYTES: usize = 64 * 1024;

/// The sender and the receiver, by number.
pub(crate) type Wire = (usize, usize);

/// What nothing gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cut {
    Wire(Wire),
    /// From the first of the two to the port of the second.
    Port(Wire),
}

pub(crate) struct Network {
    switchboard: Arc<Switchboard>,
    /// A runtime on a thread of its own, so that a test that blocks does not delay the members' traffic.
    runtime: Handle,
    /// The thread ends when this is dropped.
    _ends: oneshot::Sender<()>,
}

struct Switchboard {
    cut: watch::Sender<BTreeSet<Cut>>,
    /// The bytes that arrived at a cut wire.
    held: Mutex<BTreeMap<Wire, u64>>,
}

impl Network {
    pub(crate) fn new() -> Network {
        let switchboard = Switchboard { cut: watch::Sender::new(BTreeSet::new()), held: Mutex::default() };
        let runtime = Builder::new_current_thread().enable_all().build().expect("there are descriptors left");
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel::<()>();
        thread::spawn(move || runtime.block_on(ended));
        Network { switchboard: Arc::new(switchboard), runtime: handle, _ends: ends }
    }

    /// Forwards from the advertised port of a member to the port on which it listens.
    pub(crate) fn lay(&self, member: usize, advertised_port: u16, port: u16) {
        let listener = std::net::TcpListener::bind(("127.0.0.1", advertised_port));
        let listener = listener.expect("the advertised port is free");
        listener.set_nonblocking(true).expect("a socket can be asked not to wait");
        let _inside = self.runtime.enter();
        let listener = TcpListener::from_std(listener).expect("the runtime takes it");
        let switchboard = self.switchboard.clone();
        self.runtime.spawn(async move {
            while let Ok((dialled, address)) = listener.accept().await {
                // Only members connect to members.
                let Some(from) = shim::member_at(address.ip()) else { continue };
                let switchboard = switchboard.clone();
                // An error only ends this connection.
                tokio::spawn(async move { switchboard.connect(dialled, (from, member), port).await });
            }
        });
    }

    /// Cuts the wire from the first member of each pair to the second.
    pub(crate) fn cut(&self, wires: impl IntoIterator<Item = Wire>) {
        self.switchboard.cut.send_modify(|cut| cut.extend(wires.into_iter().map(Cut::Wire)));
    }

    /// From now on nothing gets through from the first of each pair to the port of the second.
    pub(crate) fn cut_ports(&self, wires: impl IntoIterator<Item = Wire>) {
        self.switchboard.cut.send_modify(|cut| cut.extend(wires.into_iter().map(Cut::Port)));
    }

    /// Repairs all wires.
    pub(crate) fn mend(&self) {
        self.switchboard.cut.send_modify(BTreeSet::clear);
    }

    /// The bytes that a member sent over a cut wire.
    pub(crate) fn held(&self, wire: Wire) -> u64 {
        let held = self.switchboard.held.lock().expect("nobody panics with it");
        held.get(&wire).copied().unwrap_or(0)
    }
}

impl Switchboard {
    async fn connect(self: Arc<Self>, dialled: TcpStream, (from, to): Wire, port: u16) -> io::Result<()> {
        let mut cut = self.cut.subscribe();
        // A new connection needs both directions.
        let there = [Cut::Wire((from, to)), Cut::Port((from, to))];
        let back = [Cut::Wire((to, from))];
        let is_cut = |cut: &BTreeSet<Cut>| there.iter().chain(&back).any(|way| cut.contains(way));
        cut.wait_for(|cut| !is_cut(cut)).await.map_err(io::Error::other)?;
        let reached = TcpStream::connect(("127.0.0.1", port)).await?;
        for stream in [&dialled, &reached] {
            stream.set_nodelay(true)?;
        }
        let (near_source, near_target) = dialled.into_split();
        let (far_source, far_target) = reached.into_split();
        let (there, back) = (
            self.clone().pump((from, to), there.to_vec(), near_source, far_target),
            self.clone().pump((to, from), back.to_vec(), far_source, near_target),
        );
        let (there, back) = tokio::join!(tokio::spawn(there), tokio::spawn(back));
        there.map_err(io::Error::other)?.and(back.map_err(io::Error::other)?)
    }

    async fn pump(
        self: Arc<Self>,
        wire: Wire,
        cut_by: Vec<Cut>,
        mut source: OwnedReadHalf,
        mut target: OwnedWriteHalf,
    ) -> io::Result<()> {
        let mut cut = self.cut.subscribe();
        let is_cut = |cut: &BTreeSet<Cut>| cut_by.iter().any(|way| cut.contains(way));
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = source.read(&mut buffer).await;
            let holds = is_cut(&cut.borrow_and_update());
            if holds {
                let bytes = read.as_ref().map_or(0, |bytes| *bytes as u64);
                *self.held.lock().expect("nobody panics with it").entry(wire).or_default() += bytes;
                cut.wait_for(|cut| !is_cut(cut)).await.map_err(io::Error::other)?;
            }
            match read? {
                0 => return target.shutdown().await,
                bytes => target.write_all(&buffer[..bytes]).await?,
            }
        }
    }
}

#[tokio::test]
async fn a_wire_is_cut_in_one_direction() {
    use std::time::Duration;
    use tokio::{net::TcpSocket, time};

    let network = Network::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let free = TcpListener::bind("127.0.0.1:0").await.and_then(|free| free.local_addr());
    let advertised = free.expect("a port is free");
    network.lay(1, advertised.port(), port);

    let socket = TcpSocket::new_v4().expect("there are descriptors left");
    socket.bind((shim::address_of(0), 0).into()).expect("all of 127 is here");
    let mut near = socket.connect(advertised).await.expect("somebody listens");
    let (mut far, _) = listener.accept().await.expect("it is led on");
    near.write_all(b"a").await.expect("connected");
    assert_eq!(far.read_u8().await.expect("connected"), b'a');

    network.cut([(0, 1)]);
    near.write_all(b"b").await.expect("it is not known that the wire is cut");
    while network.held((0, 1)) == 0 {
        time::sleep(Duration::from_millis(1)).await;
    }
    assert!(far.try_read(&mut [0]).is_err(), "nothing gets through");
    far.write_all(b"c").await.expect("connected");
    assert_eq!(near.read_u8().await.expect("the other direction is whole"), b'c');
    assert_eq!(network.held((1, 0)), 0);

    network.mend();
    assert_eq!(far.read_u8().await.expect("what was held comes late"), b'b');

    let held = network.held((0, 1));
    network.cut_ports([(1, 0)]);
    near.write_all(b"d").await.expect("connected");
    assert_eq!(far.read_u8().await.expect("member 1 did not dial this connection"), b'd');
    network.cut_ports([(0, 1)]);
    near.write_all(b"e").await.expect("it is not known that the port is cut");
    while network.held((0, 1)) == held {
        time::sleep(Duration::from_millis(1)).await;
    }
    assert!(far.try_read(&mut [0]).is_err(), "nothing gets through to the port");
}
