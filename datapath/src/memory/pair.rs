//! Two nodes of one TAP and one worker each, connected, on a network that takes no time and loses nothing.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_learning::{MacAddr, MacTable, MacTableConfig, PortId};

use super::{MemoryIo, MemoryIoConfig, Node};
use crate::{
    command::{Command, ConnectionId, Event, FromConnection, Lane, ToConnection},
    core::{
        Core, CoreConfig,
        shared::{NodeFacts, Shared},
    },
    frame::{FrameBytes, Offload, VNET_HEADER_LEN},
    io::TapFrame,
    node_id::NodeId,
    policy::admission::{Admission, Proof, ProofBinding, Proved, Unproved, Verdict},
    port::{LocalPort, TapOffload},
    quic::{Congestion, TlsIdentity},
};

/// The TAP of a [`node`].
pub const TAP: PortId = PortId(0);
/// The port of a [`node`]'s only peer.
pub const PEER: PortId = PortId(1);
/// ACK delays and MTU probes happen at this pace while the pair settles.
const STEP: Duration = Duration::from_millis(5);

/// Two connected nodes in one thread.
pub struct Pair {
    /// The node that dialled, and the one that was dialled.
    pub nodes: [Node; 2],
    /// The time; [`Pair::advance`] moves it.
    pub now: Instant,
}

impl Pair {
    /// Connects two nodes and lets path MTU discovery finish.
    ///
    /// # Panics
    /// If that fails: an identity's certificate and key do not belong together.
    pub fn connect(identities: [TlsIdentity; 2]) -> Self {
        let now = Instant::now();
        let [dialler, listener] = identities;
        let (dialler_id, listener_id) = (dialler.node, listener.node);
        let mut pair = Self {
            nodes: [
                node(dialler, listener_id, 1, MemoryIoConfig::default(), now),
                node(listener, dialler_id, 2, MemoryIoConfig::default(), now),
            ],
            now,
        };
        let dial = Command::Connection(
            ConnectionId(1 << 55),
            ToConnection::Dial { peer: listener_id, lane: Lane(0), remote: pair.nodes[1].address },
        );
        let [from, _] = &mut pair.nodes;
        from.core.command(now, dial, &mut from.io);
        pair.settle(Duration::from_millis(100));
        for node in &mut pair.nodes {
            let connected = node.core.drain_events().find_map(|event| match event {
                Event::Connection(connection, FromConnection::Connected { .. }) => Some(connection),
                _ => None,
            });
            let connection = connected.expect("both ends connect");
            let activate = Command::Connection(connection, ToConnection::Activate(PEER));
            node.core.command(now, activate, &mut node.io);
        }
        pair.settle(Duration::from_secs(2));
        pair.take_frames(1, |_, _| {});
        pair
    }

    /// A station at this node's TAP sends a frame.
    pub fn send(&mut self, node: usize, vnet: &[u8; VNET_HEADER_LEN], frame: &[u8]) {
        let from = &mut self.nodes[node];
        let frame = TapFrame { tap: TAP, vnet, bytes: FrameBytes::Whole(frame) };
        from.core.outbound(self.now, frame, &mut from.io);
    }

    /// Carries trains, at once and without loss, until both nodes are silent.
    pub fn exchange(&mut self) {
        let [a, b] = &mut self.nodes;
        while carry(self.now, a, b) | carry(self.now, b, a) {}
    }

    /// Lets time pass, with whatever is due then.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
        self.exchange();
    }

    /// Shows each frame that a node wrote to its TAP since the last call: what it still needs, and its length in bytes.
    pub fn take_frames(&mut self, node: usize, mut visit: impl FnMut(Offload, usize)) {
        let io = &mut self.nodes[node].io;
        while let Some(write) = io.tap_writes.pop_front() {
            visit(write.what.offload(), write.len());
            io.recycle_tap_write(write);
        }
    }

    fn settle(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.advance(STEP);
        }
    }
}

/// One round in one direction; whether there may be more.
fn carry(now: Instant, from: &mut Node, to: &mut Node) -> bool {
    from.core.flush(now, &mut from.io);
    let mut carried = from.core.has_backlog(&from.io);
    while let Some(train) = from.io.trains.pop_front() {
        carried = true;
        to.receive(now, from.address, &train);
        from.io.recycle_train(train);
    }
    carried
}

/// Admits one node, at [`PEER`].
pub struct Only(pub NodeId);

impl Admission for Only {
    fn verdict(&self, node: NodeId) -> Verdict {
        if node == self.0 { Verdict::Admitted(PEER) } else { Verdict::Refused(String::new()) }
    }

    fn proofs(&self, _: NodeId, _: &ProofBinding) -> Vec<Proof> {
        Vec::new()
    }

    fn verify(&self, _: NodeId, _: &ProofBinding, _: &[Proof]) -> Result<Proved, Unproved> {
        Ok(Proved::KeyAlone)
    }
}

/// [`TAP`], as the node of this number has it.
pub fn tap(number: u8) -> LocalPort {
    let mac = MacAddr([2, 0, 0, 0, 0xff, number]);
    LocalPort { port: TAP, takes: TapOffload::Full, mac }
}

/// A node of one TAP and one worker at 10.0.0.`number` that admits one peer.
///
/// # Panics
/// If the identity's certificate and key do not belong together.
pub fn node(
    identity: TlsIdentity,
    peer: NodeId,
    number: u8,
    io: MemoryIoConfig,
    now: Instant,
) -> Node {
    node_of(identity, Arc::new(Only(peer)), number, io, now).0
}

/// The same, which admits whom it is told; and what its workers would share.
///
/// # Panics
/// If the identity's certificate and key do not belong together.
pub fn node_of(
    identity: TlsIdentity,
    admission: Arc<dyn Admission>,
    number: u8,
    io: MemoryIoConfig,
    now: Instant,
) -> (Node, Arc<Shared>) {
    let facts = NodeFacts {
        node: identity.node,
        instance: [number; 16],
        probe_token: [number; 16],
        name: String::new(),
        inner_mtu: 1_500,
        lanes: 1,
    };
    let fdb = MacTable::new(MacTableConfig::default());
    let shared = Arc::new(Shared::new(fdb, &[tap(number)], 1, now));
    let config = CoreConfig {
        worker: 0,
        facts: Arc::new(facts),
        shared: shared.clone(),
        identity: Arc::new(identity),
        admission,
        congestion: Congestion::Tunnel,
        udp_ports: io.sockets.ports().collect(),
        sockets: io.sockets.clone(),
        rng_seed: Some([number; 32]),
    };
    let mut core = Core::new(config, now).expect("certificate and key belong together");
    core.open_port(tap(number));
    let address = SocketAddr::from(([10, 0, 0, number], 5_800));
    (Node::new(core, MemoryIo::new(io), address), shared)
}
