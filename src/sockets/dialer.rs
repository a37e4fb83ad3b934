//! Dialling a member: all of its URLs at once, and all addresses of a host name.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future, stream::FuturesUnordered};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{Mutex, oneshot},
    time,
};

use super::{Io, io::Wire};
use crate::{
    config::{Target, Url},
    threads,
    tls::Trust,
};

/// Timeout for resolving a host name, and for connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an attempt at one address of a host name runs before the next address is tried as well.
const HEAD_START: Duration = Duration::from_millis(250);

/// Timeout for the TLS handshake on a connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to whichever of a member's URLs accepts first.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    urls: Arc<[(Result<Url, String>, Lookup)]>,
    trust: Trust,
}

impl Dialer {
    pub(crate) fn new(urls: &[String], trust: &Trust) -> Dialer {
        let urls = urls.iter().map(|url| (Url::parse(url), Lookup::new(resolve))).collect();
        Dialer { urls, trust: trust.clone() }
    }

    /// The `:authority` of requests on a connection to this member.
    pub(crate) fn authority(&self) -> String {
        let readable = self.urls.iter().flat_map(|(url, _)| url);
        let first = readable.into_iter().find_map(|url| match &url.target {
            Target::Host { host, port } if host.contains(':') => Some(format!("[{host}]:{port}")),
            Target::Host { host, port } => Some(format!("{host}:{port}")),
            Target::Socket(_) => None,
        });
        // Other HTTP clients, too, name `localhost` over a Unix socket.
        first.unwrap_or_else(|| "localhost".to_owned())
    }

    /// Tries all URLs at once, so that an unreachable URL does not use up the time of the others.
    pub(crate) async fn dial(&self) -> io::Result<Io> {
        if self.urls.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the member has no peer URL"));
        }
        let attempts = self.urls.iter().map(|(url, lookup)| {
            Box::pin(async move {
                let url =
                    url.as_ref().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, &**error))?;
                dial(url, lookup, &self.trust).await
            })
        });
        future::select_ok(attempts).await.map(|(io, _others)| io)
    }
}

async fn dial(url: &Url, lookup: &Lookup, trust: &Trust) -> io::Result<Io> {
    let (wire, host) = match &url.target {
        // A file has no host name, and other clients, too, expect this one in the certificate.
        Target::Socket(path) => (Wire::Unix(in_time(UnixStream::connect(path)).await?), "localhost"),
        Target::Host { host, port } => {
            let addresses = match host.parse::<IpAddr>() {
                Ok(ip) => vec![SocketAddr::new(ip, *port)],
                Err(_) => in_time(lookup.addresses(host, *port)).await?,
            };
            (Wire::tcp(first_to_accept(addresses).await?), host.as_str())
        }
    };
    if !url.scheme.is_tls() {
        return Ok(Io::plaintext(wire));
    }
    let handshake = time::timeout(HANDSHAKE_TIMEOUT, trust.connect(host, wire));
    Ok(Io::dialled(handshake.await??))
}

/// Resolves one host name. The system's resolver blocks a thread until the name service answers, even
/// if the caller has given up. So at most one lookup runs at a time, and a caller that comes later waits
/// for its answer. The thread does not belong to a runtime, because a runtime waits for its own
/// threads when it is dropped.
#[derive(Debug)]
struct Lookup {
    ask: Ask,
    running: Mutex<Option<oneshot::Receiver<io::Result<Vec<SocketAddr>>>>>,
}

type Ask = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

impl Lookup {
    fn new(ask: Ask) -> Lookup {
        Lookup { ask, running: Mutex::default() }
    }

    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            let (tell, answer) = oneshot::channel();
            let (ask, host) = (self.ask, host.to_owned());
            // The receiver is gone if the `Dialer` was dropped meanwhile.
            threads::try_spawn("retcd-resolver", move || drop(tell.send(ask(&host, port))))?;
            *running = Some(answer);
        }
        let answer = running.as_mut().expect("set just now, if it was not before");
        // If this caller gives up here, the lookup stays in `running` for the next caller.
        let answer = answer.await;
        *running = None;
        answer.map_err(io::Error::other)?
    }
}

/// Tries the addresses in the resolver's order. The next address is tried when the one before it has
/// failed, or has not answered within [`HEAD_START`].
async fn first_to_accept(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    loop {
        match left.next() {
            Some(address) => attempts.push(in_time(TcpStream::connect(address))),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! { biased;
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
            () = time::sleep(HEAD_START), if left.len() > 0 => {}
        }
    }
}

async fn in_time<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    time::timeout(CONNECT_TIMEOUT, attempt).await?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::RwLock;
    use tokio::net::TcpListener;

    use super::*;

    fn dialer(urls: &[String]) -> Dialer {
        Dialer::new(urls, &Trust::of_the_system())
    }

    /// An address on which a socket listens, and one on which none does.
    async fn two_addresses() -> (TcpListener, SocketAddr, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (open, closed) = (listener.local_addr(), free.local_addr());
        (listener, open.expect("an address"), closed.expect("an address"))
    }

    #[tokio::test]
    async fn whichever_url_accepts_is_used() {
        let (_listener, open, closed) = two_addresses().await;
        let urls = [
            format!("http://{closed}"),
            "https://127.0.0.1:1".to_owned(),
            "unix:///none".to_owned(),
            "none".to_owned(),
            format!("http://{open}"),
        ];
        assert!(dialer(&urls).dial().await.is_ok());
        assert!(dialer(&urls[..4]).dial().await.is_err());
        assert!(dialer(&[]).dial().await.is_err());
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        let (_listener, open, closed) = two_addresses().await;
        let stream = first_to_accept(vec![closed, open]).await.expect("the second accepts");
        assert_eq!(stream.peer_addr().expect("connected"), open);
        let error = first_to_accept(vec![closed, closed]).await.expect_err("none accepts");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(first_to_accept(vec![]).await.expect_err("none").kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    #[expect(
        clippy::await_holding_lock,
        reason = "the name service of this test waits for the lock, and nobody else"
    )]
    async fn a_name_is_looked_up_once_at_a_time() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        static ANSWERS: RwLock<()> = RwLock::new(());
        let lookup = Lookup::new(|_, port| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            let _answers = ANSWERS.read();
            Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))])
        });
        let silence = ANSWERS.write();
        for _ in 0..3 {
            let asked = time::timeout(Duration::from_millis(1), lookup.addresses("a", 1)).await;
            assert!(asked.is_err(), "the name service does not answer");
        }
        drop(silence);
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        assert_eq!(lookup.addresses("a", 1).await.expect("it answers"), [address]);
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        assert_eq!(lookup.addresses("a", 1).await.expect("it answers"), [address]);
        assert_eq!(ASKED.load(Ordering::SeqCst), 2, "an answer is not kept");
    }

    #[test]
    fn an_authority_is_a_host_wherever_there_is_one() {
        let authority = |url: &str| dialer(&[url.to_owned()]).authority();
        assert_eq!(authority("http://a:1"), "a:1");
        assert_eq!(authority("http://[::1]:1"), "[::1]:1");
        assert_eq!(authority("unix:///run/etcd.sock"), "localhost");
    }
}
