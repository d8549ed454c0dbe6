//! What comes from the network, and whose it is.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use ipop_datapath::path::{channel_data, is_of_aliases};

use super::{
    Ice,
    agent::RequestOutcome,
    candidate::canonical,
    pair::Base,
    servers::MappingChanged,
    stun::{Class, Message, Method},
};

/// Which way a packet came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// To the listening socket.
    Listen {
        /// To which address of this host (PKTINFO).
        local_ip: Option<IpAddr>,
        /// From where.
        remote: SocketAddr,
    },
    /// To the relay socket, as it is.
    RelaySocket {
        /// From where.
        remote: SocketAddr,
    },
    /// To the relay socket from the TURN server, as ChannelData, whose header has been taken off.
    Channel {
        /// Of this channel.
        channel: u16,
    },
}

/// A packet that may be STUN or TURN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Which way it came.
    pub via: Via,
    /// What it says.
    pub payload: &'a [u8],
}

impl Ice {
    /// Takes a packet. Whatever it is, at worst it is counted and ignored.
    pub fn handle_packet(&mut self, now: Instant, packet: Packet<'_>) {
        match packet.via {
            Via::Listen { local_ip, remote } => {
                let local_ip = local_ip.map(|ip| ip.to_canonical());
                self.handle_listen(now, local_ip, canonical(remote), packet.payload);
            }
            Via::RelaySocket { remote } => {
                self.handle_relay_socket(now, canonical(remote), packet.payload);
            }
            Via::Channel { channel } => match self.gathering.turn.remote_of(channel) {
                Some(remote) => self.handle_relayed(now, remote, packet.payload),
                None => self.counters.unknown_channel += 1,
            },
        }
    }

    fn handle_listen(
        &mut self,
        now: Instant,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        payload: &[u8],
    ) {
        let Some(message) = self.parse(payload) else { return };
        if matches!(message.class, Class::Success | Class::Error) {
            match self.gathering.stun.handle_response(now, remote, local_ip, &message) {
                Some(MappingChanged::Yes) => self.local_candidates_changed(now),
                Some(MappingChanged::No) => self.announce_candidates(now),
                None => self.handle_check_response(now, local_ip.map(Base::Host), remote, &message),
            }
            return;
        }
        let Some(base) = self.gathering.base_at(local_ip, remote) else {
            // An address of the overlay, for example: a path through itself must not come about.
            self.counters.unknown_destination += 1;
            return;
        };
        self.handle_request(now, base, remote, &message);
    }

    fn handle_relay_socket(&mut self, now: Instant, remote: SocketAddr, payload: &[u8]) {
        if let Some((channel, content)) = channel_data::parse(payload) {
            // The datapath did not know the channel (yet).
            let peer = self
                .gathering
                .turn
                .remote_of(channel)
                .filter(|_| self.gathering.turn.server() == Some(remote));
            match peer {
                Some(peer) => self.handle_relayed(now, peer, &payload[content]),
                None => self.counters.unknown_channel += 1,
            }
            return;
        }
        let Some(message) = self.parse(payload) else { return };
        let relayed = self.gathering.turn.handle_message(now, remote, &message, &mut self.entropy);
        if let Some((peer, content)) = relayed {
            self.handle_relayed(now, canonical(peer), content);
        }
        self.advance_servers(now);
    }

    /// From `remote` through the relay.
    fn handle_relayed(&mut self, now: Instant, remote: SocketAddr, payload: &[u8]) {
        let Some(message) = self.parse(payload) else { return };
        match message.class {
            Class::Success | Class::Error => {
                self.handle_check_response(now, Some(Base::Relay), remote, &message);
            }
            Class::Request | Class::Indication => {
                self.handle_request(now, Base::Relay, remote, &message);
            }
        }
    }

    fn parse<'a>(&mut self, payload: &'a [u8]) -> Option<Message<'a>> {
        let message = Message::parse(payload);
        self.counters.unreadable += u64::from(message.is_none());
        message
    }

    fn handle_check_response(
        &mut self,
        now: Instant,
        base: Option<Base>,
        remote: SocketAddr,
        message: &Message<'_>,
    ) {
        let peer = self.transactions.peer_of(message.transaction);
        let entry = peer.and_then(|peer| Some((peer, self.peers.get_mut(&peer)?)));
        let Some((peer, entry)) = entry else {
            self.counters.unknown_response += 1;
            return;
        };
        if entry.agent.handle_response(now, (base, remote), message) {
            self.sync(now, peer);
        } else {
            self.counters.bad_response += 1;
        }
    }

    fn handle_request(
        &mut self,
        now: Instant,
        base: Base,
        remote: SocketAddr,
        message: &Message<'_>,
    ) {
        if message.class != Class::Request || message.method != Method::Binding {
            self.counters.unreadable += 1;
            return;
        }
        if is_of_aliases(remote.ip()) {
            self.counters.refused_candidates += 1;
            return;
        }
        let ufrag = message.username.and_then(|name| name.split_once(':')).map(|(own, _)| own);
        let peer = ufrag.and_then(|ufrag| self.by_ufrag.get(ufrag)).copied();
        let entry = peer.and_then(|peer| Some((peer, self.peers.get_mut(&peer)?)));
        let Some((peer, entry)) = entry else {
            // Strangers get no answer.
            self.counters.unknown_ufrag += 1;
            return;
        };
        match entry.agent.handle_request(now, base, remote, message) {
            RequestOutcome::Answer(answer) => self.send_from(now, base, remote, answer),
            RequestOutcome::RoleConflict(answer) => {
                self.counters.role_conflicts += 1;
                self.send_from(now, base, remote, answer);
            }
            RequestOutcome::BadIntegrity => self.counters.bad_integrity += 1,
            RequestOutcome::Malformed => self.counters.unreadable += 1,
        }
        self.sync(now, peer);
    }
}
