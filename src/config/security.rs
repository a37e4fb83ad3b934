//! TLS: the certificates of this member, whose certificates it accepts, and what is negotiated.
//!
//! etcd has the same settings twice, for clients and for peers, and calls a set of them *transport security*.
//! Here they are read and checked against each other. The files themselves are read by the module `tls`, at
//! the start and whenever they change.

use std::path::{Path, PathBuf};

use super::{
    ConfigError, Notice,
    flags::Flags,
    table::find,
    url::{Target, Url},
};

/// The settings for one kind of connection: those of clients, or those of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransportSecurity {
    pub(crate) identity: Identity,
    /// The certificate to dial with, if it is not the one of `identity`.
    pub(crate) client_pair: Option<KeyPair>,
    /// The CAs that sign the certificates of the other side. `None`: those that the system trusts.
    pub(crate) trusted_ca_file: Option<PathBuf>,
    /// The other side must have a certificate. For clients, its common name is then the name of a user.
    pub(crate) client_cert_auth: bool,
    /// Certificates that are refused although a trusted CA has signed them.
    pub(crate) crl_file: Option<PathBuf>,
    /// The common names of which a certificate must have one; empty: any.
    pub(crate) allowed_cns: Vec<String>,
    /// The name that the certificate of a member that is dialled must have. `None`: the host that is dialled.
    pub(crate) server_name: Option<String>,
    /// The host names of which a certificate must have one; empty: any.
    pub(crate) allowed_hostnames: Vec<String>,
    /// The addresses and names in the certificate of a peer need not be those that it connects from.
    pub(crate) skip_client_san_verification: bool,
    pub(crate) versions: Versions,
    /// The suites of TLS 1.2; empty: all.
    pub(crate) cipher_suites: Vec<CipherSuite>,
}

impl TransportSecurity {
    /// The settings of a tool that only dials.
    pub(crate) fn of_client(
        client_pair: Option<KeyPair>,
        trusted_ca_file: Option<PathBuf>,
    ) -> TransportSecurity {
        TransportSecurity {
            identity: Identity::None,
            client_pair,
            trusted_ca_file,
            client_cert_auth: false,
            crl_file: None,
            allowed_cns: Vec::new(),
            server_name: None,
            allowed_hostnames: Vec::new(),
            skip_client_san_verification: false,
            versions: Versions { oldest: TlsVersion::Tls12, newest: TlsVersion::Tls13 },
            cipher_suites: Vec::new(),
        }
    }
}

/// The certificate that this member shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    None,
    Files(KeyPair),
    Generated(Generated),
}

/// A certificate and its key, each in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPair {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

/// A certificate that the member makes for itself and signs itself. Nobody can tell it from another, so
/// connections are encrypted, but who is at the other end is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Generated {
    /// The directory of `cert.pem` and `key.pem`.
    pub(crate) dir: PathBuf,
    /// The host names and addresses in the certificate.
    pub(crate) hosts: Vec<String>,
    pub(crate) validity_years: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) oldest: TlsVersion,
    pub(crate) newest: TlsVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TlsVersion {
    Tls12,
    Tls13,
}

/// The suites of TLS 1.2 that are considered secure: with forward secrecy and authenticated encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CipherSuite {
    EcdheEcdsaAes128GcmSha256,
    EcdheEcdsaAes256GcmSha384,
    EcdheEcdsaChacha20Poly1305Sha256,
    EcdheRsaAes128GcmSha256,
    EcdheRsaAes256GcmSha384,
    EcdheRsaChacha20Poly1305Sha256,
}

/// The dates in a certificate have years of four digits.
const VALIDITY_YEARS_MAX: u32 = 1000;

/// Go's names of suites, and what they are here.
const CIPHER_SUITES: &[(&str, Known)] = &[
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Known::Suite(CipherSuite::EcdheEcdsaAes128GcmSha256)),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Known::Suite(CipherSuite::EcdheEcdsaAes256GcmSha384)),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        Known::Suite(CipherSuite::EcdheEcdsaChacha20Poly1305Sha256),
    ),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", Known::Suite(CipherSuite::EcdheEcdsaChacha20Poly1305Sha256)),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Known::Suite(CipherSuite::EcdheRsaAes128GcmSha256)),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Known::Suite(CipherSuite::EcdheRsaAes256GcmSha384)),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        Known::Suite(CipherSuite::EcdheRsaChacha20Poly1305Sha256),
    ),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", Known::Suite(CipherSuite::EcdheRsaChacha20Poly1305Sha256)),
    ("TLS_AES_128_GCM_SHA256", Known::OfTls13),
    ("TLS_AES_256_GCM_SHA384", Known::OfTls13),
    ("TLS_CHACHA20_POLY1305_SHA256", Known::OfTls13),
    ("TLS_RSA_WITH_RC4_128_SHA", Known::Insecure),
    ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", Known::Insecure),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", Known::Insecure),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", Known::Insecure),
    ("TLS_RSA_WITH_AES_128_CBC_SHA256", Known::Insecure),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", Known::Insecure),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", Known::Insecure),
    ("TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", Known::Insecure),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", Known::Insecure),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", Known::Insecure),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", Known::Insecure),
    ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", Known::Insecure),
    ("TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", Known::Insecure),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", Known::Insecure),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", Known::Insecure),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", Known::Insecure),
];

#[derive(Clone, Copy)]
enum Known {
    Suite(CipherSuite),
    /// Not configurable, as in Go: TLS 1.3 always has all of its suites.
    OfTls13,
    /// Without forward secrecy or authenticated encryption.
    Insecure,
}

/// The flags of one kind of connection.
struct Names {
    cert: &'static str,
    key: &'static str,
    client_cert: &'static str,
    client_key: &'static str,
    client_cert_auth: &'static str,
    trusted_ca: &'static str,
    crl: &'static str,
    allowed_cn: &'static str,
    allowed_hostname: &'static str,
    auto_tls: &'static str,
    skip_san: Option<&'static str>,
    /// The directory of a generated certificate, below the data directory.
    fixtures: &'static str,
}

const CLIENT: Names = Names {
    cert: "cert-file",
    key: "key-file",
    client_cert: "client-cert-file",
    client_key: "client-key-file",
    client_cert_auth: "client-cert-auth",
    trusted_ca: "trusted-ca-file",
    crl: "client-crl-file",
    allowed_cn: "client-cert-allowed-cn",
    allowed_hostname: "client-cert-allowed-hostname",
    auto_tls: "auto-tls",
    skip_san: None,
    fixtures: "fixtures/client",
};

const PEER: Names = Names {
    cert: "peer-cert-file",
    key: "peer-key-file",
    client_cert: "peer-client-cert-file",
    client_key: "peer-client-key-file",
    client_cert_auth: "peer-client-cert-auth",
    trusted_ca: "peer-trusted-ca-file",
    crl: "peer-crl-file",
    allowed_cn: "peer-cert-allowed-cn",
    allowed_hostname: "peer-cert-allowed-hostname",
    auto_tls: "peer-auto-tls",
    skip_san: Some("peer-skip-client-san-verification"),
    fixtures: "fixtures/peer",
};

/// The flags of both kinds.
const SHARED: [&str; 2] = ["cipher-suites", "tls-max-version"];

/// Reads the settings for clients and for peers. `cluster_urls` are the peer URLs of all members.
pub(super) fn transport_security(
    flags: &Flags,
    data_dir: &Path,
    cluster_urls: &[String],
    notices: &mut Vec<Notice>,
) -> Result<(TransportSecurity, TransportSecurity), ConfigError> {
    let versions = versions(flags)?;
    let suites = cipher_suites(flags, versions, notices)?;
    let listened = |flag: &'static str| flags.urls(flag).into_iter().map(move |url| (flag, url));
    let client_urls: Vec<_> = ["listen-client-urls", "listen-client-http-urls", "listen-metrics-urls"]
        .into_iter()
        .flat_map(listened)
        .collect();
    let peer_urls: Vec<_> = listened("listen-peer-urls").collect();
    let is_tls = |(_, url): &(&str, Url)| url.scheme.is_tls();
    let for_clients = client_urls.iter().any(is_tls);
    let peers_dialled = cluster_urls.iter().filter_map(|url| Url::parse(url).ok());
    let for_peers = peer_urls.iter().any(is_tls) || peers_dialled.into_iter().any(|url| url.scheme.is_tls());
    if !for_clients && !for_peers {
        for name in SHARED {
            ignored(flags, name, notices);
        }
    }
    let mut security = Vec::new();
    for (names, urls, advertised, is_used) in [
        (&CLIENT, &client_urls, "advertise-client-urls", for_clients),
        (&PEER, &peer_urls, "initial-advertise-peer-urls", for_peers),
    ] {
        if !is_used {
            names.all().for_each(|name| ignored(flags, name, notices));
            security.push(TransportSecurity::without_files(versions, &suites));
            continue;
        }
        let hosts = hosts(urls.iter().map(|(_, url)| url).chain(&flags.urls(advertised)));
        let settings = names.read(flags, data_dir, hosts, versions, &suites, notices)?;
        for (flag, url) in urls {
            names.check_url(flag, url, &settings, notices)?;
        }
        security.push(settings);
    }
    let peers = security.pop().expect("pushed just now");
    Ok((security.pop().expect("pushed just now"), peers))
}

impl TransportSecurity {
    fn without_files(versions: Versions, cipher_suites: &[CipherSuite]) -> TransportSecurity {
        TransportSecurity {
            identity: Identity::None,
            client_pair: None,
            trusted_ca_file: None,
            client_cert_auth: false,
            crl_file: None,
            allowed_cns: Vec::new(),
            server_name: None,
            allowed_hostnames: Vec::new(),
            skip_client_san_verification: false,
            versions,
            cipher_suites: cipher_suites.to_vec(),
        }
    }

    /// Whether the other side of an accepted connection must have a certificate: as in etcd, a CA alone asks
    /// for it, too.
    pub(crate) fn requires_client_cert(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }
}

impl Names {
    fn all(&self) -> impl Iterator<Item = &'static str> {
        [
            self.cert,
            self.key,
            self.client_cert,
            self.client_key,
            self.client_cert_auth,
            self.trusted_ca,
            self.crl,
            self.allowed_cn,
            self.allowed_hostname,
            self.auto_tls,
        ]
        .into_iter()
        .chain(self.skip_san)
    }

    fn read(
        &self,
        flags: &Flags,
        data_dir: &Path,
        hosts: Vec<String>,
        versions: Versions,
        suites: &[CipherSuite],
        notices: &mut Vec<Notice>,
    ) -> Result<TransportSecurity, ConfigError> {
        let path = |name| Some(flags.path(name).to_owned()).filter(|path| !path.as_os_str().is_empty());
        let pair = pair(flags, self.cert, self.key, "KeyFile and CertFile must both be present")?;
        let client_pair = pair_of_client(flags, self)?;
        let identity = match (pair, flags.bool(self.auto_tls)) {
            (Some(pair), true) => {
                warn(notices, format!("--{} is ignored, because --{} is set", self.auto_tls, self.cert));
                Identity::Files(pair)
            }
            (Some(pair), false) => Identity::Files(pair),
            (None, true) => Identity::Generated(self.generated(flags, data_dir, hosts)?),
            (None, false) => Identity::None,
        };
        let allowed_cns = list(flags.text(self.allowed_cn));
        let allowed_hostnames = list(flags.text(self.allowed_hostname));
        if !allowed_cns.is_empty() && !allowed_hostnames.is_empty() {
            return invalid(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={allowed_cns:?}, \
                 hostnames={allowed_hostnames:?}); set --{} or --{}, not both",
                self.allowed_cn, self.allowed_hostname
            ));
        }
        let security = TransportSecurity {
            identity,
            client_pair,
            trusted_ca_file: path(self.trusted_ca),
            client_cert_auth: flags.bool(self.client_cert_auth),
            crl_file: path(self.crl),
            allowed_cns,
            server_name: None,
            allowed_hostnames,
            skip_client_san_verification: self.skip_san.is_some_and(|name| flags.bool(name)),
            versions,
            cipher_suites: suites.to_vec(),
        };
        if !security.requires_client_cert() {
            for name in [self.crl, self.allowed_cn, self.allowed_hostname] {
                if !flags.path(name).as_os_str().is_empty() {
                    warn(
                        notices,
                        format!(
                            "--{name} does not restrict who connects: without --{} or --{} no certificate is asked for",
                            self.client_cert_auth, self.trusted_ca
                        ),
                    );
                }
            }
        }
        Ok(security)
    }

    fn generated(
        &self,
        flags: &Flags,
        data_dir: &Path,
        hosts: Vec<String>,
    ) -> Result<Generated, ConfigError> {
        let validity_years = match flags.uint("self-signed-cert-validity") {
            0 => {
                return invalid(format!(
                    "selfSignedCertValidity is invalid,it should be greater than 0; set --self-signed-cert-validity to \
                     the years that the certificate of --{} is valid",
                    self.auto_tls
                ));
            }
            years if years > VALIDITY_YEARS_MAX.into() => {
                return invalid(format!(
                    "--self-signed-cert-validity {years} must not be greater than {VALIDITY_YEARS_MAX}"
                ));
            }
            years => years as u32,
        };
        Ok(Generated { dir: data_dir.join(self.fixtures), hosts, validity_years })
    }

    /// What etcd says of a URL that does not go together with the certificates.
    fn check_url(
        &self,
        flag: &str,
        url: &Url,
        settings: &TransportSecurity,
        notices: &mut Vec<Notice>,
    ) -> Result<(), ConfigError> {
        let has_identity = settings.identity != Identity::None;
        if url.scheme.is_tls() {
            if has_identity {
                return Ok(());
            }
            let (cert, key, auto) = (self.cert, self.key, self.auto_tls);
            let why = match flag {
                "listen-metrics-urls" => format!(
                    "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url {url}"
                ),
                "listen-peer-urls" => {
                    format!("cannot listen on TLS for {url}: KeyFile and CertFile are not presented")
                }
                _ => format!(
                    "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
                ),
            };
            return invalid(format!("--{flag}: {why}; set --{cert} and --{key}, or --{auto}"));
        }
        if has_identity {
            warn(
                notices,
                format!(
                    "scheme is http or unix while key and cert files are present; ignoring key and cert files for \
                     --{flag} {url}"
                ),
            );
        }
        if settings.client_cert_auth {
            warn(
                notices,
                format!(
                    "scheme is http or unix while --{} is enabled; ignoring client cert auth for --{flag} {url}",
                    self.client_cert_auth
                ),
            );
        }
        Ok(())
    }
}

fn pair(
    flags: &Flags,
    cert: &'static str,
    key: &'static str,
    both: &str,
) -> Result<Option<KeyPair>, ConfigError> {
    let (cert_file, key_file) = (flags.path(cert).to_owned(), flags.path(key).to_owned());
    match (cert_file.as_os_str().is_empty(), key_file.as_os_str().is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(KeyPair { cert_file, key_file })),
        _ => invalid(format!(
            "{both}[key: {}, cert: {}]; set --{cert} and --{key}",
            key_file.display(),
            cert_file.display()
        )),
    }
}

fn pair_of_client(flags: &Flags, names: &Names) -> Result<Option<KeyPair>, ConfigError> {
    let both = "ClientKeyFile and ClientCertFile must both be present or both absent";
    pair(flags, names.client_cert, names.client_key, both)
}

/// The hosts that a generated certificate is for: those that the member listens on, and those that it
/// announces.
fn hosts<'a>(urls: impl Iterator<Item = &'a Url>) -> Vec<String> {
    let mut hosts = Vec::new();
    for url in urls {
        let host = match &url.target {
            Target::Host { host, .. } => host.as_str(),
            Target::Socket(_) => "localhost",
        };
        if !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }
    hosts
}

fn versions(flags: &Flags) -> Result<Versions, ConfigError> {
    let version = |name: &'static str, default: TlsVersion| match flags.text(name) {
        "" => Ok(default),
        "TLS1.2" => Ok(TlsVersion::Tls12),
        "TLS1.3" => Ok(TlsVersion::Tls13),
        other => {
            invalid(format!("--{name}: unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"))
        }
    };
    let oldest = version("tls-min-version", TlsVersion::Tls12)?;
    let newest = version("tls-max-version", TlsVersion::Tls13)?;
    if oldest > newest {
        return invalid(format!(
            "min version ({}) is greater than max version ({}); change --tls-min-version or --tls-max-version",
            flags.text("tls-min-version"),
            flags.text("tls-max-version")
        ));
    }
    Ok(Versions { oldest, newest })
}

fn cipher_suites(
    flags: &Flags,
    versions: Versions,
    notices: &mut Vec<Notice>,
) -> Result<Vec<CipherSuite>, ConfigError> {
    let names = list(flags.text("cipher-suites"));
    if !names.is_empty() && versions.oldest == TlsVersion::Tls13 {
        return invalid("cipher suites cannot be configured when only TLS1.3 is enabled");
    }
    let mut suites = Vec::new();
    let mut insecure = Vec::new();
    for name in &names {
        match CIPHER_SUITES.iter().find(|(known, _)| known == name) {
            Some((_, Known::Suite(suite))) if !suites.contains(suite) => suites.push(*suite),
            Some((_, Known::Suite(_) | Known::OfTls13)) => {}
            Some((_, Known::Insecure)) => insecure.push(name.as_str()),
            None => return invalid(format!("--cipher-suites: unexpected TLS cipher suite {name:?}")),
        }
    }
    if !insecure.is_empty() {
        let insecure = insecure.join(",");
        if suites.is_empty() {
            return invalid(format!(
                "--cipher-suites: retcd does not have any of {insecure}, which lack forward secrecy or authenticated \
                 encryption; name one with ECDHE and GCM or CHACHA20"
            ));
        }
        warn(
            notices,
            format!(
                "--cipher-suites: retcd does not have {insecure}, which lack forward secrecy or authenticated encryption; \
                 the other suites are used"
            ),
        );
    }
    Ok(suites)
}

/// Warns of a flag that nothing uses.
fn ignored(flags: &Flags, name: &'static str, notices: &mut Vec<Notice>) {
    let flag = find(name).expect("a flag of the table");
    if flags.iter_set().any(|(set, text)| set.name == name && text != flag.default) {
        let what = "an https:// or unixs:// URL";
        warn(notices, format!("--{name} is ignored: it has no effect without {what}"));
    }
}

/// The items of a comma-separated list.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn warn(notices: &mut Vec<Notice>, message: String) {
    notices.push(Notice { warn: true, message });
}

fn invalid<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::invalid(message.into()))
}
