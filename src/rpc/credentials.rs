//! Who a client says it is: a token in the headers, or the certificate of its connection.
//!
//! As in etcd, a token wins over a certificate, and the certificate of a connection says nothing of a request
//! that came through a JSON gateway, whose own certificate it is.

use std::sync::Arc;

use tonic::{Request, metadata::MetadataMap};

use crate::{
    node::{Credentials, Node, Session},
    types::{CommonName, Secret},
};

/// The headers with a token, the first that is there. The second is what the JSON gateway makes of an HTTP
/// header.
const TOKEN_HEADERS: [&str; 2] = ["token", "authorization"];
const BEARER: &str = "Bearer ";
/// Set by a JSON gateway.
const GATEWAY_HEADER: &str = "grpcgateway-accept";

/// The way to the member for a call. This is the only place that makes one.
pub(crate) async fn session<T>(node: &Node, request: &Request<T>) -> Session {
    let session = node.session(credentials(request));
    session.await_login().await;
    session
}

fn credentials<T>(request: &Request<T>) -> Credentials {
    let headers = request.metadata();
    if let Some(token) = token(headers) {
        return Credentials::Token(Arc::new(token));
    }
    match request.extensions().get::<CommonName>() {
        Some(name) if !headers.contains_key(GATEWAY_HEADER) => Credentials::Certificate(name.clone()),
        Some(_) | None => Credentials::Nothing,
    }
}

fn token(headers: &MetadataMap) -> Option<Secret> {
    let header = TOKEN_HEADERS.iter().find_map(|name| headers.get(*name))?;
    // A token that is no text is not valid, which is for the member to say.
    let text = header.to_str().unwrap_or_default();
    Some(Secret::new(text.strip_prefix(BEARER).unwrap_or(text).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &'static str)], name: Option<&str>) -> String {
        let mut request = Request::new(());
        for (header, value) in headers {
            request.metadata_mut().append(*header, value.parse().expect("a header"));
        }
        if let Some(name) = name {
            request.extensions_mut().insert(CommonName(name.into()));
        }
        match credentials(&request) {
            Credentials::Nothing => "nothing".to_owned(),
            Credentials::Token(token) => format!("token {}", token.reveal()),
            Credentials::Certificate(CommonName(name)) => format!("certificate {name}"),
            Credentials::Known(caller) => format!("{caller:?}"),
        }
    }

    #[test]
    fn a_token_wins_over_a_certificate_and_the_first_header_over_the_second() {
        assert_eq!(of(&[], None), "nothing");
        assert_eq!(of(&[], Some("cn")), "certificate cn");
        assert_eq!(of(&[("token", "a.1")], Some("cn")), "token a.1");
        assert_eq!(of(&[("token", "a.1"), ("token", "b.2")], None), "token a.1");
        assert_eq!(of(&[("authorization", "b.2"), ("token", "a.1")], None), "token a.1");
        assert_eq!(of(&[("authorization", "Bearer b.2")], None), "token b.2");
        assert_eq!(of(&[("authorization", "")], Some("cn")), "token ");
    }

    #[test]
    fn a_certificate_says_nothing_through_a_gateway() {
        assert_eq!(of(&[("grpcgateway-accept", "*/*")], Some("cn")), "nothing");
    }

    #[test]
    fn a_token_is_not_shown() {
        let mut request = Request::new(());
        request.metadata_mut().insert("token", "secret.1".parse().expect("a header"));
        assert_eq!(format!("{:?}", credentials(&request)), "Token(***)");
    }
}
