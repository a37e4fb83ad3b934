//! What a certificate says of its owner.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::FromDer, x509::X509Version};

pub(super) use x509_parser::certificate::X509Certificate;

/// The part of a certificate that decides who its owner is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    /// Empty if there is none. Of several, the last one, as in Go.
    pub(super) common_name: String,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// Without leading zeros.
    pub(super) serial: Vec<u8>,
}

impl Owner {
    /// `None` if the certificate cannot be parsed.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Owner> {
        let certificate = parsed(certificate)?;
        let common_name = certificate.subject().iter_common_name().last();
        let mut owner = Owner {
            common_name: common_name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
            serial: trimmed(certificate.raw_serial()).to_vec(),
            ..Owner::default()
        };
        let names = certificate.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => owner.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => owner.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Some(owner)
    }
}

pub(super) fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().map(|(_, certificate)| certificate)
}

/// Whether the owner of a certificate may sign those of others, as Go decides it: since version 3 the
/// certificate has to say so.
pub(super) fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let Ok(constraints) = certificate.basic_constraints() else { return false };
    let Ok(usage) = certificate.key_usage() else { return false };
    let is_authority = match constraints {
        Some(constraints) => constraints.value.ca,
        None => certificate.version() != X509Version::V3,
    };
    is_authority && usage.is_none_or(|usage| usage.value.key_cert_sign())
}

/// A serial number without the zeros before it.
pub(super) fn trimmed(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
