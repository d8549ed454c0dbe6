//! Nodes with [`Ice`], servers, signalling without loss, and payload that follows the paths that ICE chooses: whether
//! a connection works is asked of the payload, not of ICE.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_control::ice::{
    Candidate, Entropy, Ice, IceConfig, IceDescription, IceEvent, Loopback, Packet, Path, Role,
    Source, StunServer, Timing, TurnServer as TurnAccess, Via,
};
use ipop_datapath::{io::SocketKind, node_id::NodeId};

use crate::{
    network::{Datagram, INTERNET, Network, Realm},
    servers::{self, PASSWORD, STUN, TurnServer, USER},
};

pub(crate) const PORT: u16 = 5_800;
const RELAY_PORT: u16 = 40_000;
const PAYLOAD_INTERVAL: Duration = Duration::from_millis(20);
const PAYLOAD: &[u8] = b"\x40payload";

#[derive(Clone, Debug)]
enum Signal {
    Description(IceDescription),
    Candidates(u32, Vec<Candidate>),
}

#[derive(Debug)]
enum Happening {
    Arrival(Realm, Datagram),
    Signal { from: usize, to: usize, signal: Signal },
    Payload,
}

/// What somebody does with checks that reach an address of theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attack {
    /// Answers them, without the password.
    Answer,
    /// Passes them on, so that the right node answers, from its own address.
    PassOnTo(SocketAddr),
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) ice: Ice,
    pub(crate) realm: Realm,
    pub(crate) address: IpAddr,
    pub(crate) paths: BTreeMap<usize, Path>,
    pub(crate) sources: HashMap<Source, usize>,
    /// When payload of each peer arrived last, and the longest time without any since it first did.
    pub(crate) heard: BTreeMap<usize, (Instant, Duration)>,
    pub(crate) events: Vec<(Duration, IceEvent)>,
    pub(crate) refused_payload: usize,
    shows_hosts: bool,
}

pub(crate) struct World {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node>,
    pub(crate) turn: Vec<TurnServer>,
    pub(crate) signal_delay: Duration,
    pub(crate) is_signalling: bool,
    /// Whether packets between nodes, rather than nodes and servers, are lost.
    pub(crate) is_direct_cut: bool,
    /// Datagrams that left nodes for addresses at which there is nobody.
    pub(crate) to_nobody: BTreeMap<SocketAddr, usize>,
    pub(crate) stun_bytes: usize,
    /// STUN that nodes got, the oldest first, up to a limit.
    pub(crate) captured: Vec<(usize, Datagram)>,
    pub(crate) attacker: Option<(SocketAddr, Attack)>,
    happenings: BinaryHeap<Reverse<(Instant, u64)>>,
    what: BTreeMap<u64, Happening>,
    made: u64,
    seed: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut network = Network::new(seed);
        let turn = TurnServer::new(start, "198.51.100.9:3478");
        network.add_address(INTERNET, turn.address.ip());
        for stun in STUN {
            network.add_address(INTERNET, stun.parse::<SocketAddr>().unwrap().ip());
        }
        let mut world = Self {
            start,
            now: start,
            network,
            nodes: Vec::new(),
            turn: vec![turn],
            signal_delay: Duration::from_millis(30),
            is_signalling: true,
            is_direct_cut: false,
            to_nobody: BTreeMap::new(),
            stun_bytes: 0,
            captured: Vec::new(),
            attacker: None,
            happenings: BinaryHeap::new(),
            what: BTreeMap::new(),
            made: 0,
            seed,
        };
        world.plan(start, Happening::Payload);
        world
    }

    /// A node that knows the STUN servers, and the TURN servers with the right password.
    pub(crate) fn add_node(&mut self, realm: Realm, address: &str) -> usize {
        let number = self.nodes.len();
        let address: IpAddr = address.parse().unwrap();
        self.network.add_address(realm, address);
        self.nodes.push(Node {
            id: NodeId([number as u8 + 1; 32]),
            ice: self.new_ice(number, 0, address),
            realm,
            address,
            paths: BTreeMap::new(),
            sources: HashMap::new(),
            heard: BTreeMap::new(),
            events: Vec::new(),
            refused_payload: 0,
            shows_hosts: true,
        });
        self.set_servers(number, PASSWORD);
        number
    }

    fn new_ice(&self, number: usize, life: u64, address: IpAddr) -> Ice {
        let config = IceConfig {
            listen_port: PORT,
            loopback: Loopback::Refused,
            entropy: Entropy::seeded(self.seed * 1_000 + number as u64 + life * 1_000_000),
            timing: Timing::default(),
        };
        let mut ice = Ice::new(config, self.now);
        ice.set_local_addresses(self.now, &[address]);
        ice
    }

    /// Ends a node's program and starts it anew, at the same address and as the same node.
    pub(crate) fn replace_node(&mut self, at: usize) {
        let ice = self.new_ice(at, 1, self.nodes[at].address);
        let node = &mut self.nodes[at];
        node.ice = ice;
        node.paths.clear();
        node.sources.clear();
        node.heard.clear();
        self.set_servers(at, PASSWORD);
    }

    pub(crate) fn set_servers(&mut self, node: usize, password: &str) {
        self.tell_servers(node, STUN.len(), password);
    }

    /// Fewer STUN servers than there are.
    pub(crate) fn set_stun_servers(&mut self, node: usize, count: usize) {
        self.tell_servers(node, count, PASSWORD);
    }

    fn tell_servers(&mut self, node: usize, stun: usize, password: &str) {
        let stun: Vec<_> = STUN[..stun]
            .iter()
            .map(|address| StunServer { address: address.parse().unwrap() })
            .collect();
        let turn = self.turn.iter().map(|server| TurnAccess {
            address: server.address,
            username: USER.to_owned(),
            password: password.to_owned(),
            expires: None,
        });
        let turn = turn.collect();
        self.nodes[node].ice.set_servers(self.now, &stun, turn);
        self.drain(node);
    }

    /// As a firewall in front of the LAN would: only then hairpinning shows.
    pub(crate) fn hide_host_candidates(&mut self, node: usize) {
        self.nodes[node].shows_hosts = false;
    }

    pub(crate) fn connect(&mut self, one: usize, other: usize) {
        for (node, peer) in [(one, other), (other, one)] {
            let peer_id = self.nodes[peer].id;
            let role =
                if self.nodes[node].id < peer_id { Role::Controlling } else { Role::Controlled };
            self.nodes[node].ice.start(self.now, peer_id, role);
            self.drain(node);
        }
    }

    /// Moves a node to another realm and address, without telling anybody but the node.
    pub(crate) fn move_node(&mut self, node: usize, realm: Realm, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        let (old_realm, old) = (self.nodes[node].realm, self.nodes[node].address);
        self.network.remove_address(old_realm, old);
        self.network.add_address(realm, address);
        (self.nodes[node].realm, self.nodes[node].address) = (realm, address);
        self.nodes[node].ice.set_local_addresses(self.now, &[address]);
        self.drain(node);
    }

    /// Puts a datagram onto the network, as an attacker in `realm` may.
    pub(crate) fn inject(&mut self, realm: Realm, datagram: Datagram) {
        self.send(realm, datagram);
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    /// Runs until `done`, or for `limit`; says whether it was done, and after how long.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        loop {
            if done(self) {
                return Some(self.now - begin);
            }
            let timers = self.nodes.iter().filter_map(|node| node.ice.poll_timeout()).min();
            let next = self.happenings.peek().map(|Reverse((at, _))| *at);
            let next = [timers, next].into_iter().flatten().min().unwrap_or(begin + limit);
            let next = next.max(self.now);
            if next >= begin + limit {
                self.now = begin + limit;
                return None;
            }
            // A loop that does not advance would hang the test; a simulated microsecond a turn is honest enough.
            self.now = if next == self.now { next + Duration::from_micros(1) } else { next };
            while self.happenings.peek().is_some_and(|Reverse((at, _))| *at <= self.now) {
                if let Some(Reverse((_, key))) = self.happenings.pop() {
                    let happening = self.what.remove(&key).unwrap();
                    self.happen(happening);
                }
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node].ice.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.nodes[node].ice.handle_timeout(self.now);
                    self.drain(node);
                }
            }
        }
    }

    /// Whether payload went both ways within the last 100 milliseconds.
    pub(crate) fn flows(&self, one: usize, other: usize) -> bool {
        let heard = |node: usize, peer: usize| {
            let heard = self.nodes[node].heard.get(&peer);
            heard.is_some_and(|(at, _)| self.now - *at < Duration::from_millis(100))
        };
        heard(one, other) && heard(other, one)
    }

    pub(crate) fn is_direct(&self, one: usize, other: usize) -> bool {
        [(one, other), (other, one)].into_iter().all(|(node, peer)| {
            let relays = self.turn.iter().map(|server| server.address.ip());
            let mut relays = relays.collect::<Vec<_>>().into_iter();
            match self.nodes[node].paths.get(&peer) {
                Some(Path::Direct { remote, .. }) => !relays.any(|ip| ip == remote.ip()),
                _ => false,
            }
        })
    }

    /// The longest silence of payload in either direction since it first flowed.
    pub(crate) fn longest_silence(&self, one: usize, other: usize) -> Duration {
        let of = |node: usize, peer: usize| self.nodes[node].heard[&peer].1;
        of(one, other).max(of(other, one))
    }

    fn plan(&mut self, at: Instant, happening: Happening) {
        self.made += 1;
        self.happenings.push(Reverse((at, self.made)));
        self.what.insert(self.made, happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(realm, datagram) => self.arrive(realm, &datagram),
            Happening::Signal { from, to, signal } => {
                let peer = self.nodes[from].id;
                let ice = &mut self.nodes[to].ice;
                match signal {
                    Signal::Description(remote) => ice.set_remote(self.now, peer, &remote),
                    Signal::Candidates(generation, candidates) => {
                        ice.add_remote_candidates(self.now, peer, generation, &candidates);
                    }
                }
                self.drain(to);
            }
            Happening::Payload => {
                for node in 0..self.nodes.len() {
                    for path in self.nodes[node].paths.clone().into_values() {
                        self.send_payload(node, path);
                    }
                }
                self.plan(self.now + PAYLOAD_INTERVAL, Happening::Payload);
            }
        }
    }

    fn send_payload(&mut self, node: usize, path: Path) {
        let Node { realm, address, .. } = self.nodes[node];
        let datagram = match path {
            Path::Direct { remote, .. } => Datagram {
                from: SocketAddr::new(address, PORT),
                to: remote,
                payload: PAYLOAD.to_vec(),
            },
            Path::Relay { server, channel } => {
                let length = PAYLOAD.len() as u16;
                let header = [channel.to_be_bytes(), length.to_be_bytes()].concat();
                let from = SocketAddr::new(address, RELAY_PORT);
                Datagram { from, to: server, payload: [&header, PAYLOAD].concat() }
            }
        };
        self.send(realm, datagram);
    }

    fn send(&mut self, realm: Realm, datagram: Datagram) {
        if let Some((realm, datagram, delay)) = self.network.route(realm, datagram.clone()) {
            self.plan(self.now + delay, Happening::Arrival(realm, datagram));
        } else {
            *self.to_nobody.entry(datagram.to).or_default() += 1;
        }
    }

    fn arrive(&mut self, realm: Realm, datagram: &Datagram) {
        if realm == INTERNET && STUN.iter().any(|stun| stun.parse() == Ok(datagram.to)) {
            if let Some(answer) = servers::binding_answer(datagram) {
                self.send(INTERNET, answer);
            }
            return;
        }
        if let Some((_, attack)) = self.attacker.filter(|(address, _)| *address == datagram.to) {
            let answer = match attack {
                Attack::Answer => servers::binding_answer(datagram),
                Attack::PassOnTo(to) => Some(Datagram { to, ..datagram.clone() }),
            };
            if let Some(answer) = answer {
                self.send(INTERNET, answer);
            }
            return;
        }
        let turn = self.turn.iter_mut().find(|server| server.address.ip() == datagram.to.ip());
        if let Some(server) = turn {
            for answer in server.receive(self.now, datagram) {
                // From a relayed address to a relayed address it does not leave the server.
                self.send(INTERNET, answer);
            }
            return;
        }
        let is_from_server =
            self.turn.iter().any(|server| server.address.ip() == datagram.from.ip())
                || STUN.iter().any(|stun| stun.parse() == Ok(datagram.from));
        if self.is_direct_cut && !is_from_server {
            return;
        }
        let at = self
            .nodes
            .iter()
            .position(|node| node.realm == realm && node.address == datagram.to.ip());
        match at {
            Some(node) => self.receive(node, datagram),
            None => *self.to_nobody.entry(datagram.to).or_default() += 1,
        }
    }

    fn receive(&mut self, at: usize, datagram: &Datagram) {
        let (now, from) = (self.now, datagram.from);
        let node = &mut self.nodes[at];
        let (via, payload, source) = if datagram.to.port() == PORT {
            let via = Via::Listen { local_ip: Some(datagram.to.ip()), remote: from };
            (via, &datagram.payload[..], Source::Direct(from))
        } else if datagram.payload[0] & 0xc0 == 0x40 {
            let channel = u16::from_be_bytes([datagram.payload[0], datagram.payload[1]]);
            (Via::Channel { channel }, &datagram.payload[4..], Source::Channel(channel))
        } else {
            (Via::RelaySocket { remote: from }, &datagram.payload[..], Source::Direct(from))
        };
        if payload == PAYLOAD {
            let Some(peer) = node.sources.get(&source) else {
                node.refused_payload += 1;
                return;
            };
            let heard = node.heard.entry(*peer).or_insert((now, Duration::ZERO));
            *heard = (now, heard.1.max(now - heard.0));
            return;
        }
        node.ice.handle_packet(now, Packet { via, payload });
        if self.captured.len() < 200 {
            self.captured.push((at, datagram.clone()));
        }
        self.drain(at);
    }

    /// Carries out what a node's state machine asks for.
    pub(crate) fn drain(&mut self, at: usize) {
        while let Some(event) = self.nodes[at].ice.poll_event() {
            self.nodes[at].events.push((self.now - self.start, event.clone()));
            self.handle_event(at, event);
        }
        while let Some(transmit) = self.nodes[at].ice.poll_transmit() {
            self.stun_bytes += transmit.payload.len() + 28;
            let port = if transmit.socket == SocketKind::Listen { PORT } else { RELAY_PORT };
            let Node { realm, address, .. } = self.nodes[at];
            if transmit.local_ip.is_some_and(|ip| ip != address) {
                continue;
            }
            let from = SocketAddr::new(address, port);
            let datagram = Datagram { from, to: transmit.remote, payload: transmit.payload };
            self.send(realm, datagram);
        }
    }

    fn handle_event(&mut self, at: usize, event: IceEvent) {
        let number =
            |world: &Self, id: NodeId| world.nodes.iter().position(|n| n.id == id).unwrap();
        match event {
            IceEvent::LocalDescription { peer, description } => {
                self.signal(at, peer, Signal::Description(description));
            }
            IceEvent::LocalCandidates { peer, generation, mut candidates } => {
                let node = &self.nodes[at];
                candidates.retain(|c| node.shows_hosts || c.address.ip() != node.address);
                self.signal(at, peer, Signal::Candidates(generation, candidates));
            }
            IceEvent::Selected { peer, path, .. } => {
                let peer = number(self, peer);
                self.nodes[at].paths.insert(peer, path);
            }
            IceEvent::SourceValid { peer, source } => {
                let peer = number(self, peer);
                let before = self.nodes[at].sources.insert(source, peer);
                assert_eq!(before, None, "{source:?} was given twice");
            }
            IceEvent::SourceGone { peer, source } => {
                let peer = number(self, peer);
                assert_eq!(self.nodes[at].sources.remove(&source), Some(peer), "{source:?}");
            }
            IceEvent::Lost { .. }
            | IceEvent::Failed { .. }
            | IceEvent::EndOfCandidates { .. }
            | IceEvent::Server(_) => {}
        }
    }

    fn signal(&mut self, from: usize, to: NodeId, signal: Signal) {
        let to = self.nodes.iter().position(|node| node.id == to);
        if let Some(to) = to.filter(|_| self.is_signalling) {
            let at = self.now + self.signal_delay;
            self.plan(at, Happening::Signal { from, to, signal });
        }
    }
}
