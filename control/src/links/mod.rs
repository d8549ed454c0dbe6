//! Ways to the peers that the network's room names: room, Jingle, ICE, trust and sessions tied together, without I/O and
//! without a clock.
//!
//! An occupant of the room is judged by [`Trust`]. One that may connect is named to the sessions, gets a Jingle session
//! and an ICE agent; what ICE finds becomes the path of the peer's alias in the datapath and is told to the sessions,
//! which dial. `stream` is what comes and goes over XMPP, `claims` who says which node it is, `paths` what ICE decides,
//! `signal` what nodes say to each other inside a tunnel, `saved` the peers known from before, `report` what operators see.
//!
//! Signalling can only add: presence that ends, a stream that is lost, a Jingle session that is terminated take no tunnel
//! and no path away. What takes the right to connect is a change of affiliation, or the operator.

mod claims;
mod paths;
mod report;
mod saved;
mod signal;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_datapath::{
    PortId,
    command::{Command, ConnectionId, Strangers, ToPaths, ToWorker},
    node_id::NodeId,
};
use xmpp_parsers::jid::{BareJid, FullJid};

pub use self::report::{LinkReport, NetworkReport, refused_reasons};
#[cfg(feature = "testing")]
pub use self::signal::fuzz as signal_message;
#[cfg(test)]
pub(crate) use self::signal::seeds as signal_seeds;
use self::{
    claims::Chores,
    report::{Lines, Searches},
    saved::Memory,
    stream::Questions,
};
use crate::{
    ice::{Candidate, Ice, IceConfig, Role, StunServer, TurnServer},
    node::Action,
    sessions::PeerPath,
    timed::Timed,
    trust::{Claim, SavedPeers, Trust},
    xmpp::{
        answers::Answers,
        jingle::{IceDescription, Jingle, JingleConfig},
        room::{Room, RoomConfig},
        services::Services,
        stream::{Account, ToStream},
    },
};

/// What is fixed from the start.
#[derive(Clone, Debug)]
pub struct LinksConfig {
    /// The room, and how this node is called there.
    pub room: RoomConfig,
    /// Jingle's part.
    pub jingle: JingleConfig,
    /// ICE's part.
    pub ice: IceConfig,
    /// Whether STUN and TURN servers are configured: then the XMPP server's are not asked for.
    pub servers: Servers,
    /// What is remembered of earlier runs.
    pub saved: SavedPeers,
    /// This host's clock when the links began, seconds since 1970.
    pub unix_s: u64,
}

/// Who says which STUN and TURN servers are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Servers {
    /// The configuration; see [`Links::set_servers`].
    Configured,
    /// The XMPP server (XEP-0215).
    Offered,
}

/// A node that the room names, or did.
#[derive(Debug)]
struct Link {
    /// Of the present claimant, or of the last one if none is in the room.
    claim: Claim,
    /// Occupants that say that they are it.
    claims: BTreeMap<FullJid, Claim>,
    /// The one that signalling goes to, and since when.
    current: Option<(FullJid, Instant)>,
    port: Option<PortId>,
    /// Since when it has its port.
    waits_since: Instant,
    was_connected: bool,
    /// What ICE said last, for sessions that begin later.
    description: Option<IceDescription>,
    candidates: Vec<Candidate>,
    /// Whether a Jingle session was given the description.
    told: bool,
    ice: Started,
    /// The connection that signals go over.
    connection: Option<ConnectionId>,
    /// What the peer said of itself over it.
    inside: Option<signal::Message>,
    /// When that counts again, after the server passed something else on.
    reassert_at: Option<Instant>,
    /// It ended that with a goodbye and was not heard of since: what becomes of its paths is no news.
    has_left: bool,
    /// Where it is reached directly.
    address: Option<SocketAddr>,
    /// Why there is no path, when there is none.
    last_error: Option<String>,
    /// What was told of that.
    searches: Searches,
    /// Without a path: when signalling begins anew, and the pause after that.
    renewal: Option<(Instant, Duration)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Started {
    No,
    Yes,
}

impl Link {
    fn new(claim: Claim, now: Instant) -> Self {
        Self {
            claim,
            claims: BTreeMap::new(),
            current: None,
            port: None,
            waits_since: now,
            was_connected: false,
            description: None,
            candidates: Vec::new(),
            told: false,
            ice: Started::No,
            connection: None,
            inside: None,
            reassert_at: None,
            has_left: false,
            address: None,
            last_error: None,
            searches: Searches::default(),
            renewal: None,
        }
    }
}

/// The links to all peers of a network.
#[derive(Debug)]
pub struct Links {
    local: NodeId,
    trust: Arc<Trust>,
    servers: Servers,
    room: Room,
    jingle: Jingle,
    services: Services,
    answers: Answers,
    ice: Ice,
    links: Timed<NodeId, Link>,
    by_connection: HashMap<ConnectionId, NodeId>,
    by_jid: HashMap<FullJid, NodeId>,
    own_account: Option<BareJid>,
    questions: Questions,
    memory: Memory,
    chores: Chores,
    lines: Lines,
    malformed_signals: u64,
    strangers: Option<Strangers>,
    stream_state: report::StreamState,
    actions: VecDeque<Action>,
    /// What became of paths, which the sessions are to hear.
    paths: VecDeque<(NodeId, PeerPath)>,
    /// The clock: seconds since 1970 at an instant.
    clock: (Instant, u64),
}

impl Links {
    /// No stream yet; saved peers are named at once.
    pub fn new(config: LinksConfig, trust: Arc<Trust>, now: Instant) -> Self {
        let (local, room) = (trust.local(), config.room.room.to_string());
        let mut links = Self {
            local,
            trust,
            servers: config.servers,
            room: Room::new(local, config.room),
            jingle: Jingle::new(now, local, config.jingle),
            services: Services::default(),
            answers: Answers::new(now),
            ice: Ice::new(config.ice, now),
            links: Timed::default(),
            by_connection: HashMap::new(),
            by_jid: HashMap::new(),
            own_account: None,
            questions: Questions::default(),
            memory: Memory::new(config.saved, room, now),
            chores: Chores::new(now),
            lines: Lines::new(now),
            malformed_signals: 0,
            strangers: None,
            stream_state: report::StreamState::default(),
            actions: VecDeque::new(),
            paths: VecDeque::new(),
            clock: (now, config.unix_s),
        };
        links.name_saved(now);
        links.follow_strangers();
        links
    }

    /// What is to be done next; to be polled after every call.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() {
            self.pump(now);
        }
        self.actions.pop_front()
    }

    /// The next path that was found or lost; to be polled after [`Self::poll_action`].
    pub fn poll_path(&mut self) -> Option<(NodeId, PeerPath)> {
        self.paths.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.room.poll_timeout(),
            self.jingle.poll_timeout(),
            self.services.poll_timeout().filter(|_| self.servers == Servers::Offered),
            self.ice.poll_timeout(),
            self.chores_at(),
            Some(self.memory.poll_timeout()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.room.handle_timeout(now);
        self.jingle.handle_timeout(now);
        if self.ice.poll_timeout().is_some_and(|at| at <= now) {
            self.ice.handle_timeout(now);
        }
        self.do_chores(now);
        self.look_after_memory(now);
    }

    /// This host's addresses, best first, without those of the overlay and of interfaces that are to be ignored.
    pub fn set_local_addresses(&mut self, now: Instant, addresses: &[IpAddr]) {
        self.ice.set_local_addresses(now, addresses);
        self.actions.push_back(Action::Stream(ToStream::NetworkChanged));
    }

    /// Routes have changed: stream and paths find out whether they still live.
    pub fn network_changed(&mut self, now: Instant) {
        self.actions.push_back(Action::Stream(ToStream::NetworkChanged));
        self.ice.network_changed(now);
    }

    /// STUN and TURN servers, resolved. TURN servers are STUN servers too.
    pub fn set_servers(&mut self, now: Instant, stun: Vec<StunServer>, turn: Vec<TurnServer>) {
        let mut asked = stun;
        for server in &turn {
            if asked.iter().all(|known| known.address != server.address) {
                asked.push(StunServer { address: server.address });
            }
        }
        self.ice.set_servers(now, &asked, turn);
    }

    /// The operator decided about nodes, or the policy is another: who may connect now is connected.
    pub fn admit(&mut self, now: Instant, node: NodeId) {
        let waits = self.links.get(&node).is_some_and(|link| link.port.is_none());
        if waits {
            self.judge(now, node);
        }
    }

    /// The room's password is another one.
    pub fn set_password(&mut self, now: Instant, password: Option<String>) {
        self.room.set_password(now, password.map(crate::xmpp::room::RoomPassword));
    }

    /// The account's settings are others: the stream logs in with them from now on.
    pub fn set_account(&mut self, account: Account) {
        self.actions.push_back(Action::Stream(ToStream::UseAccount(Box::new(account))));
    }

    /// Leaves the room and ends the stream.
    pub fn shut_down(&mut self, now: Instant) {
        self.remember_all(now);
        self.save();
        self.room.leave();
        self.pump(now);
        self.actions.push_back(Action::Stream(ToStream::Shutdown));
    }

    fn unix_s(&self, now: Instant) -> u64 {
        self.clock.1 + now.saturating_duration_since(self.clock.0).as_secs()
    }

    fn role(&self, peer: NodeId) -> Role {
        if self.local < peer { Role::Controlling } else { Role::Controlled }
    }

    /// Brings what the parts have to say to where it belongs, until none has anything.
    fn pump(&mut self, now: Instant) {
        loop {
            let before = self.actions.len();
            let mut moved = self.pump_stream(now);
            moved |= self.pump_ice(now);
            self.pump_observed(now);
            if !moved && self.actions.len() == before {
                return;
            }
        }
    }

    /// Whether Initials of strangers are looked at: only if somebody may come from an address that nobody told. To be called when
    /// somebody is named otherwise, or has another right.
    pub fn follow_strangers(&mut self) {
        let anybody = self.trust.knows_anybody();
        let strangers = if anybody { Strangers::Answered } else { Strangers::Ignored };
        if self.strangers != Some(strangers) {
            self.strangers = Some(strangers);
            self.command(Command::Worker(ToWorker::AnswerStrangers(strangers)));
        }
    }

    /// The first worker has all paths.
    fn command(&mut self, command: Command) {
        self.actions.push_back(Action::Worker { worker: 0, command });
    }

    fn start_ice(&mut self, now: Instant, node: NodeId) {
        let role = self.role(node);
        if let Some(link) = self.links.get_mut(&node)
            && link.ice == Started::No
        {
            link.ice = Started::Yes;
            self.ice.start(now, node, role);
        }
    }

    /// Nothing of a node's link is left but who claims to be it: it may not connect, or not now.
    fn close_link(&mut self, now: Instant, node: NodeId) {
        self.ice.stop(now, node);
        self.pump_ice(now);
        let Some(link) = self.links.get_mut(&node) else { return };
        for jid in link.claims.keys() {
            self.jingle.peer_gone(jid);
        }
        if let Some(port) = link.port {
            let command = Command::Path(ToPaths::Set { port, path: None });
            self.actions.push_back(Action::Worker { worker: 0, command });
        }
        *link = Link {
            searches: std::mem::take(&mut link.searches),
            claims: std::mem::take(&mut link.claims),
            current: link.current.take(),
            ..Link::new(link.claim.clone(), now)
        };
    }

    /// Nothing of a node's link is left.
    fn drop_link(&mut self, now: Instant, node: NodeId) {
        self.close_link(now, node);
        if let Some(link) = self.links.remove(&node) {
            for jid in link.claims.keys() {
                self.by_jid.remove(jid);
            }
        }
    }
}
