//! What ICE decides, brought to the datapath, the sessions and the peer; and what comes from the workers, brought to ICE.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use ipop_datapath::{
    command::{Command, ConnectionId, Event},
    io::SocketId,
    node_id::NodeId,
    path::{Path, port_of_alias},
};
use xmpp_parsers::jid::FullJid;

use super::{Action, Links, Started, Told, signal};
use crate::{
    ice::{CandidateKind, IceEvent, Packet, RemoteDescription, Socket, Via, Watch},
    sessions::{Input, PeerPath},
    xmpp::jingle::IceDescription,
};

impl Links {
    /// A worker tells something that may concern paths.
    pub fn handle_worker(&mut self, now: Instant, event: &Event) {
        match event {
            Event::Packet { socket, local_ip, remote, payload } => {
                self.packet(now, *socket, *local_ip, *remote, payload);
            }
            Event::ChannelPacket { channel, payload } => {
                let via = Via::Channel { channel: *channel };
                self.ice.handle_packet(now, Packet { via, payload });
            }
            Event::Signal { peer, message, .. } => self.signalled(now, *peer, message),
            Event::Connected { connection, peer, hello, remote, .. } if hello.lane == 0 => {
                self.connected(now, *peer, *connection, *remote);
            }
            Event::Silent { connection, rtt } => {
                if let Some(node) = self.node_of(*connection) {
                    self.ice.suspect(now, node, Some(*rtt));
                }
            }
            Event::Ended { connection, .. } => {
                if let Some(node) = self.node_of(*connection) {
                    if let Some(link) = self.links.get_mut(&node) {
                        link.connection = None;
                    }
                    self.ice.set_watch(now, node, Watch::Checks);
                }
            }
            _ => {}
        }
    }

    fn packet(
        &mut self,
        now: Instant,
        socket: SocketId,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        payload: &[u8],
    ) {
        let via = match socket {
            SocketId::RELAY => Via::RelaySocket { remote },
            _ => Via::Listen { local_ip, remote },
        };
        self.ice.handle_packet(now, Packet { via, payload });
    }

    /// The peer whose signals go over this connection.
    fn node_of(&self, connection: ConnectionId) -> Option<NodeId> {
        let mut links = self.links.iter();
        links.find(|(_, link)| link.connection == Some(connection)).map(|(node, _)| *node)
    }

    /// A tunnel is up: what this end has to say can be said inside it from now on.
    fn connected(
        &mut self,
        now: Instant,
        node: NodeId,
        connection: ConnectionId,
        remote: SocketAddr,
    ) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.connection = Some(connection);
        let over_path = port_of_alias(remote).is_some();
        self.ice.set_watch(now, node, if over_path { Watch::Traffic } else { Watch::Checks });
        link.last_error = None;
        self.remember(now, node);
        self.say_inside(node);
    }

    /// Sends description and candidates over the tunnel, if there is one.
    fn say_inside(&mut self, node: NodeId) {
        let Some(link) = self.links.get(&node) else { return };
        if let (Some(connection), Some(description)) = (link.connection, &link.description) {
            let message = signal::write(description, &link.candidates);
            let command = Command::Signal { connection, message };
            self.actions.push_back(Action::Connection(connection, command));
        }
    }

    fn signalled(&mut self, now: Instant, node: NodeId, message: &[u8]) {
        if self.links.get(&node).is_none_or(|link| link.ice == Started::No) {
            return;
        }
        match signal::read(message) {
            Some(message) => {
                self.remote_description(now, node, &message.description);
                let generation = message.description.generation;
                self.ice.add_remote_candidates(now, node, generation, &message.candidates);
            }
            None => self.tell(Told::Debug(format!("peer {node}: a signal that makes no sense"))),
        }
    }

    pub(super) fn remote_description(&mut self, now: Instant, node: NodeId, ice: &IceDescription) {
        let remote = RemoteDescription {
            ufrag: ice.ufrag.clone(),
            password: ice.password.clone(),
            generation: ice.generation,
        };
        self.ice.set_remote(now, node, &remote);
    }

    /// A Jingle session begins: fresh credentials, unless those that ICE has were told to nobody yet.
    pub(super) fn describe(&mut self, now: Instant, jid: &FullJid, node: NodeId) {
        let Some(link) = self.links.get_mut(&node) else { return };
        if link.current.as_ref().is_none_or(|(current, _)| current != jid) {
            return;
        }
        match (link.ice, link.description.take()) {
            (Started::Yes, Some(unused)) if !link.told => {
                let candidates = link.candidates.clone();
                link.told = true;
                link.description = Some(unused.clone());
                let generation = unused.generation;
                self.jingle.describe(jid, unused);
                self.jingle.add_candidates(jid, generation, &candidates);
            }
            (Started::Yes, _) => {
                link.candidates.clear();
                self.ice.restart(now, node);
            }
            (Started::No, _) => self.start_ice(now, node),
        }
    }

    /// What ICE has to say; true if there was anything.
    pub(super) fn pump_ice(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(transmit) = self.ice.poll_transmit() {
            any = true;
            let socket = match transmit.socket {
                Socket::Listen => SocketId::LISTEN,
                Socket::Relay => SocketId::RELAY,
            };
            let (local_ip, remote) = (transmit.local_ip, transmit.remote);
            let payload = transmit.payload;
            let send = Command::SendPacket { socket, local_ip, remote, payload };
            self.actions.push_back(Action::Worker(send));
        }
        while let Some(event) = self.ice.poll_event() {
            any = true;
            self.handle_ice(now, event);
        }
        any
    }

    fn handle_ice(&mut self, now: Instant, event: IceEvent) {
        match event {
            IceEvent::LocalDescription { peer, ufrag, password, generation } => {
                self.local_description(peer, IceDescription { ufrag, password, generation });
            }
            IceEvent::LocalCandidates { peer, generation, candidates } => {
                let Some(link) = self.links.get_mut(&peer) else { return };
                let fits = |known: &IceDescription| known.generation == generation;
                if !link.description.as_ref().is_some_and(fits) {
                    return;
                }
                link.candidates.extend_from_slice(&candidates);
                if let (Some((jid, _)), true) = (&link.current, link.told) {
                    self.jingle.add_candidates(jid, generation, &candidates);
                }
                self.say_inside(peer);
            }
            IceEvent::EndOfCandidates { .. } => {}
            IceEvent::Selected { peer, path, local, remote } => {
                self.selected(now, peer, path, local, remote);
            }
            IceEvent::SourceValid { peer, source } => {
                if let Some(port) = self.links.get(&peer).and_then(|link| link.port) {
                    self.actions.push_back(Action::Worker(Command::AddSource { source, port }));
                }
            }
            IceEvent::SourceGone { source, .. } => {
                self.actions.push_back(Action::Worker(Command::RemoveSource { source }));
            }
            IceEvent::Lost { peer, why } => {
                self.tell(Told::Warning(format!("peer {peer}: no path is left: {why}")));
                self.without_path(peer, why);
            }
            IceEvent::Failed { peer, why } => {
                self.tell(Told::Warning(format!("peer {peer}: no path yet: {why}")));
                self.without_path(peer, why);
            }
            IceEvent::Problem { text } => self.tell(Told::Warning(text)),
        }
    }

    /// New credentials. A session asked for them, or ICE wants them; without a session they wait for one.
    fn local_description(&mut self, node: NodeId, description: IceDescription) {
        let Some(link) = self.links.get_mut(&node) else { return };
        let restarted = link.description.is_some() || link.told;
        link.candidates.clear();
        link.description = Some(description.clone());
        link.told = restarted && link.current.is_some();
        if let (true, Some((jid, _))) = (link.told, &link.current) {
            self.jingle.describe(jid, description);
        }
    }

    fn selected(
        &mut self,
        now: Instant,
        node: NodeId,
        path: Path,
        local: CandidateKind,
        remote_kind: CandidateKind,
    ) {
        let Some(link) = self.links.get_mut(&node) else { return };
        let Some(port) = link.port else { return };
        link.last_error = None;
        link.address = match path {
            Path::Direct { remote, .. } if remote_kind != CandidateKind::Relayed => Some(remote),
            Path::Direct { .. } | Path::Relay { .. } => None,
        };
        // Without a NAT at either end further lanes can be dialled at the address itself.
        let host = local == CandidateKind::Host && remote_kind == CandidateKind::Host;
        let up = match link.address {
            Some(address) if host => PeerPath::Listener(address),
            Some(address) => PeerPath::Direct(address),
            None => PeerPath::Relayed,
        };
        let name = link.claim.name.clone();
        self.actions.push_back(Action::Worker(Command::SetPath { port, path: Some(path) }));
        self.actions.push_back(Action::Sessions(Input::Path { peer: node, path: up }));
        let way = match path {
            Path::Direct { remote, .. } if remote_kind == CandidateKind::Relayed => {
                format!("relayed by the peer's {remote}")
            }
            Path::Direct { remote, .. } => format!("direct, {remote}"),
            Path::Relay { server, .. } => format!("relayed by {server}"),
        };
        self.tell(Told::Info(format!(
            "peer {node} ({name}): path {way} ({local} to {remote_kind})"
        )));
        self.remember(now, node);
    }

    fn without_path(&mut self, node: NodeId, why: String) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.last_error = Some(why);
        link.address = None;
        let path = PeerPath::Down;
        self.actions.push_back(Action::Sessions(Input::Path { peer: node, path }));
    }
}
