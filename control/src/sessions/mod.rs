//! The sessions with all peers, as a state machine without I/O and without a clock.
//!
//! The wiring feeds it what happened ([`Input`]) and the time, carries out the [`Action`]s that it polls, and calls
//! [`Sessions::handle_timeout`] when [`Sessions::poll_timeout`] says so. All randomness comes from a seed, so a
//! simulation runs the very same code.
//!
//! Peers with an address are dialled until they are up, and again when they are lost; the others are waited for. Peers come and go
//! ([`Input::Named`], [`Input::Unnamed`]), each with the port that trust gave it; who names them is trust's to know. When path control has found a way to a peer ([`Input::Path`]), the lower node id dials the peer's alias, and the higher
//! one waits. Nothing but [`Input::Revoked`] closes a tunnel because of what a source says.
//!
//! Lane 0 comes first; its hello tells how many lanes the peer serves, and the dialler opens the rest. Which of two
//! connections of a lane stays is decided in `lane`, when and where to dial in `dialling`. Whether the peers reach each other
//! too is looked at in `mesh`.

mod backoff;
mod dialling;
mod lane;
mod mesh;
mod peer;
#[cfg(test)]
mod simulation;
mod snapshot;
#[cfg(test)]
mod tests;
mod unreached;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::{
    PortId,
    command::{
        CloseReason, Command, ConnectionId, ConnectionIds, Direction, Event, FromConnection,
        FromWorker, Lane as LaneNumber, MAX_LANES, ToConnection, ToPort, ToWorker,
    },
    node_id::NodeId,
    policy::admission::SecretId,
    tunnel::hello::Hello,
};

#[cfg(feature = "testing")]
pub use self::mesh::fuzz as reached_lists;
#[cfg(test)]
pub(crate) use self::mesh::seeds as reached_seeds;
use self::{
    dialling::RemovedAny,
    lane::{DialledAt, Established},
    mesh::{Mesh, Step},
    peer::Peer,
};
pub use self::{
    mesh::{MeshReport, ShortId},
    snapshot::{LaneSnapshot, PeerSnapshot, PeerState},
    unreached::{LastError, Tried, Unreached, Unresolved},
};
use crate::{
    host::refused_sends::RefusedSends,
    notice::{Notice, Trespass, Who},
    peer::PeerAddress,
    rng::Rng,
    timed::Timed,
    trust::Loss,
};

/// More peers than this are refused: in a full mesh each costs a copy of every broadcast frame.
pub const MAX_PEERS: usize = 1_024;

/// What the sessions must know from the start.
#[derive(Clone, Debug)]
pub struct SessionsConfig {
    /// This node's inner MTU, bytes.
    pub inner_mtu: u16,
    /// Its workers, which are the lanes that it serves: 1 to 16.
    pub lanes: u8,
    /// For the jitter: random in the program, chosen in a simulation.
    pub seed: u64,
}

/// This node serves no lane, or more than 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} workers; there must be 1 to {MAX_LANES}")]
pub struct BadLanes(u8);

/// Something happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A worker reports. Events that do not concern connections are ignored.
    Event(Event),
    /// The answer to [`Action::Resolve`]; the text of a failure is for people.
    Resolved {
        /// Whose address it is.
        peer: NodeId,
        /// Its addresses, best first.
        result: Result<Vec<SocketAddr>, String>,
    },
    /// The addresses that this host has now.
    LocalAddresses(BTreeSet<IpAddr>),
    /// A peer may connect, or is named otherwise than before.
    Named(NamedPeer),
    /// Nothing names a peer any more that gives it a right. It stays while it is up, and is forgotten after that.
    Unnamed {
        /// Which peer.
        peer: NodeId,
    },
    /// A peer lost its right: its tunnels are closed and it is forgotten, whatever names it.
    Revoked {
        /// Which peer.
        peer: NodeId,
        /// Why.
        why: Loss,
    },
    /// Path control has found a way to a peer, or lost it.
    Path {
        /// Which peer.
        peer: NodeId,
        /// What it is now.
        path: PeerPath,
    },
    /// These secrets are valid from now on; none if no secret is asked for. Lanes that have proved none of them are dialled anew, and closed
    /// if that does not help.
    Secrets(Vec<SecretId>),
}

/// A peer, as it is named now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedPeer {
    /// Whose key must answer.
    pub node: NodeId,
    /// The port that trust gave it.
    pub port: PortId,
    /// Where the configuration says that it listens; other sources leave that to path control.
    pub address: Option<PeerAddress>,
    /// Where it listened when it was connected last, best first: dialled as long as it has no other address.
    pub last_addresses: Vec<SocketAddr>,
}

/// What way path control has to a peer. Unless it is down, packets to the peer's alias arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerPath {
    /// None.
    #[default]
    Down,
    /// By a relay.
    Relayed,
    /// Straight to this address, which takes packets of this path alone as far as anybody knows: a NAT's.
    Direct(SocketAddr),
    /// Straight to where it listens for everybody: further lanes are dialled there.
    Listener(SocketAddr),
}

impl PeerPath {
    /// The peer's address, if the way is straight.
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Down | Self::Relayed => None,
            Self::Direct(address) | Self::Listener(address) => Some(address),
        }
    }
}

/// Something is to be done.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Resolve this name, answer with [`Input::Resolved`], always.
    Resolve {
        /// To be repeated in the answer.
        peer: NodeId,
        /// Name and port.
        address: PeerAddress,
    },
    /// Send this command to this worker.
    Command {
        /// Its number.
        worker: usize,
        /// What it shall do.
        command: Command,
    },
    /// Tell the operator.
    Notice(Notice),
    /// The first lane of a peer is up.
    PeerUp {
        /// Its port.
        port: PortId,
    },
    /// What became of the tunnel that signals to this peer go through.
    Tunnel {
        /// Which peer.
        peer: NodeId,
        /// What.
        news: TunnelNews,
    },
    /// Nothing names this peer any more, and no connection of it is left.
    Forgotten {
        /// Which peer.
        peer: NodeId,
        /// The port that it had.
        port: PortId,
    },
}

/// What became of the tunnel that signals to a peer go through: that of its first lane, or of a further one while that is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelNews {
    /// Signals go over this connection from now on.
    Up {
        /// Which one.
        connection: ConnectionId,
        /// Where it goes: an address, or the peer's alias.
        remote: SocketAddr,
    },
    /// Nothing comes back though something was sent.
    Silent {
        /// What the round trip takes when all is well.
        rtt: Duration,
    },
    /// There is none any more.
    Ended {
        /// The peer closed it since it ends.
        has_left: bool,
    },
}

/// The sessions with all peers.
#[derive(Debug)]
pub struct Sessions {
    ctx: Context,
    peers: Timed<PortId, Peer>,
    port_of: HashMap<NodeId, PortId>,
    local_addresses: Option<BTreeSet<IpAddr>>,
    mesh: Mesh,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    ShutDown,
}

impl Sessions {
    /// Nobody is named yet.
    ///
    /// # Errors
    /// When the number of lanes cannot be right.
    pub fn new(local: NodeId, config: SessionsConfig, now: Instant) -> Result<Self, BadLanes> {
        if !(1..=MAX_LANES).contains(&usize::from(config.lanes)) {
            return Err(BadLanes(config.lanes));
        }
        let ctx = Context {
            local,
            inner_mtu: config.inner_mtu,
            lanes: config.lanes,
            secrets: Vec::new(),
            rng: Rng::new(config.seed),
            actions: VecDeque::new(),
            owners: HashMap::new(),
            ids: ConnectionIds::new(Direction::Dialled),
            refused_sends: RefusedSends::default(),
        };
        let (peers, port_of, mesh) = (Timed::default(), HashMap::new(), Mesh::new(ctx.local, now));
        let (local_addresses, phase) = (None, Phase::Running);
        Ok(Self { ctx, peers, port_of, local_addresses, mesh, phase })
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.phase == Phase::ShutDown {
            return;
        }
        match input {
            Input::Event(event) => self.handle_event(now, event),
            Input::Resolved { peer, result } => {
                self.with_peer(now, peer, |peer, ctx| {
                    peer.resolved(ctx, now, result.map_err(Unresolved::Failed));
                });
            }
            Input::LocalAddresses(addresses) => self.handle_local_addresses(now, addresses),
            Input::Named(named) => self.handle_named(now, named),
            Input::Unnamed { peer } => self.with_peer(now, peer, |peer, _| peer.unnamed()),
            Input::Revoked { peer, why } => {
                self.with_peer(now, peer, |peer, ctx| peer.revoked(ctx, why));
            }
            Input::Path { peer, path } => {
                self.with_peer(now, peer, |peer, ctx| peer.path_changed(ctx, now, path));
            }
            Input::Secrets(secrets) => self.handle_secrets(now, secrets),
        }
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Running {
            for port in self.peers.due(now) {
                self.with_port(now, port, |_, _| {});
            }
            let ctx = &mut self.ctx;
            self.mesh.handle_timeout(now, |step| match step {
                Step::Tell(connection, message) => {
                    ctx.connection(connection, ToConnection::Signal(message));
                }
                Step::Notice(notice) => ctx.push(Action::Notice(notice)),
            });
        }
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => {
                self.peers.next_wake().into_iter().chain(self.mesh.poll_timeout()).min()
            }
            Phase::ShutDown => None,
        }
    }

    /// The next thing to do; poll until there is none after each call of another method.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.ctx.actions.pop_front()
    }

    /// Tells every worker to close its connections and end; nothing is dialled any more.
    pub fn shut_down(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::ShutDown;
            self.ctx.command_all(&Command::Worker(ToWorker::Shutdown));
        }
    }

    /// Every peer, in the order of their ports.
    pub fn snapshot(&self, now: Instant) -> Vec<PeerSnapshot> {
        self.peers.values().map(|peer| peer.snapshot(now)).collect()
    }

    /// Whom the peers reach, by what they tell.
    pub fn mesh(&self) -> MeshReport {
        self.mesh.report()
    }

    /// Those that are up, in the order of their ports.
    pub fn up(&self) -> impl Iterator<Item = Who> {
        self.peers.values().filter(|peer| peer.is_up()).map(Peer::who)
    }

    /// All, with their ports, in the order of these.
    pub fn all(&self) -> impl Iterator<Item = (PortId, Who)> {
        self.peers.iter().map(|(port, peer)| (*port, peer.who()))
    }

    /// The port of a peer.
    pub fn port_of(&self, node: NodeId) -> Option<PortId> {
        self.port_of.get(&node).copied()
    }

    /// Whose port that is.
    pub fn who_has(&self, port: PortId) -> Option<Who> {
        self.peers.get(&port).map(Peer::who)
    }

    /// The tunnel that signals to a peer go through, if it is up.
    pub fn tunnel(&self, node: NodeId) -> Option<TunnelNews> {
        let (connection, remote) = self.peers.get(self.port_of.get(&node)?)?.tunnel()?;
        Some(TunnelNews::Up { connection, remote })
    }

    /// Whether a peer can take what these capabilities stand for, as it says.
    pub fn takes(&self, node: NodeId, bits: u64) -> bool {
        let peer = self.port_of.get(&node).and_then(|port| self.peers.get(port));
        peer.and_then(|peer| peer.hello.as_ref()).is_some_and(|hello| hello.capabilities.has(bits))
    }

    /// Whether it is a peer, though perhaps one that nothing names any more.
    pub fn knows(&self, node: NodeId) -> bool {
        self.port_of.contains_key(&node)
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connection(connection, what) => self.handle_connection(now, connection, what),
            Event::Worker(FromWorker::SendRefused { remote, errno }) => {
                self.ctx.refused_sends.note(remote, errno);
            }
            Event::Port(..)
            | Event::Packet(_)
            | Event::ChannelPacket { .. }
            | Event::Worker(_)
            | Event::Answer(..) => {}
        }
    }

    fn handle_connection(&mut self, now: Instant, id: ConnectionId, what: FromConnection) {
        let owner = self.ctx.owners.get(&id).copied();
        match what {
            FromConnection::Connected { peer, direction, remote, local_ip, hello, proved } => {
                let established = Established {
                    connection: id,
                    direction,
                    dialled_at: DialledAt::PeersSource,
                    remote,
                    local_ip: local_ip.filter(|ip| !ip.is_unspecified()),
                    instance: hello.instance,
                    since: now,
                    move_to: Vec::new(),
                    proved,
                    unproved_until: None,
                };
                self.handle_connected(now, peer, established, hello);
            }
            FromConnection::Moved { remote } => {
                if let Some(port) = owner {
                    self.with_port(now, port, |peer, ctx| peer.moved(ctx, id, remote));
                }
            }
            FromConnection::Silent { rtt } => {
                if let Some(peer) = owner.and_then(|port| self.peers.get(&port)) {
                    peer.silent(&mut self.ctx, id, rtt);
                }
            }
            FromConnection::Ended(why) => {
                self.ctx.owners.remove(&id);
                if let Some(port) = owner {
                    self.with_port(now, port, |peer, ctx| peer.ended(ctx, now, id, &why));
                }
            }
            FromConnection::Signal { peer, message } => self.mesh.signalled(now, peer, &message),
        }
    }

    fn handle_connected(
        &mut self,
        now: Instant,
        node: NodeId,
        established: Established,
        hello: Hello,
    ) {
        let owner = self.ctx.owners.get(&established.connection).copied();
        let known = self.port_of.get(&node).copied();
        let refuse = |ctx: &mut Context, reason: CloseReason, why: Trespass| {
            ctx.close(established.connection, reason);
            let notice = Notice::Refused { peer: node, remote: established.remote, why };
            ctx.push(Action::Notice(notice));
        };
        let ctx = &mut self.ctx;
        let Some(port) = known else {
            return if node == ctx.local {
                refuse(ctx, CloseReason::DialledSelf, Trespass::Itself);
            } else {
                refuse(ctx, CloseReason::NotAdmitted, Trespass::Unknown(node));
            };
        };
        if usize::from(hello.lane) >= usize::from(ctx.lanes) {
            let why = Trespass::NoSuchLane { lane: hello.lane, lanes: ctx.lanes };
            return refuse(ctx, CloseReason::BadHello, why);
        }
        let dialled_lane = established.connection.worker();
        match (established.direction, owner) {
            // A dial that was given up while its answer was on the way.
            (Direction::Dialled, None) => {
                return ctx.close(established.connection, CloseReason::Replaced);
            }
            (Direction::Dialled, Some(owner)) if owner != port => {
                return refuse(ctx, CloseReason::NotAdmitted, Trespass::AnotherNode);
            }
            (Direction::Dialled, _) if dialled_lane != usize::from(hello.lane) => {
                let why = Trespass::AnotherLane { lane: hello.lane, dialled: dialled_lane };
                return refuse(ctx, CloseReason::BadHello, why);
            }
            _ => {}
        }
        ctx.owners.insert(established.connection, port);
        self.with_peer(now, node, |peer, ctx| peer.connected(ctx, established, hello));
    }

    fn handle_named(&mut self, now: Instant, named: NamedPeer) {
        let taken = self.peers.get(&named.port).is_some_and(|peer| peer.node != named.node);
        let full = self.peers.len() == MAX_PEERS && !self.port_of.contains_key(&named.node);
        if named.node == self.ctx.local || taken || full {
            return;
        }
        let node = named.node;
        let port = *self.port_of.entry(node).or_insert(named.port);
        self.peers.get_or_insert_with(port, || Peer::new(node, port, &self.ctx, now));
        self.with_port(now, port, |peer, _| peer.named(named));
    }

    fn handle_secrets(&mut self, now: Instant, secrets: Vec<SecretId>) {
        self.ctx.secrets = secrets;
        self.with_all(now, |peer, ctx| peer.secrets_changed(ctx, now));
    }

    /// Does something with a peer that is known, and what follows from it.
    fn with_peer(
        &mut self,
        now: Instant,
        node: NodeId,
        change: impl FnOnce(&mut Peer, &mut Context),
    ) {
        if let Some(port) = self.port_of.get(&node) {
            self.with_port(now, *port, change);
        }
    }

    fn with_port(
        &mut self,
        now: Instant,
        port: PortId,
        change: impl FnOnce(&mut Peer, &mut Context),
    ) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        change(peer, &mut self.ctx);
        if !peer.is_over() {
            peer.maintain(&mut self.ctx, now);
        }
        if peer.tunnel_changed(&mut self.ctx) {
            let connection = peer.tunnel().map(|(connection, _)| connection);
            self.mesh.tunnel_changed(now, peer.node, peer.hello.as_ref().zip(connection));
        }
        if peer.is_over() {
            self.forget(port);
        } else {
            peer.tell_addresses(&mut self.ctx);
        }
    }

    /// What concerns every peer.
    fn with_all(&mut self, now: Instant, change: impl Fn(&mut Peer, &mut Context)) {
        for port in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with_port(now, port, &change);
        }
    }

    /// Nothing names it, and it is not up.
    fn forget(&mut self, port: PortId) {
        let Some(mut peer) = self.peers.remove(&port) else { return };
        peer.close_all(&mut self.ctx, CloseReason::Replaced);
        if !peer.told_addresses.is_empty() {
            self.ctx.command_all(&Command::Port(port, ToPort::KnowAddresses(Vec::new())));
        }
        self.port_of.remove(&peer.node);
        self.ctx.push(Action::Forgotten { peer: peer.node, port });
    }

    fn handle_local_addresses(&mut self, now: Instant, addresses: BTreeSet<IpAddr>) {
        let addresses: BTreeSet<IpAddr> =
            addresses.into_iter().map(|address| address.to_canonical()).collect();
        let before = self.local_addresses.take().unwrap_or_default();
        let removed_any =
            if before.is_subset(&addresses) { RemovedAny::No } else { RemovedAny::Yes };
        let is_local = |address: IpAddr| addresses.contains(&address.to_canonical());
        self.ctx.refused_sends.forget();
        self.with_all(now, |peer, ctx| peer.local_addresses_changed(ctx, &is_local, removed_any));
        self.local_addresses = Some(addresses);
    }
}

/// What all peers share.
#[derive(Debug)]
struct Context {
    local: NodeId,
    inner_mtu: u16,
    lanes: u8,
    /// Of which each lane must have proved one; none if no secret is asked for.
    secrets: Vec<SecretId>,
    rng: Rng,
    actions: VecDeque<Action>,
    /// The peer that each live connection or dial belongs to. What is closed here is forgotten at once.
    owners: HashMap<ConnectionId, PortId>,
    ids: ConnectionIds,
    /// Where the kernel did not send a dial's packets to: it explains why nobody answers.
    refused_sends: RefusedSends,
}

impl Context {
    fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Tells a connection what to do.
    fn connection(&mut self, connection: ConnectionId, what: ToConnection) {
        let (worker, command) = (connection.worker(), Command::Connection(connection, what));
        self.push(Action::Command { worker, command });
    }

    /// Sends a command to every worker.
    fn command_all(&mut self, command: &Command) {
        for worker in 0..usize::from(self.lanes) {
            self.push(Action::Command { worker, command: command.clone() });
        }
    }

    fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.owners.remove(&connection);
        self.connection(connection, ToConnection::Close(reason));
    }

    fn new_connection(&mut self, lane: LaneNumber, owner: PortId) -> ConnectionId {
        let connection = self.ids.next(lane.0);
        self.owners.insert(connection, owner);
        connection
    }
}

/// The address without the disguise that IPv4 wears on an IPv6 socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
