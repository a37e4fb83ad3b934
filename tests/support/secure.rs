//! gRPC over TLS, with the certificate that a test wants to show.

use std::{io, sync::Arc};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Connects when the first call is made.
pub(crate) fn connect(endpoint: &Endpoint, tls: &Arc<ClientConfig>) -> Channel {
    let connector = TlsConnector::from(Arc::clone(tls));
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let connector = connector.clone();
        async move {
            let address = uri.authority().expect("an endpoint has an address").as_str();
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("127.0.0.1").expect("an address");
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    }))
}
