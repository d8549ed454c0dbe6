//! Asks STUN and TURN servers once, for the operator: what each one sees, whether each one relays, and what that says
//! of the NAT. The very code that gathers candidates asks; here each server's answer is told apart.
//!
//! Without I/O, as the rest: the caller sends what [`Probe::poll_transmit`] gives, until [`Probe::is_done`].

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use ipop_datapath::{command::ControlPacket, io::SocketKind};

use super::{
    Entropy, NatMapping, ServerProblem,
    candidate::canonical,
    servers::{MAX_STUN_SERVERS, StunServer, StunServers, TurnServer},
    stun::Message,
    turn::{Turn, TurnEvent},
};

/// TURN servers that are asked; the others are left.
const MAX_TURN_SERVERS: usize = 8;

/// What came of a TURN server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// Nothing yet.
    Asked,
    /// It relays at this address.
    Relays(SocketAddr),
    /// Why it does not.
    Refused(ServerProblem),
}

#[derive(Debug)]
struct Relay {
    server: SocketAddr,
    turn: Turn,
    allocation: Allocation,
}

/// One question to each server.
#[derive(Debug)]
pub struct Probe {
    entropy: Entropy,
    stun: StunServers,
    asked: Vec<SocketAddr>,
    relays: Vec<Relay>,
    transmits: VecDeque<ControlPacket>,
}

impl Probe {
    /// Begins. Of servers that are named twice one is asked; of STUN servers at most four, of TURN servers eight.
    #[must_use]
    pub fn new(now: Instant, entropy: Entropy, stun: &[SocketAddr], turn: &[TurnServer]) -> Self {
        let mut asked: Vec<SocketAddr> = Vec::new();
        for address in stun.iter().copied().map(canonical) {
            if !asked.contains(&address) && asked.len() < MAX_STUN_SERVERS {
                asked.push(address);
            }
        }
        let mut probe = Self {
            entropy,
            stun: StunServers::default(),
            asked,
            relays: Vec::new(),
            transmits: VecDeque::new(),
        };
        let servers: Vec<_> = probe.asked.iter().map(|&address| StunServer { address }).collect();
        probe.stun.set_servers(now, &servers);
        for server in turn {
            let server = TurnServer { address: canonical(server.address), ..server.clone() };
            let is_known = probe.relays.iter().any(|relay| relay.server == server.address);
            if is_known || probe.relays.len() >= MAX_TURN_SERVERS {
                continue;
            }
            let mut turn = Turn::new();
            let address = server.address;
            turn.set_servers(now, vec![server], &mut probe.entropy);
            probe.relays.push(Relay { server: address, turn, allocation: Allocation::Asked });
        }
        probe.handle_timeout(now);
        probe
    }

    /// Takes what came to the socket of this kind. `local_ip` is where to, if that is known.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        socket: SocketKind,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        payload: &[u8],
    ) {
        let remote = canonical(remote);
        let Some(message) = Message::parse(payload) else { return };
        match socket {
            SocketKind::Listen | SocketKind::Dial => {
                self.stun.handle_response(now, remote, local_ip, &message);
            }
            SocketKind::Relay => {
                if let Some(relay) = self.relays.iter_mut().find(|relay| relay.server == remote) {
                    relay.turn.handle_message(now, remote, &message, &mut self.entropy);
                }
            }
        }
        self.advance(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.stun.handle_timeout(now, &mut self.entropy);
        for relay in &mut self.relays {
            if relay.allocation == Allocation::Asked {
                relay.turn.handle_timeout(now, &mut self.entropy);
            }
        }
        self.advance(now);
    }

    /// When [`Probe::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let open = self.relays.iter().filter(|relay| relay.allocation == Allocation::Asked);
        let relays = open.filter_map(|relay| relay.turn.poll_timeout()).min();
        [self.stun.poll_timeout(), relays].into_iter().flatten().min()
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<ControlPacket> {
        self.transmits.pop_front()
    }

    /// Whether each server has answered or been given up.
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.stun.is_gathering()
            && self.relays.iter().all(|relay| relay.allocation != Allocation::Asked)
    }

    /// The STUN servers that were asked, and the address that each one saw, if it answered.
    pub fn mappings(&self) -> impl Iterator<Item = (SocketAddr, Option<SocketAddr>)> {
        self.asked.iter().map(|&server| (server, self.stun.mapped_by(server)))
    }

    /// The TURN servers that were asked, and what came of it.
    pub fn allocations(&self) -> impl Iterator<Item = (SocketAddr, &Allocation)> {
        self.relays.iter().map(|relay| (relay.server, &relay.allocation))
    }

    /// What the STUN servers' answers say of the NAT.
    #[must_use]
    pub fn nat_mapping(&self) -> NatMapping {
        self.stun.nat_mapping()
    }

    fn advance(&mut self, now: Instant) {
        for relay in &mut self.relays {
            while let Some(event) = relay.turn.poll_event() {
                match event {
                    TurnEvent::Allocated { relayed, .. } => {
                        relay.allocation = Allocation::Relays(relayed);
                        // Its place is free again at once, instead of after ten minutes.
                        relay.turn.release(now, &mut self.entropy);
                    }
                    TurnEvent::Problem(why) if relay.allocation == Allocation::Asked => {
                        relay.allocation = Allocation::Refused(why);
                    }
                    _ => {}
                }
            }
            while let Some((remote, payload)) = relay.turn.poll_transmit() {
                let (socket, local_ip) = (SocketKind::Relay, None);
                self.transmits.push_back(ControlPacket { socket, local_ip, remote, payload });
            }
        }
        while let Some((remote, payload)) = self.stun.poll_transmit() {
            let (socket, local_ip) = (SocketKind::Listen, None);
            self.transmits.push_back(ControlPacket { socket, local_ip, remote, payload });
        }
    }
}
