//! The members of a new cluster by SRV records of their peer ports.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, ToSocketAddrs},
};

use crate::{
    config::{Config, Target, Url},
    dns::{self, service_name},
    telemetry::list,
};

/// `name=url` of each member, separated by commas. The name is known of this member alone: the others tell theirs when
/// the cluster runs. So they get numbers.
pub(super) fn members(config: &Config, domain: &str, suffix: &str) -> Result<String, String> {
    let own = addresses_of(&config.initial_advertise_peer_urls)?;
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for (scheme, is_tls) in [("https", true), ("http", false)] {
        let service = service_name("etcd-server", is_tls, suffix);
        let records = dns::srv_records(&service, domain);
        let targets = match &records {
            Ok(targets) => targets.as_slice(),
            Err(error) => {
                failures.push(format!("error querying DNS SRV records for _{service} {error}"));
                &[]
            }
        };
        let mut members = Vec::new();
        for target in targets {
            match member(target, scheme, &own) {
                Ok(is_own) => {
                    let name =
                        if is_own { config.name.clone() } else { (found.len() + members.len()).to_string() };
                    members.push(format!("{name}={}", target.url(scheme)));
                }
                Err(error) => failures.push(error),
            }
        }
        tracing::info!(
            "service-scheme" = scheme,
            "service-name" = service,
            "server-name" = config.name,
            "discovery-srv" = domain,
            "advertise-peer-urls" = ?list(&config.initial_advertise_peer_urls),
            "found-cluster" = ?list(&members),
            error = records.err().unwrap_or_default(),
            "get cluster for {service} SRV"
        );
        found.extend(members);
    }
    if found.is_empty() {
        return Err(failures.join("; "));
    }
    for member in &found {
        tracing::info!(node = member, "got bootstrap from DNS for etcd-server");
    }
    let prefix = format!("{}=", config.name);
    if !found.iter().any(|member| member.starts_with(&prefix)) {
        let failures = failures.iter().map(|failure| format!("; {failure}")).collect::<String>();
        return Err(format!(
            "cannot find local etcd member {:?} in SRV records; --initial-advertise-peer-urls must lead to the address of one \
             of them{failures}",
            config.name
        ));
    }
    Ok(found.join(","))
}

/// The addresses of a member's own URLs, with their schemes.
type Own = BTreeSet<(SocketAddr, String)>;

fn addresses_of(urls: &[String]) -> Result<Own, String> {
    let mut own = BTreeSet::new();
    for text in urls {
        let url = Url::parse(text)?;
        let Target::Host { host, port } = &url.target else { continue };
        let addresses = resolve(host, *port)
            .map_err(|error| format!("cannot resolve {text} of --initial-advertise-peer-urls: {error}"))?;
        own.extend(addresses.into_iter().map(|address| (address, url.scheme.as_str().to_owned())));
    }
    Ok(own)
}

/// Whether a record is this member's own. The error says why the record cannot be used.
fn member(target: &dns::Target, scheme: &str, own: &Own) -> Result<bool, String> {
    let addresses = resolve(&target.host, target.port)
        .map_err(|error| format!("cannot resolve {}, to which an SRV record leads: {error}", target.host))?;
    let of_address = |address: &SocketAddr| own.iter().find(move |(known, _)| known == address);
    match addresses.iter().find_map(of_address) {
        Some((_, expected)) if expected != scheme => Err(format!(
            "bootstrap at {} from DNS has scheme mismatch with expected peer, which is {expected}",
            target.url(scheme)
        )),
        Some(_) => Ok(true),
        None => Ok(false),
    }
}

fn resolve(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_ones_own_if_it_leads_to_the_same_address_with_the_same_scheme() {
        let own =
            addresses_of(&["http://127.0.0.1:1".to_owned(), "https://localhost:2".to_owned()]).expect("two");
        let target = |host: &str, port| dns::Target { host: host.to_owned(), port };
        assert_eq!(member(&target("127.0.0.1", 1), "http", &own), Ok(true));
        assert_eq!(member(&target("localhost", 1), "http", &own), Ok(true));
        assert_eq!(member(&target("127.0.0.1", 3), "http", &own), Ok(false));
        let error = member(&target("127.0.0.1", 2), "http", &own).expect_err("the scheme is another");
        assert!(error.contains("scheme mismatch") && error.contains("http://127.0.0.1:2"), "{error}");
    }
}
