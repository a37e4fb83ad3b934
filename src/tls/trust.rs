//! The side of TLS that dials.

use std::{fmt, io, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig,
    client::{Resumption, danger::ServerCertVerifier},
    pki_types::ServerName,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    acceptor::{key_pair, unusable_pair},
    error::{TlsError, What},
    files, reason,
    reload::Reloaded,
    suites,
    verify::{AnyServer, ServerVerifier},
};
use crate::config::{Identity, KeyPair, TransportSecurity};

/// Whose certificates are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verification {
    /// Those that a trusted CA has signed, for the host that was dialled.
    Full,
    /// Any.
    None,
}

/// A connection that this member has made.
pub(crate) type Dialled<S> = TlsStream<S>;

/// Whom this member trusts when it dials, and the certificate that it shows then. The files are looked at again
/// when it dials.
#[derive(Clone)]
pub(crate) struct Trust {
    config: Arc<Reloaded<Arc<ClientConfig>>>,
    /// What to look for in a certificate in the place of the host that was dialled.
    server_name: Option<Arc<str>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

impl Trust {
    /// The files are read when they are needed: a member whose peers do not use TLS needs none.
    pub(crate) fn new(security: &TransportSecurity) -> Trust {
        let mut files = Vec::new();
        let generated = match &security.identity {
            Identity::None => None,
            Identity::Files(pair) => Some(pair),
            Identity::Generated(_) => None,
        };
        for pair in security.client_pair.iter().chain(generated) {
            files.extend([pair.cert_file.clone(), pair.key_file.clone()]);
        }
        files.extend(security.trusted_ca_file.iter().chain(&security.crl_file).cloned());
        let verification = match security.identity {
            Identity::Generated(_) => Verification::None,
            Identity::None | Identity::Files(_) => Verification::Full,
        };
        let server_name = security.server_name.as_deref().map(Arc::from);
        let security = security.clone();
        let make = move || client_config(&security, verification);
        Trust { config: Arc::new(Reloaded::new("connections to peers", files, make)), server_name }
    }

    /// For a client, which shows `pair`, and trusts the CAs in `trusted_ca_file` or those that the system trusts. One
    /// that takes any certificate does not know whom it talks to.
    pub(crate) fn of_client(
        pair: Option<KeyPair>,
        trusted_ca_file: Option<PathBuf>,
        takes_any: bool,
    ) -> Trust {
        let security = TransportSecurity::of_client(pair, trusted_ca_file);
        let verification = if takes_any { Verification::None } else { Verification::Full };
        // A command reads the files once.
        let make = move || client_config(&security, verification);
        let config = Arc::new(Reloaded::new("connections to servers", Vec::new(), make));
        Trust { config, server_name: None }
    }

    /// Trusts whom the system trusts, and shows no certificate.
    #[cfg(test)]
    pub(crate) fn of_the_system() -> Trust {
        Trust::new(&crate::config::Config::of_flags(&[]).peer_security)
    }

    /// Reads the files now, to find out at the start whether they can be used.
    pub(crate) fn read(&self) -> Result<(), TlsError> {
        self.config.get().map(drop)
    }

    /// Makes the handshake with the member that was dialled at `host`.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<Dialled<S>> {
        let host = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is not the name of a host"))
        })?;
        let config = self.config.get().map_err(io::Error::other)?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.map_err(|error| io::Error::new(error.kind(), reason::of_io(&error)))
    }
}

fn client_config(
    security: &TransportSecurity,
    verification: Verification,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = suites::provider(security);
    let own = key_pair(&security.identity)?;
    let verifier: Arc<dyn ServerCertVerifier> = match verification {
        Verification::None => Arc::new(AnyServer::new(security, provider.clone())?),
        Verification::Full => Arc::new(ServerVerifier::new(security, provider.clone())?),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&suites::versions(security.versions))
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match security.client_pair.as_ref().or(own.as_ref()) {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let KeyPair { cert_file, key_file } = pair;
            let chain = files::certificates(cert_file, What::Certificate)?;
            let config = builder.with_client_auth_cert(chain, files::key(key_file)?);
            config.map_err(|error| unusable_pair(pair, &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
