//! What checks tell of the NATs at both ends. It decides nothing; it explains why there is no direct path.

use std::net::SocketAddr;

use super::{
    super::{
        candidate::CandidateKind,
        pair::{Base, Pair},
        servers::{Mapping, NatMapping},
    },
    Agent,
};

impl Agent {
    /// What the peer's answers tell of the NAT in front of this host.
    pub(in crate::ice) fn nat_mapping(&self) -> NatMapping {
        self.nat_mapping
    }

    /// Whether checks of the peer come from other ports of its NAT than the STUN servers see.
    pub(in crate::ice) fn peer_is_behind_symmetric_nat(&self) -> bool {
        let of_kind = |kind| self.remote_candidates().iter().filter(move |c| c.kind == kind);
        let from = self.pairs.iter().filter(|p| p.remote_kind == CandidateKind::PeerReflexive);
        from.map(|pair| pair.remote).any(|from| {
            of_kind(CandidateKind::ServerReflexive)
                .any(|seen| seen.address.ip() == from.ip() && seen.address.port() != from.port())
        })
    }
}

/// What is known of the NAT in front of this host once `pair` is seen as `mapped`. With a single STUN server there is
/// nothing else to compare with what that one sees.
pub(super) fn learn_mapping(
    known: NatMapping,
    pair: &Pair,
    mapped: SocketAddr,
    reflexive: &[Mapping],
) -> NatMapping {
    // Of another IP address it is another NAT's: then the peer is behind one that this host is behind too.
    let is_comparable = |other: &Mapping| {
        other.base.map(Base::Host) == Some(pair.base) && other.mapped.ip() == mapped.ip()
    };
    if known == NatMapping::EndpointDependent || !reflexive.iter().any(is_comparable) {
        return known;
    }
    match pair.local_kind {
        // A relay is often the STUN server itself, of which some NATs remember only the address.
        CandidateKind::ServerReflexive if pair.remote_kind == CandidateKind::Relayed => known,
        CandidateKind::ServerReflexive => NatMapping::EndpointIndependent,
        CandidateKind::PeerReflexive => NatMapping::EndpointDependent,
        CandidateKind::Host | CandidateKind::Relayed => known,
    }
}
