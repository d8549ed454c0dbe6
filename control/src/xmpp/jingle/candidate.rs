//! Candidates (RFC 8445 section 5.3) and the credentials that go with them.

use std::net::{IpAddr, SocketAddr};

use super::wire;

/// Candidates in one message, and of one peer in one generation. More are ignored: each costs checks.
pub const MAX_CANDIDATES: usize = 24;
/// Longest foundation, RFC 8839 section 5.1.
const MAX_FOUNDATION_LEN: usize = 32;
/// Lengths of ufrag and password, RFC 8839 section 5.4.
const UFRAG_LEN: std::ops::RangeInclusive<usize> = 4..=256;
const PWD_LEN: std::ops::RangeInclusive<usize> = 22..=256;

/// What kind of address it is, RFC 8445 section 5.1.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum CandidateKind {
    /// An address of the host.
    Host,
    /// The host's address as a STUN server sees it.
    ServerReflexive,
    /// The host's address as the peer sees it.
    PeerReflexive,
    /// An address at a TURN server.
    Relayed,
}

impl CandidateKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "srflx",
            Self::PeerReflexive => "prflx",
            Self::Relayed => "relay",
        }
    }
}

/// An address where a node may be reached by UDP. The component is 1, always.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Candidate {
    /// The same for candidates of one kind, base and server: 1 to 32 characters.
    pub foundation: String,
    /// RFC 8445 section 5.1.2: above 0.
    pub priority: u32,
    /// Where.
    pub address: SocketAddr,
    /// What it is.
    pub kind: CandidateKind,
    /// The base it was made from; for diagnosis only.
    pub related: Option<SocketAddr>,
}

/// Credentials of one end of an ICE session.
#[derive(Clone, PartialEq, Eq)]
pub struct IceDescription {
    /// 4 to 256 characters.
    pub ufrag: String,
    /// 22 to 256 characters.
    pub pwd: String,
    /// Counts restarts: of two descriptions the higher one holds.
    pub generation: u32,
}

impl std::fmt::Debug for IceDescription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IceDescription({}, generation {})", self.ufrag, self.generation)
    }
}

/// Whether peers on the loopback interface are believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loopback {
    /// As it must be: a peer could make this host send packets to its own services.
    Refused,
    /// In tests with all nodes on one host.
    Allowed,
}

impl IceDescription {
    /// Whether ufrag and password are what RFC 8839 allows.
    pub fn is_sound(&self) -> bool {
        is_ice(&self.ufrag, &UFRAG_LEN) && is_ice(&self.pwd, &PWD_LEN)
    }
}

impl Candidate {
    /// The candidate in this element; none if it is not for us, or nobody should be made to send packets there.
    pub(super) fn read(wire: &wire::Candidate, loopback: Loopback) -> Option<Self> {
        if wire.component != "1" || !wire.protocol.eq_ignore_ascii_case("udp") {
            return None;
        }
        if !is_ice(&wire.foundation, &(1..=MAX_FOUNDATION_LEN)) {
            return None;
        }
        let kind = [
            CandidateKind::Host,
            CandidateKind::ServerReflexive,
            CandidateKind::PeerReflexive,
            CandidateKind::Relayed,
        ];
        let address = address_of(&wire.ip, &wire.port)?;
        if !is_reachable(address, loopback) {
            return None;
        }
        let related = wire.rel_addr.as_deref().zip(wire.rel_port.as_deref());
        Some(Self {
            foundation: wire.foundation.clone(),
            priority: wire.priority.parse().ok().filter(|priority| *priority > 0)?,
            address,
            kind: kind.into_iter().find(|kind| kind.as_str() == wire.type_)?,
            related: related.and_then(|(ip, port)| address_of(ip, port)),
        })
    }

    pub(super) fn to_wire(&self, generation: u32, id: usize) -> wire::Candidate {
        wire::Candidate {
            component: "1".into(),
            foundation: self.foundation.clone(),
            generation: (generation % 256).to_string(),
            id: format!("c{generation}-{id}"),
            ip: self.address.ip().to_string(),
            port: self.address.port().to_string(),
            priority: self.priority.to_string(),
            protocol: "udp".into(),
            rel_addr: self.related.map(|related| related.ip().to_string()),
            rel_port: self.related.map(|related| related.port().to_string()),
            type_: self.kind.as_str().into(),
        }
    }
}

/// Whether packets may be sent there on a peer's word.
pub(super) fn is_reachable(address: SocketAddr, loopback: Loopback) -> bool {
    let ip = address.ip();
    let odd = match ip {
        // 0.0.0.0/8 is "this network"; 240.0.0.0/4 has the limited broadcast address in it and nothing that is in use.
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        // 100::/64 (RFC 6666) goes nowhere; the datapath numbers peers there.
        IpAddr::V6(v6) => v6.is_unspecified() || v6.segments()[..4] == [0x100, 0, 0, 0],
    };
    !odd && address.port() != 0 && !ip.is_multicast() && (loopback == Loopback::Allowed || !ip.is_loopback())
}

/// Numeric only. An IPv4 address in an IPv6 one is the IPv4 address.
fn address_of(ip: &str, port: &str) -> Option<SocketAddr> {
    let ip: IpAddr = ip.parse().ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port.parse().ok()?))
}

/// The characters of RFC 8839's `ice-char`.
fn is_ice(text: &str, len: &std::ops::RangeInclusive<usize>) -> bool {
    len.contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate() -> Candidate {
        Candidate {
            foundation: "1a".into(),
            priority: 2_130_706_431,
            address: "192.0.2.7:5800".parse().expect("an address"),
            kind: CandidateKind::ServerReflexive,
            related: Some("10.0.0.2:5800".parse().expect("an address")),
        }
    }

    #[test]
    fn survives_the_way() {
        let v6 = Candidate {
            address: "[2001:db8::7]:1".parse().expect("an address"),
            kind: CandidateKind::Relayed,
            related: None,
            ..candidate()
        };
        for candidate in [candidate(), v6] {
            assert_eq!(Candidate::read(&candidate.to_wire(3, 1), Loopback::Refused), Some(candidate));
        }
    }

    #[test]
    fn addresses_where_nobody_may_be_sent_are_refused() {
        let refused = [
            "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255", "240.0.0.1",
            "::", "::1", "ff02::1", "100::5", "::ffff:127.0.0.1", "::ffff:224.0.0.1", "example.org", "fe80::1%eth0", "",
        ];
        for ip in refused {
            let wire = wire::Candidate { ip: ip.into(), ..candidate().to_wire(0, 0) };
            assert_eq!(Candidate::read(&wire, Loopback::Refused), None, "{ip}");
        }
        for ip in ["127.0.0.1", "::1"] {
            let wire = wire::Candidate { ip: ip.into(), ..candidate().to_wire(0, 0) };
            assert!(Candidate::read(&wire, Loopback::Allowed).is_some(), "{ip}");
        }
        let mapped = wire::Candidate { ip: "::ffff:192.0.2.7".into(), ..candidate().to_wire(0, 0) };
        assert_eq!(Candidate::read(&mapped, Loopback::Refused), Some(candidate()));
    }

    #[test]
    fn what_is_not_ours_is_skipped() {
        let good = candidate().to_wire(0, 0);
        let bad = [
            wire::Candidate { component: "2".into(), ..good.clone() },
            wire::Candidate { protocol: "tcp".into(), ..good.clone() },
            wire::Candidate { port: "0".into(), ..good.clone() },
            wire::Candidate { port: "65536".into(), ..good.clone() },
            wire::Candidate { priority: "0".into(), ..good.clone() },
            wire::Candidate { priority: "-1".into(), ..good.clone() },
            wire::Candidate { foundation: String::new(), ..good.clone() },
            wire::Candidate { foundation: "a".repeat(33), ..good.clone() },
            wire::Candidate { foundation: "a b".into(), ..good.clone() },
            wire::Candidate { type_: "other".into(), ..good },
        ];
        for wire in bad {
            assert_eq!(Candidate::read(&wire, Loopback::Refused), None, "{wire:?}");
        }
    }

    #[test]
    fn credentials_have_lengths_and_characters() {
        let sound = |ufrag: &str, pwd: &str| {
            IceDescription { ufrag: ufrag.into(), pwd: pwd.into(), generation: 0 }.is_sound()
        };
        let pwd = "p".repeat(22);
        assert!(sound("abc+", &pwd) && sound(&"u".repeat(256), &"p".repeat(256)));
        assert!(!sound("abc", &pwd) && !sound("abcd", &pwd[1..]) && !sound("ab:d", &pwd));
        assert!(!sound(&"u".repeat(257), &pwd) && !sound("abcd", &"p".repeat(257)));
    }
}
