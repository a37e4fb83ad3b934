//! Certificates made with `openssl` at test time, and clients that show them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::TempDir;

/// A certificate authority in a directory of its own.
pub(crate) struct Authority {
    dir: TempDir,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// What a certificate says.
pub(crate) struct Subject<'a> {
    /// The common name; empty: there is none.
    pub(crate) name: &'a str,
    /// `IP:127.0.0.1,DNS:localhost`; empty: no such names.
    pub(crate) hosts: &'a str,
    /// As `openssl ca` writes times; empty: from now for 30 days.
    pub(crate) valid: (&'a str, &'a str),
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority { dir };
        let config = format!(
            "[ca]\ndefault_ca=own\n[own]\ndatabase={0}/index\nserial={0}/serial\nnew_certs_dir={0}\n\
             certificate={0}/ca.crt\nprivate_key={0}/ca.key\ndefault_md=sha256\npolicy=any\nunique_subject=no\n\
             default_days=30\ndefault_crl_days=30\ncopy_extensions=copy\n[any]\ncommonName=optional\n\
             organizationName=optional\n\
             [req]\ndistinguished_name=none\n[none]\n",
            authority.dir.path().display()
        );
        fs::write(authority.file("config"), config).expect("written");
        fs::write(authority.file("index"), "").expect("written");
        fs::write(authority.file("serial"), "1001\n").expect("written");
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-days",
            "30",
            "-subj",
            &format!("/CN={name}"),
        ]);
        authority
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The certificate of the authority itself.
    pub(crate) fn cert(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// A certificate of somebody who is on this machine.
    pub(crate) fn issue(&self, name: &str) -> Pair {
        self.issue_for(name, &Subject { name, hosts: "IP:127.0.0.1,DNS:localhost", valid: ("", "") })
    }

    /// The files are called `label`.
    pub(crate) fn issue_for(&self, label: &str, subject: &Subject<'_>) -> Pair {
        let (request, key, cert) = (format!("{label}.csr"), format!("{label}.key"), format!("{label}.crt"));
        let hosts = format!("subjectAltName={}", subject.hosts);
        let name = match subject.name {
            "" => "/O=nameless".to_owned(),
            name => format!("/CN={name}"),
        };
        let mut arguments = vec![
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            &name,
        ];
        if !subject.hosts.is_empty() {
            arguments.extend(["-addext", &hosts]);
        }
        self.openssl(&arguments);
        let mut arguments =
            vec!["ca", "-batch", "-config", "config", "-notext", "-in", &request, "-out", &cert];
        if !subject.valid.0.is_empty() {
            arguments.extend(["-startdate", subject.valid.0, "-enddate", subject.valid.1]);
        }
        self.openssl(&arguments);
        Pair { cert: self.file(&cert), key: self.file(&key) }
    }

    pub(crate) fn openssl(&self, arguments: &[&str]) {
        openssl(self.dir.path(), arguments);
    }
}

/// Runs openssl, which is installed if it is not there.
pub(crate) fn openssl(dir: &Path, arguments: &[&str]) {
    static PRESENT: OnceLock<()> = OnceLock::new();
    PRESENT.get_or_init(|| {
        if Command::new("openssl").arg("version").output().is_err() {
            let install = ["install", "--yes", "--no-install-recommends", "openssl"];
            Command::new("apt-get").args(install).status().expect("openssl or apt-get is there");
        }
    });
    let output = Command::new("openssl").args(arguments).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.expect("openssl is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {text}");
}

/// A client that trusts the servers of these authorities, shows a certificate if there is one, and asks for a protocol.
pub(crate) fn client(trusted: &[&Authority], own: Option<&Pair>, protocol: &str) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for authority in trusted {
        let cert = CertificateDer::from_pem_file(authority.cert()).expect("a certificate");
        store.add(cert).expect("an authority");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("all versions");
    let builder = builder.with_root_certificates(store);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_file_iter(&pair.cert).expect("certificates");
            let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("they belong together")
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}
