//! The two translations between QUIC's addresses and the network's: alias to path on the way out, source to alias on the way in.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use ipop_learning::PortId;
use quinn_proto::Transmit;

use crate::{
    command::Strangers,
    counters::IoCounters,
    io::{Io, SocketId, SocketKind},
    path::{Path, Source, channel_data, port_of_alias},
    quic::transport::ip_udp_overhead,
};

/// Sources of all peers together: 16 for each of 1,024 peers.
const MAX_SOURCES: usize = 16_384;

/// The path and the sources of each peer whose path control chooses.
#[derive(Default)]
pub(super) struct Paths {
    chosen: HashMap<PortId, Chosen>,
    sources: HashMap<Source, PortId>,
    /// How many connections there are to each address that is no alias.
    plain_remotes: HashMap<SocketAddr, u32>,
    /// The last answer of [`Paths::sender`]: packets come in trains.
    last_sender: Option<(SocketAddr, Sender)>,
    pub(super) strangers: Strangers,
}

/// A peer's path.
struct Chosen {
    /// The last path that control chose, and the socket that it leaves from.
    socket: SocketId,
    path: Path,
    /// Cleared when control took it away.
    is_open: bool,
}

/// Whose packet it may be, by where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sender {
    /// From no peer's source.
    Unmapped,
    /// From a source of this peer.
    Peer(PortId),
    /// The same, but a connection that has no alias has this address too.
    PeerOrPlain(PortId),
}

/// How packets to a connection's remote address are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NextHop {
    /// The socket that they leave from.
    pub(super) socket: SocketId,
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// To that address.
    Plain,
    /// To the path of the peer that the address stands for.
    Over(Path),
    /// The address stands for a peer that has no path now.
    Nowhere,
}

/// What became of a peer's path.
pub(super) struct PathChange {
    pub(super) old: Option<(SocketId, Path)>,
    pub(super) new: Option<(SocketId, Path)>,
    /// Whether QUIC has to forget what it measured: packets go elsewhere than the last ones did.
    pub(super) is_elsewhere: bool,
}

impl Paths {
    /// The path of a peer, and the socket that it leaves from.
    pub(super) fn set(&mut self, port: PortId, new: Option<(SocketId, Path)>) -> PathChange {
        let before = self.chosen.get(&port);
        let last_path = before.map(|chosen| chosen.path);
        let old = before.filter(|chosen| chosen.is_open);
        let old = old.map(|chosen| (chosen.socket, chosen.path));
        match new {
            Some((socket, path)) => {
                self.chosen.insert(port, Chosen { socket, path, is_open: true });
            }
            None => {
                if let Some(chosen) = self.chosen.get_mut(&port) {
                    chosen.is_open = false;
                }
            }
        }
        let is_elsewhere = last_path.zip(new).is_some_and(|(last, (_, path))| last != path);
        PathChange { old, new, is_elsewhere }
    }

    pub(super) fn add_source(&mut self, source: Source, port: PortId) {
        self.last_sender = None;
        let source = canonical(source);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            tracing::warn!("more than {MAX_SOURCES} sources of peers: {source:?} is not heard");
            return;
        }
        self.sources.insert(source, port);
    }

    pub(super) fn remove_source(&mut self, source: Source) {
        self.last_sender = None;
        self.sources.remove(&canonical(source));
    }

    /// A connection to this address begins; aliases do not matter here.
    pub(super) fn add_plain_remote(&mut self, remote: SocketAddr) {
        self.last_sender = None;
        *self.plain_remotes.entry(remote).or_default() += 1;
    }

    /// It has ended.
    pub(super) fn remove_plain_remote(&mut self, remote: SocketAddr) {
        self.last_sender = None;
        if let Some(count) = self.plain_remotes.get_mut(&remote) {
            *count -= 1;
            if *count == 0 {
                self.plain_remotes.remove(&remote);
            }
        }
    }

    /// Whose a packet at the listening socket may be.
    pub(super) fn sender(&mut self, remote: SocketAddr) -> Sender {
        match self.last_sender {
            Some((last, sender)) if last == remote => sender,
            _ => {
                let port = self.sources.get(&Source::Direct(remote)).copied();
                let sender = match port {
                    None => Sender::Unmapped,
                    Some(port) if self.plain_remotes.contains_key(&remote) => {
                        Sender::PeerOrPlain(port)
                    }
                    Some(port) => Sender::Peer(port),
                };
                self.last_sender = Some((remote, sender));
                sender
            }
        }
    }

    /// The peer behind a relay's channel.
    pub(super) fn peer_of_channel(&self, channel: u16) -> Option<PortId> {
        self.sources.get(&Source::Channel(channel)).copied()
    }

    /// The way to a remote address of QUIC's, for a connection of this socket.
    pub(super) fn next_hop(&self, socket: SocketId, remote: SocketAddr) -> NextHop {
        let Some(port) = port_of_alias(remote) else { return NextHop { socket, way: Way::Plain } };
        match self.chosen.get(&port) {
            Some(Chosen { socket, path, is_open: true }) => {
                NextHop { socket: *socket, way: Way::Over(*path) }
            }
            _ => NextHop { socket, way: Way::Nowhere },
        }
    }
}

impl NextHop {
    /// Whether the address stands for a peer that has no path now.
    pub(super) fn is_nowhere(self) -> bool {
        self.way == Way::Nowhere
    }

    /// The first host that packets go to, if the address stands for a peer with a path.
    pub(super) fn first_host(self) -> Option<SocketAddr> {
        let Way::Over(path) = self.way else { return None };
        Some(path.flow().1)
    }

    /// Bytes that each packet grows by.
    pub(super) fn header_len(self) -> usize {
        match self.way {
            Way::Over(Path::Relay { .. }) => channel_data::HEADER_LEN,
            _ => 0,
        }
    }

    /// The largest QUIC packet that the first hop takes, bytes.
    pub(super) fn max_payload_len(self, io: &impl Io) -> usize {
        let Some(remote) = self.first_host() else { return usize::MAX };
        let headers_len = usize::from(ip_udp_overhead(&remote)) + self.header_len();
        usize::from(io.first_hop_mtu(remote)).saturating_sub(headers_len)
    }

    /// Sends a train that QUIC has built. Without a path its packets are counted and dropped.
    pub(super) fn send(
        self,
        mut transmit: Transmit,
        mut train: Vec<u8>,
        counters: &IoCounters,
        io: &mut impl Io,
    ) {
        let packets = transmit.segment_size.map_or(1, |size| transmit.size.div_ceil(size)) as u64;
        match self.way {
            Way::Plain => {}
            Way::Nowhere => {
                counters.pathless_packets.add(packets);
                io.return_buffer(train);
                return;
            }
            Way::Over(Path::Direct { remote, local_ip }) => {
                (transmit.destination, transmit.src_ip) = (remote, local_ip);
            }
            Way::Over(Path::Relay { server, channel }) => {
                (transmit.destination, transmit.src_ip) = (server, None);
                train.truncate(transmit.size);
                channel_data::wrap(
                    &mut train,
                    transmit.segment_size.unwrap_or(transmit.size),
                    channel,
                );
                transmit.size = train.len();
                transmit.segment_size =
                    transmit.segment_size.map(|size| size + channel_data::HEADER_LEN);
            }
        }
        counters.sent_packets.add(packets);
        counters.sent_trains.add(1);
        io.send(self.socket, &transmit, train);
    }
}

impl Path {
    /// The UDP flow that packets of the path form: what its socket is for, and the first host that they go to.
    pub(super) fn flow(self) -> (SocketKind, SocketAddr) {
        match self {
            Self::Direct { remote, .. } => (SocketKind::Listen, remote),
            Self::Relay { server, .. } => (SocketKind::Relay, server),
        }
    }
}

/// As the kernel's addresses of received packets are read: IPv4 as such, no flow label.
fn canonical(source: Source) -> Source {
    match source {
        Source::Direct(SocketAddr::V6(v6)) => Source::Direct(match v6.ip().to_canonical() {
            IpAddr::V4(v4) => (v4, v6.port()).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()).into(),
        }),
        source => source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PortId = PortId(3);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn mapped_sources_are_the_address_that_they_map() {
        let mut paths = Paths::default();
        paths.add_source(Source::Direct(address("[::ffff:192.0.2.1]:7")), PEER);
        assert_eq!(paths.sender(address("192.0.2.1:7")), Sender::Peer(PEER));
        assert_eq!(paths.sender(address("192.0.2.1:8")), Sender::Unmapped);
        paths.remove_source(Source::Direct(address("192.0.2.1:7")));
        assert_eq!(paths.sender(address("192.0.2.1:7")), Sender::Unmapped);
    }

    #[test]
    fn sources_are_bounded() {
        let mut paths = Paths::default();
        let source = |number: u16| Source::Direct(SocketAddr::from(([192, 0, 2, 1], number)));
        for number in 0..20_000 {
            paths.add_source(source(number), PEER);
        }
        assert_eq!(paths.sender(address("192.0.2.1:16383")), Sender::Peer(PEER));
        assert_eq!(paths.sender(address("192.0.2.1:16384")), Sender::Unmapped);
        paths.remove_source(source(0));
        paths.add_source(source(16_384), PEER);
        assert_eq!(paths.sender(address("192.0.2.1:16384")), Sender::Peer(PEER));
    }

    #[test]
    fn a_source_that_a_plain_connection_has_too_is_ambiguous() {
        let mut paths = Paths::default();
        let both = address("192.0.2.1:7");
        paths.add_source(Source::Direct(both), PEER);
        paths.add_plain_remote(both);
        paths.add_plain_remote(both);
        paths.remove_plain_remote(both);
        assert_eq!(paths.sender(both), Sender::PeerOrPlain(PEER));
        paths.remove_plain_remote(both);
        assert_eq!(paths.sender(both), Sender::Peer(PEER));
    }

    #[test]
    fn only_another_path_than_the_last_is_elsewhere() {
        let mut paths = Paths::default();
        let direct = Path::Direct { remote: address("192.0.2.1:7"), local_ip: None };
        let relay = Path::Relay { server: address("192.0.2.9:3478"), channel: 0x4000 };
        let [direct, relay] = [(SocketId(0), direct), (SocketId(1), relay)];
        let mut elsewhere = |path| paths.set(PEER, path).is_elsewhere;
        assert!(!elsewhere(None));
        assert!(!elsewhere(Some(relay)), "the first one");
        assert!(!elsewhere(Some(relay)));
        assert!(!elsewhere(None));
        assert!(!elsewhere(Some(relay)), "back on the same");
        assert!(!elsewhere(None));
        assert!(elsewhere(Some(direct)), "another after a pause");
    }
}
