//! Where a peer is reached whose path control chooses: a direct address, or a channel of a relay.
//!
//! QUIC never sees the real address of such a peer. It has an *alias*, an address of the discard-only prefix 100::/64 (RFC 6666) that is numbered by
//! its port; connections are dialled to it and accepted from it. The worker translates: out, the alias becomes the peer's current [`Path`]; in,
//! the [`Source`] of a packet becomes the alias. Control fills both with pairs that ICE has validated and with nothing else, so the path
//! never moves because a packet came from somewhere.

pub mod channel_data;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipop_learning::PortId;

/// UDP port of every alias; QUIC refuses 0.
const ALIAS_UDP_PORT: u16 = 1;
/// The upper 112 bits of every alias.
const ALIAS_PREFIX: [u16; 7] = [0x100, 0, 0, 0, 0, 0, 0];
/// The upper 64 bits of the discard-only prefix, 100::/64.
const DISCARD_ONLY: u128 = 0x100 << 48;

/// Where packets to a peer go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Path {
    /// Straight to an address, from the listening socket.
    Direct {
        /// The peer's address.
        remote: SocketAddr,
        /// The local address to send from; the kernel chooses if it is `None`.
        local_ip: Option<IpAddr>,
    },
    /// Over a TURN server, as ChannelData (RFC 8656 section 12), from the relay socket.
    Relay {
        /// The server.
        server: SocketAddr,
        /// A channel that is bound to the peer there, 0x4000 to 0x4fff.
        channel: u16,
    },
}

/// Where packets of a peer come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// An address, at the listening socket.
    Direct(SocketAddr),
    /// A TURN channel, at the relay socket. Control numbers channels so that no two servers share one.
    Channel(u16),
}

/// The address that stands for a peer whose path control chooses.
pub fn alias(port: PortId) -> SocketAddr {
    let [a, b, c, d, e, f, g] = ALIAS_PREFIX;
    SocketAddr::from((Ipv6Addr::new(a, b, c, d, e, f, g, port.0), ALIAS_UDP_PORT))
}

/// The port that an alias stands for; `None` for a real address.
pub fn port_of_alias(address: SocketAddr) -> Option<PortId> {
    let SocketAddr::V6(v6) = address else { return None };
    let segments = v6.ip().segments();
    let is_alias = segments[..7] == ALIAS_PREFIX && v6.port() == ALIAS_UDP_PORT;
    is_alias.then_some(PortId(segments[7]))
}

/// Whether an address lies in the prefix of the aliases. No host has such an address, so nothing may come from there, go there or be named there but aliases.
#[inline]
pub fn is_of_aliases(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.to_bits() >> 64 == DISCARD_ONLY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_prefix_is_of_aliases_and_nothing_beside_it() {
        for inside in ["100::", "100::7", "100::ffff:192.0.2.1", "100::ffff:ffff:ffff:ffff"] {
            assert!(is_of_aliases(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["ff:ffff:ffff:ffff::", "100:0:0:1::", "::ffff:1.0.0.0", "1.0.0.0"] {
            assert!(!is_of_aliases(outside.parse().unwrap()), "{outside}");
        }
        assert!(is_of_aliases(alias(PortId(7)).ip()));
    }

    #[test]
    fn aliases_are_told_from_addresses() {
        for port in [0, 1, 1_023, u16::MAX].map(PortId) {
            assert_eq!(port_of_alias(alias(port)), Some(port));
        }
        for real in ["192.0.2.1:1", "[100::7]:5800", "[100:0:0:1::7]:1", "[2001:db8::7]:1"] {
            assert_eq!(port_of_alias(real.parse().unwrap()), None, "{real}");
        }
    }
}
