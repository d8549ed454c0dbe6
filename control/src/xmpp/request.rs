//! Questions to other entities, and their answers: IQ stanzas without the bookkeeping of ids and time-outs, which the
//! stream does.

use std::fmt;

use xmpp_parsers::{
    iq::Iq,
    jid::Jid,
    minidom::Element,
    stanza_error::{DefinedCondition, ErrorType, StanzaError},
};

use super::stream::{self, IqError};

/// Longest text of a foreign server or peer that is shown to the operator, characters.
const MAX_SHOWN_LEN: usize = 200;

/// Which request an answer belongs to. Whoever asks numbers its own requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// Get or set, RFC 6120 section 8.2.3.
#[derive(Clone, PartialEq, Debug)]
pub enum Ask {
    /// Asks for something.
    Get(Element),
    /// Changes something.
    Set(Element),
}

/// An IQ to be sent. Each is answered once: by an answer, an error, a time-out or the end of the stream.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    /// To be repeated with the answer.
    pub token: Token,
    /// Whom it goes to.
    pub to: Jid,
    /// What is asked.
    pub ask: Ask,
}

/// What came back: the payload of the result, if it has one.
pub type Answer = Result<Option<Element>, RequestFailure>;

/// No result came back.
#[derive(Clone, PartialEq, Debug)]
pub enum RequestFailure {
    /// An error stanza did.
    Refused(Box<StanzaError>),
    /// Nothing did in time.
    TimedOut,
    /// The stream ended first.
    Offline,
}

impl RequestFailure {
    /// The condition of the error stanza, if there was one.
    pub fn condition(&self) -> Option<&DefinedCondition> {
        match self {
            Self::Refused(error) => Some(&error.defined_condition),
            Self::TimedOut | Self::Offline => None,
        }
    }
}

impl From<IqError> for RequestFailure {
    fn from(error: IqError) -> Self {
        match error {
            IqError::Stanza(error) => Self::Refused(error),
            IqError::Disconnected => Self::Offline,
            // What was never sent has no answer either, and is asked again after a pause.
            IqError::Timeout | IqError::TooMany | IqError::Unwritable => Self::TimedOut,
        }
    }
}

impl From<Ask> for stream::Request {
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Get(payload) => Self::Get(payload),
            Ask::Set(payload) => Self::Set(payload),
        }
    }
}

impl fmt::Display for RequestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => f.write_str(&describe(error)),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Offline => f.write_str("the connection to the XMPP server ended"),
        }
    }
}

/// An error stanza as a person reads it: the condition and the sender's text.
pub fn describe(error: &StanzaError) -> String {
    let condition = Element::from(error.defined_condition.clone()).name().to_owned();
    let text = error.texts.get("en").or_else(|| error.texts.values().next());
    match text.map(|text| printable(text)) {
        Some(text) if !text.is_empty() => format!("{condition} ({text})"),
        _ => condition,
    }
}

/// Foreign text made fit for a log: short, one line, no control characters.
pub fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_SHOWN_LEN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

/// The error that answers `iq`, or nothing if an error must not be answered (RFC 6120 section 8.3.1).
pub fn refusal(iq: &Iq, type_: ErrorType, condition: DefinedCondition) -> Option<Iq> {
    let (Iq::Get { from, id, .. } | Iq::Set { from, id, .. }) = iq else { return None };
    let error = StanzaError {
        type_,
        by: None,
        defined_condition: condition,
        texts: Default::default(),
        other: None,
    };
    Some(Iq::Error { from: None, to: from.clone(), id: id.clone(), error, payload: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_cut_and_cleaned() {
        let error = StanzaError::new(
            ErrorType::Cancel,
            DefinedCondition::ServiceUnavailable,
            "en",
            format!("\u{1b}[31mroom\nfull{}", "x".repeat(10_000)),
        );
        let shown = describe(&error);
        assert!(shown.starts_with("service-unavailable ([31mroom full"), "{shown}");
        assert!(shown.len() < 300 && !shown.contains(char::is_control), "{shown}");
    }

    #[test]
    fn errors_and_results_are_not_answered_with_errors() {
        let result = Iq::Result { from: None, to: None, id: "1".into(), payload: None };
        assert_eq!(refusal(&result, ErrorType::Cancel, DefinedCondition::BadRequest), None);
    }
}
