//! Where a password comes from, as far as that tells clients apart.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The client of a login. Clients behind the same proxy look like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(super) network: Network,
    /// Nothing tells those on Unix sockets apart.
    pub(super) connection: Option<Connection>,
}

/// Address and port of the client.
pub(super) type Connection = SocketAddr;

/// What usually belongs to one client: an address, or of version 6 the smallest network that is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Network {
    /// A Unix socket, or this member itself.
    Local,
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Origin {
    pub(super) const LOCAL: Origin = Origin { network: Network::Local, connection: None };

    /// `None` is a client on a Unix socket.
    pub(crate) fn of(remote: Option<SocketAddr>) -> Origin {
        let Some(remote) = remote else { return Origin::LOCAL };
        let network = match remote.ip().to_canonical() {
            IpAddr::V4(address) => Network::V4(address.octets()),
            IpAddr::V6(address) => Network::V6(prefix(address)),
        };
        Origin { network, connection: Some(remote) }
    }
}

fn prefix(address: Ipv6Addr) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = address.octets();
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_client_are_one_network() {
        let of = |address: &str| Origin::of(Some(address.parse().expect("an address"))).network;
        assert_eq!(of("10.0.0.1:1"), of("10.0.0.1:2"));
        assert_eq!(of("10.0.0.1:1"), of("[::ffff:10.0.0.1]:1"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:1]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_ne!(Origin::of(None).network, of("127.0.0.1:1"));
    }
}
