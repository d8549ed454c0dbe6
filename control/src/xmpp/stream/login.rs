//! From the first features inside TLS to a session (RFC 6120 sections 6 and 7, XEP-0198): a state machine that takes
//! what comes and says what to send.
//!
//! `<enable/>` goes out together with the request to bind, since the server has said by then that it knows it; that
//! saves a round trip, and its answer is left to the session.

use xmpp_parsers::{
    bind::{BindQuery, BindResponse},
    iq::Iq,
    jid::FullJid,
    minidom::Element,
    ns,
    sasl::{Challenge, Failure as SaslFailure, Response, Success},
    sm::{Enable, Resume, StreamId},
};

use super::{
    account::Account,
    failure::{Failure, printable},
    management::Resumption,
    sasl::{Authentication, Offer},
    xml,
};

/// A log-in under way.
pub(super) struct Login<'a> {
    account: &'a Account,
    exported: Option<[u8; 32]>,
    resumption: Option<Resumption>,
    state: State,
    is_bound: bool,
}

enum State {
    /// Waits for the features of a stream that is not authenticated.
    Offers,
    Authenticating(Box<Authentication>),
    /// Waits for the features of the authenticated stream.
    Features,
    Resuming {
        management: Offered,
    },
    Binding {
        management: Offered,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Offered {
    Yes,
    No,
}

/// How far the log-in has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// Something has to come first.
    More,
    /// Authenticated: what comes next is a new document.
    NewStream,
    /// There is a session.
    Done(Session),
}

/// The session that there is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Session {
    /// A new one. `<enable/>` has been sent with it if the server has stream management.
    New { jid: FullJid, management: bool },
    /// The one before, in which the server has seen this many stanzas.
    Resumed { received: u32 },
}

const BIND_ID: &str = "bind";

impl<'a> Login<'a> {
    /// `exported` is TLS's key for channel binding; `resumption` the session to go on with, if there is one.
    pub(super) fn new(
        account: &'a Account,
        exported: Option<[u8; 32]>,
        resumption: Option<Resumption>,
    ) -> Self {
        Self { account, exported, resumption, state: State::Offers, is_bound: false }
    }

    /// Whether the account is authenticated by a log-in that is bound to the TLS connection.
    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Takes an element of the stream, appends what is to be sent to `out`.
    pub(super) fn element(
        &mut self,
        element: Element,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Failure> {
        if element.is("error", ns::STREAM) {
            return Err(stream_error(&element));
        }
        match &mut self.state {
            State::Offers => self.offers(&element, out),
            State::Authenticating(_) => self.authenticating(element, out),
            State::Features => self.features(&element, out),
            State::Resuming { management } => {
                let management = *management;
                self.resuming(&element, management, out)
            }
            State::Binding { management } => binding(element, *management),
        }
    }

    fn offers(&mut self, element: &Element, out: &mut Vec<u8>) -> Result<Progress, Failure> {
        expect_features(element)?;
        let authentication =
            Authentication::begin(self.account, &Offer::of(element), self.exported)?;
        // An empty first message would be written as "=" (RFC 6120 section 6.4.2); no mechanism here has one.
        let text = data_encoding::BASE64.encode(authentication.initial());
        let auth = Element::builder("auth", ns::SASL)
            .attr(name("mechanism")?, authentication.mechanism())
            .append(text)
            .build();
        send(&auth, out)?;
        self.state = State::Authenticating(Box::new(authentication));
        Ok(Progress::More)
    }

    fn authenticating(&mut self, element: Element, out: &mut Vec<u8>) -> Result<Progress, Failure> {
        let State::Authenticating(authentication) = &mut self.state else {
            return Ok(Progress::More);
        };
        if element.is("challenge", ns::SASL) {
            let challenge = Challenge::try_from(element)
                .map_err(|_| Failure::Protocol("sends a malformed challenge"))?;
            let data = authentication.challenge(&challenge.data)?;
            send(&Response { data }, out)?;
            return Ok(Progress::More);
        }
        if element.is("success", ns::SASL) {
            let success = Success::try_from(element)
                .map_err(|_| Failure::Protocol("sends a malformed success"))?;
            authentication.success(&success.data)?;
            self.is_bound = authentication.is_bound();
            self.state = State::Features;
            out.extend_from_slice(&xml::header(self.account.jid.domain().as_str()));
            return Ok(Progress::NewStream);
        }
        if element.is("failure", ns::SASL) {
            let mechanism = authentication.mechanism();
            return Err(self.refusal(mechanism, element));
        }
        Err(Failure::Protocol("sends something else than SASL while it authenticates"))
    }

    fn refusal(&self, mechanism: &'static str, element: Element) -> Failure {
        let condition = element
            .children()
            .find(|child| child.name() != "text")
            .map(|child| printable(child.name()));
        let condition = condition.unwrap_or_else(|| "no reason given".to_owned());
        let failure = SaslFailure::try_from(element).ok();
        let text =
            failure.and_then(|failure| failure.texts.into_values().next()).unwrap_or_default();
        let text = printable(&text);
        match condition.as_str() {
            "temporary-auth-failure" | "aborted" => Failure::Authentication { condition, text },
            _ => {
                let jid = self.account.jid.to_string();
                Failure::Credentials { jid, mechanism, condition, text }
            }
        }
    }

    fn features(&mut self, element: &Element, out: &mut Vec<u8>) -> Result<Progress, Failure> {
        expect_features(element)?;
        let management = match element.has_child("sm", ns::SM) {
            true => Offered::Yes,
            false => Offered::No,
        };
        match self.resumption.take() {
            Some(resumption) if management == Offered::Yes => {
                send(&Resume { h: resumption.received, previd: StreamId(resumption.id) }, out)?;
                self.state = State::Resuming { management };
                Ok(Progress::More)
            }
            _ => self.bind(management, out),
        }
    }

    fn resuming(
        &mut self,
        element: &Element,
        management: Offered,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Failure> {
        if element.is("failed", ns::SM) {
            return self.bind(management, out);
        }
        let count = element.attr("h").and_then(|h| h.parse().ok());
        match count.filter(|_| element.is("resumed", ns::SM)) {
            Some(received) => Ok(Progress::Done(Session::Resumed { received })),
            None => Err(Failure::Protocol("answers a resumption with something else")),
        }
    }

    fn bind(&mut self, management: Offered, out: &mut Vec<u8>) -> Result<Progress, Failure> {
        let resource = Some(self.account.resource.clone()).filter(|resource| !resource.is_empty());
        send(&Iq::from_set(BIND_ID, BindQuery::new(resource)), out)?;
        if management == Offered::Yes {
            send(&Enable::new().with_resume(), out)?;
        }
        self.state = State::Binding { management };
        Ok(Progress::More)
    }
}

fn binding(element: Element, management: Offered) -> Result<Progress, Failure> {
    match Iq::try_from(element) {
        Ok(Iq::Result { id, payload: Some(payload), .. }) if id == BIND_ID => {
            let response = BindResponse::try_from(payload)
                .map_err(|_| Failure::Protocol("binds a malformed address"))?;
            Ok(Progress::Done(Session::New {
                jid: response.jid,
                management: management == Offered::Yes,
            }))
        }
        Ok(Iq::Error { id, error, .. }) if id == BIND_ID => {
            Err(Failure::Bind(super::describe(&error)))
        }
        _ => Err(Failure::Protocol("answers the request for a session with something else")),
    }
}

fn expect_features(element: &Element) -> Result<(), Failure> {
    match element.is("features", ns::STREAM) {
        true => Ok(()),
        false => Err(Failure::Protocol("opens a stream without telling its features")),
    }
}

/// What `<stream:error/>` says.
pub(super) fn stream_error(element: &Element) -> Failure {
    let of_streams = |child: &&Element| child.has_ns(ns::XMPP_STREAMS);
    let condition = element.children().filter(of_streams).find(|child| child.name() != "text");
    let text = element.get_child("text", ns::XMPP_STREAMS).map(|text| printable(&text.text()));
    let elsewhere =
        condition.filter(|condition| condition.name() == "see-other-host").and_then(other_host);
    Failure::Stream {
        condition: condition
            .map_or("no reason given".to_owned(), |condition| printable(condition.name())),
        text: text.unwrap_or_default(),
        elsewhere,
    }
}

/// RFC 6120 section 4.9.3.19: a name or an address, with or without a port.
fn other_host(condition: &Element) -> Option<super::ServerAddress> {
    let text = condition.text();
    let text = text.trim();
    text.parse()
        .or_else(|_| format!("{text}:5222").parse())
        .or_else(|_| format!("[{text}]:5222").parse())
        .ok()
}

fn name(name: &'static str) -> Result<rxml::NcName, Failure> {
    rxml::NcName::try_from(name).map_err(|_| Failure::Protocol("cannot be written to"))
}

fn send(element: &impl xso::AsXml, out: &mut Vec<u8>) -> Result<(), Failure> {
    xml::write(element, out).map_err(|_| {
        Failure::Settings(
            "the account's resource holds characters that XML cannot express".to_owned(),
        )
    })
}

#[cfg(test)]
#[path = "login/tests.rs"]
mod tests;
