//! A node: trust, sessions and links as one state machine, without I/O and without a clock.
//!
//! Whoever runs it feeds it what happened ([`Input`]), calls [`Node::handle_timeout`] when [`Node::poll_timeout`] says so, and carries out
//! each [`Action`] in the order in which it is polled. What the three parts are to tell one another is told here, so that a simulation runs
//! the very same wiring as the program:
//!
//! * What a worker reports is told to the links first: what they learn of a path, the sessions find there.
//! * What the links ask for comes before what the sessions ask for: a path is there before it is dialled.
//! * Who names whom stands in one list, which trust keeps. Whatever changes it, here the sessions are told what holds now, and close the
//!   tunnels of those who lost their right.
//! * A peer that the sessions have forgotten gives its port back, and its link.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use ipop_datapath::{
    command::{Command, Event},
    node_id::NodeId,
};

use crate::{
    ice::{StunServer, TurnServer},
    links::{Links, LinksConfig},
    notice::{Notice, Who},
    peer::{NamedBy, PeerAddress, PeerSpec},
    sessions::{self, BadLanes, Sessions, SessionsConfig},
    trust::{
        Change, Claim, Loss, Naming, NewNodes, Policy, PresentPeer, PresentPeers, SavedPeers,
        Standing, Trust, TrustStore,
    },
    xmpp::{
        services::Service,
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
    /// The number of the first port that a peer gets.
    pub first_port: u16,
    /// Who may connect.
    pub policy: Policy,
    /// What the operator decided about single nodes.
    pub decisions: TrustStore,
    /// Peers that the configuration names, in its order.
    pub peers: Vec<PeerSpec>,
    /// The room where nodes find each other, if there is one.
    pub links: Option<LinksConfig>,
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
    /// STUN and TURN servers, resolved: the answer to [`Action::ResolveServers`], or those of the configuration.
    ServersResolved {
        /// Servers that are STUN servers alone.
        stun: Vec<StunServer>,
        /// TURN servers.
        turn: Vec<TurnServer>,
    },
    /// The addresses that this host has now.
    LocalAddresses(BTreeSet<IpAddr>),
    /// Those of them that peers are told, best first: without those of the overlay and of interfaces that are to be ignored.
    OfferedAddresses(Vec<IpAddr>),
    /// Routes have changed: whether the paths still live is to be found out.
    RoutesChanged,
    /// The XMPP stream tells something.
    Stream(FromStream),
    /// What the operator decided about single nodes, all of it.
    Decisions(TrustStore),
    /// The configuration is another.
    Configured(Configured),
    /// The room's password is another.
    RoomPassword(Option<String>),
    /// The settings of the XMPP account are others.
    Account(Account),
    /// The program ends: the tunnels are closed, the room is left.
    ShutDown,
}

/// How the configuration differs from the one before.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Configured {
    /// Peers that are new, or have another address.
    pub added: Vec<PeerSpec>,
    /// Peers that it no longer names.
    pub removed: Vec<NodeId>,
    /// The policy, with its secrets and pins, if it is another.
    pub policy: Option<Policy>,
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
    /// Tell the operator.
    Notice(Notice),
    /// The account was refused at the first log-in, and there is nobody to connect to without it: end the program.
    GiveUp(Failure),
}

/// One node of the overlay: trust, sessions, links, and what they want done.
#[derive(Debug)]
pub struct Node {
    trust: Arc<Trust>,
    sessions: Sessions,
    links: Option<Links>,
    /// What is to be told of configured peers.
    actions: VecDeque<Action>,
}

impl Node {
    /// Names the configured peers, and those known from before.
    ///
    /// # Errors
    /// When the number of lanes cannot be right.
    pub fn new(config: NodeConfig, now: Instant) -> Result<Self, BadLanes> {
        let NodeConfig { local, sessions, first_port, policy, decisions, peers, links } = config;
        let secrets = policy.secret_ids();
        let trust = Arc::new(Trust::new(local, first_port, policy, decisions));
        let sessions = Sessions::new(local, sessions, now)?;
        let mut node = Self { trust, sessions, links: None, actions: VecDeque::new() };
        node.sessions.handle(now, sessions::Input::Secrets(secrets));
        for peer in peers {
            node.name_configured(peer);
        }
        node.links = links.map(|links| Links::new(links, node.trust.clone(), now));
        node.follow_trust(now);
        Ok(node)
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Worker(event) => {
                self.with_links(|links| links.handle_worker(now, &event));
                self.sessions.handle(now, sessions::Input::Event(event));
            }
            Input::PeerResolved { peer, result } => {
                self.sessions.handle(now, sessions::Input::Resolved { peer, result });
            }
            Input::ServersResolved { stun, turn } => {
                self.with_links(|links| links.set_servers(now, stun, turn));
            }
            Input::LocalAddresses(addresses) => {
                self.sessions.handle(now, sessions::Input::LocalAddresses(addresses));
            }
            Input::OfferedAddresses(addresses) => {
                self.with_links(|links| links.set_local_addresses(now, &addresses));
            }
            Input::RoutesChanged => self.with_links(|links| links.network_changed(now)),
            Input::Stream(event) => self.with_links(|links| links.handle_stream(now, event)),
            Input::Decisions(store) => {
                let gained = self.trust.decide(store);
                self.admit(now, &gained);
            }
            Input::Configured(configured) => self.configure(now, configured),
            Input::RoomPassword(password) => {
                self.with_links(|links| links.set_password(now, password));
            }
            Input::Account(account) => self.with_links(|links| links.set_account(account)),
            Input::ShutDown => {
                self.with_links(|links| links.shut_down(now));
                self.sessions.shut_down();
            }
        }
        self.follow_trust(now);
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.sessions.handle_timeout(now);
        self.with_links(|links| links.handle_timeout(now));
        self.follow_trust(now);
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let links = self.links.as_ref().and_then(Links::poll_timeout);
        self.sessions.poll_timeout().into_iter().chain(links).min()
    }

    /// The next thing to do; poll until there is none after each call of another method.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            let of_links = self.links.as_mut().and_then(|links| links.poll_action(now));
            // The sessions know a peer before they hear of a path to it.
            self.follow_trust(now);
            while let Some((peer, path)) = self.links.as_mut().and_then(Links::poll_path) {
                self.sessions.handle(now, sessions::Input::Path { peer, path });
            }
            if of_links.is_some() {
                return of_links;
            }
            match self.sessions.poll_action()? {
                sessions::Action::Forgotten { peer, .. } => self.forgotten(now, peer),
                sessions::Action::Command { worker, command } => {
                    return Some(Action::Worker { worker, command });
                }
                sessions::Action::Resolve { peer, address } => {
                    return Some(Action::ResolvePeer { peer, address });
                }
                sessions::Action::Notice(notice) => return Some(Action::Notice(notice)),
            }
        }
    }

    /// Who may connect, for the workers to ask.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The sessions with all peers.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The links to the peers of the room, if there is one.
    pub fn links(&self) -> Option<&Links> {
        self.links.as_ref()
    }

    /// Peers that are up, with what names them.
    pub fn present(&self) -> PresentPeers {
        let present = self.sessions.up().map(|Who { node, name }| PresentPeer {
            node,
            name: name.unwrap_or_default(),
            sources: self.trust.sources(node),
        });
        PresentPeers { peer: present.collect() }
    }

    fn with_links(&mut self, call: impl FnOnce(&mut Links)) {
        if let Some(links) = &mut self.links {
            call(links);
        }
    }

    /// Tells sessions and links what is new about nodes.
    fn follow_trust(&mut self, now: Instant) {
        let mut any = false;
        while let Some(Change { node: peer, lost, named }) = self.trust.poll_change() {
            any = true;
            if let Some(why) = lost {
                self.sessions.handle(now, sessions::Input::Revoked { peer, why });
            }
            match named {
                Some(named) => self.sessions.handle(now, sessions::Input::Named(named)),
                None if self.sessions.knows(peer) => {
                    self.sessions.handle(now, sessions::Input::Unnamed { peer });
                }
                // Perhaps it was named for a moment, of which the sessions have not heard.
                None => self.forgotten(now, peer),
            }
        }
        if any {
            self.with_links(Links::follow_strangers);
        }
    }

    /// The sessions know nothing of a peer: unless it may connect again by now, its port can be another one's.
    fn forgotten(&mut self, now: Instant, peer: NodeId) {
        if self.trust.forgotten(peer) {
            self.actions.push_back(Action::Notice(Notice::Forgotten { peer }));
            self.with_links(|links| links.forgotten(now, peer));
        }
    }

    fn configure(&mut self, now: Instant, configured: Configured) {
        let Configured { added, removed, policy } = configured;
        if let Some(policy) = policy {
            let secrets = policy.secret_ids();
            let gained = self.trust.set_policy(policy);
            self.admit(now, &gained);
            self.follow_trust(now);
            self.sessions.handle(now, sessions::Input::Secrets(secrets));
        }
        for node in removed {
            self.trust.withdraw(node, NamedBy::Configured, Loss::NotConfigured);
        }
        added.into_iter().for_each(|peer| self.name_configured(peer));
    }

    /// The configuration names a peer. If it may not connect it is told why.
    fn name_configured(&mut self, PeerSpec { node, address }: PeerSpec) {
        if let Standing::Refused(why) = self.trust.name(node, Naming::Configured(address)) {
            self.actions.push_back(Action::Notice(Notice::NotAdmitted { peer: node, why }));
        }
    }

    /// Those who may connect now are looked for in the room.
    fn admit(&mut self, now: Instant, gained: &[NodeId]) {
        self.with_links(|links| gained.iter().for_each(|node| links.admit(now, *node)));
    }
}
