//! Lists of revoked certificates.

use std::path::PathBuf;

use crate::certificates::{Authority, Pair};

impl Authority {
    /// A list of those that are revoked, in PEM, with this one.
    pub(super) fn revoke(&self, pair: &Pair) -> PathBuf {
        self.openssl(&["ca", "-config", "config", "-revoke", &pair.cert.display().to_string()]);
        self.openssl(&["ca", "-config", "config", "-gencrl", "-out", "crl.pem"]);
        self.file("crl.pem")
    }

    /// A list of nobody.
    pub(super) fn empty_list(&self) -> PathBuf {
        self.openssl(&["ca", "-config", "config", "-gencrl", "-out", "empty.pem"]);
        self.file("empty.pem")
    }
}
