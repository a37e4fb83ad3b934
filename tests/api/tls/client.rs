//! A client of a TLS port that says what it was answered.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{
    certificates::{self, Authority, Pair},
    server::PATIENCE,
};

pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Trusts the servers of these authorities, shows a certificate if there is one, and asks for a protocol.
    pub(super) fn new(trusted: &[&Authority], own: Option<&Pair>, protocol: &str) -> TlsClient {
        TlsClient { config: certificates::client(trusted, own, protocol) }
    }

    pub(super) fn connect(&self, port: u16) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let tls = ClientConnection::new(self.config.clone(), name).expect("the settings are right");
        Ok(StreamOwned::new(tls, tcp))
    }

    /// Sends a request and returns the first bytes of the answer. The error is why there are none.
    pub(super) fn ask(&self, port: u16, request: &[u8]) -> Result<Vec<u8>, String> {
        let mut stream = self.connect(port)?;
        stream.write_all(request).map_err(|error| error.to_string())?;
        let mut answer = vec![0; 4096];
        let count = stream.read(&mut answer).map_err(|error| error.to_string())?;
        answer.truncate(count);
        if count == 0 { Err("the connection was closed".to_owned()) } else { Ok(answer) }
    }
}
