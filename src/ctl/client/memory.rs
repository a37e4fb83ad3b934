//! How much memory a server has, from its metrics.

use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::body::Body;
use tower::Service;

use super::{
    connection::{Connection, Keepalive},
    endpoint::{Address, Endpoint, Security},
};
use crate::{cli::go::reason, ctl::settings::Dial, limits, tls::Trust};

const NAME: &str = "process_resident_memory_bytes";

#[derive(Debug, thiserror::Error)]
pub(in crate::ctl) enum MemoryError {
    #[error("fetch error: {0}")]
    Fetch(String),
    #[error("could not find: {NAME}")]
    Missing,
}

/// That of the server at the first endpoint.
pub(in crate::ctl) async fn resident_memory(dial: &Dial) -> Result<f64, MemoryError> {
    let failed = |error: &dyn std::fmt::Display| MemoryError::Fetch(error.to_string());
    let endpoint = Endpoint::parse(dial.endpoints.first().map_or("", String::as_str));
    let request = http::Request::get("/metrics").header("host", endpoint.authority());
    let request = request.body(Body::empty()).map_err(|error| failed(&error))?;
    let answer = match (&endpoint.address, trust(&endpoint, dial)) {
        (Address::Tcp(address), None) => {
            let stream = TcpStream::connect(address).await.map_err(|error| failed(&reason(&error)))?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, driver) = handshake.map_err(|error| failed(&error))?;
            // The answer learns of the end of the connection by itself.
            tokio::spawn(async { drop(driver.await) });
            sender.send_request(request).await.map_err(|error| failed(&error))?
        }
        // Over TLS, and over what only gRPC is spoken on, the protocol is HTTP/2.
        (_, trust) => {
            let keepalive = Keepalive { interval: dial.keepalive_interval, timeout: dial.keepalive_timeout };
            let connection = Connection::dial(&endpoint, trust.as_ref(), keepalive).await;
            let mut connection = connection.map_err(|error| failed(&reason(&error)))?;
            let (mut parts, body) = request.into_parts();
            let uri = http::Uri::builder().scheme("https").authority(endpoint.authority());
            parts.uri = uri.path_and_query("/metrics").build().map_err(|error| failed(&error))?;
            connection.call(http::Request::from_parts(parts, body)).await.map_err(|error| failed(&error))?
        }
    };
    let body = Limited::new(answer.into_body(), limits::CTL_METRICS_BYTES_MAX).collect().await;
    let text = body.map_err(|error| failed(&error))?.to_bytes();
    let text = String::from_utf8_lossy(&text);
    let value = text.lines().find_map(|line| line.strip_prefix(NAME)?.trim().parse().ok());
    value.ok_or(MemoryError::Missing)
}

fn trust(endpoint: &Endpoint, dial: &Dial) -> Option<Trust> {
    match endpoint.security {
        Security::None => None,
        Security::ByFlags => dial.trust.clone(),
        Security::Required => Some(dial.trust.clone().unwrap_or_else(|| Trust::of_client(None, None, false))),
    }
}
