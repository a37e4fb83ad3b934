//! Why a handshake failed, in the words of Go's library where it has them: operators search for those.

use std::{
    io,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{AlertDescription as Alert, CertificateError, PeerIncompatible, pki_types::UnixTime};

use super::verify::Unwelcome;

/// The text of an error of a handshake.
pub(super) fn of_io(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => of_tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => error.to_string(),
    }
}

fn of_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {}", of_alert(*alert)),
        rustls::Error::InvalidCertificate(error) => of_certificate(error),
        rustls::Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // Every client of TLS 1.2 has this extension.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        ) => "tls: client offered only unsupported versions".to_owned(),
        rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "tls: no cipher suite supported by both client and server".to_owned()
        }
        rustls::Error::NoApplicationProtocol => {
            "tls: client requested unsupported application protocols".to_owned()
        }
        error => format!("tls: {error}"),
    }
}

/// A name in a certificate, which rustls writes as `DnsName("host")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn of_certificate(error: &CertificateError) -> String {
    let why = match error {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "certificate has expired or is not yet valid: current time {} is after {}",
            date(*time),
            date(*not_after)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "certificate has expired or is not yet valid: current time {} is before {}",
            date(*time),
            date(*not_before)
        ),
        CertificateError::Expired | CertificateError::NotValidYet => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            format!("certificate is valid for {}, not {}", presented.join(", "), expected.to_str())
        }
        CertificateError::NotValidForName => return Unwelcome::Name.to_string(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".to_owned()
        }
        CertificateError::Other(other) if other.0.is::<Unwelcome>() => return other.0.to_string(),
        CertificateError::Other(other) => other.0.to_string(),
        error => error.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

fn date(time: UnixTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

fn of_alert(alert: Alert) -> String {
    let text = match alert {
        Alert::CloseNotify => "close notify",
        Alert::UnexpectedMessage => "unexpected message",
        Alert::BadRecordMac => "bad record MAC",
        Alert::HandshakeFailure => "handshake failure",
        Alert::BadCertificate => "bad certificate",
        Alert::UnsupportedCertificate => "unsupported certificate",
        Alert::CertificateRevoked => "revoked certificate",
        Alert::CertificateExpired => "expired certificate",
        Alert::CertificateUnknown => "unknown certificate",
        Alert::IllegalParameter => "illegal parameter",
        Alert::UnknownCA => "unknown certificate authority",
        Alert::AccessDenied => "access denied",
        Alert::DecodeError => "error decoding message",
        Alert::DecryptError => "error decrypting message",
        Alert::ProtocolVersion => "protocol version not supported",
        Alert::InsufficientSecurity => "insufficient security level",
        Alert::InternalError => "internal error",
        Alert::UserCanceled => "user canceled",
        Alert::UnrecognisedName => "unrecognized name",
        Alert::NoApplicationProtocol => "no application protocol",
        Alert::CertificateRequired => "certificate required",
        other => return format!("alert {other:?}"),
    };
    text.to_owned()
}
