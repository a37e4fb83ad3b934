//! How connections to one member are made: to its peer port, or through a tunnel.
//!
//! A *tunnel* is a connection that the other member has made to this one, and over which this member
//! reaches the other's peer services as if it had dialled them (`tunnels.rs`). It is used when nothing
//! that this member sends to the other's peer port is answered, while the other member's own
//! connections work: behind a firewall, or a route that is broken in one direction.
//!
//! What counts is silence: a port that refuses a connection has answered, and so has the system of a
//! process that has ended. Once a peer port was silent, new connections go through tunnels, until a probe
//! of the port is answered.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time,
};

use crate::{
    clock, limits,
    sockets::{Dialer, Io},
    sync::watch,
};

/// An attempt to connect to a peer port has one part in so many of the longest silence. Then a tunnel is
/// used instead, if there is one.
const HEAD_START: u32 = 4;

/// Bounds of what counts as silence, whatever the election timeout is. A peer that is busy, or that first
/// receives a full window of entries over a slow network, answers within the shortest time.
const SILENCE_MIN: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(2);

const _: () = assert!(
    limits::HTTP2_STREAM_WINDOW_BYTES as usize / limits::PEER_BYTES_PER_SEC_MIN
        < SILENCE_MIN.as_secs() as usize,
    "a PING behind a full window is answered in time by the slowest network that is good enough"
);

/// The ways to the other members, and the tunnels that they have opened.
pub(super) struct Ways {
    ways: Mutex<BTreeMap<u64, Arc<Way>>>,
    silence_max: Duration,
}

impl Ways {
    /// A working connection to a member goes without an answer for no longer than an election timeout.
    pub(super) fn new(election_timeout: Duration) -> Ways {
        let silence_max = election_timeout.clamp(SILENCE_MIN, SILENCE_MAX);
        Ways { ways: Mutex::default(), silence_max }
    }

    pub(super) fn silence_max(&self) -> Duration {
        self.silence_max
    }

    pub(super) fn to(&self, member: u64) -> Arc<Way> {
        let mut ways = self.ways.lock();
        ways.entry(member).or_insert_with(|| Arc::new(Way::new(member, self.silence_max))).clone()
    }

    /// Forgets the ways to all but these members, and closes the tunnels that the others have opened.
    pub(super) fn retain(&self, is_member: impl Fn(u64) -> bool) {
        self.ways.lock().retain(|member, _| is_member(*member));
    }
}

/// How one other member is reached.
pub(crate) struct Way {
    target: u64,
    /// How long a working connection may go without an answer.
    silence_max: Duration,
    /// The tunnel that the member has opened and that is not used yet. The member opens the next one when
    /// this one is used, so one is enough.
    idle: Mutex<Option<Tunnel>>,
    /// How many tunnels the member has opened.
    opened: AtomicU64,
    /// Nothing that is sent to the member's peer port is answered.
    is_cut: AtomicBool,
    /// How often tunnels were ended, because the peer port answered again.
    restored: watch::Sender<u64>,
}

struct Tunnel {
    number: u64,
    io: Io,
}

impl Way {
    pub(super) fn new(target: u64, silence_max: Duration) -> Way {
        assert!(!silence_max.is_zero(), "a connection has some time for an answer");
        let restored = watch::Sender::new(0);
        Way {
            target,
            silence_max,
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            restored,
        }
    }

    pub(super) fn silence_max(&self) -> Duration {
        self.silence_max
    }

    /// A connection to the member, through its peer port or through a tunnel.
    pub(super) async fn dial(self: Arc<Way>, dialer: &Dialer) -> io::Result<Connection> {
        if self.is_cut()
            && let Some(tunnel) = self.take_tunnel()
        {
            return Ok(tunnel);
        }
        let mut head_start = pin!(time::sleep(self.silence_max / HEAD_START));
        let mut has_head_start = true;
        let mut dialled = pin!(dialer.dial());
        loop {
            tokio::select! { biased;
                dialled = &mut dialled => return match dialled {
                    Ok(io) => Ok(Connection { io, watch: Some(Watch::new(self.clone())) }),
                    Err(error) => self.take_tunnel().ok_or(error),
                },
                () = &mut head_start, if has_head_start => {
                    has_head_start = false;
                    if let Some(tunnel) = self.take_tunnel() {
                        return Ok(tunnel);
                    }
                }
            }
        }
    }

    /// A tunnel that the member has opened. It takes the place of one that is not used. Returns its number.
    pub(super) fn offer(&self, io: Io) -> u64 {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        *self.idle.lock() = Some(Tunnel { number, io });
        number
    }

    /// The member has closed a tunnel, which may not have been used.
    pub(super) fn withdraw(&self, number: u64) {
        let mut idle = self.idle.lock();
        if idle.as_ref().is_some_and(|tunnel| tunnel.number == number) {
            *idle = None;
        }
    }

    fn take_tunnel(&self) -> Option<Connection> {
        let Tunnel { io, .. } = self.idle.lock().take()?;
        self.suspect();
        Some(Connection { io, watch: None })
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    fn suspect(&self) {
        if !self.is_cut.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "peer-id" = format_args!("{:x}", self.target),
                "the peer port does not answer; using connections that the peer has made to this member"
            );
        }
    }

    /// The peer port has answered: connections go there from now on.
    pub(super) fn restore(&self) {
        if self.is_cut.swap(false, Ordering::Relaxed) {
            tracing::info!("peer-id" = format_args!("{:x}", self.target), "the peer port answers again");
        }
    }

    /// Ends the tunnels that are used. Calls on them fail, and are made again through the peer port.
    pub(super) fn end_tunnels(&self) {
        self.restored.send_modify(|count| *count += 1);
    }

    /// Resolves when tunnels that are open now are to end.
    pub(super) fn tunnels_end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut restored = self.restored.subscribe();
        // A `Way` lives as long as `Peers`, and without it there is nobody to use a tunnel.
        async move { drop(restored.changed().await) }
    }
}

/// A connection to a member.
pub(super) struct Connection {
    io: Io,
    /// Of connections to the peer port.
    watch: Option<Watch>,
}

/// Notices that a connection ends because nothing on it was answered.
struct Watch {
    way: Arc<Way>,
    /// When the first bytes were sent that nothing was received after.
    unanswered: Option<Instant>,
}

impl Watch {
    fn new(way: Arc<Way>) -> Watch {
        Watch { way, unanswered: None }
    }

    fn sent(&mut self) {
        self.unanswered.get_or_insert_with(clock::now);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.unanswered.is_some_and(|since| clock::since(since) >= self.way.silence_max) {
            self.way.suspect();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if read.is_ready()
            && let Some(watch) = &mut self.watch
        {
            // An error and the end of the connection are answers, too.
            watch.unanswered = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watch.iter_mut().for_each(Watch::sent);
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.iter_mut().for_each(Watch::sent);
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::DuplexStream, net::TcpListener};

    use super::*;
    use crate::tls::Trust;

    const SILENCE: Duration = Duration::from_secs(10);

    async fn listener() -> (TcpListener, Dialer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        (listener, Dialer::new(&[format!("http://{address}")], &Trust::of_the_system()))
    }

    fn way() -> Arc<Way> {
        Arc::new(Way::new(8, SILENCE))
    }

    /// A tunnel that was opened to `way`: its number, and its far end.
    fn tunnel(way: &Way) -> (u64, DuplexStream) {
        let (near, far) = tokio::io::duplex(1);
        (way.offer(Io::in_memory(near)), far)
    }

    fn is_tunnel(connection: &Connection) -> bool {
        connection.watch.is_none()
    }

    /// A connection that ends long after something was sent, with nothing received since.
    fn end_unanswered(mut connection: Connection) {
        let watch = connection.watch.as_mut().expect("a connection to the peer port");
        watch.sent();
        watch.unanswered = watch.unanswered.and_then(|since| since.checked_sub(SILENCE));
    }

    #[tokio::test]
    async fn a_tunnel_is_used_where_the_port_was_silent_until_it_answers() {
        let ((_listener, dialer), way) = (listener().await, way());
        let _first = tunnel(&way);
        let direct = way.clone().dial(&dialer).await.expect("it accepts");
        assert!(!is_tunnel(&direct), "the port comes first");
        drop(direct);
        assert!(!way.is_cut(), "nothing was asked on that connection");
        end_unanswered(way.clone().dial(&dialer).await.expect("it accepts"));
        assert!(way.is_cut());
        assert!(is_tunnel(&way.clone().dial(&dialer).await.expect("there is a tunnel")));
        assert!(!is_tunnel(&way.clone().dial(&dialer).await.expect("it is used up")));
        let _second = tunnel(&way);
        way.restore();
        assert!(!is_tunnel(&way.clone().dial(&dialer).await.expect("it accepts")));
    }

    #[tokio::test]
    async fn an_answer_shows_that_the_port_is_reached() {
        use tokio::io::AsyncReadExt;

        let ((listener, dialer), way) = (listener().await, way());
        let mut direct = way.clone().dial(&dialer).await.expect("it accepts");
        direct.watch.as_mut().expect("a connection to the port").sent();
        drop(listener.accept().await.expect("a connection"));
        assert_eq!(direct.read(&mut [0]).await.expect("its end is an answer, too"), 0);
        assert_eq!(direct.watch.as_ref().and_then(|watch| watch.unanswered), None);
    }

    #[tokio::test]
    async fn a_port_that_refuses_leaves_a_tunnel_if_there_is_one() {
        let ((listener, dialer), way) = (listener().await, way());
        drop(listener);
        assert!(way.clone().dial(&dialer).await.is_err());
        let (first, _) = tunnel(&way);
        let _second = tunnel(&way);
        way.withdraw(first);
        assert!(is_tunnel(&way.clone().dial(&dialer).await.expect("the newest tunnel is there")));
        let (third, _) = tunnel(&way);
        way.withdraw(third);
        assert!(way.clone().dial(&dialer).await.is_err(), "the member has closed it");
    }
}
