//! What ICE decides, brought to the datapath, the sessions and the peer; and what comes from the workers, brought to ICE.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipop_datapath::{
    command::{
        CloseReason, Command, ConnectionId, ControlPacket, Ended, Event, FromConnection,
        FromWorker, ToConnection, ToPaths,
    },
    io::SocketId,
    node_id::NodeId,
    path::{Path, port_of_alias},
};
use xmpp_parsers::jid::FullJid;

use super::{Link, Links, Started, signal};
use crate::{
    ice::{CandidateKind, IceEvent, Packet, RemoteDescription, Socket, Via, Watch},
    node::Action,
    notice::{Notice, Pathless, Who},
    sessions::PeerPath,
    xmpp::jingle::IceDescription,
};

/// Without a path for so long signalling begins anew, and then ever more rarely: what was said may have been falsified or lost.
const RENEW_FIRST: Duration = Duration::from_secs(15);
const RENEW_LAST: Duration = Duration::from_secs(600);
/// How long the peer has to repeat inside the tunnel what the server passed on.
const REASSERT_AFTER: Duration = Duration::from_secs(5);

impl Link {
    fn who(&self, node: NodeId) -> Who {
        Who { node, name: Some(self.claim.name.clone()) }
    }

    /// When signalling begins anew, if there is somebody to signal with.
    pub(super) fn renew_at(&self) -> Option<Instant> {
        self.renewal.filter(|_| self.current.is_some()).map(|(at, _)| at)
    }
}

impl Links {
    /// Begins signalling anew, if it is time and nothing came of it.
    pub(super) fn renew(&mut self, now: Instant, node: NodeId) {
        if let Some(link) = self.links.get_mut(&node)
            && let (Some((at, pause)), Some((jid, _))) = (link.renewal, &link.current)
            && at <= now
        {
            let pause = (pause * 2).min(RENEW_LAST);
            link.renewal = Some((now + pause, pause));
            self.jingle.renew(now, jid);
        }
    }

    /// A worker tells something that may concern paths.
    pub fn handle_worker(&mut self, now: Instant, event: &Event) {
        match event {
            Event::Connection(connection, what) => self.handle_connection(now, *connection, what),
            Event::Packet(ControlPacket { socket, local_ip, remote, payload }) => {
                let (local_ip, remote) = (*local_ip, *remote);
                let via = match *socket {
                    SocketId::RELAY => Via::RelaySocket { remote },
                    _ => Via::Listen { local_ip, remote },
                };
                self.ice.handle_packet(now, Packet { via, payload });
            }
            Event::ChannelPacket { channel, payload } => {
                let via = Via::Channel { channel: *channel };
                self.ice.handle_packet(now, Packet { via, payload });
            }
            Event::Worker(FromWorker::SendRefused { remote, errno }) => {
                self.ice.send_refused(*remote, *errno);
            }
            Event::Port(..) | Event::Worker(_) | Event::Answer(..) => {}
        }
    }

    fn handle_connection(&mut self, now: Instant, id: ConnectionId, what: &FromConnection) {
        match what {
            // What does not begin with a brace is for the sessions.
            FromConnection::Signal { peer, message } if message.starts_with(b"{") => {
                self.signalled(now, *peer, message);
            }
            FromConnection::Connected { peer, hello, remote, .. } if hello.lane == 0 => {
                self.connected(now, *peer, id, *remote);
            }
            FromConnection::Silent { rtt } => {
                if let Some(node) = self.node_of(id) {
                    self.ice.suspect(now, node, Some(*rtt));
                }
            }
            FromConnection::Ended(why) => {
                let node = self.node_of(id);
                self.by_connection.remove(&id);
                if let Some(node) = node
                    && let Some(link) = self.links.get_mut(&node)
                {
                    link.connection = None;
                    link.has_left = is_goodbye(why);
                    (link.inside, link.reassert_at) = (None, None);
                    // Whoever it was gets the first turn.
                    if let Some((_, since)) = &mut link.current {
                        *since = now;
                    }
                    self.ice.set_watch(now, node, Watch::Checks);
                }
            }
            _ => {}
        }
    }

    /// The peer whose signals go over this connection.
    fn node_of(&self, connection: ConnectionId) -> Option<NodeId> {
        let node = *self.by_connection.get(&connection)?;
        let link = self.links.get(&node)?;
        (link.connection == Some(connection)).then_some(node)
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
        self.by_connection.insert(connection, node);
        (link.was_connected, link.has_left) = (true, false);
        (link.inside, link.reassert_at) = (None, None);
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
            let command = Command::Connection(connection, ToConnection::Signal(message));
            let worker = connection.worker();
            self.actions.push_back(Action::Worker { worker, command });
        }
    }

    /// The peer says where it is, inside a tunnel. That is its own word, which counts for more than what the server passes on.
    fn signalled(&mut self, now: Instant, node: NodeId, message: &[u8]) {
        let Some(link) = self.links.get_mut(&node).filter(|link| link.ice == Started::Yes) else {
            return;
        };
        let Some(message) = signal::read(message) else {
            self.malformed_signals += 1;
            return self.tell(now, Notice::BadSignal { peer: node });
        };
        // Of two tunnels the older one may be the slower one.
        let known = link.inside.as_ref().map(|inside| inside.description.generation);
        if known.is_some_and(|known| message.description.generation < known) {
            return;
        }
        link.inside = Some(message);
        self.reassert(now, node);
    }

    /// What the peer said inside the tunnel counts.
    pub(super) fn reassert(&mut self, now: Instant, node: NodeId) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.reassert_at = None;
        if let Some(signal::Message { description, candidates }) = &link.inside {
            let generation = description.generation;
            self.ice.set_remote_inside(now, node, &remote(description));
            self.ice.add_remote_candidates(now, node, generation, candidates);
        }
    }

    pub(super) fn remote_description(&mut self, now: Instant, node: NodeId, ice: &IceDescription) {
        self.ice.set_remote(now, node, &remote(ice));
        let Some(link) = self.links.get_mut(&node) else { return };
        link.has_left = false;
        let differs = |inside: &signal::Message| inside.description != *ice;
        if link.connection.is_some() && link.inside.as_ref().is_some_and(differs) {
            link.reassert_at.get_or_insert(now + REASSERT_AFTER);
        }
    }

    /// A Jingle session begins: fresh credentials, unless those that ICE has were told to nobody yet.
    pub(super) fn describe(&mut self, now: Instant, jid: &FullJid, node: NodeId) {
        if !self.is_current(jid, node) {
            return;
        }
        let Some(link) = self.links.get_mut(&node) else { return };
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
            let send = Command::Packet(ControlPacket { socket, local_ip, remote, payload });
            self.command(send);
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
                // Those that are gone are not told again.
                let current = self.ice.local_candidates();
                link.candidates.retain(|known| current.contains(known));
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
                    self.command(Command::Path(ToPaths::AddSource { source, port }));
                }
            }
            IceEvent::SourceGone { source, .. } => {
                self.command(Command::Path(ToPaths::RemoveSource(source)));
            }
            IceEvent::Lost { peer, why } => self.without_path(now, peer, Pathless::Lost, why),
            IceEvent::Failed { peer, why } => self.without_path(now, peer, Pathless::NotYet, why),
            IceEvent::Problem { text } => self.tell(now, Notice::Server(text)),
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
        link.renewal = None;
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
        let (peer, has_left) = (link.who(node), link.has_left);
        self.command(Command::Path(ToPaths::Set { port, path: Some(path) }));
        self.paths.push_back((node, up));
        self.tell(now, Notice::Path { peer, path, local, remote: remote_kind, has_left });
        self.remember(now, node);
    }

    fn without_path(&mut self, now: Instant, node: NodeId, was: Pathless, why: String) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.last_error = Some(why.clone());
        link.renewal.get_or_insert((now + RENEW_FIRST, RENEW_FIRST));
        link.address = None;
        if let Some(left_out) = link.searches.failed(now, was, &why) {
            let (peer, has_left) = (link.who(node), link.has_left);
            self.tell(now, Notice::NoPath { peer, was, why, left_out, has_left });
        }
        let path = PeerPath::Down;
        self.paths.push_back((node, path));
    }
}

fn is_goodbye(why: &Ended) -> bool {
    let Ended::ByPeer { code, .. } = why else { return false };
    CloseReason::of_code(*code) == Some(CloseReason::Shutdown)
}

fn remote(ice: &IceDescription) -> RemoteDescription {
    RemoteDescription {
        ufrag: ice.ufrag.clone(),
        password: ice.password.clone(),
        generation: ice.generation,
    }
}
