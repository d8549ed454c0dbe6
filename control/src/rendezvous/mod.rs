//! How the nodes of a network find each other over XMPP: room and Jingle, tied to trust and paths, without I/O and without a clock.
//!
//! An occupant of the room is judged by [`Trust`]. One that may connect has a link ([`crate::paths`]) and gets a Jingle session, over which
//! the link's description and candidates are exchanged. `stream` is what comes and goes over XMPP, `claims` who says which node it is,
//! `saved` the peers known from before, `waiting` what is not done at once, `report` what operators see.
//!
//! Signalling can only add: presence that ends, a stream that is lost, a Jingle session that is terminated take no tunnel
//! and no path away. What takes the right to connect is a change of affiliation, or the operator.

mod claims;
mod report;
mod saved;
mod stream;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ipop_datapath::{
    command::{Command, Strangers, ToWorker},
    node_id::NodeId,
};
use xmpp_parsers::jid::{BareJid, FullJid};

pub use self::report::NetworkReport;
pub(crate) use self::report::refused;
use self::{
    claims::Claimed,
    report::StreamState,
    saved::Memory,
    stream::Questions,
    waiting::{Portless, SeenNodes},
};
use crate::{
    node::Action,
    notice::Notice,
    paths::{FromLink, ToLink, Tunnel},
    sessions::PeerPath,
    timed::Timed,
    trust::{Policy, SavedPeers, Standing, Trust},
    xmpp::{
        answers::Answers,
        jingle::{Jingle, JingleConfig},
        room::{Entry, Room, RoomConfig, RoomPassword},
        services::Services,
        stream::{Account, ToStream},
    },
};

/// Without a path for so long signalling begins anew, and then ever more rarely: what was said may have been falsified or lost.
const RENEW_FIRST: Duration = Duration::from_secs(15);
const RENEW_LAST: Duration = Duration::from_secs(600);

/// What is fixed from the start.
#[derive(Clone, Debug)]
pub struct RendezvousConfig {
    /// The room, and how this node is called there.
    pub room: RoomConfig,
    /// Jingle's part.
    pub jingle: JingleConfig,
    /// Whether STUN and TURN servers are configured: then the XMPP server's are not asked for.
    pub servers: Servers,
    /// What is remembered of earlier runs.
    pub saved: SavedPeers,
    /// This host's clock at the start, seconds since 1970.
    pub unix_s: u64,
}

/// Who says which STUN and TURN servers are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Servers {
    /// The configuration.
    Configured,
    /// The XMPP server (XEP-0215).
    Offered,
}

/// What keeps strangers out of the room of a network with this policy.
#[must_use]
pub fn entry_by(policy: &Policy) -> Entry {
    match policy {
        Policy::Secret(_) => Entry::Password,
        Policy::ConfiguredAlone | Policy::Pinned(_) | Policy::FirstSight(_) => Entry::Members,
    }
}

/// The host's clock: seconds since 1970 at an instant.
#[derive(Clone, Copy, Debug)]
struct Clock {
    at: Instant,
    unix_s: u64,
}

impl Clock {
    fn unix_s(&self, now: Instant) -> u64 {
        self.unix_s + now.saturating_duration_since(self.at).as_secs()
    }
}

/// All nodes that the room names, and what goes over XMPP.
#[derive(Debug)]
pub struct Rendezvous {
    trust: Arc<Trust>,
    servers: Servers,
    room: Room,
    jingle: Jingle,
    services: Services,
    answers: Answers,
    claimed: Timed<NodeId, Claimed>,
    by_jid: HashMap<FullJid, NodeId>,
    own_account: Option<BareJid>,
    questions: Questions,
    memory: Memory,
    observed: SeenNodes,
    portless: Portless,
    strangers: Option<Strangers>,
    stream_state: StreamState,
    clock: Clock,
    actions: VecDeque<Action>,
    /// What links are to be told.
    to_links: VecDeque<(NodeId, ToLink)>,
}

impl Rendezvous {
    /// No stream yet; saved peers are named at once.
    pub(crate) fn new(config: RendezvousConfig, trust: Arc<Trust>, now: Instant) -> Self {
        let (local, room) = (trust.local(), config.room.room.to_string());
        let clock = Clock { at: now, unix_s: config.unix_s };
        let mut rendezvous = Self {
            memory: Memory::new(config.saved, room, trust.clone(), clock),
            trust,
            servers: config.servers,
            room: Room::new(local, config.room),
            jingle: Jingle::new(now, local, config.jingle),
            services: Services::default(),
            answers: Answers::new(now),
            claimed: Timed::default(),
            by_jid: HashMap::new(),
            own_account: None,
            questions: Questions::default(),
            observed: SeenNodes::new(now),
            portless: Portless::new(now),
            strangers: None,
            stream_state: StreamState::default(),
            clock,
            actions: VecDeque::new(),
            to_links: VecDeque::new(),
        };
        rendezvous.follow_strangers();
        rendezvous
    }

    /// The next thing to do; to be polled when [`Self::poll_link`] has nothing.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What a link is to be told next; to be polled after every call.
    pub(crate) fn poll_link(&mut self, now: Instant) -> Option<(NodeId, ToLink)> {
        if self.to_links.is_empty() {
            while self.pump_stream(now) {}
            self.pump_observed(now);
        }
        self.to_links.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [
            self.room.poll_timeout(),
            self.jingle.poll_timeout(),
            self.services.poll_timeout().filter(|_| self.servers == Servers::Offered),
            self.claimed.next_wake(),
            self.observed.poll_timeout(),
            self.portless.poll_timeout(),
            Some(self.memory.poll_timeout()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The time has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.room.handle_timeout(now);
        self.jingle.handle_timeout(now);
        for node in self.claimed.due(now) {
            self.renew(now, node);
            self.end_turn(now, node);
        }
        if self.portless.is_due(now) {
            self.hand_out_ports(now);
            self.make_room(now);
        }
        if self.memory.is_look_due(now) {
            self.remember_all(now);
            self.memory.expire(now);
        }
        self.actions.extend(self.memory.due(now).map(Action::Save));
    }

    /// Addresses or routes have changed: the stream finds out whether it still lives.
    pub(crate) fn network_changed(&mut self) {
        self.actions.push_back(Action::Stream(ToStream::NetworkChanged));
    }

    /// The operator decided about nodes, or the policy is another: who may connect now is connected.
    pub(crate) fn admit(&mut self, now: Instant, node: NodeId) {
        if self.claimed.get(&node).is_some_and(|claimed| claimed.admitted_at.is_none()) {
            self.judge(now, node);
        }
    }

    /// The room's password is another one.
    pub(crate) fn set_password(&mut self, now: Instant, password: Option<String>) {
        self.room.set_password(now, password.map(RoomPassword));
    }

    /// The account's settings are others: the stream logs in with them from now on.
    pub(crate) fn set_account(&mut self, account: Account) {
        self.actions.push_back(Action::Stream(ToStream::UseAccount(Box::new(account))));
    }

    /// Leaves the room and ends the stream.
    pub(crate) fn shut_down(&mut self, now: Instant) {
        self.remember_all(now);
        self.actions.push_back(Action::Save(self.memory.take_all()));
        self.room.leave();
        while self.pump_stream(now) {}
        self.actions.push_back(Action::Stream(ToStream::Shutdown));
    }

    /// Whether Initials of strangers are looked at: only if somebody may come from an address that nobody told. To be called when
    /// somebody is named otherwise, or has another right.
    pub(crate) fn follow_strangers(&mut self) {
        let anybody = self.trust.knows_anybody();
        let strangers = if anybody { Strangers::Answered } else { Strangers::Ignored };
        if self.strangers.replace(strangers) != Some(strangers) {
            let command = Command::Worker(ToWorker::AnswerStrangers(strangers));
            self.actions.push_back(Action::Worker { worker: 0, command });
        }
    }

    /// A link tells something.
    pub(crate) fn handle_link(&mut self, now: Instant, node: NodeId, what: &FromLink) {
        let Some(claimed) = self.claimed.get_mut(&node) else { return };
        match what {
            FromLink::Description(description) => {
                if let Some((jid, _)) = &claimed.current {
                    self.jingle.describe(jid, description.clone());
                }
            }
            FromLink::Candidates { generation, candidates } => {
                if let Some((jid, _)) = &claimed.current {
                    self.jingle.add_candidates(jid, *generation, candidates);
                }
            }
            FromLink::Gathered { .. } => {}
            FromLink::Path(path) => {
                (claimed.path, claimed.renewal) = (*path, None);
                self.remember(now, node);
            }
            FromLink::NoPath { .. } => {
                claimed.path = PeerPath::Down;
                claimed.renewal.get_or_insert((now + RENEW_FIRST, RENEW_FIRST));
            }
            FromLink::Tunnel(tunnel) => {
                claimed.tunnel = *tunnel;
                // Whoever it was gets the first turn.
                if let (Tunnel::Ended, Some((_, since))) = (tunnel, &mut claimed.current) {
                    *since = now;
                }
                self.remember(now, node);
            }
        }
    }

    /// Begins signalling anew, if it is time and nothing came of it.
    fn renew(&mut self, now: Instant, node: NodeId) {
        if let Some(claimed) = self.claimed.get_mut(&node)
            && let (Some((at, pause)), Some((jid, _))) = (claimed.renewal, &claimed.current)
            && at <= now
        {
            let pause = (pause * 2).min(RENEW_LAST);
            claimed.renewal = Some((now + pause, pause));
            self.jingle.renew(now, jid);
        }
    }

    /// A peer of the room is connected, or is reached another way.
    fn remember(&mut self, now: Instant, node: NodeId) {
        if let Some(claimed) = self.claimed.get(&node).filter(|claimed| claimed.is_connected()) {
            self.memory.see(now, node, &claimed.claim, claimed.path.address());
        }
    }

    fn remember_all(&mut self, now: Instant) {
        for (node, claimed) in self.claimed.iter().filter(|(_, claimed)| claimed.is_connected()) {
            self.memory.see(now, *node, &claimed.claim, claimed.path.address());
        }
    }

    /// The sessions forgot a node that nothing names or that lost its right, and that has no connection. Its link has ended.
    pub(crate) fn forgotten(&mut self, now: Instant, node: NodeId) {
        self.close(node);
        self.hand_out_ports(now);
    }

    /// Signalling with a node's claimants ends: it may not connect, or not now. Who claims to be it stays known.
    fn close(&mut self, node: NodeId) {
        let Some(claimed) = self.claimed.get_mut(&node) else { return };
        for jid in claimed.claims.keys() {
            self.jingle.peer_gone(jid);
        }
        if claimed.claims.is_empty() {
            self.claimed.remove(&node);
        } else {
            claimed.begin_anew();
        }
    }

    /// As whom a node is in the room, or was.
    pub(crate) fn name_of(&self, node: NodeId) -> Option<&str> {
        Some(&self.claimed.get(&node)?.claim.name)
    }

    /// With which account.
    pub(crate) fn account_of(&self, node: NodeId) -> Option<&str> {
        Some(&self.claimed.get(&node)?.claim.account)
    }

    fn tell(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notice(notice));
    }

    fn is_admitted(&self, node: NodeId) -> bool {
        matches!(self.trust.standing(node), Standing::Admitted(_))
    }
}
