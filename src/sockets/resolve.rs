//! Whether two lists of URLs name the same addresses.
//!
//! The cluster may know a member by its IP address while the member advertises its host name. So URLs
//! are compared as etcd compares them: first by their text, then by the addresses that their hosts
//! resolve to. As in etcd, `localhost` is not resolved, because it means a different machine on each
//! member, and a name that cannot be resolved is retried, because the name service may still be starting.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs},
    time::{Duration, Instant},
};

use crate::{
    clock,
    config::{Target, Url},
};

/// The time limit for resolving all names of one comparison, and the pause between two attempts.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);

/// The name that is not resolved.
const LOCALHOST: &str = "localhost";

/// Resolves a host name to its addresses.
type Lookup = fn(&str) -> io::Result<Vec<IpAddr>>;

/// Compares URLs and remembers the addresses of their hosts. It blocks the calling thread.
pub(crate) struct Resolver {
    lookup: Lookup,
    known: BTreeMap<String, BTreeSet<IpAddr>>,
    give_up: Instant,
}

/// A host as it is compared: by its name, or by its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Named(String),
    At(BTreeSet<IpAddr>),
}

impl Resolver {
    pub(crate) fn new() -> Resolver {
        Resolver::with(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    fn with(lookup: Lookup) -> Resolver {
        Resolver { lookup, known: BTreeMap::new(), give_up: clock::now() + PATIENCE }
    }

    /// `Ok` if `ours` and `theirs` can be paired so that the two URLs of each pair have the same
    /// address. The error says what differs.
    pub(crate) fn same_places(&mut self, ours: &[String], theirs: &[String]) -> Result<(), String> {
        let (ours, theirs) = (parsed(ours)?, parsed(theirs)?);
        if ours.len() != theirs.len() {
            return Err(format!("one list has {} URLs, the other {}", ours.len(), theirs.len()));
        }
        if can_be_paired(&ours, &theirs, &|a, b| written_alike(a, b)) {
            return Ok(());
        }
        let ours_found = self.hosts(&ours, &theirs)?;
        let theirs_found = self.hosts(&theirs, &ours)?;
        let ours: Vec<(Host, &Url)> = ours_found.into_iter().zip(&ours).collect();
        let theirs: Vec<(Host, &Url)> = theirs_found.into_iter().zip(&theirs).collect();
        if can_be_paired(&ours, &theirs, &|(a, a_url), (b, b_url)| {
            written_alike(a_url, b_url) || (differ_in_host_alone(a_url, b_url) && a.meets(b))
        }) {
            return Ok(());
        }
        let describe = |urls: &[(Host, &Url)]| {
            let one = |(host, url): &(Host, &Url)| match host {
                Host::At(ips) => {
                    let ips: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
                    format!("{url} ({})", ips.join(" "))
                }
                Host::Named(name) if name == LOCALHOST => {
                    format!("{url} (not resolved, because it means a different machine on each member)")
                }
                Host::Named(_) => url.to_string(),
            };
            urls.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        Err(format!("{} and {} are different addresses", describe(&ours), describe(&theirs)))
    }

    /// The hosts of `urls`. A URL that is also among `others` is compared by name and not resolved.
    fn hosts(&mut self, urls: &[Url], others: &[Url]) -> Result<Vec<Host>, String> {
        let host = |url: &Url| match &url.target {
            Target::Host { host, .. } if others.iter().any(|other| written_alike(url, other)) => {
                Ok(Host::Named(host.clone()))
            }
            Target::Host { host, .. } => self.host(host),
            Target::Socket(path) => Ok(Host::Named(path.display().to_string())),
        };
        urls.iter().map(host).collect()
    }

    fn host(&mut self, host: &str) -> Result<Host, String> {
        if host == LOCALHOST {
            return Ok(Host::Named(host.to_owned()));
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Host::At(BTreeSet::from([ip.to_canonical()])));
        }
        let name = host.to_ascii_lowercase();
        loop {
            if let Some(ips) = self.known.get(&name) {
                return Ok(Host::At(ips.clone()));
            }
            match (self.lookup)(&name) {
                Ok(ips) => {
                    let ips = ips.into_iter().map(|ip| ip.to_canonical()).collect();
                    tracing::info!(host = name, addresses = ?ips, "resolved the host of a URL");
                    self.known.insert(name.clone(), ips);
                }
                Err(error) if clock::now() + PAUSE >= self.give_up => {
                    return Err(format!("the host {host:?} cannot be resolved: {error}"));
                }
                Err(error) => {
                    tracing::warn!(
                        host,
                        %error,
                        retry_interval = ?PAUSE,
                        "failed to resolve the host of a URL; will retry"
                    );
                    clock::pause(PAUSE);
                }
            }
        }
    }
}

/// Whether two lists of URLs are equal, apart from different spellings of the same host.
pub(crate) fn are_written_alike(ours: &[String], theirs: &[String]) -> bool {
    match (parsed(ours), parsed(theirs)) {
        (Ok(ours), Ok(theirs)) => {
            ours.len() == theirs.len() && can_be_paired(&ours, &theirs, &|a, b| written_alike(a, b))
        }
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn parsed(urls: &[String]) -> Result<Vec<Url>, String> {
    urls.iter().map(|url| Url::parse(url)).collect()
}

impl Host {
    /// Two hosts match if they have an address in common.
    fn meets(&self, other: &Host) -> bool {
        match (self, other) {
            (Host::Named(a), Host::Named(b)) => a == b,
            (Host::At(a), Host::At(b)) => !a.is_disjoint(b),
            (Host::Named(_), Host::At(_)) | (Host::At(_), Host::Named(_)) => false,
        }
    }
}

/// Whether two URLs are the same but for how a host may be written: a name in either case, an
/// address in each of its forms.
fn written_alike(a: &Url, b: &Url) -> bool {
    let host = |host: &str| match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().to_string(),
        Err(_) => host.to_ascii_lowercase(),
    };
    match (&a.target, &b.target) {
        (Target::Host { host: a_host, .. }, Target::Host { host: b_host, .. }) => {
            differ_in_host_alone(a, b) && host(a_host) == host(b_host)
        }
        (a_target, b_target) => a.scheme == b.scheme && a_target == b_target,
    }
}

fn differ_in_host_alone(a: &Url, b: &Url) -> bool {
    let ports = match (&a.target, &b.target) {
        (Target::Host { port: a, .. }, Target::Host { port: b, .. }) => a == b,
        _ => false,
    };
    a.scheme == b.scheme && ports
}

/// Whether each of `ours` can be paired with one of `theirs`, so that the two of every pair are `alike`.
fn can_be_paired<T>(ours: &[T], theirs: &[T], alike: &dyn Fn(&T, &T) -> bool) -> bool {
    // For each of theirs, the index of its partner among ours.
    let mut partners: Vec<Option<usize>> = vec![None; theirs.len()];
    (0..ours.len()).all(|our| {
        let mut tried = vec![false; theirs.len()];
        find_partner(our, ours, theirs, alike, &mut partners, &mut tried)
    })
}

/// Finds a partner for one of ours. One of ours that has this partner already may get another.
fn find_partner<T>(
    our: usize,
    ours: &[T],
    theirs: &[T],
    alike: &dyn Fn(&T, &T) -> bool,
    partners: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for their in 0..theirs.len() {
        if tried[their] || !alike(&ours[our], &theirs[their]) {
            continue;
        }
        tried[their] = true;
        let is_free = match partners[their] {
            None => true,
            Some(rival) => find_partner(rival, ours, theirs, alike, partners, tried),
        };
        if is_free {
            partners[their] = Some(our);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few names and their addresses.
    fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
        let ips: &[&str] = match host {
            "a.example" | "also-a.example" => &["10.0.0.1"],
            "b.example" => &["10.0.0.2", "fd00::2"],
            "both.example" => &["10.0.0.1", "10.0.0.2"],
            "localhost" => &["127.0.0.1"],
            _ => return Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
        };
        Ok(ips.iter().map(|ip| ip.parse().expect("an address")).collect())
    }

    fn compare(ours: &str, theirs: &str) -> Result<(), String> {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        // No host is resolved twice.
        let mut resolver = Resolver { give_up: Instant::now(), ..Resolver::with(lookup) };
        resolver.same_places(&list(ours), &list(theirs))
    }

    #[test]
    fn what_leads_to_the_same_place_is_the_same() {
        for (ours, theirs) in [
            ("http://x:1", "http://x:1"),
            ("http://X.Example:1", "http://x.example:1"),
            ("http://LOCALHOST:1", "http://localhost:1"),
            ("http://LOCALHOST:1", "http://127.0.0.1:1"),
            ("http://[::1]:1", "http://[0:0:0:0:0:0:0:1]:1"),
            ("http://[::ffff:10.0.0.1]:1", "http://10.0.0.1:1"),
            ("http://a.example:1", "http://10.0.0.1:1"),
            ("http://10.0.0.1:1", "http://A.EXAMPLE:1"),
            ("http://a.example:1", "http://also-a.example:1"),
            ("http://b.example:1", "http://[fd00:0::2]:1"),
            ("http://a.example:1,http://b.example:1", "http://10.0.0.2:1,http://10.0.0.1:1"),
            ("http://both.example:1,http://a.example:1", "http://10.0.0.1:1,http://10.0.0.2:1"),
            ("http://x:1,http://a.example:2", "http://10.0.0.1:2,http://x:1"),
            ("unix:/s", "unix:///s"),
        ] {
            assert_eq!(compare(ours, theirs), Ok(()), "{ours} {theirs}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_another() {
        for (ours, theirs) in [
            ("http://a.example:1", "http://a.example:2"),
            ("http://a.example:1", "https://10.0.0.1:1"),
            ("http://a.example:1", "http://10.0.0.2:1"),
            // Each machine has its own `localhost`.
            ("http://localhost:1", "http://127.0.0.1:1"),
            ("http://a.example:1", "http://a.example:1,http://a.example:2"),
            ("http://a.example:1,http://also-a.example:1", "http://10.0.0.1:1,http://10.0.0.2:1"),
            ("http://none.example:1", "http://10.0.0.1:1"),
            ("unix:///s", "unix:///t"),
            ("unix:///s", "http://10.0.0.1:1"),
            ("none", "http://10.0.0.1:1"),
        ] {
            assert!(compare(ours, theirs).is_err(), "{ours} {theirs}");
        }
        let error = compare("http://b.example:1", "http://10.0.0.1:1").expect_err("elsewhere");
        assert_eq!(
            error,
            "http://b.example:1 (10.0.0.2 fd00::2) and http://10.0.0.1:1 (10.0.0.1) are different addresses"
        );
        let error = compare("http://none.example:1", "http://10.0.0.1:1").expect_err("unknown");
        assert_eq!(error, "the host \"none.example\" cannot be resolved: no such host");
    }
}
