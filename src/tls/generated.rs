//! Certificates that the member makes for itself: `--auto-tls` and `--peer-auto-tls`.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, date_time_ymd,
};

use super::{error::TlsError, files};
use crate::{
    clock,
    config::{Generated, KeyPair},
};

/// As etcd counts it.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The certificate and its key. They are made at the first start, and used at every later one.
pub(super) fn key_pair(generated: &Generated) -> Result<KeyPair, TlsError> {
    let dir = &generated.dir;
    let pair = KeyPair { cert_file: dir.join("cert.pem"), key_file: dir.join("key.pem") };
    if !pair.cert_file.exists() || !pair.key_file.exists() {
        make(generated, &pair)
            .map_err(|error| TlsError::NotGenerated { dir: dir.clone(), error: error.to_string() })?;
        tracing::warn!(
            "cert-file" = %pair.cert_file.display(),
            years = generated.validity_years,
            "automatically generate certificates"
        );
    }
    Ok(pair)
}

fn make(generated: &Generated, pair: &KeyPair) -> Result<(), Box<dyn std::error::Error>> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = CertificateParams::new(generated.hosts.clone())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = date_time_ymd(1970, 1, 1) + clock::wall();
    (params.not_before, params.not_after) = (now, now + YEAR * generated.validity_years);
    let certificate = params.self_signed(&key)?;
    files::create_dir(&generated.dir)?;
    // Both are made again if only the first was written.
    files::write(&pair.key_file, &key.serialize_pem())?;
    Ok(files::write(&pair.cert_file, &certificate.pem())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{certificate::Owner, error::What};

    #[test]
    fn a_certificate_is_made_once_and_says_which_hosts_it_is_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let generated = Generated { dir: dir.path().join("fixtures/peer"), hosts, validity_years: 1000 };
        let pair = key_pair(&generated).expect("made");
        let certificates = files::certificates(&pair.cert_file, What::Certificate).expect("readable");
        let owner = Owner::of(&certificates[0]).expect("a certificate");
        assert_eq!(owner.dns_names, ["localhost"]);
        assert_eq!(owner.addresses, ["127.0.0.1".parse::<std::net::IpAddr>().expect("an address")]);
        files::key(&pair.key_file).expect("a key");
        key_pair(&generated).expect("there already");
        assert_eq!(files::certificates(&pair.cert_file, What::Certificate).expect("readable"), certificates);
    }
}
