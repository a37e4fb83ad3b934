//! Handshakes with keys on the curve P-521.

use p521::ecdsa::{DerSignature, VerifyingKey, signature::Verifier};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme, client::danger::HandshakeSignatureValid,
    pki_types::CertificateDer,
};

use super::certificate::parsed;

pub(super) const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP521_SHA512;

/// Checks that the other side has the key of its certificate. `None` if the signature is of another kind.
pub(super) fn verify_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Option<Result<HandshakeSignatureValid, Error>> {
    (signed.scheme == SCHEME).then(|| verify(message, certificate, signed.signature()))
}

fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &[u8],
) -> Result<HandshakeSignatureValid, Error> {
    let parsed = parsed(certificate).ok_or(CertificateError::BadEncoding)?;
    let point = &parsed.public_key().subject_public_key.data;
    let key = VerifyingKey::from_sec1_bytes(point).map_err(|_| CertificateError::BadEncoding)?;
    let signature = DerSignature::from_bytes(signature).map_err(|_| CertificateError::BadSignature)?;
    match key.verify(message, &signature) {
        Ok(()) => Ok(HandshakeSignatureValid::assertion()),
        Err(_) => Err(CertificateError::BadSignature.into()),
    }
}
