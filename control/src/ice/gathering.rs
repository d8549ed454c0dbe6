//! This host's candidates (RFC 8445, section 5.1.1): its addresses, what STUN servers see of them, and a TURN server's address. They are gathered
//! once for all peers.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    Candidate, CandidateKind, IceConfig, Loopback, NatMapping, Obstacle, Path, Source, StunServer,
    TurnServer,
    agent::LocalBase,
    candidate::{canonical, check_address, check_ip, host_preference},
    entropy::Entropy,
    pair::{Base, Pair},
    servers::StunServers,
    turn::Turn,
};

#[derive(Debug)]
pub(super) struct Gathering {
    listen_port: u16,
    pub(super) loopback: Loopback,
    pub(super) addresses: Vec<IpAddr>,
    /// All servers that were named; those of families that this host has are used.
    named_servers: (Vec<StunServer>, Vec<TurnServer>),
    pub(super) stun: StunServers,
    pub(super) turn: Turn,
}

impl Gathering {
    pub(super) fn new(config: &IceConfig) -> Self {
        Self {
            listen_port: config.listen_port,
            loopback: config.loopback,
            addresses: Vec::new(),
            named_servers: (Vec::new(), Vec::new()),
            stun: StunServers::default(),
            turn: Turn::new(),
        }
    }

    /// Those of the addresses of which candidates can be made, each once.
    pub(super) fn usable(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut usable: Vec<IpAddr> = Vec::new();
        for ip in addresses.iter().map(IpAddr::to_canonical) {
            if check_ip(ip, self.loopback).is_ok() && !usable.contains(&ip) {
                usable.push(ip);
            }
        }
        usable
    }

    /// The host has these addresses now: the servers are asked anew.
    pub(super) fn set_addresses(
        &mut self,
        now: Instant,
        addresses: Vec<IpAddr>,
        entropy: &mut Entropy,
    ) {
        self.addresses = addresses;
        let (stun, turn) = self.reachable_servers();
        self.stun.set_servers(now, &stun);
        self.stun.ask_again(now);
        self.turn.address_changed(now, turn, entropy);
    }

    /// The servers to use. Those whose address cannot be right come back.
    pub(super) fn set_servers(
        &mut self,
        now: Instant,
        stun: &[StunServer],
        turn: Vec<TurnServer>,
        entropy: &mut Entropy,
    ) -> Vec<SocketAddr> {
        let usable = |address| check_address(address, self.loopback).is_ok();
        let (stun, unusable): (Vec<_>, Vec<_>) =
            stun.iter().copied().partition(|server| usable(server.address));
        let (turn, unusable_turn): (Vec<_>, Vec<_>) =
            turn.into_iter().partition(|server| usable(server.address));
        self.named_servers = (stun, turn);
        let (stun, turn) = self.reachable_servers();
        self.stun.set_servers(now, &stun);
        self.turn.set_servers(now, turn, entropy);
        let unusable = unusable.iter().map(|server| server.address);
        unusable.chain(unusable_turn.iter().map(|server| server.address)).collect()
    }

    /// The named servers without those of a family that this host has not: they would only be waited for in vain.
    fn reachable_servers(&self) -> (Vec<StunServer>, Vec<TurnServer>) {
        let is_reachable = |address: SocketAddr| {
            let of_family = |ip: &IpAddr| ip.is_ipv4() == canonical(address).is_ipv4();
            self.addresses.is_empty() || self.addresses.iter().any(of_family)
        };
        let (stun, turn) = &self.named_servers;
        let stun = stun.iter().filter(|server| is_reachable(server.address));
        let turn = turn.iter().filter(|server| is_reachable(server.address));
        (stun.copied().collect(), turn.cloned().collect())
    }

    /// Routes have changed: the servers are asked at once.
    pub(super) fn network_changed(&mut self, now: Instant, entropy: &mut Entropy) {
        self.stun.check_soon(now);
        self.turn.network_changed(now, entropy);
    }

    /// The NAT may know this host no longer, or by another address.
    pub(super) fn suspect(&mut self, now: Instant, entropy: &mut Entropy) {
        self.turn.suspect(now, entropy);
        self.stun.suspect(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, entropy: &mut Entropy) {
        self.stun.handle_timeout(now, entropy);
        self.turn.handle_timeout(now, entropy);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.stun.poll_timeout().into_iter().chain(self.turn.poll_timeout()).min()
    }

    /// Whether all servers have answered or failed.
    pub(super) fn is_done(&self) -> bool {
        !self.stun.is_gathering() && !self.turn.is_allocating()
    }

    /// What STUN servers' answers say of the NAT.
    pub(super) fn nat_mapping(&self) -> NatMapping {
        self.stun.nat_mapping()
    }

    /// To which base a request came. Without PKTINFO that is clear only if there is but one address of the family.
    pub(super) fn base_at(&self, local_ip: Option<IpAddr>, remote: SocketAddr) -> Option<Base> {
        let of_family = |ip: &&IpAddr| ip.is_ipv4() == remote.is_ipv4();
        let mut fitting = self.addresses.iter().filter(of_family);
        match (local_ip, fitting.next(), fitting.next()) {
            (Some(ip), _, _) if self.addresses.contains(&ip) => Some(Base::Host(ip)),
            (None, Some(ip), None) => Some(Base::Host(*ip)),
            _ => None,
        }
    }

    pub(super) fn bases(&self) -> Vec<LocalBase> {
        let hosts = self.addresses.iter().enumerate().map(|(position, ip)| LocalBase {
            base: Base::Host(*ip),
            address: SocketAddr::new(*ip, self.listen_port),
            preference: host_preference(*ip, position),
        });
        let relay = self.turn.relayed().map(|address| LocalBase {
            base: Base::Relay,
            address,
            preference: u16::MAX,
        });
        hosts.chain(relay).collect()
    }

    /// All candidates, best first.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let mappings = self.stun.mappings();
        let mapped = |is_ipv4| mappings.iter().map(|m| m.mapped).find(|a| a.is_ipv4() == is_ipv4);
        let hosts = self.bases().into_iter().map(|base| match base.base {
            Base::Host(_) => {
                Candidate::local(CandidateKind::Host, base.address, None, base.preference)
            }
            Base::Relay => {
                let related = mapped(base.address.is_ipv4());
                Candidate::local(CandidateKind::Relayed, base.address, related, base.preference)
            }
        });
        let is_host = |address: &SocketAddr| {
            self.addresses.contains(&address.ip()) && address.port() == self.listen_port
        };
        let mapped = mappings
            .iter()
            .enumerate()
            .filter(|(_, m)| !is_host(&m.mapped) && check_address(m.mapped, self.loopback).is_ok());
        let reflexive = mapped.map(|(position, mapping)| {
            let related = mapping.base.map(|ip| SocketAddr::new(ip, self.listen_port));
            let preference = host_preference(mapping.mapped.ip(), position);
            Candidate::local(CandidateKind::ServerReflexive, mapping.mapped, related, preference)
        });
        let mut candidates: Vec<_> = hosts.chain(reflexive).collect();
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
        candidates
    }

    /// The path to and the source of a pair's remote address, or `None` if the relay has no channel for it.
    pub(super) fn path_of(&self, now: Instant, pair: &Pair) -> Option<(Path, Source)> {
        match pair.base {
            Base::Host(ip) => Some((
                Path::Direct { remote: pair.remote, local_ip: Some(ip) },
                Source::Direct(pair.remote),
            )),
            Base::Relay => {
                let server = self.turn.server()?;
                let channel = self.turn.channel(now, pair.remote)?;
                Some((Path::Relay { server, channel }, Source::Channel(channel)))
            }
        }
    }

    /// Why there is no relay, as far as it is known.
    pub(super) fn why_not_relayed(&self) -> Obstacle {
        match (self.turn.relayed(), self.turn.last_problem()) {
            (Some(_), _) => Obstacle::RelayInVain,
            (None, Some(problem)) => problem.clone().into(),
            (None, None) if self.turn.has_servers() => Obstacle::NoRelayYet,
            (None, None) if self.named_servers.1.is_empty() => Obstacle::NoTurnServer,
            (None, None) => Obstacle::NoTurnServerOfFamily,
        }
    }
}
