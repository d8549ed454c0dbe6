//! Ways to peers through NATs: ICE (RFC 8445), STUN and TURN, as one state machine for the whole node, without I/O and
//! without a clock.
//!
//! All peers share the listening socket, so gathering, the TURN allocation and the pace of checks are shared too, and
//! live here; what concerns one peer is an [`agent`](self). Requests find their agent by the ufrag in USERNAME,
//! responses by their transaction. The caller feeds packets, addresses, servers and what peers say, polls transmits
//! and events, and calls [`Ice::handle_timeout`] when [`Ice::poll_timeout`] says so. Randomness comes from
//! [`Entropy`], so a simulation runs the very same code.
//!
//! What the datapath is told follows from the pairs that are proved: [`IceEvent::Selected`] is where packets to a peer
//! go, [`IceEvent::SourceValid`] from where its packets may come. Nothing else moves a path.

mod agent;
mod candidate;
mod credentials;
mod entropy;
mod event;
#[cfg(feature = "testing")]
pub(crate) mod fuzzing;
mod gathering;
#[cfg(test)]
mod hostile_peers;
mod input;
mod obstacle;
mod pace;
mod pair;
mod probe;
mod report;
mod search;
mod servers;
mod sources;
mod stun;
mod timing;
mod turn;

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

pub use ipop_datapath::path::{Path, Source};
use ipop_datapath::{command::ControlPacket, io::SocketKind, node_id::NodeId, path::channel_data};

pub(crate) use self::credentials::is_ice;
use self::{
    agent::{Agent, Pacing, Word},
    candidate::canonical,
    credentials::Credentials,
    event::Announced,
    gathering::Gathering,
    pace::{PacedChecks, Pacer, Transactions},
    pair::Base,
    sources::Sources,
    turn::TurnEvent,
};
pub use self::{
    agent::{IceState, MAX_CANDIDATES, Watch},
    candidate::{AddressRefused, Candidate, CandidateKind, Loopback, check_address},
    credentials::IceDescription,
    entropy::Entropy,
    event::IceEvent,
    input::{Packet, Via},
    obstacle::{Kinds, Obstacle, Obstacles, ServerProblem, TurnFault},
    probe::{Allocation, Probe},
    report::{IceCounters, PathSnapshot, SelectedPair},
    search::{Outcome, PairReport, Search},
    servers::{NatMapping, StunServer, TurnServer},
    timing::Timing,
};
use crate::{
    host::refused_sends::RefusedSends,
    sessions::MAX_PEERS,
    timed::{Timed, Timer},
};

/// Addresses of this host of which candidates are made; the others are left.
const MAX_LOCAL_ADDRESSES: usize = 8;
/// What is fixed from the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IceConfig {
    /// The port of the listening socket.
    pub listen_port: u16,
    /// Whether loopback addresses are taken.
    pub loopback: Loopback,
    /// Where random numbers come from.
    pub entropy: Entropy,
    /// How often and how long.
    pub timing: Timing,
}

/// Who decides. The lower node id is controlling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Nominates pairs.
    Controlling,
    /// Follows.
    Controlled,
}

#[derive(Debug)]
struct Peer {
    agent: Agent,
    announced: Announced,
    /// Under which it is found in `by_ufrag`.
    ufrags: Vec<String>,
}

/// Timers and checks of proved pairs: what does not wait for the pacer.
impl Timer for Peer {
    fn wake_at(&self) -> Option<Instant> {
        self.agent.poll_timeout().into_iter().chain(self.agent.free_check_at()).min()
    }
}

/// ICE for all peers.
#[derive(Debug)]
pub struct Ice {
    entropy: Entropy,
    timing: Timing,
    gathering: Gathering,
    peers: Timed<NodeId, Peer>,
    paced: PacedChecks,
    by_ufrag: HashMap<String, NodeId>,
    transactions: Transactions,
    pacer: Pacer,
    sources: Sources,
    /// The candidates that all peers have been told, and whether they are all.
    announced: (Vec<Candidate>, bool),
    transmits: VecDeque<ControlPacket>,
    events: VecDeque<IceEvent>,
    refused_sends: RefusedSends,
    counters: IceCounters,
    checks_sent: u64,
}

impl Ice {
    /// No peers, no servers, no addresses yet.
    #[must_use]
    pub fn new(config: IceConfig, now: Instant) -> Self {
        Self {
            gathering: Gathering::new(&config),
            pacer: Pacer::new(config.timing.pace, now),
            entropy: config.entropy,
            timing: config.timing,
            peers: Timed::default(),
            paced: PacedChecks::default(),
            by_ufrag: HashMap::new(),
            transactions: Transactions::default(),
            sources: Sources::default(),
            announced: (Vec::new(), false),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            refused_sends: RefusedSends::default(),
            counters: IceCounters::default(),
            checks_sent: 0,
        }
    }

    /// The addresses that this host has now, best first, without those of the overlay and of ignored interfaces.
    pub fn set_local_addresses(&mut self, now: Instant, addresses: &[IpAddr]) {
        let mut taken = self.gathering.usable(addresses);
        self.counters.local_addresses_left +=
            taken.len().saturating_sub(MAX_LOCAL_ADDRESSES) as u64;
        taken.truncate(MAX_LOCAL_ADDRESSES);
        if taken == self.gathering.addresses {
            return;
        }
        self.refused_sends.forget();
        self.gathering.set_addresses(now, taken, &mut self.entropy);
        self.local_candidates_changed(now);
    }

    /// The servers to use. TURN servers are tried in order; an allocation that stands stays.
    pub fn set_servers(&mut self, now: Instant, stun: &[StunServer], turn: Vec<TurnServer>) {
        for address in self.gathering.set_servers(now, stun, turn, &mut self.entropy) {
            self.events.push_back(IceEvent::Server(ServerProblem::NotUsable(address)));
        }
        self.advance_servers(now);
    }

    /// Begins to look for ways to `peer`. Nothing happens if it has been begun, or if there are too many peers, which is
    /// counted.
    pub fn start(&mut self, now: Instant, peer: NodeId, role: Role) {
        if self.peers.contains_key(&peer) {
            return;
        }
        if self.peers.len() >= MAX_PEERS {
            self.counters.refused_peers += 1;
            return;
        }
        let local = Credentials::generate(&mut self.entropy);
        let tie_breaker = self.entropy.u64();
        let agent = Agent::new(now, role, self.timing, tie_breaker, local);
        let entry = Peer { agent, announced: Announced::default(), ufrags: Vec::new() };
        self.peers.insert(peer, entry);
        self.describe(now, peer);
    }

    /// New credentials and a new search. What works now carries on until the new search has found something. Also to be
    /// called when signalling with the peer begins anew: from then on descriptions of any generation are taken.
    pub fn restart(&mut self, now: Instant, peer: NodeId) {
        let local = Credentials::generate(&mut self.entropy);
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        entry.agent.restart(now, local);
        entry.announced.forget_candidates();
        self.describe(now, peer);
    }

    /// The peer's description by way of a server. One that is older than the known one, or that cannot be right, is counted and
    /// ignored.
    pub fn set_remote(&mut self, now: Instant, peer: NodeId, remote: &IceDescription) {
        self.describe_remote(now, peer, remote, Word::Passed);
    }

    /// The peer's description by its own word, inside the tunnel: it holds whatever a server said before.
    pub fn set_remote_inside(&mut self, now: Instant, peer: NodeId, remote: &IceDescription) {
        self.describe_remote(now, peer, remote, Word::Own);
    }

    fn describe_remote(&mut self, now: Instant, peer: NodeId, remote: &IceDescription, word: Word) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let Some(credentials) = Credentials::parse(remote) else {
            self.counters.bad_descriptions += 1;
            return;
        };
        if !entry.agent.set_remote(now, credentials, remote.generation, word) {
            self.counters.old_descriptions += 1;
        }
        self.sync(now, peer);
    }

    /// Candidates of the peer's description `generation`. What is not taken is counted.
    pub fn add_remote_candidates(
        &mut self,
        now: Instant,
        peer: NodeId,
        generation: u32,
        candidates: &[Candidate],
    ) {
        let loopback = self.gathering.loopback;
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        if entry.agent.remote_generation() != Some(generation) {
            self.counters.old_candidates += candidates.len() as u64;
            return;
        }
        for candidate in candidates {
            let candidate = Candidate { address: canonical(candidate.address), ..*candidate };
            let is_usable = check_address(candidate.address, loopback).is_ok();
            if !is_usable || !entry.agent.add_remote_candidate(now, candidate) {
                self.counters.refused_candidates += 1;
            }
        }
        self.sync(now, peer);
    }

    /// The path to `peer` seems dead (QUIC waits in vain): it is checked at once. `rtt` is the round-trip time of before, if
    /// it is known better than by checks.
    pub fn suspect(&mut self, now: Instant, peer: NodeId, rtt: Option<Duration>) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.agent.suspect(now, rtt);
            self.sync(now, peer);
        }
    }

    /// Says whether a connection to `peer` goes over the selected path, so that checks need not notice its death.
    pub fn set_watch(&mut self, now: Instant, peer: NodeId, watch: Watch) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.agent.set_watch(now, watch);
            self.sync(now, peer);
        }
    }

    /// Packets may leave by other ways than before, or arrive where they did not: paths and servers are asked at once.
    pub fn network_changed(&mut self, now: Instant) {
        self.refused_sends.forget();
        self.gathering.network_changed(now, &mut self.entropy);
        self.collect_turn_transmits();
        self.for_agents(now, |_| true, |agent| agent.network_changed(now));
    }

    /// Forgets `peer`, with its sources.
    pub fn stop(&mut self, now: Instant, peer: NodeId) {
        let Some(entry) = self.peers.remove(&peer) else { return };
        for ufrag in &entry.ufrags {
            self.by_ufrag.remove(ufrag);
        }
        self.paced.set(peer, [None; 2]);
        self.sources.forget(peer);
        for source in entry.announced.sources {
            self.release_source(now, peer, source);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.transactions.expire(now);
        self.gathering.handle_timeout(now, &mut self.entropy);
        self.advance_servers(now);
        for peer in self.peers.due(now) {
            let Some(entry) = self.peers.get_mut(&peer) else { continue };
            entry.agent.handle_timeout(now);
            while self.send_check(now, peer, Pacing::Free) {}
            self.sync(now, peer);
        }
        self.send_paced_checks(now);
    }

    /// When [`Ice::handle_timeout`] is to be called; may be in the past.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let paced = self.paced.next_wake().map(|at| at.max(self.pacer.ready_at()));
        let timers = [self.gathering.poll_timeout(), self.peers.next_wake(), paced];
        timers.into_iter().flatten().min()
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<ControlPacket> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<IceEvent> {
        self.events.pop_front()
    }
}

/// Checks and their pace.
impl Ice {
    /// Sends checks of unproved pairs as far as the pace allows: the peers' triggered ones first, then by time.
    fn send_paced_checks(&mut self, now: Instant) {
        while self.pacer.ready_at() <= now {
            let Some(peer) = self.paced.first_due(now) else { return };
            // A pair that was checked often enough fails instead.
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.agent.handle_timeout(now);
            }
            if self.send_check(now, peer, Pacing::Paced) {
                self.pacer.take(now);
            }
            self.sync(now, peer);
        }
    }

    fn send_check(&mut self, now: Instant, peer: NodeId, pacing: Pacing) -> bool {
        let Some(entry) = self.peers.get_mut(&peer) else { return false };
        let Some(check) = entry.agent.make_check(now, pacing, &mut self.entropy) else {
            return false;
        };
        self.transactions.insert(now, check.transaction, peer);
        self.checks_sent += 1;
        self.send_from(now, check.base, check.remote, check.payload);
        true
    }

    /// Sends a STUN message by way of `base`. Through the relay only if there is a channel; it is asked for otherwise.
    fn send_from(&mut self, now: Instant, base: Base, remote: SocketAddr, mut payload: Vec<u8>) {
        match base {
            Base::Host(ip) => self.transmits.push_back(ControlPacket {
                socket: SocketKind::Listen,
                local_ip: Some(ip),
                remote,
                payload,
            }),
            Base::Relay => {
                match (self.gathering.turn.server(), self.gathering.turn.channel(now, remote)) {
                    (Some(server), Some(channel)) => {
                        let len = payload.len();
                        channel_data::wrap(&mut payload, len, channel);
                        self.transmits.push_back(ControlPacket {
                            socket: SocketKind::Relay,
                            local_ip: None,
                            remote: server,
                            payload,
                        });
                    }
                    _ => self.counters.without_channel += 1,
                }
                self.gathering.turn.want_channel(now, remote, &mut self.entropy);
            }
        }
    }
}

/// What is shared by all peers: local candidates and servers.
impl Ice {
    /// Collects what the servers' state machines want to send and say.
    fn advance_servers(&mut self, now: Instant) {
        while let Some((remote, payload)) = self.gathering.stun.poll_transmit() {
            let socket = SocketKind::Listen;
            self.transmits.push_back(ControlPacket { socket, local_ip: None, remote, payload });
        }
        let mut candidates_changed = false;
        while let Some(event) = self.gathering.turn.poll_event() {
            match event {
                TurnEvent::Allocated { .. } | TurnEvent::Gone => candidates_changed = true,
                TurnEvent::ChannelBound { remote } => {
                    let uses = |agent: &Agent| agent.relays_to(remote);
                    self.for_agents(now, uses, |agent| agent.channel_bound(now, remote));
                }
                TurnEvent::ChannelGone { remote } => {
                    let uses = |agent: &Agent| agent.relays_to(remote);
                    self.for_agents(now, uses, |agent| agent.channel_gone(now, remote));
                }
                TurnEvent::Problem(problem) => self.events.push_back(IceEvent::Server(problem)),
            }
        }
        if candidates_changed {
            self.local_candidates_changed(now);
        } else {
            self.announce_candidates(now);
        }
        self.counters.turn_ignored = self.gathering.turn.ignored();
        self.collect_turn_transmits();
    }

    fn collect_turn_transmits(&mut self) {
        while let Some((remote, payload)) = self.gathering.turn.poll_transmit() {
            let socket = SocketKind::Relay;
            self.transmits.push_back(ControlPacket { socket, local_ip: None, remote, payload });
        }
    }

    fn for_agents(
        &mut self,
        now: Instant,
        concerns: impl Fn(&Agent) -> bool,
        act: impl Fn(&mut Agent),
    ) {
        let concerned = self.peers.iter().filter(|(_, entry)| concerns(&entry.agent));
        let peers: Vec<_> = concerned.map(|(peer, _)| *peer).collect();
        for peer in peers {
            if let Some(entry) = self.peers.get_mut(&peer) {
                act(&mut entry.agent);
            }
            self.sync(now, peer);
        }
    }

    fn local_candidates_changed(&mut self, now: Instant) {
        let (bases, reflexive) = (self.gathering.bases(), self.gathering.stun.mappings());
        self.for_agents(
            now,
            |_| true,
            |agent| {
                agent.set_bases(now, bases.clone(), reflexive.clone());
            },
        );
        self.announce_candidates(now);
    }

    /// All candidates of this node, best first.
    #[must_use]
    pub fn local_candidates(&self) -> Vec<Candidate> {
        self.gathering.candidates()
    }

    /// Announces a peer's description and candidates, from the start.
    fn describe(&mut self, now: Instant, peer: NodeId) {
        let (bases, reflexive) = (self.gathering.bases(), self.gathering.stun.mappings());
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.agent.set_bases(now, bases, reflexive);
            let (local, generation) = entry.agent.local();
            let (ufrag, password) = (local.ufrag.clone(), local.password.clone());
            let description = IceDescription { ufrag, password, generation };
            for ufrag in entry.ufrags.drain(..) {
                self.by_ufrag.remove(&ufrag);
            }
            entry.ufrags.extend(entry.agent.local_ufrags().map(str::to_owned));
            self.by_ufrag.extend(entry.ufrags.iter().map(|ufrag| (ufrag.clone(), peer)));
            self.events.push_back(IceEvent::LocalDescription { peer, description });
        }
        self.announce_candidates_to(now, peer);
        self.sync(now, peer);
    }
}
