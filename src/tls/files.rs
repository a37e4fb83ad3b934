//! The files that TLS is set up from.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{
    certificate::trimmed,
    error::{TlsError, What},
};

/// What tells that a file has changed, without reading it. `None` if the file is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<[i64; 7]>);

impl Stamp {
    pub(super) fn of(path: &Path) -> Stamp {
        Stamp(fs::metadata(path).ok().map(|of| {
            let identity = [of.dev().cast_signed(), of.ino().cast_signed(), of.size().cast_signed()];
            let [device, inode, size] = identity;
            [device, inode, size, of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()]
        }))
    }
}

/// All certificates in a file.
pub(super) fn certificates(path: &Path, what: What) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path, what)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| unusable(path, what, error))?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned() });
    }
    Ok(certificates)
}

/// The first key in a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path, What::Key)?;
    // The error of the library could have a part of the key in it.
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| TlsError::Key { path: path.to_owned(), detail: "it is not a key in PEM".to_owned() })
}

/// The serial numbers of revoked certificates, from a list in DER or from all lists in PEM.
///
/// As in etcd, whoever can write this file decides who is refused: the list's signature is not checked, nor
/// whether it is still current.
pub(super) fn revoked(path: &Path) -> Result<BTreeSet<Vec<u8>>, TlsError> {
    let bytes = read(path, What::Revoked)?;
    let unusable = |error: &dyn std::fmt::Display| unusable(path, What::Revoked, error);
    let pem = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let mut lists = pem.map_err(|error| unusable(&error))?;
    if lists.is_empty() {
        lists.push(CertificateRevocationListDer::from(&*bytes));
    }
    let mut serials = BTreeSet::new();
    for list in &lists {
        let (_, list) = CertificateRevocationList::from_der(list).map_err(|error| unusable(&error))?;
        serials.extend(list.iter_revoked_certificates().map(|entry| trimmed(entry.raw_serial()).to_vec()));
    }
    Ok(serials)
}

/// Creates a directory that only this user can enter.
pub(super) fn create_dir(dir: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a file that only this user can read. A file that is there under this name is replaced as a whole.
pub(super) fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

fn read(path: &Path, what: What) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Unreadable { what, path: path.to_owned(), error })
}

fn unusable(path: &Path, what: What, error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable { what, path: path.to_owned(), detail: error.to_string() }
}
