//! The wires between members, each of which can be cut in one direction.
//!
//! ```text
//! member 0 --dials--> [advertised port of 1] ==pump (0, 1)==> [peer port of 1] member 1
//!                                            <==pump (1, 0)==
//! ```
//!
//! A wire is a pair (from, to), whoever of the two dialled: that is found out by asking the kernel
//! whose socket the dialling one is. What is sent over a cut wire is held, the end of a connection
//! included, and a connection between two members that cannot both hear each other gets no answer.
//! Once mended the wire carries what was held, late, as TCP does when lost packets are sent again:
//! this is worse for the members than a reset would be, for they are told what was true long ago.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::{Builder, Handle},
    sync::{oneshot, watch},
    time,
};

const BUFFER_BYTES: usize = 64 * 1024;

/// A process that was just started is not known by its id yet.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOKS_MAX: usize = 500;

/// Members by number: from whom, and to whom.
pub(crate) type Wire = (usize, usize);

pub(crate) struct Network {
    switchboard: Arc<Switchboard>,
    /// Of a thread of its own, so that no test that blocks holds up the members' traffic.
    runtime: Handle,
    /// The thread ends with this.
    _ends: oneshot::Sender<()>,
}

struct Switchboard {
    cut: watch::Sender<BTreeSet<Wire>>,
    /// Bytes that came to a cut wire.
    held: Mutex<BTreeMap<Wire, u64>>,
    /// The process of each member.
    processes: Mutex<BTreeMap<usize, u32>>,
}

impl Network {
    pub(crate) fn new() -> Network {
        let switchboard = Switchboard {
            cut: watch::Sender::new(BTreeSet::new()),
            held: Mutex::default(),
            processes: Mutex::default(),
        };
        let runtime = Builder::new_current_thread().enable_all().build().expect("there are descriptors left");
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel::<()>();
        thread::spawn(move || runtime.block_on(ended));
        Network { switchboard: Arc::new(switchboard), runtime: handle, _ends: ends }
    }

    /// Leads from the port that peers are told to the one that the member listens on.
    pub(crate) fn lay(&self, member: usize, advertised_port: u16, port: u16) {
        let listener = std::net::TcpListener::bind(("127.0.0.1", advertised_port));
        let listener = listener.expect("the advertised port is free");
        listener.set_nonblocking(true).expect("a socket can be asked not to wait");
        let _inside = self.runtime.enter();
        let listener = TcpListener::from_std(listener).expect("the runtime takes it");
        let switchboard = self.switchboard.clone();
        self.runtime.spawn(async move {
            while let Ok((dialled, _)) = listener.accept().await {
                let switchboard = switchboard.clone();
                // An error is the end of a connection, and nothing else.
                tokio::spawn(async move { switchboard.connect(dialled, member, port).await });
            }
        });
    }

    /// Says which process a member is, so that it is known when it dials.
    pub(crate) fn introduce(&self, member: usize, process: u32) {
        self.switchboard.processes.lock().expect("nobody panics with it").insert(member, process);
    }

    /// From now on nothing gets through from the first of each pair to the second.
    pub(crate) fn cut(&self, wires: impl IntoIterator<Item = Wire>) {
        self.switchboard.cut.send_modify(|cut| cut.extend(wires));
    }

    /// Everything gets through again.
    pub(crate) fn mend(&self) {
        self.switchboard.cut.send_modify(BTreeSet::clear);
    }

    /// Bytes that a member sent over a wire, and that did not get through when they should have.
    pub(crate) fn held(&self, wire: Wire) -> u64 {
        let held = self.switchboard.held.lock().expect("nobody panics with it");
        held.get(&wire).copied().unwrap_or(0)
    }
}

impl Switchboard {
    async fn connect(self: Arc<Self>, dialled: TcpStream, to: usize, port: u16) -> io::Result<()> {
        let from = self.dialler(&dialled).await?;
        let mut cut = self.cut.subscribe();
        // It takes both directions to make a connection.
        let open = cut.wait_for(|cut| !cut.contains(&(from, to)) && !cut.contains(&(to, from))).await;
        open.map_err(io::Error::other)?;
        let reached = TcpStream::connect(("127.0.0.1", port)).await?;
        for stream in [&dialled, &reached] {
            stream.set_nodelay(true)?;
        }
        let (near_source, near_target) = dialled.into_split();
        let (far_source, far_target) = reached.into_split();
        let (there, back) = (
            self.clone().pump((from, to), near_source, far_target),
            self.clone().pump((to, from), far_source, near_target),
        );
        let (there, back) = tokio::join!(tokio::spawn(there), tokio::spawn(back));
        there.map_err(io::Error::other)?.and(back.map_err(io::Error::other)?)
    }

    async fn pump(
        self: Arc<Self>,
        wire: Wire,
        mut source: OwnedReadHalf,
        mut target: OwnedWriteHalf,
    ) -> io::Result<()> {
        let mut cut = self.cut.subscribe();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = source.read(&mut buffer).await;
            let is_cut = cut.borrow_and_update().contains(&wire);
            if is_cut {
                let bytes = read.as_ref().map_or(0, |bytes| *bytes as u64);
                *self.held.lock().expect("nobody panics with it").entry(wire).or_default() += bytes;
                cut.wait_for(|cut| !cut.contains(&wire)).await.map_err(io::Error::other)?;
            }
            match read? {
                0 => return target.shutdown().await,
                bytes => target.write_all(&buffer[..bytes]).await?,
            }
        }
    }

    /// Which member the other end of a connection is. Whoever has gone before anybody looked is
    /// not waited for: under load that would hold up those who have not.
    async fn dialler(&self, dialled: &TcpStream) -> io::Result<usize> {
        let (near, far) = (dialled.local_addr()?.port(), dialled.peer_addr()?.port());
        for _ in 0..LOOKS_MAX {
            let Some(socket) = socket_between(far, near)? else { break };
            let processes = self.processes.lock().expect("nobody panics with it").clone();
            let owner = processes.into_iter().find(|(_, process)| has_open(*process, &socket));
            if let Some((member, _)) = owner {
                return Ok(member);
            }
            time::sleep(LOOK_AGAIN).await;
        }
        Err(io::Error::other("nobody knows who dials"))
    }
}

/// The kernel's name for the socket of a connection on loopback, if its dialler still has it open.
fn socket_between(local_port: u16, remote_port: u16) -> io::Result<Option<String>> {
    const ESTABLISHED: &str = "01";
    let table = fs::read_to_string("/proc/net/tcp")?;
    let (local, remote) = (format!("0100007F:{local_port:04X}"), format!("0100007F:{remote_port:04X}"));
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = rows.filter_map(|row| match row[..] {
        [_, from, to, ESTABLISHED, _, _, _, _, _, inode, ..] if from == local && to == remote => {
            Some(format!("socket:[{inode}]"))
        }
        _ => None,
    });
    Ok(socket.last())
}

fn has_open(process: u32, socket: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    open.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == Path::new(socket)))
}

/// This very process plays both members.
#[test]
fn a_wire_is_cut_in_one_direction() {
    use std::io::{Read, Write};

    let network = Network::new();
    network.introduce(0, std::process::id());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let advertised = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a port is free")
        .port();
    network.lay(1, advertised, port);

    let mut near = std::net::TcpStream::connect(("127.0.0.1", advertised)).expect("somebody listens");
    let (mut far, _) = listener.accept().expect("it is led on");
    let mut heard = [0; 1];
    near.write_all(b"a").expect("connected");
    far.read_exact(&mut heard).expect("connected");

    network.cut([(0, 1)]);
    near.write_all(b"b").expect("it is not known that the wire is cut");
    while network.held((0, 1)) == 0 {
        thread::yield_now();
    }
    far.set_nonblocking(true).expect("a socket can be asked not to wait");
    assert!(far.read(&mut heard).is_err(), "nothing gets through");
    far.set_nonblocking(false).expect("a socket can be asked to wait");
    far.write_all(b"c").expect("connected");
    near.read_exact(&mut heard).expect("the other direction is whole");
    assert_eq!((heard, network.held((1, 0))), (*b"c", 0));

    network.mend();
    far.read_exact(&mut heard).expect("what was held comes late");
    assert_eq!(heard, *b"b");
}
