//! Candidates (RFC 8445 section 5.3), as a peer may and may not write them.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use super::wire;
use crate::ice::{Candidate, CandidateKind, Loopback, check_address, is_ice};

/// Lengths of a foundation, RFC 8839 section 5.1.
const FOUNDATION_LEN: RangeInclusive<usize> = 1..=32;
/// The kinds by their names in XEP-0176.
const KINDS: [(CandidateKind, &str); 4] = [
    (CandidateKind::Host, "host"),
    (CandidateKind::ServerReflexive, "srflx"),
    (CandidateKind::PeerReflexive, "prflx"),
    (CandidateKind::Relayed, "relay"),
];

/// The candidate in this element; none if it is not for us, or nobody should be made to send packets there.
pub(super) fn read(wire: &wire::Candidate, loopback: Loopback) -> Option<Candidate> {
    if wire.component != "1"
        || !wire.protocol.eq_ignore_ascii_case("udp")
        || !is_ice(&wire.foundation, &FOUNDATION_LEN)
    {
        return None;
    }
    let address = address(&wire.ip, &wire.port)?;
    check_address(address, loopback).ok()?;
    let related = wire.rel_addr.as_deref().zip(wire.rel_port.as_deref());
    let (kind, _) = KINDS.into_iter().find(|(_, name)| *name == wire.type_)?;
    Some(Candidate {
        kind,
        address,
        related: related.and_then(|(ip, port)| self::address(ip, port)),
        priority: wire.priority.parse().ok().filter(|priority| *priority > 0)?,
    })
}

pub(super) fn write(candidate: &Candidate, generation: u32, id: usize) -> wire::Candidate {
    let kind = KINDS.into_iter().find(|(kind, _)| *kind == candidate.kind);
    wire::Candidate {
        component: "1".into(),
        foundation: candidate.foundation(),
        generation: (generation % 256).to_string(),
        id: format!("c{generation}-{id}"),
        ip: candidate.address.ip().to_string(),
        port: candidate.address.port().to_string(),
        priority: candidate.priority.to_string(),
        protocol: "udp".into(),
        rel_addr: candidate.related.map(|related| related.ip().to_string()),
        rel_port: candidate.related.map(|related| related.port().to_string()),
        type_: kind.map_or("", |(_, name)| name).into(),
    }
}

/// Numeric only. An IPv4 address in an IPv6 one is the IPv4 address.
fn address(ip: &str, port: &str) -> Option<SocketAddr> {
    let ip: IpAddr = ip.parse().ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate() -> Candidate {
        Candidate {
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
            assert_eq!(read(&write(&candidate, 3, 1), Loopback::Refused), Some(candidate));
        }
    }

    #[test]
    fn addresses_where_nobody_may_be_sent_are_refused() {
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "ff02::1",
            "100::5",
            "::ffff:127.0.0.1",
            "::ffff:224.0.0.1",
            "example.org",
            "fe80::1%eth0",
            "",
        ];
        for ip in refused {
            let wire = wire::Candidate { ip: ip.into(), ..write(&candidate(), 0, 0) };
            assert_eq!(read(&wire, Loopback::Refused), None, "{ip}");
        }
        for ip in ["127.0.0.1", "::1"] {
            let wire = wire::Candidate { ip: ip.into(), ..write(&candidate(), 0, 0) };
            assert!(read(&wire, Loopback::Allowed).is_some(), "{ip}");
        }
        let mapped = wire::Candidate { ip: "::ffff:192.0.2.7".into(), ..write(&candidate(), 0, 0) };
        assert_eq!(read(&mapped, Loopback::Refused), Some(candidate()));
    }

    #[test]
    fn what_is_not_ours_is_skipped() {
        let good = write(&candidate(), 0, 0);
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
            assert_eq!(read(&wire, Loopback::Refused), None, "{wire:?}");
        }
    }
}
