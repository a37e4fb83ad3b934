//! SRV records, asked of the name servers that `/etc/resolv.conf` names.
//!
//! The system's own resolver, which resolves host names everywhere else, knows addresses only.

use crate::threads;
use hickory_resolver::{Resolver, proto::rr::RData};

/// Where a service is offered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    /// Without the dot at the end that makes a name absolute.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The records of `_service._tcp.domain`, the most preferred first; those that are preferred alike in the order of
/// their names, so that everybody who asks gets the same. It blocks the calling thread until a name server has answered,
/// or none has. The error says what was asked and why there is no answer.
pub(crate) fn srv_records(service: &str, domain: &str) -> Result<Vec<Target>, String> {
    let name = format!("_{service}._tcp.{domain}");
    threads::wait(ask(&name)).map_err(|error| format!("lookup {name}: {error}"))
}

async fn ask(name: &str) -> Result<Vec<Target>, String> {
    let builder = Resolver::builder_tokio().map_err(|error| error.to_string())?;
    let resolver = builder.build().map_err(|error| error.to_string())?;
    let answer = resolver.srv_lookup(name).await.map_err(|error| error.to_string())?;
    let mut records: Vec<(u16, u16, Target)> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => {
                let host = srv.target.to_utf8().trim_end_matches('.').to_owned();
                Some((srv.priority, u16::MAX - srv.weight, Target { host, port: srv.port }))
            }
            _ => None,
        })
        .collect();
    if records.is_empty() {
        return Err("no such record".to_owned());
    }
    records.sort();
    Ok(records.into_iter().map(|(_, _, target)| target).collect())
}

/// The name of etcd's service: `etcd-server` or `etcd-client`, for TLS with `-ssl`, and with a suffix where several
/// clusters share a domain.
pub(crate) fn service_name(base: &str, is_tls: bool, suffix: &str) -> String {
    let mut name = base.to_owned();
    if is_tls {
        name.push_str("-ssl");
    }
    if !suffix.is_empty() {
        name.push('-');
        name.push_str(suffix);
    }
    name
}

impl Target {
    /// `scheme://host:port`
    pub(crate) fn url(&self, scheme: &str) -> String {
        let Target { host, port } = self;
        if host.contains(':') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_as_etcd_names_them() {
        assert_eq!(service_name("etcd-server", false, ""), "etcd-server");
        assert_eq!(service_name("etcd-server", true, ""), "etcd-server-ssl");
        assert_eq!(service_name("etcd-client", true, "blue"), "etcd-client-ssl-blue");
        let target = |host: &str| Target { host: host.to_owned(), port: 2 };
        assert_eq!(target("a.example").url("http"), "http://a.example:2");
        assert_eq!(target("::1").url("https"), "https://[::1]:2");
    }
}
