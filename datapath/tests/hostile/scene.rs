//! A node that admits whom the test says, and whoever dials it, on a network that takes no time and loses nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use ipop_datapath::{
    PortId,
    command::{Command, Event, FromConnection, FromWorker, Lane, ToConnection},
    core::{
        Core, CoreConfig,
        shared::{NodeFacts, Shared},
    },
    counters::PortCounters,
    frame::Offload,
    io::SocketKind,
    memory::{MemoryIo, MemoryIoConfig, Node, PEER, tap},
    node_id::NodeId,
    policy::admission::{Admission, Proof, ProofBinding, Proved, Unproved, Verdict},
    quic::{Congestion, InitialKey, TlsIdentity, tls},
    tunnel::hello::{Capabilities, Hello},
};
use ipop_learning::{MacTable, MacTableConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, ConnectionId, DatagramEvent, Dir,
    Endpoint, EndpointConfig, Event as QuicEvent, StreamId, crypto,
};

use crate::common::identity;

/// The node's second port for peers.
pub(crate) const OTHER_PEER: PortId = PortId(2);
const STEP: Duration = Duration::from_millis(5);

/// What the node holds of those that dial it. The test may change its mind at any time.
pub(crate) struct Gate {
    verdict: Mutex<Verdict>,
    believes: AtomicBool,
}

impl Gate {
    pub(crate) fn set(&self, verdict: Verdict) {
        *self.verdict.lock().unwrap() = verdict;
    }

    pub(crate) fn refuse(&self) {
        self.set(Verdict::Refused("not on the list".into()));
    }

    /// No proof is good enough from now on.
    pub(crate) fn doubt(&self) {
        self.believes.store(false, Relaxed);
    }
}

impl Admission for Gate {
    fn verdict(&self, _: NodeId) -> Verdict {
        self.verdict.lock().unwrap().clone()
    }

    fn proofs(&self, _: NodeId, _: &ProofBinding) -> Vec<Proof> {
        Vec::new()
    }

    fn verify(&self, _: NodeId, _: &ProofBinding, _: &[Proof]) -> Result<Proved, Unproved> {
        let believes = self.believes.load(Relaxed);
        believes.then_some(Proved::KeyAlone).ok_or(Unproved::Different)
    }
}

/// The node, and the clients that dialled it.
pub(crate) struct Scene {
    pub(crate) node: Node,
    pub(crate) gate: Arc<Gate>,
    /// What the node told its control plane.
    pub(crate) events: Vec<Event>,
    pub(crate) now: Instant,
    pub(crate) id: NodeId,
    strangers: Vec<Stranger>,
}

/// Somebody who has dialled the node, by the order of dialling.
pub(crate) type Number = usize;

struct Stranger {
    address: SocketAddr,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    lost: Option<ConnectionError>,
    /// Of the next frame.
    sequence: u32,
}

impl Scene {
    /// A node that admits everybody at [`PEER`] and believes every proof.
    pub(crate) fn new() -> Self {
        let (now, identity) = (Instant::now(), Arc::new(identity()));
        let gate = Arc::new(Gate {
            verdict: Mutex::new(Verdict::Admitted(PEER)),
            believes: AtomicBool::new(true),
        });
        let facts = NodeFacts {
            node: identity.node,
            instance: [1; 16],
            probe_token: [1; 16],
            name: String::new(),
            inner_mtu: 1_500,
            lanes: 1,
        };
        let io = MemoryIoConfig::default();
        let fdb = MacTable::new(MacTableConfig::default());
        let config = CoreConfig {
            worker: 0,
            facts: Arc::new(facts),
            shared: Arc::new(Shared::new(fdb, &[tap(1)], 1, now)),
            identity: identity.clone(),
            admission: gate.clone(),
            congestion: Congestion::Tunnel,
            sockets: io.sockets.clone(),
            udp_ports: io.sockets.ports().collect(),
            rng_seed: Some([1; 32]),
        };
        let mut core = Core::new(config, now).unwrap();
        core.open_port(tap(1));
        let address = SocketAddr::from(([10, 0, 0, 1], 5_800));
        let node = Node::new(core, MemoryIo::new(io), address);
        Self { node, gate, events: vec![], now, id: identity.node, strangers: vec![] }
    }

    /// A program with a new key dials the node, and shakes hands as far as it is let.
    pub(crate) fn dial(&mut self) -> Number {
        self.dial_as(&identity())
    }

    pub(crate) fn dial_as(&mut self, identity: &TlsIdentity) -> Number {
        let crypto = tls::client_config(identity, self.id).unwrap();
        self.dial_by(crypto)
    }

    /// The same with cryptography of the caller's.
    pub(crate) fn dial_by(&mut self, crypto: Arc<dyn crypto::ClientConfig>) -> Number {
        self.dial_at(&InitialKey::of(self.id).generate(Lane(0)), crypto)
    }

    /// Sends a first Initial to this connection id, and whatever follows if there is an answer.
    pub(crate) fn knock(&mut self, id: &ConnectionId) -> Number {
        let crypto = tls::client_config(&identity(), self.id).unwrap();
        self.dial_at(id, crypto)
    }

    fn dial_at(&mut self, id: &ConnectionId, crypto: Arc<dyn crypto::ClientConfig>) -> Number {
        let (number, id) = (self.strangers.len(), *id);
        let mut config = ClientConfig::new(crypto);
        config.initial_dst_cid_provider(Arc::new(move || id));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let (remote, name) = (self.node.address, tls::SERVER_NAME);
        let (handle, connection) = endpoint.connect(self.now, config, remote, name).unwrap();
        self.strangers.push(Stranger {
            address: SocketAddr::from(([10, 0, 1, 1 + number as u8], 5_800)),
            endpoint,
            handle,
            connection,
            lost: None,
            sequence: 0,
        });
        self.settle();
        number
    }

    /// Somebody who has a tunnel.
    pub(crate) fn admitted(&mut self) -> Number {
        let stranger = self.dial();
        let stream = self.open(stranger).unwrap();
        self.write(stranger, stream, &hello().encode());
        self.settle();
        let connected = self.events.drain(..).find_map(|event| match event {
            Event::Connection(connection, FromConnection::Connected { peer, .. }) => {
                Some((connection, peer))
            }
            _ => None,
        });
        let (connection, peer) = connected.unwrap();
        let Verdict::Admitted(port) = self.gate.verdict(peer) else { unreachable!() };
        self.command(Command::Connection(connection, ToConnection::Activate(port)));
        stranger
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.node.core.command(self.now, command, &mut self.node.io);
    }

    /// A packet of no connection, from somewhere.
    pub(crate) fn send_packet(&mut self, packet: &[u8]) {
        let from = SocketAddr::from(([10, 0, 2, 1], 5_800));
        self.node.receive_packets(self.now, SocketKind::Listen, from, &[packet]);
        self.exchange();
    }

    /// Opens a stream, if the node lets it.
    pub(crate) fn open(&mut self, stranger: Number) -> Option<StreamId> {
        self.strangers[stranger].connection.streams().open(Dir::Uni)
    }

    pub(crate) fn connection(&mut self, stranger: Number) -> &mut Connection {
        &mut self.strangers[stranger].connection
    }

    /// Writes to a stream what the node's windows allow; returns how many bytes.
    pub(crate) fn write(&mut self, stranger: Number, stream: StreamId, bytes: &[u8]) -> usize {
        self.strangers[stranger].connection.send_stream(stream).write(bytes).unwrap_or(0)
    }

    /// Sends frames as records, in as few datagrams as hold them.
    pub(crate) fn send_frames(&mut self, stranger: Number, frames: &[Vec<u8>]) {
        self.send_offloaded(stranger, Offload::NONE, frames);
    }

    /// The same with what they say that they still need.
    pub(crate) fn send_offloaded(
        &mut self,
        stranger: Number,
        offload: Offload,
        frames: &[Vec<u8>],
    ) {
        const DATAGRAM_LEN: usize = 1_100;
        let Stranger { connection, sequence, .. } = &mut self.strangers[stranger];
        let mut datagrams = vec![Vec::new()];
        for frame in frames {
            let record = record(*sequence, offload, frame);
            *sequence += 1;
            match datagrams.last_mut() {
                Some(last) if last.len() + record.len() <= DATAGRAM_LEN => last.extend(record),
                _ => datagrams.push(record),
            }
        }
        for datagram in datagrams {
            connection.datagrams().send(datagram.into(), false).unwrap();
        }
    }

    /// Datagrams with frames that the node sent since the last call.
    pub(crate) fn received(&mut self, stranger: Number) -> usize {
        let mut datagrams = self.strangers[stranger].connection.datagrams();
        std::iter::from_fn(|| datagrams.recv()).count()
    }

    /// Why the connection was lost, as that end sees it.
    pub(crate) fn lost(&self, stranger: Number) -> Option<&ConnectionError> {
        self.strangers[stranger].lost.as_ref()
    }

    /// How many tunnels the node's control plane was told of.
    pub(crate) fn connected(&self) -> usize {
        self.events
            .iter()
            .filter(|event| matches!(event, Event::Connection(_, FromConnection::Connected { .. })))
            .count()
    }

    /// What the node says of those that it refused.
    pub(crate) fn rejections(&self) -> Vec<String> {
        let why = |event: &Event| match event {
            Event::Worker(FromWorker::Rejected { why, .. }) => Some(why.to_string()),
            _ => None,
        };
        self.events.iter().filter_map(why).collect()
    }

    pub(crate) fn port(&self, port: PortId) -> &PortCounters {
        self.node.core.counters().port(port)
    }

    /// Frames, other than loop probes, that the node wrote to its TAP since the last call.
    pub(crate) fn take_frames(&mut self) -> u64 {
        const PROBE: [u8; 6] = [0x03, 0x49, 0x50, 0x4f, 0x50, 0x01];
        let io = &mut self.node.io;
        let mut frames = 0;
        while let Some(write) = io.tap_writes.pop_front() {
            frames += u64::from(!write.pieces[0].starts_with(&PROBE));
            io.recycle_tap_write(write);
        }
        frames
    }

    /// Carries everything, at once.
    pub(crate) fn exchange(&mut self) {
        while self.carry() {}
    }

    /// The same for long enough that acknowledgements are no longer held back.
    pub(crate) fn settle(&mut self) {
        self.settle_for(Duration::from_millis(200));
    }

    pub(crate) fn settle_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.exchange();
        }
    }

    fn carry(&mut self) -> bool {
        let (now, node) = (self.now, &mut self.node);
        let mut carried = false;
        for stranger in &mut self.strangers {
            let mut packet = Vec::new();
            stranger.drive(now);
            while let Some(transmit) = stranger.connection.poll_transmit(now, 1, &mut packet) {
                carried = true;
                let packets = [&packet[..transmit.size]];
                node.receive_packets(now, SocketKind::Listen, stranger.address, &packets);
                packet.clear();
            }
        }
        node.core.flush(now, &mut node.io);
        carried |= node.core.has_backlog(&node.io);
        self.events.extend(node.core.drain_events());
        while let Some(train) = node.io.trains.pop_front() {
            carried = true;
            let to = |stranger: &&mut Stranger| stranger.address == train.destination;
            if let Some(stranger) = self.strangers.iter_mut().find(to) {
                train.packets().for_each(|packet| stranger.receive(now, node.address, packet));
            }
            node.io.recycle_train(train);
        }
        carried
    }
}

impl Stranger {
    fn drive(&mut self, now: Instant) {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while let Some(event) = self.connection.poll() {
            if let QuicEvent::ConnectionLost { reason } = event {
                self.lost = Some(reason);
            }
        }
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        let packet = BytesMut::from(packet);
        let event = self.endpoint.handle(now, from, None, None, packet, &mut Vec::new());
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }
}

/// An honest hello.
pub(crate) fn hello() -> Hello {
    Hello {
        capabilities: Capabilities(Capabilities::ALL.0 | Capabilities::SIGNALLING),
        max_frame_len: 65_557,
        inner_mtu: 1_500,
        lanes: 1,
        lane: 0,
        name: String::new(),
        instance: [7; 16],
        probe_token: None,
        agent: String::new(),
        proofs: vec![],
    }
}

/// A frame of a station behind the stranger to everybody.
pub(crate) fn broadcast() -> Vec<u8> {
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 9, 9]].concat();
    frame.resize(60, 0x5a);
    frame
}

/// A frame whole in a record, whatever it is: a node's own writer takes only frames that fit their offload.
fn record(sequence: u32, offload: Offload, frame: &[u8]) -> Vec<u8> {
    let (kind, wire) = match offload.is_none() {
        true => (1, Vec::new()),
        false => (2, offload.to_wire().to_vec()),
    };
    let len = (4 + wire.len() + frame.len()) as u16;
    [&[kind][..], &len.to_be_bytes(), &sequence.to_be_bytes(), &wire, frame].concat()
}
