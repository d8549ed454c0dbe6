//! How two nodes of a room exchange what they need to connect: Jingle (XEP-0166) with ICE candidates (XEP-0176), as a
//! state machine without I/O and without a clock.
//!
//! Roles are fixed: of two nodes the one with the lower id initiates, so sessions never cross. The higher one accepts,
//! and sends a nudge when nothing comes. `peer` is the state of one pair, `codec` and `candidate` read and bound what
//! peers write, `wire` is the XML.
//!
//! Peers are full JIDs of occupants, by what [`super::room`] tells; stanzas of others are refused. A peer's node id is its
//! claim until the tunnel proves it, and two occupants may claim the same one: each has a session of its own here.
//!
//! **A session is not a tunnel.** Sessions end with presence, with the stream, by a word of the other end, and begin
//! again; [`Event`]s only ever give ICE something to add.
//!
//! How to use it with ICE: [`Event::Describe`] is `start` or, for a node that is known, `restart`; the description and the
//! candidates that come of it go to [`Jingle::describe`] and [`Jingle::add_candidates`]; [`Event::Remote`] and
//! [`Event::RemoteCandidates`] are what ICE is told. A restart that ICE wants for itself needs only the new description.

mod candidate;
mod codec;
mod peer;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use ipop_datapath::{node_id::NodeId, policy::bucket::Bucket};
use xmpp_parsers::{
    iq::Iq,
    jid::{FullJid, Jid},
    message::{Message, MessageType},
    minidom::Element,
    ns,
    stanza_error::{DefinedCondition as Condition, ErrorType},
};

pub use self::wire::APPLICATION;
use self::{
    codec::{Content, Fault, Nudge},
    peer::{Heard, Own, Peer, StanzaRefusal},
};
use super::{
    request::{Answer, Ask, Request, Token, refusal},
    room::Stream,
};
use crate::{
    counters::counters,
    ice::{Candidate, IceDescription, Loopback},
    rng::Rng,
    sessions::MAX_PEERS,
    timed::Timed,
};

/// How long the stream should wait for the answer to a request of this part.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// What this node sends, all peers together. Prosody reads 10 kB/s of a client and lets the rest wait, with it pings and
/// answers; so the waiting is done here.
const BYTES_PER_S: u32 = 8_000;
const BYTES_AT_ONCE: u32 = 16_000;
/// Refusals sent to strangers. Beyond that they get no answer.
const REFUSALS_PER_S: u32 = 5;
const REFUSALS_AT_ONCE: u32 = 20;
/// About what a stanza has around its payload, bytes.
const STANZA_OVERHEAD: u32 = 150;

/// What is fixed from the start.
#[derive(Clone, Debug)]
pub struct JingleConfig {
    /// SHA-256 of its certificate, for those that expect XEP-0320. Nothing here looks at a peer's.
    pub fingerprint: Option<[u8; 32]>,
    /// Whether candidates on the loopback interface are taken.
    pub loopback: Loopback,
    /// For jitter and session ids. Random in the program: ids should not be guessed.
    pub seed: u64,
}

/// Something is to be done or told.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Ask this; [`Jingle::handle_answer`] takes the answer.
    Request(Request),
    /// Send this answer.
    Reply(Box<Iq>),
    /// Send this message.
    Message(Box<Message>),
    /// Tell this to the rest of control.
    Event(Event),
}

/// What ICE has to know. Each names the peer by its JID, which is unique here, and the node id that it claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A session begins: it needs fresh credentials, see [`Jingle::describe`]. What was told of the peer before is void.
    Describe {
        /// The peer.
        jid: FullJid,
        /// Its node.
        node: NodeId,
    },
    /// The peer's credentials; replace those of before.
    Remote {
        /// The peer.
        jid: FullJid,
        /// Its node.
        node: NodeId,
        /// What it said.
        ice: IceDescription,
    },
    /// Candidates of the peer, not told before.
    RemoteCandidates {
        /// The peer.
        jid: FullJid,
        /// Its node.
        node: NodeId,
        /// Of the credentials that they go with.
        generation: u32,
        /// At most [`MAX_CANDIDATES`](crate::ice::MAX_CANDIDATES) in one generation.
        candidates: Vec<Candidate>,
    },
}

counters! {
    /// What was refused or ignored, and why.
    JingleCounters, "jingle_" {
        /// Stanzas from JIDs that are not in the room.
        strangers,
        /// Stanzas, or new sessions, beyond a peer's rate.
        over_rate,
        /// Stanzas that cannot be understood.
        malformed,
        /// Offers and nudges with another node id than the occupant's.
        wrong_node,
        /// Offers and nudges that only the other end may send.
        wrong_role,
        /// Offers for sessions that do not exist.
        unknown_sessions,
        /// Offers with an older generation than the known one.
        stale,
        /// Candidates that are too many, not UDP, or at addresses where nobody may be sent.
        candidates_skipped,
        /// Occupants beyond [`MAX_PEERS`].
        peers_over_limit,
    }
}

/// Whether a stanza was for this part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Taken {
    /// It was, and has been dealt with.
    Yes,
    /// Somebody else should look at it.
    No,
}

/// Sessions with all occupants.
#[derive(Debug)]
pub struct Jingle {
    local: NodeId,
    config: JingleConfig,
    /// The own JID while the stream is up.
    own: Option<FullJid>,
    peers: Timed<FullJid, Peer>,
    asked: BTreeMap<Token, FullJid>,
    last_token: u64,
    /// The peer that sent last: the next one has its turn.
    turn: Option<FullJid>,
    outgoing: Bucket,
    refusals: Bucket,
    counters: JingleCounters,
    rng: Rng,
    actions: VecDeque<Action>,
}

impl Jingle {
    /// This node has no peers yet.
    pub fn new(now: Instant, local: NodeId, config: JingleConfig) -> Self {
        Self {
            local,
            own: None,
            peers: Timed::default(),
            asked: BTreeMap::new(),
            last_token: 0,
            turn: None,
            outgoing: Bucket::new(now, BYTES_PER_S, BYTES_AT_ONCE),
            refusals: Bucket::new(now, REFUSALS_PER_S, REFUSALS_AT_ONCE),
            counters: JingleCounters::default(),
            rng: Rng::new(config.seed),
            actions: VecDeque::new(),
            config,
        }
    }

    /// The stream is up.
    pub fn online(&mut self, now: Instant, jid: FullJid, stream: Stream) {
        self.own = Some(jid);
        if stream == Stream::New {
            self.asked.clear();
            for peer in self.peers.values_mut() {
                peer.stream_renewed(now);
            }
        }
    }

    /// The stream is down. Sessions wait.
    pub fn offline(&mut self) {
        self.own = None;
    }

    /// The room tells of an occupant.
    pub fn peer_seen(&mut self, now: Instant, jid: FullJid, node: NodeId) {
        if node == self.local || self.peers.get(&jid).is_some_and(|peer| peer.node == node) {
            return;
        }
        if !self.peers.contains_key(&jid) && self.peers.len() >= MAX_PEERS {
            self.counters.peers_over_limit += 1;
            return;
        }
        let peer = Peer::new(now, self.local, jid.clone(), node);
        self.peers.insert(jid, peer);
    }

    /// The room tells that the occupant has gone.
    pub fn peer_gone(&mut self, jid: &FullJid) {
        self.peers.remove(jid);
    }

    /// Tells again what is to be known of this peer, beginning with [`Event::Describe`]: whoever did not listen before does now.
    pub fn tell_again(&mut self, jid: &FullJid) {
        let mut events = Vec::new();
        if let Some(peer) = self.peers.get(jid) {
            peer.tell_again(&mut events);
        }
        self.actions.extend(events.into_iter().map(Action::Event));
    }

    /// Nothing came of what was agreed with this peer: the session begins anew.
    pub fn renew(&mut self, now: Instant, jid: &FullJid) {
        let mut events = Vec::new();
        if let Some(peer) = self.peers.get_mut(jid) {
            peer.renew(now, &mut self.rng, &mut events);
        }
        self.actions.extend(events.into_iter().map(Action::Event));
    }

    /// The credentials that [`Event::Describe`] asked for, or those of a restart.
    pub fn describe(&mut self, jid: &FullJid, ice: IceDescription) {
        if let Some(peer) = self.peers.get_mut(jid).filter(|_| ice.is_sound()) {
            peer.describe(ice);
        }
    }

    /// Own candidates, for this peer and these credentials. At most [`MAX_CANDIDATES`](crate::ice::MAX_CANDIDATES) are told.
    pub fn add_candidates(&mut self, jid: &FullJid, generation: u32, candidates: &[Candidate]) {
        if let Some(peer) = self.peers.get_mut(jid) {
            peer.add_candidates(generation, candidates);
        }
    }

    /// Looks at an IQ request.
    pub fn handle_iq(&mut self, now: Instant, iq: &Iq) -> Taken {
        let Iq::Set { payload, .. } = iq else { return Taken::No };
        if !payload.is("jingle", ns::JINGLE) {
            return Taken::No;
        }
        let jid = iq.from().and_then(|from| from.try_as_full().ok()).cloned();
        let Some(peer) = jid.and_then(|jid| self.peers.get_mut(&jid)) else {
            self.counters.strangers += 1;
            if self.refusals.take(now, 1) {
                self.refuse(now, iq, ErrorType::Auth, Condition::Forbidden);
            }
            return Taken::Yes;
        };
        if !peer.admits(now) {
            self.counters.over_rate += 1;
            return Taken::Yes;
        }
        let jid = peer.jid.clone();
        match codec::Message::read(payload, self.config.loopback) {
            Ok(message) => self.take_message(now, iq, &jid, &message),
            Err(Fault::Malformed) => {
                self.counters.malformed += 1;
                self.refuse(now, iq, ErrorType::Modify, Condition::BadRequest);
            }
            Err(Fault::Unsupported) => {
                self.counters.malformed += 1;
                self.refuse(now, iq, ErrorType::Cancel, Condition::FeatureNotImplemented);
            }
        }
        Taken::Yes
    }

    fn take_message(&mut self, now: Instant, iq: &Iq, jid: &FullJid, message: &codec::Message) {
        let Some(peer) = self.peers.get_mut(jid) else { return };
        self.counters.candidates_skipped += message.skipped as u64;
        let mut events = Vec::new();
        let taken = match &message.content {
            Content::Offer(offer) => {
                peer.take_offer(now, &message.sid, offer, &mut self.counters, &mut events)
            }
            Content::Terminate => peer.take_terminate(now, &message.sid, &mut self.rng),
            Content::Ping if peer.session() == Some(&message.sid) => Ok(()),
            Content::Ping => Err(StanzaRefusal::UnknownSession),
        };
        match taken {
            Ok(()) => {
                let (to, id) = (Jid::from(jid.clone()), iq.id().to_owned());
                self.reply(now, Iq::empty_result(to, id));
            }
            Err(StanzaRefusal::UnknownSession) => self.refuse_unknown(now, iq),
            Err(StanzaRefusal::NotAllowed) => {
                self.refuse(now, iq, ErrorType::Cancel, Condition::NotAllowed);
            }
            Err(StanzaRefusal::Wait) => {
                self.refuse(now, iq, ErrorType::Wait, Condition::ResourceConstraint);
            }
        }
        self.actions.extend(events.into_iter().map(Action::Event));
    }

    /// Looks at a message.
    pub fn handle_message(&mut self, now: Instant, message: &Message) -> Taken {
        if message.type_ == MessageType::Error
            || !message.payloads.iter().any(|payload| payload.is("nudge", APPLICATION))
        {
            return Taken::No;
        }
        let jid = message.from.as_ref().and_then(|from| from.try_as_full().ok());
        let Some(peer) = jid.and_then(|jid| self.peers.get_mut(jid)) else {
            self.counters.strangers += 1;
            return Taken::Yes;
        };
        if !peer.admits(now) {
            self.counters.over_rate += 1;
            return Taken::Yes;
        }
        let Some(nudge) = Nudge::read(&message.payloads) else {
            self.counters.malformed += 1;
            return Taken::Yes;
        };
        let mut events = Vec::new();
        peer.take_nudge(now, &nudge, &mut self.rng, &mut self.counters, &mut events);
        self.actions.extend(events.into_iter().map(Action::Event));
        Taken::Yes
    }

    /// The answer to one of this part's requests.
    pub fn handle_answer(&mut self, now: Instant, token: Token, answer: &Answer) {
        let jid = self.asked.remove(&token);
        let peer = jid.and_then(|jid| self.peers.get_mut(&jid));
        if let Some(peer) = peer.filter(|peer| peer.waits_for(token)) {
            peer.handle_answer(now, answer, &mut self.rng);
        }
    }

    /// What is to be done next. To be polled after every call that changes something.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() && self.outgoing.ready_at(0) <= now {
            self.send_next(now);
        }
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.own.as_ref()?;
        Some(self.peers.next_wake()?.max(self.outgoing.ready_at(0)))
    }

    /// The time has come. While the server reads nothing more a thousand may be due: none of them is looked at before [`Self::poll_timeout`] says so.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.own.is_none() || self.outgoing.ready_at(0) > now {
            return;
        }
        let mut nudges = Vec::new();
        let mut events = Vec::new();
        for jid in self.peers.due(now) {
            let Some(peer) = self.peers.get_mut(&jid) else { continue };
            let nudge = peer.handle_timeout(now, self.local, &mut self.rng, &mut events);
            nudges.extend(nudge.map(|nudge| (jid, nudge)));
        }
        self.actions.extend(events.into_iter().map(Action::Event));
        for (jid, nudge) in nudges {
            // A headline is not kept for somebody who is away.
            let mut message = Message::new_with_type(MessageType::Headline, Jid::from(jid));
            message.payloads.push(nudge.to_element());
            self.outgoing.draw(now, STANZA_OVERHEAD);
            self.actions.push_back(Action::Message(Box::new(message)));
        }
    }

    /// Whether both ends have agreed on a session with this occupant, as far as this end knows.
    pub fn is_agreed(&self, jid: &FullJid) -> bool {
        self.peers.get(jid).is_some_and(Peer::is_agreed)
    }

    /// What was refused or ignored.
    pub fn counters(&self) -> JingleCounters {
        self.counters
    }

    /// Lets the next peer that has something to say say it.
    fn send_next(&mut self, now: Instant) {
        let Some(jid) = self.own.as_ref().map(FullJid::to_string) else { return };
        let fingerprint = self.config.fingerprint.as_ref();
        let own = Own { node: self.local, jid: &jid, fingerprint };
        let token = Token(self.last_token + 1);
        // Whoever was heard goes first: a crowd that does not exist must not keep those waiting who do.
        let mut waiting = self.peers.due(now);
        waiting.sort_by_key(|jid| {
            let is_heard = self.peers.get(jid).is_some_and(|peer| peer.heard() == Heard::Yes);
            let had_its_turn = self.turn.as_ref().is_some_and(|turn| jid <= turn);
            (!is_heard, had_its_turn)
        });
        let say = |jid: FullJid| {
            let payload = self.peers.get_mut(&jid)?.next_message(now, token, &own)?;
            Some((jid, payload))
        };
        let message = waiting.into_iter().find_map(say);
        let Some((jid, payload)) = message else { return };
        self.last_token = token.0;
        let len = u32::try_from(String::from(&payload).len()).unwrap_or(u32::MAX);
        self.outgoing.draw(now, len.saturating_add(STANZA_OVERHEAD));
        self.asked.insert(token, jid.clone());
        self.turn = Some(jid.clone());
        let request = Request { token, to: jid.into(), ask: Ask::Set(payload) };
        self.actions.push_back(Action::Request(request));
    }

    fn reply(&mut self, now: Instant, iq: Iq) {
        self.outgoing.draw(now, STANZA_OVERHEAD);
        self.actions.push_back(Action::Reply(Box::new(iq)));
    }

    fn refuse(&mut self, now: Instant, iq: &Iq, type_: ErrorType, condition: Condition) {
        if let Some(error) = refusal(iq, type_, condition) {
            self.reply(now, error);
        }
    }

    fn refuse_unknown(&mut self, now: Instant, iq: &Iq) {
        if let Some(mut reply) = refusal(iq, ErrorType::Cancel, Condition::ItemNotFound) {
            if let Iq::Error { error, .. } = &mut reply {
                error.other = Some(Element::bare("unknown-session", wire::ERRORS));
            }
            self.reply(now, reply);
        }
    }
}

/// For fuzzing: what was understood is written so that it is understood again.
#[cfg(feature = "testing")]
pub(crate) fn fuzz_round_trip(payload: &Element) {
    let Ok(message) = codec::Message::read(payload, Loopback::Refused) else { return };
    if let Content::Offer(offer) = &message.content {
        assert!(offer.candidates.len() <= crate::ice::MAX_CANDIDATES);
        let sender =
            codec::Sender { side: codec::Side::Initiator, fingerprint: None, jid: "a@x/r" };
        let written = codec::write_offer(&message.sid, offer, sender, 0);
        let again = codec::Message::read(&written, Loopback::Refused);
        assert_eq!(again, Ok(codec::Message { skipped: 0, ..message.clone() }));
    }
}
