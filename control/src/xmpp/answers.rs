//! What every entity must answer: who it is (XEP-0030), its version (XEP-0092), a ping (XEP-0199), and an error to any
//! other request (RFC 6120 section 8.2.3). Answers are bounded: beyond that a flood of requests gets none.

use std::time::Instant;

use ipop_datapath::policy::bucket::Bucket;
use xmpp_parsers::{
    disco::{DiscoInfoQuery, DiscoInfoResult, Identity},
    iq::Iq,
    minidom::Element,
    ns,
    stanza_error::{DefinedCondition, ErrorType},
    version::VersionResult,
};

use super::{jingle, request::refusal};

/// Answers a second, and at once.
const ANSWERS_PER_S: u32 = 10;
const ANSWERS_AT_ONCE: u32 = 50;

/// Answers to requests that are nobody else's business.
#[derive(Debug)]
pub struct Answers {
    pace: Bucket,
    /// Requests that got no answer, being too many.
    pub unanswered: u64,
}

impl Answers {
    /// None given yet.
    pub fn new(now: Instant) -> Self {
        Self { pace: Bucket::new(now, ANSWERS_PER_S, ANSWERS_AT_ONCE), unanswered: 0 }
    }

    /// The answer to a request; none to what is no request, or one too many.
    pub fn answer(&mut self, now: Instant, iq: &Iq) -> Option<Iq> {
        let (from, id, asked) = match iq {
            Iq::Get { from, id, payload, .. } => (from, id, Some(payload)),
            Iq::Set { from, id, .. } => (from, id, None),
            Iq::Result { .. } | Iq::Error { .. } => return None,
        };
        if !self.pace.take(now, 1) {
            self.unanswered += 1;
            return None;
        }
        let Some(payload) = asked.and_then(result) else {
            return refusal(iq, ErrorType::Cancel, DefinedCondition::ServiceUnavailable);
        };
        Some(Iq::Result { from: None, to: from.clone(), id: id.clone(), payload })
    }
}

/// What the answer holds; `None` if there is none.
fn result(asked: &Element) -> Option<Option<Element>> {
    if asked.is("ping", ns::PING) {
        return Some(None);
    }
    if asked.is("query", ns::VERSION) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        return Some(Some(VersionResult { name: "ipop-switch".into(), version, os: None }.into()));
    }
    let query = DiscoInfoQuery::try_from(asked.clone()).ok()?;
    let features = [
        ns::DISCO_INFO,
        ns::PING,
        ns::VERSION,
        ns::JINGLE,
        ns::JINGLE_ICE_UDP,
        ns::JINGLE_DTLS,
        jingle::APPLICATION,
    ];
    let result = DiscoInfoResult {
        node: query.node,
        identities: vec![Identity::new("client", "bot", "en", "ipop-switch")],
        features: features.into_iter().map(String::from).collect(),
        extensions: Vec::new(),
    };
    Some(Some(result.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(payload: &str) -> Iq {
        let payload = payload.parse().unwrap();
        let from = Some("a@example.org/x".parse().unwrap());
        Iq::Get { from, to: None, id: "7".into(), payload }
    }

    fn answer(iq: &Iq) -> Option<Iq> {
        Answers::new(Instant::now()).answer(Instant::now(), iq)
    }

    #[test]
    fn ping_version_and_disco_are_answered_to_the_one_who_asked() {
        for query in ["<ping xmlns='urn:xmpp:ping'/>", "<query xmlns='jabber:iq:version'/>"] {
            let Some(Iq::Result { to, id, .. }) = answer(&ask(query)) else { panic!("{query}") };
            assert_eq!((to.unwrap().to_string().as_str(), id.as_str()), ("a@example.org/x", "7"));
        }
        let disco = ask("<query xmlns='http://jabber.org/protocol/disco#info'/>");
        let Some(Iq::Result { payload: Some(info), .. }) = answer(&disco) else { panic!() };
        let info = DiscoInfoResult::try_from(info).unwrap();
        assert!(info.features.contains(jingle::APPLICATION) && info.features.contains(ns::JINGLE));
    }

    #[test]
    fn anything_else_is_an_error_and_answers_are_not_answered() {
        let Some(Iq::Error { error, .. }) = answer(&ask("<x xmlns='y'/>")) else { panic!() };
        assert_eq!(error.defined_condition, DefinedCondition::ServiceUnavailable);
        let result = Iq::Result { from: None, to: None, id: "1".into(), payload: None };
        assert_eq!(answer(&result), None);
    }

    #[test]
    fn a_flood_gets_no_answers() {
        let (now, ping) = (Instant::now(), ask("<ping xmlns='urn:xmpp:ping'/>"));
        let mut answers = Answers::new(now);
        let given = (0..10_000).filter(|_| answers.answer(now, &ping).is_some()).count();
        assert_eq!(given, ANSWERS_AT_ONCE as usize);
        assert_eq!(answers.unanswered, 10_000 - u64::from(ANSWERS_AT_ONCE));
    }
}
