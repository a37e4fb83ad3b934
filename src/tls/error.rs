//! Why TLS cannot be set up.

use std::{fmt, io, path::PathBuf};

/// The text names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read the {what} {}: {error}; name a file that this user may read", path.display())]
    Unreadable { what: What, path: PathBuf, error: io::Error },
    #[error("the {what} {} has nothing of that kind in PEM; name another file", path.display())]
    Empty { what: What, path: PathBuf },
    #[error("the {what} {} cannot be used: {detail}; replace the file", path.display())]
    Unusable { what: What, path: PathBuf, detail: String },
    #[error(
        "the key {} cannot be used: {detail}. Keys are RSA with 2048 bits or more, ECDSA on P-256 or P-384, or \
         Ed25519, without a passphrase",
        path.display()
    )]
    Key { path: PathBuf, detail: String },
    #[error(
        "the key {} does not belong to the certificate {}; replace both together",
        key.display(),
        certificate.display()
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("no CA is trusted: the system has no list of them; name a file of CAs")]
    NoTrust,
    #[error("cannot make a certificate in {}: {error}", dir.display())]
    NotGenerated { dir: PathBuf, error: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Certificate,
    Key,
    Authorities,
    Revoked,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::Certificate => "certificate",
            What::Key => "key",
            What::Authorities => "file of CAs",
            What::Revoked => "list of revoked certificates",
        })
    }
}
