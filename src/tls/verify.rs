//! Whose certificates are accepted.
//!
//! The chain of signatures, the dates and the purpose are checked by `rustls`, except for the kinds of
//! certificates in `exceptions`. Everything that etcd can be told besides is checked here: who is revoked, and which
//! names are welcome. A CA is trusted only while its own certificate is valid, as in Go.

use std::{collections::BTreeSet, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    certificate::{Owner, may_sign, parsed},
    error::{TlsError, What},
    exceptions::{self, Purpose},
    files, p521,
};
use crate::config::TransportSecurity;

/// A certificate that a trusted CA has signed, and that is refused all the same. The texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unwelcome {
    #[error("client certificate authentication failed")]
    Name,
    #[error("transport: certificate serial {0} revoked")]
    Revoked(String),
    #[error("the certificate cannot be parsed")]
    Unreadable,
}

impl From<Unwelcome> for Error {
    fn from(unwelcome: Unwelcome) -> Error {
        Error::InvalidCertificate(match unwelcome {
            // The other side is told "bad certificate", as by etcd. The library itself says with which names such a
            // certificate comes, so that this one is ours.
            Unwelcome::Name => CertificateError::NotValidForName,
            Unwelcome::Revoked(_) | Unwelcome::Unreadable => {
                CertificateError::Other(OtherError(Arc::new(unwelcome)))
            }
        })
    }
}

/// What is asked of a certificate besides a trusted signature.
#[derive(Clone, Debug)]
struct Policy {
    allowed_cns: Vec<String>,
    allowed_hostnames: Vec<String>,
    revoked: BTreeSet<Vec<u8>>,
}

impl Policy {
    fn of(security: &TransportSecurity) -> Result<Policy, TlsError> {
        Ok(Policy {
            allowed_cns: security.allowed_cns.clone(),
            allowed_hostnames: security.allowed_hostnames.clone(),
            revoked: security.crl_file.as_deref().map(files::revoked).transpose()?.unwrap_or_default(),
        })
    }

    fn check(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Unwelcome> {
        if !self.revoked.is_empty() {
            for certificate in std::iter::once(leaf).chain(others) {
                let Owner { serial, .. } = Owner::of(certificate).ok_or(Unwelcome::Unreadable)?;
                if self.revoked.contains(&serial) {
                    let digits = serial.iter().map(|byte| format!("{byte:02x}")).collect();
                    return Err(Unwelcome::Revoked(digits));
                }
            }
        }
        if !self.allowed_cns.is_empty() {
            let Owner { common_name, .. } = Owner::of(leaf).ok_or(Unwelcome::Unreadable)?;
            if !self.allowed_cns.contains(&common_name) {
                return Err(Unwelcome::Name);
            }
        }
        let is_for = |host: &String| is_for_host(leaf, host);
        if !self.allowed_hostnames.is_empty() && !self.allowed_hostnames.iter().any(is_for) {
            return Err(Unwelcome::Name);
        }
        Ok(())
    }
}

fn is_for_host(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// The CAs that are trusted.
#[derive(Clone, Debug)]
struct Trusted {
    certificates: Vec<CertificateDer<'static>>,
    /// When all of them are valid, in seconds since 1970.
    all_valid: (i64, i64),
}

impl Trusted {
    fn of(security: &TransportSecurity) -> Result<Trusted, TlsError> {
        let certificates = match &security.trusted_ca_file {
            Some(path) => files::certificates(path, What::Authorities)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let mut all_valid = (i64::MIN, i64::MAX);
        for certificate in &certificates {
            if let Some((from, until)) = validity(certificate) {
                all_valid = (all_valid.0.max(from), all_valid.1.min(until));
            }
        }
        Ok(Trusted { certificates, all_valid })
    }

    fn are_all_valid(&self, now: UnixTime) -> bool {
        let now = now.as_secs().cast_signed();
        self.all_valid.0 <= now && now <= self.all_valid.1
    }

    /// Those that are valid now.
    fn valid(&self, now: UnixTime) -> Trusted {
        let now = now.as_secs().cast_signed();
        let is_valid = |certificate: &&CertificateDer<'_>| {
            validity(certificate).is_none_or(|(from, until)| from <= now && now <= until)
        };
        let certificates = self.certificates.iter().filter(is_valid).cloned().collect();
        Trusted { certificates, all_valid: self.all_valid }
    }

    /// Those whose owners may sign the certificates of others. Fails if one cannot be used; of the system's, those
    /// that can be used are.
    fn store(&self, is_from_file: bool) -> Result<Arc<RootCertStore>, Error> {
        let mut store = RootCertStore::empty();
        let may_sign = |certificate: &&CertificateDer<'_>| parsed(certificate).is_none_or(|of| may_sign(&of));
        for certificate in self.certificates.iter().filter(may_sign) {
            match store.add(certificate.clone()) {
                Err(error) if is_from_file => return Err(error),
                _ => {}
            }
        }
        Ok(Arc::new(store))
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let certificate = parsed(certificate)?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// What both kinds of verifiers have.
#[derive(Debug)]
struct Base {
    trusted: Trusted,
    policy: Policy,
    provider: Arc<CryptoProvider>,
}

impl Base {
    fn of(
        security: &TransportSecurity,
        provider: Arc<CryptoProvider>,
    ) -> Result<(Base, Arc<RootCertStore>), TlsError> {
        let (trusted, policy) = (Trusted::of(security)?, Policy::of(security)?);
        let store = trusted.store(security.trusted_ca_file.is_some());
        let store = store.map_err(|error| match &security.trusted_ca_file {
            Some(path) => {
                TlsError::Unusable { what: What::Authorities, path: path.clone(), detail: error.to_string() }
            }
            None => TlsError::Setup(error),
        })?;
        if trusted.certificates.is_empty() {
            return Err(TlsError::NoTrust);
        }
        Ok((Base { trusted, policy, provider }, store))
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }

    /// `usual` is the check of `rustls`, with all CAs and with those that are valid now.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
        usual: impl FnOnce(Option<Arc<RootCertStore>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let exception = exceptions::judge(leaf, &self.trusted.certificates, purpose, now, self.algorithms());
        match exception {
            Some(judged) => judged?,
            None if self.trusted.are_all_valid(now) => usual(None)?,
            None => {
                let valid = self.trusted.valid(now).store(false)?;
                if valid.is_empty() {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                usual(Some(valid))?;
            }
        }
        Ok(self.policy.check(leaf, others)?)
    }
}

/// What both traits of `rustls` ask in the same way: whether the other side has the key of its certificate.
macro_rules! check_signatures {
    ($($provider:ident).+) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.$($provider).+.signature_verification_algorithms;
            exceptions::verify_handshake(message, certificate, signed, algorithms, false)
                .unwrap_or_else(|| verify_tls12_signature(message, certificate, signed, algorithms))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.$($provider).+.signature_verification_algorithms;
            exceptions::verify_handshake(message, certificate, signed, algorithms, true)
                .unwrap_or_else(|| verify_tls13_signature(message, certificate, signed, algorithms))
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.$($provider).+.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Checks the certificate of whoever connects.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    base: Base,
    /// `None` if none of the trusted certificates is one of a CA: then only these themselves are accepted.
    usual: Option<Arc<dyn ClientCertVerifier>>,
}

impl ClientVerifier {
    pub(super) fn new(
        security: &TransportSecurity,
        provider: Arc<CryptoProvider>,
    ) -> Result<ClientVerifier, TlsError> {
        let (base, store) = Base::of(security, provider.clone())?;
        let usual = (!store.is_empty()).then(|| client_verifier(store, provider)).transpose();
        Ok(ClientVerifier { base, usual: usual.map_err(TlsError::Setup)? })
    }
}

fn client_verifier(
    store: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let built = WebPkiClientVerifier::builder_with_provider(store, provider).build();
    built.map_err(|error| Error::General(error.to_string()))
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.as_ref().map_or(&[], |usual| usual.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.base.verify(leaf, others, Purpose::Client, now, |valid| {
            let verified = match valid {
                None => match &self.usual {
                    Some(usual) => usual.verify_client_cert(leaf, others, now),
                    None => return Err(CertificateError::UnknownIssuer.into()),
                },
                Some(valid) => {
                    client_verifier(valid, self.base.provider.clone())?.verify_client_cert(leaf, others, now)
                }
            };
            verified.map(|_| ())
        })?;
        Ok(ClientCertVerified::assertion())
    }

    check_signatures!(base.provider);
}

/// Checks the certificate of a member that this one has dialled.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    base: Base,
    /// `None` if none of the trusted certificates is one of a CA: then only these themselves are accepted.
    usual: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerVerifier {
    pub(super) fn new(
        security: &TransportSecurity,
        provider: Arc<CryptoProvider>,
    ) -> Result<ServerVerifier, TlsError> {
        let (base, store) = Base::of(security, provider.clone())?;
        let usual = (!store.is_empty()).then(|| server_verifier(store, provider)).transpose();
        Ok(ServerVerifier { base, usual: usual.map_err(TlsError::Setup)? })
    }
}

fn server_verifier(
    store: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let built = WebPkiServerVerifier::builder_with_provider(store, provider).build();
    built.map_err(|error| Error::General(error.to_string()))
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.base.verify(leaf, others, Purpose::Server, now, |valid| {
            let verified = match valid {
                None => match &self.usual {
                    Some(usual) => usual.verify_server_cert(leaf, others, name, ocsp, now),
                    None => return Err(CertificateError::UnknownIssuer.into()),
                },
                Some(valid) => server_verifier(valid, self.base.provider.clone())?
                    .verify_server_cert(leaf, others, name, ocsp, now),
            };
            verified.map(|_| ())
        })?;
        // The usual check includes this one, the exceptions do not.
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    check_signatures!(base.provider);
}

/// Takes any certificate: that of a member with `--peer-auto-tls`, which nobody but itself has signed. The ones that
/// etcd makes with `--auto-tls` have keys on P-521, which `ring` does not know.
#[derive(Debug)]
pub(super) struct AnyServer {
    policy: Policy,
    provider: Arc<CryptoProvider>,
}

impl AnyServer {
    pub(super) fn new(
        security: &TransportSecurity,
        provider: Arc<CryptoProvider>,
    ) -> Result<AnyServer, TlsError> {
        Ok(AnyServer { policy: Policy::of(security)?, provider })
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.policy.check(leaf, others)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        p521::verify_handshake(message, certificate, signed)
            .or_else(|| exceptions::verify_handshake(message, certificate, signed, algorithms, false))
            .unwrap_or_else(|| verify_tls12_signature(message, certificate, signed, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        p521::verify_handshake(message, certificate, signed)
            .or_else(|| exceptions::verify_handshake(message, certificate, signed, algorithms, true))
            .unwrap_or_else(|| verify_tls13_signature(message, certificate, signed, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.provider.signature_verification_algorithms.supported_schemes();
        schemes.push(p521::SCHEME);
        schemes
    }
}
