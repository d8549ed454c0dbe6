//! Brings answers to their questions. An answer counts if its id is that of an open question and it comes from the one
//! that was asked; ids cannot be guessed. Every question is answered: by a result, an error, or the clock.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use xmpp_parsers::{
    iq::Iq,
    jid::{FullJid, Jid},
    minidom::Element,
};

use super::{IqError, IqToken, Question, Request};

/// Nobody waits longer.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// The open questions.
#[derive(Debug)]
pub(super) struct Questions {
    open: HashMap<String, Open>,
    max_open: usize,
    prefix: String,
    asked: u64,
}

#[derive(Debug)]
struct Open {
    token: IqToken,
    to: Option<Jid>,
    deadline: Instant,
}

/// An answer for whoever asked.
pub(super) type Answer = (IqToken, Result<Option<Element>, IqError>);

impl Questions {
    /// `prefix` makes the ids of this program's run unguessable.
    pub(super) fn new(max_open: usize, prefix: String) -> Self {
        Self { open: HashMap::new(), max_open, prefix, asked: 0 }
    }

    /// Notes the question and gives the stanza to send.
    pub(super) fn ask(&mut self, now: Instant, question: Question) -> Result<Iq, Answer> {
        let Question { to, request, token, timeout } = question;
        if self.open.len() >= self.max_open {
            return Err((token, Err(IqError::TooMany)));
        }
        let id = format!("{}-{}", self.prefix, self.asked);
        self.asked += 1;
        let deadline = now + timeout.min(MAX_TIMEOUT);
        self.open.insert(id.clone(), Open { token, to: to.clone(), deadline });
        Ok(match request {
            Request::Get(payload) => Iq::Get { from: None, to, id, payload },
            Request::Set(payload) => Iq::Set { from: None, to, id, payload },
        })
    }

    /// Takes back a question that cannot be sent.
    pub(super) fn withdraw(&mut self, id: &str, why: IqError) -> Option<Answer> {
        self.open.remove(id).map(|open| (open.token, Err(why)))
    }

    /// The answer in `iq`, or `iq` itself if it answers nothing that was asked.
    pub(super) fn answered(&mut self, own: &FullJid, iq: Iq) -> Result<Answer, Box<Iq>> {
        if matches!(iq, Iq::Get { .. } | Iq::Set { .. }) {
            return Err(Box::new(iq));
        }
        let is_answer = self
            .open
            .get(iq.id())
            .is_some_and(|open| is_from_asked(own, open.to.as_ref(), iq.from()));
        if !is_answer {
            return Err(Box::new(iq));
        }
        let Some(open) = self.open.remove(iq.id()) else { return Err(Box::new(iq)) };
        let result = match iq {
            Iq::Error { error, .. } => Err(IqError::Stanza(Box::new(error))),
            Iq::Result { payload, .. } => Ok(payload),
            Iq::Get { .. } | Iq::Set { .. } => Ok(None),
        };
        Ok((open.token, result))
    }

    /// When the next question has waited long enough.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.open.values().map(|open| open.deadline).min()
    }

    /// Answers those that have waited long enough.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Answer> {
        let is_late = |_: &String, open: &mut Open| open.deadline <= now;
        self.open.extract_if(is_late).map(|(_, open)| (open.token, Err(IqError::Timeout))).collect()
    }

    /// Answers all: the session is over.
    pub(super) fn end_session(&mut self) -> Vec<Answer> {
        self.open.drain().map(|(_, open)| (open.token, Err(IqError::Disconnected))).collect()
    }
}

/// RFC 6120 section 8.1.2.1: an answer without `from` is the own account's; so is one from its bare address, and
/// servers answer for it with the session's address or their own as well.
pub(super) fn is_from_asked(own: &FullJid, asked: Option<&Jid>, from: Option<&Jid>) -> bool {
    let account = own.to_bare();
    let is_account = |jid: &Jid| jid.as_str() == account.as_str() || jid.as_str() == own.as_str();
    match (asked, from) {
        (Some(asked), Some(from)) => asked == from,
        (Some(asked), None) => is_account(asked),
        (None, None) => true,
        (None, Some(from)) => is_account(from) || from.as_str() == own.domain().as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> FullJid {
        "alice@example.org/node".parse().unwrap()
    }

    fn question(to: Option<&str>, token: u64, timeout_s: u64) -> Question {
        Question {
            to: to.map(|to| to.parse().unwrap()),
            request: Request::Get(Element::bare("ping", xmpp_parsers::ns::PING)),
            token: IqToken(token),
            timeout: Duration::from_secs(timeout_s),
        }
    }

    fn result(id: &str, from: Option<&str>) -> Iq {
        Iq::Result {
            from: from.map(|jid| jid.parse().unwrap()),
            to: None,
            id: id.to_owned(),
            payload: None,
        }
    }

    #[test]
    fn an_answer_comes_once_and_only_from_the_one_asked() {
        let now = Instant::now();
        let mut questions = Questions::new(8, "p".into());
        let iq = questions.ask(now, question(Some("room@muc.example.org"), 7, 10)).unwrap();
        assert!(questions.answered(&own(), result(iq.id(), Some("mallory@example.org"))).is_err());
        assert_eq!(
            questions.next_deadline(),
            Some(now + Duration::from_secs(10)),
            "the question stays open"
        );
        assert!(questions.answered(&own(), result(iq.id(), None)).is_err());
        let answer = questions.answered(&own(), result(iq.id(), Some("room@muc.example.org")));
        assert_eq!(answer.unwrap(), (IqToken(7), Ok(None)));
        assert!(questions.answered(&own(), result(iq.id(), Some("room@muc.example.org"))).is_err());
    }

    #[test]
    fn the_server_answers_for_the_account() {
        for from in
            [None, Some("alice@example.org"), Some("alice@example.org/node"), Some("example.org")]
        {
            let mut questions = Questions::new(8, "p".into());
            let iq = questions.ask(Instant::now(), question(None, 1, 10)).unwrap();
            assert!(questions.answered(&own(), result(iq.id(), from)).is_ok(), "{from:?}");
        }
    }

    #[test]
    fn requests_are_no_answers() {
        let mut questions = Questions::new(8, "p".into());
        let iq = questions.ask(Instant::now(), question(None, 1, 10)).unwrap();
        assert!(questions.answered(&own(), iq).is_err());
    }

    #[test]
    fn the_clock_answers_what_nobody_does() {
        let now = Instant::now();
        let mut questions = Questions::new(8, "p".into());
        questions.ask(now, question(None, 1, 10)).unwrap();
        questions.ask(now, question(None, 2, 5)).unwrap();
        assert_eq!(
            questions.expire(now + Duration::from_secs(5)),
            [(IqToken(2), Err(IqError::Timeout))]
        );
        assert_eq!(questions.end_session(), [(IqToken(1), Err(IqError::Disconnected))]);
        assert_eq!(questions.next_deadline(), None);
    }

    #[test]
    fn there_is_a_limit_to_open_questions() {
        let mut questions = Questions::new(1, "p".into());
        questions.ask(Instant::now(), question(None, 1, 10)).unwrap();
        assert_eq!(
            questions.ask(Instant::now(), question(None, 2, 10)),
            Err((IqToken(2), Err(IqError::TooMany)))
        );
    }
}
