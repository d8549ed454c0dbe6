//! What operators see: counters, how each path stands, and why it is not better.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;

use super::{
    Candidate, CandidateKind, Ice, IceState, Kinds, NatMapping, Obstacle, Obstacles, Path, Peer,
    Role, pair::Pair,
};
use crate::counters::counters;

counters! {
    /// What came in and was not believed, and what was left. All of it is harmless in small numbers.
    IceCounters, "ice_" {
        /// Packets that are no STUN message, or not one for this place.
        unreadable,
        /// Requests with a user name that was given to nobody.
        unknown_ufrag,
        /// Requests to an address of which there is no candidate.
        unknown_destination,
        /// Requests that are not signed right.
        bad_integrity,
        /// Requests of a peer that claims the role of this end.
        role_conflicts,
        /// Responses to no request.
        unknown_response,
        /// Responses that are not signed right, or came from elsewhere.
        bad_response,
        /// ChannelData of a channel that is not bound.
        unknown_channel,
        /// Messages to a peer for which the relay had no channel yet.
        without_channel,
        /// What came to the relay socket and was not the server's answer.
        turn_ignored,
        /// Descriptions that cannot be right.
        bad_descriptions,
        /// Descriptions that are older than the known one.
        old_descriptions,
        /// Candidates of another description than the present one.
        old_candidates,
        /// Candidates whose address cannot be a peer's, or that are too many.
        refused_candidates,
        /// Peers that are too many.
        refused_peers,
        /// Addresses of this host that are too many.
        local_addresses_left,
        /// A peer proved an address that is another peer's.
        contested_sources,
    }
}

/// The pair that carries the traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SelectedPair {
    /// The way.
    pub path: Path,
    /// What this end's candidate is.
    pub local: CandidateKind,
    /// What the peer's candidate is.
    pub remote: CandidateKind,
    /// The peer's address, behind the relay if there is one.
    pub remote_address: SocketAddr,
    /// Smoothed.
    pub rtt: Option<Duration>,
}

/// How the way to one peer stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathSnapshot {
    /// In one word.
    pub state: IceState,
    /// What carries the traffic.
    pub selected: Option<SelectedPair>,
    /// Proved pairs, the selected one included.
    pub proved_pairs: usize,
    /// What is known of the NAT in front of this host.
    pub nat_mapping: NatMapping,
    /// Why it is relayed or not there at all; nothing if it is direct.
    pub why: Option<Obstacles>,
}

/// Of a peer's addresses to which the kernel does not send: one of each family is usual.
const MAX_REFUSED_TOLD: usize = 2;

impl Ice {
    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> IceCounters {
        self.counters
    }

    /// Checks sent so far.
    #[must_use]
    pub fn checks_sent(&self) -> u64 {
        self.checks_sent
    }

    /// The kernel did not send a packet there: it may explain why a pair does not answer.
    pub fn send_refused(&mut self, remote: SocketAddr, errno: i32) {
        self.refused_sends.note(remote, errno);
    }

    /// What is known of the NAT in front of this host: by what STUN servers see, or what peers see.
    #[must_use]
    pub fn nat_mapping(&self) -> NatMapping {
        use NatMapping::{EndpointDependent, EndpointIndependent, Unknown};
        let of_peers = || {
            let said = self.peers.values().map(|entry| entry.agent.nat_mapping());
            said.fold(Unknown, |known, said| match (known, said) {
                (EndpointDependent, _) | (_, EndpointDependent) => EndpointDependent,
                (EndpointIndependent, _) | (_, EndpointIndependent) => EndpointIndependent,
                (Unknown, Unknown) => Unknown,
            })
        };
        match self.gathering.nat_mapping() {
            Unknown => of_peers(),
            known => known,
        }
    }

    /// How the way to `peer` stands, or `None` if ICE was not started for it.
    #[must_use]
    pub fn snapshot(&self, now: Instant, peer: NodeId) -> Option<PathSnapshot> {
        let entry = self.peers.get(&peer)?;
        let pair = entry.agent.selected();
        let selected = pair.and_then(|pair| {
            let (path, _) = self.gathering.path_of(now, pair)?;
            let (local, remote) = (pair.local_kind, pair.remote_kind);
            Some(SelectedPair { path, local, remote, remote_address: pair.remote, rtt: pair.rtt })
        });
        let is_direct = pair.is_some_and(|pair| !pair.is_relayed());
        Some(PathSnapshot {
            state: entry.agent.state(),
            selected,
            proved_pairs: entry.agent.pairs().iter().filter(|pair| pair.is_proved()).count(),
            nat_mapping: self.nat_mapping(),
            why: (!is_direct).then(|| self.explain(entry)),
        })
    }

    /// Why there is no direct path to this peer, as far as it can be told from here.
    pub(super) fn explain(&self, entry: &Peer) -> Obstacles {
        if entry.agent.remote_generation().is_none() {
            return Obstacles(vec![Obstacle::PeerSilent]);
        }
        let remote = entry.agent.remote_candidates();
        let local = self.local_candidates();
        let (here, there) = (Kinds::of(&local), Kinds::of(remote));
        let mut obstacles = vec![Obstacle::NoPairAnswers { here, there }];
        if !have_common_family(&local, remote) {
            obstacles.push(Obstacle::NoCommonFamily);
        }
        let refused = remote.iter().filter_map(|&Candidate { address, .. }| {
            let errno = self.refused_sends.errno_at(address.ip())?;
            Some(Obstacle::KernelRefuses { address, errno })
        });
        obstacles.extend(refused.take(MAX_REFUSED_TOLD));
        if self.nat_mapping() == NatMapping::EndpointDependent {
            obstacles.push(Obstacle::SymmetricHere);
        }
        if entry.agent.peer_is_behind_symmetric_nat() {
            obstacles.push(Obstacle::SymmetricThere);
        }
        if !entry.agent.selected().is_some_and(Pair::is_relayed) {
            obstacles.push(self.gathering.why_not_relayed());
        }
        Obstacles(obstacles)
    }

    /// Of the description of `peer` that holds.
    pub(crate) fn remote_generation(&self, peer: NodeId) -> Option<u32> {
        self.peers.get(&peer)?.agent.remote_generation()
    }

    /// User name fragments under which requests are looked at.
    #[must_use]
    pub fn names(&self) -> usize {
        self.by_ufrag.len()
    }

    /// Channels bound at the TURN server.
    #[must_use]
    pub fn bound_channels(&self) -> usize {
        self.gathering.turn.bound_channels()
    }

    /// Which role this end has towards `peer`.
    #[must_use]
    pub fn role(&self, peer: NodeId) -> Option<Role> {
        self.peers.get(&peer).map(|entry| entry.agent.role())
    }
}

/// Whether some address of one end and some of the other are of one family, or nothing is known of one end.
fn have_common_family(local: &[Candidate], remote: &[Candidate]) -> bool {
    let of_family =
        |one: &Candidate, other: &Candidate| one.address.is_ipv4() == other.address.is_ipv4();
    local.is_empty()
        || remote.is_empty()
        || local.iter().any(|one| remote.iter().any(|other| of_family(one, other)))
}
