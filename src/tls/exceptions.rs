//! Certificates that Go's library accepts, and the checks of `rustls` do not.
//!
//! Clusters with such certificates are in use. One kind is listed among the trusted CAs itself, as somebody does who
//! makes one self-signed certificate for everything. The other is of version 1 of X.509, which `openssl x509 -req`
//! makes if it is not told anything else; such a certificate has no extensions and so cannot be for a host, but it
//! can be that of a client. It is accepted only when a trusted CA has signed it directly.

use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerMisbehaved,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime},
};
use x509_parser::{oid_registry::Oid, x509::X509Version};

use super::certificate::{X509Certificate, may_sign, parsed};

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Client,
    Server,
}

/// Judges a certificate of one of these kinds. `None` if it is of none of them.
pub(super) fn judge(
    certificate: &CertificateDer<'_>,
    trusted: &[CertificateDer<'static>],
    purpose: Purpose,
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Option<Result<(), Error>> {
    let leaf = parsed(certificate)?;
    if trusted.iter().any(|trusted| trusted.as_ref() == certificate.as_ref()) {
        return Some(is_current(&leaf, now).and_then(|()| is_for(&leaf, purpose)));
    }
    if leaf.version() != X509Version::V1 {
        return None;
    }
    let is_signed = trusted.iter().filter_map(parsed).any(|authority| {
        authority.subject().as_raw() == leaf.issuer().as_raw()
            && may_sign(&authority)
            && is_current(&authority, now).is_ok()
            && is_signed_by(&leaf, &authority, algorithms)
    });
    Some(if is_signed { is_current(&leaf, now) } else { Err(CertificateError::UnknownIssuer.into()) })
}

/// Checks that the other side has the key of its certificate, as `rustls` does for all other certificates.
/// `None` if the certificate is not of version 1.
pub(super) fn verify_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
    is_tls13: bool,
) -> Option<Result<HandshakeSignatureValid, Error>> {
    let leaf = parsed(certificate).filter(|leaf| leaf.version() == X509Version::V1)?;
    let key = leaf.public_key();
    if is_tls13 {
        let key = SubjectPublicKeyInfoDer::from(key.raw);
        return Some(verify_tls13_signature_with_raw_key(message, &key, signed, algorithms));
    }
    let Some((_, candidates)) = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme) else {
        return Some(Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()));
    };
    let of_key = candidates.iter().filter(|candidate| is_of_key(**candidate, &leaf));
    let is_valid = of_key
        .map(|candidate| {
            candidate.verify_signature(&key.subject_public_key.data, message, signed.signature())
        })
        .any(|verified| verified.is_ok());
    Some(match is_valid {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    })
}

fn is_current(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let time = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.try_into().unwrap_or(0)))
    };
    let (not_before, not_after) = (
        time(certificate.validity().not_before.timestamp()),
        time(certificate.validity().not_after.timestamp()),
    );
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

fn is_for(certificate: &X509Certificate<'_>, purpose: Purpose) -> Result<(), Error> {
    let usages = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    let is_for = usages.is_none_or(|usages| {
        let usages = usages.value;
        usages.any
            || match purpose {
                Purpose::Client => usages.client_auth,
                Purpose::Server => usages.server_auth,
            }
    });
    if is_for { Ok(()) } else { Err(CertificateError::InvalidPurpose.into()) }
}

fn is_signed_by(
    leaf: &X509Certificate<'_>,
    authority: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let of_both = algorithms.all.iter().filter(|algorithm| {
        is_of_key(**algorithm, authority)
            && begins_with(algorithm.signature_alg_id().as_ref(), &leaf.signature_algorithm.algorithm)
    });
    let key = &authority.public_key().subject_public_key.data;
    let (signed, signature) = (leaf.tbs_certificate.as_ref(), &leaf.signature_value.data);
    of_both
        .map(|algorithm| algorithm.verify_signature(key, signed, signature))
        .any(|verified| verified.is_ok())
}

/// Whether the algorithm is for keys of the kind that the certificate has.
fn is_of_key(algorithm: &dyn SignatureVerificationAlgorithm, certificate: &X509Certificate<'_>) -> bool {
    begins_with(algorithm.public_key_alg_id().as_ref(), &certificate.public_key().algorithm.algorithm)
}

/// Whether an algorithm's identifier, in DER, is of this kind. What may follow are parameters.
fn begins_with(identifier: &[u8], kind: &Oid<'_>) -> bool {
    const TAG_OID: u8 = 6;
    let kind = kind.as_bytes();
    match identifier {
        [TAG_OID, length, rest @ ..] => usize::from(*length) == kind.len() && rest.starts_with(kind),
        _ => false,
    }
}
