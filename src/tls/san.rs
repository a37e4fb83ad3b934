//! Whether a certificate is for the address that its owner connects from.
//!
//! etcd asks this of peers: a certificate with addresses must have the one of the connection; names are looked
//! up, in both directions, and one of them must be a name of that address. A certificate without any of both is
//! good for every address. `--peer-skip-client-san-verification` turns this off.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
};

use tokio::sync::{Semaphore, oneshot};

use super::certificate::Owner;
use crate::{limits, threads};

/// Lookups that run at the same time: the name service may not answer, and a thread waits for it.
static LOOKUPS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(limits::CERTIFICATE_LOOKUPS)));

/// The error is what etcd says.
pub(super) async fn check(owner: &Owner, remote: Option<SocketAddr>) -> Result<(), String> {
    // A file has no address. Who may open it is decided by its permissions.
    let Some(remote) = remote.map(|remote| remote.ip().to_canonical()) else { return Ok(()) };
    if owner.addresses.iter().any(|address| address.to_canonical() == remote) {
        return Ok(());
    }
    if owner.dns_names.is_empty() {
        return match owner.addresses.is_empty() {
            true => Ok(()),
            false => Err(format!("x509: certificate is valid for {}, not {remote}", list(&owner.addresses))),
        };
    }
    let names = owner.dns_names.clone();
    if looked_up(move || has_a_name_of(&names, remote, reverse, forward)).await {
        return Ok(());
    }
    Err(format!("tls: {:?} does not match any of DNSNames {:?}", remote.to_string(), owner.dns_names))
}

/// Asks on a thread of its own, because the system's resolver blocks. If no more threads can be started or the
/// thread ends early, nothing was found.
async fn looked_up(ask: impl FnOnce() -> bool + Send + 'static) -> bool {
    let place = LOOKUPS.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (tell, answer) = oneshot::channel();
    let started = threads::try_spawn("retcd-resolver", move || {
        // The receiver is gone if the handshake has run out of time. The place is kept until here.
        let _ = tell.send(ask());
        drop(place);
    });
    started.is_ok() && answer.await.unwrap_or(false)
}

fn has_a_name_of(
    names: &[String],
    remote: IpAddr,
    reverse: impl Fn(IpAddr) -> Option<String>,
    forward: impl Fn(&str) -> Vec<IpAddr>,
) -> bool {
    let (wildcards, names): (Vec<&String>, Vec<&String>) =
        names.iter().take(limits::CERTIFICATE_NAMES).partition(|name| name.starts_with("*."));
    if let Some(host) = reverse(remote) {
        let host = host.trim_end_matches('.');
        let is_below = |name: &&String| host.ends_with(&name[1..]);
        if wildcards.iter().any(is_below) || names.iter().any(|name| *name == host) {
            return true;
        }
    }
    names.iter().any(|name| forward(name).iter().any(|address| address.to_canonical() == remote))
}

fn reverse(address: IpAddr) -> Option<String> {
    // Where an address has no name, the answer is the address itself.
    dns_lookup::lookup_addr(&address).ok().filter(|name| name.parse::<IpAddr>().is_err())
}

fn forward(name: &str) -> Vec<IpAddr> {
    dns_lookup::lookup_host(name).map(Iterator::collect).unwrap_or_default()
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(dns_names: &[&str], addresses: &[&str]) -> Owner {
        Owner {
            dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            ..Owner::default()
        }
    }

    #[tokio::test]
    async fn addresses_are_compared() {
        let from = |text: &str| Some(text.parse::<SocketAddr>().expect("an address"));
        assert_eq!(check(&owner(&[], &[]), from("10.0.0.1:1")).await, Ok(()), "good for every address");
        assert_eq!(check(&owner(&[], &["10.0.0.1"]), from("10.0.0.1:1")).await, Ok(()));
        assert_eq!(check(&owner(&[], &["10.0.0.1"]), from("[::ffff:10.0.0.1]:1")).await, Ok(()));
        assert_eq!(check(&owner(&[], &["10.0.0.1"]), None).await, Ok(()), "a file has no address");
        assert_eq!(
            check(&owner(&[], &["10.0.0.1", "::1"]), from("10.0.0.2:1")).await,
            Err("x509: certificate is valid for 10.0.0.1, ::1, not 10.0.0.2".to_owned())
        );
    }

    #[test]
    fn names_are_looked_up_in_both_directions() {
        let is_named = |names: &[&str], remote: &str| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let reverse =
                |address: IpAddr| (address.to_string() == "10.0.0.1").then(|| "a.example.com.".to_owned());
            let forward = |name: &str| match name {
                "b.example.com" => vec!["10.0.0.2".parse().expect("an address")],
                _ => Vec::new(),
            };
            has_a_name_of(&names, remote.parse().expect("an address"), reverse, forward)
        };
        assert!(is_named(&["a.example.com"], "10.0.0.1"), "by its address");
        assert!(is_named(&["*.example.com"], "10.0.0.1"), "below a wildcard");
        assert!(is_named(&["x", "b.example.com"], "10.0.0.2"), "by its name");
        assert!(!is_named(&["*.example.com"], "10.0.0.2"), "a wildcard cannot be looked up");
        assert!(!is_named(&["b.example.com"], "10.0.0.3"));
        assert!(!is_named(&["*.example.org", "example.com"], "10.0.0.1"));
    }
}
