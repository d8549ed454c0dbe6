//! An open session: stanzas both ways, acknowledgements, signs of life.
//!
//! Stanzas are acknowledged in batches: after what was queued is written, the server is asked once how far it is, and
//! again only when it has answered. The same question, on a stream that was silent for a while, tells whether the
//! server lives; a server without stream management is pinged. While this end cannot take more (nobody reads the
//! events, or the server sends more than its rate), it does not read, and does not blame the server for silence.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use ipop_datapath::policy::bucket::Bucket;
use xmpp_parsers::{
    iq::Iq,
    jid::FullJid,
    minidom::Element,
    ns,
    sm::{A, R},
    stanza::Stanza,
    stanza_error::{DefinedCondition, ErrorType, StanzaError},
};

use super::{
    Counters, FromStream, IqError, Limits, Question,
    failure::Failure,
    iq::{Questions, is_from_asked},
    login::stream_error,
    management::Management,
    xml::{self, Item},
};

/// Debian's ejabberd reads no faster from a client, so an acknowledgement may take this much longer.
const SHAPED_BYTES_PER_S: usize = 3_000;
const PING_ID: &str = "alive";
/// What the server gets to read before a stream is dropped for its fault.
const POLICY_VIOLATION: &[u8] =
    b"<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
    </stream:error></stream:stream>";

/// What outlives a connection: the session, its questions, and what waits to be read by the program.
pub(super) struct Conversation {
    pub(super) limits: Limits,
    pub(super) questions: Questions,
    pub(super) management: Management,
    pub(super) jid: Option<FullJid>,
    pub(super) outbox: VecDeque<FromStream>,
    pub(super) counters: Arc<Counters>,
}

impl Conversation {
    /// The program reads fast enough.
    pub(super) fn outbox_has_room(&self) -> bool {
        self.outbox.len() < self.limits.queued_events
    }

    /// A stanza to send while there is no connection.
    pub(super) fn send_offline(&mut self, stanza: &Stanza) {
        let mut bytes = Vec::new();
        if self.management.resumption().is_some()
            && self.management.has_room(&self.limits)
            && xml::write(stanza, &mut bytes).is_ok()
        {
            self.management.hold(bytes);
        } else {
            count(&self.counters.unsent);
        }
    }

    /// A question while there is no connection.
    pub(super) fn ask_offline(&mut self, now: Instant, question: Question) {
        if self.management.resumption().is_none() || !self.management.has_room(&self.limits) {
            self.answer((question.token, Err(IqError::Disconnected)));
        } else if let Some(bytes) = self.ask(now, question) {
            self.management.hold(bytes);
        }
    }

    fn ask(&mut self, now: Instant, question: Question) -> Option<Vec<u8>> {
        let iq = match self.questions.ask(now, question) {
            Ok(iq) => iq,
            Err(answer) => {
                self.answer(answer);
                return None;
            }
        };
        let mut bytes = Vec::new();
        if xml::write(&iq, &mut bytes).is_err() {
            let answer = self.questions.withdraw(iq.id(), IqError::Unwritable);
            answer.into_iter().for_each(|answer| self.answer(answer));
            return None;
        }
        Some(bytes)
    }

    /// Tells the program an answer.
    pub(super) fn answer(&mut self, (token, result): super::iq::Answer) {
        self.outbox.push_back(FromStream::IqAnswer { token, result });
    }

    /// Answers the questions that have waited long enough.
    pub(super) fn expire_questions(&mut self, now: Instant) {
        self.questions.expire(now).into_iter().for_each(|answer| self.answer(answer));
    }

    /// The session is over and cannot be resumed.
    pub(super) fn end_session(&mut self) {
        self.management = Management::default();
        self.questions.end_session().into_iter().for_each(|answer| self.answer(answer));
    }
}

/// A question whether the server lives. What was on its way before is no answer to it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    deadline: Instant,
    /// Answers to come: a question asked more urgently does not replace the one before.
    answers: u32,
}

/// One connection's state.
pub(super) struct Online<'a> {
    pub(super) conversation: &'a mut Conversation,
    /// Waits to be written.
    pub(super) out: BytesMut,
    wants_acknowledgement: bool,
    asked: Option<Asked>,
    heard: Instant,
    bytes: Bucket,
    stanzas: Bucket,
}

impl<'a> Online<'a> {
    /// A session has just been opened or resumed; `out` is to be written first.
    pub(super) fn new(conversation: &'a mut Conversation, out: Vec<u8>, now: Instant) -> Self {
        let limits = &conversation.limits;
        let received = |per_s: u32| Bucket::new(now, per_s, per_s * limits.burst_s);
        Self {
            bytes: received(limits.received_bytes_per_s),
            stanzas: received(limits.received_stanzas_per_s),
            wants_acknowledgement: !out.is_empty(),
            out: BytesMut::from(&out[..]),
            asked: None,
            heard: now,
            conversation,
        }
    }

    /// Whether more may be read from the server.
    pub(super) fn may_read(&self, now: Instant) -> bool {
        self.paced_until() <= now
            && self.conversation.outbox_has_room()
            && self.out.len() < self.conversation.limits.queued_bytes
    }

    /// When the server has not sent too much.
    fn paced_until(&self) -> Instant {
        self.bytes.ready_at(0).max(self.stanzas.ready_at(0))
    }

    /// Whether more may be taken from the program.
    pub(super) fn may_send(&self) -> bool {
        let Conversation { management, limits, .. } = &*self.conversation;
        management.has_room(limits)
            && self.out.len() < limits.queued_bytes
            && self.conversation.outbox_has_room()
    }

    /// When [`Self::tick`] has to be called at the latest.
    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        let life = self
            .asked
            .map_or(self.heard + self.conversation.limits.silence, |asked| asked.deadline);
        [
            Some(self.paced_until()).filter(|at| *at > now),
            self.conversation.questions.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .fold(life, Instant::min)
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Failure> {
        self.conversation.expire_questions(now);
        let Limits { silence, answer, .. } = self.conversation.limits;
        match self.asked {
            Some(asked) if asked.deadline <= now => {
                if !self.may_read(now) {
                    self.asked = Some(Asked { deadline: now + answer, ..asked });
                    return Ok(());
                }
                let waited_s = now.saturating_duration_since(self.heard).as_secs();
                Err(Failure::Silent { doing: "connected", waited_s })
            }
            None if self.heard + silence <= now => {
                self.ask_for_life(now, answer);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks for a sign of life, to come within `patience`.
    pub(super) fn ask_for_life(&mut self, now: Instant, patience: Duration) {
        let management = &self.conversation.management;
        let shaped =
            Duration::from_secs((management.unacknowledged_bytes() / SHAPED_BYTES_PER_S) as u64);
        let deadline = now + patience + shaped;
        if self.asked.is_some_and(|asked| asked.deadline <= deadline) {
            return;
        }
        let answers = self.asked.map_or(0, |asked| asked.answers) + 1;
        self.asked = Some(Asked { deadline, answers });
        if management.is_on() {
            self.wants_acknowledgement = false;
            self.write(&R);
        } else {
            let ping = Element::bare("ping", ns::PING);
            self.write(&Iq::Get { from: None, to: None, id: PING_ID.to_owned(), payload: ping });
        }
    }

    /// Asks how far the server is, if something was sent. To be called when nothing more is to be sent for now.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.wants_acknowledgement
            && self.asked.is_none()
            && self.conversation.management.is_on()
        {
            self.ask_for_life(now, self.conversation.limits.answer);
        }
    }

    /// Sends a stanza of the program.
    pub(super) fn send(&mut self, stanza: &Stanza) {
        let mut bytes = Vec::new();
        match xml::write(stanza, &mut bytes) {
            Ok(()) => self.send_bytes(bytes),
            Err(_) => count(&self.conversation.counters.unsent),
        }
    }

    /// Sends a question of the program.
    pub(super) fn ask(&mut self, now: Instant, question: Question) {
        if let Some(bytes) = self.conversation.ask(now, question) {
            self.send_bytes(bytes);
        }
    }

    fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.out.extend_from_slice(&bytes);
        self.conversation.management.sent(bytes);
        self.wants_acknowledgement = true;
    }

    /// Bytes came, whatever they are.
    pub(super) fn received_bytes(&mut self, now: Instant, count: usize) {
        self.bytes.draw(now, count as u32);
    }

    /// An item of the stream came.
    pub(super) fn item(&mut self, now: Instant, item: Item) -> Result<(), Failure> {
        self.heard = now;
        self.stanzas.draw(now, 1);
        let element = match item {
            Item::Element(element) => element,
            Item::Header => return Err(Failure::Protocol("opens a stream inside a stream")),
            Item::Footer => return Err(Failure::Closed),
        };
        if element.has_ns(ns::JABBER_CLIENT) {
            self.stanza(element);
            Ok(())
        } else if element.has_ns(ns::SM) {
            self.management(now, &element)
        } else if element.is("error", ns::STREAM) {
            Err(stream_error(&element))
        } else {
            // RFC 6120 section 4.9.3.24 would end the stream; new kinds of elements are better ignored.
            Ok(())
        }
    }

    fn management(&mut self, now: Instant, element: &Element) -> Result<(), Failure> {
        let malformed = Failure::Protocol("sends malformed stream management");
        let count = || element.attr("h").and_then(|h| h.parse::<u32>().ok());
        let management = &mut self.conversation.management;
        match element.name() {
            "r" => {
                let answer = A { h: management.count_received() };
                self.write(&answer);
            }
            "a" => {
                management.acknowledge(count().ok_or(malformed)?)?;
                self.wants_acknowledgement |= management.unacknowledged_bytes() > 0;
                self.life_shown();
                self.settle(now);
            }
            "enabled" => {
                let is_resumable = matches!(element.attr("resume"), Some("true" | "1"));
                management.enabled(element.attr("id").filter(|_| is_resumable))?;
            }
            "failed" => management.refused(),
            _ => return Err(malformed),
        }
        Ok(())
    }

    fn stanza(&mut self, element: Element) {
        if !matches!(element.name(), "iq" | "message" | "presence") {
            return;
        }
        self.conversation.management.received();
        let refusal = bad_request(&element);
        match (Stanza::try_from(element), &self.conversation.jid) {
            (Ok(Stanza::Iq(iq)), Some(own)) => {
                match self.conversation.questions.answered(own, iq) {
                    Ok(answer) => self.conversation.answer(answer),
                    Err(iq) if matches!(*iq, Iq::Get { .. } | Iq::Set { .. }) => {
                        self.give(Stanza::Iq(*iq));
                    }
                    Err(iq) if iq.id() == PING_ID && is_from_asked(own, None, iq.from()) => {
                        self.life_shown();
                    }
                    Err(_) => count(&self.conversation.counters.ignored),
                }
            }
            (Ok(stanza), _) => self.give(stanza),
            (Err(_), _) => {
                count(&self.conversation.counters.ignored);
                if let Some(refusal) = refusal {
                    self.send(&Stanza::Iq(refusal));
                }
            }
        }
    }

    fn life_shown(&mut self) {
        self.asked = self.asked.and_then(|Asked { deadline, answers }| {
            (answers > 1).then(|| Asked { deadline, answers: answers - 1 })
        });
    }

    fn give(&mut self, stanza: Stanza) {
        self.conversation.outbox.push_back(FromStream::Stanza(Box::new(stanza)));
    }

    fn write(&mut self, element: &impl xso::AsXml) {
        let mut bytes = Vec::new();
        // Written from constants and numbers alone.
        if xml::write(element, &mut bytes).is_ok() {
            self.out.extend_from_slice(&bytes);
        }
    }

    /// The connection is over because of `failure`. What the server still should read is left in `out`.
    pub(super) fn lost(&mut self, failure: &Failure) {
        let is_its_fault = matches!(failure, Failure::Xml(_) | Failure::Protocol(_));
        if is_its_fault {
            self.out.advance(self.out.len());
            self.out.extend_from_slice(POLICY_VIOLATION);
        }
        // Resumed, the server would send the same again.
        if is_its_fault || self.conversation.management.resumption().is_none() {
            self.conversation.end_session();
        }
    }
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The answer to `element` in case it is a request that cannot be understood (RFC 6120 section 8.3.3.1).
fn bad_request(element: &Element) -> Option<Iq> {
    if element.name() != "iq" || !matches!(element.attr("type"), Some("get" | "set")) {
        return None;
    }
    let id = element.attr("id")?.to_owned();
    let to = match element.attr("from") {
        Some(from) => Some(from.parse().ok()?),
        None => None,
    };
    let text = "the request is malformed";
    let error = StanzaError::new(ErrorType::Modify, DefinedCondition::BadRequest, "en", text);
    Some(Iq::Error { from: None, to, id, error, payload: None })
}

#[cfg(test)]
#[path = "online/tests.rs"]
mod tests;
