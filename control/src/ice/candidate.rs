//! Candidates: addresses at which a node may be reached (RFC 8445, section 5.1), and which of them are taken.
//!
//! Candidates of peers are hostile until proved otherwise: a check is a packet that someone else makes us send. So
//! addresses that cannot be a peer's are refused here, and how many are taken, and how fast they are checked, is
//! bounded by the agent and the pacer.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use ipop_datapath::path::is_of_aliases;

/// How a candidate's address came to be known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CandidateKind {
    /// An address of a TURN server, which relays.
    Relayed,
    /// What a STUN server sees.
    ServerReflexive,
    /// What the peer sees, learned from a check.
    PeerReflexive,
    /// An address of an interface.
    Host,
}

impl CandidateKind {
    /// The type preference of RFC 8445, section 5.1.2.2.
    fn preference(self) -> u32 {
        match self {
            Self::Host => 126,
            Self::PeerReflexive => 110,
            Self::ServerReflexive => 100,
            Self::Relayed => 0,
        }
    }
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Host => "host",
            Self::PeerReflexive => "peer-reflexive",
            Self::ServerReflexive => "server-reflexive",
            Self::Relayed => "relayed",
        })
    }
}

/// An address at which a node may be reached by UDP. There is one component, number 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Candidate {
    /// What it is.
    pub kind: CandidateKind,
    /// Where packets are sent to.
    pub address: SocketAddr,
    /// For all kinds but `Host`, what the address stands for: the base, or the mapped address of a relayed one. For
    /// people only.
    pub related: Option<SocketAddr>,
    /// By RFC 8445, section 5.1.2.1; higher is better.
    pub priority: u32,
}

impl Candidate {
    /// A candidate of this node. `preference` tells those of one kind apart, 65,535 is the best.
    #[must_use]
    pub fn local(
        kind: CandidateKind,
        address: SocketAddr,
        related: Option<SocketAddr>,
        preference: u16,
    ) -> Self {
        Self { kind, address, related, priority: priority(kind, preference) }
    }

    /// The same for candidates of one kind and one base, different for others (RFC 8445, section 5.1.1.3).
    #[must_use]
    pub fn foundation(&self) -> String {
        let base = self.related.unwrap_or(self.address).ip();
        let octets = match base {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.kind as u64;
        for octet in octets {
            hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        }
        format!("{:08x}", hash >> 32)
    }
}

/// The priority of RFC 8445, section 5.1.2.1, for the only component.
pub(super) fn priority(kind: CandidateKind, preference: u16) -> u32 {
    kind.preference() << 24 | u32::from(preference) << 8 | 255
}

/// The local preference of a host address: the first of the list is best, IPv6 before IPv4 (RFC 8421).
pub(super) fn host_preference(ip: IpAddr, position: usize) -> u16 {
    let family = if ip.is_ipv6() { 0 } else { 1 };
    u16::MAX - (2 * position.min(16_000) + family) as u16
}

/// Whether addresses of the loopback network are taken: only where several nodes share one host, in tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loopback {
    /// They are candidates like others.
    Allowed,
    /// They are refused.
    Refused,
}

/// An address of which no candidate is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressRefused {
    /// Nobody listens there.
    #[error("port 0")]
    NoPort,
    /// 0.0.0.0, `::`, and all of 0.0.0.0/8.
    #[error("unspecified address")]
    Unspecified,
    /// Multicast and limited broadcast.
    #[error("address of a group")]
    Group,
    /// 127.0.0.0/8 and `::1`.
    #[error("loopback address")]
    Loopback,
    /// fe80::/10 means nothing without its interface.
    #[error("link-local address")]
    LinkLocal,
    /// 100::/64 (RFC 6666), which the program uses for itself.
    #[error("discard-only address")]
    DiscardOnly,
    /// 240.0.0.0/4.
    #[error("reserved address")]
    Reserved,
}

/// Checks that packets may be sent to `address` because somebody said that a peer is there.
///
/// # Errors
/// Why not.
pub fn check_address(address: SocketAddr, loopback: Loopback) -> Result<(), AddressRefused> {
    if address.port() == 0 {
        return Err(AddressRefused::NoPort);
    }
    check_ip(address.ip(), loopback)
}

/// As [`check_address`], without a port.
pub(super) fn check_ip(ip: IpAddr, loopback: Loopback) -> Result<(), AddressRefused> {
    let ip = ip.to_canonical();
    if ip.is_loopback() {
        return match loopback {
            Loopback::Allowed => Ok(()),
            Loopback::Refused => Err(AddressRefused::Loopback),
        };
    }
    if ip.is_multicast() {
        return Err(AddressRefused::Group);
    }
    match ip {
        IpAddr::V4(ip) if ip.is_broadcast() => Err(AddressRefused::Group),
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Err(AddressRefused::Unspecified),
        IpAddr::V4(ip) if ip.octets()[0] >= 240 => Err(AddressRefused::Reserved),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Err(AddressRefused::Unspecified),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err(AddressRefused::LinkLocal),
        ip if is_of_aliases(ip) => Err(AddressRefused::DiscardOnly),
        _ => Ok(()),
    }
}

/// The same address, IPv4 as IPv4: a dual-stack socket reports it mapped into IPv6, and without scope.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_be_a_peers_are_refused() {
        for (address, expected) in [
            ("1.2.3.4:0", AddressRefused::NoPort),
            ("0.1.2.3:5", AddressRefused::Unspecified),
            ("[::]:5", AddressRefused::Unspecified),
            ("224.0.0.1:5", AddressRefused::Group),
            ("255.255.255.255:5", AddressRefused::Group),
            ("[ff02::1]:5", AddressRefused::Group),
            ("127.0.0.9:5", AddressRefused::Loopback),
            ("[::1]:5", AddressRefused::Loopback),
            ("[::ffff:127.0.0.1]:5", AddressRefused::Loopback),
            ("[fe80::1]:5", AddressRefused::LinkLocal),
            ("[100::7]:5", AddressRefused::DiscardOnly),
            ("250.0.0.1:5", AddressRefused::Reserved),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(check_address(address, Loopback::Refused), Err(expected), "{address}");
        }
        for address in ["10.0.0.1:5", "8.8.8.8:5", "[2001:db8::1]:5", "[fd00::1]:5"] {
            assert_eq!(check_address(address.parse().unwrap(), Loopback::Refused), Ok(()));
        }
        let loopback = "127.0.0.1:5".parse().unwrap();
        assert_eq!(check_address(loopback, Loopback::Allowed), Ok(()));
    }

    #[test]
    fn kinds_come_in_the_order_of_the_standard() {
        let of = |kind| priority(kind, 0);
        assert!(of(CandidateKind::Host) > priority(CandidateKind::PeerReflexive, u16::MAX));
        assert!(of(CandidateKind::PeerReflexive) > of(CandidateKind::ServerReflexive));
        assert!(of(CandidateKind::ServerReflexive) > of(CandidateKind::Relayed));
        let first = host_preference("10.0.0.1".parse().unwrap(), 0);
        let second = host_preference("10.0.0.2".parse().unwrap(), 1);
        assert!(host_preference("fd00::1".parse().unwrap(), 0) > first && first > second);
    }
}
