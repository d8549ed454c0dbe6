//! Which pairs are worth making.

use std::{
    cmp::Reverse,
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{
        candidate::{Candidate, CandidateKind},
        pair::Base,
    },
    Epoch, LocalBase,
};

/// Pairs of one peer through the relay: each needs a channel. Reflexive and relayed remote addresses, then host addresses.
const MAX_RELAY_TARGETS: usize = 4;
const MAX_RELAY_HOST_TARGETS: usize = 2;

/// Families must match, and an address of the loopback network reaches only its like.
pub(super) fn can_pair(base: &LocalBase, remote: SocketAddr) -> bool {
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    base.address.is_ipv4() == remote.is_ipv4()
        && (base.base == Base::Relay || is_loopback(base.address.ip()) == is_loopback(remote.ip()))
}

/// To which addresses of the peer the relay shall send: one for each IP, since the permission is for the IP, and the
/// surest first. What was told before the last move of the peer may not be its any more, so the latest are taken.
pub(super) fn relay_targets(epoch: &Epoch) -> Vec<Candidate> {
    let mut targets: Vec<Candidate> = Vec::new();
    let mut sorted: Vec<_> = epoch.candidates.iter().zip(&epoch.told_at).collect();
    sorted.sort_by_key(|(candidate, told_at)| {
        (candidate.kind, Reverse(**told_at), Reverse(candidate.priority))
    });
    for candidate in sorted.into_iter().map(|(candidate, _)| *candidate) {
        let is_host = candidate.kind == CandidateKind::Host;
        let limit = if is_host { MAX_RELAY_HOST_TARGETS } else { MAX_RELAY_TARGETS };
        let same_sort = |target: &&Candidate| (target.kind == CandidateKind::Host) == is_host;
        let is_known = targets
            .iter()
            .any(|t| t.address.ip() == candidate.address.ip() && t.kind == candidate.kind);
        if !is_known && targets.iter().filter(same_sort).count() < limit {
            targets.push(candidate);
        }
    }
    targets
}
