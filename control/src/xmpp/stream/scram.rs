//! SCRAM, the client's side (RFC 5802, RFC 7677), with channel binding by `tls-exporter` (RFC 9266). `rsasl` does the
//! exchange; here is what it leaves to its caller: SASLprep, the bounds on what a server may ask for, the order of steps.
//!
//! The password never leaves the host, and the server has to prove that it knows it too. The exchange is three
//! messages from [`Exchange::first`], [`Exchange::answer`] and [`Exchange::verify`]; each step can be taken once.

use std::mem;

use rsasl::{
    callback::{Context, Request, SessionCallback, SessionData},
    mechanisms::scram::{
        SCRAM_SHA1, SCRAM_SHA1_PLUS, SCRAM_SHA256, SCRAM_SHA256_PLUS, SCRAM_SHA512,
        SCRAM_SHA512_PLUS, properties::Iterations,
    },
    prelude::{Mechanism, Mechname, Registry, SASLClient, SASLConfig, Session, SessionError},
    property,
};
use stringprep::saslprep;
use zeroize::Zeroizing;

use super::account::Password;

/// Fewer make it cheap for whoever gets hold of the server's half to find the password (RFC 7677 section 4).
const MIN_ITERATIONS: u32 = 4_096;
/// More would let a server keep this host computing; a million takes a quarter of a second, of SHA-512 one and a half.
const MAX_ITERATIONS: u32 = 1_000_000;
/// What a challenge may hold, in bytes.
const MAX_CHALLENGE_LEN: usize = 4 * 1024;

static MECHANISMS: [Mechanism; 6] =
    [SCRAM_SHA512_PLUS, SCRAM_SHA512, SCRAM_SHA256_PLUS, SCRAM_SHA256, SCRAM_SHA1_PLUS, SCRAM_SHA1];

/// What the exchange is bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Binding {
    /// Nothing, and this end could not do it either: `n`.
    Unable,
    /// Nothing, since the server offers none: `y`. If it did, and somebody took the offer out, the server notices.
    NotOffered,
    /// The TLS connection, by its exported key: `p=tls-exporter`.
    TlsExporter([u8; 32]),
}

impl Binding {
    /// Whether it is something.
    pub(super) fn is_bound(&self) -> bool {
        matches!(self, Self::TlsExporter(_))
    }
}

/// What is wrong with the other side's part.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum ScramFault {
    #[error("its challenge is malformed")]
    Challenge,
    #[error("its challenge cannot be answered: {0}")]
    Unanswerable(String),
    #[error("it asks for fewer than 4,096 iterations, which would endanger the password")]
    FewIterations,
    #[error("it asks for more than 1,000,000 iterations")]
    ManyIterations,
    #[error("its signature is wrong")]
    Signature,
    #[error("it reports success without a signature")]
    NoSignature,
    #[error("it skips a step of the exchange")]
    OutOfOrder,
}

/// The account's name or password holds characters that SASL forbids (RFC 4013).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unpreparable;

/// One log-in.
pub(super) struct Exchange {
    is_bound: bool,
    first: Vec<u8>,
    state: State,
}

enum State {
    First(Box<Session>),
    Answered(Box<Session>),
    Verified,
    /// A step failed, or was out of order. The library panics if it is asked again after that.
    Over,
}

impl Exchange {
    /// `mechanism` is SASL's name of one of [`MECHANISMS`], with `-PLUS` if `binding` is something.
    pub(super) fn new(
        mechanism: &str,
        user: &str,
        password: &Password,
        binding: Binding,
    ) -> Result<Self, Unpreparable> {
        let user = saslprep(user).map_err(|_| Unpreparable)?.into_owned();
        let password = saslprep(password.as_str()).map_err(|_| Unpreparable)?;
        let password = Zeroizing::new(password.into_owned());
        let is_bound = binding.is_bound();
        let mut first = Vec::new();
        let session = begin(mechanism, Answers { user, password, binding }, &mut first);
        // What can fail is the name, and the generator of random numbers, without which no log-in can go on.
        let session = session.ok_or(Unpreparable)?;
        Ok(Self { is_bound, first, state: State::First(Box::new(session)) })
    }

    /// The client's first message.
    pub(super) fn first(&self) -> Vec<u8> {
        self.first.clone()
    }

    /// Answers the server's first message.
    pub(super) fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ScramFault> {
        let State::First(mut session) = mem::replace(&mut self.state, State::Over) else {
            return Err(ScramFault::OutOfOrder);
        };
        if challenge.len() > MAX_CHALLENGE_LEN || !has_names(challenge, 3) {
            return Err(ScramFault::Challenge);
        }
        let mut answer = Vec::new();
        session.step(Some(challenge), &mut answer).map_err(fault)?;
        self.state = State::Answered(session);
        Ok(answer)
    }

    /// Checks the server's last message, which proves that it knows the password.
    pub(super) fn verify(&mut self, last: &[u8]) -> Result<(), ScramFault> {
        let State::Answered(mut session) = mem::replace(&mut self.state, State::Over) else {
            return Err(ScramFault::OutOfOrder);
        };
        if !has_names(last, 1) {
            return Err(ScramFault::NoSignature);
        }
        match session.step(Some(last), &mut Vec::new()) {
            Ok(state) if state.is_finished() => self.state = State::Verified,
            Err(SessionError::MutualAuthenticationFailed) => return Err(ScramFault::Signature),
            _ => return Err(ScramFault::NoSignature),
        }
        Ok(())
    }

    /// Whether it is bound to the connection.
    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Whether the server has proved itself.
    pub(super) fn is_verified(&self) -> bool {
        matches!(self.state, State::Verified)
    }
}

fn begin(mechanism: &str, answers: Answers, first: &mut Vec<u8>) -> Option<Session> {
    let registry = Registry::with_mechanisms(&MECHANISMS);
    let config = SASLConfig::builder().with_registry(registry).with_callback(answers).ok()?;
    let mechanism = Mechname::parse(mechanism.as_bytes()).ok()?;
    let mut session = SASLClient::new(config).start_suggested(&[mechanism]).ok()?;
    session.step(None, first).ok()?;
    Some(session)
}

/// The first `fields` of a message have a name each, as `r=`. `rsasl` 2.3.1 takes it off without looking, and panics.
fn has_names(message: &[u8], fields: usize) -> bool {
    message.split(|byte| *byte == b',').take(fields).all(|field| field.len() >= 2)
}

fn fault(error: SessionError) -> ScramFault {
    match error {
        SessionError::Boxed(own) => match own.downcast::<ScramFault>() {
            Ok(own) => *own,
            Err(other) => ScramFault::Unanswerable(other.to_string()),
        },
        other => ScramFault::Unanswerable(other.to_string()),
    }
}

/// What the library asks for, when it needs it.
struct Answers {
    user: String,
    password: Zeroizing<String>,
    binding: Binding,
}

impl SessionCallback for Answers {
    fn callback(
        &self,
        _: &SessionData,
        context: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        if request.is::<property::Password>() {
            match context.get_ref::<Iterations>().copied().unwrap_or(0) {
                ..MIN_ITERATIONS => {
                    return Err(SessionError::Boxed(ScramFault::FewIterations.into()));
                }
                MIN_ITERATIONS..=MAX_ITERATIONS => {}
                _ => return Err(SessionError::Boxed(ScramFault::ManyIterations.into())),
            }
        }
        request
            .satisfy::<property::AuthId>(&self.user)?
            .satisfy::<property::Password>(self.password.as_bytes())?;
        if let Binding::TlsExporter(key) = &self.binding {
            // Of all kinds the library asks for `tls-exporter` first.
            request.satisfy::<property::ChannelBindings>(key)?;
        }
        Ok(())
    }

    /// Without, the library says `n`; with it `y`, or `p` in a mechanism with `-PLUS`.
    fn enable_channel_binding(&self) -> bool {
        self.binding != Binding::Unable
    }
}

#[cfg(test)]
#[path = "scram/tests.rs"]
pub(super) mod tests;
