//! A server that is measured: its processes, their directories, and what they have used.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::time;

use crate::{
    Failure,
    client::{Connection, RANGE},
    pb::etcdserverpb::RangeRequest,
};

const START_TIMEOUT: Duration = Duration::from_secs(240);
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// More than any row writes.
const QUOTA_BYTES: u64 = 64 << 30;

/// Who is measured.
pub(crate) enum Contender {
    /// etcd or retcd, which take the same flags.
    Member { name: String, program: PathBuf },
    /// Answers with constants: see `floor`.
    Floor,
}

impl Contender {
    pub(crate) fn name(&self) -> &str {
        match self {
            Contender::Member { name, .. } => name,
            Contender::Floor => "floor",
        }
    }
}

/// The processes of one member, or of several that are a cluster, with a directory each. All are gone when this is dropped.
pub(crate) struct Server<'a> {
    contender: &'a Contender,
    processes: Vec<Process>,
}

struct Process {
    child: Child,
    client: SocketAddr,
    peer: SocketAddr,
    folder: TempDir,
}

/// What processes have used since they started, and the memory that they have now.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) written_bytes: u64,
    pub(crate) resident_bytes: u64,
}

impl<'a> Server<'a> {
    /// Starts so many members with empty directories below `place`, which has to be on the disk that is measured.
    pub(crate) fn start(
        contender: &'a Contender,
        place: &Path,
        members: usize,
    ) -> Result<Server<'a>, Failure> {
        let mut server = Server { contender, processes: Vec::new() };
        match contender {
            Contender::Floor => server.processes.push(floor(place)?),
            Contender::Member { program, .. } => {
                let places: io::Result<Vec<_>> =
                    (0..members).map(|_| Ok((free_address()?, free_address()?))).collect();
                let places = places?;
                let peers: Vec<SocketAddr> = places.iter().map(|(_, peer)| *peer).collect();
                for (client, peer) in places {
                    let folder = TempDir::new_in(place)?;
                    let child = member(program, folder.path(), client, peer, &peers)?;
                    server.processes.push(Process { child, client, peer, folder });
                }
            }
        }
        Ok(server)
    }

    pub(crate) fn is_floor(&self) -> bool {
        matches!(self.contender, Contender::Floor)
    }

    /// Where each of its members serves clients.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.processes.iter().map(|process| process.client).collect()
    }

    /// A connection to the first member, as soon as all of them answer a linearizable read.
    pub(crate) async fn connect(&mut self) -> Result<Connection, Failure> {
        let mut first = None;
        for place in 0..self.processes.len() {
            let connection = self.connect_to(place).await?;
            first.get_or_insert(connection);
        }
        first.ok_or_else(|| "a server has a member".into())
    }

    async fn connect_to(&mut self, place: usize) -> Result<Connection, Failure> {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            let process = &mut self.processes[place];
            if let Ok(connection) = Connection::open(process.client).await
                && connection.call(&RANGE, &any_key()).await.is_ok()
            {
                return Ok(connection);
            }
            if process.child.try_wait()?.is_some() || Instant::now() > end {
                let log = fs::read_to_string(process.folder.path().join("log")).unwrap_or_default();
                return Err(format!("{} does not serve; it said:\n{log}", self.contender.name()).into());
            }
            // There is no event that tells when a process listens.
            time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends the processes as an operator does, and waits for them.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        for process in &mut self.processes {
            let id = Pid::from_raw(process.child.id().cast_signed()).ok_or("a process has an id")?;
            rustix::process::kill_process(id, Signal::TERM)?;
            let end = Instant::now() + STOP_TIMEOUT;
            while process.child.try_wait()?.is_none() {
                if Instant::now() > end {
                    return Err(format!("{} does not stop", self.contender.name()).into());
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Starts the processes again, on the directories that they have.
    pub(crate) fn start_again(&mut self) -> Result<(), Failure> {
        let Contender::Member { program, .. } = self.contender else { return Ok(()) };
        let peers: Vec<SocketAddr> = self.processes.iter().map(|process| process.peer).collect();
        for Process { child, client, peer, folder } in &mut self.processes {
            *child = member(program, folder.path(), *client, *peer, &peers)?;
        }
        Ok(())
    }

    /// Of all members together.
    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        let mut usage = Usage { cpu: Duration::ZERO, written_bytes: 0, resident_bytes: 0 };
        for process in &self.processes {
            let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.child.id()));
            // utime and stime are fields 14 and 15; they are counted behind the name, which may contain any
            // characters.
            let stat = read("stat")?;
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
            let ticks = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
            usage.cpu +=
                Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
            usage.written_bytes += field(&read("io")?, "write_bytes:")?;
            usage.resident_bytes += field(&read("status")?, "VmRSS:")? * 1024;
        }
        Ok(usage)
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// Any single key, which need not be there.
pub(crate) fn any_key() -> RangeRequest {
    RangeRequest { key: vec![0].into(), ..RangeRequest::default() }
}

fn member(
    program: &Path,
    folder: &Path,
    client: SocketAddr,
    peer: SocketAddr,
    peers: &[SocketAddr],
) -> Result<Child, Failure> {
    let name = |peer: &SocketAddr| format!("m{}", peer.port());
    let cluster: Vec<String> = peers.iter().map(|peer| format!("{}=http://{peer}", name(peer))).collect();
    let (own, client, peer) = (name(&peer), format!("http://{client}"), format!("http://{peer}"));
    let child = Command::new(program)
        .args(["--name", &own, "--log-level", "warn"])
        .arg("--data-dir")
        .arg(folder.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &cluster.join(",")])
        .arg(format!("--quota-backend-bytes={QUOTA_BYTES}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::options().create(true).append(true).open(folder.join("log"))?)
        .spawn();
    child.map_err(|error| format!("{}: {error}", program.display()).into())
}

/// This program as the floor, which says its port.
fn floor(place: &Path) -> Result<Process, Failure> {
    let mut child = Command::new(env::current_exe()?)
        .args(["--bench", "--floor"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("it is piped")?).read_line(&mut line)?;
    let port: u16 = line.trim().parse()?;
    let client = (Ipv4Addr::LOCALHOST, port).into();
    Ok(Process { child, client, peer: client, folder: TempDir::new_in(place)? })
}

fn field(text: &str, name: &str) -> Result<u64, Failure> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let number = rest.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok());
    number.ok_or_else(|| format!("/proc does not say {name}").into())
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
