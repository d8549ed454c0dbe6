//! The STUN servers: what they see of the listening socket, and whether the NAT maps each destination differently.
//!
//! Each server is asked by Binding requests from the listening socket, repeated while it is silent, and again every 20
//! seconds: that keeps the mapping alive, which peers were told of, and notices when it changes. One gathering serves
//! all peers.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::path::is_of_aliases;

use super::{
    candidate::canonical,
    entropy::Entropy,
    stun::{Builder, Class, Message, Method, TransactionId},
};

/// Servers that are asked; the others are left.
pub(super) const MAX_STUN_SERVERS: usize = 4;
/// NATs forget UDP mappings after 30 seconds or more.
const KEEPALIVE: Duration = Duration::from_secs(20);
const INITIAL_RTO: Duration = Duration::from_millis(250);
const MAX_RTO: Duration = Duration::from_secs(1);
const MAX_TRANSMISSIONS: u32 = 5;
/// A silent server is asked again after this.
const PAUSE: Duration = Duration::from_secs(30);

/// A server that answered is asked again no sooner than after this.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(2);

/// A STUN server, resolved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StunServer {
    /// Where it listens.
    pub address: SocketAddr,
}

/// A TURN server over UDP, resolved.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// The long-term credential's user name.
    pub username: String,
    /// Its password.
    pub password: String,
    /// When the credentials end, if they do.
    pub expires: Option<Instant>,
}

impl std::fmt::Debug for TurnServer {
    /// Without the password, which must not get into logs.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TurnServer")
            .field("address", &self.address)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What is known of the NAT in front of the listening socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NatMapping {
    /// Fewer than two servers answered.
    Unknown,
    /// Two servers see the same address: peers will too.
    EndpointIndependent,
    /// Two servers see different ones: a symmetric NAT.
    EndpointDependent,
}

/// What a server saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    pub(super) mapped: SocketAddr,
    /// The local address that the answer came to.
    pub(super) base: Option<IpAddr>,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    mapping: Option<Mapping>,
    transaction: Option<TransactionId>,
    transmissions: u32,
    next_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct StunServers {
    servers: Vec<Server>,
    transmits: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl StunServers {
    /// Takes another list. What is known of servers that stay is kept.
    pub(super) fn set_servers(&mut self, now: Instant, servers: &[StunServer]) {
        let mut addresses: Vec<_> =
            servers.iter().map(|server| canonical(server.address)).collect();
        addresses.dedup();
        addresses.truncate(MAX_STUN_SERVERS);
        let mut old = std::mem::take(&mut self.servers);
        for address in addresses {
            let known = old.iter().position(|server| server.address == address);
            self.servers.push(match known {
                Some(at) => old.swap_remove(at),
                None => Server {
                    address,
                    mapping: None,
                    transaction: None,
                    transmissions: 0,
                    next_at: now,
                },
            });
        }
    }

    /// Asks all servers again at once: the host's addresses changed. What they saw before is void.
    pub(super) fn ask_again(&mut self, now: Instant) {
        for server in &mut self.servers {
            server.mapping = None;
            server.transaction = None;
            server.transmissions = 0;
            server.next_at = now;
        }
    }

    /// Asks all servers again at once; what they saw before may still be right.
    pub(super) fn check_soon(&mut self, now: Instant) {
        for server in &mut self.servers {
            server.transmissions = 0;
            server.next_at = now;
        }
    }

    /// The NAT may map this node to another address by now: asks as soon as the last answer is not fresh any more.
    pub(super) fn suspect(&mut self, now: Instant) {
        for server in self.servers.iter_mut().filter(|server| server.transmissions == 0) {
            let answered_at = server.next_at.checked_sub(KEEPALIVE).unwrap_or(now);
            server.next_at = server.next_at.min(now.max(answered_at + SUSPICION_INTERVAL));
        }
    }

    /// What the servers see, without repetitions, in the order of the list.
    pub(super) fn mappings(&self) -> Vec<Mapping> {
        let mut mappings: Vec<Mapping> = Vec::new();
        for mapping in self.servers.iter().filter_map(|server| server.mapping) {
            if !mappings.iter().any(|known| known.mapped == mapping.mapped) {
                mappings.push(mapping);
            }
        }
        mappings
    }

    /// What this server sees.
    pub(super) fn mapped_by(&self, address: SocketAddr) -> Option<SocketAddr> {
        let server = self.servers.iter().find(|server| server.address == address)?;
        server.mapping.map(|mapping| mapping.mapped)
    }

    pub(super) fn nat_mapping(&self) -> NatMapping {
        let answered: Vec<_> = self
            .servers
            .iter()
            .filter_map(|server| Some((server.address.ip(), server.mapping?)))
            .collect();
        let pairs = answered
            .iter()
            .enumerate()
            .flat_map(|(index, one)| answered[index + 1..].iter().map(move |other| (one, other)));
        // Only answers to one local address and by different servers tell something.
        let mut comparable = pairs.filter(|((server, mapping), (other_server, other))| {
            server != other_server
                && mapping.base == other.base
                && mapping.mapped.is_ipv4() == other.mapped.is_ipv4()
        });
        match comparable.next() {
            None => NatMapping::Unknown,
            Some(((_, one), (_, other))) if one.mapped != other.mapped => {
                NatMapping::EndpointDependent
            }
            Some(_) if comparable.any(|((_, one), (_, other))| one.mapped != other.mapped) => {
                NatMapping::EndpointDependent
            }
            Some(_) => NatMapping::EndpointIndependent,
        }
    }

    /// Whether the first answer of some server is still to come.
    pub(super) fn is_gathering(&self) -> bool {
        self.servers.iter().any(|server| server.mapping.is_none() && server.next_at_is_retry())
    }

    /// Takes a response, if it is for one of these requests; says whether a mapping changed.
    pub(super) fn handle_response(
        &mut self,
        now: Instant,
        from: SocketAddr,
        local_ip: Option<IpAddr>,
        message: &Message<'_>,
    ) -> Option<MappingChanged> {
        let server = self.servers.iter_mut().find(|server| {
            server.address == from && server.transaction == Some(message.transaction)
        })?;
        server.transaction = None;
        server.transmissions = 0;
        server.next_at = now + KEEPALIVE;
        let mapped = message
            .mapped
            .filter(|mapped| message.class == Class::Success && !is_of_aliases(mapped.ip()));
        let mapped = mapped.map(canonical);
        let Some(mapped) = mapped else {
            server.next_at = now + PAUSE;
            return Some(MappingChanged::No);
        };
        let before = server.mapping.replace(Mapping { mapped, base: local_ip });
        Some(if before.is_some_and(|before| before.mapped == mapped) {
            MappingChanged::No
        } else {
            MappingChanged::Yes
        })
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, entropy: &mut Entropy) {
        for server in self.servers.iter_mut().filter(|server| server.next_at <= now) {
            if server.transmissions >= MAX_TRANSMISSIONS {
                // What it saw last may still be right, so it stays.
                server.transaction = None;
                server.transmissions = 0;
                server.next_at = now + PAUSE;
                continue;
            }
            let transaction = *server.transaction.get_or_insert_with(|| entropy.transaction());
            let request = Builder::new(Class::Request, Method::Binding, transaction).unsigned();
            self.transmits.push_back((server.address, request));
            server.next_at = now + (INITIAL_RTO * 2_u32.pow(server.transmissions)).min(MAX_RTO);
            server.transmissions += 1;
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.servers.iter().map(|server| server.next_at).min()
    }

    pub(super) fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transmits.pop_front()
    }
}

impl Server {
    /// Whether what comes next is a repetition, rather than a fresh start after a pause.
    fn next_at_is_retry(&self) -> bool {
        self.transmissions > 0
    }
}

/// Whether an answer brought something new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MappingChanged {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_host_has_is_no_answer() {
        let (now, mut entropy) = (Instant::now(), Entropy::seeded(1));
        let server = StunServer { address: "[2001:db8::9]:3478".parse().unwrap() };
        let mut servers = StunServers::default();
        servers.set_servers(now, &[server]);
        for (mapped, known) in [("[100::7]:1", 0), ("[2001:db8::1]:5800", 1)] {
            servers.ask_again(now);
            servers.handle_timeout(now, &mut entropy);
            let (_, request) = servers.poll_transmit().unwrap();
            let request = Message::parse(&request).unwrap();
            let answer = Builder::new(Class::Success, request.method, request.transaction);
            let answer = answer.mapped(mapped.parse().unwrap()).unsigned();
            let message = Message::parse(&answer).unwrap();
            assert!(servers.handle_response(now, server.address, None, &message).is_some());
            assert_eq!(servers.mappings().len(), known, "{mapped}");
        }
    }
}
