//! The room: who of this network is there now, as a state machine without I/O and without a clock.
//!
//! A virtual network is a multi-user chat room (XEP-0045), non-anonymous, so that its occupants know one another's real
//! JIDs. [`Room`] joins it, reads its configuration and refuses one that lets strangers in, keeps the list of occupants,
//! notices that it fell out of the room (XEP-0410) and joins again. A new join is a difference: occupants that stayed are
//! not told as gone and new.
//!
//! What it tells: [`Event::Occupant`] and [`Event::OccupantGone`] say with whom signalling may be exchanged, and nothing
//! about tunnels. Only [`Event::Revoked`] and [`Event::Entitled`] take a right away, and only they come from a change of
//! affiliation. The server can invent all of it; what it cannot invent is proved in the tunnel.
//!
//! The wiring feeds it the stream's ups and downs, every presence and message whose sender's bare JID is the room, and
//! the answers to its [`Request`]s; then it polls [`Action`]s until there are none.

pub(super) mod affiliations;
mod card;
pub(super) mod configuration;
mod join;
mod occupants;
pub(super) mod presence;
mod problem;
#[cfg(test)]
mod tests;
pub(super) mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use ipop_datapath::node_id::NodeId;
use xmpp_parsers::{
    jid::{BareJid, FullJid},
    message::Message,
    minidom::Element,
    ping::Ping,
    presence::Presence,
};

use self::{
    affiliations::Reconciliation,
    join::{Joining, Retry},
    occupants::Occupants,
    problem::Problems,
};
pub use self::{
    card::{Card, MAX_NAME_LEN, NAMESPACE},
    configuration::{Configuration, Entry},
    occupants::{MAX_OCCUPANTS, Occupant},
    problem::{Expulsion, Hindrance, NickFault, Outcome, Problem, Trouble},
    wire::Affiliation,
};
use super::request::{Answer, Ask, Request, RequestFailure, Token};
use crate::{counters::counters, rng::Rng};

/// Silence after which the node asks whether it is still in the room. A restarted server is noticed within this.
const PING_AFTER: Duration = Duration::from_secs(45);
/// Pings without an answer before the node joins again.
const MAX_PINGS_LOST: u8 = 2;

/// A room's password. Not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RoomPassword(pub String);

impl fmt::Debug for RoomPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomPassword(..)")
    }
}

/// Which room, and as whom.
#[derive(Clone, Debug)]
pub struct RoomConfig {
    /// The room.
    pub room: BareJid,
    /// What keeps strangers out.
    pub entry: Entry,
    /// Its password, if it has one.
    pub password: Option<RoomPassword>,
    /// What this node is called, for people; becomes the nick.
    pub name: String,
    /// For the jitter.
    pub seed: u64,
}

/// Whether the stream's session was resumed (XEP-0198) or is a new one, which is in no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// A new session.
    New,
    /// The old one goes on.
    Resumed,
}

/// Why the stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamEnd {
    /// Network or server.
    Lost,
    /// Another program bound the same full JID (stream error `conflict`).
    Replaced,
}

/// Something is to be done or told.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Send this presence.
    Presence(Box<Presence>),
    /// Ask this; [`Room::handle_answer`] takes the answer.
    Request(Request),
    /// Tell this to the rest of control.
    Event(Event),
}

/// What the rest of control should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// This node is in the room, its configuration is as it must be, and the list of occupants is complete after the
    /// events that follow at once.
    Joined {
        /// The nick it has.
        nick: String,
    },
    /// Somebody is there. Comes again for the same JID only after [`Event::OccupantGone`].
    Occupant(Occupant),
    /// The occupant with this JID is not there any more. Takes no right away.
    OccupantGone(FullJid),
    /// This account has lost its right: it was removed or banned.
    Revoked(BareJid),
    /// These accounts, and no others, have a right by this room's lists.
    Entitled(BTreeSet<BareJid>),
    /// For the operator.
    Problem(Problem),
}

counters! {
    /// What was ignored, and why.
    RoomCounters, "room_" {
        /// Stanzas that are not from the room.
        foreign,
        /// Occupants without a readable card: people, or other programs.
        cardless,
        /// Occupants whose real JID the room did not tell.
        anonymous,
        /// Occupants with several JIDs under one nick, or the JID of another.
        ambiguous,
        /// Occupants beyond [`MAX_OCCUPANTS`].
        over_limit,
        /// Occupants that became another node without leaving.
        changed_id,
        /// Presence, messages and answers that make no sense.
        malformed,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Connectivity {
    Online,
    Offline,
}

#[derive(Debug)]
enum State {
    Offline,
    /// Out of the room, joins again then.
    Waiting(Instant),
    Joining(Joining),
    Joined {
        ping_at: Instant,
        pings_lost: u8,
    },
    /// Told to leave.
    Left,
}

/// What a request was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Configuration,
    Ping,
    Affiliates(Affiliation),
    /// The form of a room that this node made by mistake was sent back.
    Cancelled,
}

/// One room.
#[derive(Debug)]
pub struct Room {
    config: RoomConfig,
    /// What this node says of itself.
    card: Card,
    /// The own JID, as of the last session.
    jid: Option<FullJid>,
    connectivity: Connectivity,
    state: State,
    /// Nicks that were refused since the last success.
    nicks_refused: u8,
    /// Counts joins, so that occupants of an earlier one can be told apart.
    join: u64,
    occupants: Occupants,
    reconciliation: Option<Reconciliation>,
    asked: BTreeMap<Token, Purpose>,
    last_token: u64,
    retry: Retry,
    problems: Problems,
    counters: RoomCounters,
    rng: Rng,
    actions: VecDeque<Action>,
}

impl Room {
    /// A room that this node joins as soon as the stream is there.
    pub fn new(node: NodeId, config: RoomConfig) -> Self {
        let version = env!("CARGO_PKG_VERSION").into();
        Self {
            card: Card { node, name: config.name.clone(), version, capabilities: Vec::new() },
            jid: None,
            connectivity: Connectivity::Offline,
            state: State::Offline,
            nicks_refused: 0,
            join: 0,
            occupants: Occupants::default(),
            reconciliation: None,
            asked: BTreeMap::new(),
            last_token: 0,
            retry: Retry::default(),
            problems: Problems::default(),
            counters: RoomCounters::default(),
            rng: Rng::new(config.seed),
            actions: VecDeque::new(),
            config,
        }
    }

    /// The stream is up.
    pub fn online(&mut self, now: Instant, jid: FullJid, stream: Stream) {
        self.jid = Some(jid);
        self.connectivity = Connectivity::Online;
        match self.state {
            State::Left => {}
            // The room may have restarted while the stream was down.
            State::Joined { .. } if stream == Stream::Resumed => self.ping(now),
            _ => self.start_join(now),
        }
    }

    /// The stream is down. Nobody counts as gone for that.
    pub fn offline(&mut self, now: Instant, end: StreamEnd) {
        if end == StreamEnd::Replaced {
            self.thrown_out(now, Expulsion::Replaced);
        }
        self.connectivity = Connectivity::Offline;
        // A resumed session is still in the room, and answers to questions still come; anything else joins anew.
        if !matches!(self.state, State::Left | State::Joined { .. }) {
            self.state = State::Offline;
        }
    }

    /// Leaves for good, politely.
    pub fn leave(&mut self) {
        if matches!(self.state, State::Joined { .. } | State::Joining(_)) {
            self.send_unavailable();
        }
        self.state = State::Left;
        self.forget_all();
    }

    /// The password is another one from now on; a room that refused the old one is tried at once.
    pub fn set_password(&mut self, now: Instant, password: Option<RoomPassword>) {
        if self.config.password == password {
            return;
        }
        self.config.password = password;
        if matches!(self.state, State::Waiting(_)) {
            self.start_join(now);
        }
    }

    /// A presence came from the room.
    pub fn handle_presence(&mut self, now: Instant, presence: &Presence) {
        let Some(from) = presence.from.as_ref().filter(|from| from.to_bare() == self.config.room)
        else {
            self.counters.foreign += 1;
            return;
        };
        self.take_presence(now, from, presence);
    }

    /// A message came from the room.
    pub fn handle_message(&mut self, now: Instant, message: &Message) {
        let from_room = message.from.as_ref().is_some_and(|from| *from == self.config.room);
        if !from_room {
            self.counters.foreign += 1;
            return;
        }
        self.take_message(now, message);
    }

    /// The answer to one of this room's requests.
    pub fn handle_answer(&mut self, now: Instant, token: Token, answer: Answer) {
        match self.asked.remove(&token) {
            Some(Purpose::Configuration) => self.take_configuration(now, answer),
            Some(Purpose::Ping) => self.take_ping(now, &answer),
            Some(Purpose::Affiliates(affiliation)) => {
                self.take_affiliates(now, affiliation, answer);
            }
            Some(Purpose::Cancelled) => {}
            None => self.counters.malformed += 1,
        }
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            _ if self.connectivity == Connectivity::Offline => None,
            State::Offline | State::Left => None,
            State::Waiting(until) => Some(*until),
            State::Joining(joining) => Some(joining.deadline),
            State::Joined { ping_at, .. } => Some(*ping_at),
        }
    }

    /// The time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            _ if self.connectivity == Connectivity::Offline => {}
            State::Waiting(until) if *until <= now => self.start_join(now),
            State::Joining(joining) if joining.deadline <= now && self.has_made_room() => {
                self.created_by_mistake(now);
            }
            State::Joining(joining) if joining.deadline <= now => {
                self.retry_soon(now, Hindrance::Silent);
            }
            State::Joined { ping_at, .. } if *ping_at <= now => self.ping(now),
            _ => {}
        }
    }

    /// Whoever has been told to be there.
    pub fn occupants(&self) -> impl Iterator<Item = &Occupant> {
        self.occupants.told()
    }

    /// Whether this node is in the room, as far as it knows: also while the stream is down but may be resumed.
    pub fn is_joined(&self) -> bool {
        matches!(self.state, State::Joined { .. })
    }

    /// What was ignored.
    pub fn counters(&self) -> RoomCounters {
        self.counters
    }

    fn local(&self) -> NodeId {
        self.card.node
    }

    fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn ask(&mut self, purpose: Purpose, to: xmpp_parsers::jid::Jid, ask: Ask) {
        self.last_token += 1;
        let token = Token(self.last_token);
        self.asked.insert(token, purpose);
        self.actions.push_back(Action::Request(Request { token, to, ask }));
    }

    /// Tells everybody as gone: signalling with them ends, nothing else.
    fn forget_all(&mut self) {
        for occupant in self.occupants.remove_if(|_, _| true) {
            self.tell(Event::OccupantGone(occupant.jid));
        }
    }

    fn ping(&mut self, now: Instant) {
        let State::Joined { ping_at, .. } = &mut self.state else { return };
        *ping_at = now + PING_AFTER;
        let unanswered: Vec<Token> = self
            .asked
            .iter()
            .filter(|(_, purpose)| **purpose == Purpose::Ping)
            .map(|(token, _)| *token)
            .collect();
        for token in unanswered {
            self.asked.remove(&token);
        }
        let Ok(own) = self.config.room.with_resource_str(&self.nick()) else { return };
        self.ask(Purpose::Ping, own.into(), Ask::Get(Element::from(Ping)));
    }

    /// XEP-0410 section 3.2.
    fn take_ping(&mut self, now: Instant, answer: &Answer) {
        use xmpp_parsers::stanza_error::DefinedCondition as Condition;
        let State::Joined { ping_at, pings_lost } = &mut self.state else { return };
        let lost = match answer {
            Ok(_) => false,
            Err(RequestFailure::Offline) => return,
            Err(RequestFailure::TimedOut) => true,
            Err(RequestFailure::Refused(error)) => match error.defined_condition {
                Condition::ServiceUnavailable | Condition::FeatureNotImplemented => false,
                Condition::RemoteServerNotFound | Condition::RemoteServerTimeout => true,
                _ => return self.start_join(now),
            },
        };
        *pings_lost = if lost { *pings_lost + 1 } else { 0 };
        if *pings_lost >= MAX_PINGS_LOST {
            self.start_join(now);
        } else if lost {
            *ping_at = now;
        }
    }
}

/// For fuzzing: the room's configuration comes, and is as it must be.
#[cfg(feature = "testing")]
pub(crate) fn fuzz_configured(room: &mut Room, now: Instant) {
    if let State::Joining(joining) = &mut room.state {
        let (hidden, password_protected) = (true, true);
        let known = Configuration {
            hidden,
            password_protected,
            members_only: true,
            non_anonymous: true,
            persistent: true,
        };
        joining.known = Some(known);
        room.finish_join(now);
    }
}

/// For fuzzing: what an owner's form comes back as.
#[cfg(feature = "testing")]
pub(crate) fn fuzz_form(element: &Element) {
    if let Some(configuration) = Configuration::read(element) {
        let faults = configuration.faults(Entry::Members);
        assert_eq!(faults.is_empty(), configuration.members_only && configuration.non_anonymous);
    }
    let query = wire::OwnerQuery::try_from(element.clone());
    let Some(offered) = query.ok().and_then(|query| query.form) else { return };
    let back = configuration::filled(&offered, Entry::Password, Some("derived"));
    for field in back.fields.iter().filter(|field| field.var.as_deref() != Some("FORM_TYPE")) {
        assert!(offered.fields.iter().any(|known| known.var == field.var));
    }
    let whois = "muc#roomconfig_whois";
    let offers = offered.fields.iter().any(|field| field.var.as_deref() == Some(whois));
    assert_eq!(back.value(whois), offers.then_some("anyone"));
}
