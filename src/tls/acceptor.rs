//! The side of TLS that accepts connections.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{ServerConfig, server::NoServerSessionStorage};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    certificate::Owner,
    error::{TlsError, What},
    files, generated,
    places::{GaveWay, Places},
    reason,
    reload::Reloaded,
    san, suites,
    verify::ClientVerifier,
};
use crate::{
    clock,
    config::{Identity, KeyPair, TransportSecurity},
    limits,
    types::CommonName,
};

/// The first byte of every TLS connection: a record with a part of a handshake.
pub(crate) const FIRST_BYTE: u8 = 22;

const LINES_INTERVAL: Duration = Duration::from_secs(1);

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Client,
    Peer,
}

/// A connection that was accepted and that nothing was read from.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// The first byte, which remains to be read. `None` if the other side has closed the connection.
    fn first_byte(&self) -> impl Future<Output = io::Result<Option<u8>>> + Send;

    /// The address of the other side, if it has one.
    fn remote(&self) -> Option<SocketAddr>;
}

/// A connection after its handshake, if it has one.
pub(crate) enum Opened<S> {
    Plaintext(S),
    Tls(Box<TlsStream<S>>, Option<CommonName>),
}

/// Accepts the connections of one kind of port. A refused connection is closed, and the log says why.
#[derive(Clone)]
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    /// Whether a certificate has to be for the address that it is used from.
    checks_san: bool,
}

struct Shared {
    endpoint: Endpoint,
    /// Whether the common name of a certificate is that of a user.
    names_users: bool,
    config: Reloaded<Arc<ServerConfig>>,
    places: Places,
    lines: Lines,
}

/// Why a connection is refused.
struct Refused {
    /// The name that a client has asked for.
    server_name: String,
    error: String,
    /// The other side just went away, which is not worth a warning.
    is_end: bool,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("endpoint", &self.shared.endpoint).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Reads the files of these settings. `None` if they have no certificate.
    pub(crate) fn open(
        security: &TransportSecurity,
        endpoint: Endpoint,
    ) -> Result<Option<Acceptor>, TlsError> {
        let Some(pair) = key_pair(&security.identity)? else { return Ok(None) };
        let files = [&pair.cert_file, &pair.key_file].into_iter();
        let files = files.chain(&security.trusted_ca_file).chain(&security.crl_file).cloned().collect();
        let purpose = match endpoint {
            Endpoint::Client => "clients",
            Endpoint::Peer => "connections of peers",
        };
        let settings = security.clone();
        let config = Reloaded::new(purpose, files, move || server_config(&settings, &pair, endpoint));
        config.get()?;
        let shared = Shared {
            endpoint,
            names_users: security.client_cert_auth && endpoint == Endpoint::Client,
            config,
            places: Places::new(limits::HANDSHAKES),
            lines: Lines::new(),
        };
        let checks_san = endpoint == Endpoint::Peer && !security.skip_client_san_verification;
        Ok(Some(Acceptor { shared: Arc::new(shared), checks_san }))
    }

    /// The same, for a port where etcd compares the addresses in the certificates of clients, too.
    pub(crate) fn with_san_check(&self) -> Acceptor {
        Acceptor { checks_san: true, ..self.clone() }
    }

    /// Makes the handshake. `None` if the connection was refused.
    pub(crate) async fn accept<S: Transport>(&self, stream: S, may_be_plaintext: bool) -> Option<Opened<S>> {
        let remote = stream.remote();
        let work = self.shared.places.run(self.negotiate(stream, may_be_plaintext));
        let refused = match time::timeout(limits::HANDSHAKE_TIMEOUT, work).await {
            Ok(Ok(Ok(accepted))) => return Some(accepted),
            Ok(Ok(Err(refused))) => refused,
            Ok(Err(GaveWay)) => {
                Refused::because("the handshake was not finished while others waited for one")
            }
            Err(_) => Refused::because(&format!(
                "no complete TLS handshake within {} s",
                limits::HANDSHAKE_TIMEOUT.as_secs()
            )),
        };
        self.shared.log(remote, &refused);
        None
    }

    async fn negotiate<S: Transport>(&self, stream: S, may_be_plaintext: bool) -> Result<Opened<S>, Refused> {
        match stream.first_byte().await {
            Ok(Some(FIRST_BYTE)) => {}
            Ok(Some(_)) if may_be_plaintext => return Ok(Opened::Plaintext(stream)),
            Ok(Some(_)) => {
                return Err(Refused::because("tls: first record does not look like a TLS handshake"));
            }
            Ok(None) => return Err(Refused::end("EOF".to_owned())),
            Err(error) => return Err(Refused::end(error.to_string())),
        }
        let remote = stream.remote();
        let hello = match LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await {
            Ok(hello) => hello,
            Err(error) => return Err(Refused::of(String::new(), &error)),
        };
        let server_name = hello.client_hello().server_name().unwrap_or_default().to_owned();
        let config = match self.shared.config.get() {
            Ok(config) => config,
            Err(error) => return Err(Refused { server_name, error: error.to_string(), is_end: false }),
        };
        let stream = match hello.into_stream(config).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                let refused = Refused::of(server_name, &error);
                say_goodbye(stream).await;
                return Err(refused);
            }
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let Some(leaf) = certificates.and_then(|certificates| certificates.first()) else {
            return Ok(Opened::Tls(Box::new(stream), None));
        };
        let Some(owner) = Owner::of(leaf) else {
            return Err(Refused {
                server_name,
                error: "the certificate cannot be parsed".to_owned(),
                is_end: false,
            });
        };
        if self.checks_san
            && let Err(error) = san::check(&owner, remote).await
        {
            return Err(Refused { server_name, error, is_end: false });
        }
        let is_user = self.shared.names_users && !owner.common_name.is_empty();
        let name = is_user.then(|| CommonName(owner.common_name.as_str().into()));
        if let Some(name) = &name {
            tracing::debug!(?remote, name = &*name.0, "a client has shown a certificate");
        }
        Ok(Opened::Tls(Box::new(stream), name))
    }
}

impl Shared {
    fn log(&self, remote: Option<SocketAddr>, refused: &Refused) {
        let message = match self.endpoint {
            Endpoint::Client => "rejected connection on client endpoint",
            Endpoint::Peer => "rejected connection on peer endpoint",
        };
        let remote = remote.map(|remote| remote.to_string()).unwrap_or_default();
        let Refused { server_name, error, is_end } = refused;
        if *is_end || !self.lines.may_write() {
            tracing::debug!("remote-addr" = remote, "server-name" = server_name, error, "{message}");
        } else {
            tracing::warn!("remote-addr" = remote, "server-name" = server_name, error, "{message}");
        }
    }
}

impl Refused {
    fn because(error: &str) -> Refused {
        Refused { server_name: String::new(), error: error.to_owned(), is_end: false }
    }

    fn end(error: String) -> Refused {
        Refused { server_name: String::new(), error, is_end: true }
    }

    fn of(server_name: String, error: &io::Error) -> Refused {
        let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
        Refused { server_name, error: reason::of_io(error), is_end }
    }
}

/// How many lines about refused connections are written: not so many that they fill a disk.
pub(crate) struct Lines(Mutex<Option<(Instant, u32)>>);

impl Lines {
    pub(crate) const fn new() -> Lines {
        Lines(Mutex::new(None))
    }

    pub(crate) fn may_write(&self) -> bool {
        let mut lines = self.0.lock();
        let (_, written) = match &mut *lines {
            Some(interval) if clock::since(interval.0) < LINES_INTERVAL => interval,
            lines => lines.insert((clock::now(), 0)),
        };
        *written += 1;
        *written <= limits::REFUSALS_LOGGED_PER_SEC
    }
}

/// Waits until the other side has read the alert that says why it is refused: closing a socket with unread bytes
/// could destroy the alert on its way.
async fn say_goodbye(mut stream: impl Transport) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let rest = async {
        let mut discarded = [0; 4096];
        let mut left = limits::REFUSED_DISCARD_BYTES;
        while left > 0 {
            match stream.read(&mut discarded).await {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => return,
            }
        }
    };
    // The result does not matter: the connection is closed in any case.
    let _ = time::timeout(limits::REFUSED_DISCARD_TIMEOUT, rest).await;
}

/// The files of the member's own certificate, which are made here if they are to be generated.
pub(super) fn key_pair(identity: &Identity) -> Result<Option<KeyPair>, TlsError> {
    match identity {
        Identity::None => Ok(None),
        Identity::Files(pair) => Ok(Some(pair.clone())),
        Identity::Generated(generated) => generated::key_pair(generated).map(Some),
    }
}

fn server_config(
    security: &TransportSecurity,
    pair: &KeyPair,
    endpoint: Endpoint,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = suites::provider(security);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&suites::versions(security.versions))
        .map_err(TlsError::Setup)?;
    let builder = match security.requires_client_cert() {
        true => builder.with_client_cert_verifier(Arc::new(ClientVerifier::new(security, provider)?)),
        false => builder.with_no_client_auth(),
    };
    let chain = files::certificates(&pair.cert_file, What::Certificate)?;
    let key = files::key(&pair.key_file)?;
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|error| unusable_pair(pair, &error))?;
    config.alpn_protocols = match endpoint {
        Endpoint::Client => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Endpoint::Peer => vec![b"h2".to_vec()],
    };
    // No session is resumed: see the top of the module.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What is wrong with a certificate or its key.
pub(super) fn unusable_pair(pair: &KeyPair, error: &rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::Mismatch { certificate: pair.cert_file.clone(), key: pair.key_file.clone() }
        }
        rustls::Error::InvalidCertificate(_) => TlsError::Unusable {
            what: What::Certificate,
            path: pair.cert_file.clone(),
            detail: error.to_string(),
        },
        _ => TlsError::Key {
            path: pair.key_file.clone(),
            detail: "it is damaged, or of another kind".to_owned(),
        },
    }
}
