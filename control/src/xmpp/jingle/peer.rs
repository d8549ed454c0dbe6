//! What is agreed with one occupant.
//!
//! The lower node id initiates (`Side::Initiator` here), the higher one answers, and nudges when it waits in vain. One
//! message to a peer is under way at a time; what comes up meanwhile goes with the next one, so that candidates that are
//! found together travel together. Each message says who sends it, its credentials and its generation, and candidates
//! that were not acknowledged: losing one, or getting one twice, does no harm.
//!
//! A new session begins with new credentials on both ends, which is what [`Event::Describe`] asks for. Within a session
//! each end may restart by a description with a higher generation.

use std::time::{Duration, Instant};

use ipop_datapath::{node_id::NodeId, policy::bucket::Bucket};
use xmpp_parsers::{
    jid::FullJid,
    minidom::Element,
    stanza_error::{DefinedCondition as Condition, ErrorType, StanzaError},
};

use super::{
    Event, JingleCounters,
    codec::{self, Nudge, Offer, Sender, Sid, Side, Step},
};
use crate::{
    ice::{Candidate, IceDescription, MAX_CANDIDATES},
    rng::Rng,
    timed::Timer,
    xmpp::request::{Answer, RequestFailure, Token},
};

/// Stanzas that a peer may send: far more than an honest one does.
const STANZAS_PER_S: u32 = 5;
const STANZAS_AT_ONCE: u32 = 40;
/// The other end may begin a new session this often. Each is an ICE restart.
const MIN_BETWEEN_SESSIONS: Duration = Duration::from_secs(1);
/// Before the higher node first asks for a session: an initiate is nearly always under way.
const NUDGE_FIRST: Duration = Duration::from_secs(2);
/// Waits double from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// For the other end to accept. It needs nothing but a description of its own for that.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(20);

/// What a received stanza is refused with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StanzaRefusal {
    /// This session does not exist here.
    UnknownSession,
    /// The higher node initiates, or the node id is another one.
    NotAllowed,
    /// Too early.
    Wait,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Initiator: to be offered.
    New,
    /// Initiator: offered, to be accepted by then.
    Offered(Instant),
    /// Responder: to be accepted.
    Asked,
    /// Agreed.
    Agreed,
}

#[derive(Debug)]
struct Session {
    sid: Sid,
    stage: Stage,
    /// Own credentials, once ICE has made them.
    local: Option<IceDescription>,
    /// Own candidates of this generation.
    candidates: Vec<Candidate>,
    /// What the other end has acknowledged: the generation, and how many candidates of it.
    told: Option<(u32, usize)>,
    remote: Option<IceDescription>,
    remote_candidates: Vec<Candidate>,
}

/// A message on its way.
#[derive(Debug)]
struct InFlight {
    token: Token,
    sid: Sid,
    step: Step,
    generation: u32,
    candidates: usize,
}

/// One occupant.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) jid: FullJid,
    pub(super) node: NodeId,
    side: Side,
    session: Option<Session>,
    in_flight: Option<InFlight>,
    /// Nothing is sent before: the pause after a failure, or the time for a nudge.
    not_before: Instant,
    failures: u32,
    /// When the last session began.
    began: Option<Instant>,
    /// Whether anything sensible ever came from it: then somebody is there.
    heard: Heard,
    bucket: Bucket,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    Never,
    Yes,
}

/// When something is due that no input brings about; `None` while the next move is another's.
impl Timer for Peer {
    fn wake_at(&self) -> Option<Instant> {
        match &self.session {
            // The initiator begins one, the responder asks for one.
            None => Some(self.not_before),
            Some(Session { stage: Stage::Offered(until), .. }) => {
                let resend = self.next_step().map(|_| self.not_before);
                Some(resend.map_or(*until, |at| at.min(*until)))
            }
            Some(_) => self.next_step().map(|_| self.not_before),
        }
    }
}

impl Peer {
    pub(super) fn new(now: Instant, local: NodeId, jid: FullJid, node: NodeId) -> Self {
        let side = if local < node { Side::Initiator } else { Side::Responder };
        let not_before = match side {
            Side::Initiator => now,
            Side::Responder => now + NUDGE_FIRST,
        };
        Self {
            jid,
            node,
            side,
            session: None,
            in_flight: None,
            not_before,
            failures: 0,
            began: None,
            heard: Heard::Never,
            bucket: Bucket::new(now, STANZAS_PER_S, STANZAS_AT_ONCE),
        }
    }

    /// Whether one more stanza of this peer is looked at.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        self.bucket.take(now, 1)
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard
    }

    pub(super) fn is_agreed(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.stage == Stage::Agreed)
    }

    pub(super) fn session(&self) -> Option<&Sid> {
        self.session.as_ref().map(|session| &session.sid)
    }

    /// The descriptions that hold at both ends, as far as this one knows.
    #[cfg(test)]
    pub(super) fn agreement(&self) -> Option<(&Sid, &IceDescription, &IceDescription)> {
        let session = self.session.as_ref().filter(|session| session.stage == Stage::Agreed)?;
        Some((&session.sid, session.local.as_ref()?, session.remote.as_ref()?))
    }

    /// What was agreed leads to nothing: a new session begins, or is asked for.
    pub(super) fn renew(&mut self, now: Instant, rng: &mut Rng, events: &mut Vec<Event>) {
        if self.began.is_some_and(|began| now < began + MIN_BETWEEN_SESSIONS) {
            return;
        }
        match self.side {
            Side::Initiator => self.begin(now, Sid::from_random(rng.next()), Stage::New, events),
            Side::Responder => {
                self.session = None;
                self.not_before = now;
            }
        }
    }

    /// What is known in this session, from its beginning.
    pub(super) fn tell_again(&self, events: &mut Vec<Event>) {
        let Some(session) = &self.session else { return };
        let (jid, node) = (self.jid.clone(), self.node);
        events.push(Event::Describe { jid: jid.clone(), node });
        let Some(ice) = session.remote.clone() else { return };
        let generation = ice.generation;
        events.push(Event::Remote { jid: jid.clone(), node, ice });
        let candidates = session.remote_candidates.clone();
        if !candidates.is_empty() {
            events.push(Event::RemoteCandidates { jid, node, generation, candidates });
        }
    }

    /// ICE has made credentials. Older ones than known are not taken.
    pub(super) fn describe(&mut self, local: IceDescription) {
        let Some(session) = &mut self.session else { return };
        let known = session.local.as_ref().map(|known| known.generation);
        if known.is_none_or(|known| local.generation > known) {
            session.local = Some(local);
            session.candidates.clear();
        }
    }

    /// ICE has found candidates. Those of another generation than the described one are not taken.
    pub(super) fn add_candidates(&mut self, generation: u32, candidates: &[Candidate]) {
        let Some(session) = &mut self.session else { return };
        if session.local.as_ref().is_none_or(|local| local.generation != generation) {
            return;
        }
        for candidate in candidates {
            if session.candidates.len() < MAX_CANDIDATES && !session.candidates.contains(candidate)
            {
                session.candidates.push(*candidate);
            }
        }
    }

    /// Does what is due; a nudge to be sent comes back.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        local: NodeId,
        rng: &mut Rng,
        events: &mut Vec<Event>,
    ) -> Option<Nudge> {
        if let Some(Session { stage: Stage::Offered(until), .. }) = &self.session
            && *until <= now
        {
            self.session = None;
            self.pause(now, rng);
        }
        if self.session.is_some() || self.not_before > now {
            return None;
        }
        if self.side == Side::Initiator {
            self.begin(now, Sid::from_random(rng.next()), Stage::New, events);
            return None;
        }
        self.pause(now, rng);
        Some(Nudge { node: local })
    }

    fn begin(&mut self, now: Instant, sid: Sid, stage: Stage, events: &mut Vec<Event>) {
        self.session = Some(Session {
            sid,
            stage,
            local: None,
            candidates: Vec::new(),
            told: None,
            remote: None,
            remote_candidates: Vec::new(),
        });
        self.in_flight = None;
        self.began = Some(now);
        self.not_before = now;
        events.push(Event::Describe { jid: self.jid.clone(), node: self.node });
    }

    /// What would be sent next, if anything is to be said and nothing is under way.
    fn next_step(&self) -> Option<Step> {
        let session = self.session.as_ref()?;
        let local = session.local.as_ref()?;
        if self.in_flight.is_some() {
            return None;
        }
        match session.stage {
            Stage::New => Some(Step::Initiate),
            Stage::Asked => Some(Step::Accept),
            Stage::Offered(_) | Stage::Agreed => {
                let all = Some((local.generation, session.candidates.len()));
                (session.told != all).then_some(Step::Info)
            }
        }
    }

    /// The next message, if there is one to send now.
    pub(super) fn next_message(
        &mut self,
        now: Instant,
        token: Token,
        own: &Own<'_>,
    ) -> Option<Element> {
        let step = self.next_step().filter(|_| self.not_before <= now)?;
        let session = self.session.as_ref()?;
        let ice = session.local.clone()?;
        let first = match session.told {
            Some((generation, told)) if step == Step::Info && generation == ice.generation => told,
            _ => 0,
        };
        self.in_flight = Some(InFlight {
            token,
            sid: session.sid.clone(),
            step,
            generation: ice.generation,
            candidates: session.candidates.len(),
        });
        let candidates = session.candidates.get(first..).unwrap_or_default().to_vec();
        let offer = Offer { step, node: own.node, ice, candidates };
        let sender = Sender { side: self.side, fingerprint: own.fingerprint, jid: own.jid };
        Some(codec::write_offer(&session.sid, &offer, sender, first))
    }

    /// Whether this is the answer that is waited for.
    pub(super) fn waits_for(&self, token: Token) -> bool {
        self.in_flight.as_ref().is_some_and(|in_flight| in_flight.token == token)
    }

    /// The answer to the message under way.
    pub(super) fn handle_answer(&mut self, now: Instant, answer: &Answer, rng: &mut Rng) {
        let Some(sent) = self.in_flight.take() else { return };
        let session = self.session.as_mut().filter(|session| session.sid == sent.sid);
        // The session it was about is over.
        let Some(session) = session else { return };
        match answer {
            Ok(_) => {
                self.heard = Heard::Yes;
                session.told = Some((sent.generation, sent.candidates));
                match (sent.step, session.stage) {
                    (Step::Initiate, Stage::New) => {
                        session.stage = Stage::Offered(now + ACCEPT_TIMEOUT);
                    }
                    (Step::Accept, Stage::Asked) => session.stage = Stage::Agreed,
                    _ => {}
                }
                if session.stage == Stage::Agreed {
                    self.failures = 0;
                }
            }
            // Goes out again when the stream is back.
            Err(RequestFailure::Offline) => {}
            Err(RequestFailure::TimedOut) => self.pause(now, rng),
            Err(RequestFailure::Refused(error)) => self.refused(now, error, rng),
        }
    }

    fn refused(&mut self, now: Instant, error: &StanzaError, rng: &mut Rng) {
        match error.defined_condition {
            // The room's list is a little behind there, or the peer is busy: the same again.
            Condition::Forbidden => {}
            _ if error.type_ == ErrorType::Wait => {}
            // Nobody is there; its presence says when somebody is.
            Condition::ServiceUnavailable
            | Condition::RecipientUnavailable
            | Condition::RemoteServerNotFound
            | Condition::RemoteServerTimeout => {
                self.session = None;
                self.failures = u32::MAX;
            }
            // The session does not exist there, or is not wanted so: a new one, after a while.
            _ => self.session = None,
        }
        self.pause(now, rng);
    }

    /// Waits before anything is sent again: longer after each failure in a row.
    fn pause(&mut self, now: Instant, rng: &mut Rng) {
        let first = match self.side {
            Side::Initiator => RETRY_FIRST,
            Side::Responder if self.session.is_none() => NUDGE_FIRST,
            Side::Responder => RETRY_FIRST,
        };
        let wait = first.saturating_mul(1 << self.failures.min(8)).min(RETRY_LAST);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait.mul_f64(0.75 + 0.5 * rng.fraction());
    }

    /// The stream is another one: what was under way is not any more.
    pub(super) fn stream_renewed(&mut self, now: Instant) {
        self.in_flight = None;
        self.failures = 0;
        if self.session.is_some() {
            self.not_before = now;
        }
    }

    /// An offer came from this peer's JID.
    pub(super) fn take_offer(
        &mut self,
        now: Instant,
        sid: &Sid,
        offer: &Offer,
        counters: &mut JingleCounters,
        events: &mut Vec<Event>,
    ) -> Result<(), StanzaRefusal> {
        if offer.node != self.node {
            counters.wrong_node += 1;
            return Err(StanzaRefusal::NotAllowed);
        }
        let known = self.session.as_ref().is_some_and(|session| session.sid == *sid);
        match (offer.step, self.side) {
            (Step::Initiate, Side::Initiator) | (Step::Accept, Side::Responder) => {
                counters.wrong_role += 1;
                return Err(StanzaRefusal::NotAllowed);
            }
            (Step::Initiate, Side::Responder) if !known => {
                if self.began.is_some_and(|began| now < began + MIN_BETWEEN_SESSIONS) {
                    counters.over_rate += 1;
                    return Err(StanzaRefusal::Wait);
                }
                self.failures = 0;
                self.begin(now, sid.clone(), Stage::Asked, events);
            }
            _ if !known => {
                counters.unknown_sessions += 1;
                return Err(StanzaRefusal::UnknownSession);
            }
            (Step::Accept, Side::Initiator) => self.accepted(),
            (Step::Initiate | Step::Info, _) => {}
        }
        self.heard = Heard::Yes;
        self.merge(offer, counters, events);
        Ok(())
    }

    fn accepted(&mut self) {
        if let Some(session) = &mut self.session {
            session.stage = Stage::Agreed;
            self.failures = 0;
        }
    }

    /// Takes what is new in an offer of the session.
    fn merge(&mut self, offer: &Offer, counters: &mut JingleCounters, events: &mut Vec<Event>) {
        let Some(session) = &mut self.session else { return };
        let (jid, node) = (self.jid.clone(), self.node);
        let generation = offer.ice.generation;
        match &session.remote {
            Some(known) if generation < known.generation => {
                counters.stale += 1;
                return;
            }
            Some(known) if generation == known.generation && *known != offer.ice => {
                counters.malformed += 1;
                return;
            }
            Some(known) if generation == known.generation => {}
            _ => {
                session.remote = Some(offer.ice.clone());
                session.remote_candidates.clear();
                let ice = offer.ice.clone();
                events.push(Event::Remote { jid: jid.clone(), node, ice });
            }
        }
        let mut fresh = Vec::new();
        for candidate in &offer.candidates {
            if session.remote_candidates.iter().any(|known| known.address == candidate.address) {
                continue;
            }
            if session.remote_candidates.len() >= MAX_CANDIDATES {
                counters.candidates_skipped += 1;
                continue;
            }
            session.remote_candidates.push(*candidate);
            fresh.push(*candidate);
        }
        if !fresh.is_empty() {
            events.push(Event::RemoteCandidates { jid, node, generation, candidates: fresh });
        }
    }

    /// The other end has ended the session. What runs over it goes on.
    pub(super) fn take_terminate(
        &mut self,
        now: Instant,
        sid: &Sid,
        rng: &mut Rng,
    ) -> Result<(), StanzaRefusal> {
        if self.session() != Some(sid) {
            return Err(StanzaRefusal::UnknownSession);
        }
        self.session = None;
        // Whoever ends sessions as fast as they begin is not followed at that speed.
        self.failures = self.failures.max(4);
        self.pause(now, rng);
        Ok(())
    }

    /// The higher node says that it has no session.
    pub(super) fn take_nudge(
        &mut self,
        now: Instant,
        nudge: &Nudge,
        rng: &mut Rng,
        counters: &mut JingleCounters,
        events: &mut Vec<Event>,
    ) {
        if nudge.node != self.node {
            counters.wrong_node += 1;
        } else if self.side != Side::Initiator {
            counters.wrong_role += 1;
        } else if self.began.is_some_and(|began| now < began + MIN_BETWEEN_SESSIONS) {
            // One has just begun, and has crossed the nudge.
            self.heard = Heard::Yes;
            counters.over_rate += 1;
        } else if self.session.as_ref().is_some_and(|session| session.stage == Stage::New) {
            self.heard = Heard::Yes;
            self.not_before = now;
        } else {
            self.heard = Heard::Yes;
            self.failures = 0;
            self.begin(now, Sid::from_random(rng.next()), Stage::New, events);
        }
    }
}

/// This node, as it signs its messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    pub(super) node: NodeId,
    pub(super) jid: &'a str,
    pub(super) fingerprint: Option<&'a [u8; 32]>,
}
