//! Two nodes, the direct way between them, and a TURN server that knows one channel for each.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_datapath::{
    command::{
        Command, ConnectionId, Event, FromConnection, Lane, Strangers, ToConnection, ToPaths,
        ToWorker,
    },
    core::shared::Shared,
    counters::{IoCounters, PortCounters},
    frame::{FrameBytes, VNET_HEADER_LEN},
    io::{SocketKind, Sockets, TapFrame},
    memory::{MemoryIoConfig, Node, Only, PEER, TAP, Train, node_of},
    node_id::NodeId,
    path::{Path, Source, alias, channel_data},
    policy::admission::Admission,
};

use crate::common::identity;

pub(crate) const RELAY_PORT: u16 = 5_900;
pub(crate) const DIALLED: ConnectionId = ConnectionId(1 << 55);
const STEP: Duration = Duration::from_millis(5);

/// The channel of each node's peer.
pub(crate) const CHANNELS: [u16; 2] = [0x4001, 0x4777];

pub(crate) fn server() -> SocketAddr {
    "10.0.9.9:3478".parse().unwrap()
}

/// How packets travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Direct,
    Relay,
}

pub(crate) struct Net {
    pub(crate) nodes: [Node; 2],
    /// The table of each, and what else its workers would share.
    pub(crate) shared: [Arc<Shared>; 2],
    pub(crate) ids: [NodeId; 2],
    pub(crate) connections: [Option<ConnectionId>; 2],
    pub(crate) events: [Vec<Event>; 2],
    pub(crate) now: Instant,
    /// Ways on which everything is lost.
    pub(crate) cut: Vec<Way>,
    /// The longest packet that the network behind the relay carries, bytes of UDP payload.
    pub(crate) relayed_len_max: usize,
    /// Packets carried on each way.
    pub(crate) direct_packets: u64,
    pub(crate) relayed_packets: u64,
}

impl Net {
    /// Nodes that know neither path nor source.
    pub(crate) fn strangers() -> Self {
        let now = Instant::now();
        let [a, b] = [identity(), identity()];
        let ids = [a.node, b.node];
        let sockets = Sockets::new(5_800).with(SocketKind::Relay, RELAY_PORT);
        let io = || MemoryIoConfig { sockets: sockets.clone(), ..MemoryIoConfig::default() };
        let only = |peer| Arc::new(Only(peer)) as Arc<dyn Admission>;
        let (first, of_first) = node_of(a, only(ids[1]), 1, io(), now);
        let (second, of_second) = node_of(b, only(ids[0]), 2, io(), now);
        Self {
            nodes: [first, second],
            shared: [of_first, of_second],
            ids,
            connections: [None; 2],
            events: [vec![], vec![]],
            now,
            cut: vec![],
            relayed_len_max: 1_472,
            direct_packets: 0,
            relayed_packets: 0,
        }
    }

    /// Nodes that are connected on this way, know the sources of both, ignore strangers and have found the path MTU.
    pub(crate) fn connected(way: Way) -> Self {
        let mut net = Self::strangers();
        for node in 0..2 {
            net.command(node, Command::Worker(ToWorker::AnswerStrangers(Strangers::Ignored)));
            net.add_sources(node);
            net.set_path(node, Some(way));
        }
        net.dial(alias(PEER));
        net.settle(Duration::from_millis(200));
        net.activate();
        net.settle(Duration::from_secs(2));
        net.take_frames(0);
        net.take_frames(1);
        net
    }

    pub(crate) fn command(&mut self, node: usize, command: Command) {
        let now = self.now;
        let node = &mut self.nodes[node];
        node.core.command(now, command, &mut node.io);
    }

    pub(crate) fn add_sources(&mut self, node: usize) {
        let remote = self.nodes[1 - node].address;
        for source in [Source::Direct(remote), Source::Channel(CHANNELS[node])] {
            self.command(node, Command::Path(ToPaths::AddSource { source, port: PEER }));
        }
    }

    pub(crate) fn path(&self, node: usize, way: Way) -> Path {
        match way {
            Way::Direct => Path::Direct {
                remote: self.nodes[1 - node].address,
                local_ip: Some(self.nodes[node].address.ip()),
            },
            Way::Relay => Path::Relay { server: server(), channel: CHANNELS[node] },
        }
    }

    pub(crate) fn set_path(&mut self, node: usize, way: Option<Way>) {
        let path = way.map(|way| self.path(node, way));
        self.command(node, Command::Path(ToPaths::Set { port: PEER, path }));
    }

    /// The first node dials the second.
    pub(crate) fn dial(&mut self, remote: SocketAddr) {
        let peer = self.ids[1];
        self.command(
            0,
            Command::Connection(DIALLED, ToConnection::Dial { peer, lane: Lane(0), remote }),
        );
    }

    /// Both ends send their frames over the newest connection.
    pub(crate) fn activate(&mut self) {
        for node in 0..2 {
            let connected = self.events[node].iter().rev().find_map(|event| match event {
                Event::Connection(connection, FromConnection::Connected { .. }) => {
                    Some(*connection)
                }
                _ => None,
            });
            let connection = connected.expect("both ends connect");
            self.connections[node] = Some(connection);
            self.command(node, Command::Connection(connection, ToConnection::Activate(PEER)));
        }
    }

    /// A station at this node's TAP sends a frame to the station behind the other, or to everybody.
    pub(crate) fn send(&mut self, node: usize, destination: [u8; 6], len: usize) {
        let source = [2, 0, 0, 0, 1, node as u8];
        let mut frame = [destination, source].concat();
        frame.resize(len, 0x5a);
        self.send_frame(node, &frame);
    }

    pub(crate) fn send_frame(&mut self, node: usize, frame: &[u8]) {
        let now = self.now;
        let from = &mut self.nodes[node];
        let bytes = FrameBytes::Whole(frame);
        let frame = TapFrame { tap: TAP, vnet: &[0; VNET_HEADER_LEN], bytes };
        from.core.outbound(now, frame, &mut from.io);
    }

    /// Lets a node send as much as it may while nothing arrives.
    pub(crate) fn fill_path(&mut self, node: usize) {
        let (now, from) = (self.now, &mut self.nodes[node]);
        while from.core.has_backlog(&from.io) {
            from.core.flush(now, &mut from.io);
        }
    }

    /// Carries everything, at once.
    pub(crate) fn exchange(&mut self) {
        while self.carry(0) | self.carry(1) {}
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.exchange();
    }

    pub(crate) fn settle(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.advance(STEP);
        }
    }

    /// Frames, other than loop probes, that a node wrote to its TAP since the last call.
    pub(crate) fn take_frames(&mut self, node: usize) -> u64 {
        const PROBE: [u8; 6] = [0x03, 0x49, 0x50, 0x4f, 0x50, 0x01];
        let mut frames = 0;
        let io = &mut self.nodes[node].io;
        while let Some(write) = io.tap_writes.pop_front() {
            frames += u64::from(!write.pieces[0].starts_with(&PROBE));
            io.recycle_tap_write(write);
        }
        frames
    }

    pub(crate) fn io(&self, node: usize) -> &IoCounters {
        &self.nodes[node].core.counters().io
    }

    pub(crate) fn peer(&self, node: usize) -> &PortCounters {
        self.nodes[node].core.counters().port(PEER)
    }

    fn carry(&mut self, sender: usize) -> bool {
        let now = self.now;
        let from = &mut self.nodes[sender];
        from.core.flush(now, &mut from.io);
        let mut carried = from.core.has_backlog(&from.io);
        self.events[sender].extend(from.core.drain_events());
        while let Some(train) = self.nodes[sender].io.trains.pop_front() {
            carried = true;
            self.deliver(sender, &train);
            self.nodes[sender].io.recycle_train(train);
        }
        self.events[sender].extend(self.nodes[sender].core.drain_events());
        carried
    }

    fn deliver(&mut self, sender: usize, train: &Train) {
        let (now, from) = (self.now, self.nodes[sender].address);
        let receiver = &mut self.nodes[1 - sender];
        let packets = train.packets().count() as u64;
        if train.destination == receiver.address {
            assert_eq!(train.socket, SocketKind::Listen);
            self.direct_packets += packets;
            if !self.cut.contains(&Way::Direct) {
                receiver.receive(now, from, train);
            }
        } else if train.destination == server() {
            assert_eq!(train.socket, SocketKind::Relay);
            self.relayed_packets += packets;
            // What a node's own network, of MTU 1,500, takes.
            assert!(train.packets().all(|packet| packet.len() <= 1_472));
            if !self.cut.contains(&Way::Relay) {
                let relayed: Vec<Vec<u8>> = train
                    .packets()
                    .filter(|packet| packet.len() <= self.relayed_len_max)
                    .map(|packet| relay(packet, CHANNELS[sender], CHANNELS[1 - sender]))
                    .collect();
                let relayed: Vec<&[u8]> = relayed.iter().map(Vec::as_slice).collect();
                receiver.receive_packets(now, SocketKind::Relay, server(), &relayed);
            }
        }
    }
}

/// What the server makes of a packet: the same content on the other end's channel.
fn relay(packet: &[u8], from: u16, to: u16) -> Vec<u8> {
    let (channel, content) = channel_data::parse(packet).expect("ChannelData");
    assert_eq!((channel, content.end), (from, packet.len()));
    let mut relayed = packet[content].to_vec();
    let len = relayed.len();
    channel_data::wrap(&mut relayed, len, to);
    relayed
}
