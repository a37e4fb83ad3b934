//! The versions of TLS and the cipher suites that are negotiated.

use std::sync::Arc;

use rustls::{
    CipherSuite as Suite, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    version::{TLS12, TLS13},
};

use crate::config::{CipherSuite, TlsVersion, TransportSecurity, Versions};

/// The ciphers of `ring`: those of TLS 1.2 are restricted to the ones that are configured.
pub(super) fn provider(security: &TransportSecurity) -> Arc<CryptoProvider> {
    let all = ring::default_provider();
    if security.cipher_suites.is_empty() {
        return Arc::new(all);
    }
    let is_of_tls13 = |suite: &&SupportedCipherSuite| suite.tls13().is_some();
    let of_tls13 = all.cipher_suites.iter().filter(is_of_tls13);
    let chosen = security.cipher_suites.iter().flat_map(|suite| {
        let id = id(*suite);
        all.cipher_suites.iter().find(move |known| known.suite() == id)
    });
    let cipher_suites = of_tls13.chain(chosen).copied().collect();
    Arc::new(CryptoProvider { cipher_suites, ..all })
}

pub(super) fn versions(versions: Versions) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::Tls13, &TLS13), (TlsVersion::Tls12, &TLS12)]
        .into_iter()
        .filter(|(version, _)| versions.oldest <= *version && *version <= versions.newest)
        .map(|(_, version)| version)
        .collect()
}

fn id(suite: CipherSuite) -> Suite {
    match suite {
        CipherSuite::EcdheEcdsaAes128GcmSha256 => Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256GcmSha384 => Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20Poly1305Sha256 => Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128GcmSha256 => Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256GcmSha384 => Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20Poly1305Sha256 => Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}
