//! Ways to peers by their node ids: ICE, STUN and TURN, and what nodes say to each other inside a tunnel. Without I/O and without a clock,
//! and without a word about XMPP.
//!
//! A **link** is what there is of one peer here: its description and candidates for the other end, ICE's search, and the tunnel that
//! signals go over. It begins with `Paths::start` and ends with `Paths::stop`, as trust says ([`crate::node`]). Whoever signals with the
//! peer, a room ([`crate::rendezvous`]) or a controller, is told what the other end must learn ([`FromLink`]) and says what came from there
//! ([`ToLink`]). What ICE finds becomes the path of the peer's alias in the datapath and is told to the sessions, which dial.
//!
//! Signalling can only add: nothing that is said of a peer takes a path away that works.

mod report;
mod searches;
mod signal;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipop_datapath::{
    PortId,
    command::{Command, ConnectionId, ControlPacket, ToConnection, ToPaths},
    io::SocketKind,
    node_id::NodeId,
    path::{Path, port_of_alias},
};

pub(crate) use self::report::refused;
pub use self::report::{LinkReport, Way};
use self::searches::Searches;
#[cfg(feature = "testing")]
pub use self::signal::fuzz as signal_message;
#[cfg(test)]
pub(crate) use self::signal::{Message as Signal, read as read_signal, seeds as signal_seeds};
use crate::{
    ice::{
        Candidate, CandidateKind, Ice, IceConfig, IceDescription, IceEvent, MAX_CANDIDATES,
        Obstacles, Packet, Role, Search, StunServer, TurnServer, Via, Watch,
    },
    node::Action,
    notice::{Notice, Pathless, Who},
    sessions::{PeerPath, TunnelNews},
    timed::{Timed, Timer},
};

/// How long the peer has to repeat inside the tunnel what was passed on to here.
const REASSERT_AFTER: Duration = Duration::from_secs(5);

/// What whoever signals with a peer says to the link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToLink {
    /// Signalling begins: this end's description and candidates are to be told, fresh ones, unless those at hand were told to nobody.
    Describe,
    /// The peer's description.
    Remote(IceDescription),
    /// Candidates of the peer.
    RemoteCandidates {
        /// Of which description.
        generation: u32,
        /// Them.
        candidates: Vec<Candidate>,
    },
}

/// What a link tells whoever signals with the peer, and the sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromLink {
    /// The peer must learn this end's description. It replaces the one before.
    Description(IceDescription),
    /// The peer must learn these candidates too.
    Candidates {
        /// Of which description.
        generation: u32,
        /// Best first.
        candidates: Vec<Candidate>,
    },
    /// All servers have answered or failed. More candidates may come when something changes.
    Gathered {
        /// The description.
        generation: u32,
    },
    /// Packets to the peer go this way now.
    Path(PeerPath),
    /// No way is known any more, or none was found in good time. The search goes on.
    NoPath {
        /// Which of the two.
        was: Pathless,
        /// Why.
        why: Obstacles,
    },
    /// There is a tunnel to the peer, or it has ended.
    Tunnel(Tunnel),
}

/// Whether there is a tunnel that signals go over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tunnel {
    /// There was none.
    #[default]
    Never,
    /// There is one.
    Up,
    /// It has ended.
    Ended,
}

#[derive(Debug)]
struct Link {
    port: PortId,
    /// What ICE said last of this end.
    description: Option<IceDescription>,
    candidates: Vec<Candidate>,
    told: Described,
    /// Candidates that came before their description.
    early: Option<(u32, Vec<Candidate>)>,
    /// The connection that signals go over.
    connection: Option<ConnectionId>,
    /// What the peer said of itself over it.
    inside: Option<signal::Message>,
    /// When that counts again, after something else was passed on.
    reassert_at: Option<Instant>,
    /// It ended that with a goodbye and was not heard of since: what becomes of its paths is no news.
    has_left: bool,
}

/// Whether somebody asked for this end's description.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Described {
    No,
    Yes,
}

impl Link {
    fn new(port: PortId) -> Self {
        Self {
            port,
            description: None,
            candidates: Vec::new(),
            told: Described::No,
            early: None,
            connection: None,
            inside: None,
            reassert_at: None,
            has_left: false,
        }
    }
}

impl Timer for Link {
    fn wake_at(&self) -> Option<Instant> {
        self.reassert_at
    }
}

/// The links to all peers that somebody signals with.
#[derive(Debug)]
pub struct Paths {
    local: NodeId,
    ice: Ice,
    links: Timed<NodeId, Link>,
    searches: Searches,
    malformed_signals: u64,
    actions: VecDeque<Action>,
    events: VecDeque<(NodeId, FromLink)>,
}

impl Paths {
    /// No links, no servers, no addresses yet.
    pub(crate) fn new(local: NodeId, ice: IceConfig, now: Instant) -> Self {
        Self {
            local,
            ice: Ice::new(ice, now),
            links: Timed::default(),
            searches: Searches::default(),
            malformed_signals: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing that a link tells.
    pub(crate) fn poll_event(&mut self) -> Option<(NodeId, FromLink)> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.ice.poll_timeout().into_iter().chain(self.links.next_wake()).min()
    }

    /// The time has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.ice.poll_timeout().is_some_and(|at| at <= now) {
            self.ice.handle_timeout(now);
        }
        // What was passed on was not repeated inside the tunnel: the peer's own word counts again.
        for node in self.links.due(now) {
            self.reassert(now, node);
        }
        self.follow_ice(now);
    }

    /// This host's addresses, best first, without those of the overlay and of interfaces that are to be ignored.
    pub(crate) fn set_local_addresses(&mut self, now: Instant, addresses: &[IpAddr]) {
        self.ice.set_local_addresses(now, addresses);
        self.follow_ice(now);
    }

    /// Routes have changed: the paths find out whether they still live.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        self.ice.network_changed(now);
        self.follow_ice(now);
    }

    /// STUN and TURN servers, resolved. TURN servers are STUN servers too.
    pub(crate) fn set_servers(
        &mut self,
        now: Instant,
        stun: Vec<StunServer>,
        turn: Vec<TurnServer>,
    ) {
        let mut asked = stun;
        for server in &turn {
            if asked.iter().all(|known| known.address != server.address) {
                asked.push(StunServer { address: server.address });
            }
        }
        self.ice.set_servers(now, &asked, turn);
        self.follow_ice(now);
    }

    /// Begins to look for ways to a node that may connect through this port, unless that was begun. Whether it was not.
    pub(crate) fn start(&mut self, now: Instant, node: NodeId, port: PortId) -> bool {
        if self.links.contains_key(&node) {
            return false;
        }
        self.links.insert(node, Link::new(port));
        let role = if self.local < node { Role::Controlling } else { Role::Controlled };
        self.ice.start(now, node, role);
        self.follow_ice(now);
        true
    }

    /// Ends the link to a node, with its path.
    pub(crate) fn stop(&mut self, now: Instant, node: NodeId) {
        self.ice.stop(now, node);
        self.follow_ice(now);
        if let Some(Link { port, .. }) = self.links.remove(&node) {
            self.command(Command::Path(ToPaths::Set { port, path: None }));
            self.events.push_back((node, FromLink::Path(PeerPath::Down)));
        }
    }

    /// Whether there is a link to a node.
    pub(crate) fn has_link(&self, node: NodeId) -> bool {
        self.links.contains_key(&node)
    }

    /// All nodes that there are links to.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.links.keys().copied()
    }

    /// How the search for a way to a node stands.
    pub(crate) fn search(&self, node: NodeId) -> Option<Search> {
        self.ice.search(node)
    }

    /// Whoever signals with a node says something. What concerns no link is ignored.
    pub(crate) fn handle(&mut self, now: Instant, node: NodeId, what: ToLink) {
        match what {
            ToLink::Describe => self.describe(now, node),
            ToLink::Remote(description) => self.passed_on(now, node, &description),
            ToLink::RemoteCandidates { generation, candidates } => {
                self.candidates_passed_on(now, node, generation, candidates);
            }
        }
        self.follow_ice(now);
    }

    fn describe(&mut self, now: Instant, node: NodeId) {
        let Some(link) = self.links.get_mut(&node) else { return };
        let told = std::mem::replace(&mut link.told, Described::Yes);
        match link.description.clone().filter(|_| told == Described::No) {
            Some(unused) => {
                let (generation, candidates) = (unused.generation, link.candidates.clone());
                self.events.push_back((node, FromLink::Description(unused)));
                self.events.push_back((node, FromLink::Candidates { generation, candidates }));
                if self.ice.is_gathered() {
                    self.events.push_back((node, FromLink::Gathered { generation }));
                }
            }
            None => self.ice.restart(now, node),
        }
    }

    fn passed_on(&mut self, now: Instant, node: NodeId, description: &IceDescription) {
        let Some(link) = self.links.get_mut(&node) else { return };
        self.ice.set_remote(now, node, description);
        link.has_left = false;
        let differs = |inside: &signal::Message| inside.description != *description;
        if link.connection.is_some() && link.inside.as_ref().is_some_and(differs) {
            link.reassert_at.get_or_insert(now + REASSERT_AFTER);
        }
        if let Some((generation, candidates)) =
            link.early.take_if(|(generation, _)| *generation <= description.generation)
        {
            self.ice.add_remote_candidates(now, node, generation, &candidates);
        }
    }

    /// Candidates may overtake their description, of which those of the latest are kept.
    fn candidates_passed_on(
        &mut self,
        now: Instant,
        node: NodeId,
        generation: u32,
        candidates: Vec<Candidate>,
    ) {
        let Some(link) = self.links.get_mut(&node) else { return };
        if self.ice.remote_generation(node).is_some_and(|known| generation <= known) {
            return self.ice.add_remote_candidates(now, node, generation, &candidates);
        }
        match &mut link.early {
            Some((early, kept)) if *early == generation => kept.extend(candidates),
            Some((early, _)) if *early > generation => {}
            early => *early = Some((generation, candidates)),
        }
        if let Some((_, kept)) = &mut link.early {
            kept.truncate(MAX_CANDIDATES);
        }
    }

    /// What ICE has to say.
    fn follow_ice(&mut self, now: Instant) {
        while let Some(packet) = self.ice.poll_transmit() {
            self.command(Command::Packet(packet));
        }
        while let Some(event) = self.ice.poll_event() {
            self.handle_ice(now, event);
        }
    }

    fn handle_ice(&mut self, now: Instant, event: IceEvent) {
        match event {
            IceEvent::LocalDescription { peer, description } => {
                let Some(link) = self.links.get_mut(&peer) else { return };
                link.candidates.clear();
                link.description = Some(description.clone());
                self.tell_if_asked(peer, FromLink::Description(description));
            }
            IceEvent::LocalCandidates { peer, generation, candidates } => {
                let Some(link) = self.links.get_mut(&peer) else { return };
                // Those that are gone are not told again.
                let current = self.ice.local_candidates();
                link.candidates.retain(|known| current.contains(known));
                link.candidates.extend_from_slice(&candidates);
                self.tell_if_asked(peer, FromLink::Candidates { generation, candidates });
                self.say_inside(peer);
            }
            IceEvent::EndOfCandidates { peer, generation } => {
                self.tell_if_asked(peer, FromLink::Gathered { generation });
            }
            IceEvent::Selected { peer, path, local, remote } => {
                self.selected(peer, path, local, remote);
            }
            IceEvent::SourceValid { peer, source } => {
                if let Some(port) = self.links.get(&peer).map(|link| link.port) {
                    self.command(Command::Path(ToPaths::AddSource { source, port }));
                }
            }
            IceEvent::SourceGone { source, .. } => {
                self.command(Command::Path(ToPaths::RemoveSource(source)));
            }
            IceEvent::Lost { peer, why } => self.without_path(now, peer, Pathless::Lost, why),
            IceEvent::Failed { peer, why } => self.without_path(now, peer, Pathless::NotYet, why),
            IceEvent::Server(problem) => self.notice(Notice::Server(problem)),
        }
    }

    /// Nobody is told what nobody asked for: it waits for [`ToLink::Describe`].
    fn tell_if_asked(&mut self, node: NodeId, what: FromLink) {
        if self.links.get(&node).is_some_and(|link| link.told == Described::Yes) {
            self.events.push_back((node, what));
        }
    }

    fn selected(
        &mut self,
        node: NodeId,
        path: Path,
        local: CandidateKind,
        remote_kind: CandidateKind,
    ) {
        let Some(link) = self.links.get(&node) else { return };
        // Without a NAT at either end further lanes can be dialled at the address itself.
        let host = local == CandidateKind::Host && remote_kind == CandidateKind::Host;
        let up = match path {
            Path::Relay { .. } => PeerPath::Relayed,
            Path::Direct { .. } if remote_kind == CandidateKind::Relayed => PeerPath::Relayed,
            Path::Direct { remote, .. } if host => PeerPath::Listener(remote),
            Path::Direct { remote, .. } => PeerPath::Direct(remote),
        };
        let (port, has_left) = (link.port, link.has_left);
        self.command(Command::Path(ToPaths::Set { port, path: Some(path) }));
        self.events.push_back((node, FromLink::Path(up)));
        let peer = Who { node, name: None };
        self.notice(Notice::Path { peer, path, local, remote: remote_kind, has_left });
    }

    fn without_path(&mut self, now: Instant, node: NodeId, was: Pathless, why: Obstacles) {
        let Some(link) = self.links.get(&node) else { return };
        let has_left = link.has_left;
        if let Some(left_out) = self.searches.failed(now, node, was, &why) {
            let (peer, why) = (Who { node, name: None }, why.clone());
            self.notice(Notice::NoPath { peer, was, why, left_out, has_left });
        }
        self.events.push_back((node, FromLink::NoPath { was, why }));
    }

    /// The first worker has all paths.
    fn command(&mut self, command: Command) {
        self.actions.push_back(Action::Worker { worker: 0, command });
    }

    fn notice(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notice(notice));
    }
}

/// What comes from the workers.
impl Paths {
    /// A packet of STUN's, or of somebody who is no peer's source.
    pub(crate) fn handle_packet(&mut self, now: Instant, packet: &ControlPacket) {
        let &ControlPacket { socket, local_ip, remote, ref payload } = packet;
        let via = match socket {
            SocketKind::Relay => Via::RelaySocket { remote },
            SocketKind::Listen | SocketKind::Dial => Via::Listen { local_ip, remote },
        };
        self.ice.handle_packet(now, Packet { via, payload });
        self.follow_ice(now);
    }

    /// The same through a relay's channel.
    pub(crate) fn handle_channel_packet(&mut self, now: Instant, channel: u16, payload: &[u8]) {
        self.ice.handle_packet(now, Packet { via: Via::Channel { channel }, payload });
        self.follow_ice(now);
    }

    /// The kernel did not send a packet.
    pub(crate) fn send_refused(&mut self, now: Instant, remote: SocketAddr, errno: i32) {
        self.ice.send_refused(remote, errno);
        self.follow_ice(now);
    }

    /// What became of the tunnel to a node. While it is up, what this end has to say is said inside it.
    pub(crate) fn handle_tunnel(&mut self, now: Instant, node: NodeId, news: TunnelNews) {
        let Some(link) = self.links.get_mut(&node) else { return };
        match news {
            TunnelNews::Up { connection, remote } => {
                link.connection = Some(connection);
                link.has_left = false;
                (link.inside, link.reassert_at) = (None, None);
                let over_path = port_of_alias(remote).is_some();
                let watch = if over_path { Watch::Traffic } else { Watch::Checks };
                self.ice.set_watch(now, node, watch);
                self.events.push_back((node, FromLink::Tunnel(Tunnel::Up)));
                self.say_inside(node);
            }
            TunnelNews::Silent { rtt } => self.ice.suspect(now, node, Some(rtt)),
            TunnelNews::Ended { has_left } => {
                link.connection = None;
                link.has_left = has_left;
                (link.inside, link.reassert_at) = (None, None);
                self.ice.set_watch(now, node, Watch::Checks);
                self.events.push_back((node, FromLink::Tunnel(Tunnel::Ended)));
            }
        }
        self.follow_ice(now);
    }

    /// Sends description and candidates over the tunnel, if there is one.
    fn say_inside(&mut self, node: NodeId) {
        let Some(link) = self.links.get(&node) else { return };
        if let (Some(connection), Some(description)) = (link.connection, &link.description) {
            let message = signal::write(description, &link.candidates);
            let command = Command::Connection(connection, ToConnection::Signal(message));
            let worker = connection.worker();
            self.actions.push_back(Action::Worker { worker, command });
        }
    }

    /// The peer says where it is, inside a tunnel. That is its own word, which counts for more than what is passed on.
    pub(crate) fn handle_signal(&mut self, now: Instant, node: NodeId, message: &[u8]) {
        let Some(link) = self.links.get_mut(&node) else { return };
        let Some(message) = signal::read(message) else {
            self.malformed_signals += 1;
            return self.notice(Notice::BadSignal { peer: node });
        };
        // Of two tunnels the older one may be the slower one.
        let known = link.inside.as_ref().map(|inside| inside.description.generation);
        if known.is_some_and(|known| message.description.generation < known) {
            return;
        }
        link.inside = Some(message);
        self.reassert(now, node);
        self.follow_ice(now);
    }

    /// What the peer said inside the tunnel counts.
    fn reassert(&mut self, now: Instant, node: NodeId) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.reassert_at = None;
        if let Some(signal::Message { description, candidates }) = &link.inside {
            self.ice.set_remote_inside(now, node, description);
            self.ice.add_remote_candidates(now, node, description.generation, candidates);
        }
    }
}
