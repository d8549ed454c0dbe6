//! Into the room, and what may be in the way.

use std::time::{Duration, Instant};

use xmpp_parsers::{
    disco::DiscoInfoQuery,
    jid::Jid,
    minidom::Element,
    muc::muc::{History, Muc},
    presence::{Presence, Type},
    stanza_error::{DefinedCondition as Condition, StanzaError},
};

use super::{
    Action, Event, Outcome, PING_AFTER, Purpose, Room, State,
    card::cut,
    configuration::{Configuration, Entry},
    problem::{Expulsion, Hindrance, NickFault, Problem, Trouble},
    wire::OwnerQuery,
};
use crate::xmpp::request::{Answer, Ask, describe};

/// For the whole join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between joins that failed for a reason that passes: doubles up to the next one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Also between joins that were refused for a reason that somebody must remove.
const RETRY_REFUSED: Duration = Duration::from_secs(60);
/// Part of a wait by which it varies, either way, or all nodes come back in one instant.
const JITTER: f64 = 0.25;
/// Nicks that are tried: the name, then the name with ever more of the node id.
const MAX_NICKS: u8 = 6;
/// Being thrown out this often within the time means that somebody else does the same the other way around.
const MAX_THROWN_OUT: usize = 3;
const THROWN_OUT_WITHIN: Duration = Duration::from_secs(600);
/// A nick beyond this many bytes is cut: servers refuse long ones.
const MAX_NICK_LEN: usize = 64;

/// A join under way: both its halves must come.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) deadline: Instant,
    /// The own presence came, which ends the list of occupants.
    pub(super) listed: Option<FoundOrMade>,
    /// The configuration came.
    pub(super) known: Option<Configuration>,
}

/// Where the room that was entered comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FoundOrMade {
    /// It was there.
    Found,
    /// The server says that it made it for this entry. ejabberd says so, too, of a room that was there and that nobody
    /// has entered yet.
    Made,
}

/// How often what went wrong.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    thrown_out: Vec<Instant>,
}

impl Room {
    /// Asks to be let in, and in the same breath what the room is: the server answers in this order.
    pub(super) fn start_join(&mut self, now: Instant) {
        self.join += 1;
        self.asked.clear();
        self.reconciliation = None;
        self.state =
            State::Joining(Joining { deadline: now + JOIN_TIMEOUT, listed: None, known: None });
        let mut muc = Muc::new().with_history(History::new().with_maxstanzas(0));
        muc.password = self.config.password.as_ref().map(|password| password.0.clone());
        let payloads = vec![muc.into(), self.card.to_element()];
        self.send_presence(Presence::available().with_payloads(payloads));
        self.ask_configuration();
    }

    pub(super) fn ask_configuration(&mut self) {
        let query = DiscoInfoQuery { node: None };
        self.ask(Purpose::Configuration, self.config.room.clone().into(), Ask::Get(query.into()));
    }

    /// The nick this node has or asks for.
    pub(super) fn nick(&self) -> String {
        let id = self.local().to_string();
        let name = cut(&self.card.name, MAX_NICK_LEN - 16);
        let fit = !name.is_empty() && self.config.room.with_resource_str(&name).is_ok();
        match self.nicks_refused {
            0 if fit => name,
            n if fit => format!("{name}-{}", &id[..usize::from(n.min(8)) + 3]),
            n => format!("node-{}", &id[..usize::from(n.min(8)) + 8]),
        }
    }

    pub(super) fn send_unavailable(&mut self) {
        self.send_presence(Presence::unavailable());
    }

    fn send_presence(&mut self, presence: Presence) {
        if let Ok(to) = self.config.room.with_resource_str(&self.nick()) {
            self.actions.push_back(Action::Presence(Box::new(presence.with_to(Jid::from(to)))));
        }
    }

    /// The own presence came back: the list of occupants is complete.
    pub(super) fn listed(&mut self, now: Instant, origin: FoundOrMade) {
        if let State::Joining(joining) = &mut self.state {
            joining.listed = Some(origin);
            self.finish_join(now);
        }
    }

    /// The room's features came, on joining or after a change.
    pub(super) fn take_configuration(&mut self, now: Instant, answer: Answer) {
        let configuration = match answer {
            Ok(element) => element.as_ref().and_then(Configuration::read),
            Err(failure) if failure.condition().is_none() => return,
            // The join itself is refused for the same reason, and says so better.
            Err(_) if matches!(&self.state, State::Joining(joining) if joining.listed.is_none()) => {
                return;
            }
            Err(_) => None,
        };
        let Some(configuration) = configuration else {
            return match self.has_made_room() {
                true => self.created_by_mistake(now),
                false => self.refuse_room(now, vec!["its configuration cannot be read"]),
            };
        };
        if let State::Joining(joining) = &mut self.state {
            joining.known = Some(configuration);
            return self.finish_join(now);
        }
        let faults = configuration.faults(self.config.entry);
        if !faults.is_empty() {
            self.refuse_room(now, faults);
        }
    }

    /// Whether the server says that it made the room for the join that is under way.
    pub(super) fn has_made_room(&self) -> bool {
        matches!(&self.state, State::Joining(Joining { listed: Some(FoundOrMade::Made), .. }))
    }

    fn refuse_room(&mut self, now: Instant, faults: Vec<&'static str>) {
        self.send_unavailable();
        self.refused(now, Trouble::NotFit(faults));
    }

    /// Stays, if both halves have come and the room is as it must be.
    pub(super) fn finish_join(&mut self, now: Instant) {
        let State::Joining(Joining { listed: Some(origin), known: Some(known), .. }) = self.state
        else {
            return;
        };
        let faults = known.faults(self.config.entry);
        // `room create` leaves a room that lasts and is as the mode needs it. One that a typing error made is not, unless the
        // server makes all its rooms so.
        if origin == FoundOrMade::Made && (!known.persistent || !faults.is_empty()) {
            return self.created_by_mistake(now);
        }
        if !faults.is_empty() {
            return self.refuse_room(now, faults);
        }
        self.state = State::Joined { ping_at: now + PING_AFTER, pings_lost: 0 };
        self.retry.failures = 0;
        self.tell(Event::Joined { nick: self.nick() });
        let join = self.join;
        for gone in self.occupants.remove_if(|_, seen| seen != join) {
            self.tell(Event::OccupantGone(gone.jid));
        }
        for occupant in self.occupants.tell() {
            self.tell(Event::Occupant(occupant));
        }
        self.start_reconciliation();
    }

    /// The join was answered with an error, XEP-0045 section 7.2.
    pub(super) fn join_refused(&mut self, now: Instant, error: &StanzaError) {
        let said = describe(error);
        match error.defined_condition {
            Condition::Conflict => self.next_nick(now, NickFault::InUse),
            Condition::JidMalformed | Condition::NotAcceptable => {
                self.next_nick(now, NickFault::NotAccepted);
            }
            Condition::NotAuthorized => {
                self.refused(
                    now,
                    match (self.config.entry, &self.config.password) {
                        (Entry::Password, Some(_)) => Trouble::OtherPassword,
                        _ => Trouble::WantsPassword,
                    },
                );
            }
            Condition::Forbidden => self.refused(now, Trouble::Banned),
            Condition::RegistrationRequired => self.refused(now, Trouble::NotMember),
            Condition::ServiceUnavailable => self.refused(now, Trouble::Full(said)),
            // A room that is being created is locked until it is configured; one that does not exist says the same.
            Condition::ItemNotFound => self.retry_soon(now, Hindrance::Locked),
            Condition::NotAllowed => self.refused(now, Trouble::Missing),
            Condition::Gone { .. } | Condition::Redirect { .. } => {
                self.refused(now, Trouble::Moved(said));
            }
            _ => self.retry_soon(now, Hindrance::Said(said)),
        }
    }

    /// The server made a room because nobody had: a typo must not make a network, so it is given back.
    pub(super) fn created_by_mistake(&mut self, now: Instant) {
        let query: Element = OwnerQuery::cancel().into();
        let room = self.config.room.clone();
        self.send_unavailable();
        self.refused(now, Trouble::Missing);
        self.ask(Purpose::Cancelled, room.into(), Ask::Set(query));
    }

    /// The nick is taken: the next one has more of the node id in it.
    pub(super) fn next_nick(&mut self, now: Instant, why: NickFault) {
        if self.nicks_refused + 1 >= MAX_NICKS {
            self.nicks_refused = 0;
            return self.refused(now, Trouble::NoNick);
        }
        let refused = self.nick();
        self.nicks_refused += 1;
        let what = Trouble::Nick { refused, why, now: self.nick() };
        self.problem(now, what, Outcome::Goes);
        self.start_join(now);
    }

    /// Removed from the room by something that this node did not do and no admin decided.
    pub(super) fn thrown_out(&mut self, now: Instant, why: Expulsion) {
        let recent = &mut self.retry.thrown_out;
        recent.retain(|at| now.saturating_duration_since(*at) < THROWN_OUT_WITHIN);
        recent.push(now);
        if recent.len() >= MAX_THROWN_OUT {
            recent.clear();
            self.problem(now, Trouble::ThrownOut(why), Outcome::RetriedIn(RETRY_REFUSED));
        }
    }

    /// Out of the room for a reason that passes by itself.
    pub(super) fn retry_soon(&mut self, now: Instant, why: Hindrance) {
        let doubled =
            RETRY_FIRST.saturating_mul(1 << self.retry.failures.min(6)).min(RETRY_REFUSED);
        self.retry.failures += 1;
        // The first failure may be nothing: a server that restarts, a room that is being made.
        if self.retry.failures > 1 {
            self.problem(now, Trouble::CannotEnter(why), Outcome::RetriedIn(doubled));
        }
        self.wait(now, doubled);
    }

    /// Out of the room for a reason that somebody must remove. The occupants of before are none of this node's business.
    pub(super) fn refused(&mut self, now: Instant, what: Trouble) {
        self.forget_all();
        self.problem(now, what, Outcome::RetriedIn(RETRY_REFUSED));
        self.wait(now, RETRY_REFUSED);
    }

    fn wait(&mut self, now: Instant, wait: Duration) {
        self.asked.clear();
        self.reconciliation = None;
        let jittered = wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.rng.fraction());
        self.state = State::Waiting(now + jittered);
    }

    pub(super) fn problem(&mut self, now: Instant, what: Trouble, outcome: Outcome) {
        if self.problems.is_news(now, &what) {
            let account = self.jid.as_ref().map(|jid| jid.to_bare());
            let room = self.config.room.clone();
            self.tell(Event::Problem(Problem { room, account, what, outcome }));
        }
    }

    /// Whether this presence is an error that answers the join.
    pub(super) fn is_join_error(&self, presence: &Presence) -> bool {
        presence.type_ == Type::Error && matches!(self.state, State::Joining(_))
    }
}
