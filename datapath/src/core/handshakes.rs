//! Handshakes under way: who may begin one, and who gives way.
//!
//! A handshake begins with the first packet of somebody who dials, and ends when the peer's hello was read and its proofs were verified. Whoever knows the node
//! id can begin some and never finish them. So each has [`HANDSHAKE_TIME`] in all, each party has a few at a time, and when no place is left the oldest gives
//! way, once it had its turn. What finds no place is dropped without an answer: who dials repeats its Initial, and the honest need their places for some round trips only.
//! Peers whose addresses control knows have places of their own, which nobody takes from elsewhere; what goes beyond those is treated like everybody else's.
//!
//! The list here says only what began, when and from where. What is still under way is asked of the tunnels each time, so nothing is counted up and down.
//! A connection that was refused counts until QUIC has forgotten it, since it takes as much memory, but it gives way first.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_learning::PortId;
use quinn_proto::{ConnectionHandle, Endpoint, EndpointEvent, Incoming, ServerConfig};

use super::Core;
use crate::{
    command::{ConnectionId, Ended},
    io::{Io, SocketId},
    path::port_of_alias,
    tunnel::Tunnel,
};

/// How long a handshake may take. Who dials gives an address up after 4 s.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Places for everybody.
const OPEN_PLACES: usize = 96;
/// Those that one party may have: 64 nodes behind one NAT that start together get in by four turns, within the first repetitions of their Initials.
const OPEN_PLACES_OF_PARTY: usize = 16;
/// Places that are kept for known peers.
const KNOWN_PLACES: usize = 32;
/// Those that one of them may have: a worker carries one lane, but other hosts may share the address.
const KNOWN_PLACES_OF_PARTY: usize = 4;
/// How old a handshake is before it gives way: on paths of up to 300 ms an honest one is done by then.
const TURN: Duration = Duration::from_millis(500);
/// Handshakes under way before new ones must prove their address (RFC 9000 section 8.1.2).
const RETRY_ABOVE: usize = 16;
/// More addresses of one peer than this are not remembered.
const MAX_KNOWN_ADDRESSES: usize = 32;

/// All handshakes that may be under way at once.
pub(super) const MAX_HANDSHAKES: usize = OPEN_PLACES + KNOWN_PLACES;

/// As far as senders can be told from one another by their address, without proof of more: an IPv4 address, which a household or a company may share, the
/// /56 of IPv6 that one customer has, or the peer that a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Party {
    V4(Ipv4Addr),
    /// The upper 56 bits.
    V6(u64),
    Peer(PortId),
}

impl Party {
    fn of(remote: SocketAddr) -> Self {
        port_of_alias(remote).map_or_else(|| Self::of_ip(remote.ip()), Self::Peer)
    }

    fn of_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 72) as u64),
        }
    }
}

/// Which places a handshake takes one of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Places {
    Open,
    Known,
}

#[derive(Clone, Copy, Debug)]
struct Handshake {
    connection: ConnectionId,
    handle: ConnectionHandle,
    party: Party,
    places: Places,
    began: Instant,
    /// It was refused; QUIC still repeats that to the far end.
    is_over: bool,
}

/// Where a newcomer goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    places: Places,
    /// Who gives way for it.
    taken_from: Option<ConnectionHandle>,
}

/// The handshakes that hold a place, and who is known.
#[derive(Default)]
pub(super) struct Handshakes {
    /// The oldest first.
    begun: Vec<Handshake>,
    /// Where peers may come from.
    known: HashMap<PortId, Vec<Party>>,
}

impl Handshakes {
    /// A peer may come from these addresses, and no longer from others.
    pub(super) fn know(&mut self, port: PortId, addresses: &[IpAddr]) {
        let parties = addresses.iter().take(MAX_KNOWN_ADDRESSES);
        if addresses.is_empty() {
            self.known.remove(&port);
        } else {
            self.known.insert(port, parties.map(|address| Party::of_ip(*address)).collect());
        }
    }

    /// Forgets what is done.
    fn look(&mut self, tunnels: &[Option<Box<Tunnel>>]) {
        self.begun.retain_mut(|handshake| {
            let tunnel = tunnels.get(handshake.handle.0).and_then(Option::as_deref);
            let tunnel = tunnel.filter(|tunnel| tunnel.id == handshake.connection);
            handshake.is_over = tunnel.is_some_and(Tunnel::is_ended);
            tunnel.is_some_and(|tunnel| tunnel.port().is_none())
        });
    }

    /// The place for another handshake of this party, if there is one.
    fn place_for(&self, now: Instant, party: Party) -> Option<Place> {
        let taken = |places: Places| self.begun.iter().filter(move |begun| begun.places == places);
        let of_party = |places: Places| taken(places).filter(move |begun| begun.party == party);
        let has_known_place = self.is_known(party)
            && taken(Places::Known).count() < KNOWN_PLACES
            && of_party(Places::Known).count() < KNOWN_PLACES_OF_PARTY;
        if has_known_place {
            return Some(Place { places: Places::Known, taken_from: None });
        }
        let taken_from = if of_party(Places::Open).count() >= OPEN_PLACES_OF_PARTY {
            Some(giving_way(now, of_party(Places::Open))?)
        } else if taken(Places::Open).count() >= OPEN_PLACES {
            Some(giving_way(now, taken(Places::Open))?)
        } else {
            None
        };
        Some(Place { places: Places::Open, taken_from })
    }

    fn is_known(&self, party: Party) -> bool {
        matches!(party, Party::Peer(_))
            || self.known.values().flatten().any(|known| *known == party)
    }
}

/// Which of these gives way to a newcomer: one that is over, or the oldest if it had its turn.
fn giving_way<'a>(
    now: Instant,
    mut begun: impl Iterator<Item = &'a Handshake> + Clone,
) -> Option<ConnectionHandle> {
    let over = begun.clone().find(|handshake| handshake.is_over);
    let had_its_turn = |handshake: &&Handshake| now >= handshake.began + TURN;
    over.or_else(|| begun.next().filter(had_its_turn)).map(|handshake| handshake.handle)
}

impl Core {
    /// Somebody dials: a handshake begins if there is a place for it.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        incoming: Incoming,
        response: &mut Vec<u8>,
        io: &mut impl Io,
    ) {
        if self.shutting_down {
            self.endpoint.ignore(incoming);
            return;
        }
        self.handshakes.look(&self.lanes.tunnels);
        if self.handshakes.begun.len() >= RETRY_ABOVE && incoming.may_retry() {
            if let Ok(transmit) = self.endpoint.retry(incoming, response) {
                self.respond(socket, transmit, response, io);
            }
            return;
        }
        let party = Party::of(remote);
        let Some(place) = self.handshakes.place_for(now, party) else {
            self.cx.counters.io.crowded_initials.add(1);
            self.endpoint.ignore(incoming);
            return;
        };
        if let Some(handle) = place.taken_from {
            self.forget_handshake(now, handle, io);
        }
        let (connection, crypto) = (self.ids.next(self.cx.worker), self.server_crypto.clone());
        let accept = |endpoint: &mut Endpoint, transport| {
            let mut config = ServerConfig::with_crypto(crypto);
            config.transport_config(transport);
            let accepted = endpoint.accept(incoming, now, response, Some(Arc::new(config)));
            accepted.map_err(|refused| refused.response)
        };
        match self.begin(now, (connection, None), (socket, remote), accept, io) {
            Ok(handle) => {
                let (places, is_over) = (place.places, false);
                let began = Handshake { connection, handle, party, places, began: now, is_over };
                self.handshakes.begun.push(began);
            }
            Err(Some(transmit)) => self.respond(socket, transmit, response, io),
            Err(None) => {}
        }
    }

    /// Gives a handshake up without a word. Nothing is owed to whoever let it hang, and a connection that is closed as it should be takes its memory for a while longer.
    pub(super) fn forget_handshake(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        io: &mut impl Io,
    ) {
        let tunnel = self.lanes.tunnels[handle.0].as_ref();
        let is_over = tunnel.is_none_or(|tunnel| tunnel.is_ended());
        self.cx.counters.io.unfinished_handshakes.add(u64::from(!is_over));
        self.retire(now, handle, Ended::TimedOut);
        self.endpoint.handle_event(handle, EndpointEvent::drained());
        self.forget(now, handle, io);
    }
}
