//! UDP packets in: STUN and TURN to control, QUIC to its connection, the rest nowhere.
//!
//! Each packet of a train is looked at by itself, since the kernel joins what came from one address, whatever it is: STUN behind QUIC, or packets of
//! several peers behind one relay. At the listening socket the first byte tells STUN from QUIC (RFC 9443). At the relay socket there is
//! nothing but TURN; ChannelData of known channels is unwrapped.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::{Buf as _, BytesMut};
use ipop_learning::PortId;
use quinn_proto::{ConnectionEvent, ConnectionHandle, DatagramEvent, Transmit};

use super::{
    Core,
    paths::{PathChange, Sender},
};
use crate::{
    command::{ControlPacket, Event, Strangers},
    io::{Io, SocketId, SocketKind},
    path::{Path, alias, channel_data, is_of_aliases, port_of_alias},
    policy::bucket::{Bucket, PortBuckets},
    quic::cid::{Mark, mark_of},
};

/// Packets a second that are handed to control, of all strangers together and of the relay: what a thousand peers need.
const CONTROL_PACKETS_RATE: u32 = 1_000;
/// Packets at once.
const CONTROL_PACKETS_BURST: u32 = 1_000;
/// The same of each peer: what its checks need at their busiest.
const PEER_PACKETS_RATE: u32 = 50;
const PEER_PACKETS_BURST: u32 = 200;
/// Longer packets are none of control's, in or out. A STUN message fits any path's MTU (RFC 8489 section 6.1).
const MAX_CONTROL_PACKET_LEN: usize = 2_048;

/// Who sent a packet for control. Each has an allowance of its own, so that neither strangers nor a peer can use up another one's.
#[derive(Clone, Copy)]
enum Audience {
    Stranger,
    /// Directly or over a relay.
    Peer(PortId),
    /// The relay itself, and what it passes on of nobody in particular.
    Relay,
}

/// How a packet of QUIC came.
#[derive(Clone, Copy)]
struct Arrival {
    socket: SocketId,
    remote: SocketAddr,
    local_ip: Option<IpAddr>,
    sender: Sender,
}

/// What may still be handed to control now.
pub(super) struct Allowance {
    strangers: Bucket,
    relay: Bucket,
    pub(super) peers: PortBuckets,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        let shared = Bucket::new(now, CONTROL_PACKETS_RATE, CONTROL_PACKETS_BURST);
        let peers = PortBuckets::new(now, PEER_PACKETS_RATE, PEER_PACKETS_BURST);
        Self { strangers: shared.clone(), relay: shared, peers }
    }

    fn take(&mut self, now: Instant, audience: Audience) -> bool {
        match audience {
            Audience::Stranger => self.strangers.take(now, 1),
            Audience::Relay => self.relay.take(now, 1),
            Audience::Peer(port) => self.peers.take(now, port),
        }
    }
}

impl Core {
    /// A UDP packet (one segment of a train). [`Core::end_of_train`] must follow.
    pub fn packet(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        mut packet: BytesMut,
        io: &mut impl Io,
    ) {
        // Else it would pass for a peer's, whose sources become the peer's alias below.
        if is_of_aliases(remote.ip()) {
            self.cx.counters.io.strangers.add(1);
            return;
        }
        let kind = self.sockets.kind(socket);
        let sender = match kind {
            SocketKind::Listen if is_stun(&packet) => {
                let audience = match self.paths.sender(remote) {
                    Sender::Unmapped => Audience::Stranger,
                    Sender::Peer(port) | Sender::PeerOrPlain(port) => Audience::Peer(port),
                };
                self.tell_control(now, audience, &packet, |payload| {
                    Event::Packet(ControlPacket { socket: kind, local_ip, remote, payload })
                });
                return;
            }
            SocketKind::Listen => self.paths.sender(remote),
            SocketKind::Relay => match self.unwrap_relayed(now, remote, local_ip, &mut packet) {
                Some(peer) => Sender::Peer(peer),
                None => return,
            },
            SocketKind::Dial => Sender::Unmapped,
        };
        self.quic_packet(now, Arrival { socket, remote, local_ip, sender }, packet, io);
    }

    /// Takes the ChannelData header off; the peer that the packet comes from, unless the packet was for control.
    fn unwrap_relayed(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        packet: &mut BytesMut,
    ) -> Option<PortId> {
        let peer = channel_data::parse(packet).and_then(|(channel, content)| {
            Some((self.paths.peer_of_channel(channel)?, channel, content))
        });
        let Some((peer, channel, content)) = peer else {
            self.tell_control(now, Audience::Relay, packet, |payload| {
                Event::Packet(ControlPacket {
                    socket: SocketKind::Relay,
                    local_ip,
                    remote,
                    payload,
                })
            });
            return None;
        };
        packet.truncate(content.end);
        packet.advance(content.start);
        if is_stun(packet) {
            self.tell_control(now, Audience::Peer(peer), packet, |payload| Event::ChannelPacket {
                channel,
                payload,
            });
            return None;
        }
        Some(peer)
    }

    fn tell_control(
        &mut self,
        now: Instant,
        audience: Audience,
        packet: &[u8],
        event: impl FnOnce(Vec<u8>) -> Event,
    ) {
        let counters = &self.cx.counters.io;
        let fits = packet.len() <= MAX_CONTROL_PACKET_LEN;
        if fits && self.allowance.take(now, audience) {
            counters.received_control_packets.add(1);
            self.cx.events.push(event(packet.to_vec()));
        } else {
            counters.dropped_control_packets.add(1);
        }
    }

    fn quic_packet(&mut self, now: Instant, arrival: Arrival, packet: BytesMut, io: &mut impl Io) {
        let Arrival { socket, remote, local_ip, sender } = arrival;
        let Some(mark) = mark_of(&packet, &self.initial_key, &self.cid_key) else {
            self.cx.counters.io.strangers.add(1);
            return;
        };
        let ignored = sender == Sender::Unmapped && self.paths.strangers == Strangers::Ignored;
        if ignored && mark == Mark::Keyed {
            self.cx.counters.io.ignored_initials.add(1);
            return;
        }
        let (from, reached) = match sender {
            Sender::Unmapped => (remote, local_ip),
            Sender::Peer(peer) | Sender::PeerOrPlain(peer) => (alias(peer), None),
        };
        let spare = matches!(sender, Sender::PeerOrPlain(_)).then(|| packet.clone());
        let mut response = std::mem::take(&mut self.response);
        response.clear();
        let event = self.endpoint.handle(now, from, reached, None, packet, &mut response);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let again = |core: &mut Self, response: &mut Vec<u8>| {
                    core.endpoint.handle(now, remote, local_ip, None, spare?, response)
                };
                if self.is_from(handle, from) {
                    self.deliver(handle, event);
                } else if let Some(DatagramEvent::ConnectionEvent(handle, event)) =
                    again(self, &mut response)
                {
                    self.deliver(handle, event);
                } else {
                    self.cx.counters.io.unmapped_packets.add(1);
                }
            }
            // An Initial that repeats the token of a Retry: its destination is an issued id.
            Some(DatagramEvent::NewConnection(incoming)) if ignored => {
                self.cx.counters.io.ignored_initials.add(1);
                self.endpoint.ignore(incoming);
            }
            // Issued ids are seen by anyone on the path: without a token, a first Initial to one shows no knowledge of the node id.
            Some(DatagramEvent::NewConnection(incoming))
                if mark == Mark::Issued && incoming.may_retry() =>
            {
                self.cx.counters.io.strangers.add(1);
                self.endpoint.ignore(incoming);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.accept(now, socket, from, incoming, &mut response, io);
            }
            // The token of a Retry to another address, or one that is too old.
            Some(DatagramEvent::Response(_)) if mark == Mark::Issued => {
                self.cx.counters.io.strangers.add(1);
            }
            Some(DatagramEvent::Response(transmit)) => {
                self.respond(socket, transmit, &response, io);
            }
            None => {}
        }
        self.response = response;
    }

    /// Whether a connection takes packets from this address: one to an alias from there alone, another one from any real address,
    /// since QUIC validates those itself.
    fn is_from(&self, handle: ConnectionHandle, from: SocketAddr) -> bool {
        let tunnel = self.lanes.tunnels.get(handle.0).and_then(Option::as_ref);
        tunnel.is_none_or(|tunnel| {
            tunnel.remote == from
                || (port_of_alias(tunnel.remote).is_none() && port_of_alias(from).is_none())
        })
    }

    fn deliver(&mut self, handle: ConnectionHandle, event: ConnectionEvent) {
        if let Some(tunnel) = self.lanes.tunnels.get_mut(handle.0).and_then(Option::as_mut) {
            tunnel.connection.handle_event(event);
            self.lanes.agenda.add(handle);
        }
    }

    /// Sends what QUIC has to say without a connection.
    pub(super) fn respond(
        &self,
        socket: SocketId,
        transmit: Transmit,
        response: &[u8],
        io: &mut impl Io,
    ) {
        let mut train = io.train_buffer();
        train.extend_from_slice(&response[..transmit.size]);
        let next_hop = self.paths.next_hop(socket, transmit.destination);
        next_hop.send(transmit, train, &self.cx.counters.io, io);
    }

    /// Sends a packet of control's.
    pub(super) fn send_packet(&self, packet: &ControlPacket, io: &mut impl Io) {
        let ControlPacket { socket, local_ip, remote, payload } = packet;
        let counters = &self.cx.counters.io;
        let fits = (1..=MAX_CONTROL_PACKET_LEN).contains(&payload.len());
        let socket = self.sockets.of(*socket);
        let Some(socket) = socket.filter(|socket| fits && io.can_send_packet(*socket)) else {
            counters.dropped_control_packets.add(1);
            return;
        };
        let mut train = io.train_buffer();
        train.extend_from_slice(payload);
        let transmit = Transmit {
            destination: *remote,
            ecn: None,
            size: payload.len(),
            segment_size: None,
            src_ip: *local_ip,
        };
        counters.sent_control_packets.add(1);
        io.send(socket, &transmit, train);
    }

    /// Moves a peer's packets to another path.
    pub(super) fn set_path(
        &mut self,
        now: Instant,
        port: PortId,
        path: Option<Path>,
        io: &mut impl Io,
    ) {
        let usable = path.and_then(|path| Some((self.sockets.of(path.flow().0)?, path)));
        if usable.is_none() && path.is_some() {
            tracing::warn!("this worker has no relay socket: {port:?} is left without a path");
        }
        let change = self.paths.set(port, usable);
        self.guard_flows(&change);
        if change.is_elsewhere {
            self.cx.counters.io.path_changes.add(1);
        }
        for handle in self.lanes.over_path(port) {
            self.lanes.agenda.add(handle);
            if change.is_elsewhere {
                self.leave_path(now, handle, io);
            }
        }
    }

    /// The own-packet guard knows the real addresses of the paths.
    fn guard_flows(&self, change: &PathChange) {
        let (shared, sockets) = (&self.cx.shared, &self.sockets);
        if let Some((socket, path)) = change.new {
            shared.add_own_flow(sockets.port(socket), path.flow().1);
        }
        if let Some((socket, path)) = change.old {
            shared.remove_own_flow(sockets.port(socket), path.flow().1);
        }
    }

    /// QUIC starts to measure anew, from its smallest packets on. What is queued in larger ones would be lost with that, so it goes out
    /// first, on the new path, as far as the socket takes it at once.
    fn leave_path(&mut self, now: Instant, handle: ConnectionHandle, io: &mut impl Io) {
        let Some(tunnel) = self.lanes.tunnels[handle.0].as_mut() else { return };
        let next_hop = self.paths.next_hop(tunnel.socket, tunnel.remote);
        let counters = &self.cx.counters.io;
        tunnel.end_burst(&self.cx);
        if usize::from(tunnel.connection.current_mtu()) <= next_hop.max_payload_len(io) {
            super::connections::transmit(now, tunnel, next_hop, counters, io);
        }
        counters.oversized_datagrams.add(tunnel.path_changed(now));
    }
}

/// Whether a packet is a STUN message (RFC 8489 section 5), by its fixed bits, cookie and length.
fn is_stun(packet: &[u8]) -> bool {
    const HEADER_LEN: usize = 20;
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let Some(head) = packet.first_chunk::<HEADER_LEN>() else { return false };
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    head[0] < 4 && head[4..8] == COOKIE && len % 4 == 0 && HEADER_LEN + len == packet.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stun_is_told_from_quic_and_from_noise() {
        let mut request = [0; 28];
        request[1] = 1;
        request[3] = 8;
        request[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        assert!(is_stun(&request));
        assert!(!is_stun(&request[..27]), "cut short");
        for (at, byte) in [(0, 0x40), (0, 0xc0), (3, 4), (3, 7), (4, 0x22)] {
            let mut other = request;
            other[at] = byte;
            assert!(!is_stun(&other), "{at}");
        }
        assert!(!is_stun(&[]));
    }
}
