//! Listening and accepting.
//!
//! Accepting never ends by itself: after an error it is logged and tried again after a pause, because
//! the next connection may succeed.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream, ToSocketAddrs as _},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time,
};

use super::{
    Io, Reminder,
    descriptors::{Place, Places},
    io::Wire,
};
use crate::{
    config::{Accepts, ListenAddress, ListenUrl, SocketOptions},
    limits,
    tls::{Acceptor, Opened},
};

/// A socket that is bound and queues connections, but does not accept them yet. It belongs to no
/// runtime.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: BoundSocket,
    address: ListenAddress,
    file: Option<SocketFile>,
    opening: Opening,
}

/// How a connection begins.
#[derive(Clone, Debug)]
enum Opening {
    Plaintext,
    Tls(Acceptor),
    Either(Acceptor),
}

#[derive(Debug)]
enum BoundSocket {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// Resolves a host name to its addresses.
type Lookup = fn(&str) -> io::Result<Vec<IpAddr>>;

/// Binds one URL of `--{flag}`: one socket, or one for each address of a host name. `acceptor` is there if the settings
/// have a certificate. It blocks while a name is asked for. The error is a message for the operator.
pub(crate) fn bind(
    url: &ListenUrl,
    flag: &str,
    acceptor: Option<&Acceptor>,
    options: SocketOptions,
) -> Result<Vec<Bound>, String> {
    bind_with(url, flag, acceptor, options, |host| {
        Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    })
}

fn bind_with(
    url: &ListenUrl,
    flag: &str,
    acceptor: Option<&Acceptor>,
    options: SocketOptions,
    lookup: Lookup,
) -> Result<Vec<Bound>, String> {
    let opening = match (url.accepts, acceptor) {
        (Accepts::Plaintext, _) => Opening::Plaintext,
        (Accepts::Tls, Some(acceptor)) => Opening::Tls(acceptor.clone()),
        (Accepts::Both, Some(acceptor)) => Opening::Either(acceptor.clone()),
        (Accepts::Tls | Accepts::Both, None) => {
            return Err(format!("cannot listen on TLS for {url} of --{flag} without a certificate"));
        }
    };
    match &url.address {
        ListenAddress::Named { host, port } => bind_name(host, *port, flag, &opening, options, lookup),
        ListenAddress::Tcp(address) => {
            let bound = bind_tcp(*address, opening, options);
            Ok(vec![bound.map_err(|error| refusal(&url.address, flag, &error))?])
        }
        ListenAddress::Unix(path) => {
            Ok(vec![bind_file(path, opening).map_err(|error| refusal(&url.address, flag, &error))?])
        }
    }
}

/// Binds all addresses of a name that are addresses of this machine. A name may also lead to other machines, as that
/// of all members does.
fn bind_name(
    host: &str,
    port: u16,
    flag: &str,
    opening: &Opening,
    options: SocketOptions,
    lookup: Lookup,
) -> Result<Vec<Bound>, String> {
    let mut ips = lookup(host).map_err(|error| {
        format!(
            "--{flag}: expected IP in URL for binding, or a host name that can be resolved ({host}:{port}: {error})"
        )
    })?;
    ips.sort_unstable();
    ips.dedup();
    let mut bound = Vec::new();
    let mut others = Vec::new();
    for ip in ips {
        let address = SocketAddr::new(ip, port);
        match bind_tcp(address, opening.clone(), options) {
            Ok(socket) => bound.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => others.push(ip.to_string()),
            Err(error) => return Err(refusal(&ListenAddress::Tcp(address), flag, &error)),
        }
    }
    let others = others.join(" ");
    if bound.is_empty() {
        return Err(format!(
            "cannot listen on {host}:{port}: the name has no address of this machine ({others}); set --{flag} to one"
        ));
    }
    let listening = bound.iter().map(|bound| bound.address.to_string()).collect::<Vec<_>>().join(" ");
    tracing::info!(host, port, listening, others, "resolved the host name of a URL to listen on");
    Ok(bound)
}

/// As every server, it may bind a port whose former connections still wait for their end (`SO_REUSEADDR`).
fn bind_tcp(address: SocketAddr, opening: Opening, options: SocketOptions) -> io::Result<Bound> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if options.reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, limits::LISTEN_BACKLOG)?;
    let socket = StdTcpListener::from(socket);
    Ok(Bound {
        // For port 0 this is the port that the system chose.
        address: ListenAddress::Tcp(socket.local_addr()?),
        socket: BoundSocket::Tcp(socket),
        file: None,
        opening,
    })
}

/// Why one address cannot be listened on, and what to do about it.
fn refusal(address: &ListenAddress, flag: &str, error: &io::Error) -> String {
    let is_file = matches!(address, ListenAddress::Unix(_));
    let remedy = match (error.kind(), is_file) {
        (io::ErrorKind::AddrInUse, false) => {
            format!(
                "another process uses that port, perhaps a running etcd or retcd; stop it or set --{flag}"
            )
        }
        (io::ErrorKind::AddrInUse, true) => {
            format!(
                "another process listens on that socket, perhaps a running etcd or retcd; stop it or set --{flag}"
            )
        }
        (io::ErrorKind::PermissionDenied, false) => {
            format!("ports below 1024 need privileges; set --{flag}")
        }
        (io::ErrorKind::PermissionDenied, true) => {
            format!("give this user write permission for that directory, or set --{flag}")
        }
        (io::ErrorKind::NotFound, true) => {
            format!("create the directory of the socket, or set --{flag}")
        }
        (io::ErrorKind::AlreadyExists, true) => {
            format!("move that file away, or set --{flag}")
        }
        (_, false) => format!("set --{flag} to an address of this machine"),
        (_, true) => format!("set --{flag} to a path where a socket can be created"),
    };
    format!("cannot listen on {address}: {error}; {remedy}")
}

/// Creates the socket file with the permissions that the umask allows, as etcd does.
fn bind_file(path: &Path, opening: Opening) -> io::Result<Bound> {
    remove_abandoned(path)?;
    let socket = StdUnixListener::bind(path)?;
    rustix::net::listen(&socket, limits::LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    let metadata = fs::symlink_metadata(path)?;
    Ok(Bound {
        socket: BoundSocket::Unix(socket),
        address: ListenAddress::Unix(path.to_owned()),
        file: Some(SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) }),
        opening,
    })
}

/// Removes a socket file that a crashed process has left behind. A socket on which another process
/// listens, and a file that is not a socket, are left unchanged and cause an error.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket exists at that path",
        ));
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path),
        Err(error) if error != rustix::io::Errno::AGAIN => Err(error.into()),
        // The connection was accepted, or the queue of the listener is full: a process listens.
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a Unix socket. Dropping this removes the file.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if is_ours {
            // If it cannot be removed, the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// Makes the socket accept connections on the current runtime, at most as many at a time as
    /// `places` allows.
    pub(crate) fn listen(self, places: Places) -> io::Result<Listener> {
        let socket = match self.socket {
            BoundSocket::Tcp(socket) => Socket::Tcp(TcpListener::from_std(socket)?),
            BoundSocket::Unix(socket) => Socket::Unix(UnixListener::from_std(socket)?),
        };
        Ok(Listener {
            socket,
            address: self.address,
            places,
            reminder: Reminder::default(),
            opening: self.opening,
            _file: self.file,
        })
    }
}

/// A socket that connections are accepted on.
pub(crate) struct Listener {
    socket: Socket,
    address: ListenAddress,
    places: Places,
    reminder: Reminder,
    opening: Opening,
    _file: Option<SocketFile>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(crate) fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// What connections may begin with.
    pub(crate) fn accepts(&self) -> Accepts {
        match self.opening {
            Opening::Plaintext => Accepts::Plaintext,
            Opening::Tls(_) => Accepts::Tls,
            Opening::Either(_) => Accepts::Both,
        }
    }

    /// The next connection. While `places` is used up, that connection waits here, and further ones
    /// wait in the kernel's queue.
    pub(crate) async fn accept(&self) -> Accepted {
        loop {
            match self.socket.accept().await {
                Ok(stream) => {
                    let place = self.places.take().await;
                    return Accepted { stream, place, opening: self.opening.clone() };
                }
                // The client has given up already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if self.reminder.is_due() {
                        tracing::warn!(%error, address = %self.address, "cannot accept connections; will retry");
                    }
                    time::sleep(limits::ACCEPT_RETRY_PAUSE).await;
                }
            }
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<AcceptedStream> {
        Ok(match self {
            Socket::Tcp(socket) => AcceptedStream::Tcp(socket.accept().await?.0.into_std()?),
            Socket::Unix(socket) => AcceptedStream::Unix(socket.accept().await?.0.into_std()?),
        })
    }
}

/// A connection that was accepted and is being moved to the runtime that will serve it.
pub(crate) struct Accepted {
    stream: AcceptedStream,
    place: Place,
    opening: Opening,
}

/// A connection that was registered with the runtime that will serve it.
pub(crate) enum Registered<F> {
    Open(Io),
    /// The first bytes have to be read, which takes as long as the client likes, up to a limit. The future ends
    /// with `None` if the connection was refused, which is logged.
    Handshake(F),
}

enum AcceptedStream {
    Tcp(StdTcpStream),
    Unix(StdUnixStream),
}

impl Accepted {
    /// Registers the connection with the current runtime.
    pub(crate) fn register(self) -> io::Result<Registered<impl Future<Output = Option<Io>> + Send + use<>>> {
        let Accepted { stream, place, opening } = self;
        let wire = match stream {
            AcceptedStream::Tcp(stream) => Wire::tcp(TcpStream::from_std(stream)?),
            AcceptedStream::Unix(stream) => Wire::Unix(UnixStream::from_std(stream)?),
        };
        let (acceptor, may_be_plaintext) = match opening {
            Opening::Plaintext => return Ok(Registered::Open(Io::accepted(Opened::Plaintext(wire), place))),
            Opening::Tls(acceptor) => (acceptor, false),
            Opening::Either(acceptor) => (acceptor, true),
        };
        Ok(Registered::Handshake(async move {
            let opened = acceptor.accept(wire, may_be_plaintext).await?;
            Some(Io::accepted(opened, place))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{config::Config, sockets::Dialer, tls::Trust};

    fn bind(url: &ListenUrl, flag: &str, acceptor: Option<&Acceptor>) -> Result<Bound, String> {
        super::bind(url, flag, acceptor, SocketOptions::default()).map(|mut bound| bound.remove(0))
    }

    /// The URL to listen on in a configuration.
    fn listen_url(url: &str) -> ListenUrl {
        let listen = format!("--listen-peer-urls={url}");
        Config::of_flags(&[&listen]).listen_peer_urls.remove(0)
    }

    fn open(accepted: Accepted) -> Io {
        match accepted.register().expect("a connection") {
            Registered::Open(io) => io,
            Registered::Handshake(_) => panic!("it is plaintext"),
        }
    }

    fn in_dir(dir: &tempfile::TempDir) -> (PathBuf, ListenUrl) {
        let path = dir.path().join("s");
        (path.clone(), listen_url(&format!("unix://{}", path.display())))
    }

    #[tokio::test]
    async fn bytes_pass_over_each_kind_of_socket() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, unix) = in_dir(&dir);
        for url in [unix, listen_url("http://127.0.0.1:0"), listen_url("http://[::1]:0")] {
            let Ok(bound) = bind(&url, "listen-peer-urls", None) else {
                assert!(url.address.to_string().starts_with("[::1]"), "only IPv6 may be missing here");
                continue;
            };
            let listener = bound.listen(Places::new("tests", 1)).expect("a listener");
            let dialled = match listener.address() {
                address @ (ListenAddress::Tcp(_) | ListenAddress::Named { .. }) => {
                    format!("http://{address}")
                }
                ListenAddress::Unix(path) => format!("unix://{}", path.display()),
            };
            let dialer = Dialer::new(&[dialled], &Trust::of_the_system());
            let (mut near, accepted) = tokio::join!(dialer.dial(), listener.accept());
            let near = near.as_mut().expect("a connection");
            let mut far = open(accepted);
            near.write_all(b"ping").await.expect("sent");
            let mut received = [0; 4];
            far.read_exact(&mut received).await.expect("received");
            assert_eq!(&received, b"ping");
        }
        assert!(!path.exists(), "the file goes with its socket");
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_waits_for_another_to_close() {
        let bound = bind(&listen_url("http://127.0.0.1:0"), "x", None).expect("a port");
        let listener = bound.listen(Places::new("tests", 1)).expect("a listener");
        let url = format!("http://{}", listener.address());
        let dialer = Dialer::new(&[url], &Trust::of_the_system());
        let _near = dialer.dial().await.expect("a connection");
        let far = listener.accept().await;
        let _waiting = dialer.dial().await.expect("the kernel takes it");
        let mut next = Box::pin(listener.accept());
        tokio::select! { biased;
            _ = &mut next => panic!("there is one place, and it is taken"),
            () = tokio::task::yield_now() => {}
        }
        drop(far);
        next.await;
    }

    #[tokio::test]
    async fn an_error_of_accepting_is_told_and_tried_again_after_a_pause() {
        let bound = bind(&listen_url("http://127.0.0.1:0"), "x", None).expect("a port");
        let listener = bound.listen(Places::new("tests", 1)).expect("a listener");
        let Socket::Tcp(socket) = &listener.socket else { panic!("it is TCP") };
        // From here on every call of accept fails.
        rustix::net::shutdown(socket, rustix::net::Shutdown::Both).expect("a socket can be shut down");
        let mut accept = Box::pin(listener.accept());
        while listener.reminder.0.lock().is_none() {
            tokio::select! { biased;
                _ = &mut accept => panic!("nobody can have connected"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert!((&mut accept).now_or_never().is_none(), "it goes on trying");
    }

    #[test]
    fn a_name_is_listened_on_at_all_of_its_addresses_on_this_machine() {
        let lookup: Lookup = |host| {
            let ips: &[&str] = match host {
                "many.example" => &["127.0.0.2", "127.0.0.1", "127.0.0.2", "192.0.2.1"],
                "other.example" => &["192.0.2.1"],
                _ => return Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
            };
            Ok(ips.iter().map(|ip| ip.parse().expect("an address")).collect())
        };
        let bind = |url: &str| bind_with(&listen_url(url), "x", None, SocketOptions::default(), lookup);
        let bound = bind("http://many.example:0").expect("two of them are of this machine");
        let ips = bound.iter().map(|bound| bound.address.to_string().split(':').next().map(str::to_owned));
        assert_eq!(ips.flatten().collect::<Vec<_>>(), ["127.0.0.1", "127.0.0.2"]);
        let error = bind("http://other.example:0").expect_err("none is");
        assert!(error.contains("the name has no address of this machine (192.0.2.1); set --x"), "{error}");
        let error = bind("http://none.example:0").expect_err("it has none");
        assert!(
            error.contains("expected IP in URL for binding") && error.contains("no such host"),
            "{error}"
        );
    }

    #[test]
    fn a_port_is_shared_by_those_that_all_want_to() {
        let share = SocketOptions { reuse_port: true };
        let first = super::bind(&listen_url("http://127.0.0.1:0"), "x", None, share).expect("a port");
        let url = listen_url(&format!("http://{}", first[0].address));
        assert!(super::bind(&url, "x", None, share).is_ok());
        let error = bind(&url, "x", None).expect_err("it does not want to share");
        assert!(error.contains("another process uses that port"), "{error}");
    }

    #[test]
    fn the_socket_of_a_process_that_is_gone_is_taken_over() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, url) = in_dir(&dir);
        drop(StdUnixListener::bind(&path).expect("a socket"));
        assert!(path.exists(), "nobody has removed it");
        let bound = bind(&url, "x", None).expect("nobody listens there");
        let error = bind(&url, "listen-peer-urls", None).expect_err("somebody listens there");
        assert!(error.contains("another process") && error.contains("--listen-peer-urls"), "{error}");
        assert!(path.exists(), "it is in use");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_not_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, url) = in_dir(&dir);
        fs::File::create(&path).and_then(|mut file| file.write_all(b"precious")).expect("a file");
        let error = bind(&url, "x", None).expect_err("the path is taken");
        assert!(error.contains("not a socket exists at that path; move that file away"), "{error}");
        assert_eq!(fs::read(&path).expect("it is there"), b"precious");
        let error = bind(&listen_url(&format!("unix://{}/none/s", dir.path().display())), "x", None);
        assert!(error.expect_err("no directory").contains("create the directory"));
    }

    #[test]
    fn a_socket_that_another_has_replaced_is_not_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, url) = in_dir(&dir);
        let bound = bind(&url, "x", None).expect("a socket");
        // Bound under another name first, so that the inode is another one too.
        let other = StdUnixListener::bind(dir.path().join("other")).expect("a socket");
        fs::rename(dir.path().join("other"), &path).expect("renamed");
        drop(bound);
        assert!(path.exists());
        drop(other);
    }
}
