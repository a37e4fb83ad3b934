//! TLS: that nobody reads or changes what a connection carries, and who is at its other end.
//!
//! ```text
//! TransportSecurity --- open ---> Acceptor --- accept ---> an accepted stream, decrypted; its certificate's name
//!                   \-- new ----> Trust ------ connect --> a dialled stream, decrypted
//! ```
//!
//! The protocol is that of the library `rustls`, with the ciphers of `ring`. What is decided here is what etcd
//! decides around Go's library: whose certificates are accepted (`verify`, `exceptions`, `san`), how files
//! that change are read again (`reload`), how many handshakes run and for how long (`places`), and what the log
//! says of a refused connection (`reason`). No session is resumed: a resumed session would skip the check of
//! the certificate, which may have been revoked since ([0043](../../docs/decisions/0043-tls.md)).

mod acceptor;
mod certificate;
mod error;
mod exceptions;
mod files;
mod generated;
mod p521;
mod places;
mod reason;
mod reload;
mod san;
mod suites;
mod trust;
mod verify;

pub(crate) use acceptor::{Acceptor, Endpoint, FIRST_BYTE, Lines, Opened, Transport};
pub(crate) use trust::{Dialled, Trust};
