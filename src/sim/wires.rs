//! How a simulated member connects to others: by the addresses that its flags and the membership have.

use std::sync::Arc;

use super::network::{Network, Port};
use crate::link::{CallError, Connector, Link, Peer, Way, link};

/// The peer URL of the member at a host.
pub(super) fn peer_url(host: usize) -> String {
    format!("http://10.0.0.{}:2380", host + 1)
}

pub(super) fn client_url(host: usize) -> String {
    format!("http://10.0.0.{}:2379", host + 1)
}

/// The host that a URL leads to.
fn host_of(url: &str) -> Option<usize> {
    let number: usize = url.strip_prefix("http://10.0.0.")?.split(':').next()?.parse().ok()?;
    number.checked_sub(1)
}

pub(super) struct Wires {
    network: Network,
    own: usize,
}

impl Wires {
    pub(super) fn new(network: Network, own: usize) -> Wires {
        Wires { network, own }
    }
}

impl Connector for Wires {
    fn connect(&self, peer: &Peer) -> Result<Arc<dyn Link>, CallError> {
        let host = peer.peer_urls.iter().find_map(|url| host_of(url));
        let host = host.ok_or_else(|| CallError::unusable("no such address".to_owned()))?;
        Ok(link(self.network.wire(self.own, host, Port::Peer)))
    }

    /// The tunnels of members are not simulated: a way that is cut in one direction stays so.
    fn reach(&self, _: Arc<Way>, peer: &Peer) -> Result<Arc<dyn Link>, CallError> {
        self.connect(peer)
    }
}
