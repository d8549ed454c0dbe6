//! One site: a host with the whole switch of the program, its sessions and its workers, but no kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use ipop_control::{
    ice::{Entropy, IceConfig, Loopback, Timing},
    network::Secrets,
    node::{Configured, Node, NodeConfig, PortSpec},
    notice::Notice,
    peer::PeerSpec,
    sessions::{PeerSnapshot, SessionsConfig},
    trust::{Policy, TrustStore},
};
use ipop_datapath::{
    LocalPort, MacAddr, PortId, TapOffload,
    command::ConnectionId,
    core::{
        Core, CoreConfig,
        shared::{NodeFacts, Shared},
    },
    counters::{PortCounters, drops::DropReason},
    io::{SocketId, SocketKind, Sockets},
    memory::{MemoryIo, MemoryIoConfig, ReceiveBuffers},
    node_id::NodeId,
    policy::admission::{Admission, Proof, ProofBinding, Proved, Unproved, Verdict},
    quic::{Congestion, TlsIdentity},
};
use ipop_learning::{MacTable, MacTableConfig};

use crate::{identity::random_bytes, rng::Rng};

pub(crate) const LISTEN_PORT: u16 = 5_800;
/// The longest plain frames that stations send fit.
const INNER_MTU: u16 = 9_000;
/// Worker i of those that have a socket of their own to dial from dials from this port plus i.
const DIAL_PORT: u16 = 40_000;

/// What stays when the program restarts.
pub(crate) struct Site {
    pub(crate) number: usize,
    pub(crate) identity: Arc<TlsIdentity>,
    pub(crate) workers: u8,
    pub(crate) taps: Vec<TapOffload>,
    pub(crate) io: MemoryIoConfig,
    /// The other sites in the order in which they are configured, and how this one dials them.
    pub(crate) peers: Vec<(usize, PeerSpec)>,
    /// What the operator decided about them.
    pub(crate) trusted: TrustStore,
    /// If it asks for a network secret.
    pub(crate) secrets: Option<Secrets>,
    pub(crate) honesty: Honesty,
    pub(crate) running: Option<Running>,
    /// What the operator was told, until somebody takes it.
    pub(crate) notices: Vec<Notice>,
    pub(crate) starts: u32,
    /// Nothing is to be done before this.
    pub(crate) wake_at: Option<Instant>,
}

/// What program a site runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Honesty {
    /// This one.
    Honest,
    /// One that sends proofs of nothing and is content with any.
    Liar,
}

/// The liar's view of who may connect: everybody that it was told of, and whatever they prove.
struct Gullible(Vec<NodeId>, u16);

impl Admission for Gullible {
    fn verdict(&self, node: NodeId) -> Verdict {
        match self.0.iter().position(|peer| *peer == node) {
            Some(index) => Verdict::Admitted(PortId(self.1 + index as u16)),
            None => Verdict::Refused("not among the liar's peers".into()),
        }
    }

    fn proofs(&self, _: NodeId, _: &ProofBinding) -> Vec<Proof> {
        vec![[0; 32], [0xff; 32]]
    }

    fn verify(&self, _: NodeId, _: &ProofBinding, _: &[Proof]) -> Result<Proved, Unproved> {
        Ok(Proved::KeyAlone)
    }
}

/// The program while it runs.
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<Worker>,
    /// Local ports, and the workers that have them or are to get them.
    pub(crate) ports: BTreeMap<PortId, BTreeSet<u8>>,
    /// Every connection that was ever dialled or accepted.
    pub(crate) connections: BTreeSet<ConnectionId>,
}

pub(crate) struct Worker {
    pub(crate) core: Core,
    pub(crate) io: MemoryIo,
    pub(crate) buffers: ReceiveBuffers,
}

/// A TAP of the configuration, by its place there at the start.
pub(crate) fn tap(number: u16) -> PortSpec {
    PortSpec::Tap(format!("tap{number}"))
}

fn dial_port(worker: u8) -> u16 {
    DIAL_PORT + u16::from(worker)
}

impl Site {
    /// Starts the program.
    pub(crate) fn start(&mut self, now: Instant, peers: &[NodeId], rng: &mut Rng) {
        let taps = self.taps.len() as u16;
        let local = |(&takes, number)| {
            let mac = MacAddr([2, 0xff, 0, 0, self.number as u8, number as u8]);
            LocalPort { port: PortId(number), takes, mac }
        };
        let ports: Vec<LocalPort> = self.taps.iter().zip(0..).map(local).collect();
        let shared = Arc::new(Shared::new(
            MacTable::new(MacTableConfig::default()),
            &ports,
            self.workers,
            now,
        ));
        let facts = Arc::new(NodeFacts {
            node: self.identity.node,
            instance: random_bytes(rng),
            probe_token: random_bytes(rng),
            name: format!("site{}", self.number),
            inner_mtu: INNER_MTU,
            lanes: self.workers,
        });
        let seeds: Vec<[u8; 32]> = (0..self.workers).map(|_| random_bytes(rng)).collect();
        let (lanes, seed) = (self.workers, rng.next());
        let config = NodeConfig {
            local: self.identity.node,
            sessions: SessionsConfig { inner_mtu: INNER_MTU, lanes, seed },
            decisions: self.trusted.clone(),
            configured: Configured {
                ports: (0..taps).map(tap).collect(),
                peers: self.peers.iter().map(|(_, peer)| peer.clone()).collect(),
                policy: self.policy(),
            },
            ice: IceConfig {
                listen_port: LISTEN_PORT,
                loopback: Loopback::Refused,
                entropy: Entropy::seeded(seed),
                timing: Timing::default(),
            },
            rendezvous: None,
        };
        let node = Node::new(config, now).expect("a sound configuration");
        let admission: Arc<dyn Admission> = match self.honesty {
            Honesty::Honest => node.trust().clone(),
            Honesty::Liar => Arc::new(Gullible(peers.to_vec(), taps)),
        };
        let core_config = |worker: u8, sockets: Sockets| CoreConfig {
            worker,
            facts: facts.clone(),
            shared: shared.clone(),
            identity: self.identity.clone(),
            admission: admission.clone(),
            congestion: Congestion::Tunnel,
            sockets,
            udp_ports: (1..self.workers).map(dial_port).chain([LISTEN_PORT]).collect(),
            rng_seed: Some(seeds[usize::from(worker)]),
        };
        let workers = (0..self.workers).map(|worker| {
            let mut io = self.io.clone();
            if worker > 0 {
                io.sockets = io.sockets.with(SocketKind::Dial, dial_port(worker));
            }
            let config = core_config(worker, io.sockets.clone());
            let mut core = Core::new(config, now).expect("the identity is sound");
            ports.iter().for_each(|port| core.open_port(*port));
            Worker { core, io: MemoryIo::new(io), buffers: ReceiveBuffers::default() }
        });
        let workers = workers.collect();
        self.starts += 1;
        self.wake_at = Some(now);
        let all_workers: BTreeSet<u8> = (0..self.workers).collect();
        let ports = ports.iter().map(|local| (local.port, all_workers.clone())).collect();
        let connections = BTreeSet::new();
        self.running = Some(Running { node, shared, workers, ports, connections });
    }

    pub(crate) fn policy(&self) -> Policy {
        match self.secrets.clone() {
            Some(secrets) => Policy::Secret(secrets),
            None => Policy::ConfiguredAlone,
        }
    }

    /// The other site of this number, as it is configured.
    pub(crate) fn peer(&self, site: usize) -> &PeerSpec {
        let (_, peer) = self.peers.iter().find(|(peer, _)| *peer == site).expect("another site");
        peer
    }

    /// The port of another site, which the sessions know.
    pub(crate) fn port_of(&self, site: usize) -> PortId {
        PortId(self.snapshot_of(site).port)
    }

    /// The sessions with another site, which they know.
    pub(crate) fn snapshot_of(&self, site: usize) -> PeerSnapshot {
        let (running, node) = (self.running.as_ref().expect("it runs"), self.peer(site).node);
        let mut peers = running.node.sessions().snapshot(Instant::now()).into_iter();
        peers.find(|peer| peer.node == node.to_string()).expect("the sessions know it")
    }
}

impl Running {
    /// The worker and socket that a packet to this port reaches, as the kernel steers it (`docs/WIRE.md`).
    pub(crate) fn steer(&self, port: u16, packet: &[u8]) -> Option<(usize, SocketId)> {
        let worker = if port == LISTEN_PORT {
            let at = if packet.first()? & 0x80 == 0 { 1 } else { 6 };
            usize::from(*packet.get(at)?) % self.workers.len()
        } else {
            usize::from(port.wrapping_sub(DIAL_PORT))
        };
        let socket = self.workers.get(worker)?.io.sockets().bound_to(port)?;
        Some((worker, socket))
    }

    /// When something is to be done at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let cores = self.workers.iter().map(|worker| worker.core.poll_timeout());
        cores.chain(self.node.poll_timeout()).min()
    }

    /// The sum of a counter over the workers.
    pub(crate) fn count(&self, port: PortId, counter: impl Fn(&PortCounters) -> u64) -> u64 {
        self.shared.counters.iter().map(|worker| counter(worker.port(port))).sum()
    }

    /// The counters of all ports, by worker.
    fn ports(&self) -> impl Iterator<Item = &PortCounters> {
        self.shared.counters.iter().flat_map(|worker| worker.ports())
    }

    /// Frames dropped for this reason at any port.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.ports().map(|port| port.dropped(reason)).sum()
    }

    /// Frames that went somewhere or were dropped for a reason, copies included, and those that wait for another worker.
    pub(crate) fn accounted_for(&self) -> u64 {
        let counted = self.ports().map(|port| {
            let drops = DropReason::ALL.iter().map(|reason| port.dropped(*reason));
            port.sent_frames.get() + drops.sum::<u64>()
        });
        let waiting = |worker: &Worker| worker.io.mail.len() as u64 + worker.core.waiting_frames();
        counted.chain(self.workers.iter().map(waiting)).sum()
    }

    /// Connections that have not ended.
    pub(crate) fn open_connections(&self) -> usize {
        let is_open = |id: &&ConnectionId| self.workers[id.worker()].core.is_open(**id);
        self.connections.iter().filter(is_open).count()
    }

    /// Lanes that are up, by peer in the order of their ports, which is that of the configuration as long as nobody is denied.
    pub(crate) fn lanes_up(&self, now: Instant) -> Vec<usize> {
        self.node.sessions().snapshot(now).iter().map(|peer| peer.lanes.len()).collect()
    }
}

/// The source of what a socket sends, unless the core chose another.
pub(crate) fn source_of(
    worker: usize,
    socket: SocketKind,
    chosen: Option<IpAddr>,
    own: Ipv4Addr,
) -> SocketAddr {
    let port = match socket {
        SocketKind::Listen => LISTEN_PORT,
        _ => dial_port(worker as u8),
    };
    SocketAddr::new(chosen.map_or(IpAddr::V4(own), |ip| ip.to_canonical()), port)
}
