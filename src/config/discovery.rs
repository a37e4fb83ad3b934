//! Where a new cluster learns who founds it: from the flags, from DNS, or from etcd's discovery service.

use std::{fmt, path::PathBuf, time::Duration};

use super::{ConfigError, flags::Flags};

/// Who says which members found the cluster. It is asked at the first start of a member only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Founding {
    /// `--initial-cluster`, or this member alone.
    Listed,
    /// SRV records of `--discovery-srv`.
    Dns { domain: String, service: String },
    /// The cluster at `--discovery-endpoints`.
    Service(Box<DiscoveryService>),
}

/// A cluster in which members of a new cluster find each other, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiscoveryService {
    pub(crate) endpoints: Vec<String>,
    pub(crate) token: String,
    pub(crate) dial_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
    /// Do not use TLS, unless an endpoint or a file asks for it.
    pub(crate) insecure_transport: bool,
    pub(crate) skip_verify: bool,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) cacert: PathBuf,
    /// May have the password behind a colon.
    pub(crate) user: Secret,
    pub(crate) password: Secret,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Founding {
    pub(super) fn of(flags: &Flags) -> Result<Founding, ConfigError> {
        let endpoints: Vec<String> =
            flags.text("discovery-endpoints").split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
        let has_endpoints = endpoints.iter().any(|endpoint| !endpoint.is_empty());
        let (domain, token) = (flags.text("discovery-srv"), flags.text("discovery-token"));
        let listed = !flags.text("initial-cluster").is_empty();
        if [listed, !domain.is_empty(), has_endpoints].into_iter().filter(|is_set| *is_set).count() > 1 {
            return Err(ConfigError::invalid(
                "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \
                 \"discovery-srv\""
                    .to_owned(),
            ));
        }
        if has_endpoints == token.is_empty() {
            return Err(ConfigError::invalid(
                "both --discovery-token and --discovery-endpoints must be set".to_owned(),
            ));
        }
        if has_endpoints && endpoints.iter().any(String::is_empty) {
            return Err(ConfigError::invalid(
                "--discovery-endpoints must not contain empty endpoints".to_owned(),
            ));
        }
        if has_endpoints {
            return Ok(Founding::Service(Box::new(DiscoveryService {
                endpoints,
                token: token.to_owned(),
                dial_timeout: flags.duration("discovery-dial-timeout"),
                request_timeout: flags.duration("discovery-request-timeout"),
                keepalive_interval: flags.duration("discovery-keepalive-time"),
                keepalive_timeout: flags.duration("discovery-keepalive-timeout"),
                insecure_transport: flags.bool("discovery-insecure-transport"),
                skip_verify: flags.bool("discovery-insecure-skip-tls-verify"),
                cert: flags.path("discovery-cert").to_owned(),
                key: flags.path("discovery-key").to_owned(),
                cacert: flags.path("discovery-cacert").to_owned(),
                user: Secret(flags.text("discovery-user").to_owned()),
                password: Secret(flags.text("discovery-password").to_owned()),
            })));
        }
        if domain.is_empty() {
            return Ok(Founding::Listed);
        }
        let service = flags.text("discovery-srv-name").to_owned();
        Ok(Founding::Dns { domain: domain.to_owned(), service })
    }
}
