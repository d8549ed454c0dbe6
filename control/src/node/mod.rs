//! A node: trust, sessions, paths and rendezvous as one state machine, without I/O and without a clock.
//!
//! Whoever runs it feeds it what happened ([`Input`]), calls [`Node::handle_timeout`] when [`Node::poll_timeout`] says so, and carries out
//! each [`Action`] in the order in which it is polled. What the parts are to tell one another is told here, so that a simulation runs
//! the very same wiring as the program:
//!
//! * What a worker reports goes to the part that it concerns. What becomes of a connection concerns the sessions; they know over which one
//!   signals go, and paths and rendezvous hear of that from here.
//! * What paths and rendezvous ask for comes before what the sessions ask for: a path is there before it is dialled.
//! * Who names whom stands in one list, which trust keeps. Whatever changes it, here the sessions are told what holds now, and close the
//!   tunnels of those who lost their right.
//! * Who may connect, and is named by somebody who can signal with it, has a link: paths to it are looked for.
//! * A peer that the sessions have forgotten gives its port back, and its link.

mod added;
mod announcements;
mod asking;
mod configuration;
mod controller;
mod lines;
mod ports;

mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use ipop_datapath::{
    PortId,
    command::{Command, Event, FromConnection, FromPort, FromWorker},
    node_id::NodeId,
    path::port_of_alias,
};

use ipop_learning::MacAddr;

pub use self::{
    added::NotAdded,
    announcements::OwnAddress,
    configuration::Configured,
    controller::{LinkOrder, LinkRefused},
    ports::{LocalPorts, Opening, PortOrder, PortRefused, PortSpec},
    report::refused_reasons,
};
use self::{announcements::Announcements, lines::Lines};
use crate::{
    ice::{IceConfig, StunServer, TurnServer},
    notice::{Notice, Who},
    paths::{FromLink, Paths},
    peer::{NamedBy, PeerAddress},
    questions::{self, Answered, Questions, Token},
    rendezvous::{Rendezvous, RendezvousConfig},
    sessions::{self, BadLanes, PeerPath, Sessions, SessionsConfig, TunnelNews},
    trust::{
        Claim, NewNodes, NodeChange, Policy, PresentPeer, PresentPeers, SavedPeers, Trust,
        TrustStore,
    },
    xmpp::{
        services::{Service, ServiceKind},
        stream::{Account, Failure, FromStream, ToStream},
    },
};

/// What a node is from the start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub local: NodeId,
    /// The sessions' part: how many lanes it serves.
    pub sessions: SessionsConfig,
    /// What the operator decided about single nodes.
    pub decisions: TrustStore,
    /// Local ports, which are there from the start; who the peers are and who may connect.
    pub configured: Configured,
    /// The paths' part. Nothing is sent before servers or addresses are known.
    pub ice: IceConfig,
    /// How nodes find each other over XMPP, if there is an account.
    pub rendezvous: Option<RendezvousConfig>,
}

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A worker reports.
    Worker(Event),
    /// The answer to [`Action::ResolvePeer`]; the text of a failure is for people.
    PeerResolved {
        /// Whose address it is.
        peer: NodeId,
        /// Its addresses, best first.
        result: Result<Vec<SocketAddr>, String>,
    },
    /// STUN and TURN servers with their addresses: the answer to [`Action::ResolveServers`], or those of the configuration.
    ServersResolved(Vec<(Service, SocketAddr)>),
    /// The addresses that this host has now.
    LocalAddresses(BTreeSet<IpAddr>),
    /// Those of them that peers are told, best first: without those of the overlay and of interfaces that are to be ignored.
    OfferedAddresses(Vec<IpAddr>),
    /// The addresses that this host has on the segments of its TAPs.
    OwnAddresses(Vec<OwnAddress>),
    /// Routes have changed: whether the paths still live is to be found out.
    RoutesChanged,
    /// The XMPP stream tells something.
    Stream(FromStream),
    /// What the operator decided about single nodes, all of it.
    Decisions(TrustStore),
    /// The configuration was read again.
    Configured(Configured),
    /// The answer to [`PortOrder::Open`].
    PortOpened {
        /// Its number.
        port: PortId,
        /// How it went.
        opening: Opening,
    },
    /// The room's password is another.
    RoomPassword(Option<String>),
    /// The settings of the XMPP account are others.
    Account(Account),
    /// The program ends: the tunnels are closed, the room is left.
    ShutDown,
}

/// Something is to be done.
#[derive(Debug)]
pub enum Action {
    /// Send this command to this worker.
    Worker {
        /// Its number.
        worker: usize,
        /// What it shall do.
        command: Command,
    },
    /// Send this to the XMPP stream. A question that finds no room is answered with that.
    Stream(ToStream),
    /// Resolve this name, answer with [`Input::PeerResolved`], always.
    ResolvePeer {
        /// To be repeated in the answer.
        peer: NodeId,
        /// Name and port.
        address: PeerAddress,
    },
    /// Resolve these hosts, answer with [`Input::ServersResolved`].
    ResolveServers(Vec<Service>),
    /// These nodes were seen in the room: the operator's list is to take note of them. It comes back as [`Input::Decisions`].
    Observe {
        /// Who says to be which node.
        seen: Vec<(NodeId, Claim)>,
        /// What becomes of those that are not on the list.
        new: NewNodes,
    },
    /// Write this to the file of saved peers.
    Save(SavedPeers),
    /// Tell the controller.
    Controller {
        /// Of the link to which node.
        peer: NodeId,
        /// What that tells.
        what: FromLink,
    },
    /// A local port is to come or go.
    Port {
        /// Its number.
        port: PortId,
        /// What is to be done about it.
        order: PortOrder,
    },
    /// A question of this node's has come to its end.
    Answered(Answered),
    /// A peer's controller says this to this node's.
    Message {
        /// Whose.
        peer: NodeId,
        /// What, at most [`questions::MAX_BODY`] bytes.
        data: Vec<u8>,
    },
    /// A peer asks what would become of a frame that came from it: answer with [`Node::traced`].
    Trace {
        /// Which peer.
        peer: NodeId,
        /// To be repeated in the answer.
        token: Token,
        /// The frame's source.
        source: MacAddr,
        /// Its destination.
        destination: MacAddr,
    },
    /// Tell the operator.
    Notice(Notice),
    /// The account was refused at the first log-in, and there is nobody to connect to without it: end the program.
    GiveUp(Failure),
}

/// One node of the overlay: trust, sessions, paths, rendezvous, and what they want done.
#[derive(Debug)]
pub struct Node {
    trust: Arc<Trust>,
    sessions: Sessions,
    paths: Paths,
    pub(crate) rendezvous: Option<Rendezvous>,
    lines: Lines,
    local_ports: LocalPorts,
    announcements: Announcements,
    /// Who is present may be others, or named otherwise, since that was taken last.
    is_present_stale: bool,
    questions: Questions,
    /// Messages of peers that are neither questions nor answers to any.
    refused_questions: u64,
    actions: VecDeque<Action>,
}

impl Node {
    /// Names the configured peers, and those known from before.
    ///
    /// # Errors
    /// When the number of lanes cannot be right.
    pub fn new(config: NodeConfig, now: Instant) -> Result<Self, BadLanes> {
        let NodeConfig { local, decisions, configured, .. } = config;
        let Configured { ports, peers, policy } = configured;
        let trust = Arc::new(Trust::new(local, Policy::default(), decisions));
        let local_ports = LocalPorts::new(trust.clone(), config.sessions.lanes, ports);
        let mut node = Self {
            sessions: Sessions::new(local, config.sessions, now)?,
            paths: Paths::new(local, config.ice, now),
            rendezvous: None,
            lines: Lines::new(now),
            local_ports,
            announcements: Announcements::default(),
            is_present_stale: true,
            questions: Questions::default(),
            refused_questions: 0,
            actions: VecDeque::new(),
            trust,
        };
        let configured = node.difference(peers, policy);
        node.configure(now, configured);
        node.rendezvous =
            config.rendezvous.map(|config| Rendezvous::new(config, node.trust.clone(), now));
        node.follow_trust(now);
        Ok(node)
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Worker(event) => self.handle_worker(now, event),
            Input::PeerResolved { peer, result } => {
                self.sessions.handle(now, sessions::Input::Resolved { peer, result });
            }
            Input::ServersResolved(servers) => {
                let (stun, turn) = by_kind(servers);
                self.paths.set_servers(now, stun, turn);
            }
            Input::LocalAddresses(addresses) => {
                self.sessions.handle(now, sessions::Input::LocalAddresses(addresses));
            }
            Input::OfferedAddresses(addresses) => {
                self.paths.set_local_addresses(now, &addresses);
                self.with_rendezvous(Rendezvous::network_changed);
            }
            Input::OwnAddresses(own) => self.announcements.set(now, own),
            Input::RoutesChanged => {
                self.with_rendezvous(Rendezvous::network_changed);
                self.paths.network_changed(now);
            }
            Input::Stream(event) => {
                self.with_rendezvous(|rendezvous| rendezvous.handle_stream(now, event));
            }
            Input::Decisions(store) => {
                let gained = self.trust.decide(store);
                self.admit(now, &gained);
            }
            Input::Configured(configured) => self.reconfigure(now, configured),
            Input::PortOpened { port, opening } => self.local_ports.opened(port, opening),
            Input::RoomPassword(password) => {
                self.with_rendezvous(|rendezvous| rendezvous.set_password(now, password));
            }
            Input::Account(account) => {
                self.with_rendezvous(|rendezvous| rendezvous.set_account(account));
            }
            Input::ShutDown => {
                self.with_rendezvous(|rendezvous| rendezvous.shut_down(now));
                self.sessions.shut_down();
            }
        }
        self.follow_trust(now);
    }

    /// A worker reports: to each part what concerns it.
    fn handle_worker(&mut self, now: Instant, event: Event) {
        match event {
            // Descriptions begin with a brace; everything else that peers say in-band says by its first byte whom it is for.
            Event::Connection(_, FromConnection::Signal { peer, ref message })
                if message.starts_with(b"{") =>
            {
                self.paths.handle_signal(now, peer, message);
            }
            Event::Connection(_, FromConnection::Signal { peer, ref message })
                if message.first() == Some(&questions::KIND) =>
            {
                self.handle_question(now, peer, message);
            }
            Event::Connection(_, ref what) => {
                // A peer comes up, or has another name.
                self.is_present_stale |= matches!(what, FromConnection::Connected { .. });
                self.sessions.handle(now, sessions::Input::Event(event));
            }
            Event::Packet(packet) => self.paths.handle_packet(now, &packet),
            Event::ChannelPacket { channel, payload } => {
                self.paths.handle_channel_packet(now, channel, &payload);
            }
            Event::Worker(FromWorker::SendRefused { remote, errno }) => {
                self.paths.send_refused(now, remote, errno);
                self.sessions.handle(now, sessions::Input::Event(event));
            }
            Event::Port(port, FromPort::Closed { worker }) => self.local_ports.closed(port, worker),
            Event::Port(..) | Event::Worker(_) | Event::Answer(..) => {}
        }
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.sessions.handle_timeout(now);
        self.paths.handle_timeout(now);
        self.with_rendezvous(|rendezvous| rendezvous.handle_timeout(now));
        let announced = self.announcements.take_due(now).into_iter();
        self.actions.extend(announced.map(|command| Action::Worker { worker: 0, command }));
        self.end_questions(now);
        self.follow_trust(now);
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rendezvous = self.rendezvous.as_ref().and_then(Rendezvous::poll_timeout);
        let (sessions, paths) = (self.sessions.poll_timeout(), self.paths.poll_timeout());
        let parts =
            [sessions, paths, rendezvous, self.announcements.due(), self.questions.poll_timeout()];
        parts.into_iter().flatten().min()
    }

    /// The next thing to do; poll until there is none after each call of another method.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        loop {
            if let Some(action) = self.own_action(now) {
                return Some(action);
            }
            self.settle(now);
            if let Some(action) = self.own_action(now) {
                return Some(action);
            }
            match self.sessions.poll_action()? {
                sessions::Action::Tunnel { peer, news } => {
                    self.is_present_stale |= matches!(news, TunnelNews::Ended { .. });
                    self.paths.handle_tunnel(now, peer, news);
                }
                sessions::Action::Forgotten { peer, .. } => self.forgotten(now, peer),
                sessions::Action::Command { worker, command } => {
                    return Some(Action::Worker { worker, command });
                }
                sessions::Action::Resolve { peer, address } => {
                    return Some(Action::ResolvePeer { peer, address });
                }
                sessions::Action::PeerUp { port } => self.announcements.peer_up(now, port),
                sessions::Action::Notice(mut notice) => {
                    self.tell_way(now, &mut notice);
                    return Some(Action::Notice(notice));
                }
            }
        }
    }

    /// What paths, rendezvous and this itself want done, and no more lines about the network than anybody reads.
    fn own_action(&mut self, now: Instant) -> Option<Action> {
        loop {
            if let Some(action) =
                self.actions.pop_front().or_else(|| self.local_ports.poll_action())
            {
                return Some(action);
            }
            let rendezvous = &mut self.rendezvous;
            let of_rendezvous = || rendezvous.as_mut().and_then(Rendezvous::poll_action);
            match self.paths.poll_action().or_else(of_rendezvous)? {
                Action::Notice(mut notice) => {
                    self.name_peer(&mut notice);
                    let told = self.lines.told(now, notice).into_iter().flatten();
                    self.actions.extend(told.map(Action::Notice));
                }
                action => return Some(action),
            }
        }
    }

    /// Sessions know a peer whose path is chosen here by its alias, which means nothing to people.
    fn tell_way(&self, now: Instant, notice: &mut Notice) {
        if let Notice::PeerUp { peer, remote, way, .. } = notice
            && port_of_alias(*remote).is_some()
        {
            *way = self.paths.way_to(now, peer.node);
        }
    }

    /// Paths know peers by their ids.
    fn name_peer(&self, notice: &mut Notice) {
        if let (Notice::Path { peer, .. } | Notice::NoPath { peer, .. }, Some(rendezvous)) =
            (notice, &self.rendezvous)
        {
            peer.name = rendezvous.name_of(peer.node).map(str::to_owned);
        }
    }

    /// Brings what the parts have to say to one another where it belongs, until none has anything. The sessions know a peer before they
    /// hear of a path to it, and it has a link before anybody says something to that.
    fn settle(&mut self, now: Instant) {
        loop {
            self.follow_trust(now);
            if let Some((peer, what)) = self.paths.poll_event() {
                self.follow_link(now, peer, what);
            } else if let Some((peer, what)) =
                self.rendezvous.as_mut().and_then(|rendezvous| rendezvous.poll_link(now))
            {
                self.paths.handle(now, peer, what);
            } else {
                return;
            }
        }
    }

    /// A link tells something.
    fn follow_link(&mut self, now: Instant, peer: NodeId, what: FromLink) {
        let path = match &what {
            FromLink::Path(path) => Some(*path),
            FromLink::NoPath { .. } => Some(PeerPath::Down),
            _ => None,
        };
        if let Some(path) = path {
            self.sessions.handle(now, sessions::Input::Path { peer, path });
        }
        self.with_rendezvous(|rendezvous| rendezvous.handle_link(now, peer, &what));
        self.tell_controller(peer, what);
    }

    /// Who may connect, for the workers to ask.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The local ports.
    pub fn local_ports(&self) -> &LocalPorts {
        &self.local_ports
    }

    /// The sessions with all peers.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Peers that are up, with what names them, if that may have changed since the last call.
    pub fn take_present(&mut self) -> Option<PresentPeers> {
        if !std::mem::take(&mut self.is_present_stale) {
            return None;
        }
        let present = self.sessions.up().map(|Who { node, name }| PresentPeer {
            node,
            name: name.unwrap_or_default(),
            sources: self.trust.sources(node),
        });
        Some(PresentPeers { peer: present.collect() })
    }

    fn with_rendezvous(&mut self, call: impl FnOnce(&mut Rendezvous)) {
        if let Some(rendezvous) = &mut self.rendezvous {
            call(rendezvous);
        }
    }

    /// Tells sessions and paths what is new about nodes.
    fn follow_trust(&mut self, now: Instant) {
        let mut any = false;
        while let Some(NodeChange { node: peer, lost, named }) = self.trust.poll_change() {
            any = true;
            if let Some(why) = lost {
                self.sessions.handle(now, sessions::Input::Revoked { peer, why });
            }
            match named {
                Some(named) => {
                    let has_signals = self.trust.sources(peer).into_iter().any(NamedBy::signals);
                    if has_signals && self.paths.start(now, peer, named.port) {
                        let tunnel = self.sessions.tunnel(peer);
                        tunnel.into_iter().for_each(|up| self.paths.handle_tunnel(now, peer, up));
                    }
                    self.sessions.handle(now, sessions::Input::Named(named));
                }
                None if self.sessions.knows(peer) => {
                    self.sessions.handle(now, sessions::Input::Unnamed { peer });
                }
                // Perhaps it was named for a moment, of which the sessions have not heard.
                None => self.forgotten(now, peer),
            }
        }
        if any {
            self.is_present_stale = true;
            self.with_rendezvous(Rendezvous::follow_strangers);
        }
    }

    /// The sessions know nothing of a peer: unless it may connect again by now, its port can be another one's.
    fn forgotten(&mut self, now: Instant, peer: NodeId) {
        if self.trust.forgotten(peer) {
            self.actions.push_back(Action::Notice(Notice::Forgotten { peer }));
            self.paths.stop(now, peer);
            self.with_rendezvous(|rendezvous| rendezvous.forgotten(now, peer));
        }
    }

    /// Those who may connect now are looked for in the room.
    fn admit(&mut self, now: Instant, gained: &[NodeId]) {
        self.with_rendezvous(|rendezvous| {
            gained.iter().for_each(|node| rendezvous.admit(now, *node));
        });
    }
}

/// A TURN server without credentials is of use as a STUN server.
fn by_kind(servers: Vec<(Service, SocketAddr)>) -> (Vec<StunServer>, Vec<TurnServer>) {
    let (mut stun, mut turn) = (Vec::new(), Vec::new());
    for (Service { kind, credentials, .. }, address) in servers {
        match (kind, credentials) {
            (ServiceKind::Turn, Some((username, password))) => {
                turn.push(TurnServer { address, username, password, expires: None });
            }
            _ => stun.push(StunServer { address }),
        }
    }
    (stun, turn)
}
